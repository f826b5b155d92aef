"""Compiled scores of single maps: order, mass and overlap of the pixels inside and outside the object."""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import njit

from heatbox._utils.compiled import compiled

PARTS = 64
"""Levels of a value per 8-bit level."""

LEVELS = 255 * PARTS
"""Values are compared at this many levels of the map's maximum: level floor(LEVELS * x / max)."""

ONE, MINUS_ZERO = np.array([1.0, -0.0], np.float32).view(np.uint32)
"""Bit patterns."""

MANY = 16
"""Largest values of a map that miss the object, from which on the object's pixels are counted beforehand."""


@njit(nogil=True)
def draw_boxes(boxes, mask):
    """Set a mask to 1 at the pixels whose centre lies in a box, given as half-open pixel ranges, else to
    0."""
    mask[:] = 0
    for k in range(boxes.shape[0]):
        for y in range(boxes[k, 1], boxes[k, 3]):
            mask[y, boxes[k, 0] : boxes[k, 2]] = 1


@njit(nogil=True)
def _row_maxima(bits, mask, rows):
    """Maximum of each row over pixels that are not ignored; False for values outside [0, 1] and for mask
    values
    other than 0, 1 and 255.

    `bits` are the bit patterns of float32 values, which are ordered as the values are where these are not
    negative. Comparisons of them vectorize; those of floats, which may be NaN, do not.
    """
    zero, kind_of_pixel = np.uint32(0), np.uint8(0)
    largest, strange = zero, np.uint8(0)
    for y in range(bits.shape[0]):
        values, kinds = bits[y], mask[y]
        top, seen = zero, zero
        for x in range(values.size):
            value = zero if values[x] == MINUS_ZERO else values[x]
            seen = max(seen, value)
            top = max(top, value if kinds[x] <= np.uint8(1) else zero)
        for x in range(kinds.size):
            kind_of_pixel = kinds[x] if kinds[x] != np.uint8(255) else np.uint8(0)
            strange = max(strange, kind_of_pixel)
        rows[y] = top
        largest = max(largest, seen)
    return largest <= ONE and strange <= np.uint8(1)


@njit(nogil=True)
def _row_maxima_of_boxes(bits, rows):
    """`_row_maxima` where the mask has no other values than 0 and 1."""
    largest = np.uint32(0)
    for y in range(bits.shape[0]):
        values = bits[y]
        top = np.uint32(0)
        for x in range(values.size):
            top = max(top, np.uint32(0) if values[x] == MINUS_ZERO else values[x])
        rows[y] = top
        largest = max(largest, top)
    return largest <= ONE


@njit(nogil=True)
def _pixels_of(mask):
    """Number of pixels that are 1, of a mask of 0 and 1."""
    inside = np.int64(0)
    for y in range(mask.shape[0]):
        some = np.uint32(0)
        for x in range(mask.shape[1]):
            some += np.uint32(mask[y, x])
        inside += some
    return inside


@njit(nogil=True, fastmath={"reassoc"})
def _row_sum(values):
    """Sum of the values of a row."""
    total = 0.0
    for x in range(values.size):
        total += np.float64(values[x])
    return total


@njit(nogil=True, fastmath={"reassoc"})
def _row_sums_of_boxes(values, kinds):
    """`_row_sums` where the mask has no other values than 0 and 1."""
    inside, total = 0.0, 0.0
    for x in range(values.size):
        value = np.float64(values[x])
        inside += value * np.float64(kinds[x])
        total += value
    return inside, total


@njit(nogil=True)
def _row_counts_of_boxes(values, kinds, scale, places, counts):
    """`_row_counts` where the mask has no other values than 0 and 1."""
    for x in range(values.size):
        places[x] = min(np.int32(np.float64(values[x]) * scale), np.int32(LEVELS))
    shift = np.uint64(counts.itemsize * 4)
    if shift == np.uint64(16):
        for x in range(values.size):
            counts[np.uint32(places[x])] += np.uint32(1) << (np.uint32(kinds[x]) << np.uint32(4))
    else:
        for x in range(values.size):
            counts[np.uint32(places[x])] += np.uint64(1) << (np.uint64(kinds[x]) << np.uint64(5))


@njit(nogil=True, fastmath={"reassoc"})
def _row_sums(values, kinds):
    """Sums of the values of a row: inside the object, and of all that are not ignored."""
    inside, total = 0.0, 0.0
    for x in range(values.size):
        value = np.float64(values[x])
        inside += value * np.float64(kinds[x] == 1)
        total += value * np.float64(kinds[x] <= 1)
    return inside, total


@njit(nogil=True)
def _row_counts(values, kinds, scale, places, steps, counts):
    """Add the pixels of a row to the counts of their levels: outside in the lower half of each, inside in the
    upper half."""
    shift = np.uint64(counts.itemsize * 4)
    for x in range(values.size):
        # An ignored pixel may lie above the maximum of the others.
        places[x] = min(np.int32(np.float64(values[x]) * scale), np.int32(LEVELS))
        steps[x] = np.uint32(kinds[x] == 0) | (np.uint32(kinds[x] == 1) << np.uint32(16))
    if shift == np.uint64(16):
        for x in range(values.size):
            counts[np.uint32(places[x])] += steps[x]
    else:
        for x in range(values.size):
            step = np.uint64(steps[x])
            counts[np.uint32(places[x])] += (step & np.uint64(1)) | (step >> np.uint64(16) << np.uint64(32))


@njit(nogil=True)
def _near(mask, y, x, reach, across):
    """Whether a pixel of the object lies within reach of (y, x): `across[d]` along a row that is d rows
    away."""
    height, width = mask.shape
    for row in range(max(y - reach, 0), min(y + reach + 1, height)):
        wide = across[abs(row - y)]
        for column in range(max(x - wide, 0), min(x + wide + 1, width)):
            if mask[row, column] == 1:
                return True
    return False


@njit(nogil=True)
def _count_left(mask, left):
    """`left` (H, W + 1) becomes the number of the object's pixels to the left in each row."""
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            left[y, x + 1] = left[y, x] + (mask[y, x] == 1)


@njit(nogil=True)
def _near_counted(left, y, x, reach, across):
    """`_near` from the counts of `_count_left`, for many pixels of one map."""
    height, width = left.shape[0], left.shape[1] - 1
    for row in range(max(y - reach, 0), min(y + reach + 1, height)):
        wide = across[abs(row - y)]
        if left[row, min(x + wide + 1, width)] > left[row, max(x - wide, 0)]:
            return True
    return False


@njit(nogil=True)
def _pointing(heatmap, mask, rows, top, size, tolerance, across, left, out):
    """The scores of the largest values: whether any hits, the fractions that hit without and with
    tolerance, and whether the first one hits."""
    height, width = heatmap.shape
    # Distances are those of pixel centres, in pixels of the image.
    down, right = size[1] / height, size[0] / width
    reach = min(np.int64(tolerance / down), height - 1)
    for d in range(reach + 1):
        room = max(tolerance**2 - (d * down) ** 2, 0.0)
        across[d] = np.int64(min(np.sqrt(room) / right, np.float64(width)))
    maxima = inside = near = missed = 0
    first = -1
    peak = np.float64(0)
    for y in range(height):
        if rows[y] != top:
            continue
        if maxima == 0:
            for x in range(width):
                peak = max(peak, heatmap[y, x] if mask[y, x] <= 1 else 0.0)
        for x in range(width):
            if heatmap[y, x] != peak or mask[y, x] > 1:
                continue
            hit = mask[y, x] == 1
            first = np.int64(hit) if first < 0 else first
            maxima += 1
            inside += hit
            if hit:
                continue
            missed += 1
            if missed == MANY:
                _count_left(mask, left)
            if missed < MANY:
                near += _near(mask, y, x, reach, across)
            else:
                near += _near_counted(left, y, x, reach, across)
    out[0], out[1], out[2], out[3] = inside > 0, inside / maxima, first, (inside + near) / maxima
    return peak


@njit(nogil=True)
def _block(counts, begin, end):
    """Pixels of the levels from `begin` up to `end`: inside and outside."""
    total = counts[0] * 0
    for place in range(begin, end):
        total += counts[np.uint64(place)]
    bits = counts.dtype.type(counts.itemsize * 4)
    half = (counts.dtype.type(1) << bits) - counts.dtype.type(1)
    return np.int64(total >> bits), np.int64(total & half)


@njit(nogil=True)
def _among_first(counts, grey, wanted):
    """Of the `wanted` brightest pixels the number inside; of pixels that tie for the last of them, their
    fraction.

    Second, the level at which the last of them is.
    """
    seen, hits = 0.0, 0.0
    for level in range(255, -1, -1):
        if seen + grey[level] < wanted:
            seen += grey[level]
            hits += grey[256 + level]
            continue
        for place in range(min((level + 1) * PARTS, LEVELS + 1) - 1, level * PARTS - 1, -1):
            one, other = _block(counts, place, place + 1)
            if seen + one + other >= wanted:
                return hits + one * (wanted - seen) / (one + other), place
            seen += one + other
            hits += one
    return hits, 0


@njit(nogil=True)
def _overlap(counts, grey, place, inside):
    """IoU of the object and the pixels whose level is at least `place`."""
    level = place // PARTS
    hits, misses = _block(counts, place, min((level + 1) * PARTS, LEVELS + 1))
    for above in range(level + 1, 256):
        hits += grey[256 + above]
        misses += grey[above] - grey[256 + above]
    return hits / (inside + misses)


@njit(nogil=True)
def _otsu(grey, pixels):
    """Level t of Otsu's threshold, {level > t} being the object; the smallest of equals, 0 for one level."""
    total = 0.0
    for level in range(256):
        total += level * np.float64(grey[level])
    count = below = np.float64(0)
    best, chosen = -1.0, 0
    for level in range(255):
        count += grey[level]
        below += level * np.float64(grey[level])
        if count == 0 or count == pixels:
            continue
        # Variance between the classes, up to a constant factor.
        apart = below / count - (total - below) / (pixels - count)
        between = count * (pixels - count) * apart * apart
        if between > best:
            best, chosen = between, level
    return chosen


@njit(nogil=True)
def _ordered(counts, inside, outside, options, at, grey, out, curve):
    """The scores of the order of pixels, from the counts of their levels.

    `options` are the k of the top-k intersection and the quantile, `at` the levels of the curve. `grey`
    becomes
    the pixels of each 8-bit level, all and, from 256 on, those inside.
    """
    bits = counts.dtype.type(counts.itemsize * 4)
    half = (counts.dtype.type(1) << bits) - counts.dtype.type(1)
    pixels = inside + outside
    # Twice the pairs of an inside and an outside pixel of which the inside one is brighter; ties count half.
    pairs = hits = np.uint64(0)
    for level in range(255, -1, -1):
        begin, end = level * PARTS, min((level + 1) * PARTS, LEVELS + 1)
        one, other = _block(counts, begin, end)
        grey[level], grey[256 + level] = one + other, one
        if one == 0 or other == 0:  # no order inside the block
            pairs += np.uint64(other) * (hits + hits + np.uint64(one))
            hits += np.uint64(one)
            continue
        for place in range(end - 1, begin - 1, -1):
            count = counts[np.uint64(place)]
            ones = np.uint64(count >> bits)
            pairs += np.uint64(count & half) * (hits + hits + ones)
            hits += ones
    out[5] = _among_first(counts, grey, np.float64(inside))[0] / inside
    k = min(options[0], np.float64(pixels))
    out[6] = _among_first(counts, grey, k)[0] / k
    out[7] = pairs / (2.0 * inside * outside) if outside else np.nan
    out[8] = _overlap(counts, grey, (_otsu(grey, np.float64(pixels)) + 1) * PARTS, inside)
    last = _among_first(counts, grey, max(np.ceil((1.0 - options[1]) * pixels), 1.0))[1]
    out[9] = _overlap(counts, grey, last, inside)
    above, hits_above, level = 0, 0, 255
    for point in range(at.size - 1, -1, -1):
        place = at[point]
        while level > place // PARTS:
            above += grey[level]
            hits_above += grey[256 + level]
            level -= 1
        one, other = _block(counts, place, min((level + 1) * PARTS, LEVELS + 1))
        curve[point] = (hits_above + one) / (inside + above - hits_above + other)


@njit(nogil=True)
def _score_map(heatmap, bits, mask, boxes, size, options, at, work, out, curve):
    """The scores of one map; its mask is of boxes alone where there are any, with values 0 and 1."""
    rows, places, steps, counts, across, left, grey = work
    height, width = heatmap.shape
    of_boxes = boxes.shape[0] > 0
    inside = outside = np.int64(0)
    if of_boxes:
        if not _row_maxima_of_boxes(bits, rows):
            return False
        inside = _pixels_of(mask)
        outside = height * width - inside
    else:
        if not _row_maxima(bits, mask, rows):
            return False
        for y in range(height):
            some = other = np.uint32(0)
            for x in range(width):
                some += np.uint32(mask[y, x] == 1)
                other += np.uint32(mask[y, x] == 0)
            inside += some
            outside += other
    if inside == 0:
        out[:] = np.nan
        curve[:] = np.nan
        return True
    top = _pointing(heatmap, mask, rows, rows.max(), size, options[2], across, left, out)
    mass = total = 0.0
    counts[:] = 0
    scale = LEVELS / top if top > 0 else 0.0
    if scale * top < LEVELS:  # the maximum has the highest level also where the division was rounded down
        scale *= 1.0 + 2.0**-52
    if not scale * top < 2.0 * LEVELS:  # of a map of denormal numbers, which counts as one of zeros
        scale = 0.0
    if of_boxes:
        first, last = boxes[:, 1].min(), boxes[:, 3].max()
        for y in range(height):
            if first <= y < last:
                some, more = _row_sums_of_boxes(heatmap[y], mask[y])
                mass += some
                total += more
            else:
                total += _row_sum(heatmap[y])
            _row_counts_of_boxes(heatmap[y], mask[y], scale, places, counts)
    else:
        for y in range(height):
            some, more = _row_sums(heatmap[y], mask[y])
            mass += some
            total += more
            _row_counts(heatmap[y], mask[y], scale, places, steps, counts)
    out[4] = mass / total if total > 0 else inside / (inside + outside)
    _ordered(counts, inside, outside, options, at, grey, out, curve)
    return True


@compiled
def score_pixels(heatmaps, bits, masks, boxes, starts, sizes, options, at, work, out, curves):
    """Score maps of one size.

    Takes float32 heatmaps (N, H, W), their bit patterns; the masks (N, H, W) uint8 of their
    objects, or one (1, H, W) as memory for the
    masks of `boxes` (K, 4) int64, of which boxes[starts[i]:starts[i + 1]] belong to image i; image sizes
    (N, 2) float64; options (k, quantile, tolerance); and levels (T,) int64, ascending. Fills `out`
    (N, 10), the columns of `heatbox.metrics.localization_scores`, and `curves` (N, T). Returns the index of
    the first malformed map, or -1.
    """
    for i in range(heatmaps.shape[0]):
        mask = masks[i if starts.size == 0 else 0]
        own = boxes[starts[i] : starts[i + 1]] if starts.size else boxes[:0]
        if starts.size:
            draw_boxes(own, mask)
        if not _score_map(heatmaps[i], bits[i], mask, own, sizes[i], options, at, work, out[i], curves[i]):
            return i
    return -1


def workspace(height: int, width: int) -> tuple:
    """Buffers for maps of one size; each thread needs its own."""
    counter = np.uint32 if height * width < 2**16 else np.uint64
    return (
        np.zeros(height, np.uint32),
        np.zeros(width, np.int32),
        np.zeros(width, np.uint32),
        np.zeros(LEVELS + 1, counter),
        np.zeros(height + 1, np.int64),
        np.zeros((height, width + 1), np.int32),
        np.zeros(512, np.int64),
    )
