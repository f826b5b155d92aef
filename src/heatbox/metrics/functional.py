"""The metrics as pure functions on arrays and tensors.

*MaxBoxAcc and MaxBoxAccV2* (Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right",
CVPR 2020, and its extended version): at each threshold tau an image is correct if a box of its heatmap has
IoU >= delta with a ground-truth box. The score is the fraction of correct images at the *one* tau that is
best for the whole split. MaxBoxAcc takes the largest contour and delta .5. MaxBoxAccV2 takes every contour
and averages delta .3, .5 and .7, each at its own best tau.

*GT-known, Top-1 and Top-5 localization accuracy* (Zhou et al., "Learning Deep Features for Discriminative
Localization", CVPR 2016, and the ILSVRC localization task): a box is correct if its IoU with a ground-truth
box is at least one half. GT-known requires nothing else; Top-k also requires that the label is among the
k classes with the highest logits.

*PxAP* (Choe et al.): the pixels of all images go into two histograms over the heatmap's value, one of object
and one of background pixels. Precision and recall at each bin edge follow, and PxAP is
sum_k precision_k (recall_k - recall_(k-1)), summed exactly as the reference evaluator does.

The pixel scores of explanations, from the pointing game to the IoU at a threshold, are defined in
`heatbox.metrics.localization_scores`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from heatbox._utils.checks import as_array, as_numbers, check_length, kind_of
from heatbox._utils.devices import available_cores
from heatbox.boxes.batch import score_batch
from heatbox.boxes.contours import (
    Contours,
    Protocol,
    check_heatmap,
    check_options,
    level_ious,
    threshold_grid,
    threshold_index,
    to_levels,
)
from heatbox.boxes.ops import REFERENCE_SIDE, scaled_truth, stack_truth
from heatbox.errors import InputError
from heatbox.metrics._arguments import as_maps, check_threads, data_frame
from heatbox.metrics.detection import LocalizationAP, class_mean, cor_loc, localization_ap, ranked_precision
from heatbox.metrics.localization_scores import (
    MapScores,
    auc,
    energy_pointing_game,
    iou_curve,
    map_iou,
    map_scores,
    pointing_game,
    relevance_mass,
    relevance_rank,
    top_k_intersection,
)

__all__ = [
    "IGNORE",
    "V2_IOU",
    "BoxCounts",
    "BoxScore",
    "LocalizationAP",
    "LocalizationScore",
    "MapScores",
    "PixelScore",
    "as_maps",
    "auc",
    "average_precision",
    "box_counts",
    "box_score",
    "check_criterion",
    "check_threads",
    "class_mean",
    "combine_masks",
    "cor_loc",
    "data_frame",
    "energy_pointing_game",
    "iou_curve",
    "label_rank",
    "localization_accuracy",
    "localization_ap",
    "localization_counts",
    "localization_score",
    "map_iou",
    "map_scores",
    "max_box_acc",
    "max_box_acc_v2",
    "max_box_acc_v3",
    "oracle_and_transferred",
    "per_image_iou",
    "pixel_histogram",
    "pixel_histograms",
    "pixel_score",
    "pointing_game",
    "pxap",
    "rank_counts",
    "ranked_precision",
    "relevance_mass",
    "relevance_rank",
    "resize_mask",
    "top_k_intersection",
    "topk_accuracy",
]

if TYPE_CHECKING:
    import pandas

V2_IOU = (0.3, 0.5, 0.7)
"""The IoUs that MaxBoxAccV2 averages over."""

IGNORE = 255
"""Mask value of pixels that are left out."""


class _Curves:
    """A score with counts of correct images at each threshold."""

    correct: np.ndarray
    thresholds: np.ndarray
    images: int

    def at(self, threshold: float | np.ndarray) -> np.ndarray:
        """(R,) percent correct in each row of `correct` at given thresholds, one for all rows or one each.

        This is the score of the transferred policy. A threshold between two of the grid is rounded down to
        the lower one.

        Raises:
            InputError: a threshold outside [0, 1).
        """
        rows = np.arange(len(self.correct))
        index = np.broadcast_to(threshold_index(threshold, len(self.thresholds)), rows.shape)
        return self.correct[rows, index] * 100.0 / self.images


def _at_best(correct: np.ndarray, thresholds: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Percent correct at the best threshold of each row of (R, T) counts, and that threshold: (R,) each."""
    if images == 0:
        raise InputError("no image has been scored, expected at least one update")
    best = correct.argmax(1)
    return correct[np.arange(len(correct)), best] * 100.0 / images, thresholds[best]


# ------------------------------------------------------------------------------- MaxBoxAcc, MaxBoxAccV2


@dataclass(frozen=True)
class BoxScore(_Curves):
    """MaxBoxAcc or MaxBoxAccV2 over a split.

    Attributes:
        accuracy: percent, the mean of `per_iou`.
        per_iou: (I,) percent of images correct at each IoU's own best threshold.
        threshold: (I,) best tau of each IoU, the smallest of equals.
        correct: (I, T) int64, images correct at each IoU and threshold.
        thresholds: (T,) the thresholds tau.
        iou: (I,) the required IoUs.
        images: number of images scored.
    """

    accuracy: float
    per_iou: np.ndarray
    threshold: np.ndarray
    correct: np.ndarray
    thresholds: np.ndarray
    iou: np.ndarray
    images: int

    def to_pandas(self) -> pandas.DataFrame:
        """The curves as a data frame: one row per IoU and threshold, accuracy in percent."""
        return data_frame(
            {
                "iou": np.repeat(self.iou, len(self.thresholds)),
                "threshold": np.tile(self.thresholds, len(self.iou)),
                "accuracy": self.correct.ravel() * 100.0 / self.images,
            }
        )


@dataclass(frozen=True)
class BoxCounts:
    """The images of a batch that are correct under one criterion, an IoU list and a choice of contours.

    Attributes:
        correct: (I, T) int64, images correct at each IoU and threshold.
        changes: (n, 3) float64, exact protocol only: (index of the IoU, threshold, +1 or -1) where an image
            becomes correct or ceases to be.
        iou: (N, T) float64, best IoU of each image at each threshold; (0, T) if not requested.
        matched: (N, I, T) uint8, for "each" only: ground-truth boxes of each image that are matched.
    """

    correct: np.ndarray
    changes: np.ndarray
    iou: np.ndarray
    matched: np.ndarray | None = None


Matching = Contours | Literal["each"]
"""Which boxes of a map are compared: "each" matches all contours with all ground-truth boxes one to one."""


def check_criterion(iou: Any, contours: Matching, protocol: Protocol) -> np.ndarray:
    """(I,) float64 required IoUs.

    Raises:
        InputError: no IoU, one outside (0, 1], or an unknown `contours` or `protocol`.
        TypeError: an IoU that is not a number.
    """
    values = as_numbers(iou, "iou", "one or more numbers in (0, 1]").reshape(-1)
    if not len(values) or not ((values > 0) & (values <= 1)).all():
        raise InputError(f"iou is {iou!r}, expected one or more values in (0, 1]")
    if contours == "each":
        if protocol != "reference":
            raise InputError(f"MaxBoxAccV3 is defined for the reference protocol, not {protocol!r}")
    else:
        check_options(contours, protocol)
    return values


def box_counts(
    heatmaps: Any,
    boxes: Sequence[Any],
    image_sizes: Sequence[Sequence[float]],
    criteria: Sequence[tuple[np.ndarray, Matching]],
    protocol: Protocol,
    thresholds: np.ndarray,
    threads: int | None = None,
    return_iou: bool = False,
) -> list[BoxCounts]:
    """Count the images that are correct under several criteria, in one pass over the maps.

    Args:
        heatmaps: (N, H, W) in [0, 1], an array, a tensor on any device, or N maps of any sizes.
        boxes: for each image a (K, 4) xyxy array in pixels of the original image.
        image_sizes: for each image its original (width, height).
        criteria: for each its (I,) required IoUs and its contours.
        protocol: `reference` or `exact`.
        thresholds: (T,) thresholds, from `threshold_grid`.
        threads: threads to use for the reference protocol; all cores by default.
        return_iou: return each image's best IoU at each threshold as well.

    Raises:
        InputError: a heatmap, a box array or a size is malformed, or their numbers differ.
    """
    maps = as_maps(heatmaps)
    check_length(boxes, "boxes", "a (K, 4) array for each image")
    check_length(image_sizes, "image_sizes", "(width, height) for each image")
    if not len(maps) == len(boxes) == len(image_sizes):
        raise InputError(
            f"got {len(maps)} heatmaps, {len(boxes)} box arrays and {len(image_sizes)} sizes, "
            "expected as many of each"
        )
    if protocol == "exact" or not len(maps):
        return _exact_counts(maps, boxes, image_sizes, criteria, thresholds, return_iou)
    if any(np.shape(one) != (REFERENCE_SIDE, REFERENCE_SIDE) for one in maps):
        warnings.warn(
            "the reference protocol compares boxes in a 224 x 224 frame, but a heatmap has another size: "
            "resize it with normalize_heatmap, or use protocol='exact'",
            stacklevel=3,
        )
    truth, starts = stack_truth(boxes, image_sizes)
    kinds = ("largest", "all")
    iou = [np.concatenate([np.zeros(0), *(i for i, kind in criteria if kind == k)]) for k in kinds]
    each = np.concatenate([np.zeros(0), *(i for i, kind in criteria if kind == "each")])
    both = (iou[0], iou[1])
    curves, counts, matched = score_batch(maps, truth, starts, both, thresholds, threads, return_iou, each)
    found, taken, done = [], [0, 0], 0
    for values, kind in criteria:
        if kind == "each":
            matches = matched[:, done : done + len(values)]
            done += len(values)
            correct = matches.sum(0, dtype=np.int64)
            found.append(BoxCounts(correct, np.zeros((0, 3)), curves[:, 1], matches))
            continue
        k = kinds.index(kind)
        correct = counts[k][taken[k] : taken[k] + len(values)]
        taken[k] += len(values)
        found.append(BoxCounts(correct, np.zeros((0, 3)), curves[:, k]))
    return found


def _exact_counts(
    maps: Sequence[np.ndarray] | np.ndarray,
    boxes: Sequence[Any],
    image_sizes: Sequence[Sequence[float]],
    criteria: Sequence[tuple[np.ndarray, Matching]],
    thresholds: np.ndarray,
    return_iou: bool,
) -> list[BoxCounts]:
    """`box_counts` under the exact protocol: curves over every distinct value of each map."""
    changes: list[list[np.ndarray]] = [[np.zeros((0, 3))] for _ in criteria]
    sampled = np.zeros((len(criteria), len(maps), len(thresholds)))
    for i, one in enumerate(maps):
        levels = to_levels(check_heatmap(one, f"heatmap {i}"), "exact")
        truth = scaled_truth(boxes[i], image_sizes[i], levels.shape, "exact", f"image {i}")
        assert levels.values is not None
        curves: dict[Matching, np.ndarray] = {
            kind: level_ious(levels, truth, kind, "exact") for kind in {c for _, c in criteria if c != "each"}
        }
        for k, (iou, kind) in enumerate(criteria):
            sampled[k, i] = curves[kind][levels.at(thresholds)]
            changes[k].append(_changes(curves[kind], levels.values, iou))
    return [
        BoxCounts(
            (curves[:, None] >= iou[:, None]).sum(0, dtype=np.int64),
            np.concatenate(steps),
            curves if return_iou else curves[:0],
            np.zeros((0, len(iou), len(thresholds)), np.uint8) if kind == "each" else None,
        )
        for curves, steps, (iou, kind) in zip(sampled, changes, criteria, strict=True)
    ]


def _changes(curve: np.ndarray, values: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Where a curve over levels starts (+1) and ceases (-1) to reach each IoU: (n, 3) rows
    (index of the IoU, threshold, change). Level t holds for thresholds from values[t] up to values[t + 1]."""
    reached = np.zeros((len(iou), len(curve) + 2), np.int8)
    reached[:, 1:-1] = curve[None] >= iou[:, None]
    steps = np.diff(reached, axis=1)
    index, level = np.nonzero(steps)
    edges = np.append(values[: len(curve)], 1.0)
    return np.stack([index, edges[level], steps[index, level]], axis=1).astype(np.float64)


def box_score(
    correct: np.ndarray,
    thresholds: np.ndarray,
    iou: np.ndarray,
    images: int,
    changes: np.ndarray | None = None,
) -> BoxScore:
    """The score of counts.

    Args:
        correct: (I, T) images correct at each IoU and threshold.
        thresholds: (T,) the thresholds tau.
        iou: (I,) the required IoUs.
        images: number of images counted.
        changes: (n, 3), see `BoxCounts`: the best threshold is then chosen among all real numbers, not
            among `thresholds`.

    Raises:
        InputError: no image was counted.
    """
    per_iou, threshold = _at_best(correct, thresholds, images)
    if changes is not None:
        best, threshold = _best_of_changes(changes, len(iou))
        per_iou = best * 100.0 / images
    return BoxScore(float(per_iou.mean()), per_iou, threshold, correct.copy(), thresholds, iou, images)


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


def max_box_acc(
    heatmaps: Any,
    boxes: Sequence[Any],
    image_sizes: Sequence[Sequence[float]],
    iou: float | Sequence[float] = 0.5,
    contours: Contours = "largest",
    protocol: Protocol = "reference",
    thresholds: int = 1000,
    threads: int | None = None,
) -> BoxScore:
    """MaxBoxAcc of a split that fits in memory.

    Args:
        heatmaps: (N, H, W) in [0, 1], an array, a tensor on any device, or N maps of any sizes.
        boxes: for each image a (K, 4) xyxy array in pixels of the original image.
        image_sizes: for each image its original (width, height).
        iou: the required IoUs, each with its own best threshold.
        contours: score the largest contour, or count an image if any contour's box is correct.
        protocol: `reference` or `exact`, see `MaxBoxAcc`.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use for the reference protocol; all cores by default.

    Raises:
        InputError: no image, something is malformed, or an argument is out of range.
        TypeError: an argument of a wrong type.

    Examples:
        >>> heatmap = np.zeros((1, 224, 224))
        >>> heatmap[0, 50:150, 60:160] = 1.0
        >>> max_box_acc(heatmap, [np.array([[60, 50, 160, 150]])], [(224, 224)]).accuracy
        100.0
    """
    required, grid = check_criterion(iou, contours, protocol), threshold_grid(thresholds)
    (found,) = box_counts(
        heatmaps, boxes, image_sizes, [(required, contours)], protocol, grid, check_threads(threads)
    )
    changes = found.changes if protocol == "exact" else None
    return box_score(found.correct, grid, required, len(boxes), changes)


def max_box_acc_v2(
    heatmaps: Any,
    boxes: Sequence[Any],
    image_sizes: Sequence[Sequence[float]],
    iou: float | Sequence[float] = V2_IOU,
    protocol: Protocol = "reference",
    thresholds: int = 1000,
    threads: int | None = None,
) -> BoxScore:
    """MaxBoxAccV2 of a split that fits in memory: `max_box_acc` with all contours and IoU .3, .5 and .7.

    Args:
        heatmaps: as for `max_box_acc`, like the other arguments.
        boxes: for each image a (K, 4) xyxy array in pixels of the original image.
        image_sizes: for each image its original (width, height).
        iou: the IoUs averaged over.
        protocol: `reference` or `exact`.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use for the reference protocol; all cores by default.

    Raises:
        InputError: as `max_box_acc`.
    """
    return max_box_acc(heatmaps, boxes, image_sizes, iou, "all", protocol, thresholds, threads)


def max_box_acc_v3(
    heatmaps: Any,
    boxes: Sequence[Any],
    image_sizes: Sequence[Sequence[float]],
    iou: float | Sequence[float] = V2_IOU,
    thresholds: int = 1000,
    threads: int | None = None,
) -> BoxScore:
    """MaxBoxAccV3 of a split that fits in memory: ground-truth boxes found, rather than images.

    The name is that of a derivative of the reference evaluator, made for images of several objects; no paper
    defines it. At each threshold the contours of an image are matched with its ground-truth boxes one to one,
    in
    order of IoU. The score is the fraction of all ground-truth boxes whose match has the required IoU, at the
    threshold that is best for the split, averaged over the IoUs. With one box per image it is MaxBoxAccV2.
    Where
    two pairs have the same IoU the match may be another than in the derivative, which takes them in the order
    in
    which OpenCV finds the contours.

    Args:
        heatmaps: as for `max_box_acc`, like the other arguments.
        boxes: for each image a (K, 4) xyxy array in pixels of the original image, at most 255.
        image_sizes: for each image its original (width, height).
        iou: the IoUs averaged over, each with its own best threshold.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use; all cores by default.

    Returns:
        The score; its `images` is the number of ground-truth boxes.

    Raises:
        InputError: as `max_box_acc`.
    """
    required, grid = check_criterion(iou, "each", "reference"), threshold_grid(thresholds)
    (found,) = box_counts(
        heatmaps, boxes, image_sizes, [(required, "each")], "reference", grid, check_threads(threads)
    )
    return box_score(found.correct, grid, required, sum(len(np.atleast_2d(one)) for one in boxes))


def oracle_and_transferred(scored: BoxScore, fullsup: BoxScore | None = None) -> dict[str, float]:
    """A score under both threshold policies, in percent.

    `oracle` takes the thresholds that are best on the scored images themselves, as published tables do;
    `transferred` takes those that are best on a fully supervised split.

    Args:
        scored: the score on the reported images.
        fullsup: the same score on the split on which thresholds are chosen; if None, only the oracle.
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
    """Best IoU of one heatmap with any ground-truth box at each threshold.

    Args:
        heatmap: (H, W) floating point in [0, 1]; 224 x 224 for the reference protocol.
        boxes: (K, 4) xyxy in pixels of the original image.
        image_size: (width, height) of the original image.
        contours: the largest contour or all of them.
        protocol: `reference` compares integer boxes in the 224 x 224 frame whatever the map's size, as
            the reference evaluator does; `exact` compares float boxes in the map's own frame.
        thresholds: a number of evenly spaced thresholds, or the thresholds themselves.
        name: the image's name in error messages.

    Returns:
        (T,) float64.

    Raises:
        InputError: heatmap, boxes or size are malformed.
    """
    grid = threshold_grid(thresholds) if isinstance(thresholds, int) else np.asarray(thresholds)
    levels = to_levels(check_heatmap(heatmap, name), protocol)
    truth = scaled_truth(boxes, image_size, levels.shape, protocol, name)
    return level_ious(levels, truth, contours, protocol)[levels.at(grid)]


# ------------------------------------------------------------------------------- localization accuracy


@dataclass(frozen=True)
class LocalizationScore(_Curves):
    """GT-known, Top-1 and Top-5 localization accuracy over a split.

    Attributes:
        gt_known: percent of images whose box is correct, at its best threshold.
        top1: percent whose box is correct and whose label has the highest logit, at its best threshold.
        top5: percent whose box is correct and whose label is among the five highest logits.
        threshold: (3,) best tau of each of the three, the smallest of equals.
        correct: (3, T) int64, images correct at each threshold.
        thresholds: (T,) the thresholds tau.
        classified: (2,) percent of images whose label has the highest logit, and is among the five highest.
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

    def to_pandas(self) -> pandas.DataFrame:
        """The curves as a data frame: one row per threshold, accuracies in percent."""
        curves = self.correct * 100.0 / self.images
        names = ("gt_known", "top1", "top5")
        return data_frame({"threshold": self.thresholds, **dict(zip(names, curves, strict=True))})


def label_rank(logits: Any, labels: Any) -> np.ndarray:
    """Number of classes ranked before the label, the lower index first among equal logits.

    Args:
        logits: (N, C), an array or a tensor.
        labels: (N,) class indices.

    Returns:
        (N,) int64; 0 where the label has the highest logit.

    Raises:
        InputError: shapes do not agree, a label is out of range, or a logit is NaN.
        TypeError: labels that are not integers.
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
        raise InputError(f"logits of {int(np.isnan(scores).any(1).sum())} images contain NaN")
    own = np.take_along_axis(scores, index[:, None], 1)
    earlier = np.arange(scores.shape[1])[None] < index[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(1)


def rank_counts(rank: np.ndarray) -> np.ndarray:
    """(3,) int64 counts of (N,) ranks of the label: all images, rank 0 (Top-1), rank below 5 (Top-5)."""
    return np.array([len(rank), (rank < 1).sum(), (rank < 5).sum()], dtype=np.int64)


def topk_accuracy(counts: np.ndarray) -> dict[str, float]:
    """Classification accuracy in percent, "top1" and "top5", from the counts of `rank_counts` or their sum
    over processes."""
    images, top1, top5 = counts.tolist()
    return {"top1": 100 * top1 / max(images, 1), "top5": 100 * top5 / max(images, 1)}


def localization_counts(correct: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """(3, T) int64 images correct at each threshold: GT-known, Top-1, Top-5.

    Args:
        correct: (N, T) booleans, whether each image's box is correct at each threshold.
        rank: (N,) rank of each label, from `label_rank`.

    Raises:
        InputError: the numbers of images differ.
    """
    if len(correct) != len(rank):
        raise InputError(f"{len(rank)} labels for {len(correct)} images, expected as many")
    return np.stack([correct[among].sum(0, dtype=np.int64) for among in (rank >= 0, rank < 1, rank < 5)])


def localization_score(correct: np.ndarray, thresholds: np.ndarray, ranks: np.ndarray) -> LocalizationScore:
    """The score of counts.

    Args:
        correct: (3, T) counts of `localization_counts`.
        thresholds: (T,) the thresholds tau.
        ranks: (3,) counts of `rank_counts` of the same images.

    Raises:
        InputError: no image was counted.
    """
    images = int(ranks[0])
    best, threshold = _at_best(correct, thresholds, images)
    gt_known, top1, top5 = best.tolist()
    classified = ranks[1:] * 100.0 / images
    return LocalizationScore(gt_known, top1, top5, threshold, correct.copy(), thresholds, classified, images)


def localization_accuracy(
    heatmaps: Any,
    boxes: Sequence[Any],
    image_sizes: Sequence[Sequence[float]],
    logits: Any,
    labels: Any,
    iou: float = 0.5,
    contours: Contours = "largest",
    protocol: Protocol = "reference",
    thresholds: int = 1000,
    threads: int | None = None,
) -> LocalizationScore:
    """GT-known, Top-1 and Top-5 localization accuracy of a split that fits in memory.

    Args:
        heatmaps: (N, H, W) in [0, 1], of the labelled class.
        boxes: for each image a (K, 4) xyxy array in pixels of the original image.
        image_sizes: for each image its original (width, height).
        logits: (N, C) of the classifier.
        labels: (N,) class indices.
        iou: the required IoU.
        contours: the largest contour's box, or any contour's.
        protocol: `reference` or `exact`; the latter is sampled at the same thresholds.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use for the reference protocol; all cores by default.

    Raises:
        InputError: no image, something is malformed, or an argument is out of range.
    """
    required, grid = check_criterion(iou, contours, protocol), threshold_grid(thresholds)
    rank = label_rank(logits, labels)
    (found,) = box_counts(
        heatmaps, boxes, image_sizes, [(required, contours)], protocol, grid, check_threads(threads), True
    )
    return localization_score(localization_counts(found.iou >= required[0], rank), grid, rank_counts(rank))


# ------------------------------------------------------------------------------------------------ PxAP


@dataclass(frozen=True)
class PixelScore:
    """PxAP over a split.

    Attributes:
        pxap: percent, the area under the precision-recall curve.
        threshold: tau at which the IoU of the object and {heatmap >= tau} over all pixels is best.
        iou: percent, that IoU; its threshold also has the best F1.
        precision: (T + 2,) precision at the edges tau, then 1 and 2; NaN where nothing is predicted.
        recall: (T + 2,) recall at the same edges.
        thresholds: (T,) the thresholds tau.
        images: number of images scored.
        histogram: (2, T + 2) int64, background and object pixels of all images; see `pixel_histogram`.
        histograms: (N, 2, T + 2), the same of each image; N is 0 unless the metric keeps them.
    """

    pxap: float
    threshold: float
    iou: float
    precision: np.ndarray
    recall: np.ndarray
    thresholds: np.ndarray
    images: int
    histogram: np.ndarray
    histograms: np.ndarray

    def at(self, threshold: float) -> float:
        """Percent IoU of the object and {heatmap >= tau} over all pixels at a given threshold.

        Raises:
            InputError: a threshold outside [0, 1).
        """
        at = int(threshold_index(threshold, len(self.thresholds)))
        background, inside = self.histogram[:, at:].sum(1).tolist()
        return float(100 * inside / (background + int(self.histogram[1].sum())))

    def to_pandas(self) -> pandas.DataFrame:
        """The precision-recall curve as a data frame: one row per threshold tau."""
        count = len(self.thresholds)
        return data_frame(
            {
                "threshold": self.thresholds,
                "precision": self.precision[:count],
                "recall": self.recall[:count],
            }
        )


def resize_mask(mask: Any, size: int = REFERENCE_SIDE) -> np.ndarray:
    """A (H, W) mask of 0, 1 and 255 as (size, size) uint8, by nearest neighbour as in the reference."""
    return cv2.resize(np.asarray(mask, np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)


def combine_masks(
    objects: Sequence[Any], ignore: Any | None = None, size: int = REFERENCE_SIDE
) -> np.ndarray:
    """The instance masks and the ignore region of one image as one mask.

    Args:
        objects: (H, W) masks, above one half where the object is (0 to 255 images or booleans).
        ignore: (H, W) likewise, or None.
        size: side in pixels of the result; masks are resized by nearest neighbour, as in the reference.

    Returns:
        (size, size) uint8: 1 object, 255 ignored and not object, 0 background.

    Raises:
        InputError: there is no object mask.
    """
    if not len(objects):
        raise InputError("an image has no object mask, expected at least one")

    def inside(mask: Any) -> np.ndarray:
        return resize_mask(as_array(mask).astype(np.float32) > 0.5, size).astype(bool)

    union = np.any([inside(one) for one in objects], axis=0)
    ignored = np.zeros_like(union) if ignore is None else inside(ignore) & ~union
    return union.astype(np.uint8) + IGNORE * ignored.astype(np.uint8)


def pixel_histogram(
    heatmap: np.ndarray, mask: np.ndarray, thresholds: np.ndarray, name: str = "heatmap"
) -> np.ndarray:
    """Pixels of one image by class and value.

    Args:
        heatmap: (H, W) in [0, 1].
        mask: (H, W) of 0 background, 1 object, 255 ignored.
        thresholds: (T,) evenly spaced, from `threshold_grid`.
        name: the image's name in error messages.

    Returns:
        (2, T + 2) int64: background and object pixels in [tau_k, tau_(k+1)), …, [1, 2), [2, 3].

    Raises:
        InputError: shapes differ, the mask has other values, or the heatmap is malformed.
    """
    from heatbox.metrics._kernels import count_pixels

    heatmap, mask = as_array(heatmap), as_array(mask)
    if heatmap.shape != mask.shape:
        raise InputError(f"{name}: has shape {heatmap.shape} but its mask {mask.shape}, expected the same")
    heatmap = check_heatmap(heatmap, name)
    counts = np.zeros((3, len(thresholds) + 2), np.int64)
    edges = np.concatenate([thresholds, [1.0, 2.0, 3.0]])
    masks = mask if mask.dtype == np.uint8 else mask.astype(np.uint8)
    arrays = [np.require(one, requirements=("C", "W")) for one in (heatmap, masks)]
    same = masks is mask or np.array_equal(masks, mask)
    if not same or not count_pixels(*arrays, edges, counts, np.empty(heatmap.shape[1], np.int32)):
        raise InputError(f"{name}: its mask has values other than 0, 1 and 255")
    return counts[:2]


def pixel_histograms(
    heatmaps: Any, masks: Any, thresholds: np.ndarray, threads: int | None = None
) -> list[np.ndarray]:
    """`pixel_histogram` of each image of a batch, on several threads.

    Args:
        heatmaps: (N, H, W) in [0, 1], or N maps of any sizes.
        masks: for each an (H, W) mask of 0 background, 1 object, 255 ignored.
        thresholds: (T,) evenly spaced, from `threshold_grid`.
        threads: threads to use; all cores by default.

    Raises:
        InputError: something is malformed, or the numbers differ.
    """
    maps = as_maps(heatmaps)
    check_length(masks, "masks", "an (H, W) mask for each image")
    if len(maps) != len(masks):
        raise InputError(f"got {len(maps)} heatmaps and {len(masks)} masks, expected as many")

    def histogram(i: int) -> np.ndarray:
        return pixel_histogram(maps[i], masks[i], thresholds, f"heatmap {i}")

    threads = min(threads or available_cores(), len(maps))
    if threads <= 1:
        return [histogram(i) for i in range(len(maps))]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(histogram, range(len(maps))))


def pixel_score(
    histogram: np.ndarray, thresholds: np.ndarray, images: int, histograms: np.ndarray | None = None
) -> PixelScore:
    """The score of pooled pixels.

    Args:
        histogram: (2, T + 2) background and object pixels by value, summed over images; see
            `pixel_histogram`.
        thresholds: (T,) the thresholds tau.
        images: number of images.
        histograms: (N, 2, T + 2) the same of each image, if kept.

    Raises:
        InputError: there is no object pixel.
    """
    background, inside = histogram
    if inside.sum() == 0:
        raise InputError("no object pixel in any mask, expected at least one")
    tp, fp = inside[::-1].cumsum(), background[::-1].cumsum()
    with np.errstate(invalid="ignore"):
        precision = tp / (tp + fp)
    recall = tp / inside.sum()
    iou = (tp / (fp + inside.sum()))[::-1][: len(thresholds)]
    best = int(iou.argmax())
    return PixelScore(
        pxap=float(average_precision(histogram)),
        threshold=float(thresholds[best]),
        iou=float(iou[best] * 100),
        precision=precision[::-1],
        recall=recall[::-1],
        thresholds=thresholds,
        images=images,
        histogram=histogram.copy(),
        histograms=np.zeros((0, *histogram.shape), np.uint16) if histograms is None else histograms,
    )


def average_precision(histogram: np.ndarray) -> np.ndarray:
    """(...,) percent: PxAP of (..., 2, T + 2) histograms of background and object pixels."""
    fp, tp = np.moveaxis(histogram[..., ::-1].cumsum(-1), -2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(tp + fp > 0, tp / (tp + fp), 0)
        recall = tp / tp[..., -1:]
    return (precision[..., 1:] * np.diff(recall)).sum(-1) * 100


def pxap(heatmaps: Any, masks: Any, thresholds: int = 1000, threads: int | None = None) -> PixelScore:
    """PxAP of a split that fits in memory.

    Args:
        heatmaps: (N, H, W) in [0, 1], or N maps of any sizes.
        masks: for each an (H, W) mask of 0 background, 1 object, 255 ignored.
        thresholds: number of evenly spaced thresholds, the bins of the histogram.
        threads: threads to use; all cores by default.

    Raises:
        InputError: something is malformed, or no mask has an object pixel.

    Examples:
        >>> mask = np.zeros((1, 8, 8), np.uint8)
        >>> mask[0, 2:5, 3:7] = 1
        >>> pxap(mask * 0.9, mask).pxap
        100.0
    """
    grid = threshold_grid(thresholds)
    found = pixel_histograms(heatmaps, masks, grid, check_threads(threads))
    return pixel_score(sum(found, np.zeros((2, len(grid) + 2), np.int64)), grid, len(found))
