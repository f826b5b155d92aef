"""Several networks together: the mean of their class scores, and the names of the means of their maps.

The mean of maps is `heatbox.maps.foreground.average_maps`. The networks must have the same classes in the
same order, and scores by the same function.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from heatbox.config import ScoreFunction
from heatbox.errors import AssumptionWarning, InputError
from heatbox.inference.scores import class_scores


def common_outputs(
    names: Sequence[str], classes: Sequence[int], functions: Sequence[ScoreFunction]
) -> ScoreFunction:
    """The function by which the logits of all networks become scores.

    Args:
        names: of the networks, for messages.
        classes: number of classes of each.
        functions: score function of each, see `heatbox.inference.scores.score_function`.

    Raises:
        InputError: the networks differ in one of these.
    """
    for name, number, function in zip(names, classes, functions, strict=True):
        if number != classes[0]:
            raise InputError(
                f"{names[0]} has {classes[0]} classes and {name} {number}, "
                "expected networks of the same classes"
            )
        if function != functions[0]:
            raise InputError(
                f"the scores of {names[0]} are by {functions[0]} and those of {name} by {function}; "
                "--scores sets one for all"
            )
    return functions[0]


def require_same_order(names: Sequence[str], class_names: Sequence[Sequence[str]]) -> None:
    """Compare the class names of networks, where they are known.

    Args:
        names: of the networks, for messages.
        class_names: the names of the classes of each; empty where they are not known.

    Raises:
        InputError: two networks have the same classes in another order.

    Warns:
        AssumptionWarning: classes have other names, or are not known of all networks.
    """
    known = [(name, list(map(str, classes))) for name, classes in zip(names, class_names, strict=True)]
    named = [(name, classes) for name, classes in known if classes]
    for name, classes in named[1:]:
        first_name, first = named[0]
        if classes == first:
            continue
        place = next(
            index for index, pair in enumerate(zip(first, classes, strict=False)) if len({*pair}) > 1
        )
        words = f"class {place} is {first[place]!r} of {first_name} and {classes[place]!r} of {name}"
        if sorted(classes) == sorted(first):
            raise InputError(f"{words}, expected networks with the classes in one order")
        warnings.warn(f"{words}; assumed: the classes have one order", AssumptionWarning, stacklevel=3)
    if missing := [name for name, classes in known if not classes]:
        what = f"the names of the classes of {', '.join(missing)} are not known"
        warnings.warn(
            f"{what}; assumed: all networks have them in one order", AssumptionWarning, stacklevel=3
        )


def mean_name(names: Sequence[str], asked: str) -> str:
    """The name of the mean of maps: that of all networks, or the one asked for where theirs differ."""
    return names[0] if len(set(names)) == 1 else asked


def mean_scores(logits: Sequence[Any], function: ScoreFunction) -> np.ndarray:
    """(N, K) float64, the mean of the scores of several networks.

    Args:
        logits: (N, K) of each network.
        function: "softmax" or "sigmoid".
    """
    return np.mean([class_scores(one, function) for one in logits], axis=0)  # type: ignore[no-any-return]


def logits_of(scores: np.ndarray, function: ScoreFunction) -> np.ndarray:
    """(N, K) float32 logits of which a function makes these scores, as far as float32 can tell.

    Examples:
        >>> logits_of(np.array([[0.5, 0.25, 0.25]]), "softmax").round(3).tolist()
        [[-0.693, -1.386, -1.386]]
    """
    found = np.log(scores.clip(np.finfo(np.float32).tiny))
    if function == "sigmoid":
        found -= np.log((1 - scores).clip(np.finfo(np.float64).eps))
    return found.astype(np.float32)  # type: ignore[no-any-return]
