"""CorLoc and localization AP: the box, or the largest value, of a map as the detection of its class.

*CorLoc* (Deselaers et al., "Weakly Supervised Localization and Learning with Generic Knowledge", IJCV 2012,
section 5): the percentage of the images of a class in which the box has the IoU of the Pascal criterion, one
half, with an object of the class; averaged over classes. Averaged over images it is MaxBoxAcc at one
threshold.

*Localization AP* (Oquab et al., "Is Object Localization for Free?", CVPR 2015, section 4): one prediction per
image and class, ranked by the classifier's confidence. It is correct if its point lies within 18 pixels of a
box of the class; otherwise it is a false positive and the object is missed. The area under the
precision-recall curve is that of Pascal VOC since 2010 (Everingham et al., IJCV 2015, section 3): precision
is the largest at this or a larger recall. With boxes, a prediction is correct if its IoU is one half or more.
Predictions of equal confidence enter the curve together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heatbox._utils.checks import as_numbers, check_number
from heatbox.boxes.batch import score_batch
from heatbox.boxes.contours import check_threshold, check_thresholds
from heatbox.boxes.ops import stack_truth
from heatbox.errors import InputError
from heatbox.metrics._arguments import as_maps, check_threads
from heatbox.metrics.base import Metric
from heatbox.metrics.localization_scores import pointing_game

OQUAB_TOLERANCE = 18.0
"""Pixels of the image within which a point counts as in a box."""


@dataclass(frozen=True)
class LocalizationAP:
    """Average precision of localization.

    Attributes:
        ap: percent, all predictions in one ranking.
        mean: percent, the mean over the classes of the AP of each; classes without an object are left out.
        per_class: class → percent.
        hits: (N,) booleans, whether each prediction is correct.
    """

    ap: float
    mean: float
    per_class: dict[int, float]
    hits: np.ndarray


@dataclass(frozen=True)
class CorLocScore:
    """CorLoc over a split.

    Attributes:
        value: percent, the mean over classes.
        per_class: class → percent of its images.
        images: number of images scored.
    """

    value: float
    per_class: dict[int, float]
    images: int


def cor_loc(
    heatmaps: Any,
    boxes: Sequence[Any],
    image_sizes: Sequence[Sequence[float]],
    threshold: float,
    iou: float = 0.5,
    threads: int | None = None,
) -> np.ndarray:
    """Whether the box of each map's largest contour is correct; `class_mean` of it is CorLoc.

    Args:
        heatmaps: (N, H, W) in [0, 1], 224 x 224 for the frame of the reference protocol.
        boxes: for each image a (K, 4) xyxy array in pixels of the original image.
        image_sizes: for each image its original (width, height).
        threshold: fraction of the map's maximum, the same for all images.
        iou: the required IoU.
        threads: threads to use; all cores by default.

    Returns:
        (N,) float64, 1 where the IoU is reached and 0 elsewhere.

    Raises:
        InputError: something is malformed or out of range.

    Examples:
        >>> heatmap = np.zeros((1, 224, 224))
        >>> heatmap[0, 50:150, 60:160] = 1.0
        >>> cor_loc(heatmap, [np.array([[60, 50, 160, 150]])], [(224, 224)], threshold=0.5)
        array([1.])
    """
    maps, at = as_maps(heatmaps), check_thresholds(threshold).reshape(1)
    if not len(maps) == len(boxes) == len(image_sizes):
        raise InputError(
            f"got {len(maps)} heatmaps, {len(boxes)} box arrays and {len(image_sizes)} sizes, "
            "expected as many of each"
        )
    if not len(maps):
        return np.zeros(0)
    truth, starts = stack_truth(boxes, image_sizes)
    wanted = (np.array([iou], np.float64), np.zeros(0))
    curves, *_ = score_batch(maps, truth, starts, wanted, at, check_threads(threads), return_iou=True)
    return (curves[:, 0, 0] >= iou).astype(np.float64)


def class_weights(labels: Any) -> np.ndarray:
    """(N,) weights with which the mean over images becomes the mean over classes of each class's mean."""
    _, index, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    return np.asarray(len(index) / (len(counts) * counts[index.reshape(-1)]))


def class_mean(values: Any, labels: Any) -> float:
    """Percent: the mean over classes of the mean of the values of each class's images.

    Args:
        values: (N,) in [0, 1].
        labels: (N,) class indices.

    Raises:
        InputError: no image, or another number of labels.
    """
    array = as_numbers(values, "values", "(N,) numbers")
    if not len(array) or array.shape != np.shape(labels):
        raise InputError(
            f"got {array.shape} values and {np.shape(labels)} labels, expected (N,) of both, N >= 1"
        )
    return float((array * class_weights(labels)).mean() * 100)


def ranked_precision(hits: Any, confidence: Any, positives: int | None = None) -> float:
    """Average precision of predictions ranked by confidence, as Pascal VOC has computed it since 2010.

    Args:
        hits: (N,) booleans, whether each prediction is correct.
        confidence: (N,) numbers.
        positives: number of objects to be found; by default one per prediction.

    Returns:
        in [0, 1].

    Raises:
        InputError: shapes differ, a confidence is not finite, or there is no object.

    Examples:
        >>> round(ranked_precision([True, False, True], [0.9, 0.8, 0.7]), 4)
        0.5556
    """
    correct = as_numbers(hits, "hits", "(N,) booleans")
    scores = as_numbers(confidence, "confidence", "(N,) numbers")
    objects = len(correct) if positives is None else positives
    if correct.shape != scores.shape or correct.ndim != 1 or not np.isfinite(scores).all() or objects < 1:
        raise InputError(
            f"got {correct.shape} hits, {scores.shape} confidences and {objects} objects, "
            "expected (N,) of both, finite, and an object"
        )
    order = np.argsort(-scores, kind="stable")
    if not len(order):
        return 0.0
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    found = correct[order].cumsum()[ends]
    precision = np.maximum.accumulate((found / (ends + 1))[::-1])[::-1]
    return float((precision * np.diff(found, prepend=0)).sum() / objects)


def localization_ap(
    heatmaps: Any,
    boxes: Sequence[Any],
    image_sizes: Sequence[Sequence[float]],
    confidence: Any,
    labels: Any = None,
    point: bool = False,
    threshold: float = 0.35,
    iou: float = 0.5,
    tolerance: float = OQUAB_TOLERANCE,
    threads: int | None = None,
) -> LocalizationAP:
    """Average precision of maps as predictions of where their class is.

    Args:
        heatmaps: (N, H, W) in [0, 1].
        boxes: for each map the (K, 4) xyxy boxes of its class in pixels of the original image; (0, 4) where
            the image has no object of the class, so that the prediction is a false positive.
        image_sizes: for each image its original (width, height).
        confidence: (N,) that the class is in the image, such as the classifier's score.
        labels: (N,) classes of the maps; by default all are of one.
        point: take the largest value of the map as its prediction, as published, in place of a box. Of
            several
            largest values half or more must hit.
        threshold: of the box, a fraction of the map's maximum.
        iou: the required IoU of the box.
        tolerance: of the point, in pixels of the image.
        threads: threads to use; all cores by default.

    Raises:
        InputError: something is malformed or out of range, or no image has an object.
    """
    some = _predictions(
        heatmaps, boxes, image_sizes, confidence, labels, point, threshold, iou, tolerance, threads
    )
    return ranked_ap(*some)


def _predictions(
    heatmaps: Any,
    boxes: Sequence[Any],
    image_sizes: Sequence[Sequence[float]],
    confidence: Any,
    labels: Any,
    point: bool,
    threshold: float,
    iou: float,
    tolerance: float,
    threads: int | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(N,) hits, confidences, labels, and whether the image has an object; see `localization_ap`."""
    maps = as_maps(heatmaps)
    scores = as_numbers(confidence, "confidence", "(N,) numbers")
    classes = np.zeros(len(maps), np.int64) if labels is None else _as_labels(labels)
    if not len(maps) == len(boxes) == len(image_sizes) == len(scores) == len(classes):
        raise InputError(
            f"got {len(maps)} heatmaps, {len(boxes)} box arrays, {len(image_sizes)} sizes, "
            f"{len(scores)} confidences and {len(classes)} labels, expected as many of each"
        )
    has = np.array([len(one) > 0 for one in boxes], bool)
    index = np.flatnonzero(has).tolist()
    some = [maps[i] for i in index], [boxes[i] for i in index], [image_sizes[i] for i in index]
    hits = np.zeros(len(maps), bool)
    if point:
        hits[index] = pointing_game(*some, tolerance=tolerance, threads=threads) >= 0.5
    else:
        hits[index] = cor_loc(*some, threshold, iou, threads) > 0
    return hits, np.asarray(scores, np.float64), classes, has


def _as_labels(labels: Any) -> np.ndarray:
    """(N,) int64 classes; an InputError if they are none."""
    array = np.asarray(labels)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise InputError(f"labels are {labels!r:.80}, expected (N,) integers")
    return array.astype(np.int64)


def _check_iou(iou: float) -> float:
    check_number(iou, "iou", "a number in (0, 1]")
    if not 0 < iou <= 1:
        raise InputError(f"iou is {iou}, expected a number in (0, 1]")
    return float(iou)


def ranked_ap(
    hits: np.ndarray, confidence: np.ndarray, labels: np.ndarray, has: np.ndarray
) -> LocalizationAP:
    """The AP of predictions; `has` is whether the image of each has an object of its class.

    Raises:
        InputError: no image has an object, or a confidence is not finite.
    """
    per_class = {}
    for one in np.unique(labels[has]):
        of = labels == one
        per_class[int(one)] = 100 * ranked_precision(hits[of], confidence[of], int(has[of].sum()))
    pooled = 100 * ranked_precision(hits, confidence, int(has.sum()))
    return LocalizationAP(pooled, float(np.mean(list(per_class.values()))), per_class, hits)


class CorLoc(Metric):
    """CorLoc over a split, updated batch by batch (Deselaers et al., IJCV 2012, section 5).

    Args:
        threshold: fraction of the map's maximum, the same for all images.
        iou: the required IoU.
        threads: threads to use; all cores by default.

    Raises:
        InputError: an argument is out of range.

    Examples:
        >>> metric = CorLoc(threshold=0.5)
        >>> heatmap = np.zeros((1, 224, 224))
        >>> heatmap[0, 50:150, 60:160] = 1.0
        >>> metric.update(heatmap, [np.array([[60, 50, 160, 150]])], [(224, 224)], labels=[3])
        >>> metric.compute().value
        100.0
    """

    JOINED = ("hits", "labels")

    def __init__(self, threshold: float, iou: float = 0.5, threads: int | None = None) -> None:
        self.threshold = float(check_threshold(threshold))
        self.iou, self.threads = _check_iou(iou), check_threads(threads)
        self.reset()

    def settings(self) -> tuple[Any, ...]:
        """The settings that two metrics must share to be merged."""
        return self.threshold, float(self.iou)

    def reset(self) -> None:
        """Forget every image."""
        self.hits = [np.zeros(0)]
        self.labels = [np.zeros(0, np.int64)]

    def update(
        self, heatmaps: Any, boxes: Sequence[Any], image_sizes: Sequence[Sequence[float]], labels: Any
    ) -> None:
        """Add images.

        Args:
            heatmaps, boxes, image_sizes: as for `cor_loc`.
            labels: (N,) class indices.

        Raises:
            InputError: something is malformed; then no image of this call is counted.
        """
        classes = _as_labels(labels)
        hits = cor_loc(heatmaps, boxes, image_sizes, self.threshold, self.iou, self.threads)
        if classes.shape != hits.shape:
            raise InputError(f"got {len(hits)} heatmaps and {classes.shape} labels, expected as many of each")
        self.hits.append(hits)
        self.labels.append(classes)

    def compute(self) -> CorLocScore:
        """The score over all images.

        Raises:
            InputError: no image was added.
        """
        hits, labels = np.concatenate(self.hits), np.concatenate(self.labels)
        value = class_mean(hits, labels)
        per_class = {int(one): float(100 * hits[labels == one].mean()) for one in np.unique(labels)}
        return CorLocScore(value, per_class, len(hits))


class LocalizationAveragePrecision(Metric):
    """Localization AP over a split, updated batch by batch (Oquab et al., CVPR 2015, section 4).

    Args:
        point, threshold, iou, tolerance, threads: as for `localization_ap`.

    Raises:
        InputError: an argument is out of range.
    """

    JOINED = ("hits", "confidence", "labels", "has")

    def __init__(
        self,
        point: bool = False,
        threshold: float = 0.35,
        iou: float = 0.5,
        tolerance: float = OQUAB_TOLERANCE,
        threads: int | None = None,
    ) -> None:
        self.point, self.threshold = point, float(check_threshold(threshold))
        self.iou, self.tolerance, self.threads = _check_iou(iou), tolerance, check_threads(threads)
        check_number(tolerance, "tolerance")
        if tolerance < 0:
            raise InputError(f"tolerance is {tolerance}, expected a number of pixels from 0")
        self.reset()

    def settings(self) -> tuple[Any, ...]:
        """The settings that two metrics must share to be merged."""
        return self.point, self.threshold, float(self.iou), float(self.tolerance)

    def reset(self) -> None:
        """Forget every image."""
        self.hits, self.has = [np.zeros(0, bool)], [np.zeros(0, bool)]
        self.confidence, self.labels = [np.zeros(0)], [np.zeros(0, np.int64)]

    def update(
        self,
        heatmaps: Any,
        boxes: Sequence[Any],
        image_sizes: Sequence[Sequence[float]],
        confidence: Any,
        labels: Any = None,
    ) -> None:
        """Add images.

        Args:
            heatmaps, boxes, image_sizes, confidence, labels: as for `localization_ap`.

        Raises:
            InputError: something is malformed; then no image of this call is counted.
        """
        hits, scores, classes, has = _predictions(
            heatmaps,
            boxes,
            image_sizes,
            confidence,
            labels,
            self.point,
            self.threshold,
            self.iou,
            self.tolerance,
            self.threads,
        )
        self.hits.append(hits)
        self.confidence.append(scores)
        self.labels.append(classes)
        self.has.append(has)

    def compute(self) -> LocalizationAP:
        """The score over all images.

        Raises:
            InputError: no image has an object.
        """
        hits, confidence, labels, has = (np.concatenate(getattr(self, name)) for name in self.JOINED)
        return ranked_ap(hits, confidence, labels, has)
