"""Boxes on the pixel grid: ground truth in the frame of a heatmap, and intersection over union.

Two conventions live here side by side. *Inclusive* boxes (the reference evaluator's) name their last
pixel, so widths and heights gain one in every area. *Half-open* boxes end where the next pixel begins
and need no such correction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heatbox.errors import InputError

REFERENCE_SIDE = 224
"""Side in pixels of the square frame in which the reference evaluator compares boxes."""


def check_boxes(boxes: np.ndarray, image_size: Sequence[float], name: str = "image") -> np.ndarray:
    """Ground-truth boxes of one image as a (K, 4) float64 array, K >= 1.

    Args:
        boxes: (K, 4) or (4,) xyxy in pixels of the original image, as numbers of any kind.
        image_size: (width, height) of the original image in pixels.
        name: what messages call this image.

    Raises:
        InputError: the array has another shape, no row, NaN, a negative coordinate, x1 < x0 or y1 < y0,
            or the image size is not two positive numbers.
    """
    array = np.atleast_2d(np.asarray(boxes, dtype=np.float64))
    size = np.asarray(image_size, dtype=np.float64)
    if size.shape != (2,) or not (np.isfinite(size).all() and (size > 0).all()):
        raise InputError(f"{name}: the image size is {image_size!r}, expected positive (width, height)")
    if array.ndim != 2 or array.shape[1] != 4 or array.shape[0] == 0:
        shape = np.shape(boxes)
        raise InputError(f"{name}: the boxes have shape {shape}, expected (K, 4) xyxy with K >= 1")
    bad = ~np.isfinite(array).all(1) | (array < 0).any(1) | (array[:, 2:] < array[:, :2]).any(1)
    if bad.any():
        row = array[int(np.argmax(bad))].tolist()
        raise InputError(f"{name}: box {row} is not 0 <= x0 <= x1 and 0 <= y0 <= y1 in pixels")
    return array


def scale_boxes(
    boxes: np.ndarray,
    image_size: Sequence[float],
    frame: Sequence[float],
    truncate: bool = True,
) -> np.ndarray:
    """Boxes of an image in another frame: coordinate * frame side / image side.

    Args:
        boxes: (K, 4) xyxy in pixels of the original image.
        image_size: (width, height) of the original image.
        frame: (width, height) of the frame to express them in.
        truncate: drop the fraction, as the reference evaluator does.

    Returns:
        (K, 4) int64 when truncating, else float64.
    """
    # The product comes first: dividing first would round differently and move some boxes by a pixel.
    scaled = boxes * np.tile(np.asarray(frame, dtype=np.float64), 2) / np.tile(image_size, 2)
    return scaled.astype(np.int64) if truncate else scaled


def box_iou(boxes: np.ndarray, others: np.ndarray, inclusive: bool) -> np.ndarray:
    """Intersection over union of every pair.

    Args:
        boxes: (N, 4) xyxy.
        others: (K, 4) xyxy.
        inclusive: count the last column and row as part of a box (+1 on widths and heights).

    Returns:
        (N, K) float64 in [0, 1]; 0 where the union has no area.
    """
    one = 1 if inclusive else 0
    a, b = boxes[:, None], others[None]
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + one, 0)
    shared = sides[..., 0] * sides[..., 1]
    area_a = (boxes[:, 2] - boxes[:, 0] + one) * (boxes[:, 3] - boxes[:, 1] + one)
    area_b = (others[:, 2] - others[:, 0] + one) * (others[:, 3] - others[:, 1] + one)
    union = area_a[:, None] + area_b[None] - shared
    return np.divide(shared, union, out=np.zeros(union.shape), where=union > 0)
