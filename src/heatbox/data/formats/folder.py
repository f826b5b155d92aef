"""Any folder of classes: CLASS/picture or SPLIT/CLASS/picture, with boxes in COCO's JSON, in CSV, or none.

Labels are positions among the sorted names of the class folders. A CSV file needs a header that names its
columns: an image (``image``, ``file``, ``filename``, ``file_name``, ``path`` or ``id``), then either
``x1,y1,x2,y2`` (also ``xmin,ymin,xmax,ymax``) or ``x,y,width,height`` (also ``w,h``), in pixels from 0, and
optionally the size of the image as ``image_width,image_height``. Several rows an image are several boxes.
"""

from __future__ import annotations

import csv

from heatbox.data.files.images import TreeImages, is_image
from heatbox.data.files.trees import Tree, below
from heatbox.data.formats.coco import LARGEST, SLACK, Boxed, as_array, image_size_of, read_coco
from heatbox.data.formats.rows import Complain, Row, checked_box, numbers, refuse, rows, safe_id
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT = "folder of classes"
SPLITS = ("train", "training", "fullsup", "val", "valid", "validation", "test")
_IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "path", "id", "image_id")
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
_EXTENTS = (("x", "y", "width", "height"), ("x", "y", "w", "h"))


def recognises(tree: Tree) -> bool:
    """Whether some folder holds pictures, directly or as a split."""
    # Pictures in "images" or "test" themselves are rather another layout whose tables are missing.
    named = [name for name in _class_folders(tree) if name.lower() not in (*SPLITS, "images")]
    return bool(named) or any(_class_folders(below(tree, name)) for name in _split_folders(tree))


def split_names(tree: Tree) -> tuple[str, ...]:
    """The split folders that are there, or "all"."""
    found = tuple(name for name in _split_folders(tree) if _class_folders(below(tree, name)))
    return found or ("all",)


def _split_folders(tree: Tree) -> list[str]:
    return sorted((n for n in tree.folders() if n.lower() in SPLITS), key=lambda n: SPLITS.index(n.lower()))


def _class_folders(tree: Tree) -> list[str]:
    """Folders with a picture in them, at any depth."""
    return [name for name in tree.folders() if next(filter(is_image, tree.walk(name)), "")]


def load_split(tree: Tree, name: str, complain: Complain = refuse) -> Split:
    """Read a split; images without boxes have size (0, 0).

    Raises:
        InputError: a table of boxes that cannot be read, or names an image that is not there.
    """
    root = "" if name == "all" else name
    inside = below(tree, root)
    names = _class_folders(inside)
    boxes = _tables(tree, root, complain)
    used = set()
    examples = []
    for label, class_name in enumerate(names):
        for file in filter(is_image, inside.walk(class_name)):
            key = next((k for k in _keys(root, file) if k in boxes), None)
            if key is None:
                examples.append(Example(file, label, (0, 0)))
                continue
            used.add(key)
            example = _boxed(inside, file, label, class_name, boxes[key], names, complain)
            if example:
                examples.append(example)
    for key in boxes.keys() - used:
        if not root or key.startswith(f"{root}/") or inside.where in boxes[key].where:
            complain(f"{boxes[key].where}: image {key!r} is not there")
    return Split(name, examples, names, TreeImages(tree, root))


def _keys(root: str, file: str) -> tuple[str, ...]:
    """The names by which a table may call an image, the most exact first."""
    return f"{root}/{file}".lstrip("/"), file, file.rpartition("/")[2]


def _boxed(
    tree: Tree, file: str, label: int, class_name: str, boxed: Boxed, names: list[str], complain: Complain
) -> Example | None:
    size = image_size_of(boxed, tree, file, complain)
    if size is None:
        return None
    # Categories that are classes tell which boxes count; a single one such as "object" says nothing.
    mine = [box for category, box in boxed.boxes if category == class_name or category not in names]
    if boxed.boxes and not mine:
        others = ", ".join(sorted({category for category, _ in boxed.boxes}))
        complain(f"{boxed.where}: {file!r} lies in class {class_name!r}, its boxes are of {others}")
    checked = (checked_box(box, size, boxed.where, complain, SLACK) for box in mine)
    return Example(file, label, size, as_array(box for box in checked if box))


def _tables(tree: Tree, root: str, complain: Complain) -> dict[str, Boxed]:
    """Image → boxes, of every table in the root and in the split's own folder."""
    found: dict[str, Boxed] = {}
    for place in dict.fromkeys(("", root)):
        for file in tree.files(place):
            path = f"{place}/{file}".lstrip("/")
            if file.endswith(".json") and not file.startswith("._"):
                found |= read_coco(tree, path, complain)[0]
            elif file.endswith(".csv") and not file.startswith("._"):
                found |= read_csv(tree, path, complain)
    return found


def read_csv(tree: Tree, name: str, complain: Complain = refuse) -> dict[str, Boxed]:
    """Image → boxes of a CSV file with a header; commas, semicolons or tabs separate.

    Raises:
        InputError: the header does not name an image and a box; bad rows go to `complain`.
    """
    found: dict[str, Boxed] = {}
    lines = rows(tree, name)
    header = next(lines, None)
    if header is None:
        return found
    separator = max(",;\t", key=header.text.count)
    columns = [column.strip().lower() for column in _fields(header, separator)]
    image = next((c for c in _IMAGE_COLUMNS if c in columns), None)
    box = next((form for form in (*_CORNERS, *_EXTENTS) if set(form) <= set(columns)), None)
    if image is None or box is None:
        wanted = "an image column and x1,y1,x2,y2 or x,y,width,height"
        raise InputError(f"{header.where}: {header.text!r} does not name {wanted}")
    for row in lines:
        fields = [text.strip() for text in _fields(row, separator)]
        if len(fields) != len(columns):
            complain(f"{row.where}: {row.text!r} has {len(fields)} fields, the header {len(columns)}")
            continue
        _add_row(row, dict(zip(columns, fields, strict=True)), image, box, found, complain)
    return found


def _fields(row: Row, separator: str) -> list[str]:
    try:
        return next(csv.reader([row.text.replace("\0", "�")], delimiter=separator), [])
    except csv.Error as error:
        raise InputError(f"{row.where}: is not CSV ({error})") from error


def _add_row(
    row: Row,
    cells: dict[str, str],
    image: str,
    box: tuple[str, ...],
    found: dict[str, Boxed],
    complain: Complain,
) -> None:
    name = cells[image].replace("\\", "/").removeprefix("./")
    values = numbers(row, [cells[column] for column in box], f"{image},{','.join(box)}", complain)
    if not safe_id(name):
        complain(f"{row.where}: image {name!r} leads out of the data set")
        return
    size = [0.0, 0.0]
    if cells.get("image_width") and cells.get("image_height"):
        size = numbers(row, [cells["image_width"], cells["image_height"]], "sizes", complain) or size
    if values is None:
        return
    x1, y1, x2, y2 = values
    if box in _EXTENTS:
        x2, y2 = x1 + x2, y1 + y2
    if max(size) >= LARGEST:
        complain(f"{row.where}: size {size[0]:g} x {size[1]:g} of {name!r} is too large for an image")
        return
    whole_size = (int(size[0]), int(size[1]))
    limit = whole_size if min(whole_size) > 0 else (LARGEST, LARGEST)
    checked = checked_box((x1, y1, x2, y2), limit, row.where, complain)
    boxed = found.setdefault(name, Boxed(whole_size, row.where))
    if checked is not None:
        boxed.boxes.append((cells.get("label") or cells.get("class") or "", checked))
