"""Tiny-ImageNet: 64 x 64 pictures of ImageNet classes with one box each, in the layout of its makers.

``wnids.txt`` lists classes, ``words.txt`` names them, ``train/WNID/WNID_boxes.txt`` has ``file x1 y1 x2 y2``
and ``val/val_annotations.txt`` has ``file wnid x1 y1 x2 y2``, separated by tabs. The test part has no labels.
Labels are positions among the sorted ids, as torchvision's ImageFolder numbers them, not rows of wnids.txt.
"""

from __future__ import annotations

import numpy as np

from heatbox.data.files.images import TreeImages, is_image
from heatbox.data.files.trees import Tree
from heatbox.data.formats.rows import Box, Complain, checked_box, numbers, refuse, rows
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT = "Tiny-ImageNet"
SIZE = (64, 64)


def recognises(tree: Tree) -> bool:
    """Whether the list of classes lies beside the pictures."""
    return tree.has("wnids.txt") and bool({"train", "val"} & set(tree.folders()))


def split_names(tree: Tree) -> tuple[str, ...]:
    """ "train" and "val", as far as they are there."""
    return tuple(name for name in ("train", "val") if name in tree.folders())


def load_split(tree: Tree, name: str, complain: Complain = refuse) -> Split:
    """Read "train" or "val".

    Raises:
        InputError: naming file and row: an unknown class, an image without a row, a box outside its image.
    """
    wnids = sorted({row.text for row in rows(tree, "wnids.txt")})
    if not wnids:
        raise InputError(f"{tree.describe('wnids.txt')}: lists no class")
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    examples = _train(tree, labels, complain) if name == "train" else _val(tree, labels, complain)
    return Split(name, examples, _names(tree, wnids), TreeImages(tree))


def _train(tree: Tree, labels: dict[str, int], complain: Complain) -> list[Example]:
    examples = []
    for wnid in tree.folders("train"):
        if wnid not in labels:
            complain(f"{tree.describe(f'train/{wnid}')}: class {wnid!r} is not in wnids.txt")
            continue
        folder, table = f"train/{wnid}/images", f"train/{wnid}/{wnid}_boxes.txt"
        boxes = _boxes(tree, table, 5, complain)
        found = [file for file in tree.files(folder) if is_image(file)]
        examples += [
            Example(f"{folder}/{file}", labels[wnid], SIZE, np.array([boxes[file][1]]))
            for file in found
            if _listed(file, boxes, tree, table, complain)
        ]
        _missing(boxes, found, tree, table, complain)
    return examples


def _val(tree: Tree, labels: dict[str, int], complain: Complain) -> list[Example]:
    table, examples = "val/val_annotations.txt", []
    annotated = _boxes(tree, table, 6, complain)
    found = [file for file in tree.files("val/images") if is_image(file)]
    for file in found:
        if _listed(file, annotated, tree, table, complain):
            wnid, box = annotated[file]
            if wnid in labels:
                examples.append(Example(f"val/images/{file}", labels[wnid], SIZE, np.array([box])))
            else:
                complain(f"{tree.describe(table)}: class {wnid!r} of {file!r} is not in wnids.txt")
    _missing(annotated, found, tree, table, complain)
    return examples


def _listed(file: str, table: dict[str, tuple[str, Box]], tree: Tree, name: str, complain: Complain) -> bool:
    if file not in table:
        complain(f"{tree.describe(name)}: has no usable row for image {file!r}")
    return file in table


def _missing(
    table: dict[str, tuple[str, Box]], found: list[str], tree: Tree, name: str, complain: Complain
) -> None:
    for file in sorted(set(table) - set(found)):
        complain(f"{tree.describe(name)}: image {file!r} is listed but not there")


def _boxes(tree: Tree, name: str, columns: int, complain: Complain) -> dict[str, tuple[str, Box]]:
    """File → (class or "", box) of a table of ``file [class] x1 y1 x2 y2``."""
    form = "file x1 y1 x2 y2" if columns == 5 else "file wnid x1 y1 x2 y2"
    found: dict[str, tuple[str, Box]] = {}
    for row in rows(tree, name):
        fields = row.text.split()
        if len(fields) != columns:
            complain(f"{row.where}: {row.text!r} is not of the form {form}")
            continue
        values = numbers(row, fields[-4:], form, complain)
        box = checked_box(values, SIZE, row.where, complain) if values else None
        entry = ("" if columns == 5 else fields[1], box)
        if box is not None and found.setdefault(fields[0], (entry[0], box)) != entry:
            complain(f"{row.where}: image {fields[0]!r} has another row, and they differ")
    return found


def _names(tree: Tree, wnids: list[str]) -> list[str]:
    """The words of each class, or its id where there are none."""
    words: dict[str, str] = {}
    if tree.has("words.txt"):
        for row in rows(tree, "words.txt"):
            wnid, *rest = row.text.split(maxsplit=1)
            words[wnid] = rest[0] if rest else wnid
    return [words.get(wnid, wnid) for wnid in wnids]
