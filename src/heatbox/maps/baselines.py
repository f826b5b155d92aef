"""Maps that know nothing about the image: what any method must beat."""

from __future__ import annotations

import numpy as np


def centre_gaussian(height: int = 224, width: int = 224, sigma: float = 0.25) -> np.ndarray:
    """A Gaussian in the middle of the image, scaled to [0, 1].

    Args:
        height: of the map in pixels.
        width: of the map in pixels.
        sigma: standard deviation as a share of each side.

    Returns:
        (height, width) float32, 0 in the corners and 1 in the middle; all 1 where it has one pixel.
    """
    y = (np.arange(height) - (height - 1) / 2) / (sigma * height)
    x = (np.arange(width) - (width - 1) / 2) / (sigma * width)
    out = np.exp(-0.5 * (y[:, None] ** 2 + x[None] ** 2))
    if out.max() == out.min():
        return np.ones((height, width), np.float32)
    return ((out - out.min()) / (out.max() - out.min())).astype(np.float32)


def full_image(height: int = 224, width: int = 224) -> np.ndarray:
    """A map of ones, whose box is the whole image at every threshold.

    Returns:
        (height, width) float32.
    """
    return np.ones((height, width), np.float32)


CENTRE = "centre-gaussian"
BASELINES = {CENTRE: centre_gaussian, "full-image": full_image}
"""What every table is compared with: name → function of (height, width)."""
