"""Tiny-ImageNet: 64 x 64 images of ImageNet classes with one box each, in the published layout.

``wnids.txt`` lists classes, ``words.txt`` names them, ``train/WNID/WNID_boxes.txt`` has ``file x1 y1 x2 y2``
and ``val/val_annotations.txt`` has ``file wnid x1 y1 x2 y2``, separated by tabs. The test part has no labels.
Labels are positions among the sorted ids, as torchvision's ImageFolder numbers them, not rows of wnids.txt.
"""

from __future__ import annotations

from heatbox.data.files.images import TreeImages, is_image
from heatbox.data.files.trees import Report, Tree
from heatbox.data.formats.rows import (
    Box,
    box_array,
    parse_floats,
    read_class_words,
    read_rows,
    skipping,
    validate_box,
)
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT, DEPTH = "Tiny-ImageNet", 2
SIZE = (64, 64)


def split_names(tree: Tree) -> tuple[str, ...]:
    """ "train" and "val", if present beside the list of classes."""
    return tuple(name for name in ("train", "val") if tree.has("wnids.txt") and name in tree.folders())


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read "train" or "val".

    Raises:
        InputError: naming file and row: an unknown class, an image without a row, a box outside its image.
    """
    wnids = sorted({row.text for row in read_rows(tree, "wnids.txt")})
    if not wnids:
        raise InputError(f"{tree.describe('wnids.txt')}: lists no class")
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    examples: list[Example] = []
    if name == "val":
        examples += _read_folder(tree, "val/images", "val/val_annotations.txt", "", labels, report)
    for wnid in tree.folders("train") if name == "train" else ():
        if wnid in labels:
            table = f"train/{wnid}/{wnid}_boxes.txt"
            examples += _read_folder(tree, f"train/{wnid}/images", table, wnid, labels, report)
        else:
            report(f"{tree.describe(f'train/{wnid}')}: class {wnid!r} is not in wnids.txt")
    class_names = read_class_words(tree, ["words.txt"], wnids)
    return Split(name, examples, class_names, TreeImages(tree), class_ids=wnids)


def _read_folder(
    tree: Tree, folder: str, table: str, wnid: str, labels: dict[str, int], report: Report
) -> list[Example]:
    """Examples of the images in a folder, all of one class, or of the classes in the table for ""."""
    boxes = _read_boxes(tree, table, wnid, report)
    where = tree.describe(table)
    examples = []
    files = list(filter(is_image, tree.files(folder)))
    for file in files:
        if file not in boxes:
            report(f"{where}: has no usable row for image {file!r}")
        elif boxes[file][0] not in labels:
            report(f"{where}: class {boxes[file][0]!r} of {file!r} is not in wnids.txt")
        else:
            class_id, box = boxes[file]
            examples.append(Example(f"{folder}/{file}", labels[class_id], SIZE, box_array([box])))
    for file in sorted(boxes.keys() - set(files)):
        report(f"{where}: image {file!r} is listed but missing")
    return examples


def _read_boxes(tree: Tree, name: str, wnid: str, report: Report) -> dict[str, tuple[str, Box]]:
    """File → (class, box) of a table of ``file x1 y1 x2 y2``, or of ``file wnid x1 y1 x2 y2`` for wnid ""."""
    form = "file x1 y1 x2 y2" if wnid else "file wnid x1 y1 x2 y2"
    found: dict[str, tuple[str, Box]] = {}
    for row in read_rows(tree, name):
        fields = row.text.split()
        with skipping(report):
            values = parse_floats(row, fields[1 if wnid else 2 :], form, 4)
            entry = (wnid or fields[1], validate_box(values, SIZE, row.where))
            if found.setdefault(fields[0], entry) != entry:
                raise InputError(f"{row.where}: image {fields[0]!r} has another row, and they differ")
    return found
