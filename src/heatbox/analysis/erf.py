"""Effective receptive field: which input pixels the middle of the last feature map really depends on.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", 2016,
measured as Ding et al. do for RepLKNet (CVPR 2022) and CAM Back Again after them (supplement 10): the
gradient of the central position's activations with respect to the input, averaged over images, and the
smallest centred square that holds a share t of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from heatbox._utils.checks import as_numbers, check_length, check_module, check_whole
from heatbox.analysis.gaussian import GaussianFit, fit_gaussian
from heatbox.analysis.gradients import feature_function, input_gradients, network_of
from heatbox.data.transforms import Preprocess
from heatbox.errors import InputError
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import data_config

PUBLISHED_THRESHOLDS = (0.2, 0.3, 0.5, 0.99)
"""The shares t that the source's tables print."""

THRESHOLDS = np.arange(1, 100) / 100
"""The shares t of the curve r(t), over which its area is taken: .01, .02, ..., .99."""

PUBLISHED_SIZE = 1024
"""Side of the input in the source, in pixels; images are squashed to it with bicubic interpolation."""


@dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of a network, averaged over some images.

    Attributes:
        contribution: (H, W) float64, mean contribution of each input pixel, not below 0.
        images: number of images in the mean.
        skipped: number of images left out because their gradient was not finite.
    """

    contribution: np.ndarray
    images: int
    skipped: int = 0

    def side(self, t: float, log: bool = True) -> int | None:
        """Side in pixels of the smallest centred square holding the share t, see `side`."""
        return side(self.contribution, t, log)

    def area_ratio(self, t: Any, log: bool = True) -> Any:
        """Area of that square over the area of the input, see `area_ratio`."""
        return area_ratio(self.contribution, t, log)

    def curve(self, log: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """The shares t and the area ratios r(t), both (99,)."""
        return THRESHOLDS, area_ratio(self.contribution, THRESHOLDS, log)

    def auc(self, log: bool = True) -> float:
        """Area under r(t), see `auc`."""
        return auc(self.contribution, log)

    def gaussian(self) -> GaussianFit:
        """The round Gaussian that fits the contribution best, about the centre of the input."""
        return fit_gaussian(self.contribution)


def erf(
    model: nn.Module | ClassifierView,
    images: Tensor | Sequence[Image.Image],
    size: int | None = None,
    batch_size: int = 1,
) -> ReceptiveField:
    """Measure the effective receptive field of a network.

    Args:
        model: any network with a last feature map, see `heatbox.analysis.gradients.feature_function`.
        images: (B, 3, H, W) preprocessed, or PIL images, squashed to a square with bicubic interpolation
            and normalised as the model's timm config says.
        size: side of that square in pixels; 1024 by default. A tensor is taken as it is.
        batch_size: images in memory at once.

    Returns:
        the mean contribution with its measures: ``erf(model, images).area_ratio(0.5)``.

    Raises:
        InputError: no image, images of a wrong shape, or gradients that are finite for none of them.
        TypeError: no network, images that are neither a tensor nor PIL images, or numbers that are not whole.
    """
    check_module(network_of(model), "model")
    total: np.ndarray | None = None
    count = skipped = 0
    network, features_of = network_of(model), feature_function(model)
    for batch in _batches(network, images, size, batch_size):
        maps = gradient_maps(network, features_of, batch)[0]
        finite = np.isfinite(maps).all((1, 2))
        summed = maps[finite].sum(0, dtype=np.float64)
        total = summed if total is None else total + summed
        count, skipped = count + int(finite.sum()), skipped + int((~finite).sum())
    if total is None:
        raise InputError("there is no image to measure the receptive field on")
    if count == 0:
        raise InputError(f"the gradients of all {skipped} images hold NaN or infinity")
    return ReceptiveField(total / count, count, skipped)


def contribution(
    model: nn.Module | ClassifierView,
    images: Tensor | Sequence[Image.Image],
    size: int | None = None,
    batch_size: int = 1,
) -> np.ndarray:
    """Mean contribution of each input pixel, (H, W) float64; arguments and errors as of `erf`."""
    return erf(model, images, size, batch_size).contribution


def contributions(
    model: nn.Module | ClassifierView, images: Tensor, positions: Sequence[tuple[int, int]] | None = None
) -> np.ndarray:
    """Contribution of each input pixel to the central position of the last feature map, image by image.

    The activations of the position are rectified and summed over channels; their gradient with respect to
    the input is rectified and summed over colours.

    Args:
        model: any network with a last feature map.
        images: (B, 3, H, W), preprocessed; all are in memory together.
        positions: (row, column) cells of the feature map (h, w) instead of the central one, (h // 2, w // 2).

    Returns:
        (B, H, W) float32; with `positions` (P, B, H, W).

    Raises:
        InputError: images or positions that do not fit.
    """
    maps = gradient_maps(network_of(model), feature_function(model), images, positions)
    return maps[0] if positions is None else maps


def gradient_maps(
    network: nn.Module,
    features_of: Callable[[Tensor], Tensor],
    images: Tensor,
    positions: Sequence[tuple[int, int]] | None = None,
) -> np.ndarray:
    """`contributions` where the function from images to feature map is at hand; always (P, B, H, W)."""
    if not isinstance(images, Tensor) or images.ndim != 4 or 0 in images.shape:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images have shape {shape}, expected (B, 3, H, W), none of them 0")
    with input_gradients(network, images) as inputs:
        features = features_of(inputs)  # (B, C, h, w)
        height, width = features.shape[2:]
        cells = [(height // 2, width // 2)] if positions is None else list(positions)
        found = []
        for index, (row, column) in enumerate(cells):
            if not (0 <= row < height and 0 <= column < width):
                raise InputError(f"position {(row, column)} is outside the feature map {(height, width)}")
            activation = features[:, :, row, column].relu().sum()
            (gradient,) = torch.autograd.grad(activation, inputs, retain_graph=index + 1 < len(cells))
            found.append(gradient.detach().relu().sum(1).float().cpu().numpy())
    return np.stack(found)


def _batches(
    network: nn.Module,
    images: Tensor | Sequence[Image.Image],
    size: int | None,
    batch_size: int,
) -> Iterator[Tensor]:
    check_whole(batch_size, "batch_size")
    if size is not None:
        check_whole(size, "size")
    check_length(images, "images", "a tensor (B, 3, H, W) or PIL images")
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise InputError(f"images have shape {tuple(images.shape)}, expected (B, 3, H, W)")
        yield from images.split(batch_size)  # type: ignore[no-untyped-call]
        return
    preprocess = Preprocess.from_config(data_config(network), size or PUBLISHED_SIZE, "bicubic")
    for start in range(0, len(images), batch_size):
        chosen = images[start : start + batch_size]
        if not all(isinstance(image, Image.Image) for image in chosen):
            raise TypeError("images are neither a tensor (B, 3, H, W) nor a sequence of PIL images")
        yield torch.stack([preprocess(image.convert("RGB")) for image in chosen])


# --------------------------------------------------------------------------------------- measures of a map


def shares_by_square(contribution: np.ndarray, log: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Share of the total that each square around the centre (H // 2, W // 2) holds.

    Args:
        contribution: (H, W), finite and not below 0.
        log: take log10(x + 1) first, as RepLKNet's code does; SLaK's figures do not.

    Returns:
        sides 3, 5, ... in pixels of the squares that lie within the input, and their shares in [0, 1]. The
        largest of an even input leaves out the first row and column, as the source's does.

    Raises:
        InputError: not an (H, W) array of finite values from 0 on.
    """
    values = np.asarray(contribution, dtype=np.float64)
    if values.ndim != 2 or not np.isfinite(values).all() or (values < 0).any():
        raise InputError(
            f"a contribution is a finite (H, W) array without negative values; this has shape {values.shape}"
        )
    values = np.log10(values + 1) if log else values
    height, width = values.shape
    rows, columns = abs(np.arange(height) - height // 2), abs(np.arange(width) - width // 2)
    ring = np.maximum(rows[:, None], columns[None])  # the square on whose rim each pixel lies
    reach = min(height, width) // 2
    held = np.bincount(ring.ravel(), values.ravel(), minlength=reach)[:reach].cumsum()
    total = values.sum()
    shares = held / total if total > 0 else np.zeros(reach)
    return 2 * np.arange(1, max(reach, 1)) + 1, shares[1:]


def side(contribution: np.ndarray, t: float, log: bool = True) -> int | None:
    """Side in pixels of the smallest centred square that holds *more* than the share t of the contribution.

    Returns:
        an odd number from 3 on, or None where no square within the input holds so much.

    Raises:
        InputError: a share outside [0, 1], or as `shares_by_square`.
    """
    sides, shares = shares_by_square(contribution, log)
    index = int(np.searchsorted(shares, _shares(t), side="right"))
    return int(sides[index]) if index < len(sides) else None


def area_ratio(contribution: np.ndarray, t: Any, log: bool = True) -> Any:
    """Area of the smallest centred square that holds more than the share t, over the area of the input.

    Args:
        contribution: (H, W), finite and not below 0.
        t: a share in [0, 1], or an array of them.
        log: take log10(x + 1) of the contribution first.

    Returns:
        r(t) in (0, 1], a float for a float and an array for an array; 1 where no square within the input
        holds so much.

    Raises:
        InputError: a share outside [0, 1], or as `shares_by_square`.
    """
    sides, shares = shares_by_square(contribution, log)
    wanted = _shares(t)
    ratios = np.append(sides**2 / np.asarray(contribution).size, 1.0)
    found = ratios[np.searchsorted(shares, wanted, side="right")]
    return float(found) if wanted.ndim == 0 else found


def auc(contribution: np.ndarray, log: bool = True) -> float:
    """Area under r(t) by the trapezoid rule over t = .01, .02, ..., .99 (so at most .98)."""
    ratios = area_ratio(contribution, THRESHOLDS, log)
    return float(((ratios[1:] + ratios[:-1]) / 2 * np.diff(THRESHOLDS)).sum())


def _shares(t: Any) -> np.ndarray:
    wanted = as_numbers(t, "t", "shares in [0, 1]")
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise InputError(f"t is {t}, expected shares in [0, 1]")
    return wanted
