"""How sure a box is: the probability that its IoU with the object is at least .5.

A box that its map gives at many thresholds, and that other maps of the image give too, is right more often
than one of a single threshold; and a box that reaches the borders of its image on several sides is often too
large. These are measured by `box_features`, and a logistic regression makes a probability of them. Its
constants are those of `EXPECTED`, or fitted to images with boxes by `fit_confidence`.

Only NumPy is needed, so that boxes of saved maps are rated without a deep learning library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heatbox._utils.checks import as_numbers
from heatbox.boxes.contours import all_contours, to_convention, to_levels
from heatbox.boxes.ops import REFERENCE_FRAME, REFERENCE_SIDE, box_iou, scale_boxes
from heatbox.errors import InputError
from heatbox.maps.normalize import normalize_heatmap

AGREEMENT_THRESHOLDS = np.arange(2, 19) / 20
"""Thresholds .1, .15, …, .9 at which a box is compared with those of each map."""

FEATURES = ("agreement", "borders", "area", "aspect")
"""Names of the columns of `box_features`."""


def box_features(maps: Mapping[str, Any], boxes: Any, image_size: Sequence[float]) -> np.ndarray:
    """What the confidence of boxes depends on; no ground truth takes part.

    Args:
        maps: name → (h, w) map of the image, array or tensor of any range and resolution: that of the boxes,
            and any others of other methods or networks.
        boxes: (K, 4) xyxy in pixels of the image, half-open.
        image_size: (width, height) of the image in pixels.

    Returns:
        (K, 4) float64, in the order of `FEATURES`. Agreement is the IoU of the box with the contour most
        similar to it, at each of `AGREEMENT_THRESHOLDS` in each map, averaged over both, in [0, 1]. Borders
        is the number of image borders that the box reaches, 0 to 4. Area is the natural logarithm of the
        fraction of the image that the box covers. Aspect is the absolute natural logarithm of its height by
        its width, both as fractions of the image.

    Raises:
        InputError: no map, maps or boxes of another shape, or boxes that are not finite.
        TypeError: values that are not numbers.

    Examples:
        >>> heatmap = np.zeros((224, 224))
        >>> heatmap[56:112, 0:28] = 1.0
        >>> box_features({"cam": heatmap}, [[0, 56, 28, 112]], (224, 224)).round(2).tolist()
        [[1.0, 1.0, -3.47, 0.69]]
    """
    if not maps:
        raise InputError("there is no map that boxes could be compared with, expected one or more")
    given = as_numbers(boxes, "boxes", "numbers (K, 4), xyxy").reshape(-1, np.shape(boxes)[-1] or 4)
    if given.shape[1] != 4 or not np.isfinite(given).all():
        raise InputError(f"boxes have shape {np.shape(boxes)}, expected finite numbers (K, 4), xyxy")
    framed = scale_boxes(given, image_size, REFERENCE_FRAME, truncate=False)
    agreement = np.mean([_agreement(one, framed) for one in maps.values()], axis=0)
    sides = np.maximum(framed[:, 2:] - framed[:, :2], 1) / REFERENCE_SIDE  # a pixel or more
    near = np.concatenate([framed[:, :2] < 1, framed[:, 2:] > REFERENCE_SIDE - 1], axis=1)
    area, aspect = np.log(sides.prod(1)), abs(np.log(sides[:, 1] / sides[:, 0]))
    return np.stack([agreement, near.sum(1), area, aspect], axis=1)


def _agreement(raw_map: Any, boxes: np.ndarray) -> np.ndarray:
    """(K,) mean over thresholds of the best IoU of boxes in the 224 x 224 frame with a map's contours."""
    levels = to_levels(normalize_heatmap(raw_map, REFERENCE_SIDE), "reference")
    if not levels.top:
        return np.zeros(len(boxes))
    contours, first, last = all_contours(levels)
    ious = box_iou(boxes, to_convention(contours, levels.shape, "exact").astype(np.float64), inclusive=False)
    cuts = levels.at(AGREEMENT_THRESHOLDS)
    return np.mean([ious[:, (first <= cut) & (cut <= last)].max(1, initial=0) for cut in cuts], axis=0)


@dataclass(frozen=True)
class ConfidenceModel:
    """A logistic regression on the features of boxes.

    Attributes:
        intercept: of the log odds.
        weights: one for each of `FEATURES`.
    """

    intercept: float
    weights: tuple[float, ...]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(K,) probabilities of boxes with (K, 4) features."""
        odds = self.intercept + features @ np.asarray(self.weights)
        return np.exp(-np.logaddexp(0, -odds))  # type: ignore[no-any-return]


EXPECTED: Mapping[str, ConfidenceModel] = {
    "foreground-walk": ConfidenceModel(-3.234, (7.673, -0.504, 0.0, 0.0)),
    "walk": ConfidenceModel(-2.734, (7.028, -0.508, 0.0, 0.0)),
    "cam": ConfidenceModel(-2.896, (5.571, 0.0, 0.0, 0.0)),
    "several": ConfidenceModel(-5.485, (11.995, -0.225, 0.0, 0.0)),
}
"""The models where no boxes are known: of walks that start on the foreground, of other walks and maps of the
foreground, whose boxes are large too, of any other map, and of several maps of which some are others. What
they give is expected, not measured: their constants were fitted to boxes at thresholds .35 and .5 on
photographs of ILSVRC2012, with the maps `walk` and `cam` of EfficientNet-Lite0 on 450 of them, and with
`foreground-walk` of three networks on 900. Area and aspect do not count, since what they say of one data set
does not hold for others. docs/thresholds.md has the errors on other photographs, with other networks and on
drawings."""

SPREAD = (0.12, 1.3, 0.4, 0.25)
"""Standard deviations of `FEATURES` of walks on the same photographs: the units in which `fit_confidence`
penalizes differences of weights."""


def expected_model(maps: Iterable[str]) -> ConfidenceModel:
    """The model of `EXPECTED` for the names of maps with which boxes are compared."""
    names = list(maps)
    if all(name.startswith("foreground-walk") for name in names):
        return EXPECTED["foreground-walk"]
    if all(map(is_large, names)):
        return EXPECTED["walk"]
    return EXPECTED["several" if len(names) > 1 else "cam"]


def is_large(method: str) -> bool:
    """Whether the boxes of a map are large: those of a random walk, or of a map of the foreground."""
    return method.startswith("walk") or "foreground" in method


def fit_confidence(
    features: np.ndarray, correct: np.ndarray, prior: ConfidenceModel, strength: float = 5.0
) -> ConfidenceModel:
    """Fit the confidence to boxes of which it is known whether they are right.

    The penalized likelihood of a logistic regression, with the weights drawn to those of a prior model: with
    few boxes little more than the intercept changes, with many the prior does not matter.

    Args:
        features: (N, 4) of `box_features`.
        correct: (N,) booleans, whether the IoU of each box with an object is at least .5.
        prior: the model for no boxes, see `expected_model`.
        strength: weight of the penalty: half of it times the squared difference of the weights, each
            multiplied with `SPREAD`, is subtracted from the log likelihood. The intercept is penalized too,
            by that of one box.

    Returns:
        the model.

    Raises:
        InputError: no box, or shapes that do not match.
    """
    rows, right = np.asarray(features, np.float64), np.asarray(correct, np.float64)
    if rows.shape != (len(right), len(FEATURES)) or len(right) == 0:
        raise InputError(f"features have shape {rows.shape}, expected (N, {len(FEATURES)}) of N > 0 boxes")
    centre, scale = rows.mean(0), np.array(SPREAD)
    design = np.column_stack([np.ones(len(rows)), (rows - centre) / scale])
    weights = np.asarray(prior.weights)
    start = np.r_[prior.intercept + centre @ weights, weights * scale]
    penalty = np.r_[1.0, np.full(len(FEATURES), strength)]

    def loss(weights: np.ndarray) -> float:
        odds = design @ weights
        likelihood = (np.logaddexp(0, odds) - right * odds).sum()
        return float(likelihood + penalty @ (weights - start) ** 2 / 2)

    found = start.copy()
    for _ in range(100):  # Newton's method; steps are halved until the strictly convex loss falls
        odds = design @ found
        chance = np.exp(-np.logaddexp(0, -odds))
        slope = design.T @ (chance - right) + penalty * (found - start)
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag(penalty)
        step, before = np.linalg.solve(curvature, slope), loss(found)
        while loss(found - step) > before and abs(step).max() > 1e-9:
            step = step / 2
        found = found - step
        if abs(step).max() < 1e-9:
            break
    final = found[1:] / scale
    return ConfidenceModel(float(found[0] - centre @ final), tuple(map(float, final)))


def box_confidence(
    maps: Mapping[str, Any],
    boxes: Any,
    image_size: Sequence[float],
    model: ConfidenceModel | None = None,
) -> np.ndarray:
    """Probability of each box that its IoU with an object is at least .5.

    Without a `model` the probabilities are expected, not measured; see `EXPECTED`. With that of a
    calibration, `load_calibration(path).of(method).confidence`, they are calibrated for boxes of that method
    at its threshold, on images like those of the calibration, and `maps` is that method's map alone.

    Args:
        maps: name of the method → (h, w) map of the image; see `box_features`. A box that several maps give,
            also of several networks, is more probably right; its own map should be among them.
        boxes: (K, 4) xyxy in pixels of the image, half-open; one or several for each object.
        image_size: (width, height) of the image in pixels.
        model: a fitted model.

    Returns:
        (K,) float64 in (0, 1), each for its box alone.

    Raises:
        InputError, TypeError: as `box_features`.
    """
    features = box_features(maps, boxes, image_size)
    return (model or expected_model(maps))(features)
