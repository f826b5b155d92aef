"""Box operations: ground truth in the frame of a heatmap, and intersection over union.

There are two conventions. *Inclusive* boxes (the reference evaluator's) contain their last pixel, so widths
and heights gain one in every area. *Half-open* boxes end where the next pixel begins and need no such
correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from heatbox._utils.checks import as_numbers
from heatbox.errors import InputError

REFERENCE_SIDE = 224
"""Side in pixels of the square frame in which the reference evaluator compares boxes."""

REFERENCE_FRAME = (REFERENCE_SIDE, REFERENCE_SIDE)
"""Its (width, height)."""


def check_boxes(boxes: np.ndarray, image_size: Sequence[float], name: str = "image") -> np.ndarray:
    """Ground-truth boxes of one image as a (K, 4) float64 array, K >= 1.

    Args:
        boxes: (K, 4) or (4,) xyxy in pixels of the original image, of any real type.
        image_size: (width, height) of the original image in pixels.
        name: the image's name in error messages.

    Raises:
        InputError: the array has another shape, no row, NaN, a negative coordinate, x1 < x0 or y1 < y0,
            or the image size is not two positive numbers.
        TypeError: values that are not numbers.
    """
    array = np.atleast_2d(as_numbers(boxes, f"{name}: boxes", "numbers (K, 4), xyxy"))
    size = as_numbers(image_size, f"{name}: image size", "(width, height)")
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
    image_size: Sequence[float] | np.ndarray,
    frame: Sequence[float],
    truncate: bool = True,
) -> np.ndarray:
    """Scale boxes of an image to another frame: coordinate * frame side / image side.

    Args:
        boxes: (K, 4) xyxy in pixels of the original image.
        image_size: (width, height) of the original image, or one row (K, 2) for each box.
        frame: (width, height) of the other frame.
        truncate: truncate to integers, as the reference evaluator does.

    Returns:
        (K, 4) int64 when truncating, else float64.
    """
    # Multiply first: dividing first would round differently and move some boxes by a pixel.
    sides = np.asarray(image_size, dtype=np.float64)
    scaled = boxes * np.tile(np.asarray(frame, dtype=np.float64), 2) / np.concatenate([sides, sides], axis=-1)
    return scaled.astype(np.int64) if truncate else scaled


def box_iou(boxes: np.ndarray, others: np.ndarray, inclusive: bool) -> np.ndarray:
    """Intersection over union of every pair.

    Args:
        boxes: (N, 4) xyxy.
        others: (K, 4) xyxy.
        inclusive: boxes include their last column and row (+1 on widths and heights).

    Returns:
        (N, K) float64 in [0, 1]; 0 if the union has no area.
    """
    one = 1 if inclusive else 0
    a, b = boxes[:, None], others[None]
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + one, 0)
    shared = sides[..., 0] * sides[..., 1]
    area_a = (boxes[:, 2] - boxes[:, 0] + one) * (boxes[:, 3] - boxes[:, 1] + one)
    area_b = (others[:, 2] - others[:, 0] + one) * (others[:, 3] - others[:, 1] + one)
    union = area_a[:, None] + area_b[None] - shared
    return np.divide(shared, union, out=np.zeros(union.shape), where=union > 0)


def scaled_truth(
    boxes: np.ndarray,
    image_size: Sequence[float],
    shape: tuple[int, int],
    protocol: str,
    name: str = "image",
) -> np.ndarray:
    """Ground truth of one image in the frame in which a protocol compares boxes.

    Args:
        boxes: (K, 4) xyxy in pixels of the original image.
        image_size: (width, height) of the original image.
        shape: (height, width) of the heatmap, the frame of the exact protocol.
        protocol: `reference` (integers in the 224 x 224 frame) or `exact` (float, in the map's frame).
        name: the image's name in error messages.

    Returns:
        (K, 4) int64 or float64.

    Raises:
        InputError: boxes or size are malformed.
    """
    checked = check_boxes(boxes, image_size, name)
    if protocol == "reference":
        return scale_boxes(checked, image_size, REFERENCE_FRAME)
    return scale_boxes(checked, image_size, (shape[1], shape[0]), truncate=False)


def stack_boxes(
    boxes: Sequence[Any], image_sizes: Sequence[Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ground truth of a batch of images, checked in one operation.

    Args:
        boxes: for each image its (K, 4) xyxy boxes in original pixels.
        image_sizes: for each image its original (width, height).

    Returns:
        (sum of K, 4) float64 boxes; (N, 2) float64 sizes; and (N + 1,) the index of each image's first box.

    Raises:
        InputError: as `check_boxes`, with the index of the image.
    """
    try:
        arrays = [np.asarray(b, dtype=np.float64).reshape(-1, 4) for b in boxes]
        sizes = np.asarray(image_sizes, dtype=np.float64).reshape(len(arrays), 2)
        counts = np.array([len(a) for a in arrays], dtype=np.int64)
        stacked = np.concatenate(arrays)
        good = bool(
            (counts > 0).all()
            and (np.isfinite(sizes) & (sizes > 0)).all()
            and (np.isfinite(stacked) & (stacked >= 0)).all()
            and (stacked[:, 2:] >= stacked[:, :2]).all()
            and all(np.ndim(b) == 2 and np.shape(b)[1] == 4 for b in boxes)
        )
    except (ValueError, TypeError):
        good = False
    if not good:  # find the malformed image and raise the error that describes it
        pairs = enumerate(zip(boxes, image_sizes, strict=True))
        arrays = [check_boxes(one, size, f"image {i}") for i, (one, size) in pairs]
        counts, stacked = np.array([len(a) for a in arrays]), np.concatenate(arrays)
        sizes = np.array([tuple(s) for s in image_sizes], dtype=np.float64)
    return stacked, sizes, np.concatenate([[0], np.cumsum(counts)])


def stack_truth(boxes: Sequence[Any], image_sizes: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """`stack_boxes` in the reference frame: (sum of K, 4) float64 boxes with integer values, (N + 1,) starts.

    Raises:
        InputError: as `check_boxes`, with the index of the image.
    """
    stacked, sizes, starts = stack_boxes(boxes, image_sizes)
    scaled = scale_boxes(stacked, np.repeat(sizes, np.diff(starts), axis=0), REFERENCE_FRAME)
    return scaled.astype(np.float64), starts


def covered_pixels(boxes: np.ndarray, image_sizes: np.ndarray, frame: Sequence[int]) -> np.ndarray:
    """Pixels of a frame whose centre lies in each box, as half-open ranges.

    A side that no centre lies in has the pixel at its middle.

    Args:
        boxes: (K, 4) xyxy in pixels of the original image.
        image_sizes: (K, 2) its (width, height).
        frame: (width, height) of the frame.

    Returns:
        (K, 4) int64 xyxy, half-open, within the frame.
    """
    scaled = scale_boxes(boxes, image_sizes, frame, truncate=False)
    sides = np.asarray(frame, dtype=np.int64)
    low, high = (np.ceil(scaled[:, k : k + 2] - 0.5).clip(0, sides).astype(np.int64) for k in (0, 2))
    centre = ((scaled[:, :2] + scaled[:, 2:]) // 2).clip(0, sides - 1).astype(np.int64)
    empty = high <= low
    low, high = np.where(empty, centre, low), np.where(empty, centre + 1, high)
    return np.concatenate([low, high], axis=1)
