"""Scores of maps over a split, and the tables of them that metrics.json contains."""

from __future__ import annotations

import itertools
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from heatbox.boxes.contours import threshold_grid, threshold_index
from heatbox.config import MetricName, ScoreFunction
from heatbox.data.types import Example
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.breakdown import breakdown
from heatbox.inference.calibration import DEFAULT_THRESHOLD, Calibration, MapCalibration
from heatbox.inference.scores import class_scores
from heatbox.maps.baselines import BASELINES, CENTRE
from heatbox.metrics.bootstrap import (
    Interval,
    best_threshold_interval,
    bootstrap_interval,
    paired_interval,
    pxap_interval,
)
from heatbox.metrics.detection import LocalizationAP, class_weights, ranked_ap, ranked_precision
from heatbox.metrics.functional import (
    BoxScore,
    PixelScore,
    data_frame,
    label_rank,
    localization_counts,
    localization_score,
    rank_counts,
    topk_accuracy,
)
from heatbox.metrics.localization_scores import MapScores

if TYPE_CHECKING:
    import pandas

    from heatbox.evaluation.pseudo import PseudoScores

LARGEST, EVERY, EACH = "MaxBoxAcc", "MaxBoxAccV2", "MaxBoxAccV3"
PIXEL_RESAMPLES, AP_RESAMPLES = 1000, 200
"""Bootstrap resamples of the scores whose values differ from image to image, and of rankings."""


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
        pixels: the pixel scores of each image, where they were computed.
        matches: of each image, the `packed_matches` of MaxBoxAccV3, where it was computed.
    """

    scores: dict[str, BoxScore]
    images: int
    resumed: int = 0
    missing: tuple[str, ...] = ()
    malformed: tuple[tuple[str, str], ...] = ()
    unknown: tuple[str, ...] = ()
    records: Records | None = None
    pixels: MapScores | None = None
    matches: Sequence[bytes] | None = None

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
            if name == EACH:
                continue
            bits = self.outcomes.at(name, score.threshold)
            columns |= {f"{name}_{iou:g}": bits[:, k] for k, iou in enumerate(score.iou)}
        return data_frame(columns)


@dataclass(frozen=True)
class MaskScore(PixelScore):
    """PxAP of one map on a split.

    Attributes:
        scores: the pixel scores of each image, where they were computed.
    """

    scores: MapScores | None = None


# -------------------------------------------------------------------------------------------------- tables

Score = SplitScore | PixelScore
"""Of one map: box scores with records, or PxAP with the histogram of each image (`PxAP` with `per_image`)."""


PIXELS: dict[str, tuple[str, ...]] = {
    "pointing_game": ("pointing_game", "pointing_game_tolerant"),
    "energy_pointing_game": ("energy_pointing_game",),
    "relevance_rank": ("relevance_rank",),
    "top_k_intersection": ("top_k_intersection",),
    "auc": ("auc",),
    "iou": ("iou", "iou_half", "iou_otsu", "iou_quantile"),
}
"""Option of --metrics → its pixel scores. `iou` is the mean IoU at the one threshold that is best for the
split."""


def pixel_scores(metrics: Sequence[MetricName]) -> tuple[str, ...]:
    """Names of the pixel scores that were asked for."""
    return tuple(
        name for option, names in PIXELS.items() if option in metrics or "all" in metrics for name in names
    )


class Images:
    """The images of a scoring in the order of their outcomes: labels, boxes and, of a run, logits.

    Args:
        function: how logits become scores of classes.
    """

    def __init__(self, function: ScoreFunction = "softmax") -> None:
        self.function = function
        self.labels: list[int] = []
        self.sizes: list[Sequence[float]] = []
        self.boxes: list[np.ndarray] = []
        self.of_target: list[bool] = []  # whether the map is of the label's class
        self.ranges: list[str] = []  # sentences about the values of the maps
        self.class_names: Sequence[str] = ()
        self.pseudo: PseudoScores | None = None
        self._ranks: list[np.ndarray] = []
        self._confidence: list[np.ndarray] = []

    def add(self, records: Sequence[Mapping[str, Any]], sizes: Sequence[Sequence[float]]) -> None:
        """Add records of a run."""
        logits, labels = np.stack([one["logits"] for one in records]), [one["label"] for one in records]
        targets = [one.get("target", one["label"]) for one in records]
        self._ranks.append(label_rank(logits, labels))
        scores = class_scores(logits, self.function)
        self._confidence.append(scores[np.arange(len(labels)), targets])
        self.labels += targets
        self.of_target += [label == target for label, target in zip(labels, targets, strict=True)]
        self.sizes += sizes
        self.boxes += [one.get("boxes", np.zeros((0, 4))) for one in records]

    def add_examples(self, examples: Sequence[Example]) -> None:
        """Add examples of a split, whose logits are not known."""
        self.labels += [one.label for one in examples]
        self.of_target += [True] * len(examples)
        self.sizes += [one.size for one in examples]
        self.boxes += [one.boxes for one in examples]

    @property
    def ranks(self) -> np.ndarray | None:
        """(N,) rank of each label among the logits, where they are known."""
        return np.concatenate(self._ranks) if self._ranks else None

    @property
    def confidence(self) -> np.ndarray | None:
        """(N,) score of the class of each map, where the logits are known."""
        return np.concatenate(self._confidence) if self._confidence else None


def table_of(
    found: Mapping[str, Score],
    fullsup: Mapping[str, Score],
    images: Images | None,
    metrics: Sequence[MetricName] = ("boxes",),
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Scores of methods and baselines → the content of metrics.json.

    Args:
        found: the scores by name, all of boxes or all of masks.
        fullsup: the scores on the split on which thresholds are chosen; may be empty.
        images: the images in the order of the outcomes, if their labels are known.
        metrics: scores besides those of boxes, or PxAP of masks.
        calibration: thresholds of some of the maps, for "calibrated" and "fixed"; see `add_calibrated`.

    Raises:
        InputError: the calibration is of none of the maps.
    """
    centre = found[CENTRE]
    ranks = None if images is None else images.ranks
    table: dict[str, Any] = {"images": centre.images}
    if isinstance(centre, PixelScore):
        table["truth"] = "masks"
    if ranks is not None:
        table |= topk_accuracy(rank_counts(ranks))
    table["methods"] = {
        name: summarise(one, fullsup.get(name), None if one is centre else centre, ranks)
        for name, one in found.items()
    }
    values = {name: image_values(one, images, metrics) for name, one in found.items()}
    ranked = {"localization_ap", "all"} & set(metrics) and isinstance(centre, SplitScore)
    ranking = ranking_of(images) if ranked else None
    more = bool(values[CENTRE]) or ranking is not None
    for name, one in found.items() if more else ():
        entry = table["methods"][name]
        entry["localization_scores"] = _localization(one, values[name], fullsup.get(name))
        if ranking is not None:
            entry["localization_scores"]["localization_ap"] = ranked_estimate(ranking, _hits(one))
        if one is not centre:
            entry["minus_baseline"]["localization_scores"] = _apart(values, name, CENTRE, ranking, found)
    table["baselines"] = list(BASELINES)
    own = {name: one for name, one in found.items() if name not in BASELINES}
    if calibration is not None:
        add_calibrated(table["methods"], own, calibration)
    if images is not None and images.pseudo is not None:
        table["pseudo_boxes"] = add_pseudo(table["methods"], found, own, images.pseudo)
    boxed = {name: one.at_best(LARGEST)[:, 0] for name, one in own.items() if isinstance(one, SplitScore)}
    if boxed and images is not None:
        table["breakdown"] = breakdown(boxed, images.boxes, images.sizes, images.labels, images.class_names)
    for name, one in own.items():
        if isinstance(one, SplitScore):
            any_threshold = one.outcomes.bits(LARGEST)[:, one.half].any(1)
            table["methods"][name]["per_image_thresholds"] = float(any_threshold.mean() * 100)
    table["differences"] = [
        {"first": later, "second": earlier, **_difference(own[later], own[earlier])}
        | ({"localization_scores": _apart(values, later, earlier, ranking, own)} if more else {})
        for earlier, later in itertools.combinations(own, 2)
    ]
    return table


def _pixels_of(found: Score | None) -> MapScores | None:
    return (
        found.scores
        if isinstance(found, MaskScore)
        else found.pixels
        if isinstance(found, SplitScore)
        else None
    )


def image_values(found: Score, images: Images | None, metrics: Sequence[MetricName]) -> dict[str, np.ndarray]:
    """Score → (N,) values whose mean over images is the score; NaN where the ground truth leaves it
    undefined."""
    scores = _pixels_of(found)
    values = {}
    if scores is not None:
        for name in pixel_scores(metrics):
            values[name] = scores.curve[:, scores.best].astype(np.float64) if name == "iou" else scores[name]
    if isinstance(found, SplitScore) and found.matches is not None:
        score = found.scores[EACH]
        values["max_box_acc_v3"] = _matched(found.matches, score) * len(found.matches) / score.images
    if isinstance(found, SplitScore) and images is not None and {"cor_loc", "all"} & set(metrics):
        values["cor_loc"] = found.at_best(LARGEST)[:, 0] * class_weights(images.labels)
    return values


def packed_matches(matched: np.ndarray) -> list[bytes]:
    """(N, I, T) uint8 numbers of matched ground-truth boxes → a few dozen bytes of each image."""
    return [zlib.compress(one.tobytes(), 1) for one in matched]


def unpacked_matches(packed: Sequence[bytes], thresholds: int) -> np.ndarray:
    """The reverse of `packed_matches`; a ValueError where bytes are damaged."""
    try:
        joined = b"".join(map(zlib.decompress, packed))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    return np.frombuffer(joined, np.uint8).reshape(len(packed), -1, thresholds)


def _matched(matches: Sequence[bytes], score: BoxScore, threshold: np.ndarray | None = None) -> np.ndarray:
    """(N,) matched ground-truth boxes of each image, averaged over the IoUs, at given or the best
    thresholds."""
    at = threshold_index(score.threshold if threshold is None else threshold, len(score.thresholds))
    found = []
    for first in range(0, len(matches), 1024):
        matched = unpacked_matches(matches[first : first + 1024], len(score.thresholds))
        found.append(matched[:, np.arange(len(at)), at].mean(1))
    return np.concatenate(found)


def _localization(
    found: Score, values: Mapping[str, np.ndarray], fullsup: Score | None
) -> dict[str, dict[str, Any]]:
    """Each score in percent with its interval, and where it has one the threshold that was chosen for it."""
    table = {name: _mean_estimate(one) for name, one in values.items()}
    scores = _pixels_of(found)
    if scores is not None and "iou" in table:
        table["iou"]["threshold"] = float(scores.thresholds[scores.best])
        other = _pixels_of(fullsup)
        if other is not None:
            transferred = _mean_estimate(scores.curve[:, other.best].astype(np.float64))
            table["iou_transferred"] = transferred | {"threshold": float(other.thresholds[other.best])}
    if isinstance(found, SplitScore) and found.matches and isinstance(fullsup, SplitScore):
        score, chosen = found.scores[EACH], fullsup.scores[EACH].threshold
        each = _matched(found.matches, score, chosen) * len(found.matches) / score.images
        table["max_box_acc_v3_transferred"] = _mean_estimate(each)
    return table


@dataclass(frozen=True)
class Ranking:
    """What localization AP needs besides hits.

    Attributes:
        confidence: (N,) of the class of each map.
        labels: (N,) classes.
        has: (N,) whether the image has an object of that class.
    """

    confidence: np.ndarray
    labels: np.ndarray
    has: np.ndarray

    def score(self, found: np.ndarray) -> LocalizationAP:
        """The AP of (N,) booleans, whether the box of each image is right."""
        return ranked_ap(found & self.has, self.confidence, self.labels, self.has)

    def drawn(self, found: np.ndarray) -> np.ndarray:
        """(R,) percent of resamples, the same for any ranking of as many images; NaN without an object."""
        rng, hits, drawn = np.random.default_rng(0), found & self.has, []
        for _ in range(AP_RESAMPLES):
            pick = rng.integers(0, len(hits), len(hits))
            objects = int(self.has[pick].sum())
            drawn.append(ranked_precision(hits[pick], self.confidence[pick], objects) if objects else np.nan)
        return 100 * np.array(drawn)


def ranking_of(images: Images | None, index: Any = slice(None)) -> Ranking | None:
    """For localization AP of the maps of some images, with the confidence that their logits give; None if it
    is not defined."""
    if images is None or images.confidence is None:
        return None
    has = np.array(images.of_target, bool)[index]
    return Ranking(images.confidence[index], np.array(images.labels)[index], has) if has.any() else None


def ranked_estimate(ranking: Ranking, found: np.ndarray) -> dict[str, Any]:
    """Localization AP with its interval."""
    score = ranking.score(found)
    ends = np.nanquantile(ranking.drawn(found), [0.025, 0.975]).tolist()
    return {"value": score.ap, "interval": ends, "mean_over_classes": score.mean}


def ranked_difference(
    later: tuple[Ranking, np.ndarray], earlier: tuple[Ranking, np.ndarray]
) -> dict[str, Any]:
    """The localization AP of one map minus that of another on the same images with its paired interval."""
    apart = later[0].score(later[1]).ap - earlier[0].score(earlier[1]).ap
    drawn = later[0].drawn(later[1]) - earlier[0].drawn(earlier[1])
    return {"value": apart, "interval": np.nanquantile(drawn, [0.025, 0.975]).tolist()}


def values_of_part(
    values: Mapping[str, np.ndarray], images: Images, index: np.ndarray
) -> dict[str, np.ndarray]:
    """`image_values` of some of the images; those that weight images by classes or objects do so again."""
    found = {name: one[index] for name, one in values.items()}
    labels, objects = np.array(images.labels), np.array([len(np.atleast_2d(one)) for one in images.boxes])
    if "cor_loc" in found:
        found["cor_loc"] = found["cor_loc"] / class_weights(labels)[index] * class_weights(labels[index])
    if "max_box_acc_v3" in found:
        found["max_box_acc_v3"] = found["max_box_acc_v3"] * objects.mean() / objects[index].mean()
    return found


def _apart(
    values: Mapping[str, Mapping[str, np.ndarray]],
    later: str,
    earlier: str,
    ranking: Ranking | None,
    found: Mapping[str, Score],
) -> dict[str, Any]:
    """The paired differences of the scores of --metrics between two maps."""
    apart = _paired(values[later], values[earlier])
    if ranking is not None:
        first, second = ((ranking, _hits(found[name])) for name in (later, earlier))
        apart["localization_ap"] = ranked_difference(first, second)
    return apart


def _hits(found: Score) -> np.ndarray:
    assert isinstance(found, SplitScore)
    return found.at_best(LARGEST)[:, 0]


def _mean_estimate(values: np.ndarray) -> dict[str, Any]:
    """The mean of the defined values with its interval, and how many are undefined."""
    defined = values[~np.isnan(values)]
    missing = {"undefined": len(values) - len(defined)} if len(defined) < len(values) else {}
    if not len(defined):
        return {"value": float("nan"), "interval": [float("nan")] * 2, **missing}
    return _estimate(bootstrap_interval(defined, PIXEL_RESAMPLES)) | missing


def _paired(later: Mapping[str, np.ndarray], earlier: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Score → one map minus another on the images for which the ground truth defines it."""
    return {name: _mean_estimate(later[name] - earlier[name]) for name in later}


def add_calibrated(
    entries: Mapping[str, dict[str, Any]], found: Mapping[str, Score], calibration: Calibration
) -> None:
    """Add the scores at calibrated thresholds, and at the default threshold, to the entries of metrics.json.

    Both are of the images that took no part in the calibration.

    Args:
        entries: of the maps; those that the calibration knows get "calibrated" and "fixed", each with both
            scores, the "threshold" of MaxBoxAcc and the number of "images".
        found: the scores of the maps, with records.
        calibration: the thresholds.

    Raises:
        InputError: the calibration is of none of the maps, or the scores are of masks.

    Warns:
        AssumptionWarning: some or all images took part.
    """
    if not any(name in calibration.methods for name in found):
        calibration.of(next(iter(found)))  # raises
    part = set(calibration.ids)
    for name, one in found.items():
        if isinstance(one, PixelScore):
            raise InputError(f"{calibration.where}: is of boxes, but the maps are scored against masks")
        if name not in calibration.methods:
            continue
        others = np.array([image not in part for image in one.outcomes.ids])
        if not others.all():
            left = f"{(~others).sum()} of {len(others)} images took part in it"
            rest = "the calibrated scores are of the others" if others.any() else "none is left to score"
            warnings.warn(f"{calibration.where}: {left}, {rest}", AssumptionWarning, stacklevel=2)
        if others.any():
            known: MapCalibration = calibration.methods[name]
            entries[name]["calibrated"] = _at(one, known.threshold, known.thresholds_v2, others)
            entries[name]["fixed"] = _at(one, DEFAULT_THRESHOLD, (DEFAULT_THRESHOLD,) * 3, others)


def add_pseudo(
    entries: Mapping[str, dict[str, Any]],
    found: Mapping[str, Score],
    own: Mapping[str, Score],
    pseudo: PseudoScores,
) -> dict[str, Any]:
    """Add the scores at thresholds that pseudo-boxes chose, what they lose, and those at the fixed threshold.

    Args:
        entries: the entries of "methods" in metrics.json, which get "pseudo", and "fixed" unless a
            calibration gave it.
        found: the scores of maps and baselines.
        own: those of the maps alone.
        pseudo: their scores against the pseudo-boxes.

    Returns:
        the entry "pseudo_boxes" of metrics.json: whose boxes they are, how many are right, the agreement of
        each map with the others, and the map that has the largest.
    """
    for name, against in pseudo.scores.items():
        one = found[name]
        assert isinstance(one, SplitScore)
        every = np.ones(len(one.outcomes.ids), bool)
        half = float(against.scores[LARGEST].threshold[against.half])
        v2 = against.scores[EVERY].threshold
        at = {
            LARGEST: one.outcomes.at(LARGEST, np.full(len(v2), half))[:, [one.half]],
            EVERY: one.outcomes.at(EVERY, v2),
        }
        lost = {key: _estimate(paired_interval(bits, one.at_best(key))) for key, bits in at.items()}
        entries[name]["pseudo"] = _at(one, half, v2, every) | {"minus_oracle": lost}
        entries[name].setdefault("fixed", _at(one, DEFAULT_THRESHOLD, (DEFAULT_THRESHOLD,) * len(v2), every))
    about: dict[str, Any] = {"map": pseudo.source, "images": pseudo.scores[next(iter(own))].images}
    if len(pseudo.right):
        about[LARGEST] = _estimate(bootstrap_interval(pseudo.right))
    if pseudo.agreement:
        chosen = max(pseudo.agreement, key=lambda name: pseudo.agreement[name])
        about |= {"agreement": dict(pseudo.agreement), "chosen": chosen}
    return about


def _at(
    found: SplitScore, threshold: float, thresholds_v2: Sequence[float] | np.ndarray, kept: np.ndarray
) -> dict[str, Any]:
    """Both scores of some images at given thresholds, with their intervals."""
    scores = {LARGEST: [threshold] * len(thresholds_v2), EVERY: thresholds_v2}
    at = {name: found.outcomes.at(name, np.asarray(those))[kept] for name, those in scores.items()}
    return {
        LARGEST: _estimate(bootstrap_interval(at[LARGEST][:, [found.half]])),
        EVERY: _estimate(bootstrap_interval(at[EVERY])),
        "threshold": threshold,
        "images": int(kept.sum()),
    }


def own_maps(metrics: Mapping[str, Any]) -> list[str]:
    """Names of the maps in the content of metrics.json that are not baselines."""
    return [name for name in metrics["methods"] if name not in metrics["baselines"]]


def summarise(
    found: Score,
    fullsup: Score | None = None,
    baseline: Score | None = None,
    ranks: np.ndarray | None = None,
    resamples: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores in percent with 95% bootstrap intervals over images.

    Args:
        found: the map's scores on the split that is reported.
        fullsup: its scores on the split on which thresholds are chosen, for the transferred policy.
        baseline: scores of a baseline on the same images, for the paired difference.
        ranks: (N,) number of classes that the classifier ranks above the label, images in the order of
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
        summary = _box_summary(found, fullsup, ranks, resamples or 10_000, seed)
    if baseline is not None:
        summary["minus_baseline"] = _difference(found, baseline, resamples, seed)
    return summary


def _box_summary(
    found: SplitScore, fullsup: SplitScore | None, ranks: np.ndarray | None, resamples: int, seed: int
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
    if ranks is not None:
        counts = localization_counts(bits[:, 0], ranks)
        score = localization_score(counts, threshold_grid(bits.shape[2]), rank_counts(ranks))
        summary["localization"] = {"gt_known": score.gt_known, "top1": score.top1, "top5": score.top5}
    if fullsup is not None:
        chosen = {name: score.threshold for name, score in fullsup.scores.items()}
        at = {name: found.outcomes.at(name, threshold) for name, threshold in chosen.items() if name != EACH}
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
