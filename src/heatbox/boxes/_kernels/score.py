"""Compiled scores: best IoU of a heatmap's boxes at each of its levels, for batches of maps."""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numba import njit

from heatbox._utils.compiled import compiled
from heatbox.boxes._kernels.merge_tree import (
    MAX_TABLE_LABELS,
    fill_holes,
    trace_components,
    trace_holes,
    trace_largest,
)
from heatbox.boxes._kernels.monotone_runs import (
    MARGIN,
    collect_critical,
    find_runs,
    invert,
    label_runs,
    neighbour_masks,
    quantise,
    sort_by_level,
)
from heatbox.boxes._kernels.neighbours import CRITICAL_4, CRITICAL_8


@njit(nogil=True)
def _score(rows, count, grow, height, width, truth, score):
    """Best IoU of each box with any ground-truth box; ends gain a pixel, clamped to the map."""
    score[:count] = 0.0
    right, bottom = np.float64(width - 1), np.float64(height - 1)
    for g in range(truth.shape[0]):
        u0, v0, u1, v1 = truth[g, 0], truth[g, 1], truth[g, 2], truth[g, 3]
        area = (u1 - u0 + 1.0) * (v1 - v0 + 1.0)
        for k in range(count):
            x0 = np.float64(rows[0, k] - (MARGIN + grow))
            y0 = np.float64(rows[1, k] - (1 + grow))
            x1 = min(np.float64(rows[2, k] - (MARGIN - 1 - grow)), right)
            y1 = min(np.float64(rows[3, k] + grow), bottom)
            w = max(min(x1, u1) - max(x0, u0) + 1.0, 0.0)
            h = max(min(y1, v1) - max(y0, v0) + 1.0, 0.0)
            shared = w * h
            score[k] = max(score[k], shared / ((x1 - x0 + 1.0) * (y1 - y0 + 1.0) + area - shared))


@njit(nogil=True)
def _spread(rows, count, score, ranges):
    """Store scores for the levels at which their boxes are valid, as two ranges of length 2**power."""
    for k in range(count):
        first, last = np.int64(rows[4, k]), np.int64(rows[5, k])
        power = 0
        while (2 << power) <= last - first + 1:
            power += 1
        second = last - (1 << power) + 1
        ranges[power, first] = max(ranges[power, first], score[k])
        ranges[power, second] = max(ranges[power, second], score[k])


@njit(nogil=True)
def _gather(ranges, top, curve):
    """Best score at each level."""
    for power in range(8, 0, -1):
        coarse, fine = ranges[power], ranges[power - 1]
        half = 1 << (power - 1)
        for level in range(257 - (1 << power)):
            fine[level] = max(fine[level], coarse[level])
        for level in range(257 - (1 << power)):
            fine[level + half] = max(fine[level + half], coarse[level])
    for level in range(top):
        curve[level] = ranges[0, level]


@njit(nogil=True)
def _collect(rows, count, grow, height, width, truth, low, pairs, used):
    """Append the pairs of a box and a ground-truth box whose IoU is at least `low`.

    A column of `pairs` is the IoU, the number of the box, the ground-truth box, and the first and last level
    at
    which the box is valid. Returns `pairs`, which may have been enlarged, and the number of its columns in
    use.
    """
    right, bottom = np.float64(width - 1), np.float64(height - 1)
    for k in range(count):
        x0, y0 = np.float64(rows[0, k] - (MARGIN + grow)), np.float64(rows[1, k] - (1 + grow))
        x1 = min(np.float64(rows[2, k] - (MARGIN - 1 - grow)), right)
        y1 = min(np.float64(rows[3, k] + grow), bottom)
        area = (x1 - x0 + 1.0) * (y1 - y0 + 1.0)
        for g in range(truth.shape[0]):
            u0, v0, u1, v1 = truth[g, 0], truth[g, 1], truth[g, 2], truth[g, 3]
            w = max(min(x1, u1) - max(x0, u0) + 1.0, 0.0)
            h = max(min(y1, v1) - max(y0, v0) + 1.0, 0.0)
            iou = w * h / (area + (u1 - u0 + 1.0) * (v1 - v0 + 1.0) - w * h)
            if iou < low:
                continue
            if used == pairs.shape[1]:
                larger = np.empty((5, 2 * used))
                larger[:, :used] = pairs
                pairs = larger
            pairs[0, used], pairs[1, used], pairs[2, used] = iou, 2 * k + grow, g
            pairs[3, used], pairs[4, used] = rows[4, k], rows[5, k]
            used += 1
    return pairs, used


@njit(nogil=True)
def _match(pairs, used, objects, top, iou, matched):
    """Ground-truth boxes matched at each level and IoU: pairs in order of IoU, each box and object once."""
    order = np.argsort(-pairs[0, :used], kind="mergesort")
    # The pairs of each level in the order of IoU: a box is valid at few levels.
    ends = np.zeros(top + 1, np.int64)
    for k in range(used):
        for level in range(np.int64(pairs[3, k]), min(np.int64(pairs[4, k]) + 1, top)):
            ends[level + 1] += 1
    for level in range(top):
        ends[level + 1] += ends[level]
    of_level, filled = np.empty(ends[top], np.int64), ends.copy()
    for k in order:
        for level in range(np.int64(pairs[3, k]), min(np.int64(pairs[4, k]) + 1, top)):
            of_level[filled[level]] = k
            filled[level] += 1
    taken, boxes = np.zeros(objects, np.bool_), np.empty(objects)
    for level in range(top):
        taken[:] = False
        count = 0
        for k in of_level[ends[level] : ends[level + 1]]:
            free = not taken[np.int64(pairs[2, k])]
            for other in range(count):
                free &= boxes[other] != pairs[1, k]
            if not free:
                continue
            taken[np.int64(pairs[2, k])] = True
            boxes[count] = pairs[1, k]
            count += 1
            for i in range(iou.size):
                matched[i, level] += np.uint8(pairs[0, k] >= iou[i])
            if count == objects:
                break


@njit(nogil=True)
def _score_image(top, truth, largest, every, work, curves, each, matched):
    """Best IoU at every level t < top of the quantised map in `work`: curves[0] largest contour, [1] all.

    With IoUs in `each`, `matched` becomes the number of ground-truth boxes that are matched one to one,
    (IoUs,
    256), saturating at 255.

    A map of zeros has the single level 0, at which its box is (0, 0, 0, 0).
    """
    height, width, shift = work[0]
    image2, inverted2, filled2, mask2, turn2, words, numbers, quads, rows, score, ranges, table, starts = (
        work[1]
    )
    image, inverted, filled = image2.ravel(), inverted2.ravel(), filled2.ravel()
    mask, turn, turn_words = mask2.ravel(), turn2.ravel(), words[1]
    run, highest, link, label, maximum = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    pixels, critical, parent, since, spill = numbers[5], numbers[6], numbers[7], numbers[8], numbers[9]
    span, box = quads[0], quads[1]
    stride = 1 << shift
    sets = (parent, box, since)
    several = each.size > 0 and truth.shape[0] > 1
    pairs, used = np.empty((5, 64 if several else 1)), 0
    low = each.min() if each.size else 1.0
    if top == 0:
        rows[0, 0], rows[1, 0], rows[2, 0], rows[3, 0] = MARGIN, 1, MARGIN - 1, 0
        _score(rows, 1, 0, height, width, truth, score)
        curves[0, 0] = curves[1, 0] = score[0]
        for i in range(each.size):
            matched[i, 0] = np.uint8(score[0] >= each[i])
        return
    # Holes, and with them the filled map.
    invert(image2, inverted2, height, width)
    neighbour_masks(inverted2, mask2, turn2, height, width)
    runs = find_runs(turn, turn_words, stride, height, width, run, highest, span)
    labels = label_runs(runs, run, highest, mask, stride, False, link, label, maximum)
    raised = False
    ranges[:] = 0.0
    if labels > 1:
        count = collect_critical(inverted, mask, CRITICAL_4, stride, height, width, pixels)
        sort_by_level(image, pixels, count, starts[0], critical)
        tree = (mask, run, label, maximum, labels)
        count = trace_holes(image, tree, critical, starts[0], shift, sets, spill, rows)
        if largest:
            raised = fill_holes(image, filled, runs, span, label, highest, parent, spill)
        if every:
            _score(rows, count, 1, height, width, truth, score)
            _spread(rows, count, score, ranges)
            if several:
                pairs, used = _collect(rows, count, 1, height, width, truth, low, pairs, used)
    # Components of the map, and of the filled map, which is the same if nothing was raised.
    for fill in range(2):
        if (fill == 0 and raised and not every) or (fill == 1 and not raised):
            continue
        values2, values = (filled2, filled) if fill else (image2, image)
        neighbour_masks(values2, mask2, turn2, height, width)
        runs = find_runs(turn, turn_words, stride, height, width, run, highest, span)
        labels = label_runs(runs, run, highest, mask, stride, True, link, label, maximum)
        count = collect_critical(values, mask, CRITICAL_8, stride, height, width, pixels)
        sort_by_level(values, pixels, count, starts[0], critical)
        tree = (mask, run, label, maximum, labels)
        if every and fill == 0:
            count = trace_components(values, tree, critical, starts[0], shift, sets, rows)
            _score(rows, count, 0, height, width, truth, score)
            _spread(rows, count, score, ranges)
            _gather(ranges, top, curves[1])
            if several:
                pairs, used = _collect(rows, count, 0, height, width, truth, low, pairs, used)
                _match(pairs, used, truth.shape[0], top, each, matched)
            else:
                for i in range(each.size):
                    for level in range(top):
                        matched[i, level] = np.uint8(curves[1, level] >= each[i])
        if largest and (fill == 1 or not raised):
            lists = (pixels, link, spill)
            trace_largest(
                values, tree, runs, span, critical, starts[0], shift, sets, lists, starts[1:], table, rows
            )
            _score(rows, top, 0, height, width, truth, score)
            for level in range(top):
                curves[0, level] = score[level]


@njit(nogil=True)
def _add_counts(curve, top, iou, thresholds, counts):
    """Count the thresholds at which a curve reaches each IoU."""
    for i in range(iou.size):
        row = counts[i]
        for k in range(thresholds.size):
            row[k] += np.int64(curve[np.int64(thresholds[k] * top)] >= iou[i])


def _compile(sources: int) -> Callable:
    """The entry point, compiled.

    Numba's cache on disk is invalidated by a change of this file only. The checksum of all the files that are
    compiled is therefore a closure variable, which is part of the cache's key.
    """

    def score_maps(heatmaps, truth, truth_start, iou, thresholds, work, curves, tops, counts, each, matched):
        """Score maps of one size.

        Takes heatmaps (N, H, W), ground truth (K, 4) float64, whose rows
        truth_start[i]:truth_start[i + 1] belong to image i, and the required IoUs for the largest contour
        and for all contours (none to skip these contours). Fills curves (N, 2, 256) and tops (N,), the
        largest level of each map or -1 if it is malformed, and adds to the counts (IoUs, thresholds) of
        both. With IoUs in `each`, fills matched (N, IoUs, 256), the ground-truth boxes matched at each level.
        """
        checksum = sources  # noqa: F841
        largest, every = iou[0].size > 0, iou[1].size > 0 or each.size > 0
        for i in range(heatmaps.shape[0]):
            tops[i] = quantise(heatmaps[i], work[1][0])
            if tops[i] < 0:
                continue
            boxes = truth[truth_start[i] : truth_start[i + 1]]
            _score_image(
                tops[i], boxes, largest, every, work, curves[i], each, matched[i if each.size else 0]
            )
            for kind in range(2):
                _add_counts(curves[i, kind], tops[i], iou[kind], thresholds, counts[kind])

    return compiled(score_maps)


score_maps = _compile(
    zlib.crc32(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py"))))
)


def workspace(height: int, width: int) -> tuple:
    """Buffers for maps of one size; each thread needs its own.

    Returns:
        (height, width, shift) and the arrays that the kernels share.
    """
    shift = (max(width + MARGIN, 15)).bit_length()
    stride = 1 << shift
    rows, pixels = height + 2, (height + 2) << shift
    words = np.zeros((2, pixels // 8), np.uint64)
    mask, turn = words.view(np.uint8).reshape(2, rows, stride)
    image = np.zeros((rows, stride), np.uint16)
    boxes = np.zeros((6, 2 * height * width + 512), np.int32)
    return (height, width, shift), (
        image, np.full_like(image, 65535), np.zeros_like(image), mask, turn, words,
        np.zeros((10, pixels + 16), np.int32), np.zeros((2, pixels + 16, 4), np.int32), boxes,
        np.zeros(boxes.shape[1]), np.zeros((9, 256)), np.zeros((MAX_TABLE_LABELS, 256), np.int32),
        np.zeros((3, 258), np.int32),
    )  # fmt: skip
