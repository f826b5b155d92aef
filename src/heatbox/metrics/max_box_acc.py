"""MaxBoxAcc and MaxBoxAccV2 as metrics; the functions are in `heatbox.metrics.functional`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from heatbox.boxes.contours import Contours, Protocol, threshold_grid
from heatbox.metrics.base import Metric
from heatbox.metrics.functional import (
    V2_IOU,
    BoxCounts,
    BoxScore,
    Matching,
    box_counts,
    box_score,
    check_criterion,
    check_threads,
)


class BoxMetric(Metric):
    """A metric of boxes: the IoUs and contours that make an image correct, protocol and thresholds."""

    def __init__(
        self,
        iou: float | Sequence[float] = 0.5,
        contours: Matching = "largest",
        protocol: Protocol = "reference",
        thresholds: int = 1000,
        threads: int | None = None,
    ) -> None:
        self.iou = check_criterion(iou, contours, protocol)
        self.contours = contours
        self.protocol = protocol
        self.thresholds = threshold_grid(thresholds)
        self.threads = check_threads(threads)
        self.reset()

    def settings(self) -> tuple[Any, ...]:
        """The settings that two metrics must share to be merged."""
        return tuple(self.iou.tolist()), self.contours, self.protocol, len(self.thresholds)


class MaxBoxAcc(BoxMetric):
    """MaxBoxAcc over a split, updated batch by batch.

    Args:
        iou: the required IoUs, each with its own best threshold.
        contours: score the largest contour, or count an image if any contour's box is correct.
        protocol: `reference` or `exact`. With `exact` every distinct value of a map is a threshold: the
            best threshold is chosen among all real numbers, and `thresholds` only samples the curve.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use for the reference protocol; all cores by default.

    Raises:
        InputError: an argument is out of range.
        TypeError: an argument of a wrong type.

    Examples:
        >>> heatmap = np.zeros((1, 224, 224))
        >>> heatmap[0, 50:150, 60:160] = 1.0
        >>> metric = MaxBoxAcc()
        >>> metric.update(heatmap, boxes=[np.array([[60.0, 50.0, 160.0, 150.0]])], image_sizes=[(224, 224)])
        >>> metric.compute().accuracy
        100.0
    """

    SUMMED = ("correct", "images")
    JOINED = ("changes",)

    def reset(self) -> None:
        """Forget every image."""
        self.correct = np.zeros((len(self.iou), len(self.thresholds)), np.int64)
        self.images = 0
        self.changes = [np.zeros((0, 3))]

    def update(self, heatmaps: Any, boxes: Sequence[Any], image_sizes: Sequence[Sequence[float]]) -> None:
        """Add images.

        Args:
            heatmaps: (N, H, W) in [0, 1], an array, a tensor on any device, or N maps of any sizes.
            boxes: for each image a (K, 4) xyxy array in pixels of the original image.
            image_sizes: for each image its original (width, height).

        Raises:
            InputError: something is malformed; then no image of this call is counted.
        """
        criteria = [(self.iou, self.contours)]
        (counts,) = box_counts(
            heatmaps, boxes, image_sizes, criteria, self.protocol, self.thresholds, self.threads
        )
        self.add(counts, len(boxes), sum(len(np.atleast_2d(one)) for one in boxes))

    def add(self, counts: BoxCounts, images: int, objects: int) -> None:
        """Add counts of `heatbox.metrics.functional.box_counts` for this metric's IoUs and contours.

        Args:
            counts: the counts.
            images: number of images that they are of.
            objects: number of their ground-truth boxes.
        """
        self.correct += counts.correct
        self.images += images
        if len(counts.changes):
            self.changes.append(counts.changes)

    def compute(self) -> BoxScore:
        """The score over all images.

        Raises:
            InputError: no image was added.
        """
        changes = np.concatenate(self.changes) if self.protocol == "exact" else None
        return box_score(self.correct, self.thresholds, self.iou, self.images, changes)


class MaxBoxAccV2(MaxBoxAcc):
    """MaxBoxAccV2 over a split: MaxBoxAcc with all contours, the mean of IoU .3, .5 and .7.

    Args:
        iou: the IoUs averaged over, each with its own best threshold.
        contours: as for `MaxBoxAcc`, like the other arguments.
        protocol: `reference` or `exact`.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use for the reference protocol; all cores by default.

    Raises:
        InputError: as `MaxBoxAcc`.
    """

    def __init__(
        self,
        iou: float | Sequence[float] = V2_IOU,
        contours: Contours = "all",
        protocol: Protocol = "reference",
        thresholds: int = 1000,
        threads: int | None = None,
    ) -> None:
        super().__init__(iou, contours, protocol, thresholds, threads)


class MaxBoxAccV3(MaxBoxAcc):
    """MaxBoxAccV3 over a split: ground-truth boxes found, see `heatbox.metrics.functional.max_box_acc_v3`.

    Args:
        iou: the IoUs averaged over, each with its own best threshold.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use; all cores by default.

    Raises:
        InputError: as `MaxBoxAcc`.
    """

    def __init__(
        self, iou: float | Sequence[float] = V2_IOU, thresholds: int = 1000, threads: int | None = None
    ) -> None:
        BoxMetric.__init__(self, iou, "each", "reference", thresholds, threads)

    def add(self, counts: BoxCounts, images: int, objects: int) -> None:
        """As `MaxBoxAcc.add`; the score is a fraction of the ground-truth boxes."""
        super().add(counts, objects, objects)
