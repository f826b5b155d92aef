"""The pixel scores as metrics; the functions are in `heatbox.metrics.localization_scores`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heatbox._utils.checks import check_choice
from heatbox.boxes.contours import threshold_grid
from heatbox.errors import InputError
from heatbox.metrics._arguments import check_threads
from heatbox.metrics.base import Metric
from heatbox.metrics.localization_scores import (
    CURVE,
    QUANTILE,
    SCORES,
    TOLERANCE,
    TOP_K,
    MapScores,
    map_scores,
)


@dataclass(frozen=True)
class MeanScore:
    """A pixel score over a split.

    Attributes:
        value: percent, the mean of `values` where the ground truth defines them.
        values: (N,) float64 in [0, 1], one per image, NaN where undefined.
        images: number of images scored.
        undefined: how many of these the mean leaves out.
    """

    value: float
    values: np.ndarray
    images: int
    undefined: int


class LocalizationScores(Metric):
    """Every pixel score over a split, updated batch by batch in one pass over the maps.

    Args:
        tolerance: of the pointing game with tolerance, in pixels of the image.
        k: pixels of the top-k intersection.
        quantile: fraction of the pixels below the threshold of `iou_quantile`.
        thresholds: number of evenly spaced thresholds of the IoU curve.
        threads: threads to use; all cores by default.

    Raises:
        InputError: an argument is out of range.
        TypeError: an argument of a wrong type.

    Examples:
        >>> metric = LocalizationScores()
        >>> heatmap = np.zeros((1, 224, 224))
        >>> heatmap[0, 56:112, 56:168] = 1.0
        >>> metric.update(heatmap, [np.array([[0, 0, 250, 500]])], [(500, 500)])
        >>> metric.compute()["energy_pointing_game"].value
        50.0
    """

    JOINED = ("values", "curve")

    def __init__(
        self,
        tolerance: float = TOLERANCE,
        k: int = TOP_K,
        quantile: float = QUANTILE,
        thresholds: int = CURVE,
        threads: int | None = None,
    ) -> None:
        self.tolerance, self.k, self.quantile = tolerance, k, quantile
        self.thresholds, self.threads = threshold_grid(thresholds), check_threads(threads)
        self.reset()
        self.update(np.zeros((0, 1, 1)), [], [])  # raises for arguments out of range

    def settings(self) -> tuple[Any, ...]:
        """The settings that two metrics must share to be merged."""
        return float(self.tolerance), self.k, float(self.quantile), len(self.thresholds)

    def reset(self) -> None:
        """Forget every image."""
        self.values = [np.zeros((0, len(SCORES)))]
        self.curve = [np.zeros((0, len(self.thresholds)), np.float32)]

    def update(
        self,
        heatmaps: Any,
        boxes: Sequence[Any] | None = None,
        image_sizes: Sequence[Sequence[float]] | None = None,
        masks: Any = None,
    ) -> MapScores:
        """Add images and return their scores.

        Args:
            heatmaps: (N, H, W) in [0, 1], an array, a tensor on any device, or N maps of any sizes.
            boxes: for each image a (K, 4) xyxy array in pixels of the original image.
            image_sizes: for each image its original (width, height).
            masks: in place of boxes, for each image an (H, W) mask of 0 background, 1 object, 255 ignored.

        Raises:
            InputError: something is malformed; then no image of this call is counted.
        """
        found = map_scores(
            heatmaps,
            boxes,
            image_sizes,
            masks=masks,
            tolerance=self.tolerance,
            k=self.k,
            quantile=self.quantile,
            thresholds=len(self.thresholds),
            threads=self.threads,
        )
        self.add(found)
        return found

    def add(self, found: MapScores) -> None:
        """Add images that have been scored."""
        if len(found.values):
            self.values.append(found.values)
            self.curve.append(found.curve)

    def all(self) -> MapScores:
        """The scores of all images.

        Raises:
            InputError: no image was added.
        """
        values = np.concatenate(self.values)
        if not len(values):
            raise InputError("no image has been scored, expected at least one update")
        return MapScores(values, np.concatenate(self.curve), self.thresholds)

    def compute(self) -> Any:
        """Score → `MeanScore` over all images, in the order of `heatbox.metrics.localization_scores.SCORES`.

        Raises:
            InputError: no image was added.
        """
        found = self.all()
        return {name: mean_score(found[name]) for name in SCORES}


def mean_score(values: np.ndarray) -> MeanScore:
    """The mean of per-image values, undefined ones left out; NaN if all are."""
    defined = values[~np.isnan(values)]
    value = float(defined.mean() * 100) if len(defined) else float("nan")
    return MeanScore(value, values, len(values), len(values) - len(defined))


class _OneScore(LocalizationScores):
    """One of the pixel scores over a split, updated batch by batch.

    Attributes:
        name: of the score in `heatbox.metrics.localization_scores.SCORES`.
    """

    name = ""

    def compute(self) -> MeanScore:
        """The score over all images.

        Raises:
            InputError: no image was added.
        """
        return mean_score(self.all()[self.name])


class PointingGame(_OneScore):
    """The pointing game over a split (Zhang et al., ECCV 2016).

    Args:
        tolerance: distance up to which a pixel hits, in pixels of the image; the published game has 15.
        threads: threads to use; all cores by default.

    Raises:
        InputError: an argument is out of range.
        TypeError: an argument of a wrong type.
    """

    def __init__(self, tolerance: float = 0, threads: int | None = None) -> None:
        super().__init__(tolerance=tolerance, threads=threads)

    name = "pointing_game_tolerant"  # the same without tolerance


class EnergyPointingGame(_OneScore):
    """The energy-based pointing game over a split, also called relevance mass (Wang et al., 2020).

    Args:
        threads: threads to use; all cores by default.
    """

    def __init__(self, threads: int | None = None) -> None:
        super().__init__(threads=threads)

    name = "energy_pointing_game"


class RelevanceRank(_OneScore):
    """The relevance rank accuracy over a split (Arras et al., 2022).

    Args:
        threads: threads to use; all cores by default.
    """

    def __init__(self, threads: int | None = None) -> None:
        super().__init__(threads=threads)

    name = "relevance_rank"


class TopKIntersection(_OneScore):
    """The top-k intersection over a split (Theiner et al., 2022).

    Args:
        k: number of pixels.
        threads: threads to use; all cores by default.
    """

    def __init__(self, k: int = TOP_K, threads: int | None = None) -> None:
        super().__init__(k=k, threads=threads)

    name = "top_k_intersection"


class InsideOutsideAUC(_OneScore):
    """The AUC of the pixels inside against those outside, over a split (Fawcett, 2006).

    Args:
        threads: threads to use; all cores by default.
    """

    def __init__(self, threads: int | None = None) -> None:
        super().__init__(threads=threads)

    name = "auc"


class MapIoU(_OneScore):
    """The IoU of the object and the foreground of each map, over a split.

    Args:
        threshold: "half" the maximum, "otsu", or "quantile"; see `heatbox.metrics.functional.map_iou`.
        quantile: fraction of the pixels that are background with "quantile".
        threads: threads to use; all cores by default.

    Raises:
        InputError: another threshold, or a quantile out of range.
    """

    def __init__(
        self, threshold: str = "half", quantile: float = QUANTILE, threads: int | None = None
    ) -> None:
        check_choice(threshold, "threshold", ("half", "otsu", "quantile"))
        self.name = f"iou_{threshold}"
        super().__init__(quantile=quantile, threads=threads)

    def settings(self) -> tuple[Any, ...]:
        """The settings that two metrics must share to be merged."""
        return self.name, *super().settings()
