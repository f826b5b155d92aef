"""The merge tree over labelled maxima: boxes of components and holes, filled holes, the largest contour."""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import njit

from heatbox.boxes._kernels.component_tree import find, grow
from heatbox.boxes._kernels.monotone_runs import sort_by_level
from heatbox.boxes._kernels.neighbours import JOINS_4, JOINS_8, MEMBER_4, MEMBER_8, WEIGHT

MAX_TABLE_LABELS = 1024
"""Number of maxima up to which areas are summed in a table per maximum and level, of 1 MB."""


@njit(inline="always")
def _towards(stride):
    """Steps to the eight neighbours in the order of the mask's bits."""
    return np.array([1, 1 - stride, -stride, -stride - 1, -1, stride - 1, stride, stride + 1])


@njit(inline="always")
def _append(rows, count, box, label, first, last):
    rows[0, count] = box[label, 0]
    rows[1, count] = box[label, 1]
    rows[2, count] = box[label, 2]
    rows[3, count] = box[label, 3]
    rows[4, count] = first
    rows[5, count] = last
    return count + 1


@njit(nogil=True)
def _start_sets(image, maximum, labels, shift, parent, box, since):
    """Make every maximum a set: its box is its pixel, `since` the level at which it appears."""
    for label in range(1, labels):
        pixel = np.int64(maximum[label])
        x, y = pixel & ((1 << shift) - 1), pixel >> shift
        parent[label] = label
        since[label] = image[pixel] >> 8
        box[label, 0], box[label, 1], box[label, 2], box[label, 3] = x, y, x, y


@njit(nogil=True)
def trace_components(image, tree, critical, start, shift, sets, rows):
    """Boxes of all 8-connected components of {level > t} for all t, as columns of `rows`.

    A column is x0, y0, x1, y1 (inclusive, padded coordinates) and the first and last t for which the box is
    valid. Returns the number of columns.
    """
    mask, run, label, maximum, labels = tree
    parent, box, since = sets
    towards = _towards(1 << shift)
    _start_sets(image, maximum, labels, shift, parent, box, since)
    count = 0
    for level in range(255, 0, -1):
        for k in range(start[level], start[level + 1]):
            pixel = np.int64(critical[k])
            one = find(parent, label[run[pixel]])
            m = mask[pixel]
            if JOINS_8[m] > 1:
                for j in range(JOINS_8[m]):
                    other = find(parent, label[run[pixel + towards[MEMBER_8[m, j]]]])
                    if other == one:
                        continue
                    if since[other] > level:
                        count = _append(rows, count, box, other, level, since[other] - 1)
                    if since[one] > level:
                        count = _append(rows, count, box, one, level, since[one] - 1)
                        since[one] = level
                    grow(box, one, box[other, 0], box[other, 1], box[other, 2], box[other, 3])
                    parent[other] = one
            x, y = pixel & ((1 << shift) - 1), pixel >> shift
            if x < box[one, 0] or x > box[one, 2] or y < box[one, 1] or y > box[one, 3]:
                if since[one] > level:
                    count = _append(rows, count, box, one, level, since[one] - 1)
                    since[one] = level
                grow(box, one, x, y, x, y)
    for one in range(1, labels):
        if parent[one] == one:
            count = _append(rows, count, box, one, 0, since[one] - 1)
    return count


@njit(nogil=True)
def trace_holes(image, tree, critical, start, shift, sets, spill, rows):
    """Boxes of all holes of {level > t} for all t, as columns of `rows`; returns their number.

    A hole is a 4-connected piece of the background that has not reached the frame. `tree` is that of the
    inverted map. The level at which a set of minima joins the frame is written to `spill`, at the set's
    representative: from that level on it is part of the outside and is ignored.
    """
    mask, run, label, minimum, labels = tree
    parent, box, since = sets
    towards = _towards(1 << shift)
    _start_sets(image, minimum, labels, shift, parent, box, since)
    parent[0] = 0
    spill[0] = 0
    inside = 256  # above every level: has not spilled
    for one in range(1, labels):
        spill[one] = inside
    count = 0
    for level in range(256):
        for k in range(start[level], start[level + 1]):
            pixel = np.int64(critical[k])
            one = find(parent, label[run[pixel]])
            m = mask[pixel]
            if JOINS_4[m] > 1:
                for j in range(JOINS_4[m]):
                    other = find(parent, label[run[pixel + towards[MEMBER_4[m, j]]]])
                    if other == one:
                        continue
                    if spill[one] < inside:
                        one, other = other, one
                    if spill[one] < inside:
                        continue
                    if since[one] < level:
                        count = _append(rows, count, box, one, since[one], level - 1)
                        since[one] = level
                    if spill[other] < inside:
                        spill[one] = level
                        continue
                    if since[other] < level:
                        count = _append(rows, count, box, other, since[other], level - 1)
                    grow(box, one, box[other, 0], box[other, 1], box[other, 2], box[other, 3])
                    parent[other] = one
            if spill[one] < inside:
                continue
            x, y = pixel & ((1 << shift) - 1), pixel >> shift
            if x < box[one, 0] or x > box[one, 2] or y < box[one, 1] or y > box[one, 3]:
                if since[one] < level:
                    count = _append(rows, count, box, one, since[one], level - 1)
                    since[one] = level
                grow(box, one, x, y, x, y)
    return count


@njit(nogil=True)
def fill_holes(image, filled, runs, span, label, lowest, parent, spill):
    """Raise every pixel to the level at which its hole joins the frame; returns whether any was raised.

    `runs` and the other arguments are those of the inverted map. A pixel's barrier to the frame is the higher
    of its own level and the level at which the minimum of its run joins the frame.
    """
    filled[:] = image
    raised = False
    for r in range(1, runs):
        level = spill[find(parent, label[r])]
        if lowest[r] == 0 or np.int64(image[lowest[r]]) >> 8 >= level:
            continue
        raised = True
        barrier = np.uint16(level << 8)
        for pixel in range(span[r, 0], span[r, 1]):
            filled[pixel] = max(image[pixel], barrier)
    return raised


@njit(nogil=True)
def _weigh(filled, mask, runs, span, label, labels, table):
    """Sum the cell weights of all pixels per maximum and level into table (labels, 256)."""
    table[:labels] = 0
    for r in range(1, runs):
        row = table[label[r]]
        for pixel in range(span[r, 0], span[r, 1]):
            row[filled[pixel] >> 8] += WEIGHT[mask[pixel]]


@njit(nogil=True)
def _list_weighted(filled, mask, runs, span, start, out):
    """Pixels with a cell weight sorted by level, for maps with too many maxima for a table."""
    start[:] = 0
    for r in range(1, runs):
        for pixel in range(span[r, 0], span[r, 1]):
            start[(np.int64(filled[pixel]) >> 8) + 2] += np.int64(WEIGHT[mask[pixel]] != 0)
    for level in range(256):
        start[level + 2] += start[level + 1]
    for r in range(1, runs):
        for pixel in range(span[r, 0], span[r, 1]):
            if WEIGHT[mask[pixel]] != 0:
                level = (np.int64(filled[pixel]) >> 8) + 1
                out[start[level]] = pixel
                start[level] += 1


@njit(nogil=True)
def trace_largest(filled, tree, runs, span, critical, start, shift, sets, lists, starts, table, rows):
    """Box of the contour of largest polygon area at every t, into columns t of `rows`.

    `filled` has its holes filled. Of equal areas the last contour in raster order is taken: the largest
    top row, then the largest column of the left-most pixel in that row.
    """
    mask, run, label, maximum, labels = tree
    parent, box, area = sets
    weighted, maxima, roots = lists
    towards = _towards(1 << shift)
    _start_sets(filled, maximum, labels, shift, parent, box, area)
    sort_by_level(filled, maximum[1:labels], labels - 1, starts[0], maxima)
    use_table = labels <= MAX_TABLE_LABELS
    if use_table:
        _weigh(filled, mask, runs, span, label, labels, table)
    else:
        _list_weighted(filled, mask, runs, span, starts[1], weighted)
    num_roots = 0
    top = np.int64(filled[maxima[labels - 2]]) >> 8
    for level in range(top, 0, -1):
        for k in range(starts[0, level], starts[0, level + 1]):
            roots[num_roots] = label[run[maxima[k]]]
            area[roots[num_roots]] = 0
            num_roots += 1
        for k in range(start[level], start[level + 1]):
            pixel = np.int64(critical[k])
            one = find(parent, label[run[pixel]])
            m = mask[pixel]
            if JOINS_8[m] > 1:
                for j in range(JOINS_8[m]):
                    other = find(parent, label[run[pixel + towards[MEMBER_8[m, j]]]])
                    if other == one:
                        continue
                    grow(box, one, box[other, 0], box[other, 1], box[other, 2], box[other, 3])
                    parent[other] = one
                    area[one] += area[other]
                    if use_table:  # lower pixels are now part of the joined component
                        for v in range(level + 1):
                            table[one, v] += table[other, v]
            x, y = pixel & ((1 << shift) - 1), pixel >> shift
            grow(box, one, x, y, x, y)
        if not use_table:
            for k in range(starts[1, level], starts[1, level + 1]):
                pixel = np.int64(weighted[k])
                area[find(parent, label[run[pixel]])] += WEIGHT[mask[pixel]]
        kept = 0
        best, best_area, best_row, ties = np.int64(0), np.int64(-1), np.int64(-1), 0
        for k in range(num_roots):
            one = np.int64(roots[k])
            if parent[one] != one:
                continue
            roots[kept] = one
            kept += 1
            if use_table:
                area[one] += table[one, level]
            if area[one] > best_area or (area[one] == best_area and box[one, 1] > best_row):
                best, best_area, best_row, ties = one, np.int64(area[one]), np.int64(box[one, 1]), 1
            elif area[one] == best_area and box[one, 1] == best_row:
                ties += 1
        num_roots = kept
        if ties > 1:
            best = _right_most(filled, run, label, parent, box, area, roots, num_roots, best, level, shift)
        for side in range(4):
            rows[side, level - 1] = box[best, side]


@njit(nogil=True)
def _right_most(filled, run, label, parent, box, area, roots, num_roots, best, level, shift):
    """Of the components with the area and top row of `best`, the one whose first pixel is right-most."""
    best_area, row = area[best], np.int64(box[best, 1])
    last = np.int64(-1)
    for k in range(num_roots):
        one = np.int64(roots[k])
        if area[one] != best_area or box[one, 1] != row:
            continue
        pixel = (row << shift) + np.int64(box[one, 0])
        while filled[pixel] >> 8 < level or find(parent, label[run[pixel]]) != one:
            pixel += 1
        if pixel > last:
            last, best = pixel, one
    return best
