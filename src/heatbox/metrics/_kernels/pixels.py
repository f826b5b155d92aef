"""Compiled histogram of pixels by mask class and heatmap value."""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np

from heatbox.boxes._kernels.compiling import compiled


@compiled
def count_pixels(heatmap, mask, edges, counts, places):
    """Add pixels to counts (background, object, ignored; bins); False where a mask value is another.

    `edges` are T thresholds k / T, then 1, 2 and 3. The bin of a value is nearly always int(value * T):
    the thresholds' own rounding makes it one more or one less, so it is put right against the edges.
    `places` is memory for a row of int32.
    """
    bins = edges.size - 4
    width = heatmap.shape[1]
    flat = counts.ravel()
    good = True
    for y in range(heatmap.shape[0]):
        values, classes = heatmap[y], mask[y]
        for x in range(width):  # where each pixel counts: no step depends on another
            value = np.float64(values[x])
            k = np.int32(min(value * (bins + 1), bins + 1.0))
            k -= np.int32(value < edges[np.uint32(k)])
            k += np.int32(value >= edges[np.uint32(k + 1)])
            kind = classes[x]
            good &= (kind <= 1) | (kind == 255)
            places[x] = np.int32(min(kind, np.uint8(2))) * np.int32(bins + 3) + k
        for x in range(width):
            flat[np.uint32(places[x])] += 1
    return good
