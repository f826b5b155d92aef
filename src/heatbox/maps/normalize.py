"""Raw maps of any resolution → heatmaps for scoring.

Kim et al., "Normalization Matters in Weakly Supervised Object Localization", ICCV 2021, compare four ways of
bringing the values x of a resized map to [0, 1], as they are written here after the code of its derivatives:

- *min-max*, of the reference evaluator: (x - min) / (max - min).
- *max*: the positive values, max(x, 0) / max.
- *percentile* ("PaS", after Bae et al., "Rethinking Class Activation Mapping", ECCV 2020): y = x - min,
  divided by the value of y at the percentile, .9, and cut off at 1.
- *ivr* (intensity value range, theirs): y = max(x - the value of x at a percentile, 0), divided by its
  maximum. The percentile is a hyperparameter, chosen for a data set and a network; .4 is the default here.

The value at percentile p of n pixels is the one with index int(p n) in ascending order.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from heatbox._utils.checks import check_integer, kind_of
from heatbox.errors import InputError

NORMALIZATIONS: dict[str, float | None] = {"min-max": None, "max": None, "percentile": 0.9, "ivr": 0.4}
"""Name → its percentile; "percentile:P" and "ivr:P" are the same with another one."""


def check_normalization(name: str) -> tuple[str, float]:
    """The name of a normalization and its percentile, 0 where it has none.

    Raises:
        InputError: an unknown name, or a percentile outside [0, 1).
    """
    base, _, given = str(name).partition(":")
    known = NORMALIZATIONS.get(base)
    try:
        percentile = float(given) if given else known or 0.0
    except ValueError:
        percentile = -1.0
    if base not in NORMALIZATIONS or (given and known is None) or not 0 <= percentile < 1:
        raise InputError(
            f"the normalization is {name!r}, expected min-max, max, percentile, ivr, or one of the last two "
            "with a fraction in [0, 1), such as ivr:0.4"
        )
    return base, percentile


def _scaled(resized: np.ndarray, how: str, percentile: float) -> np.ndarray | float:
    """A finite map that is not constant, in [0, 1]; 0 where nothing is left of it."""
    low, high = resized.min(), resized.max()
    if how == "min-max":
        return np.asarray((resized - low) / (high - low))
    if how == "max":
        return np.maximum(resized, 0) / high if high > 0 else 0.0
    place = int(percentile * resized.size)
    at = np.partition(resized, place, axis=None)[place]
    if how == "percentile":
        return (
            np.minimum((resized - low) / (at - low), 1) if at > low else (resized > low).astype(resized.dtype)
        )
    return np.maximum(resized - at, 0) / (high - at) if high > at else 0.0


def normalize_heatmap(maps: Any, size: int | tuple[int, int] = 224, normalize: str = "min-max") -> np.ndarray:
    """Resize with cubic interpolation, then scale each map to [0, 1] by its own values.

    The order of the steps, the interpolation (OpenCV's cubic) and the result for constant maps are those of
    the reference evaluator.

    Args:
        maps: (H, W) or (N, H, W), any numeric type, an array or a tensor on any device.
        size: side of the square result, or its (height, width).
        normalize: "min-max", "max", "percentile", "ivr", or "percentile:P" or "ivr:P" with another
            percentile.

    Returns:
        The same number of dimensions, float32 in [0, 1]; float64 for float64 input. A map that contains NaN
        or infinity, or is constant, becomes zeros.

    Raises:
        InputError: maps of another shape, an empty map, or a side below 1, or an unknown normalization.
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
    how, percentile = check_normalization(normalize)
    batch = array[None] if array.ndim == 2 else array
    out = np.zeros((len(batch), height, width), array.dtype)
    for one, target in zip(batch, out, strict=True):
        resized = cv2.resize(np.ascontiguousarray(one), (width, height), interpolation=cv2.INTER_CUBIC)
        low, high = resized.min(), resized.max()
        if np.isfinite(low) and np.isfinite(high) and high > low:
            target[:] = _scaled(resized, how, percentile)
    return out[0] if array.ndim == 2 else out
