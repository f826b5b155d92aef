"""Proposed boxes in the formats of annotation tools and detectors, a summary, and a page to review them."""

from __future__ import annotations

import dataclasses
from array import array
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from heatbox._utils.io import folder_when_whole, to_json, write_atomically
from heatbox._utils.progress import Track, silent
from heatbox.data.formats.labelstudio import labeling_config
from heatbox.data.formats.options import WriteOptions, WrittenFormat
from heatbox.data.problems import LeftOut
from heatbox.data.types import Split
from heatbox.data.write import check_output, write_splits
from heatbox.errors import InputError

OUTPUTS: Mapping[str, tuple[WrittenFormat, str]] = {
    "coco": ("coco", "coco.json"),
    "coco-results": ("coco-results", "coco-results.json"),
    "csv": ("csv", "boxes.csv"),
    "cvat": ("cvat", "cvat.zip"),
    "huggingface": ("huggingface", "huggingface"),
    "label-studio": ("labelstudio", "label-studio.json"),
    "labelstudio": ("labelstudio", "label-studio.json"),
    "voc": ("voc", "voc"),
    "yolo": ("yolo", "yolo"),
}
"""Name of an output → format, and name of the file or folder."""

SUMMARY, REVIEW, LABEL_STUDIO_CONFIG = "summary.json", "review.html", "label-studio.xml"


@dataclass
class WrittenLabels:
    """What was written.

    Attributes:
        folder: the output folder.
        split: the images with their boxes, in their own classes.
        summary: content of summary.json.
        files: names of the files and folders in it.
        notes: what the user should know, a sentence each.
        problems: why images were left out, a sentence each.
    """

    folder: Path
    split: Split
    summary: dict[str, Any]
    files: list[str]
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check_outputs(out: Path, names: Sequence[str], options: WriteOptions, photos: str = "") -> None:
    """Validate the outputs before anything is computed.

    Args:
        out: the folder that gets all of them.
        names: of `OUTPUTS`.
        options: of the writers.
        photos: folder of the images, into which nothing is written; or anything else.

    Raises:
        InputError: no output, an unknown one, a folder that exists and is not empty or contains the images,
            or a choice of images that a format does not have.
    """
    if not names:
        raise InputError(f"no output was asked for, expected one or several of {', '.join(OUTPUTS)}")
    if unknown := [name for name in names if name not in OUTPUTS]:
        raise InputError(f"output is {unknown[0]!r}, expected one of {', '.join(OUTPUTS)}")
    if out.is_file():
        raise InputError(f"{out}: is a file, expected a folder")
    if out.is_dir() and any(out.iterdir()) and not options.overwrite:
        raise InputError(f"{out}: exists and is not empty; choose another --out or pass --overwrite")
    where = Path(photos).resolve()
    if (
        photos
        and where.is_dir()
        and (where.is_relative_to(out.resolve()) or out.resolve().is_relative_to(where))
    ):
        raise InputError(f"{out}: the output and the photographs, {photos}, must not lie in each other")
    for format_, name in _chosen(names):
        check_output(out / name, format_, _options_of(format_, name, options))


def _chosen(names: Sequence[str]) -> list[tuple[WrittenFormat, str]]:
    return list(dict.fromkeys(OUTPUTS[name] for name in names))


def _options_of(format_: WrittenFormat, name: str, options: WriteOptions) -> WriteOptions:
    """The options of one of several formats: the choice of images is for those that hold any."""
    single = name.endswith((".json", ".csv"))
    return dataclasses.replace(options, images=None) if single else options


def write_labels(
    split: Split,
    out: Path,
    names: Sequence[str],
    options: WriteOptions,
    summary: Mapping[str, Any],
    page: str | None = None,
    track: Track = silent,
) -> WrittenLabels:
    """Write boxes in several formats into one folder, which is there whole or not at all.

    Args:
        split: the images with the proposed boxes.
        out: the folder.
        names: of `OUTPUTS`.
        options: of the writers.
        summary: content of summary.json.
        page: content of review.html; None writes none.
        track: shows progress.

    Raises:
        InputError: something that cannot be written.
    """
    files = [*(name for _, name in _chosen(names)), SUMMARY, *([] if page is None else [REVIEW])]
    written = WrittenLabels(out, split, dict(summary), files)
    problems: dict[str, None] = {}
    with folder_when_whole(out) as folder:
        for format_, name in _chosen(names):
            chosen = _options_of(format_, name, options)
            one = write_splits(split, folder / name, format_, chosen, track)
            written.notes += [note.replace(str(folder), str(out)) for note in one.notes]
            problems |= dict.fromkeys(one.problems)
            if format_ == "labelstudio":
                text = labeling_config([split], dataclasses.replace(options, images="none"))
                write_atomically(folder / LABEL_STUDIO_CONFIG, text.encode())
        written.notes = list(dict.fromkeys(written.notes))
        written.problems = list(problems)
        write_atomically(folder / SUMMARY, (to_json(written.summary) + "\n").encode())
        if page is not None:
            write_atomically(folder / REVIEW, page.encode("utf-8", "replace"))
    return written


def summary_of(
    split: Split,
    left_out: LeftOut,
    settings: Mapping[str, Any],
    notes: Sequence[str] = (),
    calibrated: bool = False,
    kept: Collection[str] = (),
) -> dict[str, Any]:
    """Counts and confidences, for summary.json and the terminal.

    Where confidences are probabilities, the mean of some is the expected accuracy of these boxes.

    Args:
        split: the images with boxes and confidences.
        left_out: the images that could not be used.
        settings: how boxes were made.
        notes: further sentences.
        calibrated: whether confidences were measured with known boxes.
        kept: ids of images whose boxes a person drew: they do not count in the confidences.
    """
    counts = {key: Counter[int]() for key in ("images", "empty")}
    kinds, scores, proposed = array("q"), array("d"), array("d")
    without = 0
    for example in split:
        assert example.box_labels is not None
        assert example.box_scores is not None
        counts["images"].update(example.labels)
        counts["empty"].update({*example.labels} - {*example.box_labels.tolist()})
        kinds.extend(example.box_labels.tolist())
        scores.extend(example.box_scores.tolist())
        proposed.extend(() if example.id in kept else example.box_scores.tolist())
        without += not len(example.boxes)
    labels, every = np.array(kinds), np.array(scores)
    names = [*map(str, split.class_names), *map(str, range(len(split.class_names), split.num_classes))]
    classes = [
        {
            "name": names[label],
            "images": counts["images"][label],
            "images_without_boxes": counts["empty"][label],
            "boxes": int((labels == label).sum()),
            "confidence": _mean(every[labels == label]),
        }
        for label in sorted({*counts["images"], *labels.tolist()})
    ]
    ordered = np.sort(proposed)[::-1]
    return {
        "images": len(split),
        "images_without_boxes": without,
        "boxes": len(every),
        "boxes_of_a_person": len(every) - len(ordered),
        "mean_confidence": _mean(ordered),
        "mean_confidence_of_confident_half": _mean(ordered[: (len(ordered) + 1) // 2]),
        "calibrated": calibrated,
        "classes": classes,
        "left_out": left_out.as_dict(),
        "settings": dict(settings),
        "notes": list(notes),
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def accuracy_sentence(summary: Mapping[str, Any]) -> str:
    """The expected accuracy in words, as the terminal shows it."""
    every, half = summary["mean_confidence"], summary["mean_confidence_of_confident_half"]
    if every is None:
        return "all boxes were drawn by a person" if summary["boxes"] else "no box was found"
    words = f"about {100 * every:.0f} of 100 boxes are right; the most confident half: {100 * half:.0f}"
    if summary["calibrated"]:
        return words
    return f"{words} (expected of photographs like ImageNet's; --corrected or --calibration measures it)"
