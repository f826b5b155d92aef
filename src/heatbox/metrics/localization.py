"""GT-known, Top-1 and Top-5 localization accuracy.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, and the ILSVRC
localization task: a box is right when its IoU with a ground-truth box is at least one half. GT-known asks
nothing else; Top-k also asks that the label be among the classifier's k best classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heatbox._utils.checks import as_array, kind_of
from heatbox.boxes.contours import Contours, Protocol
from heatbox.errors import InputError
from heatbox.metrics.base import Accumulator
from heatbox.metrics.max_box_acc import MaxBoxAcc, in_range, update_together


@dataclass(frozen=True)
class LocalizationScore:
    """Localization accuracies over a split.

    Attributes:
        gt_known: percent of images whose box is right, at its best threshold.
        top1: percent whose box and best class are right, at its best threshold.
        top5: percent whose box is right and whose label is among the five best classes.
        threshold: (3,) best tau of each of the three, the smallest of equals.
        correct: (3, T) int64, images right at each threshold.
        thresholds: (T,) the thresholds tau.
        classified: (2,) percent of images whose label is the best class, and among the five best.
        images: number of images scored.
    """

    gt_known: float
    top1: float
    top5: float
    threshold: np.ndarray
    correct: np.ndarray
    thresholds: np.ndarray
    classified: np.ndarray
    images: int

    def at(self, threshold: float) -> np.ndarray:
        """(3,) percent right at one given threshold: GT-known, Top-1, Top-5."""
        at = int(np.searchsorted(self.thresholds, in_range(threshold), side="right")) - 1
        return self.correct[:, at] * 100.0 / self.images


def label_rank(logits: Any, labels: Any) -> np.ndarray:
    """Number of classes that come before the label, the lower index first among equal logits.

    Args:
        logits: (N, C), an array or a tensor.
        labels: (N,) class indices.

    Returns:
        (N,) int64; 0 where the label is the best class.

    Raises:
        InputError: shapes do not agree, a label is out of range, or a logit is NaN.
        TypeError: labels that are no whole numbers.
    """
    scores, index = as_array(logits), as_array(labels)
    if index.dtype.kind not in "iu" and len(index):
        raise TypeError(f"labels: {kind_of(labels)} of {index.dtype}, expected class indices (N,)")
    index = index.astype(np.int64)
    if scores.ndim != 2 or index.shape != scores.shape[:1]:
        raise InputError(f"logits {scores.shape} and labels {index.shape}, expected (N, C) and (N,)")
    bad = (index < 0) | (index >= scores.shape[1])
    if bad.any():
        raise InputError(f"label {index[bad][0]} is out of range, expected 0 to {scores.shape[1] - 1}")
    if np.isnan(scores).any():
        raise InputError(f"logits of {int(np.isnan(scores).any(1).sum())} images hold NaN")
    own = np.take_along_axis(scores, index[:, None], 1)
    earlier = np.arange(scores.shape[1])[None] < index[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(1)


def rank_counts(ranks: np.ndarray) -> np.ndarray:
    """(3,) int64 of the (N,) ranks of `label_rank`: images, label the best class, among the five best."""
    return np.array([len(ranks), (ranks < 1).sum(), (ranks < 5).sum()], dtype=np.int64)


def classified(counts: np.ndarray) -> dict[str, float]:
    """Percent of the images of `rank_counts` (a sum over processes, perhaps) as "top1" and "top5"."""
    images, top1, top5 = counts.tolist()
    return {"top1": 100 * top1 / max(images, 1), "top5": 100 * top5 / max(images, 1)}


class LocalizationAccuracy(Accumulator):
    """Accumulates GT-known, Top-1 and Top-5 localization accuracy over all thresholds.

    Args:
        iou: the IoU demanded of a box.
        contours: the largest contour's box, or any contour's.
        protocol: `reference` or `exact`; the latter is sampled at the same thresholds.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use; all cores by default.
    """

    SUMMED = ("correct", "in_top", "images")

    def __init__(
        self,
        iou: float = 0.5,
        contours: Contours = "largest",
        protocol: Protocol = "reference",
        thresholds: int = 1000,
        threads: int | None = None,
    ) -> None:
        self._boxes = MaxBoxAcc((iou,), contours, protocol, thresholds, threads)
        self.thresholds = self._boxes.thresholds
        self.reset()

    def settings(self) -> tuple[Any, ...]:
        """What two scores must share to be merged."""
        return self._boxes.settings()

    def reset(self) -> None:
        """Forget every image."""
        self.correct = np.zeros((3, len(self.thresholds)), np.int64)
        self.in_top = np.zeros(2, np.int64)
        self.images = 0

    def update(
        self,
        heatmaps: Any,
        boxes: Sequence[Any],
        image_sizes: Sequence[Sequence[float]],
        logits: Any,
        labels: Any,
    ) -> None:
        """Add images.

        Args:
            heatmaps: (N, H, W) in [0, 1], of the labelled class.
            boxes: for each image a (K, 4) xyxy array in pixels of the original image.
            image_sizes: for each image its original (width, height).
            logits: (N, C) of the classifier.
            labels: (N,) class indices.

        Raises:
            InputError: something is malformed; then no image of this call is counted.
        """
        rank = label_rank(logits, labels)
        if len(rank) != len(boxes):
            raise InputError(f"{len(rank)} labels for {len(boxes)} images, expected as many")
        self._boxes.reset()
        curves = update_together([self._boxes], heatmaps, boxes, image_sizes, records=True)
        assert curves is not None
        right = curves[0] >= self._boxes.iou[0]
        for row, among in enumerate((rank >= 0, rank < 1, rank < 5)):
            self.correct[row] += right[among].sum(0)
        self.in_top += [int((rank < 1).sum()), int((rank < 5).sum())]
        self.images += len(rank)

    def compute(self) -> LocalizationScore:
        """The accuracies over every image so far.

        Raises:
            InputError: there is none.
        """
        if self.images == 0:
            raise InputError("no image has been scored, expected at least one update")
        at = self.correct.argmax(1)
        best = self.correct[np.arange(3), at] * 100.0 / self.images
        return LocalizationScore(
            gt_known=float(best[0]),
            top1=float(best[1]),
            top5=float(best[2]),
            threshold=self.thresholds[at],
            correct=self.correct.copy(),
            thresholds=self.thresholds,
            classified=self.in_top * 100.0 / self.images,
            images=self.images,
        )
