"""MaxBoxAcc and MaxBoxAccV2: is there one threshold at which the boxes are right?

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020, and its extended
version. At each threshold tau an image counts as correct when a box of its heatmap meets a ground-truth
box with IoU >= delta; the score is the share of correct images at the *one* tau that is best for the whole
split. MaxBoxAcc takes the largest contour and delta .5; MaxBoxAccV2 takes every contour and averages
delta .3, .5 and .7, each at its own best tau.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from heatbox.boxes.component_tree import (
    Contours,
    Levels,
    Protocol,
    all_contours,
    check_heatmap,
    largest_contours,
    threshold_grid,
    to_convention,
    to_levels,
)
from heatbox.boxes.geometry import REFERENCE_SIDE, box_iou, check_boxes, scale_boxes
from heatbox.errors import InputError


@dataclass(frozen=True)
class BoxScore:
    """The outcome of box scoring over a split.

    Attributes:
        accuracy: percent, the mean of `per_iou`.
        per_iou: (I,) percent of images correct at each IoU's own best threshold.
        threshold: (I,) best tau of each IoU, the smallest of equals.
        correct: (I, T) int64, images correct at each IoU and threshold.
        thresholds: (T,) the thresholds tau.
        iou: (I,) the IoU demanded.
        images: number of images scored.
    """

    accuracy: float
    per_iou: np.ndarray
    threshold: np.ndarray
    correct: np.ndarray
    thresholds: np.ndarray
    iou: np.ndarray
    images: int


def level_ious(
    levels: Levels, ground_truth: np.ndarray, contours: Contours, protocol: Protocol
) -> np.ndarray:
    """Best IoU of a heatmap's boxes with any ground-truth box, at every level.

    Returns:
        (max(top, 1),) float64.
    """
    inclusive = protocol == "reference"
    if levels.top == 0:  # nothing is ever foreground: the box (0, 0, 0, 0)
        return box_iou(np.zeros((1, 4), np.int64), ground_truth, inclusive).max(1)
    if contours == "largest":
        boxes = to_convention(largest_contours(levels), levels.shape, protocol)
        return box_iou(boxes, ground_truth, inclusive).max(1)
    found, first, last = all_contours(levels)
    boxes = to_convention(found, levels.shape, protocol)
    return _range_maximum(box_iou(boxes, ground_truth, inclusive).max(1), first, last, levels.top)


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


def per_image_iou(
    heatmap: np.ndarray,
    boxes: np.ndarray,
    image_size: Sequence[float],
    contours: Contours = "largest",
    protocol: Protocol = "reference",
    thresholds: int | np.ndarray = 1000,
    name: str = "heatmap",
) -> np.ndarray:
    """Best IoU with any ground-truth box at each threshold, for one heatmap.

    Args:
        heatmap: (H, W) floating point in [0, 1]; 224 x 224 for the reference protocol.
        boxes: (K, 4) xyxy in pixels of the original image.
        image_size: (width, height) of the original image.
        contours: the largest contour or all of them.
        protocol: `reference` compares integer boxes in the 224 x 224 frame whatever the map's size, as
            the reference evaluator does; `exact` compares float boxes in the map's own frame.
        thresholds: a number of evenly spaced thresholds, or the thresholds themselves.
        name: what messages call this image.

    Returns:
        (T,) float64.

    Raises:
        InputError: heatmap, boxes or size are malformed.
    """
    grid = threshold_grid(thresholds) if isinstance(thresholds, int) else np.asarray(thresholds)
    levels = to_levels(check_heatmap(heatmap, name), protocol)
    truth = scaled_truth(boxes, image_size, levels.shape, protocol, name)
    return level_ious(levels, truth, contours, protocol)[levels.at(grid)]


def scaled_truth(
    boxes: np.ndarray,
    image_size: Sequence[float],
    shape: tuple[int, int],
    protocol: Protocol,
    name: str = "image",
) -> np.ndarray:
    """Ground truth of one image in the frame in which a protocol compares boxes, (K, 4)."""
    checked = check_boxes(boxes, image_size, name)
    if protocol == "reference":
        return scale_boxes(checked, image_size, (REFERENCE_SIDE, REFERENCE_SIDE))
    return scale_boxes(checked, image_size, (shape[1], shape[0]), truncate=False)


class MaxBoxAcc:
    """Accumulates MaxBoxAcc (contours="largest") or MaxBoxAccV2 (contours="all", iou .3 .5 .7).

    Args:
        iou: the IoUs demanded, each with its own best threshold.
        contours: score the largest contour, or count an image if any contour's box is right.
        protocol: `reference` or `exact`.
        thresholds: number of evenly spaced thresholds.

    Raises:
        InputError: an argument is out of its range.
    """

    def __init__(
        self,
        iou: Sequence[float] = (0.5,),
        contours: Contours = "largest",
        protocol: Protocol = "reference",
        thresholds: int = 1000,
    ) -> None:
        self.iou = np.asarray(iou, dtype=np.float64).reshape(-1)
        if not len(self.iou) or not ((self.iou > 0) & (self.iou <= 1)).all():
            raise InputError(f"iou is {iou!r}, expected one or more values in (0, 1]")
        if contours not in ("largest", "all"):
            raise InputError(f"contours is {contours!r}, expected 'largest' or 'all'")
        if protocol not in ("reference", "exact"):
            raise InputError(f"protocol is {protocol!r}, expected 'reference' or 'exact'")
        self.contours = contours
        self.protocol = protocol
        self.thresholds = threshold_grid(thresholds)
        self.reset()

    def reset(self) -> None:
        """Forget every image."""
        self.correct = np.zeros((len(self.iou), len(self.thresholds)), np.int64)
        self.images = 0

    def update(
        self,
        heatmaps: np.ndarray | torch.Tensor | Sequence[np.ndarray],
        boxes: Sequence[np.ndarray],
        image_sizes: Sequence[Sequence[float]],
    ) -> None:
        """Add images.

        Args:
            heatmaps: (N, H, W) in [0, 1], an array, a tensor on any device, or N maps of any sizes.
            boxes: for each image a (K, 4) xyxy array in pixels of the original image.
            image_sizes: for each image its original (width, height).

        Raises:
            InputError: something is malformed; then no image of this call is counted.
        """
        maps: Iterable[np.ndarray] = (
            heatmaps.detach().cpu().numpy() if isinstance(heatmaps, torch.Tensor) else heatmaps
        )
        maps = list(maps)
        if not len(maps) == len(boxes) == len(image_sizes):
            raise InputError(
                f"update got {len(maps)} heatmaps, {len(boxes)} box arrays and {len(image_sizes)} sizes, "
                "expected as many of each"
            )
        counts = np.zeros_like(self.correct)
        for i, (one, truth, size) in enumerate(zip(maps, boxes, image_sizes, strict=True)):
            name = f"heatmap {i}"
            best = per_image_iou(one, truth, size, self.contours, self.protocol, self.thresholds, name)
            counts += best[None] >= self.iou[:, None]
        self.correct += counts
        self.images += len(maps)

    def compute(self) -> BoxScore:
        """The score over every image so far.

        Raises:
            InputError: there is none.
        """
        if self.images == 0:
            raise InputError("no image has been scored, expected at least one update")
        at = self.correct.argmax(1)
        per_iou = self.correct[np.arange(len(self.iou)), at] * 100.0 / self.images
        return BoxScore(
            accuracy=float(per_iou.mean()),
            per_iou=per_iou,
            threshold=self.thresholds[at],
            correct=self.correct.copy(),
            thresholds=self.thresholds,
            iou=self.iou,
            images=self.images,
        )
