"""CUB-200-2011 as Caltech publishes it (Wah et al., 2011): tables of ``image_id value...`` beside images/.

``images.txt`` (id path), ``image_class_labels.txt`` (id class, from 1), ``train_test_split.txt`` (id, 1 for
training), ``bounding_boxes.txt`` (id x y width height), ``classes.txt`` (class name), and in a second archive
``segmentations/CLASS/NAME.png``, whose gray level is the fraction of annotators who marked the pixel as bird.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from heatbox.data.files.images import TreeImages, image_size, read_grayscale
from heatbox.data.files.trees import Report, Tree, below, raise_problem
from heatbox.data.formats import wsol
from heatbox.data.formats.rows import (
    box_array,
    is_safe_id,
    parse_floats,
    parse_integer,
    read_id_table,
    validate_box,
)
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT, DEPTH = "CUB-200-2011", 2
FILES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")
_V2 = ("CUBV2", "cubv2", "CUB_V2")
_SLACK = 1.0  # pixels by which published boxes may overshoot their image


def detect(tree: Tree) -> bool:
    """Whether at least two of the tables are there; `load_split` reports a missing one."""
    return tree.has("images.txt") and sum(tree.has(name) for name in FILES) >= 2


def split_names(tree: Tree) -> tuple[str, ...]:
    """ "train", "test", and "fullsup" if there is a folder of CUBV2 beside images/."""
    return ("train", "test", *(("fullsup",) if _v2_folder(tree) else ()))


def load_split(tree: Tree, name: str, report: Report = raise_problem) -> Split:
    """Read "train", "test" or "fullsup" (CUBV2, in the metadata layout).

    Sizes are read from the headers of the images, because no table lists them.

    Raises:
        InputError: naming file and row.
    """
    if name == "fullsup":
        folder = below(tree, _v2_folder(tree))
        inner = wsol.split_names(folder)
        return dataclasses.replace(wsol.load_split(folder, inner[0], report), name=name)
    for file in FILES:
        if not tree.has(file):
            raise InputError(f"{tree.describe(file)}: missing; CUB-200-2011 needs {', '.join(FILES)}")
    class_names = _class_names(tree, report)
    train = _integers(tree, "train_test_split.txt", report, "image_id is_training_image")
    labels = _integers(tree, "image_class_labels.txt", report, "image_id class_id")
    form = "image_id x y width height"
    boxes = read_id_table(tree, "bounding_boxes.txt", report, form)
    examples = []
    first: dict[str, int] = {}  # path → the first id with that path
    for number, (row, path) in read_id_table(tree, "images.txt", report, "image_id image_name").items():
        tables = zip(FILES[1:], (labels.keys(), train.keys(), boxes.keys()), strict=True)
        missing = [file for file, ids in tables if number not in ids]
        if missing:
            report(f"{tree.describe(missing[0])}: has no usable row for image {number}, {path!r}")
        elif not is_safe_id(path):
            report(f"{row.where}: image {path!r} leads out of the image folder")
        elif first.setdefault(path, number) != number:
            report(f"{row.where}: image {path!r} is already image {first[path]}")
        elif train[number] not in (0, 1):
            report(f"{tree.describe(FILES[2])}: image {number} has {train[number]}, expected 0 or 1")
        elif not 1 <= labels[number] <= max(len(class_names), 1):
            expected = f"1 to {len(class_names)}"
            report(f"{tree.describe(FILES[1])}: image {number} has class {labels[number]}, not {expected}")
        elif train[number] == (name == "train"):
            box_row, text = boxes[number]
            values = parse_floats(box_row, text.split(), form, report)
            size = image_size(tree, f"images/{path}", report)
            if values is None or size is None:
                continue
            if len(values) != 4:
                report(f"{box_row.where}: {box_row.text!r} is not of the form {form}")
                continue
            x, y, width, height = values
            box = validate_box((x, y, x + width, y + height), size, box_row.where, report, _SLACK)
            examples.append(Example(path, labels[number] - 1, size, box_array([box] if box else [])))
    split = Split(name, examples, class_names, TreeImages(tree, "images"))
    if "segmentations" in tree.folders():
        return dataclasses.replace(split, open_mask=_Masks(below(tree, "segmentations")))
    return split


def _integers(tree: Tree, name: str, report: Report, form: str) -> dict[int, int]:
    """Rows of two integers, ``id value``."""
    table = read_id_table(tree, name, report, form)
    values = {number: parse_integer(row, text, form, report) for number, (row, text) in table.items()}
    return {number: value for number, value in values.items() if value is not None}


def _class_names(tree: Tree, report: Report) -> list[str]:
    """Names by class, from classes.txt or else from the folders of the images."""
    if not tree.has("classes.txt"):
        return tree.folders("images")
    table = read_id_table(tree, "classes.txt", report, "class_id class_name")
    if sorted(table) != list(range(1, len(table) + 1)):
        report(f"{tree.describe('classes.txt')}: classes are not numbered 1 to {len(table)}")
    return [table[number][1] for number in sorted(table)]


def _v2_folder(tree: Tree) -> str:
    return next((name for name in tree.folders() if name in _V2 and wsol.detect(below(tree, name))), "")


class _Masks:
    """Example → mask: 1 where most annotators marked the bird."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def __call__(self, example: Example) -> np.ndarray:
        return (read_grayscale(self.tree, example.id.rpartition(".")[0] + ".png") > 127).astype(np.uint8)
