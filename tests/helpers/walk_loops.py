"""The random walk, position by position."""

import numpy as np


def in_loops(seed, features, steps=2, damping=0.1):
    """One image, position by position: (h, w) seed and (C, h, w) maps on its grid, float64."""
    places = [(y, x) for y in range(seed.shape[0]) for x in range(seed.shape[1])]
    affinity = np.zeros((len(places), len(places)))
    for one in features:
        deviations = [channel.std() for channel in one]
        scale = [deviation + damping * np.mean(deviations) for deviation in deviations]
        vectors = [
            np.array([(c[place] - c.mean()) / s if s else 0 for c, s in zip(one, scale, strict=True)])
            for place in places
        ]
        for i, first in enumerate(vectors):
            for j, second in enumerate(vectors):
                lengths = np.linalg.norm(first) * np.linalg.norm(second)
                affinity[i, j] += max(0.0, first @ second / lengths) if lengths else 0
    values = [seed[place] for place in places]
    for _ in range(steps):
        values = [
            sum(a * v for a, v in zip(row, values, strict=True)) / row.sum() if row.sum() else values[i]
            for i, row in enumerate(affinity)
        ]
    return np.array(values).reshape(seed.shape)
