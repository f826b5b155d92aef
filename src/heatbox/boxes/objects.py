"""Several objects in one heatmap: components above a threshold, split at valleys, merged where nested.

The rules, in order. Sizes are fractions of the map, values fractions of its maximum.

1. The pixels above the threshold fall into 8-connected components.
2. Where a higher threshold separates a component into lobes of which at least two rise by `valley` above
   that threshold, they are objects of their own; each pixel of the component goes to the nearest lobe.
   Lobes are split again by the same rule.
3. Objects that are smaller than `min_area` of the map, or smaller than `min_share` of the largest object, or
   whose highest value is below `min_peak`, are dropped.
4. Of two boxes that overlap by an IoU above `max_iou`, or of which one lies in the other by more than
   `nested` of its area, the pixels are joined to one object.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np

from heatbox._utils.checks import check_number
from heatbox.boxes.contours import check_heatmap, check_threshold
from heatbox.boxes.ops import box_iou
from heatbox.errors import InputError


@dataclass(frozen=True)
class ObjectRules:
    """When parts of a map are objects of their own.

    Attributes:
        valley: height of a lobe above the threshold that separates it from others; 1 never splits.
        min_area: area of an object, as a fraction of the map.
        min_share: area of an object, as a fraction of the largest object of the map.
        min_peak: highest value in an object.
        max_iou: IoU above which two boxes are of one object.
        nested: fraction of a box in another one above which the two are of one object.

    Raises:
        InputError: a value outside [0, 1].
    """

    valley: float = 0.5
    min_area: float = 0.005
    min_share: float = 0.3
    min_peak: float = 0.8
    max_iou: float = 0.5
    nested: float = 0.8

    def __post_init__(self) -> None:
        """Refuse values that are no fractions."""
        for field in fields(self):
            value = getattr(self, field.name)
            check_number(value, field.name, "a fraction")
            if not 0 <= value <= 1:
                raise InputError(f"{field.name} is {value}, expected a fraction in [0, 1]")


_STEPS = 24
"""Thresholds at which a component is examined for lobes, between the first one and the maximum."""


def heatmap_objects(
    heatmap: np.ndarray, threshold: float, rules: ObjectRules | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The objects in a heatmap, that of the highest value first.

    Args:
        heatmap: (H, W) floating point in [0, 1].
        threshold: fraction of the map's maximum in [0, 1).
        rules: when parts of the map are objects of their own.

    Returns:
        boxes (K, 4) int64 xyxy, half-open, and masks (K, H, W) bool, in pixels of the map; K is 0 for a map
        of zeros.

    Raises:
        InputError: a malformed heatmap, or a threshold outside [0, 1).

    Examples:
        >>> heatmap = np.zeros((8, 12))
        >>> heatmap[2:5, 1:4], heatmap[2:5, 7:11] = 1.0, 0.9
        >>> heatmap_objects(heatmap, 0.5)[0].tolist()
        [[1, 2, 4, 5], [7, 2, 11, 5]]
    """
    values, rules = check_heatmap(heatmap), rules or ObjectRules()
    check_threshold(threshold)
    top = float(values.max())
    if top == 0:
        return np.zeros((0, 4), np.int64), np.zeros((0, *values.shape), bool)
    values = values / top
    masks = [
        lobe for part in _components(values > threshold) for lobe in _lobes(values, part, threshold, rules)
    ]
    areas = np.array([mask.sum() for mask in masks])
    least = max(rules.min_area * values.size, rules.min_share * areas.max())
    peaks = np.array([values[mask].max() for mask in masks])
    kept = [
        masks[i]
        for i in np.argsort(-peaks, kind="stable")
        if areas[i] >= least and peaks[i] >= rules.min_peak
    ]
    kept = kept or [masks[int(np.argmax(areas))]]  # the map has a maximum, however small its surroundings
    merged = _merged(kept, rules)
    return np.array([_box(mask) for mask in merged], np.int64).reshape(-1, 4), np.stack(merged)


def _components(mask: np.ndarray) -> list[np.ndarray]:
    """The 8-connected components of a mask (H, W) bool, in raster order of their first pixels."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return [labels == index for index in range(1, count)]


def _lobes(values: np.ndarray, part: np.ndarray, threshold: float, rules: ObjectRules) -> list[np.ndarray]:
    """The objects of one component: itself, or its parts that a higher threshold separates."""
    inside = np.where(part, values, 0)
    for level in np.linspace(threshold, 1, _STEPS, endpoint=False)[1:]:
        if inside.max() < level + rules.valley:
            break
        cores = [core for core in _components(inside > level) if inside[core].max() >= level + rules.valley]
        if len(cores) > 1:
            nearest = _nearest(cores)
            pieces = [part & (nearest == index) for index in range(len(cores))]
            return [lobe for piece in pieces for lobe in _lobes(values, piece, level, rules)]
    return [part]


def _nearest(cores: list[np.ndarray]) -> np.ndarray:
    """(H, W): the index of the core that is nearest to each pixel."""
    distances = [cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, 3) for core in cores]
    nearest: np.ndarray = np.argmin(distances, axis=0)
    return nearest


def _merged(masks: list[np.ndarray], rules: ObjectRules) -> list[np.ndarray]:
    """The masks, of which those with boxes that overlap or nest are joined until none do."""
    merged = list(masks)
    while len(merged) > 1:
        boxes = np.array([_box(mask) for mask in merged], np.float64)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        iou = box_iou(boxes, boxes, inclusive=False)
        shared = iou / (1 + iou) * (areas[:, None] + areas[None])
        same = np.triu((iou > rules.max_iou) | (shared / np.minimum(areas[:, None], areas) > rules.nested), 1)
        if not same.any():
            break
        first, second = np.unravel_index(int(np.argmax(same)), same.shape)
        merged[first] = merged[first] | merged.pop(int(second))
    return merged


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Half-open xyxy of the pixels of a mask."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
