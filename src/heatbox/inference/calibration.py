"""What some boxes tell of the maps of a run, as a small JSON file: thresholds, confidence and margins.

`heatbox calibrate` writes the file (`heatbox.evaluation.calibrate`); every command that takes --calibration
reads it with `load_calibration` and applies it through `MapCalibration`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from heatbox._utils.io import read_json, to_json, write_atomically
from heatbox._utils.json_schema import COUNT, FINITE, FRACTION, TEXT, Kind, checked, one_of, or_null
from heatbox.boxes.contours import Protocol
from heatbox.errors import AssumptionWarning, InputError
from heatbox.inference.boxes import map_to_boxes
from heatbox.inference.confidence import FEATURES, ConfidenceModel, box_features

VERSION = 1
MODEL_SETTINGS = ("model", "checkpoint", "size", "crop_pct", "protocol")
SETTINGS = (*MODEL_SETTINGS, "norm", "normalize")
"""Settings of a run on which its maps and boxes depend, kept in the calibration."""

DEFAULT_THRESHOLD = 0.35
"""Threshold of boxes where none is given and no calibration has one."""

_THRESHOLD = Kind("a number from 0 to below 1", lambda value: FRACTION.holds(value) and value < 1)
_LEVEL = Kind("a number between 0 and 1", lambda value: FRACTION.holds(value) and 0 < value < 1)
_METHOD = {
    "threshold": _THRESHOLD,
    "interval": (_THRESHOLD, _THRESHOLD),
    "thresholds_v2": (_THRESHOLD, _THRESHOLD, _THRESHOLD),
    "accuracy": FRACTION,
    "accuracy_interval": (FRACTION, FRACTION),
    "confidence": {"intercept": FINITE, "weights": dict.fromkeys(FEATURES, FINITE)},
    "margin": or_null(FINITE),
}
_FORM = {
    "heatbox_calibration": one_of(VERSION),
    "run": {...: Kind("a value", lambda value: True)},
    "boxes": TEXT,
    "images": COUNT,
    "ids": [TEXT],
    "coverage": _LEVEL,
    "seed": Kind("an integer", lambda value: isinstance(value, int)),
    "methods": {...: _METHOD},
}


@dataclass(frozen=True)
class MapCalibration:
    """What is known of the boxes of one map.

    Attributes:
        threshold: fraction of the map's maximum for its boxes.
        interval: 95% bootstrap interval of the threshold.
        thresholds_v2: thresholds for IoU .3, .5 and .7 of all contours (MaxBoxAccV2).
        accuracy: fraction of images whose box reaches IoU .5 at the threshold, on images that took no part in
            choosing it.
        accuracy_interval: its 95% bootstrap interval.
        confidence: the model of the probability of boxes at the threshold; see `box_confidence`.
        margin: by which a box is widened so that it contains the object; see `outer_boxes`. Infinite where
            there were too few images.
    """

    threshold: float
    interval: tuple[float, float]
    thresholds_v2: tuple[float, float, float]
    accuracy: float
    accuracy_interval: tuple[float, float]
    confidence: ConfidenceModel
    margin: float


@dataclass(frozen=True)
class Calibration:
    """The content of a calibration file.

    Attributes:
        methods: name of a map → what is known of it.
        ids: of the images in the run that took part.
        boxes: the data set that the boxes are of.
        coverage: probability with which an outer box contains the object.
        seed: of the split of the images and of the bootstrap.
        run: `SETTINGS` of the run, its folder and its data; without "normalize" it is min-max.
        where: the file, for messages.
    """

    methods: Mapping[str, MapCalibration]
    ids: tuple[str, ...]
    boxes: str
    coverage: float
    seed: int
    run: Mapping[str, Any] = field(default_factory=dict)
    where: str = "calibration"

    def of(self, method: str | None) -> MapCalibration:
        """What is known of a map.

        Raises:
            InputError: the calibration is of other maps.
        """
        if method is None or method not in self.methods:
            held, asked = ", ".join(self.methods), method or "a function"
            raise InputError(f"{self.where}: is a calibration of {held}, not of {asked}")
        return self.methods[method]

    @property
    def normalize(self) -> str:
        """How maps are brought to [0, 1] before the thresholds are applied; see `normalize_heatmap`."""
        return str(self.run.get("normalize", "min-max"))

    def require_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse maps that are normalized in another way, and say what else differs from those calibrated.

        Args:
            settings: those of the maps to which the calibration is applied, under the names in `SETTINGS`.

        Raises:
            InputError: another normalization, to whose values the thresholds do not apply.

        Warns:
            AssumptionWarning: naming the settings that differ.
        """
        if (normalize := settings.get("normalize", self.normalize)) != self.normalize:
            raise InputError(
                f"{self.where}: was made on maps normalized by {self.normalize}, not {normalize}; its "
                "thresholds do not apply to others"
            )
        known = {**self.run, "normalize": self.normalize}
        differ = [name for name in SETTINGS if name in settings and known.get(name) != settings[name]]
        if differ:
            words = ", ".join(f"{name} {self.run.get(name)!r}, not {settings[name]!r}" for name in differ)
            what = f"{self.where}: was made with {words}; assumed: it holds here too"
            warnings.warn(what, AssumptionWarning, stacklevel=2)

    def save(self, path: Path) -> Path:
        """Write the file.

        Raises:
            InputError: it cannot be written.
        """
        methods = {
            name: {
                "threshold": one.threshold,
                "interval": one.interval,
                "thresholds_v2": one.thresholds_v2,
                "accuracy": one.accuracy,
                "accuracy_interval": one.accuracy_interval,
                "confidence": {
                    "intercept": one.confidence.intercept,
                    "weights": dict(zip(FEATURES, one.confidence.weights, strict=True)),
                },
                "margin": one.margin,  # null where it is infinite
            }
            for name, one in self.methods.items()
        }
        content = {
            "heatbox_calibration": VERSION,
            "run": self.run,
            "boxes": self.boxes,
            "images": len(self.ids),
            "coverage": self.coverage,
            "seed": self.seed,
            "methods": methods,
            "ids": self.ids,
        }
        return write_atomically(path, (to_json(content) + "\n").encode())


def load_calibration(path: str | Path) -> Calibration:
    """Read a calibration that `heatbox calibrate` wrote.

    Args:
        path: the JSON file.

    Raises:
        InputError: the file cannot be read, is no calibration, is of another version, or has a value that a
            calibration cannot have; the message names the key.

    Examples:
        >>> load_calibration("calibration.json").of("walk").threshold  # doctest: +SKIP
        0.51
    """
    where, content = str(path), read_json(Path(path))
    if "heatbox_calibration" not in content:
        raise InputError(f"{where}: is not a calibration, expected a file that heatbox calibrate wrote")
    if (found := content["heatbox_calibration"]) != VERSION:
        raise InputError(f"{where}: is a calibration of version {found!r}, expected version {VERSION}")
    content = checked(content, _FORM, where)
    if not content["methods"]:
        raise InputError(f"{where}: 'methods' is empty, expected a map")
    methods = {}
    for name, one in content["methods"].items():
        model = one["confidence"]
        methods[name] = MapCalibration(
            one["threshold"],
            tuple(one["interval"]),
            tuple(one["thresholds_v2"]),
            one["accuracy"],
            tuple(one["accuracy_interval"]),
            ConfidenceModel(model["intercept"], tuple(model["weights"][key] for key in FEATURES)),
            math.inf if one["margin"] is None else one["margin"],
        )
    return Calibration(
        methods,
        tuple(content["ids"]),
        content["boxes"],
        content["coverage"],
        content["seed"],
        content["run"],
        where,
    )


# ------------------------------------------------------------------------------------------------ margins


def outer_boxes(boxes: Any, image_size: Sequence[float], margin: float) -> np.ndarray:
    """Boxes widened on each side by a margin, and clipped to the image.

    Args:
        boxes: (K, 4) xyxy in pixels of the image.
        image_size: (width, height) of the image.
        margin: as a fraction of the width of the box to the left and right, and of its height above and
            below; infinite for the whole image.

    Returns:
        (K, 4) float64 xyxy in pixels of the image.

    Examples:
        >>> outer_boxes([[40, 40, 80, 60]], (100, 70), 0.5).tolist()
        [[20.0, 30.0, 100.0, 70.0]]
    """
    found, (width, height) = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), image_size
    whole = np.array([0.0, 0.0, width, height])
    if math.isinf(margin):
        return np.tile(whole, (len(found), 1))
    sides = np.tile(found[:, 2:] - found[:, :2], 2) * [-margin, -margin, margin, margin]
    limits = np.tile(whole[2:], 2)
    clipped: np.ndarray = np.clip(found + sides, 0, limits)
    return clipped


def box_evidence(
    raw_map: np.ndarray,
    method: str,
    image_size: tuple[int, int],
    objects: np.ndarray,
    threshold: float,
    protocol: Protocol = "reference",
    normalize: str = "min-max",
) -> tuple[np.ndarray, float]:
    """What the calibration of a map's largest box rests on, and is measured by.

    Args:
        raw_map: (h, w) map.
        method: its name.
        image_size: (width, height) of the image.
        objects: (K, 4) xyxy of its objects, K >= 1.
        threshold: fraction of the map's maximum.
        protocol: how the map is binarized.
        normalize: how it is brought to [0, 1].

    Returns:
        (4,) features of the box, see `box_features`, and its `needed_margin`. Where the map has no box, those
        of a pixel in the corner, and infinity.
    """
    found = map_to_boxes(raw_map, image_size, threshold, protocol=protocol, normalize=normalize)
    margin = needed_margin(found[0], objects) if len(found) else math.inf
    box = found if len(found) else np.array([[0.0, 0.0, 1.0, 1.0]])
    return box_features({method: raw_map}, box, image_size)[0], margin


def needed_margin(box: np.ndarray, objects: np.ndarray) -> float:
    """The smallest margin with which a box contains the object that it overlaps most.

    Args:
        box: (4,) xyxy.
        objects: (K, 4) xyxy of the objects of the image, K >= 1, in the same frame. Of several with the same
            IoU, as where the box overlaps none, the one that needs the largest margin counts.

    Returns:
        0 where the box contains the object; infinite for a box without area.
    """
    from heatbox.boxes.ops import box_iou

    sides = np.tile(box[2:] - box[:2], 2)
    if not (sides > 0).all():
        return math.inf
    outside = np.concatenate([box[:2] - objects[:, :2], objects[:, 2:] - box[2:]], axis=1) / sides
    overlap = box_iou(box[None], objects, inclusive=False)[0]
    return max(0.0, float(outside.max(1)[overlap == overlap.max()].max()))


def conformal_margin(margins: np.ndarray, coverage: float) -> float:
    """The margin with which outer boxes contain the object with a given probability.

    Split conformal prediction: of n margins that images needed (`needed_margin`), the k-th smallest with
    k = ceil((n + 1) coverage). An image of the same kind needs at most this one with a probability of at
    least `coverage`, and of at most coverage + 1 / (n + 1) where no two margins are equal, whatever the
    distribution.
    This holds if the boxes were made without these images: the threshold has to be chosen on others, because
    at a threshold that is best for the images themselves their margins are smaller than those of new ones.

    Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005; Papadopoulos et al.,
    "Inductive confidence machines for regression", 2002; the form of Angelopoulos and Bates, "A gentle
    introduction to conformal prediction and distribution-free uncertainty quantification", 2021, section 1.

    Args:
        margins: (n,) as `needed_margin` returns them.
        coverage: the probability, in (0, 1).

    Returns:
        the margin; infinite where n is below coverage / (1 - coverage), 9 images for 90%.

    Raises:
        InputError: a coverage outside (0, 1).
    """
    if not 0 < coverage < 1:
        raise InputError(f"coverage is {coverage}, expected a probability between 0 and 1")
    rank = math.ceil((len(margins) + 1) * coverage - 1e-9)
    return float(np.sort(margins)[rank - 1]) if rank <= len(margins) else math.inf
