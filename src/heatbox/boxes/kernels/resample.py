"""Compiled resampling of images, each a short list of changes along a curve."""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np

from heatbox.boxes.kernels.compiling import compiled


@compiled
def best_of_resamples(start, position, change, curves, length, resamples, seed):
    """For each resample of the images: the best point of each summed curve, averaged over the curves.

    Image i changes its curves by change[k] at position[k] (curve * length + point) for k in
    start[i]:start[i + 1], and keeps the value until the next change. Returns (resamples,) float64.
    """
    images = np.uint64(start.size - 1)
    out = np.empty(resamples)
    steps = np.zeros(curves * length, np.int64)
    state = np.uint64(seed)
    for r in range(resamples):
        steps[:] = 0
        for _ in range(images):
            # splitmix64 (Steele et al. 2014); its upper half scaled to an index.
            state += np.uint64(0x9E3779B97F4A7C15)
            z = state
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            image = ((z >> np.uint64(32)) * images) >> np.uint64(32)
            for k in range(start[image], start[image + np.uint64(1)]):
                steps[position[k]] += change[k]
        total = 0
        for curve in range(curves):
            now, best = np.int64(0), np.int64(0)
            for point in range(curve * length, (curve + 1) * length):
                now += steps[point]
                best = max(best, now)
            total += best
        out[r] = total / curves
    return out
