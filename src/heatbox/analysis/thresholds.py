"""The threshold at which a map scores best, and the sensitivity of the score to it.

CAM Back Again, supplement 16: a high best threshold means that the map is active on more than the object, a
low one that it is active on less. The source prints means of 45, 28.5 and 4.1 percent for ConvNeXt, RepLKNet
and SLaK.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from heatbox.boxes.contours import threshold_grid
from heatbox.errors import InputError

PUBLISHED = {"ConvNeXt": 0.45, "RepLKNet": 0.285, "SLaK": 0.041}
"""Mean best thresholds of CAM on CUB-200-2011, by family (supplement 16)."""


@dataclass(frozen=True)
class ThresholdCurve:
    """The score of one map at every threshold.

    Attributes:
        thresholds: (T,) fractions of the map's maximum.
        score: (T,) percent of images whose box is correct at IoU .5 (MaxBoxAcc).
        score_v2: (T,) the same over all contours, mean of IoU .3, .5 and .7 at one common threshold.
        best: the threshold of the largest `score`, the smallest of equal ones.
        best_v2: (I,) the best threshold of each IoU that MaxBoxAccV2 averages.
        plateau: lowest and highest threshold within one point of the best score.
        images: number of images.
    """

    thresholds: np.ndarray
    score: np.ndarray
    score_v2: np.ndarray
    best: float
    best_v2: np.ndarray
    plateau: tuple[float, float]
    images: int


def threshold_curve(summary: Mapping[str, Any], images: int, iou: float = 0.5) -> ThresholdCurve:
    """The curve of one map, from its scores in metrics.json (see `heatbox.evaluation.summary`).

    Args:
        summary: with "largest_contour" and "all_contours", each with the counts of correct images.
        images: number of images scored.
        iou: of the MaxBoxAcc curve.

    Raises:
        InputError: the summary contains no curve at that IoU.
    """
    try:
        largest, every = summary["largest_contour"], summary["all_contours"]
        ious = np.asarray(largest["iou"], dtype=np.float64)
        correct = np.asarray(largest["correct"], dtype=np.float64) * 100 / images
        correct_v2 = np.asarray(every["correct"], dtype=np.float64) * 100 / images
        best_v2 = np.asarray(every["threshold"], dtype=np.float64)
    except (KeyError, TypeError) as error:
        raise InputError(f"the scores contain no curve over thresholds (no {error})") from error
    row = int(np.argmin(abs(ious - iou)))
    if abs(ious[row] - iou) > 1e-9:
        raise InputError(f"the scores contain no curve at IoU {iou}, only at {', '.join(map(str, ious))}")
    score = correct[row]
    thresholds = threshold_grid(len(score))
    within = thresholds[score >= score.max() - 1]
    return ThresholdCurve(
        thresholds,
        score,
        correct_v2.mean(0),
        float(thresholds[score.argmax()]),
        best_v2,
        (float(within.min()), float(within.max())),
        images,
    )
