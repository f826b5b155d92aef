"""The effective receptive field of every position, not only of the central one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from heatbox.analysis.erf import gradient_maps
from heatbox.analysis.gaussian import GaussianFit, fit_gaussian
from heatbox.analysis.gradients import feature_function, input_gradients, network_of
from heatbox.errors import InputError
from heatbox.models.introspect import ClassifierView


@dataclass(frozen=True)
class PositionFields:
    """Receptive fields of a grid of positions of the last feature map.

    Attributes:
        rows, columns: (R,) and (K,) cells of the feature map, whose size is `feature_size`.
        contribution: (R, K, H, W) float64, mean over images.
        feature_size: (h, w) of the feature map.
        images: number of images in the mean.
    """

    rows: np.ndarray
    columns: np.ndarray
    contribution: np.ndarray
    feature_size: tuple[int, int]
    images: int

    def centre(self, row: int, column: int) -> tuple[float, float]:
        """Pixel (row, column) in the middle of a cell's own part of the input."""
        (height, width), (h, w) = self.contribution.shape[2:], self.feature_size
        return (row + 0.5) * height / h - 0.5, (column + 0.5) * width / w - 0.5

    def gaussians(self) -> list[list[GaussianFit]]:
        """The Gaussian of each position, about the middle of its cell."""
        return [
            [
                fit_gaussian(self.contribution[i, k], self.centre(row, column))
                for k, column in enumerate(self.columns)
            ]
            for i, row in enumerate(self.rows)
        ]

    def mass_centres(self) -> np.ndarray:
        """(R, K, 2) pixel (row, column) of each position's centre of mass: where it really looks."""
        height, width = self.contribution.shape[2:]
        total = self.contribution.sum((2, 3))
        total = np.where(total > 0, total, np.nan)
        down = (self.contribution.sum(3) @ np.arange(height)) / total
        across = (self.contribution.sum(2) @ np.arange(width)) / total
        return np.stack([down, across], axis=-1)


def spread_cells(side: int, count: int) -> np.ndarray:
    """At most `count` cells of a feature map's side, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, side - 1, min(count, side)).round().astype(int))


def receptive_fields(
    model: nn.Module | ClassifierView, batches: Iterable[Tensor], grid: int = 5
) -> PositionFields:
    """Receptive fields of an evenly spread grid of positions.

    One forward pass a batch and one backward pass a position.

    Args:
        model: any network with a last feature map.
        batches: of preprocessed images (B, 3, H, W), all of one size.
        grid: positions along each side, the outermost ones included.

    Raises:
        InputError: no image, or a grid without a position.
    """
    if grid < 1:
        raise InputError(f"a grid of {grid} positions along a side is none, expected 1 or more")
    network, features_of = network_of(model), feature_function(model)
    total: np.ndarray | None = None
    count = 0
    rows = columns = np.zeros(0, int)
    size: tuple[int, ...] = (0, 0)
    for batch in batches:
        if total is None:
            with input_gradients(network, batch[:1]) as one, torch.no_grad():
                size = tuple(features_of(one).shape[2:])
            rows, columns = spread_cells(size[0], grid), spread_cells(size[1], grid)
        cells = [(int(row), int(column)) for row in rows for column in columns]
        maps = gradient_maps(network, features_of, batch, cells)  # (P, B, H, W)
        found = maps.sum(1, dtype=np.float64)
        total = found if total is None else total + found
        count += len(batch)
    if total is None:
        raise InputError("there is no image to measure the receptive fields on")
    shape = (len(rows), len(columns), *total.shape[1:])
    return PositionFields(rows, columns, total.reshape(shape) / count, (size[0], size[1]), count)
