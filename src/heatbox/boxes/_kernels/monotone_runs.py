"""From a heatmap to critical pixels and labelled runs: the passes over all pixels (see the package).

Arrays have one row of frame above and below the map and `MARGIN` columns before it. The stride of a row is a
power of two, so that a flat index gives x and y by mask and shift and words of eight pixels are aligned.
Run 0 and label 0 represent the frame.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import njit

from heatbox.boxes._kernels.neighbours import SIDES

MARGIN = 8


@njit(nogil=True)
def quantise(heatmap, image):
    """Values of a heatmap times 255, in 1/256, inside the margins of `image` (uint16).

    The upper byte is the level, uint8(value * 255); values of level 0 are never foreground and become 0.
    Returns the largest level, or -1 where a value is NaN or outside [0, 1].
    """
    height, width = heatmap.shape
    top = np.uint16(0)
    good = True
    for y in range(height):
        source, row = heatmap[y], image[y + 1]
        for x in range(width):
            value = np.float64(source[x])
            good &= (value >= 0.0) & (value <= 1.0)
            # The product is rounded before the scaling, which is exact: the level is that of the protocol.
            fine = np.uint16(np.int32((value * 255.0) * 256.0))
            fine = fine if fine >= np.uint16(256) else np.uint16(0)
            row[x + MARGIN] = fine
            top = max(top, fine)
    return np.int64(top) >> 8 if good else np.int64(-1)


# The next two slice each row to one length: indices then start at 0, so that the compiler needs no test for
# negative ones and vectorizes the loops.


@njit(nogil=True)
def invert(image, inverted, height, width):
    """Invert the map; the frame is left as it is, brighter than every pixel."""
    for y in range(1, height + 1):
        source, row = image[y, MARGIN : MARGIN + width], inverted[y, MARGIN : MARGIN + width]
        for x in range(width):
            row[x] = np.uint16(65534) - source[x]


@njit(nogil=True)
def neighbour_masks(image, mask, turn, height, width):
    """Per pixel: the mask of neighbours that precede it, and its turn.

    The turn is 1 at a local maximum of the row, 2 at a local minimum and 0 elsewhere.
    """
    left, right = MARGIN - 1, MARGIN + width + 1
    for y in range(1, height + 1):
        nw, n, ne = (
            image[y - 1, left : right - 2],
            image[y - 1, left + 1 : right - 1],
            image[y - 1, left + 2 : right],
        )
        w, here, e = image[y, left : right - 2], image[y, left + 1 : right - 1], image[y, left + 2 : right]
        sw, s, se = (
            image[y + 1, left : right - 2],
            image[y + 1, left + 1 : right - 1],
            image[y + 1, left + 2 : right],
        )
        masks, turns = mask[y, left + 1 : right - 1], turn[y, left + 1 : right - 1]
        for x in range(width):
            value = here[x]
            masks[x] = (
                (e[x] > value) * np.uint8(1)
                | (ne[x] >= value) * np.uint8(2)
                | (n[x] >= value) * np.uint8(4)
                | (nw[x] >= value) * np.uint8(8)
                | (w[x] >= value) * np.uint8(16)
                | (sw[x] > value) * np.uint8(32)
                | (s[x] > value) * np.uint8(64)
                | (se[x] > value) * np.uint8(128)
            )
        for x in range(width):
            sides = masks[x] & np.uint8(17)
            turns[x] = (sides == 0) * np.uint8(1) | (sides == 17) * np.uint8(2)


@njit(nogil=True)
def collect_critical(image, mask, is_critical, stride, height, width, out):
    """Write the flat indices of critical foreground pixels in raster order; returns their number."""
    count = np.uint64(0)
    for y in range(1, height + 1):
        begin = y * stride + MARGIN
        masks, values = mask[begin : begin + width], image[begin : begin + width]
        for x in range(width):  # without a branch: every pixel is written, only critical ones are kept
            out[count] = begin + x
            count += np.uint64(is_critical[masks[x]] & (values[x] != 0))
    return np.int64(count)


@njit(nogil=True)
def sort_by_level(image, pixels, count, start, out):
    """Sort listed pixels by level, keeping their order inside one; start[v]:start[v + 1] holds level v."""
    start[:] = 0
    for k in range(count):
        start[(np.int64(image[pixels[k]]) >> 8) + 2] += 1
    for level in range(256):
        start[level + 2] += start[level + 1]
    for k in range(count):
        pixel = pixels[k]
        level = (np.int64(image[pixel]) >> 8) + 1
        out[start[level]] = pixel
        start[level] += 1


@njit(nogil=True)
def find_runs(turn, words, stride, height, width, run, top, span):
    """Cut rows into monotone runs; returns their number, including the frame's run 0.

    Writes the run of each pixel, and the first pixel, the end and the highest pixel of each run: 0 if a run
    has no highest pixel, because it rises to the frame or is all background.
    """
    count = 1
    top[0] = 0
    for y in range(1, height + 1):
        begin = y * stride + MARGIN
        end = begin + width
        highest = 0
        for word in range(begin >> 3, (end + 7) >> 3):
            if words[word] == 0:
                continue
            for pixel in range(8 * word, 8 * word + 8):
                if turn[pixel] == 1:
                    highest = pixel
                elif turn[pixel] == 2:  # the lowest pixel belongs to the run to its right
                    run[begin:pixel] = count
                    span[count, 0], span[count, 1], top[count] = begin, pixel, highest
                    count += 1
                    begin, highest = pixel, 0
        run[begin:end] = count
        span[count, 0], span[count, 1], top[count] = begin, end, highest
        count += 1
    return count


@njit(nogil=True)
def label_runs(runs, run, top, mask, stride, diagonal, link, label, maximum):
    """Label every run with a maximum of the map to which a path of preceding pixels leads.

    Labels are 1, 2, … in raster order of the maxima, whose pixels are written to `maximum`; label 0 is the
    frame. Returns the number of labels, including 0.
    """
    # The step from a run's highest pixel: upwards if possible, since those runs are already labelled.
    step = np.zeros(256, np.int64)
    for m in range(256):
        step[m] = _way_out(m if diagonal else m & SIDES, stride)
    labels = 1
    label[0] = 0
    for r in range(1, runs):
        pixel = np.int64(top[r])
        way = step[mask[pixel]] if pixel else -pixel
        if pixel != 0 and way == 0:
            maximum[labels] = pixel
            label[r] = labels
            link[r] = r
            labels += 1
        else:
            link[r] = run[pixel + way] if pixel else 0
            label[r] = label[link[r]] if link[r] < r else -1
    for r in range(runs - 1, 0, -1):
        if label[r] < 0:
            label[r] = label[link[r]]
    for r in range(1, runs):
        if label[r] < 0:
            at = np.int64(r)
            while label[at] < 0:
                at = np.int64(link[at])
            known = label[at]
            at = np.int64(r)
            while label[at] < 0:
                label[at] = known
                at = np.int64(link[at])
    return labels


@njit(nogil=True)
def _way_out(mask, stride):
    """Step from a row maximum to a preceding neighbour in the row above or below; 0 if there is none."""
    if mask & 4:
        return -stride
    if mask & 2:
        return 1 - stride
    if mask & 8:
        return -1 - stride
    if mask & 64:
        return stride
    if mask & 32:
        return stride - 1
    if mask & 128:
        return stride + 1
    return 0
