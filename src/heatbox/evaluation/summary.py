"""What a table shows of one map on one split: scores, intervals, both threshold policies."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from heatbox.evaluation.records import Records
from heatbox.maps.baselines import BASELINES, CENTRE
from heatbox.metrics.bootstrap import (
    Interval,
    best_threshold_interval,
    bootstrap_interval,
    paired_interval,
)
from heatbox.metrics.localization import classified, rank_counts
from heatbox.metrics.max_box_acc import BoxScore

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
    """Scores of methods and baselines → the content of metrics.json."""
    centre = found[CENTRE]
    table: dict[str, Any] = {"images": centre.largest.images}
    if ranks is not None:
        table |= classified(rank_counts(ranks))
    table["methods"] = {
        name: summarise(one, fullsup.get(name), None if one is centre else centre, ranks)
        for name, one in found.items()
    }
    table["baselines"] = list(BASELINES)
    table["differences"] = _differences({name: one for name, one in found.items() if name not in BASELINES})
    return table


def _differences(found: Mapping[str, MapScore]) -> list[dict[str, Any]]:
    """Every later map minus every earlier one, on the same images, each at its own best thresholds."""
    pairs = itertools.combinations(found, 2)
    return [
        {
            "first": later,
            "second": earlier,
            **{
                name: _with_ends(paired_interval(found[later].at_best(name), found[earlier].at_best(name)))
                for name in (LARGEST, EVERY)
            },
        }
        for earlier, later in pairs
    ]


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
    among = {"gt_known": label_rank >= 0, "top1": label_rank < 1, "top5": label_rank < 5}
    return {name: 100 * float(right[chosen].sum(0).max()) / len(right) for name, chosen in among.items()}


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
