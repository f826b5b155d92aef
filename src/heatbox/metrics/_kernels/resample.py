"""Compiled resampling of images, each a short list of changes along a curve."""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np

from heatbox.boxes._kernels.compiling import compiled


@compiled
def best_of_resamples(images, rising, rising_start, falling, falling_start, length, resamples, seed):
    """For each resample of the images: the best point of each summed curve, averaged over the curves.

    Curves lie end to end, `length` points each. At point p the images in
    rising[rising_start[p]:rising_start[p + 1]] become correct and those of `falling` cease to be; at the
    first point of a curve no image is correct yet. Returns (resamples,) float64.
    """
    out = np.empty(resamples)
    points = rising_start.size - 1
    drawn = np.zeros(images, np.int32)  # how often each image is in the resample
    state = np.uint64(seed)
    for r in range(resamples):
        drawn[:] = 0
        for _ in range(images):
            # splitmix64 (Steele et al. 2014); its upper half scaled to an index.
            state += np.uint64(0x9E3779B97F4A7C15)
            z = state
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            drawn[((z >> np.uint64(32)) * np.uint64(images)) >> np.uint64(32)] += 1
        total = np.int64(0)
        for begin in range(0, points, length):
            now = best = np.int64(0)
            for point in range(begin, begin + length):
                change = np.int32(0)
                for k in range(rising_start[point], rising_start[point + 1]):
                    change += drawn[rising[np.uint64(k)]]
                for k in range(falling_start[point], falling_start[point + 1]):
                    change -= drawn[falling[np.uint64(k)]]
                now += change
                best = max(best, now)
            total += best
        out[r] = total * length / points
    return out
