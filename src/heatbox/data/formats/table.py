"""Images and a table of their labels and boxes, in CSV or TSV.

The header names the columns: an image (``image``, ``file``, ``filename``, ``path``, ``id`` and the like); a
label (``label``, ``class``, ``category``, ``class_name``), or several in one cell
(``labels``, ``tags``, separated by ``|``, ``;`` or ``,``), or a column of 0 and 1 for each class;
``x1,y1,x2,y2`` (also ``xmin,ymin,xmax,ymax`` or ``left,top,right,bottom``) or ``x,y,width,height`` (also
``w,h``) in pixels from 0;
``score``; the size of the image as ``image_width,image_height``; and ``split``. Several rows of an image are
several boxes or labels. A row whose box is empty has none, a row with neither is an image without object.

Labels that are integers are class numbers as they are; others are positions among the sorted names.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from weakref import WeakKeyDictionary

from heatbox.data.files.images import TreeImages, is_image
from heatbox.data.files.trees import Report, Tree, join, raise_problem
from heatbox.data.formats.names import locate_images
from heatbox.data.formats.rows import (
    MAX_SIDE,
    Annotation,
    Object,
    Row,
    annotated_split,
    is_safe_id,
    parse_floats,
    read_rows,
    refuse_fractions,
    skipping,
)
from heatbox.data.formats.splits import is_split
from heatbox.data.types import Split
from heatbox.errors import AssumptionWarning, InputError

LAYOUT, DEPTH = "table of labels", 1
SUFFIXES = (".csv", ".tsv")
_IMAGE_COLUMNS = (
    "image", "file", "filename", "file_name", "path", "image_name", "image_path", "file_path", "filepath",
    "id", "image_id",
)  # fmt: skip
_LABEL_COLUMNS = ("label", "class", "category", "class_name", "category_name", "label_name")
_LABELS_COLUMNS = ("labels", "tags", "classes", "categories")
_SPLIT_COLUMNS = ("split", "subset")
_SCORE_COLUMNS = ("score", "confidence")
CORNERS = (
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
)
_EXTENTS = (
    ("x", "y", "width", "height"),
    ("x", "y", "w", "h"),
    ("left", "top", "width", "height"),
    ("bbox_x", "bbox_y", "bbox_width", "bbox_height"),
)
_SIZES = (("image_width", "image_height"), ("img_width", "img_height"))
_FOLDERS = ("", "annotations", "labels", "metadata")  # of tables
_MANY = 10**6  # classes
_NUMBERS = ("", "id", "index", "unnamed:_0")  # of rows
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
_INTEGER = re.compile(r"(\d+)(?:\.0+)?", re.ASCII)
_SEPARATOR = re.compile(r'"?sep=([,;\t]?)"?', re.IGNORECASE)
"""The first line of tables that were saved for Excel; a tab at its end was stripped."""


@dataclass(frozen=True)
class Columns:
    """The meaning of the columns of a table; "" and () where it has none.

    Attributes:
        names: of all columns, lower case, with "_" for spaces.
        image, label, labels, split, score: names of columns.
        box: names of the four columns of a box.
        extents: whether the box is x, y, width, height.
        size: names of the two columns with the size of the image.
        classes: columns of 0 and 1, with the names as they are written.
        unread: columns of other names, as they are written.
    """

    names: tuple[str, ...]
    image: str
    label: str = ""
    labels: str = ""
    split: str = ""
    score: str = ""
    box: tuple[str, ...] = ()
    extents: bool = False
    size: tuple[str, ...] = ()
    classes: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


@dataclass
class Table:
    """The content of a table.

    Attributes:
        annotations: image as listed → annotation.
        splits: image as listed → split, where the table has such a column.
        has_labels: whether a column has labels.
    """

    annotations: dict[str, Annotation] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    has_labels: bool = False


def find_columns(header: Sequence[str]) -> Columns | None:
    """The meaning of a header; None if it names no image."""
    names = tuple("_".join(name.lower().split()) for name in header)

    def first(options: Iterable[str]) -> str:
        return next((name for name in options if name in names), "")

    def group(options: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
        return next((form for form in options if {*form} <= {*names}), ())

    image = first(_IMAGE_COLUMNS)
    if not image or len({*names} - {""}) < len([name for name in names if name]):
        return None
    corners, extents = group(CORNERS), group(_EXTENTS)
    size = group(_SIZES)
    if corners and not size and {"width", "height"} <= {*names}:
        size = ("width", "height")
    found = Columns(
        names,
        image,
        first(_LABEL_COLUMNS),
        first(_LABELS_COLUMNS),
        first(_SPLIT_COLUMNS),
        first(_SCORE_COLUMNS),
        corners or extents,
        bool(extents and not corners),
        size,
    )
    known = {image, found.label, found.labels, found.split, found.score, *found.box, *size, *_NUMBERS}
    rest = {name: text.strip() for name, text in zip(names, header, strict=True) if name not in known}
    if found.label or found.labels or found.box:
        return replace(found, unread=tuple(rest.values()))
    return Columns(names, image, split=found.split, size=size, classes=rest) if len(rest) > 1 else None


def is_table(tree: Tree, path: str) -> bool:
    """Whether the header of a file names an image, and labels or boxes of it."""
    try:
        separator, rows = _rows(tree, path)
        header = next(rows, None)
        if header is None:
            return False
        columns = find_columns(_fields(header, separator))
        if columns is None or not columns.classes:
            return columns is not None
        row = next(rows, None)
        return row is not None and _is_binary(_cells(row, columns, separator), columns)
    except InputError:
        return False


def _is_binary(cells: Mapping[str, str], columns: Columns) -> bool:
    return all(cells[name].lower() in _FLAGS for name in columns.classes)


def read_table(tree: Tree, name: str, report: Report = raise_problem, needs_box: bool = False) -> Table:
    """Read a table; commas, semicolons or tabs separate.

    Args:
        tree: has the file.
        name: of the file.
        report: receives the problems with rows.
        needs_box: refuse a table without boxes.

    Raises:
        InputError: the header does not name an image and a label or a box.

    Warns:
        AssumptionWarning: columns of other names, which are not read.
    """
    found = Table()
    separator, rows = _rows(tree, name)
    header = next(rows, None)
    if header is None:
        return found
    columns = find_columns(_fields(header, separator))
    if columns is None or (needs_box and not columns.box):
        raise _other_header(header, needs_box)
    found.has_labels = bool(columns.label or columns.labels or columns.classes)
    if columns.unread:
        what = f"columns that are not read: {', '.join(columns.unread)}"
        warnings.warn(f"{tree.describe(name)}: {what}", AssumptionWarning, 2)
    listed: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        with skipping(report):
            _read_row(found, row, columns, separator, listed)
    _set_sizes(found, columns, listed)
    _write_integers(found)
    refuse_fractions(found.annotations.values(), tree.describe(name), ",".join(columns.box))
    return found


def _other_header(header: Row, needs_box: bool = False) -> InputError:
    wanted = "an image column and x1,y1,x2,y2 or x,y,width,height" + ("" if needs_box else ", or a label")
    return InputError(f"{header.where}: {header.text!r} does not name {wanted}")


def why_no_table(tree: Tree) -> str:
    """Why the first file that may be a table is none; "" if there is no such file."""
    for folder in _FOLDERS:
        for path in tree.paths(folder, (*SUFFIXES, ".xlsx", ".xls", ".ods")):
            if not path.lower().endswith(SUFFIXES):
                return f"{tree.describe(path)}: is a spreadsheet, expected it saved as CSV"
            try:
                _, rows = _rows(tree, path)
                if (header := next(rows, None)) is not None:
                    return str(_other_header(header))
            except InputError as error:
                return str(error)
    return ""


def _read_row(
    found: Table, row: Row, columns: Columns, separator: str, listed: dict[str, list[tuple[int, int]]]
) -> None:
    """Add one row to a table."""
    cells = _cells(row, columns, separator)
    image = cells[columns.image].replace("\\", "/").removeprefix("./")
    if not is_safe_id(image):
        raise InputError(f"{row.where}: image {image!r} leads out of the data set")
    box: list[float] = []
    texts = [cells[column] for column in columns.box]
    if any(texts) or not (columns.label or columns.labels or not columns.box):
        box = parse_floats(row, texts, f"{columns.image},{','.join(columns.box)}", 4)
        if columns.extents:
            box[2:] = box[0] + box[2], box[1] + box[3]
    size = [0.0, 0.0]
    if columns.size and all(cells[column] for column in columns.size):
        size = parse_floats(row, [cells[column] for column in columns.size], "sizes", 2)
    if max(size) >= MAX_SIDE:
        raise InputError(
            f"{row.where}: size {size[0]:g} x {size[1]:g} of {image!r} is too large for an image"
        )
    kinds = _kinds(row, cells, columns)
    score = None
    if columns.score and cells[columns.score] and box:
        (score,) = parse_floats(row, [cells[columns.score]], columns.score)
    split = cells[columns.split].lower() if columns.split else ""
    if found.splits.setdefault(image, split) != split:
        what = f"image {image!r} is in split {split!r} here and in {found.splits[image]!r} above"
        raise InputError(f"{row.where}: {what}")
    annotation = found.annotations.setdefault(image, Annotation(row.where))
    listed.setdefault(image, []).append((int(size[0]), int(size[1])))
    if box:
        category = kinds[0] if len(kinds) == 1 else ""
        annotation.objects.append(Object(category, box, row.where, (), score))
        kinds = [] if len(kinds) == 1 else kinds
    annotation.labels += [kind for kind in kinds if kind not in annotation.labels]


def _kinds(row: Row, cells: Mapping[str, str], columns: Columns) -> list[str]:
    """The labels in a row."""
    if columns.classes:
        if not _is_binary(cells, columns):
            raise InputError(f"{row.where}: {row.text!r} has a class whose cell is neither 0 nor 1")
        return [written for name, written in columns.classes.items() if _FLAGS[cells[name].lower()]]
    kinds = []
    if columns.labels:
        text = cells[columns.labels]
        mark = next((mark for mark in "|;," if mark in text), "|")
        kinds = [part.strip(" \t[]'\"") for part in text.split(mark)]
    if columns.label:
        kinds.insert(0, cells[columns.label])
    return [kind for kind in dict.fromkeys(kinds) if kind]


def _set_sizes(found: Table, columns: Columns, listed: Mapping[str, Sequence[tuple[int, int]]]) -> None:
    """Give each image its listed size; width and height beside corners may also be those of the boxes."""
    if columns.size == ("width", "height"):
        for image, sizes in listed.items():
            boxes = found.annotations[image].objects
            if len({*sizes}) > 1 or any(
                one.box[2] > sizes[0][0] + 1 or one.box[3] > sizes[0][1] + 1 for one in boxes
            ):
                return
    for image, sizes in listed.items():
        found.annotations[image].size = sizes[0] if min(sizes[0]) > 0 else (0, 0)


def _write_integers(found: Table) -> None:
    """Write class numbers such as 3.0 as 3, if all labels are numbers."""
    every = found.annotations.values()
    kinds = {kind for one in every for kind in (*one.categories, *one.labels)} - {""}
    numbers = {kind: match[1] for kind in kinds if (match := _INTEGER.fullmatch(kind))}
    if len(numbers) == len(kinds) and any(kind != number for kind, number in numbers.items()):
        for one in every:
            one.objects[:] = [o._replace(category=numbers.get(o.category, "")) for o in one.objects]
            one.labels = list(dict.fromkeys(numbers[kind] for kind in one.labels))


def _separator(header: Row) -> str:
    return max(",;\t", key=header.text.count)


def _cells(row: Row, columns: Columns, separator: str) -> dict[str, str]:
    # Whitespace around a row was stripped, and with it the tabs of empty cells at its ends.
    fields = _fields(row, separator)
    if separator == "\t" and len(fields) < len(columns.names):
        fields += [""] * (len(columns.names) - len(fields))
    if separator == "\t" and len(fields) == len(columns.names) + 1 and fields[0].isdecimal():
        del fields[0]  # numbers of rows, whose column has no name
    if len(fields) != len(columns.names):
        what = f"has {len(fields)} fields, the header {len(columns.names)}"
        raise InputError(f"{row.where}: {row.text!r} {what}")
    return dict(zip(columns.names, fields, strict=True))


def _rows(tree: Tree, path: str) -> tuple[str, Iterator[Row]]:
    """The separator of a table, and its rows, the header first; a row has the lines of its quoted cells."""
    lines = read_rows(tree, path)
    first = next(lines, None)
    if first is None:
        return "", iter(())
    named = _SEPARATOR.fullmatch(first.text)
    if named is None:
        separator = _separator(first)
        return separator, _joined(chain((first,), lines), separator)
    return named[1] or "\t", _joined(lines, named[1] or "\t")


def _joined(lines: Iterator[Row], separator: str) -> Iterator[Row]:
    """Rows of lines: a quoted cell may contain line breaks.

    Raises:
        InputError: a quoted cell without an end.
    """
    for row in lines:
        if row.text.count('"') % 2 and _is_open(row.text, separator):
            texts = [row.text]
            for line in lines:
                texts.append(line.text)
                if line.text.count('"') % 2:
                    break
            else:
                raise InputError(f"{row.where}: a quoted cell begins here and has no closing quote")
            row = Row(row.where, "\n".join(texts))
        yield row


def _is_open(text: str, separator: str) -> bool:
    """Whether a line ends inside a quoted cell; quotes elsewhere in a cell are characters."""
    try:
        next(csv.reader([text], delimiter=separator, strict=True), [])
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False


def _fields(row: Row, separator: str) -> list[str]:
    try:
        fields = next(csv.reader([row.text.replace("\0", "�")], delimiter=separator), [])
    except csv.Error as error:
        raise InputError(f"{row.where}: is not CSV ({error})") from error
    return [field.strip() for field in fields]


# ------------------------------------------------------------------------------------------- as a data set


def table_paths(tree: Tree) -> list[str]:
    """Tables in the root, or in a folder for them."""
    for folder in _FOLDERS:
        if found := [path for path in tree.paths(folder, SUFFIXES) if is_table(tree, path)]:
            return found
    return []


def split_names(tree: Tree) -> tuple[str, ...]:
    """Tables named like a split, the values of a column "split", or "all"; none for folders of classes."""
    if tree not in _SPLITS_OF:  # it is asked more than once, and reads the tables
        _SPLITS_OF[tree] = _split_names(tree)
    return _SPLITS_OF[tree]


_SPLITS_OF: WeakKeyDictionary[Tree, tuple[str, ...]] = WeakKeyDictionary()
_READ: WeakKeyDictionary[Tree, dict[str, Table]] = WeakKeyDictionary()
"""Tables without problems that were read to find the splits, until a split is read."""


def _split_names(tree: Tree) -> tuple[str, ...]:
    paths = table_paths(tree)
    if not paths or next(filter(is_image, tree.walk()), None) is None:
        return ()
    problems: list[str] = []
    found = {path: read_table(tree, path, problems.append) for path in paths}
    if not problems:
        _READ[tree] = found
    tables = list(found.values())
    used = {kind for one in tables for a in one.annotations.values() for kind in (*a.categories, *a.labels)}
    if not any(one.has_labels for one in tables) or _are_classes(tree, used):
        return ()
    columns = dict.fromkeys(split for one in tables for split in one.splits.values() if split)
    if columns:
        return tuple(columns)
    named = {_stem(path): path for path in paths if is_split(_stem(path))}
    return tuple(named) or ("all",)


def _stem(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0]


def _are_classes(tree: Tree, used: set[str]) -> bool:
    """Whether the images lie in folders of their classes, perhaps in folders of splits."""
    places = ["", *(name for name in tree.folders() if is_split(name))]
    for place in places:
        folders = [n for n in tree.folders(place) if next(filter(is_image, tree.walk(join(place, n))), "")]
        others = {name for name in folders if not is_split(name) and name.lower() != "images"}
        if used & {*folders} or (not used - {""} and others):
            return True
    return False


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read a split of the tables.

    Raises:
        InputError: naming file and row: an image that is missing, a box without class or outside its image.
    """
    paths = table_paths(tree)
    ready = _READ.pop(tree, {})  # once, because what is read is changed below
    tables = {path: ready.get(path) or read_table(tree, path, report) for path in paths}
    everything = [a for one in tables.values() for a in one.annotations.values()]
    class_names = sorted_classes(kind for a in everything for kind in (*a.categories, *a.labels))
    by_column = any(split for one in tables.values() for split in one.splits.values())
    chosen = [path for path in paths if by_column or name == "all" or _stem(path) == name]
    annotations: dict[str, Annotation] = {}
    for path in chosen:
        for listed, annotation in tables[path].annotations.items():
            if not by_column or tables[path].splits.get(listed) == name:
                merge(annotations, listed, annotation)
    folders = ["images", "", name, f"images/{name}", *(path.rpartition("/")[0] for path in chosen), "data"]
    located = locate_images(tree, annotations, folders)
    table: dict[str, Annotation] = {}
    for listed, annotation in annotations.items():
        with skipping(report, located.ids[listed]):
            if listed in located.missing:
                raise InputError(f"{annotation.where}: image {listed!r} is missing")
            if located.ids[listed] in table:
                raise InputError(f"{annotation.where}: image {listed!r} is listed under two names")
            table[located.ids[listed]] = _with_own_classes(annotation, class_names)
    names = [kind for kind in class_names if kind]
    split = annotated_split(name, table, names, TreeImages(tree, located.folder), report)
    if all(number.isdecimal() for number in names):  # the names are numbers: no names
        return Split(name, split.examples, (), split.open_image)
    return split


def _with_own_classes(annotation: Annotation, class_names: Sequence[str]) -> Annotation:
    """Boxes without a class are of the class of the image, if it has one class."""
    if any(not one.category for one in annotation.objects):
        kinds = [*{*annotation.labels, *annotation.categories} - {""}]
        if len(kinds) != 1:
            raise InputError(f"{annotation.where}: a box without label in an image of {len(kinds)} classes")
        annotation.objects[:] = [
            one._replace(category=one.category or kinds[0]) for one in annotation.objects
        ]
    return annotation


def sorted_classes(kinds: Iterable[str]) -> list[str]:
    """Names in the order of their class numbers: sorted, or 0 to the largest if all are integers."""
    names = {*kinds} - {""}
    if names and all(name.isdecimal() and name.isascii() and len(name) < 10 for name in names):
        plain = {str(int(name)) for name in names}
        largest = max(map(int, names))
        if plain == names and largest < _MANY:
            return [str(number) for number in range(largest + 1)]
    return sorted(names)


def merge(annotations: dict[str, Annotation], listed: str, annotation: Annotation) -> None:
    """Add what another table lists for an image; boxes of a later table replace those of an earlier one."""
    known = annotations.setdefault(listed, annotation)
    if known is not annotation:
        if annotation.objects:
            known.objects, known.where = annotation.objects, annotation.where
        known.size = annotation.size if min(annotation.size) > 0 else known.size
        known.labels += [kind for kind in annotation.labels if kind not in known.labels]
