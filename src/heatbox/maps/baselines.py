"""Maps that have not looked at the image: what every score has to be compared with."""

from __future__ import annotations

import numpy as np

from heatbox.errors import InputError


def centre_gaussian(height: int, width: int, sigma: float = 0.25) -> np.ndarray:
    """A Gaussian on the centre of the image.

    Args:
        height, width: of the map in pixels.
        sigma: standard deviation as a share of each side.

    Returns:
        (height, width) float32, maximum 1 (at the centre, or nearly, for even sides).
    """
    if height < 1 or width < 1 or sigma <= 0:
        raise InputError(f"a {height} x {width} Gaussian of sigma {sigma} does not exist")
    rows, columns = (np.arange(side) - (side - 1) / 2 for side in (height, width))
    bell = np.outer(
        np.exp(-(rows**2) / (2 * (sigma * height) ** 2)), np.exp(-(columns**2) / (2 * (sigma * width) ** 2))
    )
    return (bell / bell.max()).astype(np.float32)


def full_image(height: int, width: int) -> np.ndarray:
    """A map whose box is the whole image at every threshold: (height, width) float32 ones."""
    if height < 1 or width < 1:
        raise InputError(f"a {height} x {width} map does not exist")
    return np.ones((height, width), dtype=np.float32)
