"""Best IoU of a heatmap's boxes with its ground truth at every level: the general road, one map at a time."""

from __future__ import annotations

import numpy as np

from heatbox.boxes.contours import (
    Contours,
    Levels,
    Protocol,
    all_contours,
    largest_contours,
    to_convention,
)
from heatbox.boxes.ops import box_iou


def level_ious(levels: Levels, truth: np.ndarray, contours: Contours, protocol: Protocol) -> np.ndarray:
    """Best IoU of a heatmap's boxes with any ground-truth box, at every level.

    Args:
        levels: the heatmap, H x W, as levels 0..top.
        truth: (K, 4) ground truth in the frame in which boxes are compared.
        contours: the largest contour or all of them.
        protocol: `reference` boxes include their last pixel, `exact` ones are half-open.

    Returns:
        (max(top, 1),) float64.
    """
    inclusive = protocol == "reference"
    if levels.top == 0:  # nothing is ever foreground: the box (0, 0, 0, 0)
        return box_iou(np.zeros((1, 4), np.int64), truth, inclusive).max(1)
    if contours == "largest":
        boxes = to_convention(largest_contours(levels), levels.shape, protocol)
        return box_iou(boxes, truth, inclusive).max(1)
    found, first, last = all_contours(levels)
    boxes = to_convention(found, levels.shape, protocol)
    return _range_maximum(box_iou(boxes, truth, inclusive).max(1), first, last, levels.top)


def _range_maximum(values: np.ndarray, first: np.ndarray, last: np.ndarray, size: int) -> np.ndarray:
    """Largest of the values whose range first..last covers each position, (size,) float64.

    Each range is the union of two of length 2**k; those are filled in coarse to fine.
    """
    power = np.floor(np.log2(last - first + 1)).astype(np.int64)
    table = np.zeros((int(power.max(initial=0)) + 1, size))
    np.maximum.at(table, (power, first), values)
    np.maximum.at(table, (power, last - (1 << power) + 1), values)
    for k in range(len(table) - 1, 0, -1):
        half = 1 << (k - 1)
        np.maximum(table[k - 1], table[k], out=table[k - 1])
        np.maximum(table[k - 1, half:], table[k, :-half], out=table[k - 1, half:])
    return table[0]
