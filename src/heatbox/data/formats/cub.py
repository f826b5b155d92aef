"""CUB-200-2011 as Caltech publishes it (Wah et al., 2011): tables of ``image_id value...`` beside images/.

``images.txt`` (id path), ``image_class_labels.txt`` (id class, from 1), ``train_test_split.txt`` (id, 1 for
training), ``bounding_boxes.txt`` (id x y width height), ``classes.txt`` (class name), and in a second archive
``segmentations/CLASS/NAME.png``, whose grey is the share of annotators who saw bird there.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from heatbox.data.files.images import TreeImages, image_size, open_grey
from heatbox.data.files.trees import Tree, below
from heatbox.data.formats import wsol
from heatbox.data.formats.rows import Complain, checked_box, id_table, numbers, refuse, safe_id, whole
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT = "CUB-200-2011"
FILES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")
_V2 = ("CUBV2", "cubv2", "CUB_V2")
_SLACK = 1.0  # pixels by which published boxes may overshoot their image


def recognises(tree: Tree) -> bool:
    """Whether most of the tables are there (which one is missing is then said)."""
    return tree.has("images.txt") and sum(tree.has(name) for name in FILES) >= 2


def split_names(tree: Tree) -> tuple[str, ...]:
    """ "train", "test", and "fullsup" where CUBV2 lies in a folder of that name beside images/."""
    return ("train", "test", *(("fullsup",) if _v2_folder(tree) else ()))


def load_split(tree: Tree, name: str, complain: Complain = refuse) -> Split:
    """Read "train", "test" or "fullsup" (CUBV2, in the metadata layout).

    Sizes are read from the headers of the images, because no table holds them.

    Raises:
        InputError: naming file and row.
    """
    if name == "fullsup":
        folder = below(tree, _v2_folder(tree))
        inner = wsol.split_names(folder)
        return dataclasses.replace(wsol.load_split(folder, inner[0], complain), name=name)
    for file in FILES:
        if not tree.has(file):
            raise InputError(f"{tree.describe(file)}: missing; CUB-200-2011 needs {', '.join(FILES)}")
    class_names = _class_names(tree, complain)
    train = _column(tree, "train_test_split.txt", complain, "image_id is_training_image")
    labels = _column(tree, "image_class_labels.txt", complain, "image_id class_id")
    boxes = id_table(tree, "bounding_boxes.txt", complain, "image_id x y width height")
    examples = []
    first: dict[str, int] = {}  # path → the number it has first
    for number, (row, path) in id_table(tree, "images.txt", complain, "image_id image_name").items():
        tables = zip(FILES[1:], (labels.keys(), train.keys(), boxes.keys()), strict=True)
        missing = [file for file, known in tables if number not in known]
        if missing:
            complain(f"{tree.describe(missing[0])}: has no usable row for image {number}, {path!r}")
        elif not safe_id(path):
            complain(f"{row.where}: image {path!r} leads out of the image folder")
        elif first.setdefault(path, number) != number:
            complain(f"{row.where}: image {path!r} is already image {first[path]}")
        elif train[number] not in (0, 1):
            complain(f"{tree.describe(FILES[2])}: image {number} has {train[number]}, expected 0 or 1")
        elif not 1 <= labels[number] <= max(len(class_names), 1):
            expected = f"1 to {len(class_names)}"
            complain(f"{tree.describe(FILES[1])}: image {number} has class {labels[number]}, not {expected}")
        elif train[number] == (name == "train"):
            box_row, text = boxes[number]
            values = numbers(box_row, text.split(), "image_id x y width height", complain)
            size = image_size(tree, f"images/{path}", complain)
            if values is None or size is None:
                continue
            if len(values) != 4:
                complain(f"{box_row.where}: {box_row.text!r} is not of the form image_id x y width height")
                continue
            x, y, width, height = values
            box = checked_box((x, y, x + width, y + height), size, box_row.where, complain, _SLACK)
            kept = np.array([box] if box else [], dtype=np.float64).reshape(-1, 4)
            examples.append(Example(path, labels[number] - 1, size, kept))
    split = Split(name, examples, class_names, TreeImages(tree, "images"))
    if "segmentations" in tree.folders():
        return dataclasses.replace(split, open_mask=_Masks(below(tree, "segmentations")))
    return split


def _column(tree: Tree, name: str, complain: Complain, form: str) -> dict[int, int]:
    """``id value`` rows of two integers."""
    found = {}
    for number, (row, text) in id_table(tree, name, complain, form).items():
        value = whole(row, text, form, complain)
        if value is not None:
            found[number] = value
    return found


def _class_names(tree: Tree, complain: Complain) -> list[str]:
    """Names by class, from classes.txt or else from the folders of the images."""
    if not tree.has("classes.txt"):
        return tree.folders("images")
    table = id_table(tree, "classes.txt", complain, "class_id class_name")
    if sorted(table) != list(range(1, len(table) + 1)):
        complain(f"{tree.describe('classes.txt')}: classes are not numbered 1 to {len(table)}")
    return [table[number][1] for number in sorted(table)]


def _v2_folder(tree: Tree) -> str:
    return next((name for name in tree.folders() if name in _V2 and wsol.recognises(below(tree, name))), "")


class _Masks:
    """Example → 1 where most annotators saw the bird."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def __call__(self, example: Example) -> np.ndarray:
        return (open_grey(self.tree, example.id.rpartition(".")[0] + ".png") > 127).astype(np.uint8)
