"""Scores of maps over a split, and the tables of them that metrics.json contains."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from heatbox.boxes.contours import threshold_grid, threshold_index
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
    data_frame,
    localization_counts,
    localization_score,
    rank_counts,
    topk_accuracy,
)

if TYPE_CHECKING:
    import pandas

LARGEST, EVERY = "MaxBoxAcc", "MaxBoxAccV2"


@dataclass(frozen=True)
class Records:
    """The outcome of every image of a scoring.

    Attributes:
        ids: image ids.
        correct: score name → (N, I, T) booleans packed along the last axis to (N, I, ceil(T / 8)) uint8.
        thresholds: number of thresholds T.
    """

    ids: Sequence[str]
    correct: dict[str, np.ndarray]
    thresholds: int

    def bits(self, name: str) -> np.ndarray:
        """(N, I, T) booleans of one score, unpacked: 1 KB per image and IoU."""
        return np.unpackbits(self.correct[name], axis=2, count=self.thresholds).view(bool)

    def at(self, name: str, threshold: np.ndarray) -> np.ndarray:
        """(N, I) booleans of one score at one threshold per IoU, each in [0, 1)."""
        columns = threshold_index(threshold, self.thresholds)
        packed = self.correct[name]
        picked = packed[:, np.arange(packed.shape[1]), columns // 8]
        return (picked >> (7 - columns % 8).astype(np.uint8) & 1).astype(bool)


@dataclass(frozen=True)
class SplitScore:
    """The box scores of one map on a split.

    Attributes:
        scores: "MaxBoxAcc" of the largest contour at IoU .3 .5 .7 (.5 is the published one), and
            "MaxBoxAccV2" of all contours.
        images: number of images scored, those of earlier calls included.
        resumed: of these, images that an earlier call had scored.
        missing: ids without a heatmap.
        malformed: (id, error message) of heatmaps that could not be scored.
        unknown: heatmaps that belong to no image, as paths within the folder.
        records: per-image outcomes under the names of the scores, where they were kept.
    """

    scores: dict[str, BoxScore]
    images: int
    resumed: int = 0
    missing: tuple[str, ...] = ()
    malformed: tuple[tuple[str, str], ...] = ()
    unknown: tuple[str, ...] = ()
    records: Records | None = None

    @property
    def half(self) -> int:
        """Index of IoU .5."""
        return int(np.argmin(abs(self.scores[LARGEST].iou - 0.5)))

    @property
    def outcomes(self) -> Records:
        """The records of a score that kept them."""
        assert self.records is not None
        return self.records

    def at_best(self, name: str) -> np.ndarray:
        """(N, I) booleans of a score at its own best thresholds, for MaxBoxAcc those of IoU .5 alone."""
        bits = self.outcomes.at(name, self.scores[name].threshold)
        return bits[:, [self.half]] if name == LARGEST else bits

    def summary(self) -> dict[str, float]:
        """The two published numbers in percent and their thresholds: MaxBoxAcc is the one at IoU .5."""
        largest, every = self.scores[LARGEST], self.scores[EVERY]
        return {
            LARGEST: float(largest.per_iou[self.half]),
            f"{LARGEST}_threshold": float(largest.threshold[self.half]),
            EVERY: every.accuracy,
            **{f"{EVERY}_threshold_{d:g}": float(t) for d, t in zip(every.iou, every.threshold, strict=True)},
        }

    def problems(self) -> list[str]:
        """The problems with heatmaps, one sentence each with its count and first case; empty if none."""
        found = []
        if self.missing:
            found.append(f"{len(self.missing)} images have no heatmap (the first: {self.missing[0]})")
        if self.malformed:
            first, why = self.malformed[0]
            found.append(f"{len(self.malformed)} heatmaps could not be scored (the first: {first}: {why})")
        if self.unknown:
            found.append(f"{len(self.unknown)} heatmaps belong to no image (the first: {self.unknown[0]})")
        return found

    def to_pandas(self) -> pandas.DataFrame:
        """One row per image: its id, and for each score and IoU whether it is correct at the best threshold.

        Raises:
            InputError: pandas is not installed.
        """
        columns: dict[str, Any] = {"id": list(self.outcomes.ids)}
        for name, score in self.scores.items():
            bits = self.outcomes.at(name, score.threshold)
            columns |= {f"{name}_{iou:g}": bits[:, k] for k, iou in enumerate(score.iou)}
        return data_frame(columns)


# -------------------------------------------------------------------------------------------------- tables

Score = SplitScore | PixelScore
"""Of one map: box scores with records, or PxAP with the histogram of each image (`PxAP` with `per_image`)."""


def table_of(
    found: Mapping[str, Score], fullsup: Mapping[str, Score], ranks: np.ndarray | None
) -> dict[str, Any]:
    """Scores of methods and baselines → the content of metrics.json.

    Args:
        found: the scores by name, all of boxes or all of masks.
        fullsup: the scores on the split on which thresholds are chosen; may be empty.
        ranks: (N,) rank of each label among the logits, where they are known.
    """
    centre = found[CENTRE]
    table: dict[str, Any] = {"images": centre.images}
    if isinstance(centre, PixelScore):
        table["truth"] = "masks"
    if ranks is not None:
        table |= topk_accuracy(rank_counts(ranks))
    table["methods"] = {
        name: summarise(one, fullsup.get(name), None if one is centre else centre, ranks)
        for name, one in found.items()
    }
    table["baselines"] = list(BASELINES)
    own = {name: one for name, one in found.items() if name not in BASELINES}
    table["differences"] = [
        {"first": later, "second": earlier, **_difference(own[later], own[earlier])}
        for earlier, later in itertools.combinations(own, 2)
    ]
    return table


def own_maps(metrics: Mapping[str, Any]) -> list[str]:
    """Names of the maps in the content of metrics.json that are not baselines."""
    return [name for name in metrics["methods"] if name not in metrics["baselines"]]


def summarise(
    found: Score,
    fullsup: Score | None = None,
    baseline: Score | None = None,
    label_rank: np.ndarray | None = None,
    resamples: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores in percent with 95% bootstrap intervals over images.

    Args:
        found: the map's scores on the split that is reported.
        fullsup: its scores on the split on which thresholds are chosen, for the transferred policy.
        baseline: scores of a baseline on the same images, for the paired difference.
        label_rank: (N,) number of classes that the classifier ranks above the label, images in the order of
            the records, for Top-1 and Top-5 localization accuracy.
        resamples: number of bootstrap resamples; by default 10,000 for boxes and 1,000 for masks.
        seed: of the resampling.

    Returns:
        a dictionary for JSON. Boxes: "MaxBoxAcc" and "MaxBoxAccV2" at the thresholds best on these
        images, with "..._interval"; "threshold" of MaxBoxAcc; the curves under "largest_contour" and
        "all_contours"; and, where asked for, "localization". Masks: "PxAP" with "PxAP_interval", "pixel_iou"
        at its best "threshold", "precision" and "recall". Both, where asked for: "transferred" and
        "minus_baseline".
    """
    if isinstance(found, PixelScore):
        assert not isinstance(fullsup, SplitScore)
        summary = _mask_summary(found, fullsup, resamples or 1000, seed)
    else:
        assert not isinstance(fullsup, PixelScore)
        summary = _box_summary(found, fullsup, label_rank, resamples or 10_000, seed)
    if baseline is not None:
        summary["minus_baseline"] = _difference(found, baseline, resamples, seed)
    return summary


def _box_summary(
    found: SplitScore, fullsup: SplitScore | None, label_rank: np.ndarray | None, resamples: int, seed: int
) -> dict[str, Any]:
    largest, every, half = found.scores[LARGEST], found.scores[EVERY], found.half
    bits = found.outcomes.bits(LARGEST)[:, [half]]
    every_bits = found.outcomes.bits(EVERY)
    summary: dict[str, Any] = {
        LARGEST: float(largest.per_iou[half]),
        f"{LARGEST}_interval": _ends(best_threshold_interval(bits, resamples, seed=seed)),
        "threshold": float(largest.threshold[half]),
        EVERY: every.accuracy,
        f"{EVERY}_interval": _ends(best_threshold_interval(every_bits, resamples, seed=seed)),
        "largest_contour": _curves(largest),
        "all_contours": _curves(every),
    }
    if label_rank is not None:
        counts = localization_counts(bits[:, 0], label_rank)
        score = localization_score(counts, threshold_grid(bits.shape[2]), rank_counts(label_rank))
        summary["localization"] = {"gt_known": score.gt_known, "top1": score.top1, "top5": score.top5}
    if fullsup is not None:
        chosen = {name: score.threshold for name, score in fullsup.scores.items()}
        at = {name: found.outcomes.at(name, threshold) for name, threshold in chosen.items()}
        summary["transferred"] = {
            LARGEST: _estimate(bootstrap_interval(at[LARGEST][:, [half]], resamples, seed=seed)),
            EVERY: _estimate(bootstrap_interval(at[EVERY], resamples, seed=seed)),
            "threshold": float(chosen[LARGEST][fullsup.half]),
            "images": fullsup.images,
        }
    return summary


def _mask_summary(found: PixelScore, fullsup: PixelScore | None, resamples: int, seed: int) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "PxAP": found.pxap,
        "PxAP_interval": _ends(pxap_interval(found.histograms, resamples=resamples, seed=seed)),
        "pixel_iou": found.iou,
        "threshold": found.threshold,
        "precision": found.precision.tolist(),
        "recall": found.recall.tolist(),
    }
    if fullsup is not None:
        iou = found.at(fullsup.threshold)
        summary["transferred"] = {"pixel_iou": iou, "threshold": fullsup.threshold}
    return summary


def _difference(later: Score, earlier: Score, resamples: int | None = None, seed: int = 0) -> dict[str, Any]:
    """One map minus another on the same images, each at its own best thresholds."""
    if isinstance(later, PixelScore) and isinstance(earlier, PixelScore):
        interval = pxap_interval(later.histograms, earlier.histograms, resamples or 1000, seed=seed)
        return {"PxAP": _estimate(interval)}
    assert isinstance(later, SplitScore)
    assert isinstance(earlier, SplitScore)
    return {
        name: _estimate(
            paired_interval(later.at_best(name), earlier.at_best(name), resamples or 10_000, seed=seed)
        )
        for name in (LARGEST, EVERY)
    }


def _curves(score: BoxScore) -> dict[str, Any]:
    return {
        "iou": score.iou.tolist(),
        "accuracy": score.per_iou.tolist(),
        "threshold": score.threshold.tolist(),
        "correct": score.correct.tolist(),
    }


def _ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _estimate(interval: Interval) -> dict[str, Any]:
    return {"value": interval.estimate, "interval": _ends(interval)}
