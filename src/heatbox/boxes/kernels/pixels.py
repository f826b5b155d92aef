"""Compiled histogram of pixels by mask class and heatmap value."""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np

from heatbox.boxes.kernels.compiling import compiled


@compiled
def count_pixels(heatmap, mask, edges, counts):
    """Add pixels to counts (background, object, ignored; bins); False where a mask value is another.

    `edges` are T thresholds k / T, then 1, 2 and 3. The bin of a value is nearly always int(value * T):
    the thresholds' own rounding makes it one more or one less, so it is put right against the edges.
    """
    bins = edges.size - 4
    good = True
    for y in range(heatmap.shape[0]):
        values, classes = heatmap[y], mask[y]
        for x in range(values.size):
            value = np.float64(values[x])
            k = min(np.int64(value * (bins + 1)), bins + 1)
            k -= np.int64(value < edges[k])
            k += np.int64(value >= edges[k + 1])
            kind = classes[x]
            good &= (kind <= 1) | (kind == 255)
            counts[min(kind, np.uint8(2)), k] += 1
    return good
