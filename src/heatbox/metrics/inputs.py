"""Heatmaps as people hold them → arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from heatbox._utils.checks import as_array, check_length
from heatbox.errors import InputError


def as_maps(heatmaps: Any) -> np.ndarray | Sequence[np.ndarray]:
    """N heatmaps as an (N, H, W) array, or as a list of N arrays where that is what is given.

    Raises:
        InputError: a single map or something else with other than three dimensions.
    """
    check_length(heatmaps, "heatmaps", "(N, H, W) or N maps")
    if isinstance(heatmaps, (list, tuple)):
        return [as_array(one) for one in heatmaps]
    maps = as_array(heatmaps)
    if maps.ndim != 3:
        raise InputError(f"heatmaps have shape {maps.shape}, expected (N, H, W)")
    return maps
