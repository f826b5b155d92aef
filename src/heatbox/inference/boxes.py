"""From one map to boxes in pixels of its image: the function behind every box that a command saves or draws.

It needs no deep learning library, so that saved maps are exported and drawn without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from heatbox._utils.checks import as_array
from heatbox.boxes.contours import (
    Contours,
    Protocol,
    boxes_at_levels,
    check_options,
    check_threshold,
    to_levels,
)
from heatbox.boxes.ops import REFERENCE_FRAME, REFERENCE_SIDE, scale_boxes
from heatbox.errors import InputError
from heatbox.maps.normalize import normalize_heatmap

MEAN_OF = np.arange(7, 15) / 20
"""Thresholds .35, .4, …, .7 of the mean box. With walks on photographs it is as good as the best single
threshold, without choosing one; CAM of many networks is too low there (docs/thresholds.md)."""

_CUBIC = -0.75  # OpenCV's


def place_map(
    raw_map: Any, extent: Sequence[float], size: tuple[int, int] = (REFERENCE_SIDE, REFERENCE_SIDE)
) -> np.ndarray:
    """A map of a part of an image → a map of the whole image, as low as its minimum outside the part.

    A pixel of the result has the value that the map, resized by OpenCV's cubic interpolation, has at the
    centre of that pixel; no edge is rounded.

    Args:
        raw_map: (h, w) array or tensor.
        extent: (x1, y1, x2, y2) of the part as fractions of the image.
        size: (height, width) of the result.

    Returns:
        (height, width) float32. A map that is not finite everywhere is not finite in the part.
    """
    values = as_array(raw_map).astype(np.float32)
    (rows, inside_y), (columns, inside_x) = (
        _resampling(length, start, end, side)
        for length, start, end, side in zip(values.shape, extent[1::-1], extent[:1:-1], size, strict=True)
    )
    inside = np.outer(inside_y, inside_x)
    if not np.isfinite(values).all():
        return np.where(inside, np.float32(np.nan), np.float32(0))
    placed = rows @ values @ columns.T
    if not inside.any():
        return np.zeros(size, np.float32)
    return np.where(inside, placed, placed[inside].min()).astype(np.float32)


def _resampling(length: int, start: float, end: float, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Cubic weights (side, length) for values that cover [start, end] of an axis; which pixels lie in it."""
    centres = (np.arange(side) + 0.5) / side
    at = (centres - start) / (end - start) * length - 0.5  # position among the values
    first = np.floor(at)
    weights = np.zeros((side, length))
    for step in (-1, 0, 1, 2):
        distance = np.abs(at - first - step)
        a = _CUBIC
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        index = np.clip(first + step, 0, length - 1).astype(int)
        np.add.at(weights, (np.arange(side), index), np.where(distance <= 1, near, far))
    return weights, (centres >= start) & (centres < end)


def frame_boxes(
    raw_map: Any,
    threshold: float,
    contours: Contours = "largest",
    protocol: Protocol = "reference",
    normalize: str = "min-max",
) -> np.ndarray:
    """Boxes of one map in the 224 x 224 frame in which maps are scored.

    Args:
        raw_map: (h, w), as a map method returns it.
        threshold: fraction of the map's maximum in [0, 1).
        contours: "largest" for the box of the largest contour, "all" for one box per contour.
        protocol: how the map is binarized, "reference" (8-bit levels) or "exact" (float).
        normalize: how the map is brought to [0, 1], see `normalize_heatmap`.

    Returns:
        (K, 4) int64 xyxy, half-open; (0, 4) where no pixel is above the threshold.
    """
    levels = to_levels(normalize_heatmap(raw_map, REFERENCE_SIDE, normalize), protocol)
    return boxes_at_levels(levels, levels.at(np.array([threshold])), contours, "exact")[0]


def check_box_options(threshold: float | Literal["mean"], contours: Contours, protocol: Protocol) -> None:
    """Raise unless `map_to_boxes` takes these options; InputError and TypeError as there."""
    check_options(contours, protocol)
    if threshold != "mean":
        check_threshold(threshold)
    elif contours != "largest":
        raise InputError(f'threshold is "mean", which is of largest contours, but contours is {contours!r}')


def map_to_boxes(
    raw_map: Any,
    image_size: Sequence[float],
    threshold: float | Literal["mean"],
    contours: Contours = "largest",
    protocol: Protocol = "reference",
    normalize: str = "min-max",
) -> np.ndarray:
    """Boxes of one map in pixels of its image.

    Every command takes its boxes from this function. The map is resized to 224 x 224 and binarized as it is
    scored; the boxes found there are scaled to the image. A box that reaches the border of the frame ends at
    the border of the image.

    Args:
        raw_map: (h, w) array or tensor of any range, as a map method returns it.
        image_size: (width, height) of the image in pixels.
        threshold: fraction of the map's maximum in [0, 1); pixels above it belong to the object. "mean" is
            the mean of the boxes at `MEAN_OF`, for random walks whose threshold is not known.
        contours: "largest" for the box of the largest contour, "all" for one box per contour, those of
            holes included.
        protocol: "reference" binarizes 8-bit levels as the reference evaluator does, "exact" the float map.
        normalize: how the map is brought to [0, 1], see `normalize_heatmap`.

    Returns:
        (K, 4) float64 xyxy in pixels of the image, half-open: x2 and y2 are past the last pixel. A constant
        map, or one with NaN or infinity, has no box: (0, 4).

    Raises:
        InputError: the map has another shape, the threshold lies outside [0, 1), an unknown `contours` or
            `protocol`, or all contours with the threshold "mean".
        TypeError: no array of real numbers.

    Examples:
        >>> heatmap = np.zeros((224, 224))
        >>> heatmap[56:112, 0:28] = 1.0
        >>> map_to_boxes(heatmap, (448, 448), 0.5).tolist()  # x1, y1, x2, y2
        [[0.0, 112.0, 56.0, 224.0]]
    """
    check_box_options(threshold, contours, protocol)
    if threshold == "mean":
        levels = to_levels(normalize_heatmap(raw_map, REFERENCE_SIDE, normalize), protocol)
        found = boxes_at_levels(levels, levels.at(MEAN_OF), "largest", "exact")
        boxes = np.mean(np.stack(found), axis=0)
    else:
        boxes = frame_boxes(raw_map, threshold, contours, protocol, normalize)
    return scale_boxes(boxes, REFERENCE_FRAME, image_size, truncate=False)
