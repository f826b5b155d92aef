"""Scores of classes from logits: softmax for one class per image, sigmoid for each class alone.

Every score that a command prints or saves comes from `class_scores`. It needs no deep learning library, so
that saved logits are exported without one.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from heatbox._utils.checks import check_choice
from heatbox.config import ScoreFunction
from heatbox.errors import AssumptionWarning

if TYPE_CHECKING:
    from torch import nn

    from heatbox.models.introspect import ClassifierView

SCORE_FUNCTIONS: tuple[ScoreFunction, ...] = ("softmax", "sigmoid")


def class_scores(logits: Any, function: ScoreFunction) -> np.ndarray:
    """Scores of all classes.

    Args:
        logits: (..., K) array.
        function: "softmax", by which the scores of an image add up to 1; or "sigmoid", by which each is the
            probability of its class alone.

    Returns:
        (..., K) float64 in [0, 1]; NaN where a logit that it depends on is NaN.

    Raises:
        InputError: another function.

    Examples:
        >>> class_scores([5.0, 5.0, -5.0], "sigmoid").round(3).tolist()
        [0.993, 0.993, 0.007]
        >>> class_scores([5.0, 5.0, -5.0], "softmax").round(3).tolist()
        [0.5, 0.5, 0.0]
    """
    check_choice(function, "scores", SCORE_FUNCTIONS)
    values = np.asarray(logits, dtype=np.float64)
    if function == "sigmoid":
        return np.exp(-np.logaddexp(0, -values))
    with np.errstate(invalid="ignore"):  # infinite logits have the score NaN
        shifted = np.exp(values - values.max(-1, keepdims=True))
    scores: np.ndarray = shifted / shifted.sum(-1, keepdims=True)
    return scores


def score_function(
    asked: ScoreFunction | None, classes: int, trained: ScoreFunction | None = None
) -> ScoreFunction:
    """Which function makes scores of logits.

    Args:
        asked: the choice of the user, which is followed.
        classes: number of logits K; the softmax of one logit would be 1 whatever the logit.
        trained: how the network was trained, if that is known.

    Returns:
        what was asked for, "sigmoid" for one logit, how the network was trained, or otherwise "softmax".

    Raises:
        InputError: another choice.

    Warns:
        AssumptionWarning: softmax is assumed, since nothing is known of how the network was trained.
    """
    if asked is not None:
        check_choice(asked, "scores", SCORE_FUNCTIONS)
        return asked
    if classes > 1 and trained is None:
        what = "how the network was trained is not known, assumed: softmax scores, for one class per image"
        ways = "--scores sigmoid or Localizer(scores='sigmoid') is for several"
        warnings.warn(f"{what}; {ways}", AssumptionWarning, stacklevel=3)
    return "sigmoid" if classes == 1 else trained or "softmax"


def trained_function(model: nn.Module | ClassifierView) -> ScoreFunction | None:
    """How a network was trained: by its last activation, or as its configuration says; None if unknown."""
    from heatbox.models.outputs import trained_scores

    network: Any = getattr(model, "model", model)  # of a view
    found: Any = getattr(model, "activation", None) or trained_scores(network)
    return found if found in SCORE_FUNCTIONS else None
