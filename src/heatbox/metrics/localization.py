"""GT-known, Top-1 and Top-5 localization accuracy as a metric; the functions are in
`heatbox.metrics.functional`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from heatbox.metrics.functional import (
    LocalizationScore,
    box_counts,
    label_rank,
    localization_counts,
    localization_score,
    rank_counts,
)
from heatbox.metrics.max_box_acc import BoxMetric


class LocalizationAccuracy(BoxMetric):
    """GT-known, Top-1 and Top-5 localization accuracy over a split, updated batch by batch.

    Args:
        iou: the required IoU.
        contours: the largest contour's box, or any contour's.
        protocol: `reference` or `exact`; the latter is sampled at the same thresholds.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use for the reference protocol; all cores by default.

    Raises:
        InputError: an argument is out of range.
        TypeError: an argument of a wrong type.
    """

    SUMMED = ("correct", "in_top", "images")

    def reset(self) -> None:
        """Forget every image."""
        self.correct = np.zeros((3, len(self.thresholds)), np.int64)
        self.in_top = np.zeros(2, np.int64)  # label ranked first, among the first five
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
        criteria = [(self.iou, self.contours)]
        (found,) = box_counts(
            heatmaps, boxes, image_sizes, criteria, self.protocol, self.thresholds, self.threads, True
        )
        self.correct += localization_counts(found.iou >= self.iou[0], rank)
        self.in_top += rank_counts(rank)[1:]
        self.images += len(rank)

    def compute(self) -> LocalizationScore:
        """The accuracies over all images.

        Raises:
            InputError: no image was added.
        """
        return localization_score(self.correct, self.thresholds, np.array([self.images, *self.in_top]))
