"""MaxBoxAcc and MaxBoxAccV2: is there one threshold at which the boxes are right?

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020, and its extended
version. At each threshold tau an image counts as correct when a box of its heatmap meets a ground-truth
box with IoU >= delta; the score is the share of correct images at the *one* tau that is best for the whole
split. MaxBoxAcc takes the largest contour and delta .5; MaxBoxAccV2 takes every contour and averages
delta .3, .5 and .7, each at its own best tau.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heatbox._utils.checks import as_numbers, check_choice, check_length, check_whole
from heatbox.boxes.batch import score_batch
from heatbox.boxes.contours import Contours, Protocol, check_heatmap, threshold_grid, to_levels
from heatbox.boxes.ious import level_ious
from heatbox.boxes.ops import REFERENCE_SIDE, scaled_truth, stack_truth
from heatbox.errors import InputError
from heatbox.metrics.base import Accumulator
from heatbox.metrics.inputs import as_maps

V2_IOU = (0.3, 0.5, 0.7)
"""The IoUs that MaxBoxAccV2 averages over."""


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

    def at(self, threshold: float | np.ndarray) -> np.ndarray:
        """(I,) percent correct at given thresholds, one for all IoUs or one each: the transferred policy.

        A threshold between two of the grid counts as the one below it.

        Raises:
            InputError: a threshold outside [0, 1).
        """
        wanted = np.broadcast_to(in_range(threshold), self.iou.shape)
        at = np.searchsorted(self.thresholds, wanted, side="right") - 1
        return self.correct[np.arange(len(self.iou)), at] * 100.0 / self.images


def in_range(threshold: float | np.ndarray) -> np.ndarray:
    """A threshold, or several, as float64; an InputError where one is outside [0, 1)."""
    wanted = as_numbers(threshold, "threshold", "numbers in [0, 1)")
    if not ((wanted >= 0) & (wanted < 1)).all():
        raise InputError(f"threshold is {threshold}, expected values in [0, 1)")
    return wanted


def oracle_and_transferred(scored: BoxScore, fullsup: BoxScore | None = None) -> dict[str, float]:
    """A score under both threshold policies, percent.

    `oracle` takes the thresholds that are best on the scored images themselves, as published tables do;
    `transferred` those that are best on a fully supervised split and then fixed.

    Args:
        scored: the score on the images that are reported.
        fullsup: the same score on the split on which thresholds are chosen; without it only the oracle.
    """
    policies = {"oracle": scored.accuracy}
    if fullsup is not None:
        policies["transferred"] = float(scored.at(fullsup.threshold).mean())
    return policies


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


class MaxBoxAcc(Accumulator):
    """Accumulates MaxBoxAcc (contours="largest") or MaxBoxAccV2 (contours="all", iou .3 .5 .7).

    Args:
        iou: the IoUs demanded, each with its own best threshold.
        contours: score the largest contour, or count an image if any contour's box is right.
        protocol: `reference` or `exact`. With `exact` every distinct value of a map is a threshold: the
            best threshold is sought among all real numbers, and `thresholds` only samples the curve.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use for the reference protocol; all cores by default.

    Raises:
        InputError: an argument is out of its range.
        TypeError: an argument is no number where one is expected.

    Examples:
        >>> heatmap = np.zeros((1, 224, 224))
        >>> heatmap[0, 50:150, 60:160] = 1.0
        >>> score = MaxBoxAcc()
        >>> score.update(heatmap, boxes=[np.array([[60.0, 50.0, 160.0, 150.0]])], image_sizes=[(224, 224)])
        >>> score.compute().accuracy
        100.0
    """

    SUMMED = ("correct", "images")
    JOINED = ("changes",)

    def __init__(
        self,
        iou: Sequence[float] = (0.5,),
        contours: Contours = "largest",
        protocol: Protocol = "reference",
        thresholds: int = 1000,
        threads: int | None = None,
    ) -> None:
        self.iou = as_numbers(iou, "iou", "one or more numbers in (0, 1]").reshape(-1)
        if not len(self.iou) or not ((self.iou > 0) & (self.iou <= 1)).all():
            raise InputError(f"iou is {iou!r}, expected one or more values in (0, 1]")
        check_choice(contours, "contours", ("largest", "all"))
        check_choice(protocol, "protocol", ("reference", "exact"))
        if threads is not None:
            check_whole(threads, "threads")
        self.contours = contours
        self.protocol = protocol
        self.thresholds = threshold_grid(thresholds)
        self.threads = threads
        self.reset()

    def reset(self) -> None:
        """Forget every image."""
        self.correct = np.zeros((len(self.iou), len(self.thresholds)), np.int64)
        self.images = 0
        # Exact protocol: (iou index, threshold, +1 or -1) where an image becomes correct or ceases to be.
        self.changes = np.zeros((0, 3))

    def update(self, heatmaps: Any, boxes: Sequence[Any], image_sizes: Sequence[Sequence[float]]) -> None:
        """Add images.

        Args:
            heatmaps: (N, H, W) in [0, 1], an array, a tensor on any device, or N maps of any sizes.
            boxes: for each image a (K, 4) xyxy array in pixels of the original image.
            image_sizes: for each image its original (width, height).

        Raises:
            InputError: something is malformed; then no image of this call is counted.
        """
        update_together([self], heatmaps, boxes, image_sizes)

    def compute(self) -> BoxScore:
        """The score over every image so far.

        Raises:
            InputError: there is none.
        """
        if self.images == 0:
            raise InputError("no image has been scored, expected at least one update")
        if self.protocol == "exact":
            best, threshold = _best_of_changes(self.changes, len(self.iou))
        else:
            at = self.correct.argmax(1)
            best, threshold = self.correct[np.arange(len(self.iou)), at], self.thresholds[at]
        per_iou = best * 100.0 / self.images
        return BoxScore(
            accuracy=float(per_iou.mean()),
            per_iou=per_iou,
            threshold=threshold,
            correct=self.correct.copy(),
            thresholds=self.thresholds,
            iou=self.iou,
            images=self.images,
        )

    def settings(self) -> tuple[Any, ...]:
        """What two scores must share to be merged."""
        return tuple(self.iou.tolist()), self.contours, self.protocol, len(self.thresholds)


def update_together(
    metrics: Sequence[MaxBoxAcc],
    heatmaps: Any,
    boxes: Sequence[Any],
    image_sizes: Sequence[Sequence[float]],
    records: bool = False,
) -> np.ndarray | None:
    """Add images to several scores of one protocol and number of thresholds in one pass over the maps.

    MaxBoxAcc and MaxBoxAccV2 share most of their work: together they cost little more than either.

    Args:
        metrics: scores with the same `protocol` and `thresholds`.
        heatmaps: as for `MaxBoxAcc.update`.
        boxes: as for `MaxBoxAcc.update`.
        image_sizes: as for `MaxBoxAcc.update`.
        records: return each image's curve as well.

    Returns:
        With `records`, (M, N, T) float64: for each score and image the best IoU at each threshold.

    Raises:
        InputError: something is malformed, and nothing was added; or the scores do not go together.
    """
    maps = as_maps(heatmaps)
    check_length(boxes, "boxes", "a (K, 4) array for each image")
    check_length(image_sizes, "image_sizes", "(width, height) for each image")
    if not len(maps) == len(boxes) == len(image_sizes):
        raise InputError(
            f"update got {len(maps)} heatmaps, {len(boxes)} box arrays and {len(image_sizes)} sizes, "
            "expected as many of each"
        )
    first = metrics[0]
    if any(m.protocol != first.protocol or len(m.thresholds) != len(first.thresholds) for m in metrics):
        raise InputError("scores updated together must share protocol and thresholds")
    if not len(maps):
        return np.zeros((len(metrics), 0, len(first.thresholds))) if records else None
    if first.protocol == "exact":
        return _update_exact(metrics, list(maps), boxes, image_sizes, records)
    if any(np.shape(one) != (REFERENCE_SIDE, REFERENCE_SIDE) for one in maps):
        warnings.warn(
            "the reference protocol compares boxes in a 224 x 224 frame, but a heatmap has another size: "
            "resize it with normalize_heatmap, or use protocol='exact'",
            stacklevel=3,
        )
    truth, starts = stack_truth(boxes, image_sizes)
    kinds = [[m for m in metrics if m.contours == kind] for kind in ("largest", "all")]
    iou = tuple(np.concatenate([np.zeros(0), *(m.iou for m in kind)]) for kind in kinds)
    curves, counts = score_batch(maps, truth, starts, (iou[0], iou[1]), first.thresholds, first.threads)
    for kind, count in zip(kinds, counts, strict=True):
        begin = 0
        for metric in kind:
            metric.correct += count[begin : begin + len(metric.iou)]
            metric.images += len(maps)
            begin += len(metric.iou)
    if not records:
        return None
    at = curves.at(first.thresholds)
    return np.stack([at[:, int(m.contours == "all")] for m in metrics])


def _update_exact(
    metrics: Sequence[MaxBoxAcc],
    maps: Sequence[np.ndarray],
    boxes: Sequence[Any],
    image_sizes: Sequence[Sequence[float]],
    records: bool,
) -> np.ndarray | None:
    """`update_together` for the exact protocol: curves over every distinct value of each map."""
    grid = metrics[0].thresholds
    counts = [np.zeros_like(m.correct) for m in metrics]
    changes: list[list[np.ndarray]] = [[m.changes] for m in metrics]
    sampled = np.zeros((len(metrics), len(maps), len(grid)))
    for i, one in enumerate(maps):
        levels = to_levels(check_heatmap(one, f"heatmap {i}"), "exact")
        truth = scaled_truth(boxes[i], image_sizes[i], levels.shape, "exact", f"image {i}")
        assert levels.values is not None
        curves = {m.contours: np.zeros(0) for m in metrics}
        for kind in curves:
            curves[kind] = level_ious(levels, truth, kind, "exact")
        for k, metric in enumerate(metrics):
            curve = curves[metric.contours]
            sampled[k, i] = curve[levels.at(grid)]
            counts[k] += sampled[k, i][None] >= metric.iou[:, None]
            changes[k].append(_changes(curve, levels.values, metric.iou))
    for metric, count, change in zip(metrics, counts, changes, strict=True):
        metric.correct += count
        metric.images += len(maps)
        metric.changes = np.concatenate(change)
    return sampled if records else None


def _changes(curve: np.ndarray, values: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Where a curve over levels starts (+1) and ceases (-1) to reach each IoU: (n, 3) rows
    (iou index, threshold, change). Level t holds for thresholds from values[t] up to values[t + 1]."""
    reached = np.zeros((len(iou), len(curve) + 2), np.int8)
    reached[:, 1:-1] = curve[None] >= iou[:, None]
    steps = np.diff(reached, axis=1)
    index, level = np.nonzero(steps)
    edges = np.append(values[: len(curve)], 1.0)
    return np.stack([index, edges[level], steps[index, level]], axis=1).astype(np.float64)


def _best_of_changes(changes: np.ndarray, ious: int) -> tuple[np.ndarray, np.ndarray]:
    """For each IoU the most images that are correct at one threshold, and the smallest such threshold."""
    best, threshold = np.zeros(ious, np.int64), np.zeros(ious)
    for i in range(ious):
        rows = changes[changes[:, 0] == i]
        at, inverse = np.unique(rows[:, 1], return_inverse=True)
        if len(at):
            correct = np.bincount(inverse.reshape(-1), rows[:, 2]).cumsum()
            best[i], threshold[i] = correct.max(), at[correct.argmax()]
    return best, threshold
