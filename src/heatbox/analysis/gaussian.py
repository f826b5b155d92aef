"""The round Gaussian that fits a contribution map best: a receptive field's size in pixels, as one number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heatbox.errors import InputError

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class GaussianFit:
    """A least-squares fit of ``amplitude * exp(-d^2 / (2 sigma^2))``, d the distance to a fixed centre.

    Attributes:
        sigma: radius in pixels.
        amplitude: in units of the map.
        explained: share of the map's sum of squares that the Gaussian accounts for, in [0, 1]; low values
            mean that the map is no Gaussian, and sigma should not be read.
    """

    sigma: float
    amplitude: float
    explained: float


def fit_gaussian(values: np.ndarray, centre: tuple[float, float] | None = None) -> GaussianFit:
    """Fit a round Gaussian about a given centre.

    For a given sigma the best amplitude is known in closed form, so one number is searched for: a coarse
    logarithmic grid, then golden sections. A Gaussian is a product of rows and columns, hence cheap.

    Args:
        values: (H, W), finite, not all zero.
        centre: (row, column) in pixels; by default (H // 2, W // 2), the centre of the receptive field's
            squares.

    Raises:
        InputError: not such a map.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or not np.isfinite(found).all() or not found.any():
        raise InputError(f"a Gaussian is fitted to a finite (H, W) map with a value; got shape {found.shape}")
    height, width = found.shape
    row, column = (height // 2, width // 2) if centre is None else centre
    rows, columns = (np.arange(height) - row) ** 2, (np.arange(width) - column) ** 2
    energy = float((found**2).sum())

    def overlap(log_sigma: float) -> tuple[float, float]:
        """<map, gaussian> and <gaussian, gaussian>."""
        down, across = (np.exp(-0.5 * squares / np.exp(2 * log_sigma)) for squares in (rows, columns))
        return float(down @ found @ across), float((down**2).sum() * (across**2).sum())

    def explained(log_sigma: float) -> float:
        with_map, with_self = overlap(log_sigma)
        return with_map**2 / with_self / energy

    grid = np.linspace(np.log(0.3), np.log(2.0 * max(height, width)), 48)
    best = int(np.argmax([explained(one) for one in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    for _ in range(40):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if explained(left) >= explained(right) else (left, high)
    middle = (low + high) / 2
    with_map, with_self = overlap(middle)
    return GaussianFit(float(np.exp(middle)), with_map / with_self, explained(middle))
