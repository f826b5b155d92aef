"""What a table shows of one map on one split: scores, intervals, both threshold policies."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from heatbox.boxes.contours import threshold_grid
from heatbox.evaluation.records import Records
from heatbox.maps.baselines import BASELINES, CENTRE
from heatbox.metrics.bootstrap import (
    Interval,
    best_threshold_interval,
    bootstrap_interval,
    paired_interval,
    pxap_interval,
)
from heatbox.metrics.functional import (
    BoxScore,
    PixelScore,
    localization_counts,
    localization_score,
    rank_counts,
    topk_accuracy,
)

LARGEST, EVERY = "MaxBoxAcc", "MaxBoxAccV2"


@dataclass(frozen=True)
class MapScore:
    """The scores of one map on one split, and each image's part in them.

    Attributes:
        largest: score of the largest contour at IoU .3 .5 .7; at .5 it is MaxBoxAcc.
        every: score of all contours; its mean is MaxBoxAccV2.
        records: per-image outcomes of both, under "MaxBoxAcc" and "MaxBoxAccV2".
    """

    largest: BoxScore
    every: BoxScore
    records: Records

    @property
    def half(self) -> int:
        """Index of IoU .5."""
        return int(np.argmin(abs(self.largest.iou - 0.5)))

    def at_best(self, name: str) -> np.ndarray:
        """(N, I) booleans of a score at its own best thresholds, for MaxBoxAcc those of IoU .5 alone."""
        score = self.largest if name == LARGEST else self.every
        bits = self.records.at(name, score.threshold)
        return bits[:, [self.half]] if name == LARGEST else bits


def table_of(
    found: Mapping[str, MapScore], fullsup: Mapping[str, MapScore], ranks: np.ndarray | None
) -> dict[str, Any]:
    """Box scores of methods and baselines → the content of metrics.json."""

    def row(one: MapScore, fullsup: MapScore | None, baseline: MapScore | None) -> dict[str, Any]:
        return summarise(one, fullsup, baseline, ranks)

    def difference(later: MapScore, earlier: MapScore) -> dict[str, Any]:
        return {
            name: _with_ends(paired_interval(later.at_best(name), earlier.at_best(name)))
            for name in (LARGEST, EVERY)
        }

    return _table({"images": found[CENTRE].largest.images}, found, fullsup, ranks, row, difference)


def mask_table_of(
    found: Mapping[str, PixelScore], fullsup: Mapping[str, PixelScore], ranks: np.ndarray | None
) -> dict[str, Any]:
    """Scores of methods and baselines against masks → the content of metrics.json.

    The scores hold each image's histogram (`PxAP` with `per_image`).
    """
    head = {"images": found[CENTRE].images, "truth": "masks"}

    def difference(later: PixelScore, earlier: PixelScore) -> dict[str, Any]:
        return {"PxAP": _with_ends(pxap_interval(later.histograms, earlier.histograms))}

    return _table(head, found, fullsup, ranks, summarise_masks, difference)


S = TypeVar("S")


def _table(
    head: dict[str, Any],
    found: Mapping[str, S],
    fullsup: Mapping[str, S],
    ranks: np.ndarray | None,
    row: Callable[[S, S | None, S | None], dict[str, Any]],
    difference: Callable[[S, S], dict[str, Any]],
) -> dict[str, Any]:
    """A row for each method and baseline, and every later method minus every earlier one.

    Both are of the same images, each map at its own best thresholds.
    """
    centre = found[CENTRE]
    table = dict(head)
    if ranks is not None:
        table |= topk_accuracy(rank_counts(ranks))
    table["methods"] = {
        name: row(one, fullsup.get(name), None if one is centre else centre) for name, one in found.items()
    }
    table["baselines"] = list(BASELINES)
    own = {name: one for name, one in found.items() if name not in BASELINES}
    table["differences"] = [
        {"first": later, "second": earlier, **difference(own[later], own[earlier])}
        for earlier, later in itertools.combinations(own, 2)
    ]
    return table


def summarise_masks(
    found: PixelScore, fullsup: PixelScore | None = None, baseline: PixelScore | None = None
) -> dict[str, Any]:
    """PxAP in percent with its 95% bootstrap interval over images, and the pixel IoU at its best threshold.

    Args:
        found: the map's score on the split that is reported, with each image's histogram.
        fullsup: its score on the split on which thresholds are chosen, for the transferred pixel IoU.
        baseline: score of a baseline on the same images, for the paired difference.

    Returns:
        a dictionary that JSON can hold.
    """
    interval = pxap_interval(found.histograms)
    summary: dict[str, Any] = {
        "PxAP": found.pxap,
        "PxAP_interval": _ends(interval),
        "pixel_iou": found.iou,
        "threshold": found.threshold,
        "precision": found.precision.tolist(),
        "recall": found.recall.tolist(),
    }
    if fullsup is not None:
        transferred = found.at(fullsup.threshold)
        summary["transferred"] = {"pixel_iou": transferred, "threshold": fullsup.threshold}
    if baseline is not None:
        difference = pxap_interval(found.histograms, baseline.histograms)
        summary["minus_baseline"] = {"PxAP": _with_ends(difference)}
    return summary


def summarise(
    found: MapScore,
    fullsup: MapScore | None = None,
    baseline: MapScore | None = None,
    label_rank: np.ndarray | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores in percent with 95% bootstrap intervals over images.

    Args:
        found: the map's scores on the split that is reported.
        fullsup: its scores on the split on which thresholds are chosen, for the transferred policy.
        baseline: scores of a baseline on the same images, for the paired difference.
        label_rank: (N,) number of classes the classifier puts before the label, images in the order of the
            records, for Top-1 and Top-5 localization accuracy.
        resamples: number of bootstrap resamples.
        seed: of the resampling.

    Returns:
        a dictionary that JSON can hold: "MaxBoxAcc" and "MaxBoxAccV2" at the thresholds best on these images,
        with "..._interval"; "threshold" of MaxBoxAcc; the curves under "largest_contour" and
        "all_contours"; and, where asked for, "localization", "transferred" and "minus_baseline".
    """
    bits = found.records.bits(LARGEST)[:, [found.half]]
    summary: dict[str, Any] = {
        LARGEST: float(found.largest.per_iou[found.half]),
        f"{LARGEST}_interval": _ends(best_threshold_interval(bits, resamples, seed=seed)),
        "threshold": float(found.largest.threshold[found.half]),
        EVERY: found.every.accuracy,
        f"{EVERY}_interval": _ends(best_threshold_interval(found.records.bits(EVERY), resamples, seed=seed)),
        "largest_contour": _curves(found.largest),
        "all_contours": _curves(found.every),
    }
    if label_rank is not None:
        summary["localization"] = _localization(bits[:, 0], label_rank)
    if fullsup is not None:
        summary["transferred"] = _transferred(found, fullsup, resamples, seed)
    if baseline is not None:
        summary["minus_baseline"] = {
            name: _with_ends(
                paired_interval(found.at_best(name), baseline.at_best(name), resamples, seed=seed)
            )
            for name in (LARGEST, EVERY)
        }
    return summary


def _transferred(found: MapScore, fullsup: MapScore, resamples: int, seed: int) -> dict[str, Any]:
    """Both scores at the thresholds that are best on the fully supervised split."""
    largest = found.records.at(LARGEST, fullsup.largest.threshold)[:, [found.half]]
    every = found.records.at(EVERY, fullsup.every.threshold)
    return {
        LARGEST: _with_ends(bootstrap_interval(largest, resamples, seed=seed)),
        EVERY: _with_ends(bootstrap_interval(every, resamples, seed=seed)),
        "threshold": float(fullsup.largest.threshold[fullsup.half]),
        "images": fullsup.largest.images,
    }


def _localization(right: np.ndarray, label_rank: np.ndarray) -> dict[str, float]:
    """GT-known, Top-1 and Top-5 localization accuracy in percent, each at its own best threshold."""
    counts = localization_counts(right, label_rank)
    score = localization_score(counts, threshold_grid(right.shape[1]), rank_counts(label_rank))
    return {"gt_known": score.gt_known, "top1": score.top1, "top5": score.top5}


def _curves(score: BoxScore) -> dict[str, Any]:
    return {
        "iou": score.iou.tolist(),
        "accuracy": score.per_iou.tolist(),
        "threshold": score.threshold.tolist(),
        "correct": score.correct.tolist(),
    }


def _ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _with_ends(interval: Interval) -> dict[str, Any]:
    return {"value": interval.estimate, "interval": _ends(interval)}
