"""Noisy linear imputation: removed pixels are filled in from those that remain.

Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022 (ROAD),
section 5: a removed pixel is the weighted mean of its neighbours, 1/6 for each of the four direct ones and
1/12 for each of the four diagonal ones, removed neighbours included. The system of these equations is
solved here by multigrid: the errors that neighbouring equations remove slowly are removed on coarser grids.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from heatbox._utils.compiled import compiled
from heatbox._utils.devices import available_cores
from heatbox.errors import InputError

SWEEPS = 2
"""Relaxations before and after each correction from the coarser grid."""

TOLERANCE = 1e-4
"""The solution changes by less than this fraction of the range of the image in the last cycle."""

_CYCLES = 60
_COARSEST_SWEEPS = 20

_Level = tuple[np.ndarray, np.ndarray]
"""(h + 2, w + 2) float32: 1 where a pixel is unknown; and one over the sum of its neighbours' weights."""


@compiled
def _around(x, c, i, j):
    """The weighted sum of the eight neighbours; outside of the image is zero."""
    corners = x[c, i - 1, j - 1] + x[c, i - 1, j + 1] + x[c, i + 1, j - 1] + x[c, i + 1, j + 1]
    edges = x[c, i - 1, j] + x[c, i + 1, j] + x[c, i, j - 1] + x[c, i, j + 1]
    return (corners + np.float32(2) * edges) * np.float32(1 / 12)


@compiled
def _relax(x, b, unknown, scale, downwards):
    """Solve the equations of each row with its old values and the newest rows beside it, in place."""
    channels, height, width = x.shape
    row = np.empty(width, np.float32)
    for c in range(channels):
        for k in range(1, height - 1):
            i = k if downwards else height - 1 - k
            for j in range(1, width - 1):
                row[j] = (b[c, i, j] + _around(x, c, i, j)) * scale[i, j]
            for j in range(1, width - 1):
                x[c, i, j] += unknown[i, j] * (row[j] - x[c, i, j])


@compiled
def _restrict(x, b, unknown, scale, coarse, coarse_unknown):
    """Sum the residuals of each four pixels: at twice the spacing the equations are four times as large."""
    channels, height, width = x.shape
    coarse[:] = 0
    for c in range(channels):
        for i in range(1, height - 1):
            for j in range(1, width - 1):
                residual = b[c, i, j] + _around(x, c, i, j) - x[c, i, j] / scale[i, j]
                coarse[c, (i + 1) // 2, (j + 1) // 2] += unknown[i, j] * residual
        coarse[c] *= coarse_unknown


@compiled
def _prolong(x, unknown, coarse):
    """Add bilinearly interpolated values of the coarser grid."""
    channels, height, width = x.shape
    last_row, last_column = coarse.shape[1] - 2, coarse.shape[2] - 2
    for c in range(channels):
        for i in range(1, height - 1):
            near_i = (i + 1) // 2
            far_i = near_i - 1 if i % 2 else near_i + 1
            if far_i < 1 or far_i > last_row:
                far_i = near_i
            for j in range(1, width - 1):
                near_j = (j + 1) // 2
                far_j = near_j - 1 if j % 2 else near_j + 1
                if far_j < 1 or far_j > last_column:
                    far_j = near_j
                value = np.float32(9) * coarse[c, near_i, near_j] + coarse[c, far_i, far_j]
                value += np.float32(3) * (coarse[c, far_i, near_j] + coarse[c, near_i, far_j])
                x[c, i, j] += unknown[i, j] * value * np.float32(1 / 16)


def impute_linear(images: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Fill in the removed pixels of some images, without noise.

    Args:
        images: (N, C, H, W) numbers; computed in float32.
        removed: (N, H, W) booleans. An image without any pixel left becomes zeros.

    Returns:
        (N, C, H, W) float32: the images, with the removed pixels replaced. They solve the equations of the
        paper to about `TOLERANCE` of the range of the image.

    Raises:
        InputError: shapes that do not match, or values that are not finite.
    """
    pixels, gone = np.asarray(images, dtype=np.float32), np.asarray(removed, dtype=bool)
    if pixels.ndim != 4 or gone.shape != (len(pixels), *pixels.shape[2:]):
        raise InputError(
            f"images have shape {pixels.shape} and removed pixels {gone.shape}, expected (N, C, H, W) and "
            "(N, H, W)"
        )
    if not np.isfinite(pixels).all():
        raise InputError("images contain values that are not finite")
    if not len(pixels):
        return pixels
    with ThreadPoolExecutor(min(available_cores(), len(pixels))) as pool:
        return np.stack(list(pool.map(_impute_one, pixels, gone)))


def _impute_one(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """(C, H, W) float32 and (H, W) booleans → (C, H, W) float32."""
    if removed.all() or not removed.any():
        return np.zeros_like(image) if removed.all() else image
    levels = _levels(removed)
    x = _first_guess(image, removed, levels)
    zero = np.zeros_like(x)
    enough = TOLERANCE * float(np.ptp(image[:, ~removed]))
    for _ in range(_CYCLES):
        before = x.copy()
        _cycle(x, zero, levels)
        if np.abs(x - before).max() <= enough:
            break
    return np.where(removed, x[:, 1:-1, 1:-1], image)


def _levels(removed: np.ndarray) -> list[_Level]:
    """The grids from fine to coarse; a coarse pixel is unknown if all of its four are."""
    found: list[_Level] = []
    while True:
        height, width = removed.shape
        unknown = np.zeros((height + 2, width + 2), np.float32)
        unknown[1:-1, 1:-1] = removed
        inside = np.zeros((1, height + 2, width + 2), np.float32)
        inside[:, 1:-1, 1:-1] = 1
        scale = np.ones((height + 2, width + 2), np.float32)
        total = np.zeros((height, width), np.float32)
        total += sum(
            weight / 12 * inside[0, 1 + di : height + 1 + di, 1 + dj : width + 1 + dj]
            for di, dj, weight in _NEIGHBOURS
        )
        scale[1:-1, 1:-1] = 1 / np.maximum(total, 1e-6)  # the only pixel of an image has no neighbour
        found.append((unknown, scale))
        if min(height, width) <= 2 or not removed.any():
            return found
        removed = np.all(_in_fours(np.pad(removed, _even(removed.shape), constant_values=True)), axis=(1, 3))


_NEIGHBOURS = tuple((di, dj, 1 if di and dj else 2) for di in (-1, 0, 1) for dj in (-1, 0, 1) if di or dj)


def _even(shape: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    return (0, shape[-2] % 2), (0, shape[-1] % 2)


def _in_fours(grid: np.ndarray) -> np.ndarray:
    """(..., h, w) → (..., h / 2, 2, w / 2, 2)."""
    height, width = grid.shape[-2:]
    return grid.reshape(*grid.shape[:-2], height // 2, 2, width // 2, 2)


def _first_guess(image: np.ndarray, removed: np.ndarray, levels: Sequence[_Level]) -> np.ndarray:
    """(C, H + 2, W + 2): known pixels, and unknown ones from solutions of the coarser grids."""
    count = (~removed).astype(np.float32)
    total = image * count
    means = []
    for _ in levels:
        means.append((total / np.maximum(count, 1), count > 0))
        edges = _even(count.shape)
        total = _in_fours(np.pad(total, ((0, 0), *edges))).sum((2, 4))
        count = _in_fours(np.pad(count, edges)).sum((1, 3))
    x = np.zeros(0, np.float32)
    for k in reversed(range(len(levels))):
        (unknown, _), (mean, known), coarser = levels[k], means[k], x
        x = np.zeros((len(image), *unknown.shape), np.float32)
        x[:, 1:-1, 1:-1] = mean
        if coarser.size:
            _prolong(x, unknown, coarser)
        else:
            x[:, 1:-1, 1:-1] += ~known * image[:, ~removed].mean(1)[:, None, None]
        if k:
            _cycle(x, np.zeros_like(x), levels[k:])
    return x


def _cycle(x: np.ndarray, b: np.ndarray, levels: Sequence[_Level]) -> None:
    """One V-cycle: relax, correct from the coarser grid, relax."""
    unknown, scale = levels[0]
    if len(levels) == 1:
        for _ in range(_COARSEST_SWEEPS):
            _relax(x, b, unknown, scale, True)
        return
    for _ in range(SWEEPS):
        _relax(x, b, unknown, scale, True)
    coarse_unknown = levels[1][0]
    residual = np.empty((len(x), *coarse_unknown.shape), np.float32)
    _restrict(x, b, unknown, scale, residual, coarse_unknown)
    error = np.zeros_like(residual)
    _cycle(error, residual, levels[1:])
    _prolong(x, unknown, error)
    for _ in range(SWEEPS):
        _relax(x, b, unknown, scale, False)
