"""Boxes in COCO's JSON (Lin et al., ECCV 2014), for a folder of classes or as a data set of its own.

``images`` have id, file_name, width and height; ``annotations`` have image_id, category_id and bbox [x, y,
width, height] in pixels; ``categories`` have id and name. Crowds (iscrowd 1) are no single object: left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from heatbox.data.files.images import TreeImages, image_size, is_image
from heatbox.data.files.trees import Tree, find_folders
from heatbox.data.formats.rows import Box, Complain, checked_box, decode_text, refuse, safe_id
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT = "COCO"
SLACK = 0.02  # pixels: published boxes are rounded to hundredths and may overshoot by as much
LARGEST = 2**31  # pixels of a side: above it is no image


@dataclass
class Boxed:
    """One image of a table of boxes.

    Attributes:
        size: (width, height), (0, 0) where the table does not say it.
        boxes: (category name, xyxy box) of each object.
        where: the row, for messages.
    """

    size: tuple[int, int]
    where: str
    boxes: list[tuple[str, Box]] = field(default_factory=list)


def recognises(tree: Tree) -> bool:
    """Whether there is an annotation file and pictures that are not in class folders."""
    return bool(_files(tree)) and any(_image_folder(tree, name) is not None for name in _files(tree))


def split_names(tree: Tree) -> tuple[str, ...]:
    """Names of the annotation files without "instances_" and ".json"."""
    return tuple(_files(tree))


def _files(tree: Tree) -> dict[str, str]:
    """Split name → annotation file."""
    found = {}
    for folder in find_folders(tree, lambda t: any(n.endswith(".json") for n in t.files()), depth=1):
        for name in tree.files(folder):
            path = f"{folder}/{name}".lstrip("/")
            if name.endswith(".json") and not name.startswith("._") and _looks_like_coco(tree, path):
                found[name.removesuffix(".json").removeprefix("instances_")] = path
    return found


def _looks_like_coco(tree: Tree, path: str) -> bool:
    data = tree.read(path)
    return all(b'"%s"' % key in data for key in (b"images", b"annotations", b"categories"))


def _image_folder(tree: Tree, split: str) -> str | None:
    """The folder in which pictures lie, without class folders; None where there is none."""
    for folder in (split, f"images/{split}", "images", "data", ""):
        if any(map(is_image, tree.files(folder)[:50])):
            return folder
    return None


def read_coco(tree: Tree, name: str, complain: Complain = refuse) -> tuple[dict[str, Boxed], list[str]]:
    """File name → its boxes, and the names of the categories by increasing id.

    Raises:
        InputError: the file is not such JSON; single bad entries go to `complain`.
    """
    where = tree.describe(name)
    try:
        data = json.loads(decode_text(tree.read(name), where))
        tables = {key: list(data[key]) for key in ("images", "annotations", "categories")}
        names = {int(c["id"]): str(c["name"]) for c in tables["categories"]}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{where}: is not COCO's JSON ({reason})") from error
    by_id: dict[Any, Boxed] = {}
    found: dict[str, Boxed] = {}
    for index, image in enumerate(tables["images"]):
        _add_image(f"{where}, image {index}", image, by_id, found, complain)
    for index, annotation in enumerate(tables["annotations"]):
        _add_box(f"{where}, annotation {index}", annotation, by_id, names, complain)
    return found, [names[key] for key in sorted(names)]


def _add_image(
    where: str, image: Mapping, by_id: dict[Any, Boxed], found: dict[str, Boxed], complain: Complain
) -> None:
    try:
        key, file = image["id"], str(image["file_name"])
        boxed = Boxed((int(image.get("width") or 0), int(image.get("height") or 0)), where)
        again = key in by_id
        if max(boxed.size) >= LARGEST:
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        complain(f"{where}: expected id, file_name, width and height")
        return
    if not safe_id(file):
        complain(f"{where}: file_name {file!r} leads out of the image folder")
    elif again or file in found:
        complain(f"{where}: image {file!r} (id {key}) is listed twice")
    else:
        by_id[key] = found[file] = boxed


def _add_box(
    where: str, annotation: Mapping, by_id: dict[Any, Boxed], names: dict[int, str], complain: Complain
) -> None:
    try:
        if annotation.get("iscrowd"):
            return
        boxed = by_id.get(annotation["image_id"])
        category = names.get(annotation["category_id"])
        x, y, width, height = map(float, annotation["bbox"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        complain(f"{where}: expected image_id, category_id and bbox [x, y, width, height]")
        return
    if boxed is None or category is None:
        complain(f"{where}: its image_id or category_id is not in the lists of images and categories")
        return
    size = boxed.size if min(boxed.size) > 0 else (LARGEST, LARGEST)
    box = checked_box((x, y, x + width, y + height), size, where, complain, SLACK)
    if box is not None:
        boxed.boxes.append((category, box))


def load_split(tree: Tree, name: str, complain: Complain = refuse) -> Split:
    """A data set that COCO's JSON alone describes; the label is the category, which has to be one an image.

    Raises:
        InputError: an image with no box or with objects of several categories, and what `read_coco` raises.
    """
    table, categories = read_coco(tree, _files(tree)[name], complain)
    folder = _image_folder(tree, name) or ""
    labels = {category: label for label, category in enumerate(categories)}
    examples = []
    for file, boxed in table.items():
        kinds = {category for category, _ in boxed.boxes}
        if len(kinds) != 1:
            what = "no box, so no class" if not kinds else f"objects of {len(kinds)} classes, expected one"
            complain(f"{boxed.where}: {file!r} has {what}")
            continue
        size = image_size_of(boxed, tree, f"{folder}/{file}".lstrip("/"), complain)
        if size is not None:
            checked = (checked_box(box, size, boxed.where, complain, SLACK) for _, box in boxed.boxes)
            examples.append(Example(file, labels[kinds.pop()], size, as_array(box for box in checked if box)))
    return Split(name, examples, categories, TreeImages(tree, folder))


def image_size_of(boxed: Boxed, tree: Tree, name: str, complain: Complain) -> tuple[int, int] | None:
    """(width, height) as the table says it, or else the image's header; None after complaining."""
    return boxed.size if min(boxed.size) > 0 else image_size(tree, name, complain)


def as_array(boxes: Iterable[Box]) -> np.ndarray:
    """(K, 4) float64 of a list of boxes, also of none."""
    return np.array(list(boxes), dtype=np.float64).reshape(-1, 4)
