"""Boxes that a person corrected are kept; they measure and calibrate what is proposed, and teach the head."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from heatbox._utils.progress import Track, silent
from heatbox.boxes.ops import box_iou
from heatbox.data.classes import match_classes
from heatbox.data.formats.output import box_classes
from heatbox.data.types import Example, Split, changed
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.calibrate import calibrate_map
from heatbox.evaluation.run import IMAGE, Record, Run
from heatbox.labeling.proposals import ids_by
from heatbox.labeling.propose import BoxSettings, Records, propose
from heatbox.labeling.refit import FEWEST, can_refit, refit
from heatbox.metrics.coco_ap import coco_average_precision

FEW = 20
"""Corrected images below which a note says that little is known from them."""


# ----------------------------------------------------------------------------------------------- matching


def match_corrections(split: Split, corrections: Split) -> dict[str, Example]:
    """Which images a person corrected, with boxes in pixels of the images and classes of the network.

    An image is found by its id, or by the end of its path without its ending, also with folders joined by "_"
    as in YOLO's layout. Boxes with a confidence are proposals; images without boxes were not looked at.

    Args:
        split: the photographs.
        corrections: images with boxes.

    Returns:
        id of a photograph → its example with the corrected boxes.

    Raises:
        InputError: no image was corrected, none is among the photographs, two may be the same one, or unknown
            classes.

    Warns:
        AssumptionWarning: images that do not count as corrected, or are not among the photographs.
    """
    names = [str(name) for name in split.class_names]
    names = names or [str(label) for label in range(max(split.num_classes, corrections.num_classes))]
    corrections = match_classes(
        corrections.by_image(), len(names), names, corrections.name, "the photographs"
    )
    boxed = [example for example in corrections if len(example.boxes)]
    drawn = [
        example
        for example in boxed
        if example.box_scores is None or not np.isfinite(example.box_scores).all()
    ]
    reasons = {"have no box": len(corrections) - len(boxed), "have proposals alone": len(boxed) - len(drawn)}
    for reason, number in reasons.items():
        if number:
            what = f"{number} images {reason} and do not count as corrected"
            warnings.warn(f"{corrections.name}: {what}", AssumptionWarning, stacklevel=2)
    wanted = {key for example in drawn for key in _keys(example.id)}
    names_of_drawn = {example.id for example in drawn}
    places: dict[str, Example | None] = {}
    exact: dict[str, Example] = {}
    for example in split:
        for key in wanted.intersection(_keys(example.id)):
            places[key] = None if key in places else example  # several: not certain
        if example.id in names_of_drawn:
            exact[example.id] = example
    found: dict[str, Example] = {}
    source: dict[str, str] = {}
    for example in sorted(drawn, key=lambda one: one.id not in exact):
        match = exact.get(example.id) or next(filter(None, map(places.get, _keys(example.id))), None)
        if match is not None and match.id not in found:
            found[match.id], source[match.id] = _corrected(match, example), example.id
        elif match is not None and source[match.id] != match.id:
            both = f"{source[match.id]!r} and {example.id!r}"
            raise InputError(f"{corrections.name}: {both} may both be the photograph {match.id!r}")
    if not found:
        first = f"; the first are {drawn[0].id!r} and {split.examples[0].id!r}" if drawn else ""
        raise InputError(f"{corrections.name}: no corrected image is among the photographs{first}")
    if missing := len(drawn) - len(found):
        what = f"{missing} of {len(drawn)} corrected images are not among the photographs and take no part"
        warnings.warn(f"{corrections.name}: {what}", AssumptionWarning, stacklevel=2)
    return found


def _keys(name: str) -> list[str]:
    """Forms of a path under which an image is found: the longest first."""
    parts = PurePosixPath(name.replace("\\", "/")).with_suffix("").parts
    return ["_".join(parts[start:]) for start in range(len(parts))]


def _corrected(photo: Example, example: Example) -> Example:
    scale = np.array(photo.size * 2) / np.array(example.size * 2)
    kinds = np.array(box_classes(example), np.int64)
    labels = tuple(sorted({*kinds.tolist()}))
    return Example(photo.id, labels[0], photo.size, example.boxes * scale, labels, kinds)


# ----------------------------------------------------------------------------------------------- learning


@dataclass(frozen=True)
class Learned:
    """What corrected boxes tell.

    Attributes:
        corrected: id → example with the corrected boxes.
        run: the maps from now on: those of a head that learned from the corrections, or as before.
        settings: how maps become boxes from now on.
        before: accuracy and average precision of the proposals on the corrected images.
        after: the same with the new settings, on the images on which these were chosen; of a head that
            learned, with maps of heads that did not see the image.
        notes: sentences for the user.
    """

    corrected: Mapping[str, Example]
    run: Run
    settings: BoxSettings
    before: Mapping[str, float]
    after: Mapping[str, float]
    notes: Sequence[str]

    def applied(self, split: Split) -> Split:
        """The split with corrected boxes as they are, of confidence 1, in place of proposals."""

        def apply(example: Example) -> Example:
            drawn = self.corrected.get(example.id)
            return (
                example if drawn is None else dataclasses.replace(drawn, box_scores=np.ones(len(drawn.boxes)))
            )

        return dataclasses.replace(split, examples=changed(split.examples, apply))

    def queue(self, split: Split) -> list[str]:
        """Ids in the order of review: those of most expected wrong boxes first; the corrected ones last."""
        return ids_by(split, lambda one: np.inf if one.id in self.corrected else -expected_errors(one))

    def as_dict(self) -> dict[str, Any]:
        """For summary.json."""
        return {"images": len(self.corrected), "before": dict(self.before), "after": dict(self.after)}


def expected_errors(example: Example) -> float:
    """The number of boxes of an image that are expected to be wrong, and of classes without a box."""
    scores = np.zeros(0) if example.box_scores is None else example.box_scores
    missing = len({*example.labels} - {*box_classes(example)})
    return float((1 - scores).sum()) + missing


def learn(
    run: Run,
    split: Split,
    settings: BoxSettings,
    corrected: Mapping[str, Example],
    track: Track = silent,
    seed: int = 0,
) -> Learned:
    """Measure the proposals on corrected images, and learn from their boxes.

    Threshold and confidence are calibrated. From `FEWEST` corrected images on, a foreground head is fitted
    again with their boxes, and used if boxes of the corrected images are then more often right, judged by
    heads that did not see the image.

    Args:
        run: has the maps.
        split: the photographs.
        settings: with which boxes were proposed.
        corrected: of `match_corrections`.
        track: shows progress.
        seed: of the fit.

    Raises:
        InputError: no corrected image has a map.

    Warns:
        AssumptionWarning: few images.
    """
    here = dataclasses.replace(split, examples=[e for e in split if e.id in corrected and e.labels])
    records = list(_records(run, here, corrected))
    if not records:
        raise InputError(
            f"{split.name}: none of the {len(corrected)} corrected images has a map of a corrected class"
        )
    notes = []
    if len(corrected) < FEW:
        notes.append(
            f"{len(corrected)} corrected images are few: threshold and confidence need {FEW} or more"
        )
        warnings.warn(notes[-1], AssumptionWarning, stacklevel=2)
    new = _calibrated(records, settings)
    before, after = (_measured(run, here, one, corrected, track) for one in (settings, new))
    words = "of {boxes:.0f} boxes proposed on {images:.0f} corrected images {accuracy:.0%} are right (IoU .5)"
    notes.append(f"{words.format(**before)}; AP50 {before['AP50']:.1%}, AP {before['AP']:.1%}")
    if reason := _why_no_refit(run, settings, corrected):
        notes.append(f"the foreground head stays as it is: {reason}")
    else:
        pairs = dataclasses.replace(split, examples=[e for e in split if e.labels]).by_class()
        learned = refit(run, pairs, corrected, seed)
        held_out = list(_with_boxes(learned.held_out, corrected))
        again = _calibrated(held_out, settings)
        store = _Held(learned.held_out)
        seen = _measured(store, here, again, corrected, track)
        words = f"{seen['accuracy']:.0%} of the boxes of images that it did not see are right"
        if seen["accuracy"] + seen["found"] > after["accuracy"] + after["found"]:
            run, new, after = learned.run, again, seen
            notes.append(f"the foreground head learned from the corrected boxes: {words}")
        else:
            notes.append(
                f"a foreground head that learns from the corrected boxes is not better ({words}), so it "
                "stays as it is"
            )
    notes.append(
        f"threshold {settings.threshold:.3f} became {new.threshold:.3f}: {after['accuracy']:.0%} right there"
    )
    return Learned(corrected, run, new, before, after, notes)


def _calibrated(records: Sequence[Record], settings: BoxSettings) -> BoxSettings:
    """The settings with threshold and confidence as records with known boxes have them."""
    if len(records) < 2:
        return settings
    found = calibrate_map(records, settings.method, normalize=settings.normalize)
    return dataclasses.replace(
        settings, threshold=found.threshold, confidence=found.confidence, calibrated=True
    )


def _why_no_refit(run: Run, settings: BoxSettings, corrected: Mapping[str, Example]) -> str:
    reason = can_refit(run, settings.method)
    if not reason and len(corrected) < FEWEST:
        reason = f"{len(corrected)} corrected images are too few to learn from, {FEWEST} or more are not"
    return reason


class _Held:
    """Records in memory, in the interface of a `Run`."""

    def __init__(self, kept: Sequence[Record]) -> None:
        self.kept = kept

    def __len__(self) -> int:
        return len(self.kept)

    def records(self) -> Iterator[Sequence[Record]]:
        """All records as one batch."""
        yield self.kept


def _records(run: Run, split: Split, corrected: Mapping[str, Example]) -> Iterator[Record]:
    """The records of corrected images and classes, with the corrected boxes of that class."""
    sizes = {example.id: example for example in split}
    for batch in run.records():
        yield from _with_boxes((r for r in batch if (r.get(IMAGE) or r["id"]) in sizes), corrected)


def _with_boxes(records: Iterable[Record], corrected: Mapping[str, Example]) -> Iterator[Record]:
    """Records of corrected images with the corrected boxes of their class, where there are any."""
    for record in records:
        drawn = corrected[record.get(IMAGE) or record["id"]]
        boxes = drawn.boxes[drawn.is_of(record["target"])]
        if len(boxes):
            yield {**record, "boxes": boxes}


def _measured(
    run: Records, split: Split, settings: BoxSettings, corrected: Mapping[str, Example], track: Track
) -> dict[str, float]:
    found = [example for example, _, _ in propose(run, split, settings, track)]
    return box_accuracy(found, [corrected[example.id] for example in found])


def box_accuracy(found: Sequence[Example], truth: Sequence[Example]) -> dict[str, float]:
    """How many boxes are right, and their average precision.

    Args:
        found: images with boxes and confidences.
        truth: the same images with true boxes.

    Returns:
        "images", "boxes", "accuracy" (fraction of boxes with an IoU of .5 or more with a true box of the same
        class), "found" (fraction of true boxes that one of these reaches), "AP50" and "AP".
    """
    right = total = reached = wanted = 0
    for one, other in zip(found, truth, strict=True):
        same = np.array(box_classes(one), int)[:, None] == np.array(box_classes(other), int)[None]
        hits = (box_iou(one.boxes, other.boxes, inclusive=False) >= 0.5) & same
        right, total = right + int(hits.any(1).sum()), total + len(one.boxes)
        reached, wanted = reached + int(hits.any(0).sum()), wanted + len(other.boxes)
    precision = coco_average_precision(
        [(one.boxes, box_classes(one), one.box_scores) for one in found],
        [(one.boxes, box_classes(one)) for one in truth],
    )
    return {
        "images": len(found),
        "boxes": total,
        "accuracy": right / max(total, 1),
        "found": reached / max(wanted, 1),
        "AP50": float(precision[0]),
        "AP": float(precision.mean()),
    }
