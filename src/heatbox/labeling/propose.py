"""From saved maps to proposed boxes: the objects of each class of an image, with their confidences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from heatbox._utils.progress import Track, silent
from heatbox.boxes.contours import check_threshold
from heatbox.boxes.objects import ObjectRules, heatmap_objects
from heatbox.boxes.ops import REFERENCE_FRAME, REFERENCE_SIDE, box_iou, scale_boxes
from heatbox.boxes.outlines import mask_outline
from heatbox.data.types import Example, Split
from heatbox.evaluation.run import IMAGE, Record
from heatbox.inference.calibration import DEFAULT_THRESHOLD
from heatbox.inference.confidence import ConfidenceModel, box_confidence, is_large
from heatbox.maps.normalize import check_normalization, normalize_heatmap

LARGE_THRESHOLD = 0.5
"""Fraction of the maximum of a map of large boxes, see `heatbox.inference.confidence.is_large`."""

ONE = ObjectRules(valley=1, min_share=1, min_peak=0)
"""Rules by which a map has one object."""


def default_threshold(method: str) -> float:
    """The threshold of a map where nothing else is known: that of its kind."""
    return LARGE_THRESHOLD if is_large(method) else DEFAULT_THRESHOLD


@dataclass(frozen=True)
class BoxSettings:
    """How maps become boxes, and how sure they are.

    Attributes:
        method: name of the map in the records.
        threshold: fraction of the map's maximum in [0, 1).
        rules: when parts of a map are objects of their own.
        confidence: model of the probability that a box is right; None for that which is expected where no
            boxes are known, see `heatbox.inference.confidence`.
        min_confidence: boxes below it are dropped.
        calibrated: whether the confidence was measured with known boxes.
        normalize: how maps are brought to [0, 1], see `normalize_heatmap`.
        outlines: whether boxes get the outlines of their objects.

    Raises:
        InputError: a threshold outside [0, 1), or an unknown normalization.
    """

    method: str
    threshold: float = DEFAULT_THRESHOLD
    rules: ObjectRules = field(default_factory=ObjectRules)
    confidence: ConfidenceModel | None = None
    min_confidence: float = 0.0
    calibrated: bool = False
    normalize: str = "min-max"
    outlines: bool = False

    def __post_init__(self) -> None:
        """Refuse a threshold that no map can be cut at."""
        check_threshold(self.threshold)
        check_normalization(self.normalize)


@dataclass(frozen=True)
class Found:
    """The objects of one class in an image.

    Attributes:
        boxes: (K, 4) float64 xyxy in pixels of the image, half-open.
        masks: (K, 224, 224) bool, of the whole image.
        confidences: (K,) float64 in [0, 1].
    """

    boxes: np.ndarray
    masks: np.ndarray
    confidences: np.ndarray


NOTHING = Found(np.zeros((0, 4)), np.zeros((0, REFERENCE_SIDE, REFERENCE_SIDE), bool), np.zeros(0))


def find_objects(maps: Sequence[np.ndarray], size: tuple[int, int], settings: BoxSettings) -> list[Found]:
    """The objects of each class of one image.

    Where boxes of two classes have an IoU above `rules.max_iou`, they are of one object; the class whose
    heatmap is lower there gives it up if it has another one.

    Args:
        maps: for each class the (h, w) map, as the method returned it.
        size: (width, height) of the image.
        settings: how maps become boxes.

    Returns:
        for each class its objects: none where the map is constant, or not finite.
    """
    heatmaps = [normalize_heatmap(one, REFERENCE_SIDE, settings.normalize) for one in maps]
    cut = [heatmap_objects(one, settings.threshold, settings.rules) for one in heatmaps]
    if len(maps) > 1:
        cut = _contested(heatmaps, cut, settings)
    found = []
    for raw_map, (boxes, masks) in zip(maps, cut, strict=True):
        scaled = scale_boxes(boxes, REFERENCE_FRAME, size, truncate=False)
        confidences = np.zeros(0)
        if len(boxes):
            confidences = box_confidence({settings.method: raw_map}, scaled, size, settings.confidence)
        order = np.argsort(-confidences, kind="stable")
        order = order[confidences[order] >= settings.min_confidence]
        found.append(Found(scaled[order], masks[order], confidences[order]))
    return found


_Cut = tuple[np.ndarray, np.ndarray]


def _contested(heatmaps: Sequence[np.ndarray], cut: Sequence[_Cut], settings: BoxSettings) -> list[_Cut]:
    """The objects of several classes, where one that two classes claim belongs to one of them.

    The class whose heatmap is lower in the overlap gives the object up if it has another one.
    """
    kept = [list(range(len(boxes))) for boxes, _ in cut]
    for one in range(len(cut)):
        for other in range(one + 1, len(cut)):
            iou = box_iou(cut[one][0].astype(float), cut[other][0].astype(float), False)
            for i, j in zip(*np.nonzero(iou > settings.rules.max_iou), strict=True):
                if i not in kept[one] or j not in kept[other]:
                    continue
                both = cut[one][1][i] & cut[other][1][j]
                lower = one if heatmaps[one][both].sum() < heatmaps[other][both].sum() else other
                index = int(i if lower == one else j)
                if len(kept[lower]) > 1:
                    kept[lower].remove(index)
    return [(boxes[chosen], masks[chosen]) for (boxes, masks), chosen in zip(cut, kept, strict=True)]


class Records(Protocol):
    """Where records are read from: a `Run`, or any object with the same two methods."""

    def __len__(self) -> int:
        """Number of records."""

    def records(self) -> Iterable[Sequence[Record]]:
        """The records, some at a time."""


def propose(
    run: Records, split: Split, settings: BoxSettings, track: Track = silent
) -> Iterator[tuple[Example, list[Found], list[Record]]]:
    """The proposed boxes of each image of a run, in the order in which it was predicted.

    Args:
        run: its records have maps of every class of every image.
        split: the images, one example for each (`Split.by_image`).
        settings: how maps become boxes.
        track: shows progress.

    Yields:
        the example with boxes, the objects of each of its classes, and its records in the order of classes.
    """
    examples = {example.id: example for example in split}
    waiting: dict[str, list[Record]] = {}
    records = (record for batch in run.records() for record in batch)
    for record in track(records, f"boxes of {split.name}", len(run)):
        image = record.get(IMAGE) or record["id"]
        if image not in examples:
            continue
        group = waiting.setdefault(image, [])
        group.append(record)
        example = examples[image]
        if len(group) == len(example.labels):
            group = sorted(waiting.pop(image), key=lambda one: one["target"])
            found = find_objects([one[f"map_{settings.method}"] for one in group], example.size, settings)
            boxed = _with_boxes(example, [one["target"] for one in group], found, settings.outlines)
            yield boxed, found, group


def _with_boxes(example: Example, labels: Sequence[int], found: Sequence[Found], outlined: bool) -> Example:
    counts = [len(one.boxes) for one in found]
    scale = np.array(example.size) / REFERENCE_SIDE
    return dataclasses.replace(
        example,
        boxes=np.concatenate([one.boxes for one in found]),
        box_labels=np.repeat(np.array(labels, np.int64), counts),
        box_scores=np.concatenate([one.confidences for one in found]),
        outlines=tuple(mask_outline(mask) * scale for one in found for mask in one.masks)
        if outlined
        else None,
    )
