"""A folder of classes: CLASS/image or SPLIT/CLASS/image, with boxes in COCO's JSON or in a table, or without.

Labels are positions among the sorted names of the class folders. Tables have the columns that
`heatbox.data.formats.table` describes; they may add boxes, and labels of an image besides that of its folder.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from heatbox.data.files.images import TreeImages, images_among
from heatbox.data.files.trees import Report, Tree, below, join, raise_problem
from heatbox.data.formats.coco import read_coco
from heatbox.data.formats.frames import UPRIGHT, turns_of
from heatbox.data.formats.output import (
    OUTLINES,
    Writer,
    box_classes,
    box_scores,
    labels_without_boxes,
    number_text,
)
from heatbox.data.formats.rows import Annotation, skipping
from heatbox.data.formats.splits import in_order, is_split
from heatbox.data.formats.table import CORNERS, SUFFIXES, merge, read_table
from heatbox.data.formats.yolo import warn_of_labels
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT, DEPTH = "folder of classes", 1


def split_names(tree: Tree) -> tuple[str, ...]:
    """The split folders with class folders in them, or "all" for class folders without any."""
    # Images in "images" or "test" itself rather belong to another layout whose tables are missing.
    splits = in_order(
        n for n in tree.folders() if is_split(n) and {*_class_folders(below(tree, n))} - {"images"}
    )
    classes = (name for name in _class_folders(tree) if not is_split(name) and name.lower() != "images")
    return splits or (("all",) if any(classes) else ())


def has_classes(tree: Tree) -> bool:
    """Whether a tree has splits, or more than one folder of images."""
    found = split_names(tree)
    return bool(found) and (found != ("all",) or len(_class_folders(tree)) > 1)


def _class_folders(tree: Tree) -> list[str]:
    """Folders that contain an image, or arrays alone, at any depth."""
    return [name for name in tree.folders() if next(images_among(tree.walk(name)), "")]


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read a split; images without boxes have size (0, 0).

    Raises:
        InputError: a table of boxes that cannot be read, or that names a missing image.
    """
    root = "" if name == "all" else name
    inside = below(tree, root)
    names = _class_folders(inside)
    table = _read_tables(tree, root, report)
    used: dict[str, str] = {}
    found: dict[str, tuple[int, Annotation]] = {}
    for label, class_name in enumerate(names):
        for file in images_among(inside.walk(class_name)):
            # A table may name an image by its path in the data set, in the split, or by its file name.
            keys = (join(root, file), file, file.rpartition("/")[2])
            key = next((key for key in keys if key in table), "")
            with skipping(report, file):
                if key and key in used:
                    what = f"image {key!r} may be {used[key]!r} or {file!r}, name it with its folder"
                    raise InputError(f"{table[key].where}: {what}")
                used[key] = file
                found[file] = label, table.get(key, Annotation(""))
    warn_of_labels(inside, found)
    turns = turns_of({file: annotation for file, (_, annotation) in found.items()}, inside, report)
    examples = []
    for file, (label, annotation) in found.items():
        with skipping(report, file):
            examples.append(_example(file, label, annotation, names, inside, report, turns))
    for key, annotation in table.items():
        here = not root or key.startswith(f"{root}/") or inside.where in annotation.where
        if key not in used and here:
            report(f"{annotation.where}: image {key!r} is missing")
    return Split(name, examples, names, TreeImages(tree, root))


def _example(
    file: str,
    label: int,
    annotation: Annotation,
    names: Sequence[str],
    images: Tree,
    report: Report,
    turns: Mapping[str, int],
) -> Example:
    """The example of an image in the folder of its class.

    Boxes of other classes do not count, unless the table labels the image with these, too. A category that is
    not a class, like "object", always counts.
    """
    class_name, turn = names[label], turns.get(file, UPRIGHT)
    more = [kind for kind in annotation.labels if kind in names]
    if more and class_name not in (*more, *annotation.categories):
        what = f"class {class_name!r}, its labels are {', '.join(more)}"
        raise InputError(f"{annotation.where}: {file!r} lies in {what}")
    others = {*names} - {class_name, *more}
    if annotation.objects and others.issuperset(annotation.categories):
        what = f"class {class_name!r}, its boxes are of {', '.join(annotation.categories)}"
        raise InputError(f"{annotation.where}: {file!r} lies in {what}")
    if not {*more} - {class_name}:
        return annotation.example(file, label, images, report, others, turn)
    numbers = {kind: number for number, kind in enumerate(names)}
    kept = [one for one in annotation.objects if one.category not in others]
    own = [one if one.category in numbers else one._replace(category=class_name) for one in kept]
    whole = replace(annotation, objects=own, labels=[class_name, *more])
    found = whole.example(file, label, images, report, turn=turn, classes=numbers)
    return replace(found, label=label)


def _read_tables(tree: Tree, root: str, report: Report) -> dict[str, Annotation]:
    """Image → annotation, from every table in the root and in the folder of the split."""
    found: dict[str, Annotation] = {}
    for place in dict.fromkeys(("", root)):
        for path in tree.paths(place, (".json", *SUFFIXES)):
            if path.lower().endswith(".json"):
                table = read_coco(tree, path, report)[0]
            else:
                table = read_table(tree, path, report).annotations
            for listed, annotation in table.items():
                merge(found, listed, annotation)
    return found


def read_csv(tree: Tree, name: str, report: Report = raise_problem) -> dict[str, Annotation]:
    """Image → annotation, of a CSV file with a header; commas, semicolons or tabs separate.

    Raises:
        InputError: the header does not name an image and a box; invalid rows go to `report`.
    """
    return read_table(tree, name, report, needs_box=True).annotations


# ------------------------------------------------------------------------------------------------- writing


def csv_lines(split: Split) -> Iterator[str]:
    """The lines of a table with a header and one row per box, as `read_csv` reads it.

    A label without a box and an image without labels are rows whose box is empty. The column ``score`` is
    there if any box has one.

    Raises:
        InputError: boxes of no class.
    """
    scored = any(example.box_scores is not None for example in split)
    sizes = ("image_width", "image_height")
    yield _csv_text([["image", "label", *CORNERS[0], *(["score"] if scored else []), *sizes]])
    for example in split:
        rows = [
            [split.class_names[label], *map(number_text, box), "" if score is None else number_text(score)]
            for label, box, score in zip(
                box_classes(example), example.boxes, box_scores(example), strict=True
            )
        ]
        rows += [[split.class_names[label], *[""] * 5] for label in labels_without_boxes(example)]
        rows = rows or [[""] * 6]
        yield _csv_text([example.id, *(row if scored else row[:-1]), *example.size] for row in rows)


def _csv_text(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


WRITER = Writer(
    "FILE.csv with image, label, x1, y1, x2, y2, score, size",
    files=lambda split, options: {"": csv_lines(split)},
    suffix=".csv",
    loses=lambda options: (OUTLINES,),
)
