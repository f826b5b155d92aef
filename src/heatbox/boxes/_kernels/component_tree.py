"""Compiled kernels of the component tree, for integer maps with any number of levels.

A map of integers 0..top is cut at every level t < top into foreground {value > t} and background. Two
union-find passes over the pixels cover all cuts at once:

- in order of falling value, pixels join the 8-connected *components* of the foreground;
- in order of rising value, pixels join the 4-connected components of the background; one that has not
  reached the frame around the map is a *hole*.

A box that is valid for a range of levels is one row of a table: (x0, y0, x1, y1, first level, last level,
kind), in inclusive pixel coordinates, kind 0 for a component and 1 for a hole.

Arrays are padded by one pixel on each side so that no neighbour needs a bounds check; pixels are identified
by their flat index in the padded array.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import njit

from heatbox._utils.compiled import compiled

OUTSIDE = 0  # the flat index of a frame pixel, representing the whole frame


@njit(inline="always")
def find(parent, pixel):
    """Representative of a pixel's set, with path halving."""
    while parent[pixel] != pixel:
        parent[pixel] = parent[parent[pixel]]
        pixel = parent[pixel]
    return np.int64(pixel)


@compiled
def sort_pixels(levels, top):
    """Inner pixels by ascending level, raster order inside a level.

    Returns the order and, for level v, its slice start[v]:start[v + 1].
    """
    height, width = levels.shape[0] - 2, levels.shape[1] - 2
    stride = width + 2
    flat = levels.ravel()
    start = np.zeros(top + 2, np.int64)
    for y in range(1, height + 1):
        for pixel in range(y * stride + 1, y * stride + 1 + width):
            start[flat[pixel] + 1] += 1
    for level in range(top + 1):
        start[level + 1] += start[level]
    order = np.empty(height * width, np.int32)
    position = start[: top + 1].copy()
    for y in range(1, height + 1):
        for pixel in range(y * stride + 1, y * stride + 1 + width):
            level = flat[pixel]
            order[position[level]] = pixel
            position[level] += 1
    return order, start


@njit(inline="always")
def grow(box, keep, x0, y0, x1, y1):
    """Extend the box of a set."""
    box[keep, 0] = min(box[keep, 0], x0)
    box[keep, 1] = min(box[keep, 1], y0)
    box[keep, 2] = max(box[keep, 2], x1)
    box[keep, 3] = max(box[keep, 3], y1)


@njit(inline="always")
def _write(table, count, box, root, first, last, kind):
    """Append the box of a set as a row; returns the new number of rows."""
    for side in range(4):
        table[count, side] = box[root, side] - 1  # from padded to map coordinates
    table[count, 4] = first
    table[count, 5] = last
    table[count, 6] = kind
    return count + 1


@compiled
def component_rows(levels, order, start, top, table):
    """Boxes of all 8-connected components of {value > t}, for all t, written as rows of the table.

    Returns the number of rows.
    """
    stride = levels.shape[1]
    size = levels.size
    parent = np.full(size, -1, np.int32)
    box = np.empty((size, 4), np.int32)
    since = np.empty(size, np.int32)  # the box is valid at levels below this one
    count = 0
    for level in range(top, 0, -1):
        for k in range(start[level], start[level + 1]):
            pixel = order[k]
            y = pixel // stride
            x = pixel - y * stride
            root = -1
            for step in (-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1):
                if parent[pixel + step] < 0:
                    continue
                other = find(parent, pixel + step)
                if root < 0:
                    root = other
                elif other != root:
                    if since[other] > level:
                        count = _write(table, count, box, other, level, since[other] - 1, 0)
                    if since[root] > level:
                        count = _write(table, count, box, root, level, since[root] - 1, 0)
                        since[root] = level
                    grow(box, root, box[other, 0], box[other, 1], box[other, 2], box[other, 3])
                    parent[other] = root
            if root < 0:
                parent[pixel] = pixel
                box[pixel, 0], box[pixel, 1], box[pixel, 2], box[pixel, 3] = x, y, x, y
                since[pixel] = level
                continue
            parent[pixel] = root
            if x < box[root, 0] or y < box[root, 1] or x > box[root, 2] or y > box[root, 3]:
                if since[root] > level:
                    count = _write(table, count, box, root, level, since[root] - 1, 0)
                    since[root] = level
                grow(box, root, x, y, x, y)
    for k in range(order.size):
        pixel = order[k]
        if parent[pixel] == pixel:
            count = _write(table, count, box, pixel, 0, since[pixel] - 1, 0)
    return count


@compiled
def hole_rows(levels, order, start, top, table, count):
    """Boxes of all holes of {value > t}, for all t, appended to the table; returns the number of rows.

    A hole is a 4-connected component of {value <= t} that does not reach the frame.
    """
    height, width = levels.shape[0] - 2, levels.shape[1] - 2
    stride = width + 2
    parent = np.full(levels.size, -1, np.int32)
    box = np.empty((levels.size, 4), np.int32)
    since = np.empty(levels.size, np.int32)
    for x in range(stride):
        parent[x] = OUTSIDE
        parent[(height + 1) * stride + x] = OUTSIDE
    for y in range(height + 2):
        parent[y * stride] = OUTSIDE
        parent[y * stride + stride - 1] = OUTSIDE
    for level in range(top):
        for k in range(start[level], start[level + 1]):
            pixel = order[k]
            y = pixel // stride
            x = pixel - y * stride
            parent[pixel] = pixel
            box[pixel, 0], box[pixel, 1], box[pixel, 2], box[pixel, 3] = x, y, x, y
            since[pixel] = level
            root = pixel
            for step in (-stride, -1, 1, stride):
                if parent[pixel + step] < 0:
                    continue
                other = find(parent, pixel + step)
                if other == root:
                    continue
                if root == OUTSIDE:
                    root, other = other, root
                if since[root] < level:
                    count = _write(table, count, box, root, since[root], level - 1, 1)
                    since[root] = level
                if other == OUTSIDE:
                    parent[root] = OUTSIDE
                    root = OUTSIDE
                    continue
                if since[other] < level:
                    count = _write(table, count, box, other, since[other], level - 1, 1)
                grow(box, root, box[other, 0], box[other, 1], box[other, 2], box[other, 3])
                parent[other] = root
    for k in range(start[top]):
        pixel = order[k]
        if parent[pixel] == pixel:
            count = _write(table, count, box, pixel, since[pixel], top - 1, 1)
    return count


@compiled
def fill_holes(levels, top):
    """The map with every hole of every cut filled: each pixel's smallest barrier to the frame.

    A flood from the border inwards in order of level; a pixel gets the higher of its own level and that of
    the lowest 4-connected path by which the flood reaches it.
    """
    height, width = levels.shape[0] - 2, levels.shape[1] - 2
    stride = width + 2
    flat = levels.ravel()
    filled = np.zeros_like(levels)
    out = filled.ravel()
    following = np.empty(levels.size, np.int32)  # linked lists of waiting pixels, one list a level
    head = np.full(top + 1, -1, np.int32)
    reached = np.ones(levels.shape, np.bool_)
    reached[1:-1, 1:-1] = False
    seen = reached.ravel()
    for y in range(1, height + 1):
        across = 1 if y == 1 or y == height or width == 1 else width - 1
        for x in range(1, width + 1, across):
            pixel = y * stride + x
            level = flat[pixel]
            out[pixel] = level
            seen[pixel] = True
            following[pixel] = head[level]
            head[level] = pixel
    for level in range(top + 1):
        while head[level] >= 0:
            pixel = head[level]
            head[level] = following[pixel]
            for step in (-stride, -1, 1, stride):
                other = pixel + step
                if not seen[other]:
                    seen[other] = True
                    barrier = max(flat[other], level)
                    out[other] = barrier
                    following[other] = head[barrier]
                    head[barrier] = other
    return filled


@compiled
def _cell_weights(filled):
    """Number of 2 x 2 cells in which a pixel is the third or fourth to join the foreground.

    The polygon through the centres of a component's border pixels encloses half a unit in a cell with three
    pixels in the component and one unit in a cell with four: twice the polygon's area is the sum of these
    weights over the (hole-filled) component.
    """
    stride = filled.shape[1]
    flat = filled.ravel()
    weight = np.zeros(filled.size, np.int32)
    for y in range(1, filled.shape[0] - 2):
        for x in range(1, stride - 2):
            a = y * stride + x
            low1, high1 = (a, a + 1) if flat[a] <= flat[a + 1] else (a + 1, a)
            c = a + stride
            low2, high2 = (c, c + 1) if flat[c] <= flat[c + 1] else (c + 1, c)
            if flat[low1] > flat[low2]:
                low1, high1, low2, high2 = low2, high2, low1, high1
            weight[low1] += 1  # the fourth and last pixel of the cell
            weight[high1 if flat[high1] <= flat[low2] else low2] += 1  # the third
    return weight


@compiled
def largest_boxes(filled, order, start, top, boxes):
    """Box of the contour of largest polygon area at every level t < top, into boxes (top, 4) inclusive.

    `filled` has its holes filled, `order` and `start` are its own. Of equal areas the last contour in
    raster order is taken, as in the reference evaluator, whose list of contours is in reverse order and
    which takes the first maximum.
    """
    stride = filled.shape[1]
    size = filled.size
    weight = _cell_weights(filled)
    parent = np.full(size, -1, np.int32)
    area = np.empty(size, np.int64)
    first = np.empty(size, np.int32)  # first pixel in raster order
    box = np.empty((size, 4), np.int32)
    changed_at = np.zeros(size, np.int32)
    changed = np.empty(size, np.int32)
    roots = np.empty(size, np.int32)
    num_roots = 0
    best, best_area, best_first = -1, np.int64(-1), -1
    for level in range(top, 0, -1):
        num_changed = 0
        for k in range(start[level], start[level + 1]):
            pixel = order[k]
            y = pixel // stride
            x = pixel - y * stride
            root = -1
            for step in (-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1):
                if parent[pixel + step] < 0:
                    continue
                other = find(parent, pixel + step)
                if root < 0:
                    root = other
                elif other != root:
                    if area[other] > area[root]:
                        root, other = other, root
                    parent[other] = root
                    area[root] += area[other]
                    first[root] = min(first[root], first[other])
                    grow(box, root, box[other, 0], box[other, 1], box[other, 2], box[other, 3])
            if root < 0:
                root = pixel
                area[root] = 0
                first[root] = pixel
                box[root, 0], box[root, 1], box[root, 2], box[root, 3] = x, y, x, y
                roots[num_roots] = root
                num_roots += 1
            parent[pixel] = root
            area[root] += weight[pixel]
            first[root] = min(first[root], pixel)
            grow(box, root, x, y, x, y)
            if changed_at[root] != level:
                changed_at[root] = level
                changed[num_changed] = root
                num_changed += 1
        rescan = False
        area_before = best_area
        if best >= 0:
            best = find(parent, best)
            # A component can only grow, so the best stays best until another overtakes it, except that
            # growing upwards makes it lose a tie it had won: then every component is a candidate again.
            rescan = area[best] == best_area and first[best] < best_first
            best_area, best_first = area[best], first[best]
        for k in range(num_changed):
            root = changed[k]
            if parent[root] != root:
                continue
            if area[root] > best_area or (area[root] == best_area and first[root] > best_first):
                best, best_area, best_first = root, area[root], first[root]
        if rescan and best_area == area_before:
            kept = 0
            for k in range(num_roots):
                root = roots[k]
                if parent[root] != root:
                    continue
                roots[kept] = root
                kept += 1
                if area[root] > best_area or (area[root] == best_area and first[root] > best_first):
                    best, best_area, best_first = root, area[root], first[root]
            num_roots = kept
        for side in range(4):
            boxes[level - 1, side] = box[best, side] - 1
    return 0
