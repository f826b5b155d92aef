"""PxAP of a split with its intervals: each image's histogram is kept, 4 KB an image, and resampled.

The score is that of the pooled pixels (`heatbox.metrics.pxap`); the bootstrap draws images, not pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from heatbox._utils.cores import available_cores
from heatbox.boxes.contours import threshold_grid
from heatbox.boxes.ops import REFERENCE_SIDE
from heatbox.errors import InputError
from heatbox.maps.baselines import BASELINES, CENTRE
from heatbox.metrics.bootstrap import Interval
from heatbox.metrics.localization import classified, rank_counts
from heatbox.metrics.pxap import PixelScore, average_precision, pixel_histogram, pixel_score

RESAMPLES = 1000
_IMAGES_AT_A_TIME = 1024


def in_frame(mask: np.ndarray) -> np.ndarray:
    """A (H, W) mask of 0, 1 and 255 as (224, 224), by nearest neighbours as in the reference evaluator."""
    side = (REFERENCE_SIDE, REFERENCE_SIDE)
    return cv2.resize(np.asarray(mask, np.uint8), side, interpolation=cv2.INTER_NEAREST)


@dataclass(frozen=True)
class MaskScore:
    """The score of one map on one split, and each image's part in it.

    Attributes:
        score: of all pixels together.
        ids: the images.
        histograms: (N, 2, T + 2) background and object pixels of each by the map's value.
    """

    score: PixelScore
    ids: Sequence[str]
    histograms: np.ndarray


@dataclass
class MaskScorer:
    """Scores a stream of 224 x 224 maps against masks of the same size.

    Args:
        thresholds: number of evenly spaced thresholds.
        threads: threads to use; all cores by default.
    """

    thresholds: int = 1000
    threads: int | None = None
    ids: list[str] = field(default_factory=list, init=False)
    histograms: list[np.ndarray] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.grid = threshold_grid(self.thresholds)

    def update(self, ids: Sequence[str], maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
        """Add images.

        Raises:
            InputError: a map or a mask is malformed; then no image of this call is counted.
        """

        def histogram(index: int) -> np.ndarray:
            found = pixel_histogram(maps[index], masks[index], self.grid)
            return found.astype(np.uint16)  # 224 x 224 pixels are less than 2^16

        with ThreadPoolExecutor(self.threads or available_cores()) as pool:
            self.histograms += list(pool.map(histogram, range(len(maps))))
        self.ids += ids

    def result(self) -> MaskScore:
        """The score over every image so far.

        Raises:
            InputError: there is none, or no mask has an object pixel.
        """
        if not self.ids:
            raise InputError("no image was scored against its masks")
        histograms = np.stack(self.histograms)
        pooled = histograms.sum(0, dtype=np.int64)
        return MaskScore(pixel_score(pooled, self.grid, len(self.ids)), self.ids, histograms)


def pxap_interval(
    found: MaskScore,
    other: MaskScore | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of PxAP over images, or of the difference of two maps' PxAP on the same images.

    Args:
        found: the map.
        other: the one to be subtracted; both see the same resamples.
        resamples: number of resamples.
        level: share of resamples that the interval holds.
        seed: of the resampling.

    Raises:
        InputError: the images of the two differ.
    """
    if other is not None and list(other.ids) != list(found.ids):
        raise InputError("maps that are compared have to be of the same images, in the same order")
    estimate, drawn = found.score.pxap, _resampled(found, resamples, seed)
    if other is not None:
        estimate, drawn = estimate - other.score.pxap, drawn - _resampled(other, resamples, seed)
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level)


def _resampled(found: MaskScore, resamples: int, seed: int) -> np.ndarray:
    """(resamples,) PxAP of as many images drawn with replacement."""
    images, _, bins = found.histograms.shape
    rng = np.random.default_rng(seed)
    times = rng.multinomial(images, np.full(images, 1 / images), resamples).astype(np.float64)
    pooled = np.zeros((resamples, 2 * bins))
    for first in range(0, images, _IMAGES_AT_A_TIME):
        part = slice(first, first + _IMAGES_AT_A_TIME)
        pooled += times[:, part] @ found.histograms[part].reshape(-1, 2 * bins).astype(np.float64)
    return average_precision(pooled.reshape(resamples, 2, bins))


def mask_table_of(
    found: Mapping[str, MaskScore], fullsup: Mapping[str, MaskScore], ranks: np.ndarray | None
) -> dict[str, Any]:
    """Scores of methods and baselines against masks → the content of metrics.json."""
    centre = found[CENTRE]
    table: dict[str, Any] = {"images": centre.score.images, "truth": "masks"}
    if ranks is not None:
        table |= classified(rank_counts(ranks))
    table["methods"] = {
        name: _summary(one, fullsup.get(name), None if one is centre else centre)
        for name, one in found.items()
    }
    table["baselines"] = list(BASELINES)
    own = {name: one for name, one in found.items() if name not in BASELINES}
    table["differences"] = [
        {"first": later, "second": earlier, "PxAP": _with_ends(pxap_interval(own[later], own[earlier]))}
        for earlier, later in itertools.combinations(own, 2)
    ]
    return table


def _summary(found: MaskScore, fullsup: MaskScore | None, baseline: MaskScore | None) -> dict[str, Any]:
    score, interval = found.score, pxap_interval(found)
    summary: dict[str, Any] = {
        "PxAP": score.pxap,
        "PxAP_interval": [interval.low, interval.high],
        "pixel_iou": score.iou,
        "threshold": score.threshold,
        "precision": score.precision.tolist(),
        "recall": score.recall.tolist(),
    }
    if fullsup is not None:
        pooled = found.histograms.sum(0, dtype=np.int64)
        at = int(np.flatnonzero(score.thresholds == fullsup.score.threshold)[0])
        background, inside = pooled[:, at:].sum(1).tolist()
        overlap = 100 * inside / (background + int(pooled[1].sum()))
        summary["transferred"] = {"pixel_iou": overlap, "threshold": fullsup.score.threshold}
    if baseline is not None:
        summary["minus_baseline"] = {"PxAP": _with_ends(pxap_interval(found, baseline))}
    return summary


def _with_ends(interval: Interval) -> dict[str, Any]:
    return {"value": interval.estimate, "interval": [interval.low, interval.high]}
