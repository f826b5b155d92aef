"""Heatmaps that break evaluators: drawn at random, and built to be awkward."""

import cv2
import numpy as np


def random_map(seed, largest=64):
    """A map in [0, 1] of a random kind, size and dtype; every kind occurs about equally often."""
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(1, largest + 1, 2))
    if rng.random() < 0.4:  # small maps hit borders and ties far more often than large ones
        height, width = (int(v) for v in rng.integers(1, 13, 2))
    kind = KINDS[int(rng.integers(len(KINDS)))]
    out = np.clip(kind(rng, height, width), 0, 1)
    if rng.random() < 0.5:
        out = out * rng.choice([1.0, 0.5, 0.05, 1 / 255])
    return out.astype(rng.choice([np.float32, np.float64]))


def noise(rng, height, width):
    return rng.random((height, width))


def few_greys(rng, height, width):
    return rng.integers(0, rng.integers(2, 6), (height, width)) / 5


def binary(rng, height, width):
    return (rng.random((height, width)) < rng.uniform(0.1, 0.9)).astype(float)


def smooth(rng, height, width):
    low = rng.random(tuple(rng.integers(1, 8, 2)))
    out = cv2.resize(low, (width, height), interpolation=cv2.INTER_CUBIC)
    return (out - out.min()) / max(out.max() - out.min(), 1e-9)


def rings(rng, height, width):
    y, x = np.mgrid[:height, :width]
    centre = rng.random(2) * [height, width]
    radius = np.hypot(y - centre[0], x - centre[1])
    return 0.5 + 0.5 * np.cos(radius * rng.uniform(0.3, 3.5))


def nested_frames(rng, height, width):
    out = np.zeros((height, width))
    for depth in range(min(height, width) // 2 + 1):
        out[depth : height - depth, depth : width - depth] = rng.integers(0, 4) / 3
    return out


def checkerboard(rng, height, width):
    y, x = np.mgrid[:height, :width]
    period = int(rng.integers(1, 4))
    return ((y // period + x // period) % 2) * rng.choice([1.0, 0.4]) + rng.random() * 0.3


def thin_lines(rng, height, width):
    out = np.zeros((height, width))
    for _ in range(int(rng.integers(1, 6))):
        ends = rng.integers(0, [width, height, width, height])
        cv2.line(out, tuple(map(int, ends[:2])), tuple(map(int, ends[2:])), rng.integers(1, 5) / 4, 1)
    return out


def dots(rng, height, width):
    out = np.zeros((height, width))
    count = int(rng.integers(0, max(2, height * width // 6)))
    out[rng.integers(0, height, count), rng.integers(0, width, count)] = rng.choice([1.0, 0.5, 0.25], count)
    return out


def spiral(rng, height, width):
    y, x = np.mgrid[:height, :width]
    angle, radius = np.arctan2(y - height / 2, x - width / 2), np.hypot(y - height / 2, x - width / 2)
    return ((angle / np.pi + radius / rng.uniform(2, 6)) % 1 < 0.5) * rng.choice([1.0, 0.7])


def constant(rng, height, width):
    return np.full((height, width), rng.choice([0.0, 1.0, 0.5, 0.003]))


def ramp(rng, height, width):
    return (np.arange(height * width).reshape(height, width) * rng.integers(1, 9)) % 257 / 256


KINDS = [
    noise, few_greys, binary, smooth, rings, nested_frames,
    checkerboard, thin_lines, dots, spiral, constant, ramp,
]  # fmt: skip


def random_truth(seed, side=224):
    """(K, 4) boxes in original pixels and (width, height)."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 600, 2)
    corners = np.sort(rng.integers(0, size, (int(rng.integers(1, 4)), 2, 2)), axis=1)
    return corners.reshape(-1, 4), tuple(map(int, size))
