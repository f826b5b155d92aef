"""Maps that do not depend on the image, as baselines for every method, and the centre prior."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from heatbox._utils.checks import check_integer, check_number
from heatbox.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def centre_gaussian(height: int = 224, width: int = 224, sigma: float = 0.25) -> np.ndarray:
    """A Gaussian in the centre of the image, scaled to [0, 1].

    Args:
        height: height of the map in pixels.
        width: width of the map in pixels.
        sigma: standard deviation as a fraction of each side.

    Returns:
        (height, width) float32, 0 in the corners and 1 in the centre; all 1 for a single pixel.

    Raises:
        InputError: a side below 1, or a standard deviation that is not above 0.
        TypeError: not numbers.

    Examples:
        >>> (100 * centre_gaussian(3, 3)).round().astype(int).tolist()
        [[0, 29, 0], [29, 100, 29], [0, 29, 0]]
    """
    check_integer(height, "height")
    check_integer(width, "width")
    check_number(sigma, "sigma", "a fraction of each side above 0")
    if not 0 < sigma < math.inf:
        raise InputError(f"sigma is {sigma}, expected a fraction of each side above 0")
    out = _gaussian(height, width, sigma)
    if out.max() == out.min():
        return np.ones((height, width), np.float32)
    return ((out - out.min()) / (out.max() - out.min())).astype(np.float32)


def full_image(height: int = 224, width: int = 224) -> np.ndarray:
    """A map of ones, whose box is the whole image at every threshold.

    Returns:
        (height, width) float32.

    Raises:
        InputError: a side below 1.
        TypeError: not integers.
    """
    check_integer(height, "height")
    check_integer(width, "width")
    return np.ones((height, width), np.float32)


def _gaussian(height: int, width: int, sigma: float) -> np.ndarray:
    """(height, width) float64 Gaussian with its maximum, at most 1, in the centre."""
    y = (np.arange(height) - (height - 1) / 2) / (sigma * height)
    x = (np.arange(width) - (width - 1) / 2) / (sigma * width)
    return np.exp(-0.5 * (y[:, None] ** 2 + x[None] ** 2))


def with_centre_prior(maps: Tensor, exponent: float = 0.25, sigma: float = 0.25) -> Tensor:
    """Maps scaled to [0, 1], times a power of a centred Gaussian: objects are rarely at the border.

    The prior describes how images are taken, not the image; its gain has to be reported separately from the
    gain of a map.

    Args:
        maps: (B, h, w), any float dtype.
        exponent: power of the Gaussian; 0 returns the scaled maps.
        sigma: standard deviation of the Gaussian as a fraction of each side. Unlike the baseline, the
            Gaussian is not rescaled to 0 in the corners.

    Returns:
        (B, h, w) float32 in [0, 1] on the device of the maps; constant maps become the prior itself.
    """
    import torch

    values = maps.float()
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    scaled = torch.where(high > low, (values - low) / torch.where(high > low, high - low, 1), 1)
    prior = torch.from_numpy(_gaussian(maps.shape[1], maps.shape[2], sigma) ** exponent)
    return scaled * prior.float().to(values.device)


CENTRE = "centre-gaussian"
BASELINES = {CENTRE: centre_gaussian, "full-image": full_image}
"""The baselines in every table: name → function of (height, width)."""
