"""The field's metadata layout: four text files beside the images, in a folder or in an archive.

A split is ``image_ids.txt`` (one id a line), ``class_labels.txt`` (id,label), ``image_sizes.txt``
(id,width,height) and ``localization.txt`` (id,x1,y1,x2,y2; several rows an image, pixels of the size given
in image_sizes.txt). The format is that of the reference evaluator (Choe et al., CVPR 2020).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from heatbox.data.files.archives import open_tree
from heatbox.data.files.images import TreeImages
from heatbox.data.files.trees import Tree, below, find_folders
from heatbox.data.formats.rows import Box, Complain, Row, checked_box, refuse, rows, safe_id
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT = "metadata layout"
FILES = ("image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt")
Number = TypeVar("Number", int, float)


def load_wsol(
    path: str | Path,
    metadata: str | Path | None = None,
    num_classes: int | None = None,
    complain: Complain = refuse,
) -> Split:
    """Read a split in the metadata layout.

    Args:
        path: a folder or archive that holds the four files and the images, the latter in ``images/`` or
            beside the files; all of it may lie in one inner folder.
        metadata: a folder with the four files, where they are not with the images.
        num_classes: if given, labels have to be below it.
        complain: is told of every bad row, which is then left out; by default the first one is raised.

    Returns:
        the split, in the order of image_ids.txt, named after the folder or archive.

    Raises:
        InputError: naming file and row: a missing file, an id without label or size, a label out of
            range, a box outside its image or with x2 < x1, an id that leads out of the folder.
    """
    tree = open_tree(path)
    if metadata is None:
        folder = next(find_folders(tree, lambda t: t.has(FILES[0]), depth=2), "")
        return _load(Path(path).stem, tree, folder, below(tree, folder), num_classes, complain)
    if not os.path.exists(metadata):
        needed = ", ".join(FILES)
        raise InputError(f"{Path(metadata) / FILES[0]}: missing; the metadata layout needs {needed}")
    top = next(find_folders(tree, lambda t: "images" in t.folders(), depth=2), "")
    return _load(Path(path).stem, tree, top, open_tree(metadata), num_classes, complain)


def recognises(tree: Tree) -> bool:
    """Whether there is a split in this layout somewhere near the root."""
    return bool(metadata_folders(tree))


def split_names(tree: Tree) -> tuple[str, ...]:
    """Names of the splits: those of their folders, "all" for files in the root."""
    return tuple(metadata_folders(tree))


def load_split(tree: Tree, name: str, complain: Complain = refuse) -> Split:
    """Read one of `split_names`; see `load_wsol`."""
    folder = metadata_folders(tree)[name]
    return _load(name, tree, folder, below(tree, folder), None, complain)


def metadata_folders(tree: Tree) -> dict[str, str]:
    """Split name → folder with its four files; the name is the shortest end of the path that is unique."""
    found = list(find_folders(tree, lambda t: t.has(FILES[0])))
    if len(found) == 1:
        return {found[0].rpartition("/")[2] or "all": found[0]}
    for depth in (1, 2, 3, 4):
        names = ["/".join(folder.split("/")[-depth:]) or "all" for folder in found]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, found, strict=True)) if found else {}


def image_folder(tree: Tree, folder: str, first: str) -> str:
    """Where the images of a split are: beside its metadata, or where the reference evaluator keeps them.

    Args:
        tree: the data set.
        folder: of the metadata, for example "metadata/CUB/test".
        first: an id to look for.
    """
    data_set = folder.split("/")[-2] if "/" in folder else ""
    beside = f"{folder}/images".lstrip("/")
    places = [beside, folder, "images", f"images/{data_set}", f"dataset/{data_set}", data_set, ""]
    for place in places:
        if tree.has(f"{place}/{first}".lstrip("/")):
            return place
    return beside if below(tree, folder).folders("images") or tree.files(beside) else folder


def _load(
    name: str, tree: Tree, folder: str, metadata: Tree, num_classes: int | None, complain: Complain
) -> Split:
    for file in FILES:
        if not metadata.has(file):
            raise InputError(
                f"{metadata.describe(file)}: missing; the metadata layout needs {', '.join(FILES)}"
            )
    ids = read_ids(metadata, complain)
    labels = read_labels(metadata, num_classes, complain)
    sizes = _sizes(metadata, complain)
    boxes = _boxes(metadata, sizes, complain)
    known = [i for i in ids if has_row(i, labels, metadata, FILES[1], complain)]
    known = [i for i in known if has_row(i, sizes, metadata, FILES[2], complain)]
    examples = [
        Example(i, labels[i], sizes[i], np.array(boxes.get(i, []), dtype=np.float64).reshape(-1, 4))
        for i in known
    ]
    return Split(name, examples, (), TreeImages(tree, image_folder(tree, folder, ids[0] if ids else "")))


def has_row(name: str, table: Mapping[str, Any], metadata: Tree, file: str, complain: Complain) -> bool:
    """Whether a table has an id; complains where it has not."""
    if name not in table:
        complain(f"{metadata.describe(file)}: has no row for image {name!r}")
    return name in table


def split_row(
    row: Row, count: int, kind: Callable[[str], Number], form: str, complain: Complain
) -> tuple[str, Sequence[Number]] | None:
    """``id,v1,...`` from the right, so that an id may hold commas; None after complaining."""
    parts = row.text.rsplit(",", count)
    try:
        if len(parts) == count + 1:
            return parts[0], [kind(part.strip()) for part in parts[1:]]
    except ValueError:
        pass
    complain(f"{row.where}: {row.text!r} is not of the form {form}")
    return None


def read_ids(metadata: Tree, complain: Complain) -> list[str]:
    """Ids of image_ids.txt in order, each once."""
    ids: dict[str, str] = {}
    for row in rows(metadata, "image_ids.txt"):
        if not safe_id(row.text):
            complain(f"{row.where}: image id {row.text!r} leads out of the image folder")
        elif row.text in ids:
            complain(f"{row.where}: image id {row.text!r} is listed twice, first in {ids[row.text]}")
        else:
            ids[row.text] = row.where
    if not ids:
        complain(f"{metadata.describe('image_ids.txt')}: lists no image")
    return list(ids)


def read_labels(metadata: Tree, num_classes: int | None, complain: Complain) -> dict[str, int]:
    """Labels of class_labels.txt; a second, different one is a contradiction."""
    labels: dict[str, int] = {}
    for row in rows(metadata, "class_labels.txt"):
        found = split_row(row, 1, int, "id,label", complain)
        if found is None:
            continue
        name, (label,) = found
        if label < 0 or (num_classes is not None and label >= num_classes):
            limit = f"0 to {num_classes - 1}" if num_classes is not None else "0 or more"
            complain(f"{row.where}: label {label} is out of range, expected {limit}")
        elif labels.setdefault(name, label) != label:
            complain(f"{row.where}: image {name!r} has label {label} here and {labels[name]} above")
    return labels


def _sizes(metadata: Tree, complain: Complain) -> dict[str, tuple[int, int]]:
    sizes: dict[str, tuple[int, int]] = {}
    for row in rows(metadata, "image_sizes.txt"):
        found = split_row(row, 2, int, "id,width,height", complain)
        if found is None:
            continue
        name, (width, height) = found
        if not (0 < width < 2**31 and 0 < height < 2**31):
            complain(
                f"{row.where}: size {width} x {height} of {name!r} is not positive, or too large for an image"
            )
        elif sizes.setdefault(name, (width, height)) != (width, height):
            complain(f"{row.where}: image {name!r} has size {width} x {height} here and another above")
    return sizes


def _boxes(metadata: Tree, sizes: dict[str, tuple[int, int]], complain: Complain) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = {}
    for row in rows(metadata, "localization.txt"):
        found = split_row(row, 4, float, "id,x1,y1,x2,y2", complain)
        if found is None:
            continue
        name, values = found
        # An image that is not listed has no size; that its box is whole is checked all the same.
        box = checked_box(values, sizes.get(name, (2**31, 2**31)), row.where, complain)
        if box is not None:
            boxes.setdefault(name, []).append(box)
    return boxes
