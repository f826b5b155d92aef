"""The images of an evaluation: opened, matched with the network's classes, and fit to be scored.

An image that cannot be used ends the evaluation, or with `on_bad` "skip" is left out and counted. Images of
several classes are evaluated once for each class, against the boxes of that class.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from heatbox._utils.io import read_json
from heatbox.config import OnBad, Target
from heatbox.data.files.trees import raise_problem
from heatbox.data.open import open_split
from heatbox.data.problems import BadImage, LeftOut, require_fit
from heatbox.data.types import Split
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.run import CLASSES, LEFT_OUT, Run


def open_images(
    data: str | Split,
    metadata: str | Path | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
    target: Target = "label",
    on_bad: OnBad = "stop",
    limit: int | None = None,
    boxes: bool = True,
) -> tuple[Split, LeftOut]:
    """Open the split that is evaluated.

    Args:
        data: the data set, or its split.
        metadata: folder of its metadata files, if they are elsewhere.
        num_classes: number of classes of the network, if there is one; see `open_split`.
        class_names: their names, where they are known.
        target: "label" evaluates an image of several classes once for each; "predicted" needs one class.
        on_bad: "stop" raises the first problem, "skip" leaves the image out.
        limit: maximum number of images; the first ones are used.
        boxes: whether the images need boxes, or masks.

    Returns:
        the split, whose images all have boxes, or masks and no boxes, if they need them; and what was left
        out.

    Raises:
        InputError: the data set cannot be opened, an image does not fit, or none is left.
    """
    left_out = LeftOut()
    skip = on_bad == "skip"
    report = left_out if skip else raise_problem
    split = data if isinstance(data, Split) else open_split(data, metadata, num_classes, report, class_names)
    boxes, single = boxes and not split.has_only_masks, target == "predicted"
    if skip:
        split = left_out.filter(split, boxes, single).take(limit)
        return left_out.filter(_by_class(split, target), boxes), left_out
    try:
        split = require_fit(split.take(limit), boxes, single)
        return require_fit(_by_class(split, target), boxes), left_out
    except BadImage as error:
        raise InputError(f"{error}; --on-bad skip leaves such images out") from error


def _by_class(split: Split, target: Target) -> Split:
    found = split.by_class() if target == "label" else split
    if found is not split:
        what = f"{len(found)} pairs of {len(split)} images"
        warnings.warn(
            f"{split.name}: images of several classes are evaluated once for each class: {what}",
            AssumptionWarning,
            2,
        )
    return found


def require_same_labels(run: Run, split: Split, key: str = "label") -> None:
    """Refuse a run whose records are of other classes than the images now are.

    Args:
        run: that may have records.
        split: its images, with labels that are classes of the network.
        key: of the class in a record.

    Raises:
        InputError: naming the first such image.
    """
    try:
        first = next(run.records(), [])
    except InputError:  # nothing is saved yet, or it is damaged, which is found when it is resumed
        return
    labels = {example.id: example.label for example in split}
    for record in first:
        if labels.get(record["id"], record[key]) != record[key]:
            was, now = record[key], labels[record["id"]]
            what = f"image {record['id']!r} was measured as class {was} and is class {now} of the network"
            raise InputError(f"{run.folder}: {what}; choose another --out or start again with --overwrite")


def reopen_images(run: Run, config: Mapping[str, Any] | None = None) -> Split:
    """The split of a run, to look at its images; ids and class names are those of the run.

    Labels are those of the data set: a network may have them in another order.

    Args:
        run: the run.
        config: content of its config.json, by default read.

    Raises:
        InputError: the data set cannot be opened.
    """
    config = run.config() if config is None else config
    metadata = config.get("metadata")
    report = LeftOut() if config.get("on_bad") == "skip" else raise_problem
    split = open_split(config["data"], Path(metadata) if metadata else None, report=report)
    if (names := class_names_of(run)) is not None:
        split = replace(split, class_names=names)
    return split.by_class() if config.get("target", "label") == "label" else split


def class_names_of(run: Run) -> list[str] | None:
    """Names of the classes that the labels of a run's records are; None if the run has none.

    Raises:
        InputError: the file is damaged.
    """
    path = run.folder / CLASSES
    if not path.is_file():
        return None
    names = read_json(path).get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: has no list of class names")
    return names


def save_images(run: Run, split: Split, left_out: LeftOut) -> None:
    """Write the class names, and what was left out, into the run folder, if there is any."""
    if split.class_names:
        run.write_json(CLASSES, {"class_names": [str(name) for name in split.class_names]})
    if left_out.counts():
        run.write_json(LEFT_OUT, left_out.as_dict())


def left_out_counts(run: Run) -> dict[str, int]:
    """Number of images of a run that were left out, for each reason; empty if none was.

    Raises:
        InputError: the file is damaged.
    """
    path = run.folder / LEFT_OUT
    if not path.is_file():
        return {}
    counts = read_json(path).get("counts")
    if not isinstance(counts, dict) or not all(isinstance(number, int) for number in counts.values()):
        raise InputError(f"{path}: has no counts of images that were left out")
    return counts
