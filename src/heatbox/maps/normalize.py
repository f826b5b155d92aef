"""Raw maps of any resolution → heatmaps for scoring."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from heatbox._utils.checks import check_integer, kind_of
from heatbox.errors import InputError


def normalize_heatmap(maps: Any, size: int | tuple[int, int] = 224) -> np.ndarray:
    """Resize with cubic interpolation, then scale each map to [0, 1] by its own extremes.

    The order of the steps, the interpolation (OpenCV's cubic) and the result for constant maps are those of
    the reference evaluator.

    Args:
        maps: (H, W) or (N, H, W), any numeric type, an array or a tensor on any device.
        size: side of the square result, or its (height, width).

    Returns:
        The same number of dimensions, float32 in [0, 1]; float64 for float64 input. A map that contains NaN
        or infinity, or is constant, becomes zeros.

    Raises:
        InputError: maps of another shape, an empty map, or a side below 1.
        TypeError: not real numbers, or a size that is neither an integer nor two.

    Examples:
        >>> normalize_heatmap(np.array([[0.0, 2.0], [4.0, 8.0]]), 2)
        array([[0.  , 0.25],
               [0.5 , 1.  ]])
    """
    array = maps.detach().cpu().float().numpy() if hasattr(maps, "detach") else np.asarray(maps)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"maps: {kind_of(maps)}, expected real numbers (H, W) or (N, H, W)")
    if array.ndim not in (2, 3) or 0 in array.shape[-2:]:
        raise InputError(f"maps have shape {array.shape}, expected (H, W) or (N, H, W), neither side 0")
    array = array.astype(np.float64 if array.dtype == np.float64 else np.float32, copy=False)
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2:
        raise InputError(f"size is {size}, expected a side, or (height, width)")
    for side in sides:
        check_integer(side, "size")
    height, width = map(int, sides)
    batch = array[None] if array.ndim == 2 else array
    out = np.zeros((len(batch), height, width), array.dtype)
    for one, target in zip(batch, out, strict=True):
        resized = cv2.resize(np.ascontiguousarray(one), (width, height), interpolation=cv2.INTER_CUBIC)
        low, high = resized.min(), resized.max()
        if np.isfinite(low) and np.isfinite(high) and high > low:
            target[:] = (resized - low) / (high - low)
    return out[0] if array.ndim == 2 else out
