"""Compiled loops of the metrics: histograms of pixels, and resampled curves."""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np

from heatbox._utils.compiled import compiled


@compiled
def count_pixels(heatmap, mask, edges, counts, places):
    """Add pixels to counts (background, object, ignored; bins); returns False for any other mask value.

    `edges` are T thresholds k / T, then 1, 2 and 3. The bin of a value is nearly always int(value * T); the
    rounding of the thresholds can make it one more or one less, so it is corrected against the edges.
    `places` is memory for a row of int32.
    """
    bins = edges.size - 4
    width = heatmap.shape[1]
    flat = counts.ravel()
    good = True
    for y in range(heatmap.shape[0]):
        values, classes = heatmap[y], mask[y]
        for x in range(width):  # the bin of each pixel: iterations are independent
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


@compiled
def best_of_resamples(images, rising, rising_start, falling, falling_start, length, resamples, seed):
    """For each resample of the images: the maximum of each summed curve, averaged over the curves.

    Curves are concatenated, `length` points each. At point p the images in
    rising[rising_start[p]:rising_start[p + 1]] become correct and those of `falling` cease to be; before the
    first point of a curve no image is correct. Returns (resamples,) float64.
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
