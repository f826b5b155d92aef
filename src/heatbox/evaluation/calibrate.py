"""What a few boxes tell of a run: the threshold of each map, the confidence of its boxes, and margins.

The images with boxes are divided at random into two halves. The thresholds are chosen on the first. On the
second they are measured, and the margins are taken from it: what was chosen on an image says nothing about
the error on the same image. The confidence, of few parameters that are drawn to known ones, is fitted to all.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from heatbox._utils.checks import check_integer
from heatbox._utils.progress import Track, silent
from heatbox.boxes.contours import Protocol, threshold_grid
from heatbox.boxes.ops import REFERENCE_SIDE
from heatbox.data.annotations import ANNOTATION_FILES, open_annotations
from heatbox.data.files.remote import shown
from heatbox.data.open import open_split
from heatbox.data.types import Example, Split
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.images import class_names_of, reopen_images
from heatbox.evaluation.run import IMAGE, Record, Run
from heatbox.evaluation.scorers import RECORDS_AT_A_TIME, BoxScorer
from heatbox.evaluation.summary import LARGEST, SplitScore
from heatbox.inference.calibration import (
    SETTINGS,
    Calibration,
    MapCalibration,
    box_evidence,
    conformal_margin,
)
from heatbox.inference.confidence import expected_model, fit_confidence
from heatbox.maps.normalize import normalize_heatmap
from heatbox.metrics.bootstrap import bootstrap_interval
from heatbox.metrics.confidence import accuracy_by_group, area_under_roc, expected_calibration_error
from heatbox.metrics.functional import V2_IOU

SMOOTHING = 0.15
"""A threshold is scored by the mean accuracy of those within this distance: the best of single thresholds is
further from that of other images when boxes are few (docs/thresholds.md)."""

FEW = 20
"""Below this number of images a note says that what is calibrated is hardly known."""


def calibrate_run(
    run: Run,
    boxes: Split,
    methods: Sequence[str] = (),
    coverage: float = 0.9,
    seed: int = 0,
    resamples: int = 2000,
    track: Track = silent,
) -> Calibration:
    """Calibrate the boxes of a run's maps with the boxes of some of its images.

    Args:
        run: a finished run of `heatbox evaluate`.
        boxes: images with boxes; those that the run does not contain are left out. See `match_images`.
        methods: names of the maps; by default all of the run.
        coverage: probability with which an outer box is to contain the object, in (0, 1).
        seed: of the division of the images and of the bootstrap.
        resamples: number of bootstrap resamples.
        track: how to show progress.

    Returns:
        the calibration. See `choose_threshold`, `fit_confidence` and `conformal_margin` for what it contains.

    Raises:
        InputError: no finished run, one that was scored against masks, maps that the run does not contain, no
            image of the run has a box, only one has, or a coverage outside (0, 1).

    Warns:
        AssumptionWarning: images with boxes are not in the run.
    """
    run.require_finished()
    conformal_margin(np.zeros(0), coverage)  # raises for a coverage that is no probability
    check_integer(seed, "seed", 0)
    settings, held = run.settings(), run.methods()
    if unknown := [name for name in methods if name not in held]:
        raise InputError(f"{run.folder}: contains no maps of {unknown[0]!r}, only of {', '.join(held)}")
    if run.has_masks:
        raise InputError(f"{run.folder}: was scored against masks; expected a run on a data set with boxes")
    truths = match_images(run, boxes)
    records = [
        {**record, "boxes": truths[record["id"]]}
        for batch in track(run.records(), "reading maps")
        for record in batch
        if record["id"] in truths
    ]
    found = {
        name: calibrate_map(
            records, name, settings["protocol"], coverage, seed, resamples, settings["normalize"]
        )
        for name in methods or held
    }
    kept = {name: settings.get(name) for name in SETTINGS}
    return Calibration(
        found,
        tuple(record["id"] for record in records),
        boxes.name,
        coverage,
        seed,
        {"folder": str(run.folder), "data": settings.get("data") and shown(settings["data"]), **kept},
        str(run.folder),
    )


def calibrate_map(
    records: Sequence[Mapping[str, Any]],
    method: str,
    protocol: Protocol = "reference",
    coverage: float = 0.9,
    seed: int = 0,
    resamples: int = 2000,
    normalize: str = "min-max",
) -> MapCalibration:
    """Calibrate the boxes of one map.

    Args:
        records: of two or more images; of each "map_METHOD" (h, w), "boxes" (K, 4) xyxy in pixels of the
            image, "width" and "height".
        method: name of the map.
        protocol: how maps are binarized and boxes compared.
        coverage: as for `calibrate_run`.
        seed: as for `calibrate_run`.
        resamples: as for `calibrate_run`.
        normalize: how maps are brought to [0, 1].

    Raises:
        InputError: less than two images.
    """
    if len(records) < 2:
        raise InputError(f"{len(records)} image of the run has a box, expected 2 or more to calibrate")
    curves = iou_curves(records, method, protocol, normalize)
    order = np.random.default_rng(seed).permutation(len(records))
    chosen_on, others = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    correct = curves[0] >= 0.5  # (N, T)
    index, interval = choose_threshold(correct[chosen_on], resamples, seed)
    grid = threshold_grid(correct.shape[1])
    v2 = [choose_threshold(curves[1][chosen_on] >= iou)[0] for iou in V2_IOU]
    at = [
        box_evidence(
            record[f"map_{method}"],
            method,
            (record["width"], record["height"]),
            record["boxes"],
            float(grid[index]),
            protocol,
            normalize,
        )
        for record in records
    ]
    features = np.array([one[0] for one in at])
    margins = np.array([one[1] for one in at])
    accuracy = bootstrap_interval(correct[others, index], resamples, seed=seed)
    return MapCalibration(
        float(grid[index]),
        (float(grid[interval[0]]), float(grid[interval[1]])),
        (float(grid[v2[0]]), float(grid[v2[1]]), float(grid[v2[2]])),
        accuracy.estimate / 100,
        (accuracy.low / 100, accuracy.high / 100),
        fit_confidence(features, correct[:, index], expected_model([method])),
        conformal_margin(margins[others], coverage),
    )


def iou_curves(
    records: Sequence[Mapping[str, Any]], method: str, protocol: Protocol, normalize: str = "min-max"
) -> np.ndarray:
    """(2, N, T) best IoU of the largest contour's box, and of any contour's, at each threshold."""
    scorer, found = BoxScorer(protocol, keep=False), []
    for first in range(0, len(records), RECORDS_AT_A_TIME):
        some = records[first : first + RECORDS_AT_A_TIME]
        maps = [normalize_heatmap(record[f"map_{method}"], REFERENCE_SIDE, normalize) for record in some]
        sizes = [(record["width"], record["height"]) for record in some]
        found.append(scorer.update(maps, [record["boxes"] for record in some], sizes, return_iou=True))
    return np.concatenate(found, axis=1)  # type: ignore[arg-type]  # each is an array


def choose_threshold(
    correct: np.ndarray, resamples: int = 0, seed: int = 0, smoothing: float = SMOOTHING
) -> tuple[int, tuple[int, int]]:
    """The threshold of highest accuracy, averaged over those near it, and its bootstrap interval.

    Args:
        correct: (N, T) booleans of N images at T evenly spaced thresholds from 0 to below 1.
        resamples: number of resamples of the images, in each of which the threshold is chosen again.
        seed: of the resampling.
        smoothing: distance up to which thresholds are averaged.

    Returns:
        the index of the threshold, and those of the ends of its 95% interval; the threshold itself without
        resamples. Of several that are equally good, the middle one.
    """
    images, count = correct.shape
    reach = round(smoothing * count)
    changes = np.cumsum(np.pad(correct.astype(np.float64), ((0, 0), (reach + 1, reach)), "edge"), axis=1)
    smooth = changes[:, 2 * reach + 1 :] - changes[:, : -2 * reach - 1]  # (N, T), sums over the window

    def best(total: np.ndarray) -> int:
        equal = np.flatnonzero(total >= total.max() - 1e-6)
        return int(equal[len(equal) // 2])

    index = best(smooth.sum(0))
    if not resamples:
        return index, (index, index)
    rng = np.random.default_rng(seed)
    drawn = []
    for first in range(0, resamples, 256):
        many = min(256, resamples - first)
        times = rng.multinomial(images, np.full(images, 1 / images), many).astype(np.float64)
        drawn += [best(total) for total in times @ smooth]
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return index, (int(min(low, index)), int(max(high, index)))


# --------------------------------------------------------------------------------------- images and boxes


def open_boxes(boxes: str, run: Run) -> Split:
    """Images with boxes: a data set, or one file of annotations of the images of a run.

    Args:
        boxes: as for `heatbox.open_split`, or a file of annotations.
        run: the run, whose images a file of annotations is about.

    Raises:
        InputError: the format is not recognized, or the images of the run are gone.
    """
    if Path(boxes).suffix.lower() not in ANNOTATION_FILES:
        return open_split(boxes)
    images = reopen_images(run)
    if (tree := getattr(images.open_image, "tree", None)) is None:
        raise InputError(
            f"{shown(str(boxes))}: is of images in files, but those of {images.name} are none; "
            "give a data set"
        )
    return open_annotations(boxes, tree)


def match_images(run: Run, boxes: Split) -> dict[str, np.ndarray]:
    """Boxes of the images of a run, in the pixels that the run gives them.

    An image is found by its id, by the end of its path ("test/cat.jpg" and "cat.jpg"), or by its path without
    the ending of the file, in this order. Where the run evaluates an image once for each of its classes, and
    where an image of `boxes` is of several classes, the boxes of the class of the same name are taken.

    Args:
        run: the run.
        boxes: images with boxes; those without one are ignored.

    Returns:
        id in the run → (K, 4) float64 xyxy, K >= 1.

    Raises:
        InputError: no image of the run has a box, two images of one side match one of the other, or classes
            that have to be matched have no names.

    Warns:
        AssumptionWarning: some images with boxes are not in the run.
    """
    known = [example for example in boxes.by_image() if len(example.boxes)]
    rows: list[Record] = [
        {key: record.get(key) for key in ("id", IMAGE, "label", "width", "height")}
        for batch in run.records()
        for record in batch
    ]
    names = list(dict.fromkeys(row[IMAGE] or row["id"] for row in rows))
    place = _same_images(names, [example.id for example in known], str(run.folder), boxes.name)
    if not place:
        examples = f"the first are {names[0]!r} and {known[0].id!r}" if known else "none has a box"
        raise InputError(f"{boxes.name}: no image with a box is in {run.folder} ({examples})")
    if missing := len(known) - len(place):
        what = f"{boxes.name}: {missing} of {len(known)} images with boxes are not in {run.folder}"
        warnings.warn(f"{what} and are left out", AssumptionWarning, stacklevel=3)
    class_names = class_names_of(run) or []
    found = {}
    for row in rows:
        if (at := place.get(row[IMAGE] or row["id"])) is None:
            continue
        example = known[at]
        kept = _boxes_of_class(example, boxes, row, class_names)
        if len(kept):
            found[row["id"]] = _in_pixels(kept, example, row)
    return found


def _same_images(names: Sequence[str], others: Sequence[str], run: str, data: str) -> dict[str, int]:
    """Name of an image of the run → index of the image of the same name among the others."""
    place = {name: index for index, name in enumerate(others) if name in set(names)}
    for shorten in (lambda name: name, lambda name: str(PurePosixPath(name).with_suffix(""))):
        taken = set(place.values())
        mine = _by_ending([(shorten(name), name) for name in names if name not in place])
        for index, other in enumerate(others):
            if index in taken:
                continue
            key = PurePosixPath(shorten(other)).parts
            matches = [
                name
                for parts, name in mine.get(key[-1], [])
                if parts[-len(key) :] == key or key[-len(parts) :] == parts
            ]
            if len(matches) > 1 or (matches and matches[0] in place):
                clash = matches[1] if len(matches) > 1 else others[place[matches[0]]]
                raise InputError(
                    f"{data}: image {other!r} is not told apart in {run}: it matches {matches[0]!r}, and so "
                    f"does {clash!r}"
                    if len(matches) == 1
                    else f"{data}: image {other!r} matches several of {run}: {matches[0]!r} and {clash!r}"
                )
            if matches:
                place[matches[0]] = index
    return place


def _by_ending(names: Sequence[tuple[str, str]]) -> dict[str, list[tuple[tuple[str, ...], str]]]:
    """Last part of a path → the parts and the names of those that end in it."""
    found: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for short, name in names:
        parts = PurePosixPath(short).parts
        found.setdefault(parts[-1], []).append((parts, name))
    return found


def _boxes_of_class(example: Example, boxes: Split, row: Record, names: Sequence[str]) -> np.ndarray:
    """The boxes of an image that are of the class of a record."""
    if not row[IMAGE] and len(example.labels) <= 1:
        return example.boxes
    if not names or not boxes.class_names:
        raise InputError(
            f"{boxes.name}: image {example.id!r} is of several classes, whose names are not known in both "
            "the run and the boxes; expected boxes with class names"
        )
    same = [i for i, name in enumerate(boxes.class_names) if name == names[row["label"]]]
    return example.boxes[example.is_of(same[0])] if same else example.boxes[:0]


def _in_pixels(boxes: np.ndarray, example: Example, row: Record) -> np.ndarray:
    """Boxes in the pixels in which the run lists the size of the image."""
    mine = np.array([row["width"], row["height"]] * 2, dtype=np.float64)
    size = np.array(example.size * 2, dtype=np.float64)
    return boxes * mine / size if (size > 0).all() else np.asarray(boxes, dtype=np.float64)


def add_confidence(
    entries: Mapping[str, dict[str, Any]],
    found: Mapping[str, Any],
    run: Run,
    calibration: Calibration,
    protocol: Protocol,
    normalize: str,
) -> None:
    """Add to "calibrated" how well the confidence and the outer boxes hold, on the images it is of.

    "confidence" has "auroc" and "calibration_error", fractions; "confident_half", percent of right boxes in
    the more confident half; "coverage", percent of outer boxes that contain their object, with its interval;
    and "coverage_asked", percent.
    """
    names = [name for name, entry in entries.items() if "calibrated" in entry]
    part = set(calibration.ids)
    features: dict[str, list[np.ndarray]] = {name: [] for name in names}
    margins: dict[str, list[float]] = {name: [] for name in names}
    ids = []
    for batch in run.records():
        for record in batch:
            if record["id"] in part:
                continue
            ids.append(record["id"])
            size = (record["width"], record["height"])
            for name in names:
                known = calibration.methods[name]
                raw_map, boxes = record[f"map_{name}"], record["boxes"]
                row = box_evidence(raw_map, name, size, boxes, known.threshold, protocol, normalize)
                features[name].append(row[0])
                margins[name].append(row[1])
    for name in names:
        one, known = found[name], calibration.methods[name]
        assert isinstance(one, SplitScore)
        place = {image: index for index, image in enumerate(one.outcomes.ids)}
        outcomes = one.outcomes.at(LARGEST, np.full(len(V2_IOU), known.threshold))[:, one.half]
        right = outcomes[[place[image] for image in ids]].astype(bool)
        chance = known.confidence(np.array(features[name]))
        inside = np.array(margins[name]) <= known.margin
        covered = bootstrap_interval(inside)
        entries[name]["calibrated"]["confidence"] = {
            "auroc": area_under_roc(chance, right),
            "calibration_error": expected_calibration_error(chance, right),
            "confident_half": float(100 * accuracy_by_group(chance, right, 2)[1][0]),
            "coverage": {"value": covered.estimate, "interval": [covered.low, covered.high]},
            "coverage_asked": 100 * calibration.coverage,
        }


def calibration_lines(found: Calibration) -> list[str]:
    """A calibration as lines of text, with what to make of few images."""
    number = len(found.ids)
    lines = [f"{number} images with boxes, {found.boxes}"]
    for name, one in found.methods.items():
        low, high = one.interval
        lines.append(
            f"{name}: threshold {one.threshold:.3f} [{low:.3f}, {high:.3f}]; of its boxes "
            f"{100 * one.accuracy:.1f}% [{100 * one.accuracy_interval[0]:.1f}, "
            f"{100 * one.accuracy_interval[1]:.1f}] reach IoU .5, measured on {number - number // 2} images "
            "that took no part in choosing it"
        )
        lines.append(
            f"  outer box: {100 * one.margin:.0f}% of the sides wider on each side, for "
            f"{100 * found.coverage:g}% of objects"
            if np.isfinite(one.margin)
            else f"  outer box: the whole image; {100 * found.coverage:g}% needs more images"
        )
    return lines


def notes_on_number(found: Calibration) -> list[str]:
    """What the number of images does not allow to know, in true sentences; empty if there are many."""
    number, notes = len(found.ids), []
    half = number - number // 2
    widest = max(found.methods.items(), key=lambda item: item[1].interval[1] - item[1].interval[0])
    name, one = widest
    width = one.interval[1] - one.interval[0]
    spread = 100 * (one.accuracy_interval[1] - one.accuracy_interval[0])
    words = (
        f"the 95% interval of the threshold of {name} is {width:.2f} wide, that of its accuracy "
        f"{spread:.0f} points"
    )
    if number < FEW:
        notes.append(f"{number} images with boxes are too few to rely on: {words}; label {FEW} or more")
    elif width > 0.2:
        notes.append(f"with {number} images with boxes {words}; more boxes make both narrower")
    if any(np.isinf(item.margin) for item in found.methods.values()):
        needed = int(np.ceil(found.coverage / (1 - found.coverage) - 1e-9))
        notes.append(
            f"an outer box of {100 * found.coverage:g}% coverage needs {needed} images that took no part in "
            f"choosing the threshold (there are {half}), most of them with a box in the map: without them it "
            "is the whole image"
        )
    return notes
