"""Heatmaps as people hold them → arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from heatbox.errors import InputError


def as_array(value: Any) -> np.ndarray:
    """An array of an array or of a tensor on any device (bfloat16 becomes float32)."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
        return value.numpy()
    return np.asarray(value)


def as_maps(heatmaps: Any) -> np.ndarray | Sequence[np.ndarray]:
    """N heatmaps as an (N, H, W) array, or as a list of N arrays where that is what is given.

    Raises:
        InputError: a single map or something else with other than three dimensions.
    """
    if isinstance(heatmaps, (list, tuple)):
        return [as_array(one) for one in heatmaps]
    maps = as_array(heatmaps)
    if maps.ndim != 3:
        raise InputError(f"heatmaps have shape {maps.shape}, expected (N, H, W)")
    return maps
