"""PxAP: average precision of pixels against masks, exactly as the reference evaluator sums it.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020. Pixels of all
images go into two histograms over the heatmap's value, one for object and one for background pixels;
precision and recall at each bin edge follow, and PxAP is sum_k precision_k (recall_k - recall_(k-1)).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from heatbox._utils.checks import as_array, check_length, check_whole
from heatbox._utils.cores import available_cores
from heatbox.boxes.contours import check_heatmap, threshold_grid
from heatbox.errors import InputError
from heatbox.metrics.base import Accumulator
from heatbox.metrics.inputs import as_maps

IGNORE = 255
"""Mask value of pixels that are left out."""


@dataclass(frozen=True)
class PixelScore:
    """The outcome of mask scoring over a split.

    Attributes:
        pxap: percent, the area under the precision-recall curve.
        threshold: tau at which object and {heatmap >= tau} overlap best over all pixels.
        iou: percent, that overlap (intersection over union); its threshold also has the best F1.
        precision: (T + 2,) precision at the edges tau, then 1 and 2; NaN where nothing is predicted.
        recall: (T + 2,) recall at the same edges.
        thresholds: (T,) the thresholds tau.
        images: number of images scored.
    """

    pxap: float
    threshold: float
    iou: float
    precision: np.ndarray
    recall: np.ndarray
    thresholds: np.ndarray
    images: int


def combine_masks(objects: Sequence[Any], ignore: Any | None = None, size: int = 224) -> np.ndarray:
    """Instance masks and the ignore region of one image as one mask.

    Args:
        objects: (H, W) masks, above one half where the object is (0 to 255 pictures or booleans).
        ignore: (H, W) likewise, or None.
        size: side in pixels of the result; masks are resized by nearest neighbour, as in the reference.

    Returns:
        (size, size) uint8: 1 object, 255 ignored and not object, 0 background.

    Raises:
        InputError: there is no object mask.
    """
    if not len(objects):
        raise InputError("an image has no object mask, expected at least one")
    shapes = [_resized(as_array(one), size) for one in objects]
    inside = np.any(shapes, axis=0)
    left_out = np.zeros_like(inside) if ignore is None else _resized(as_array(ignore), size) & ~inside
    return inside.astype(np.uint8) + IGNORE * left_out.astype(np.uint8)


def _resized(mask: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_NEAREST) > 0.5


def pixel_histogram(heatmap: np.ndarray, mask: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Pixels by class and value of one image.

    Args:
        heatmap: (H, W) in [0, 1].
        mask: (H, W) of 0 background, 1 object, 255 ignored.
        thresholds: (T,) evenly spaced, from `threshold_grid`.

    Returns:
        (2, T + 2) int64: background and object pixels in [tau_k, tau_(k+1)), …, [1, 2), [2, 3].

    Raises:
        InputError: shapes differ, the mask has other values, or the heatmap is malformed.
    """
    return _histogram(as_array(heatmap), as_array(mask), thresholds, "heatmap")


def _histogram(heatmap: np.ndarray, mask: np.ndarray, thresholds: np.ndarray, name: str) -> np.ndarray:
    from heatbox.metrics._kernels.pixels import count_pixels

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


class PxAP(Accumulator):
    """Accumulates PxAP.

    Args:
        thresholds: number of evenly spaced thresholds, the bins of the histogram.
        threads: threads to use; all cores by default.
    """

    SUMMED = ("histogram", "images")

    def __init__(self, thresholds: int = 1000, threads: int | None = None) -> None:
        self.thresholds = threshold_grid(thresholds)
        if threads is not None:
            check_whole(threads, "threads")
        self.threads = threads
        self.reset()

    def settings(self) -> tuple[Any, ...]:
        """What two scores must share to be merged."""
        return (len(self.thresholds),)

    def reset(self) -> None:
        """Forget every image."""
        self.histogram = np.zeros((2, len(self.thresholds) + 2), np.int64)
        self.images = 0

    def update(self, heatmaps: Any, masks: Any) -> None:
        """Add images.

        Args:
            heatmaps: (N, H, W) in [0, 1], or N maps of any sizes.
            masks: for each an (H, W) mask of 0 background, 1 object, 255 ignored.

        Raises:
            InputError: something is malformed; then no image of this call is counted.
        """
        maps = as_maps(heatmaps)
        check_length(masks, "masks", "an (H, W) mask for each image")
        if len(maps) != len(masks):
            raise InputError(f"update got {len(maps)} heatmaps and {len(masks)} masks, expected as many")

        def histogram(i: int) -> np.ndarray:
            return _histogram(maps[i], as_array(masks[i]), self.thresholds, f"heatmap {i}")

        threads = min(self.threads or available_cores(), len(maps))
        if threads <= 1:
            found = [histogram(i) for i in range(len(maps))]
        else:
            with ThreadPoolExecutor(threads) as pool:
                found = list(pool.map(histogram, range(len(maps))))
        self.histogram = self.histogram + sum(found, np.zeros_like(self.histogram))
        self.images += len(maps)

    def compute(self) -> PixelScore:
        """The score over every image so far.

        Raises:
            InputError: there is none, or no mask has an object pixel.
        """
        return pixel_score(self.histogram, self.thresholds, self.images)


def pixel_score(histogram: np.ndarray, thresholds: np.ndarray, images: int) -> PixelScore:
    """The score of pooled pixels.

    Args:
        histogram: (2, T + 2) background and object pixels by value, summed over images; see
            `pixel_histogram`.
        thresholds: (T,) the thresholds tau.
        images: number of images, for the record.

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
    overlap = (tp / (fp + inside.sum()))[::-1][: len(thresholds)]
    best = int(overlap.argmax())
    return PixelScore(
        pxap=float(average_precision(histogram)),
        threshold=float(thresholds[best]),
        iou=float(overlap[best] * 100),
        precision=precision[::-1],
        recall=recall[::-1],
        thresholds=thresholds,
        images=images,
    )


def average_precision(histogram: np.ndarray) -> np.ndarray:
    """(...,) percent: PxAP of (..., 2, T + 2) histograms of background and object pixels."""
    fp, tp = np.moveaxis(histogram[..., ::-1].cumsum(-1), -2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(tp + fp > 0, tp / (tp + fp), 0)
        recall = tp / tp[..., -1:]
    return (precision[..., 1:] * np.diff(recall)).sum(-1) * 100
