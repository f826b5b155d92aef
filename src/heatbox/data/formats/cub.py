"""CUB-200-2011 as Caltech publishes it (Wah et al., 2011): tables of ``image_id value...`` beside images/.

``images.txt`` (id path), ``image_class_labels.txt`` (id class, from 1), ``train_test_split.txt`` (id, 1 for
training), ``bounding_boxes.txt`` (id x y width height), ``classes.txt`` (class name), and in a second archive
``segmentations/CLASS/NAME.png``, whose grey level is the fraction of annotators who marked the pixel as bird.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np

from heatbox.data.files.images import TreeImages, read_grayscale
from heatbox.data.files.trees import Report, Tree, below
from heatbox.data.formats import wsol
from heatbox.data.formats.rows import (
    Annotation,
    Object,
    is_safe_id,
    parse_floats,
    parse_integer,
    read_id_table,
    require_files,
    skipping,
)
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT, DEPTH = "CUB-200-2011", 2
FILES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")
_V2 = ("CUBV2", "cubv2", "CUB_V2")


def split_names(tree: Tree) -> tuple[str, ...]:
    """ "train", "test", and "fullsup" if there is a folder of CUBV2 beside images/.

    Two of the tables are enough to recognize the layout; `load_split` reports a missing one.
    """
    if not tree.has("images.txt") or sum(map(tree.has, FILES)) < 2:
        return ()
    return ("train", "test", *(("fullsup",) if _v2_folder(tree) else ()))


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read "train", "test" or "fullsup" (CUBV2, in the metadata layout).

    Sizes are read from the headers of the images, because no table lists them.

    Raises:
        InputError: naming file and row.
    """
    if name == "fullsup":
        folder = below(tree, _v2_folder(tree))
        inner = wsol.split_names(folder)
        return dataclasses.replace(wsol.load_split(folder, inner[0], report), name=name)
    require_files(tree, FILES, LAYOUT)
    class_names = _class_names(tree, report)
    train = _integers(tree, "train_test_split.txt", report, "image_id is_training_image")
    labels = _integers(tree, "image_class_labels.txt", report, "image_id class_id")
    form = "image_id x y width height"
    boxes = read_id_table(tree, "bounding_boxes.txt", report, form)
    images = TreeImages(tree, "images")
    examples = []
    first: dict[str, int] = {}  # path → the first id with that path
    for number, (row, path) in read_id_table(tree, "images.txt", report, "image_id image_name").items():
        with skipping(report):
            for file, ids in zip(FILES[1:], (labels.keys(), train.keys(), boxes.keys()), strict=True):
                if number not in ids:
                    where = tree.describe(file)
                    raise InputError(f"{where}: has no usable row for image {number}, {path!r}")
            if not is_safe_id(path):
                raise InputError(f"{row.where}: image {path!r} leads out of the image folder")
            if first.setdefault(path, number) != number:
                raise InputError(f"{row.where}: image {path!r} is already image {first[path]}")
            if train[number] not in (0, 1):
                where = tree.describe(FILES[2])
                raise InputError(f"{where}: image {number} has {train[number]}, expected 0 or 1")
            if not 1 <= labels[number] <= max(len(class_names), 1):
                what = f"has class {labels[number]}, not 1 to {len(class_names)}"
                raise InputError(f"{tree.describe(FILES[1])}: image {number} {what}")
            if train[number] == (name == "train"):
                box_row, text = boxes[number]
                x, y, width, height = parse_floats(box_row, text.split(), form, 4)
                corners = x, y, x + width, y + height
                bird = Annotation(box_row.where, objects=[Object("bird", corners, box_row.where)])
                examples.append(bird.example(path, labels[number] - 1, images.tree, report))
    masked = "segmentations" in tree.folders()
    open_mask = partial(_open_mask, below(tree, "segmentations")) if masked else None
    return Split(name, examples, class_names, images, open_mask)


def _integers(tree: Tree, name: str, report: Report, form: str) -> dict[int, int]:
    """Rows of two integers, ``id value``."""
    values: dict[int, int] = {}
    for number, (row, text) in read_id_table(tree, name, report, form).items():
        with skipping(report):
            values[number] = parse_integer(row, text, form)
    return values


def _class_names(tree: Tree, report: Report) -> list[str]:
    """Names by class, from classes.txt or else from the folders of the images."""
    if not tree.has("classes.txt"):
        return tree.folders("images")
    table = read_id_table(tree, "classes.txt", report, "class_id class_name")
    if sorted(table) != list(range(1, len(table) + 1)):
        report(f"{tree.describe('classes.txt')}: classes are not numbered 1 to {len(table)}")
    return [table[number][1] for number in sorted(table)]


def _v2_folder(tree: Tree) -> str:
    return next((name for name in tree.folders() if name in _V2 and wsol.split_names(below(tree, name))), "")


def _open_mask(tree: Tree, example: Example) -> np.ndarray:
    """1 where most annotators marked the bird."""
    return (read_grayscale(tree, example.id.rpartition(".")[0] + ".png") > 127).astype(np.uint8)
