"""Boxes of the contours of a heatmap at every threshold, without tracing contours.

The reference evaluator binarizes a heatmap at 1000 thresholds and traces contours each time. All these
binary images are cuts of one component tree, so a single pass over the pixels in order of value gives
every box and the range of levels at which it is valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from heatbox._utils.checks import as_numbers, check_choice, check_integer, check_number, kind_of
from heatbox.boxes._kernels import component_tree as kernels
from heatbox.boxes.ops import box_iou
from heatbox.errors import InputError

Contours = Literal["largest", "all"]
Protocol = Literal["reference", "exact"]


def check_heatmap(heatmap: np.ndarray, name: str = "heatmap") -> np.ndarray:
    """A heatmap as an (H, W) floating-point array in [0, 1].

    Raises:
        InputError: it is not two-dimensional, is empty, or has values that are NaN or outside [0, 1].
        TypeError: it is not an array of real numbers.
    """
    array = np.asarray(heatmap)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: {kind_of(heatmap)}, expected real numbers (H, W) in [0, 1]")
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{name}: has shape {array.shape}, expected a non-empty two-dimensional map")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):
        if np.isnan(low):
            raise InputError(f"{name}: contains {int(np.isnan(array).sum())} NaN, expected values in [0, 1]")
        raise InputError(f"{name}: values lie in [{low:g}, {high:g}], expected [0, 1]")
    return array


def threshold_grid(count: int) -> np.ndarray:
    """(count,) float64 thresholds 0, 1/count, 2/count, … below 1.

    Raises:
        InputError: `count` is not positive.
        TypeError: it is not an integer.
    """
    check_integer(count, "thresholds", None)
    if count < 1:
        raise InputError(f"thresholds is {count}, expected a positive number of thresholds")
    return np.arange(count) * (1 / count)


def check_thresholds(threshold: float | Sequence[float] | np.ndarray, name: str = "threshold") -> np.ndarray:
    """One or several thresholds as float64.

    Raises:
        InputError: a threshold outside [0, 1).
        TypeError: not numbers.
    """
    values = as_numbers(threshold, name, "numbers in [0, 1)")
    if not ((values >= 0) & (values < 1)).all():
        raise InputError(f"{name} is {threshold}, expected values in [0, 1)")
    return values


def check_threshold(threshold: float) -> float:
    """One threshold, as given; raises as `check_thresholds`."""
    check_number(threshold, "threshold", "a number in [0, 1)")
    check_thresholds(threshold)
    return threshold


def check_options(contours: Contours, protocol: Protocol) -> None:
    """Raise an InputError unless both are known."""
    check_choice(contours, "contours", get_args(Contours))
    check_choice(protocol, "protocol", get_args(Protocol))


def threshold_index(threshold: float | Sequence[float] | np.ndarray, count: int) -> np.ndarray:
    """Index in `threshold_grid(count)` of each threshold, or of the nearest one of the grid below it.

    A threshold within 1e-9 grid steps below one of the grid counts as that one: 0.57 is the 570th of 1000,
    although the grid contains 570 * 0.001 = 0.5700000000000001.

    Raises:
        InputError: a threshold outside [0, 1).
        TypeError: not numbers.
    """
    index = np.floor(check_thresholds(threshold) * count + 1e-9).astype(np.int64)
    return np.minimum(index, count - 1)


@dataclass(frozen=True)
class Levels:
    """A heatmap as integer levels 0..top; the foreground at level t is the pixels above t.

    Attributes:
        padded: (H + 2, W + 2) int32, the levels inside a frame of zeros.
        top: the largest level; 0 if no pixel is foreground at any level.
        values: (top + 1,) float64, the heatmap value of each level divided by the largest one, values[0] = 0
            (exact protocol), or None if the levels are the 8-bit values themselves (reference protocol).
    """

    padded: np.ndarray
    top: int
    values: np.ndarray | None

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the heatmap."""
        return self.padded.shape[0] - 2, self.padded.shape[1] - 2

    def at(self, thresholds: np.ndarray) -> np.ndarray:
        """The level at which each threshold in [0, 1) cuts, int64."""
        if self.values is None:
            return (thresholds * self.top).astype(np.int64)
        return np.searchsorted(self.values, thresholds, side="right") - 1


def to_levels(heatmap: np.ndarray, protocol: Protocol) -> Levels:
    """Quantize a checked heatmap: 8 bits for `reference`, one level per distinct value for `exact`."""
    height, width = heatmap.shape
    padded = np.zeros((height + 2, width + 2), np.int32)
    if protocol == "reference":
        padded[1:-1, 1:-1] = (heatmap.astype(np.float64) * 255).astype(np.uint8)
        return Levels(padded, int(padded.max()), None)
    largest = float(heatmap.max())
    if largest == 0:
        return Levels(padded, 0, np.zeros(1))
    relative = heatmap.astype(np.float64) / largest
    distinct, ranks = np.unique(relative, return_inverse=True)
    has_zero = distinct[0] == 0
    padded[1:-1, 1:-1] = ranks.reshape(height, width) + (0 if has_zero else 1)
    values = distinct if has_zero else np.concatenate([[0.0], distinct])
    return Levels(padded, len(values) - 1, values)


def largest_contours(levels: Levels) -> np.ndarray:
    """Inclusive pixel box of the largest contour at every level.

    Returns:
        (top, 4) int32 xyxy, both ends inside the contour.
    """
    boxes = np.empty((levels.top, 4), np.int32)
    if levels.top:
        filled = kernels.fill_holes(levels.padded, levels.top)
        order, start = kernels.sort_pixels(filled, levels.top)
        kernels.largest_boxes(filled, order, start, levels.top, boxes)
    return boxes


def all_contours(levels: Levels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inclusive pixel boxes of all contours, outer ones and those of holes, at all levels.

    Returns:
        (N, 4) int32 xyxy, and the first and last level at which each box is valid, both (N,) int32. The box
        of a hole is that of its contour: the hole grown by the pixel of foreground around it.
    """
    height, width = levels.shape
    if not levels.top:
        return np.empty((0, 4), np.int32), np.empty(0, np.int32), np.empty(0, np.int32)
    # A pixel that joins sets writes at most one row for each of them, and one set fewer remains.
    table = np.empty((4 * height * width + 8, 7), np.int32)
    order, start = kernels.sort_pixels(levels.padded, levels.top)
    count = kernels.component_rows(levels.padded, order, start, levels.top, table)
    count = kernels.hole_rows(levels.padded, order, start, levels.top, table, count)
    rows = table[:count]
    boxes = rows[:, :4] + rows[:, 6:] * np.array([-1, -1, 1, 1], np.int32)
    return boxes, rows[:, 4].copy(), rows[:, 5].copy()


def to_convention(boxes: np.ndarray, shape: tuple[int, int], protocol: Protocol) -> np.ndarray:
    """Inclusive pixel boxes in the convention of a protocol.

    `reference` adds the width to x and clamps to the last pixel, (x, y, min(x + w, W - 1), …), to be
    compared with areas that add one more. `exact` is half-open: (x, y, x + w, y + h).
    """
    ends = boxes[:, 2:] + 1
    if protocol == "reference":
        ends = np.minimum(ends, [shape[1] - 1, shape[0] - 1])
    return np.concatenate([boxes[:, :2], ends], axis=1).astype(np.int64)


def heatmap_to_boxes(
    heatmap: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    contours: Contours = "largest",
    protocol: Protocol = "reference",
) -> list[np.ndarray]:
    """Boxes of one heatmap at each threshold.

    Args:
        heatmap: (H, W) floating point in [0, 1].
        thresholds: values in [0, 1), relative to the map's maximum.
        contours: the largest contour's box, or those of all contours including holes.
        protocol: `reference` boxes are (x, y, min(x + w, W - 1), min(y + h, H - 1)); `exact` boxes are
            half-open, (x, y, x + w, y + h), from the map without quantization.

    Returns:
        One (K, 4) int64 xyxy array per threshold, in heatmap pixels. If no pixel is foreground it is the box
        (0, 0, 0, 0), as in the reference evaluator.

    Raises:
        InputError: the heatmap is malformed, a threshold lies outside [0, 1), or an unknown `contours` or
            `protocol`.
        TypeError: arrays that are not of real numbers.

    Examples:
        >>> heatmap = np.zeros((8, 8))
        >>> heatmap[2:5, 3:7] = 1.0
        >>> heatmap_to_boxes(heatmap, [0.5], protocol="exact")[0].tolist()  # x1, y1, x2, y2
        [[3, 2, 7, 5]]
    """
    cuts = check_thresholds(thresholds, "thresholds").reshape(-1)
    check_options(contours, protocol)
    levels = to_levels(check_heatmap(heatmap), protocol)
    if levels.top == 0:
        return [np.zeros((1, 4), np.int64) for _ in cuts]
    return boxes_at_levels(levels, levels.at(cuts), contours, protocol)


def boxes_at_levels(
    levels: Levels, at: np.ndarray, contours: Contours, convention: Protocol
) -> list[np.ndarray]:
    """(K, 4) int64 boxes at each of some levels, in the convention of a protocol; none where top is 0."""
    if contours == "largest":
        boxes = to_convention(largest_contours(levels), levels.shape, convention)
        return [boxes[level : level + 1] for level in at]
    found, first, last = all_contours(levels)
    boxes = to_convention(found, levels.shape, convention)
    return [boxes[(first <= level) & (level <= last)] for level in at]


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
    if levels.top == 0 or contours == "largest":
        boxes = to_convention(largest_contours(levels), levels.shape, protocol)
        boxes = boxes if levels.top else np.zeros((1, 4), np.int64)  # no pixel is foreground: (0, 0, 0, 0)
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
