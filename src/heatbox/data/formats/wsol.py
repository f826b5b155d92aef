"""The metadata layout of the reference evaluator (Choe et al., CVPR 2020): four text files beside the images.

A split is ``image_ids.txt`` (one id per line), ``class_labels.txt`` (id,label), ``image_sizes.txt``
(id,width,height) and ``localization.txt`` (id,x1,y1,x2,y2; several rows per image, in pixels of the size in
image_sizes.txt), in a folder or in an archive. Boxes of an image that EXIF turns are turned with it if its
listed size is that of the stored picture.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from heatbox._utils.io import write_atomically
from heatbox.data.files.archives import open_tree
from heatbox.data.files.images import TreeImages
from heatbox.data.files.trees import FolderTree, Report, Tree, below, find_folders, join, raise_problem
from heatbox.data.formats.frames import UPRIGHT, turned, turns_of
from heatbox.data.formats.rows import (
    MAX_SIDE,
    Annotation,
    Box,
    Row,
    box_array,
    is_safe_id,
    read_rows,
    require_files,
    skipping,
    validate_box,
)
from heatbox.data.types import Example, Split

LAYOUT, DEPTH = "metadata layout", 0
FILES = ("image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt")
Value = TypeVar("Value", int, float, str)


def load_wsol(
    path: str | Path,
    metadata: str | Path | None = None,
    num_classes: int | None = None,
    complain: Report = raise_problem,
) -> Split:
    """Read a split in the metadata layout; `heatbox.open_split` reads any layout.

    Args:
        path: a folder or archive with the four files and the images, the latter in ``images/`` or beside the
            files, possibly all in one inner folder.
        metadata: a folder with the four files, if they are not with the images.
        num_classes: if given, labels have to be below it.
        complain: receives each problem with a row, which is then skipped; by default the first is raised.

    Returns:
        the split, in the order of image_ids.txt, named after the folder or archive.

    Raises:
        InputError: naming file and row: a missing file, an id without label or size, a label out of
            range, a box outside its image or with x2 < x1, an id that leads out of the folder, images that
            EXIF turns of which some are listed with their stored and some with their upright size.
    """
    tree = open_tree(path)
    if metadata is None:
        folder = next(find_folders(tree, lambda t: t.has(FILES[0]), depth=2), "")
        tables = below(tree, folder)
    else:
        folder = next(find_folders(tree, lambda t: "images" in t.folders(), depth=2), "")
        tables = open_tree(metadata) if os.path.exists(metadata) else FolderTree(Path(metadata))
    return _load(Path(path).stem, tree, folder, tables, num_classes, complain)


def split_names(tree: Tree) -> tuple[str, ...]:
    """Names of the folders of the splits, "all" for files in the root."""
    return tuple(metadata_folders(tree))


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read one of `split_names`; see `load_wsol`."""
    folder = metadata_folders(tree)[name]
    return _load(name, tree, folder, below(tree, folder), None, report)


def write_metadata(examples: Sequence[Example], out: Path) -> None:
    """Write the four files of a split; boxes have six significant digits.

    Raises:
        InputError: a file cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    boxes = [(e.id, ",".join(f"{value:.6g}" for value in box)) for e in examples for box in e.boxes.tolist()]
    lines = (
        [e.id for e in examples],
        [f"{e.id},{e.label}" for e in examples],
        [f"{e.id},{e.size[0]},{e.size[1]}" for e in examples],
        [f"{name},{box}" for name, box in boxes],
    )
    for file, rows in zip(FILES, lines, strict=True):
        write_atomically(out / file, "".join(f"{row}\n" for row in rows).encode())


def metadata_folders(tree: Tree) -> dict[str, str]:
    """Split name → folder with its four files; the name is the shortest unique end of the path."""
    found = list(find_folders(tree, lambda t: t.has(FILES[0])))
    for depth in (1, 2, 3, 4):
        names = ["/".join(folder.split("/")[-depth:]) or "all" for folder in found]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, found, strict=True))


def _image_folder(tree: Tree, folder: str, first: str) -> str:
    """The folder with the first image: beside the metadata, or where the reference evaluator keeps images."""
    data_set = folder.split("/")[-2] if "/" in folder else ""
    beside = join(folder, "images")
    places = [beside, folder, "images", f"images/{data_set}", f"dataset/{data_set}", data_set, ""]
    for place in places:
        if tree.has(join(place, first)):
            return place
    return beside if below(tree, folder).folders("images") or tree.files(beside) else folder


def _load(name: str, tree: Tree, folder: str, tables: Tree, num_classes: int | None, report: Report) -> Split:
    require_files(tables, FILES, "the metadata layout")
    labels, images = read_labelled(tree, folder, tables, report, num_classes)
    sizes = _read_sizes(tables, report)
    boxes = _read_boxes(tables, sizes, report)
    ids = listed(labels, sizes, tables, FILES[2], report)
    where = tables.describe(FILES[2])
    turns = turns_of({i: Annotation(where, sizes[i]) for i in ids if i in boxes}, images.tree, report)
    examples = []
    for i in ids:
        array, size = turned(box_array(boxes.get(i, [])), sizes[i], turns.get(i, UPRIGHT))
        examples.append(Example(i, labels[i], size, array))
    return Split(name, examples, (), images)


def read_labelled(
    tree: Tree, folder: str, tables: Tree, report: Report, num_classes: int | None = None
) -> tuple[dict[str, int], TreeImages]:
    """Id → label in the order of image_ids.txt, and the images, of a split whose metadata is in a folder."""
    ids = _read_ids(tables, report)
    labels = _read_labels(tables, num_classes, report)
    images = TreeImages(tree, _image_folder(tree, folder, ids[0] if ids else ""))
    return {name: labels[name] for name in listed(ids, labels, tables, FILES[1], report)}, images


def listed(ids: Iterable[str], table: Container[str], tables: Tree, file: str, report: Report) -> list[str]:
    """The ids that a table lists; missing ones are reported."""
    found = []
    for name in ids:
        if name in table:
            found.append(name)
        else:
            report(f"{tables.describe(file)}: has no row for image {name!r}")
    return found


def read_values(
    metadata: Tree, file: str, kind: Callable[[str], Value], form: str, report: Report
) -> Iterator[tuple[Row, str, Sequence[Value]]]:
    """(row, id, values) of the rows of a form such as ``id,width,height``; ids may contain commas."""
    count = form.count(",")
    for row in read_rows(metadata, file):
        name, *texts = row.text.rsplit(",", count)
        try:
            values = [kind(text.strip()) for text in texts]
        except ValueError:
            values = []
        if len(values) == count:
            yield row, name, values
        else:
            report(str(row.malformed(form)))


def _read_ids(metadata: Tree, report: Report) -> list[str]:
    """Ids of image_ids.txt in order, each once."""
    ids: dict[str, str] = {}
    for row in read_rows(metadata, FILES[0]):
        if not is_safe_id(row.text):
            report(f"{row.where}: image id {row.text!r} leads out of the image folder")
        elif row.text in ids:
            report(f"{row.where}: image id {row.text!r} is listed twice, first in {ids[row.text]}")
        else:
            ids[row.text] = row.where
    if not ids:
        report(f"{metadata.describe(FILES[0])}: lists no image")
    return list(ids)


def _read_labels(metadata: Tree, num_classes: int | None, report: Report) -> dict[str, int]:
    """Labels of class_labels.txt; a second, different one is a contradiction."""
    labels: dict[str, int] = {}
    for row, name, (label,) in read_values(metadata, FILES[1], int, "id,label", report):
        if label < 0 or (num_classes is not None and label >= num_classes):
            limit = f"0 to {num_classes - 1}" if num_classes is not None else "0 or more"
            report(f"{row.where}: label {label} is out of range, expected {limit}")
        elif labels.setdefault(name, label) != label:
            report(f"{row.where}: image {name!r} has label {label} here and {labels[name]} above")
    return labels


def _read_sizes(metadata: Tree, report: Report) -> dict[str, tuple[int, int]]:
    sizes: dict[str, tuple[int, int]] = {}
    for row, name, (width, height) in read_values(metadata, FILES[2], int, "id,width,height", report):
        if not (0 < width < MAX_SIDE and 0 < height < MAX_SIDE):
            report(
                f"{row.where}: size {width} x {height} of {name!r} is not positive, or too large for an image"
            )
        elif sizes.setdefault(name, (width, height)) != (width, height):
            report(f"{row.where}: image {name!r} has size {width} x {height} here and another above")
    return sizes


def _read_boxes(metadata: Tree, sizes: dict[str, tuple[int, int]], report: Report) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = {}
    for row, name, values in read_values(metadata, FILES[3], float, "id,x1,y1,x2,y2", report):
        # The size of an image that is not listed is unknown; its boxes are validated as far as possible.
        with skipping(report, name if name in sizes else ""):
            box = validate_box(values, sizes.get(name, (MAX_SIDE, MAX_SIDE)), row.where)
            boxes.setdefault(name, []).append(box)
    return boxes
