"""Data sets of the datasets library: folders of images, Parquet files with images, and its objects.

A folder (imagefolder) has ``SPLIT/metadata.jsonl`` (or .csv, .parquet) beside the images that it names. A row
is ``{"file_name", "width", "height", "label" or "labels", "objects": {"bbox", "categories", "score"}}``; bbox
is [x, y, width, height] in pixels. Parquet files have the bytes of each image in the row; class numbers are
named by the features that are stored with them.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from heatbox.data.files.images import TreeImages, is_image, stored_header, to_rgb
from heatbox.data.files.remote import turn
from heatbox.data.files.trees import (
    MOST_FOLDERS,
    Report,
    Tree,
    UnionTree,
    below,
    find_folders,
    join,
    raise_problem,
)
from heatbox.data.formats.listed import categories_of, listed_split
from heatbox.data.formats.masks import INVALID
from heatbox.data.formats.names import cleaned
from heatbox.data.formats.options import WriteOptions
from heatbox.data.formats.output import (
    OUTLINES,
    Output,
    Writer,
    box_classes,
    box_scores,
    corner_and_size,
    json_text,
)
from heatbox.data.formats.rows import (
    MAX_SIDE,
    Annotation,
    Object,
    annotated_split,
    is_safe_id,
    read_rows,
    skipping,
)
from heatbox.data.formats.splits import HELD_OUT, TRAIN, first_of, is_split
from heatbox.data.formats.table import is_table, read_table, sorted_classes
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT, DEPTH = "Hugging Face folder", 1
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.parquet")
_BOX_KEYS = ("bbox", "bboxes", "boxes")
_CLASS_KEYS = ("categories", "category", "category_id", "labels", "label", "classes", "class", "class_labels")
_LABEL_KEYS = ("labels", "label", "category", "class")
_IMAGE_KEYS = ("image", "img", "file_name")
_CACHED = 4  # groups of rows of Parquet files in memory


def split_names(tree: Tree) -> tuple[str, ...]:
    """Folders of splits with a table of metadata, or "all"; or the splits of Parquet shards with images."""
    if shards := _shards(tree):
        return tuple(shards)
    return tuple(_metadata_files(tree))


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read a split.

    Boxes are [x, y, width, height] in pixels. Class numbers are named by the features of the data set, where
    they are stored; names are sorted.

    Raises:
        InputError: naming file and row: a row of another form, a box outside its image, an image that is
            missing.
    """
    if name in (shards := _shards(tree)):
        return _load_shards(tree, name, shards[name], report)
    path = _metadata_files(tree)[name]
    folder = path.rpartition("/")[0]
    table: dict[str, Annotation] = {}
    names: dict[str, list[str]] = {}
    if path.endswith(".csv"):
        table = read_table(tree, path, report).annotations
    for where, row in _rows(tree, path, names) if not table else ():
        with skipping(report):
            listed = row.get("file_name")
            if not isinstance(listed, str) or not listed:
                raise InputError(f"{where}: expected file_name")
            if not is_safe_id(cleaned(listed)):
                raise InputError(f"{where}: file_name {listed!r} leads out of the image folder")
            if listed in table:
                raise InputError(f"{where}: image {listed!r} is listed twice, first in {table[listed].where}")
            table[listed] = annotation_of(row, where, names)
    class_names, unnamed = class_order(table.values(), names)
    split = listed_split(name, tree, table, {}, class_names, [folder, "", "images"], report)
    return without_names(split) if unnamed else split


def _metadata_files(tree: Tree) -> dict[str, str]:
    """Split → its table of metadata."""
    found = {}
    for folder in ("", *tree.folders()):
        name = folder or "all"
        if folder and not is_split(folder):
            continue
        file = next((join(folder, one) for one in METADATA if tree.has(join(folder, one))), None)
        if file is None or (file.endswith(".csv") and not is_table(tree, file)):
            continue
        if next(filter(is_image, tree.walk(folder)), ""):
            found[name] = file
    return found


def _rows(tree: Tree, path: str, names: dict[str, list[str]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file and row, content) of the rows of a table; `names` receives the class names of columns."""
    where = tree.describe(path)
    if path.endswith(".parquet"):
        file = _parquet(tree, path)
        names |= _features(file.schema_arrow)
        try:
            rows = file.read(
                columns=[c for c in file.schema_arrow.names if c not in ("image", "img")]
            ).to_pylist()
        except _UNREADABLE as error:
            raise InputError(f"{where}: is not a readable Parquet file ({error})") from error
        yield from ((f"{where}, row {number}", row) for number, row in enumerate(rows))
        return
    for row in read_rows(tree, path):
        try:
            content = json.loads(row.text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{row.where}: is not JSON ({error})") from error
        if not isinstance(content, dict):
            raise InputError(f"{row.where}: is not an object of JSON")
        yield row.where, content


def annotation_of(row: Mapping[str, Any], where: str, names: Mapping[str, Sequence[str]]) -> Annotation:
    """What a row lists: labels, and objects with boxes [x, y, width, height] in pixels.

    Args:
        row: label or labels, and objects: a dictionary of lists, or a list of dictionaries.
        where: file and row.
        names: column → names of its class numbers.

    Raises:
        InputError: a row of another form.
    """
    try:
        size = int(row.get("width") or 0), int(row.get("height") or 0)
        annotation = Annotation(where, size if min(size) > 0 and max(size) < MAX_SIDE else (0, 0))
        key = next((key for key in _LABEL_KEYS if row.get(key) is not None), "")
        given = row[key] if key else []
        labels = [
            _kind(one, names.get(key)) for one in (given if isinstance(given, list | tuple) else [given])
        ]
        annotation.labels = list(dict.fromkeys(labels))
        objects = row.get("objects")
        if isinstance(objects, list):
            keys = {key for one in objects for key in one}
            objects = {key: [one.get(key) for one in objects] for key in keys}
        if objects is None:
            objects = {key: row[key] for key in _BOX_KEYS if isinstance(row.get(key), list)}
        box_key = next((key for key in _BOX_KEYS if key in objects), "")
        class_key = next((key for key in _CLASS_KEYS if isinstance(objects.get(key), list | tuple)), "")
        boxes = list(objects[box_key] or ()) if box_key else []
        kinds = [
            _kind(one, names.get(f"objects.{class_key}")) for one in (objects[class_key] if class_key else ())
        ]
        scores = objects.get("score") or objects.get("scores") or [None] * len(boxes)
        if boxes and not kinds and len(annotation.labels) == 1:
            kinds = annotation.labels * len(boxes)
        if len(kinds) != len(boxes) or len(scores) != len(boxes):
            raise ValueError(f"{len(boxes)} boxes, {len(kinds)} classes")
        for number, (box, kind, score) in enumerate(zip(boxes, kinds, scores, strict=True)):
            x, y, width, height = map(float, box)
            at = f"{where}, object {number}"
            confidence = None if score is None else float(score)
            annotation.objects.append(Object(kind, [x, y, x + width, y + height], at, (), confidence))
    except INVALID as error:
        raise InputError(
            f"{where}: expected label or objects with bbox [x, y, width, height] and categories ({error})"
        ) from error
    return annotation


def _kind(value: Any, names: Sequence[str] | None) -> str:
    """The name of a class, of a number or of a name."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"a class that is {value!r}")
    if value == "":
        raise ValueError("a class without name")
    if isinstance(value, int) and names is not None:
        if not 0 <= value < len(names):
            raise ValueError(f"class {value}, the features name 0 to {len(names) - 1}")
        return names[value]
    return str(value)


def class_order(
    annotations: Iterable[Annotation], names: Mapping[str, Sequence[str]]
) -> tuple[list[str], bool]:
    """Class names by index, and whether they are numbers without names."""
    found = categories_of(annotations)
    listed = [name for column in names.values() for name in column]
    if listed and {*found} <= {*listed}:
        return list(dict.fromkeys(listed)), False
    ordered = sorted_classes(found)
    return ordered, bool(ordered) and all(name.isdecimal() for name in ordered)


def without_names(split: Split) -> Split:
    """The split whose class names are numbers, without them."""
    return replace(split, class_names=())


# ------------------------------------------------------------------------------------------ Parquet shards

_UNREADABLE = (pa.ArrowException, OSError, ValueError, LookupError)


class ParquetImages(Tree):
    """Images in the rows of Parquet files, as a tree of files."""

    def __init__(self, tree: Tree, column: str) -> None:
        self.tree, self.column, self.where = tree, column, tree.where
        self.places: dict[str, tuple[str, int, int]] = {}
        self._groups: dict[tuple[str, int], Any] = {}
        self._headers: dict[str, tuple[tuple[int, int], int] | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the groups in memory."""
        return self.__dict__ | {"_groups": {}}

    def files(self, folder: str = "") -> list[str]:
        """Names of the images in a folder."""
        start = f"{folder}/" if folder else ""
        inside = (name[len(start) :] for name in self.places if name.startswith(start))
        return sorted(name for name in inside if "/" not in name)

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder."""
        start = f"{folder}/" if folder else ""
        inside = (name[len(start) :] for name in self.places if name.startswith(start))
        return sorted({name.partition("/")[0] for name in inside if "/" in name})

    def has(self, name: str) -> bool:
        """Whether there is an image of this name."""
        return name in self.places

    def read(self, name: str) -> bytes:
        """The bytes of an image."""
        if name not in self.places:
            raise InputError(f"{self.where}: has no image {name!r}")
        path, group, row = self.places[name]
        with turn((self.where, path, group)):
            column = self._groups.get((path, group)) or self._read_group(path, group)
        value = column[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise InputError(f"{self.describe(name)}: has no bytes of an image")
        return data

    def header(self, name: str) -> tuple[tuple[int, int], int] | None:
        """Size and orientation of an image, whose row is read once for it."""
        if name not in self._headers:
            try:
                self._headers[name] = stored_header(self.read(name), self.describe(name))
            except InputError:  # reported when the image is opened
                self._headers[name] = None
        return self._headers[name]

    def place(self, stored: object, path: str, group: int, row: int, number: int) -> str:
        """Add the image of a row, by the name that is stored with it or by file and number of the row."""
        image = cleaned(stored) if isinstance(stored, str) and stored else ""
        if not image or not is_safe_id(image) or image in self.places:
            stem = path.removesuffix(".parquet")
            image = f"{stem.rpartition('/')[2]}/{number:06d}"
            if image in self.places:  # of a file of the same name in another folder
                image = f"{stem}/{number:06d}"
        self.places[image] = (path, group, row)
        return image

    def _read_group(self, path: str, group: int) -> Any:
        """The images of a group of rows, which stay in memory for the next ones."""
        try:
            column = _parquet(self.tree, path).read_row_group(group, columns=[self.column])[self.column]
        except _UNREADABLE as error:
            where = self.tree.describe(path)
            raise InputError(f"{where}: is not a readable Parquet file ({error})") from error
        with turn((self.where, "groups")):  # threads read different groups at the same time
            while len(self._groups) >= _CACHED:
                self._groups.pop(next(iter(self._groups)))
            self._groups[path, group] = column
        return column

    def version(self, name: str) -> str:
        """Size and time or checksum of the file of an image."""
        return self.tree.version(self.places[name][0])

    def describe(self, name: str) -> str:
        """File, row and name of an image."""
        if name not in self.places:
            return self.where
        path, group, row = self.places[name]
        return f"{self.tree.describe(path)}, row {row} of group {group} ({name})"


def _parquet(tree: Tree, path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(tree.open(path))
    except _UNREADABLE as error:
        raise InputError(f"{tree.describe(path)}: is not a readable Parquet file ({error})") from error


def _shards(tree: Tree) -> dict[str, list[str]]:
    """Split → its Parquet files with a column of images, in the folder, in data/ or in its other folders.

    A file that is named by a number belongs to the split of its folder: train/0000.parquet.
    """
    found: dict[str, list[str]] = {}
    others = [name for name in tree.folders() if name != "data"]
    for folders in ([""], ["data"], others if len(others) <= MOST_FOLDERS else []):
        for path in itertools.chain.from_iterable(tree.paths(folder, ".parquet") for folder in folders):
            folder, _, last = path.rpartition("/")
            if last in METADATA:
                continue
            match = _SHARD.fullmatch(last)
            stem = match[1] if match else last.removesuffix(".parquet")
            if stem.isdecimal():
                stem = "all" if folder in ("", "data") else folder
            name = stem.lower() if is_split(stem) else stem
            found.setdefault(name, []).append(path)
        if found:
            break
    first = next(iter(found.values()), [""])[0]
    if not first:
        return {}
    try:
        return found if _image_column(_parquet(tree, first).schema_arrow) else {}
    except InputError:  # which loading reports, if the name is that of a shard
        return found if _SHARD.fullmatch(first.rpartition("/")[2]) else {}


def _image_column(schema: pa.Schema) -> str:
    """The column with the bytes of images, "" if there is none."""
    for name in ("image", "img", *schema.names):
        if schema.get_field_index(name) >= 0:  # not of a name that two columns have
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                return name
            if name in ("image", "img") and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
                return name
    return ""


def _features(schema: pa.Schema) -> dict[str, list[str]]:
    """Column → class names, of the features that the datasets library stores with a table."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return feature_names(info["info"]["features"])
    except INVALID:
        return {}


def feature_names(features: Any, prefix: str = "") -> dict[str, list[str]]:
    """Column → names of a ClassLabel, also in lists and in objects."""
    found: dict[str, list[str]] = {}
    for key, feature in features.items():
        inner: Any = feature
        for _ in range(4):
            if isinstance(inner, list) and len(inner) == 1:
                inner = inner[0]
            elif isinstance(inner, Mapping) and isinstance(inner.get("feature"), Mapping):
                inner = inner["feature"]
            elif not isinstance(inner, Mapping) and getattr(inner, "feature", None) is not None:
                inner = inner.feature
        names = inner.get("names") if isinstance(inner, Mapping) else getattr(inner, "names", None)
        if (
            isinstance(names, Sequence)
            and not isinstance(names, str)
            and all(isinstance(n, str) for n in names)
        ):
            found[f"{prefix}{key}"] = list(names)
        elif isinstance(inner, Mapping) and not prefix:
            found |= feature_names(inner, f"{key}.")
    return found


def image_tree(tree: Tree) -> Tree | None:
    """The images in all Parquet files of a tree, whichever split they are of; None if there are none."""
    for top in find_folders(tree, _shards, DEPTH):
        inside, images = below(tree, top), None
        for path in itertools.chain.from_iterable(_shards(inside).values()):
            file = _parquet(inside, path)
            images = ParquetImages(inside, _required_column(inside, path, file)) if images is None else images
            rows = _stored_rows(file, images.column, inside.describe(path), labels=False)
            for number, (stored, group, index, _) in enumerate(rows):
                images.place(stored, path, group, index, number)
        return images
    return None


def _required_column(tree: Tree, path: str, file: pq.ParquetFile) -> str:
    """The column with the bytes of images."""
    column = _image_column(file.schema_arrow)
    if not column:
        raise InputError(f"{tree.describe(path)}: has no column with the bytes of images")
    return column


def _stored_rows(
    file: pq.ParquetFile, column: str, where: str, labels: bool = True
) -> Iterator[tuple[Any, int, int, dict[str, Any]]]:
    """(name stored with the image, group of rows, row in it, the other columns) of each row of a file."""
    kind = file.schema_arrow.field(column).type
    inner = [f"{column}.path"] if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 else []
    others = [one for one in file.schema_arrow.names if one != column] if labels else []
    for group in range(file.num_row_groups):
        try:
            rows = file.read_row_group(group, columns=[*others, *inner]).to_pylist()
        except _UNREADABLE as error:
            raise InputError(f"{where}: is not a readable Parquet file ({error})") from error
        for index in range(file.metadata.row_group(group).num_rows):
            row = rows[index] if rows else {}
            yield (row.get(column) or {}).get("path") if inner else None, group, index, row


def _load_shards(tree: Tree, name: str, paths: Sequence[str], report: Report) -> Split:
    """A split of Parquet files; ids are the paths of the images in them, or file and row."""
    table: dict[str, Annotation] = {}
    names: dict[str, list[str]] = {}
    images: ParquetImages | None = None
    for path in paths:
        file, where = _parquet(tree, path), tree.describe(path)
        column = _required_column(tree, path, file)
        names |= _features(file.schema_arrow)
        images = ParquetImages(tree, column) if images is None else images
        for number, (stored, group, index, row) in enumerate(_stored_rows(file, column, where)):
            with skipping(report):
                image = images.place(stored, path, group, index, number)
                table[image] = annotation_of(row, f"{where}, row {number}", names)
    class_names, unnamed = class_order(table.values(), names)
    assert images is not None
    split = annotated_split(name, table, class_names, TreeImages(images), report)
    return without_names(split) if unnamed else split


# --------------------------------------------------------------------------------- objects of the library


def is_dataset(data: object) -> bool:
    """Whether an object is a `datasets.Dataset`, or a `DatasetDict` of them; the library is not imported."""
    first = next(iter(data.values()), None) if isinstance(data, dict) and data else data
    return all(hasattr(first, name) for name in ("features", "column_names", "num_rows"))


def dataset_split(data: Any, name: str = "", report: Report = raise_problem) -> Split:
    """The split of a `datasets.Dataset`, or one of a `DatasetDict`.

    Args:
        data: with a column of images, and label, labels or objects as in `annotation_of`.
        name: of the split of a `DatasetDict`; by default test, val, or the only one.
        report: receives the problems with rows.

    Raises:
        InputError: no column of images, or a row of another form.
    """
    if isinstance(data, dict):
        name = name or first_of((*HELD_OUT, *TRAIN), data) or next(iter(data))
        if name not in data:
            raise InputError(f"the data set has no split {name!r}, expected one of {', '.join(data)}")
        data = data[name]
    name = name or str(getattr(data, "split", None) or "all")
    columns = list(data.column_names)
    column = next((one for one in _IMAGE_KEYS if one in columns), "")
    if not column:
        raise InputError(f"the data set has no column image, only {', '.join(columns)}")
    others = [one for one in columns if one != column]
    names = feature_names({key: data.features[key] for key in others})
    values = {key: list(data[key]) for key in others}
    table: dict[str, Annotation] = {}
    for number in range(len(data)):
        with skipping(report):
            row = {key: column[number] for key, column in values.items()}
            table[f"{number:06d}"] = annotation_of(row, f"{name}, row {number}", names)

    def open_image(example: Example) -> Image.Image:
        image = data[int(example.file)][column]
        if not isinstance(image, Image.Image):
            raise InputError(f"{name}, row {int(example.file)}: column {column} is no image")
        return to_rgb(ImageOps.exif_transpose(image))

    class_names, unnamed = class_order(table.values(), names)
    examples = []
    classes = {kind: label for label, kind in enumerate(class_names)}
    for image, annotation in table.items():
        with skipping(report, image):
            if annotation.objects and min(annotation.size) <= 0:
                annotation.size = open_image(Example(image, -1, (0, 0))).size
            examples.append(annotation.example(image, -1, _NoFiles(), report, classes=classes))
    split = Split(name, examples, class_names, open_image)
    return without_names(split) if unnamed else split


class _NoFiles(UnionTree):
    """The tree of a data set without files."""

    def __init__(self) -> None:
        super().__init__("", [])


# ------------------------------------------------------------------------------------------------- writing


def metadata_row(example: Example, class_names: Sequence[str]) -> dict[str, Any]:
    """The row of an image; score is there if any box has one."""
    objects: dict[str, Any] = {
        "bbox": [corner_and_size(box) for box in example.boxes],
        "categories": [class_names[label] for label in box_classes(example)],
    }
    if example.box_scores is not None:
        objects["score"] = box_scores(example)
    width, height = example.size
    labels = [class_names[label] for label in example.labels]
    return {"file_name": example.id, "width": width, "height": height, "labels": labels, "objects": objects}


def _write(splits: Sequence[Split], output: Output, options: WriteOptions) -> None:
    for split in splits:
        rows = (f"{json_text(metadata_row(example, split.class_names))}\n" for example in split)
        output.write(f"{split.name}/metadata.jsonl", rows)


WRITER = Writer(
    "SPLIT/metadata.jsonl beside the images",
    write=_write,
    image_folder=lambda split, options: split,
    loses=lambda options: (OUTLINES,),
)
