"""PxAP as a metric; the functions are in `heatbox.metrics.functional`."""

from __future__ import annotations

from typing import Any

import numpy as np

from heatbox.boxes.contours import threshold_grid
from heatbox.errors import InputError
from heatbox.metrics.base import Metric
from heatbox.metrics.functional import PixelScore, check_threads, pixel_histograms, pixel_score


class PxAP(Metric):
    """PxAP over a split, updated batch by batch.

    Args:
        thresholds: number of evenly spaced thresholds, the bins of the histogram.
        threads: threads to use; all cores by default.
        per_image: keep each image's histogram, 4 KB an image of at most 65,535 pixels at 1000 thresholds,
            for the intervals of `heatbox.metrics.bootstrap.pxap_interval`.

    Raises:
        InputError: an argument is out of range.
        TypeError: an argument of a wrong type.
    """

    SUMMED = ("histogram", "images")
    JOINED = ("histograms",)

    def __init__(self, thresholds: int = 1000, threads: int | None = None, per_image: bool = False) -> None:
        self.thresholds = threshold_grid(thresholds)
        self.threads = check_threads(threads)
        self.per_image = per_image
        self.reset()

    def settings(self) -> tuple[Any, ...]:
        """The settings that two metrics must share to be merged."""
        return len(self.thresholds), self.per_image

    def reset(self) -> None:
        """Forget every image."""
        self.histogram = np.zeros((2, len(self.thresholds) + 2), np.int64)
        self.images = 0
        self.histograms = [np.zeros((0, *self.histogram.shape), np.uint16)]

    def update(self, heatmaps: Any, masks: Any) -> None:
        """Add images.

        Args:
            heatmaps: (N, H, W) in [0, 1], or N maps of any sizes.
            masks: for each an (H, W) mask of 0 background, 1 object, 255 ignored.

        Raises:
            InputError: something is malformed; then no image of this call is counted.
        """
        found = pixel_histograms(heatmaps, masks, self.thresholds, self.threads)
        self.histogram = self.histogram + sum(found, np.zeros_like(self.histogram))
        self.images += len(found)
        if self.per_image and found:
            stacked = np.stack(found)
            self.histograms.append(stacked.astype(np.uint16 if stacked.max() < 2**16 else np.uint32))

    def compute(self) -> PixelScore:
        """The score over all images.

        Raises:
            InputError: no image was added, or no mask has an object pixel.
        """
        if self.images == 0:
            raise InputError("no image has been scored, expected at least one update")
        return pixel_score(self.histogram, self.thresholds, self.images, np.concatenate(self.histograms))
