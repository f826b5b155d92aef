"""How well probabilities tell right boxes from wrong ones.

`area_under_roc` measures their order alone, `expected_calibration_error` their values, and
`accuracy_by_group` shows both: images in order of their probability, in groups of equal size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from heatbox._utils.checks import as_numbers, check_integer
from heatbox.errors import InputError


def area_under_roc(probability: Any, correct: Any) -> float:
    """Probability that a right box has a higher confidence than a wrong one; equal ones count one half.

    Hanley and McNeil, "The meaning and use of the area under a receiver operating characteristic (ROC)
    curve", 1982.

    Args:
        probability: (N,) confidences, any real numbers.
        correct: (N,) booleans.

    Returns:
        a fraction; .5 for confidences without information, NaN where all boxes are right, or all wrong.

    Raises:
        InputError: lengths that differ, no box, or values that are not finite.
        TypeError: values that are not numbers.

    Examples:
        >>> area_under_roc([0.9, 0.8, 0.3, 0.2], [True, False, True, False])
        0.75
    """
    values, right = _pairs(probability, correct)
    positive = int(right.sum())
    if positive in (0, len(right)):
        return float("nan")
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[place]
    wins = ranks[right].sum() - positive * (positive + 1) / 2
    return float(wins / (positive * (len(right) - positive)))


def accuracy_by_group(probability: Any, correct: Any, groups: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Mean confidence and accuracy of groups of equal size, the most confident boxes first.

    Args:
        probability: (N,) confidences in [0, 1].
        correct: (N,) booleans.
        groups: number of groups, 10 for deciles; fewer where there are fewer boxes.

    Returns:
        (groups,) mean confidence and (groups,) accuracy, both fractions, float64.

    Raises:
        InputError, TypeError: as `area_under_roc`; or `groups` below 1.
    """
    values, right = _pairs(probability, correct)
    check_integer(groups, "groups")
    order = np.argsort(-values, kind="stable")
    parts = np.array_split(order, min(groups, len(order)))
    return (
        np.array([values[part].mean() for part in parts]),
        np.array([right[part].mean() for part in parts]),
    )


def expected_calibration_error(probability: Any, correct: Any, groups: int = 10) -> float:
    """Mean difference between confidence and accuracy over groups of equal size, as a fraction.

    Nguyen and O'Connor, "Posterior calibration and exploratory analysis for natural language processing
    models", 2015 (adaptive binning). Few boxes in a group raise it also for perfect probabilities: by about
    .04 with 100 boxes in each of ten groups and an accuracy of .7.

    Args:
        probability: (N,) confidences in [0, 1].
        correct: (N,) booleans.
        groups: number of groups.

    Raises:
        InputError, TypeError: as `accuracy_by_group`.
    """
    values, right = _pairs(probability, correct)
    confidence, accuracy = accuracy_by_group(values, right, groups)
    sizes = [len(part) for part in np.array_split(np.arange(len(values)), len(confidence))]
    return float(np.average(abs(confidence - accuracy), weights=sizes))


def _pairs(probability: Any, correct: Any) -> tuple[np.ndarray, np.ndarray]:
    values = as_numbers(probability, "probability", "numbers (N,)")
    right = as_numbers(correct, "correct", "booleans (N,)")
    if values.ndim != 1 or values.shape != right.shape or len(values) == 0:
        raise InputError(
            f"probability and correct have shapes {values.shape} and {right.shape}, expected both (N,)"
        )
    if not np.isfinite(values).all():
        raise InputError("probability contains values that are not finite")
    return values, right.astype(bool)
