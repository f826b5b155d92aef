"""A folder of classes: CLASS/image or SPLIT/CLASS/image, with boxes in COCO's JSON, in CSV, or without boxes.

Labels are positions among the sorted names of the class folders. A CSV file needs a header that names its
columns: an image (``image``, ``file``, ``filename``, ``file_name``, ``path`` or ``id``), then either
``x1,y1,x2,y2`` (also ``xmin,ymin,xmax,ymax``) or ``x,y,width,height`` (also ``w,h``), in pixels from 0, and
optionally the size of the image as ``image_width,image_height``. Several rows of an image are several boxes.
"""

from __future__ import annotations

import csv
import io

from heatbox.data.files.images import TreeImages, is_image
from heatbox.data.files.trees import Report, Tree, below, join, raise_problem
from heatbox.data.formats.coco import read_coco
from heatbox.data.formats.options import WriteOptions
from heatbox.data.formats.output import (
    Writer,
    box_classes,
    box_scores,
    labels_without_boxes,
    number_text,
)
from heatbox.data.formats.rows import (
    MAX_SIDE,
    SLACK,
    Annotation,
    Object,
    Row,
    is_safe_id,
    parse_floats,
    read_rows,
    skipping,
)
from heatbox.data.types import Split
from heatbox.errors import InputError

LAYOUT, DEPTH = "folder of classes", 1
SPLITS = ("train", "training", "fullsup", "val", "valid", "validation", "test")
_IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "path", "id", "image_id")
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
_EXTENTS = (("x", "y", "width", "height"), ("x", "y", "w", "h"))


def split_names(tree: Tree) -> tuple[str, ...]:
    """The split folders with class folders in them, or "all" for class folders without any."""
    folders = (name for name in tree.folders() if name.lower() in SPLITS)
    found = (name for name in folders if _class_folders(below(tree, name)))
    splits = tuple(sorted(found, key=lambda name: SPLITS.index(name.lower())))
    # Images in "images" or "test" itself rather belong to another layout whose tables are missing.
    classes = (name for name in _class_folders(tree) if name.lower() not in (*SPLITS, "images"))
    return splits or (("all",) if any(classes) else ())


def _class_folders(tree: Tree) -> list[str]:
    """Folders that contain an image, at any depth."""
    return [name for name in tree.folders() if next(filter(is_image, tree.walk(name)), "")]


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read a split; images without boxes have size (0, 0).

    Raises:
        InputError: a table of boxes that cannot be read, or that names a missing image.
    """
    root = "" if name == "all" else name
    inside = below(tree, root)
    names = _class_folders(inside)
    table = _read_tables(tree, root, report)
    used = set()
    examples = []
    for label, class_name in enumerate(names):
        for file in filter(is_image, inside.walk(class_name)):
            # A table may name an image by its path in the data set, in the split, or by its file name.
            keys = (join(root, file), file, file.rpartition("/")[2])
            key = next((key for key in keys if key in table), "")
            used.add(key)
            annotation = table.get(key, Annotation(""))
            # Boxes of other classes do not count; a category that is not a class, like "object", always does.
            others = {*names} - {class_name}
            with skipping(report):
                examples.append(annotation.example(file, label, inside, report, SLACK, others))
                if annotation.objects and others.issuperset(annotation.categories):
                    what = f"class {class_name!r}, its boxes are of {', '.join(annotation.categories)}"
                    raise InputError(f"{annotation.where}: {file!r} lies in {what}")
    for key, annotation in table.items():
        here = not root or key.startswith(f"{root}/") or inside.where in annotation.where
        if key not in used and here:
            report(f"{annotation.where}: image {key!r} is missing")
    return Split(name, examples, names, TreeImages(tree, root))


def _read_tables(tree: Tree, root: str, report: Report) -> dict[str, Annotation]:
    """Image → annotation, from every table in the root and in the folder of the split."""
    found: dict[str, Annotation] = {}
    for place in dict.fromkeys(("", root)):
        for path in tree.paths(place, (".json", ".csv")):
            is_coco = path.endswith(".json")
            found |= read_coco(tree, path, report)[0] if is_coco else read_csv(tree, path, report)
    return found


def read_csv(tree: Tree, name: str, report: Report = raise_problem) -> dict[str, Annotation]:
    """Image → annotation, of a CSV file with a header; commas, semicolons or tabs separate.

    Raises:
        InputError: the header does not name an image and a box; invalid rows go to `report`.
    """
    found: dict[str, Annotation] = {}
    rows = read_rows(tree, name)
    header = next(rows, None)
    if header is None:
        return found
    separator = max(",;\t", key=header.text.count)
    columns = [column.lower() for column in _fields(header, separator)]
    image = next((c for c in _IMAGE_COLUMNS if c in columns), None)
    box = next((form for form in (*_CORNERS, *_EXTENTS) if set(form) <= set(columns)), None)
    if image is None or box is None:
        wanted = "an image column and x1,y1,x2,y2 or x,y,width,height"
        raise InputError(f"{header.where}: {header.text!r} does not name {wanted}")
    for row in rows:
        with skipping(report):
            fields = _fields(row, separator)
            if len(fields) != len(columns):
                what = f"has {len(fields)} fields, the header {len(columns)}"
                raise InputError(f"{row.where}: {row.text!r} {what}")
            cells = dict(zip(columns, fields, strict=True))
            name = cells[image].replace("\\", "/").removeprefix("./")
            if not is_safe_id(name):
                raise InputError(f"{row.where}: image {name!r} leads out of the data set")
            x1, y1, x2, y2 = parse_floats(row, [cells[column] for column in box], f"{image},{','.join(box)}")
            if box in _EXTENTS:
                x2, y2 = x1 + x2, y1 + y2
            size = [0.0, 0.0]
            if cells.get("image_width") and cells.get("image_height"):
                size = parse_floats(row, [cells["image_width"], cells["image_height"]], "sizes")
            if max(size) >= MAX_SIDE:
                shown = f"{size[0]:g} x {size[1]:g}"
                raise InputError(f"{row.where}: size {shown} of {name!r} is too large for an image")
            annotation = found.setdefault(name, Annotation(row.where, (int(size[0]), int(size[1]))))
            category = cells.get("label") or cells.get("class") or ""
            annotation.objects.append(Object(category, (x1, y1, x2, y2), row.where))
    return found


def _fields(row: Row, separator: str) -> list[str]:
    try:
        fields = next(csv.reader([row.text.replace("\0", "�")], delimiter=separator), [])
    except csv.Error as error:
        raise InputError(f"{row.where}: is not CSV ({error})") from error
    return [field.strip() for field in fields]


# ------------------------------------------------------------------------------------------------- writing


def to_csv(split: Split) -> str:
    """A table with a header and one row per box, as `read_csv` reads it.

    A label without a box and an image without labels are rows whose box is empty. The column ``score`` is
    there if any box has one.

    Raises:
        InputError: boxes of no class.
    """
    scored = any(example.box_scores is not None for example in split)
    sizes = ("image_width", "image_height")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "label", *_CORNERS[0], *(["score"] if scored else []), *sizes])
    for example in split:
        rows = [
            [split.class_names[label], *map(number_text, box), "" if score is None else number_text(score)]
            for label, box, score in zip(
                box_classes(example), example.boxes, box_scores(example), strict=True
            )
        ]
        rows += [[split.class_names[label], *[""] * 5] for label in labels_without_boxes(example)]
        for row in rows or [[""] * 6]:
            table.writerow([example.id, *(row if scored else row[:-1]), *example.size])
    return text.getvalue()


def _table_files(split: Split, options: WriteOptions) -> dict[str, str]:
    return {"": to_csv(split)}


WRITER = Writer("FILE.csv with image, label, x1, y1, x2, y2, score, size", files=_table_files, suffix=".csv")
