"""YOLO's text files: one per image, a row ``class x y width height`` per object, as fractions of the image.

Centres and extents are fractions of the width and height of the upright image. A sixth column is a
confidence; seven or more are the corners of a polygon ``class x1 y1 x2 y2 ...``, whose box is read. Images
are named by ``data.yaml`` (Ultralytics), by ``obj.data`` and its lists of files (Darknet, CVAT), or lie in
``images/`` beside ``labels/``, or beside the text files. An image without a text file has no object.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from heatbox.data.files.images import TreeImages, image_size, is_image
from heatbox.data.files.trees import Report, Tree, common_folder, join
from heatbox.data.formats.names import cleaned, locate_images
from heatbox.data.formats.options import WriteOptions
from heatbox.data.formats.output import (
    LABELS,
    SCORES,
    Output,
    Writer,
    box_classes,
    box_outlines,
    box_scores,
    number_text,
    without_suffix,
)
from heatbox.data.formats.rows import (
    Annotation,
    Object,
    Row,
    annotated_split,
    decode_text,
    parse_floats,
    parse_integer,
    read_rows,
    skipping,
)
from heatbox.data.formats.splits import is_split
from heatbox.data.types import Example, Split
from heatbox.errors import AssumptionWarning, InputError

LAYOUT, DEPTH = "YOLO", 1
_NAME_LISTS = ("classes.txt", "obj.names")
_FORM = "class x y width height"
_FAR = 2.0  # fractions beyond are pixels


@dataclass
class _Content:
    """What describes a data set.

    Attributes:
        where: the file, for messages.
        names: names of the classes; None if no file lists them.
        splits: split → folders and list files of its images, as they are written.
        root: folder in which they are meant, as it is written.
        keypoints: numbers after the box in a row of a pose.
    """

    where: str
    names: list[str] | None = None
    splits: dict[str, list[str]] = field(default_factory=dict)
    root: str = ""
    keypoints: int = 0


def split_names(tree: Tree) -> tuple[str, ...]:
    """Splits of data.yaml or obj.data that have images, or the folders in images/, or "all"."""
    content = _content(tree)
    if content is None:
        return ()
    found = tuple(
        name for name, entries in content.splits.items() if _folders_or_lists(tree, content, entries)
    )
    return found or tuple(content.splits)


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read a split; labels are the class numbers, ids are paths below the folder of the split's images.

    Raises:
        InputError: naming file and row: a folder that is missing, a row of another form, a class without
            name, a box outside its image.
    """
    content = _content(tree)
    if content is None:
        raise InputError(f"{tree.where}: has no YOLO files")
    images = _image_paths(tree, content, name, report)
    if not images:
        raise InputError(f"{content.where}: split {name!r} has no image")
    labels = {image: path for image in images if (path := _label_path(tree, image))}
    if not labels:
        expected = tree.describe(_label_candidates(next(iter(images)))[0])
        raise InputError(f"{content.where}: no image of split {name!r} has a text file, expected {expected}")
    folder = common_folder(images)
    table: dict[str, Annotation] = {}
    largest = -1
    for image in images:
        key = image.removeprefix(f"{folder}/")
        with skipping(report, key):
            annotation = table[key] = Annotation(tree.describe(labels.get(image, image)))
            if image in labels:
                annotation.size = image_size(tree, image)
                largest = max(largest, _read_labels(tree, labels[image], annotation, content, report, key))
    names = content.names
    numbers = [str(label) for label in range(largest + 1)] if names is None else names
    split = annotated_split(name, table, numbers, TreeImages(tree, folder), report)
    return split if names is not None else _unnamed(split)


def _unnamed(split: Split) -> Split:
    return Split(split.name, split.examples, (), split.open_image)


def _read_labels(
    tree: Tree, path: str, annotation: Annotation, content: _Content, report: Report, image: str
) -> int:
    """Add the objects of a text file to an annotation; the largest class number."""
    width, height = annotation.size
    largest = -1
    for row in read_rows(tree, path):
        with skipping(report, image):
            label, box, score = parse_row(row, content.keypoints)
            if content.names is not None and label >= len(content.names):
                last = len(content.names) - 1
                raise InputError(
                    f"{row.where}: class {label} is out of range, {content.where} names 0 to {last}"
                )
            largest = max(largest, label)
            pixels = [box[0] * width, box[1] * height, box[2] * width, box[3] * height]
            category = str(label) if content.names is None else content.names[label]
            annotation.objects.append(Object(category, pixels, row.where, (), score))
    return largest


def parse_row(row: Row, keypoints: int = 0) -> tuple[int, list[float], float | None]:
    """Class number, xyxy box as fractions of the image, and confidence (None if there is none).

    Args:
        row: ``class x y width height``, with a confidence, with keypoints, or ``class x1 y1 x2 y2 ...``.
        keypoints: numbers that follow the box.

    Raises:
        InputError: a row of another form, or numbers that are no fractions.
    """
    first, *texts = row.text.split()
    label = parse_integer(row, first, _FORM)
    if label < 0 or label >= 10**6:
        raise InputError(f"{row.where}: class {label} is out of range, expected 0 or more")
    values = parse_floats(row, texts, _FORM)
    score = None
    if keypoints and len(values) == 4 + keypoints:
        values = values[:4]
    if len(values) in (4, 5):
        x, y, width, height = values[:4]
        if min(width, height) < 0:
            raise InputError(f"{row.where}: {row.text!r} has a negative width or height")
        box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        if len(values) == 5 and 0 <= values[4] <= 1:  # else the number of a track
            score = values[4]
    elif len(values) >= 6 and len(values) % 2 == 0:
        box = [min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])]
    else:
        raise row.malformed(f"{_FORM}, with a confidence, or class x1 y1 x2 y2 x3 y3 ...")
    if max(box) > _FAR or min(box) < -1:
        raise InputError(f"{row.where}: {row.text!r} has positions that are no fractions of the image")
    return label, box, score


# ----------------------------------------------------------------------------------------------- detection


def _content(tree: Tree) -> _Content | None:
    """What describes the data set in a folder; None if it is no YOLO data set."""
    for path in tree.paths("", (".yaml", ".yml")):
        if (found := _read_yaml(tree, path)) is not None:
            return found
    for path in tree.paths("", ".data"):
        if (found := _read_darknet(tree, path)) is not None:
            return found
    return _without_description(tree)


def _read_yaml(tree: Tree, path: str) -> _Content | None:
    """Content of data.yaml; None for a YAML file of something else."""
    import yaml

    where = tree.describe(path)
    data = tree.read(path)
    if b"names" not in data:
        return None
    try:
        # Every scalar stays text: a class may be called "no", which YAML would read as false.
        found: Any = yaml.load(decode_text(data, where), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: is not YAML ({reason})") from error
    if not isinstance(found, dict) or "names" not in found:
        return None
    keys = [key for key in ("train", "val", "valid", "validation", "test") if found.get(key)]
    if not keys:
        return None
    content = _Content(where, _names_of(found["names"], where), root=_text(found.get("path")))
    for key in keys:
        entries = found[key] if isinstance(found[key], list) else [found[key]]
        content.splits[key] = [_text(entry) for entry in entries if _text(entry)]
    count = _text(found.get("nc")).strip()
    if count and count.isdecimal() and count != str(len(content.names or ())):
        raise InputError(f"{where}: nc is {count}, but names lists {len(content.names or ())} classes")
    shape = found.get("kpt_shape")
    if isinstance(shape, list) and len(shape) == 2 and all(_text(side).isdecimal() for side in shape):
        content.keypoints = min(int(shape[0]) * int(shape[1]), 10**6)
    return content


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _names_of(names: Any, where: str) -> list[str]:
    """Names by class number, of a list or of a mapping from numbers."""
    if isinstance(names, list):
        found = dict(enumerate(names))
    elif isinstance(names, Mapping) and all(str(key).strip().isdecimal() for key in names):
        found = {int(str(key)[:9]): name for key, name in names.items()}
    else:
        found = {}
    if not found or not all(isinstance(name, str) for name in found.values()):
        raise InputError(
            f"{where}: names is no list of class names, and no mapping from class numbers to names"
        )
    if sorted(found) != list(range(len(found))):
        raise InputError(
            f"{where}: names has {len(found)} classes that are not numbered 0 to {len(found) - 1}"
        )
    if len({*found.values()}) < len(found):
        twice = next(name for name in found.values() if list(found.values()).count(name) > 1)
        raise InputError(f"{where}: names has class {twice!r} twice")
    return [found[number] for number in sorted(found)]


def _read_darknet(tree: Tree, path: str) -> _Content | None:
    """Content of obj.data, rows ``key = value``; None for a file of something else."""
    fields = {}
    with suppress(InputError):
        for row in read_rows(tree, path):
            key, equals, value = row.text.partition("=")
            if equals:
                fields[key.strip()] = value.strip()
    if "names" not in fields or not {"train", "valid", "test"} & fields.keys():
        return None
    content = _Content(tree.describe(path))
    names = _found(tree, fields["names"], lambda name: tree.has(name))
    if names is not None:
        content.names = _name_list(tree, names)
    for key, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        if fields.get(key):
            content.splits[split] = [fields[key]]
    return content


def _name_list(tree: Tree, path: str) -> list[str]:
    names = [row.text for row in read_rows(tree, path)]
    return _names_of(names, tree.describe(path))


def _without_description(tree: Tree) -> _Content | None:
    """Folders images/ and labels/, or text files beside images, perhaps with a list of classes."""
    folders = tree.folders()
    listed = next((name for name in _NAME_LISTS if tree.has(name)), None)
    content = _Content(tree.describe(listed or ("labels" if "labels" in folders else "")))
    if {"images", "labels"} <= {*folders}:
        if not _is_label_file(tree, _first_text(tree, "labels", deep=True)):
            return None
        inner = [name for name in tree.folders("images") if is_split(name)]
        content.splits = {name: [f"images/{name}"] for name in inner} or {"all": ["images"]}
    else:
        split = [name for name in folders if is_split(name)]
        for name in split:
            beside = tree.folders(name)
            if {"images", "labels"} <= {*beside} and _is_label_file(
                tree, _first_text(tree, f"{name}/labels", deep=True)
            ):
                content.splits[name] = [f"{name}/images"]
        if not content.splits and any(map(is_image, tree.files())):
            # Beside images only with a list of classes: a row of numbers may be anything.
            if listed is None or not _is_label_file(tree, _first_text(tree, "")):
                return None
            content.splits = {"all": [""]}
    if not content.splits:
        return None
    inner_list = next((f"labels/{name}" for name in _NAME_LISTS if tree.has(f"labels/{name}")), None)
    if listed or inner_list:
        content.names = _name_list(tree, listed or inner_list or "")
    return content


def _first_text(tree: Tree, folder: str, deep: bool = False) -> str:
    """The first text file that is not empty and no list of classes."""
    paths = tree.walk(folder) if deep else iter(tree.paths(folder, ".txt"))
    for path in paths:
        name = path.rpartition("/")[2]
        is_text = path.endswith(".txt") and name not in _NAME_LISTS and not name.startswith("._")
        if is_text and tree.read(path).strip():
            return path
    return ""


def _is_label_file(tree: Tree, path: str) -> bool:
    if not path:
        return False
    with suppress(InputError):
        row = next(read_rows(tree, path), None)
        if row is not None:
            parse_row(row)
            return True
    return False


def warn_of_labels(tree: Tree, images: Iterable[str]) -> None:
    """Say so if one of the first images has a file of boxes beside it that nothing reads.

    Warns:
        AssumptionWarning: naming the file; without a list of classes a row of numbers may be anything.
    """
    for image in islice(images, 50):
        path = f"{image.rpartition('.')[0]}.txt"
        if tree.has(path) and _is_label_file(tree, path):
            what = "looks like boxes of YOLO, which are read with a list of classes alone, and is not read"
            lists = "data.yaml, obj.data, classes.txt or obj.names"
            warnings.warn(f"{tree.describe(path)}: {what} (expected {lists})", AssumptionWarning, 2)
            return


# -------------------------------------------------------------------------------------------------- images


def _found(tree: Tree, written: str, exists: Any) -> str | None:
    """The path in the tree that a path of another machine means: its first folders are left out as needed."""
    parts = [part for part in cleaned(written).split("/") if part not in ("", ".")]
    for start in range(len(parts) + 1):
        name = "/".join(parts[start:])
        if name and exists(name):
            return name
    return None


def _has_images(tree: Tree, folder: str) -> bool:
    return next(filter(is_image, tree.walk(folder)), None) is not None


def _folders_or_lists(tree: Tree, content: _Content, entries: list[str]) -> list[tuple[str, bool]]:
    """(path, whether it is a list) of the entries of a split that are there."""
    found = []
    for entry in entries:
        if entry.endswith(".txt"):
            path = _found(tree, join(content.root, entry), tree.has)
            if path is not None:
                found.append((path, True))
        elif not entry or (entry in (".", "./") and _has_images(tree, "")):
            found.append(("", False))
        else:
            written = cleaned(join(content.root, entry))
            path = _found(tree, written, lambda name: _has_images(tree, name))
            if path is not None:
                found.append((path, False))
    return found


def _image_paths(tree: Tree, content: _Content, name: str, report: Report) -> dict[str, None]:
    """Paths of the images of a split, in order."""
    entries = content.splits[name]
    found = _folders_or_lists(tree, content, entries)
    if not found:
        raise InputError(f"{content.where}: {name} is {', '.join(entries)}, where no images are")
    for other, written in content.splits.items():
        same = _folders_or_lists(tree, content, written) if other != name and written != entries else []
        if shared := {*found} & {*same}:
            raise InputError(
                f"{content.where}: {name} and {other} are different paths, "
                f"of which only {shared.pop()[0]!r} is there"
            )
    images: dict[str, None] = {}
    for path, is_list in found:
        if is_list:
            rows = {row.text: row for row in read_rows(tree, path)}
            located = locate_images(tree, rows, ["", path.rpartition("/")[0]])
            for listed, row in rows.items():
                with skipping(report):
                    if listed in located.missing:
                        raise InputError(f"{row.where}: image {listed!r} is missing")
                    images.setdefault(join(located.folder, located.ids[listed]))
        else:
            images.update(dict.fromkeys(_walk(tree, path)))
    return images


def _walk(tree: Tree, folder: str) -> Iterator[str]:
    if folder:
        yield from filter(is_image, tree.walk(folder))
    else:
        yield from filter(is_image, tree.files())


def _label_candidates(image: str) -> list[str]:
    """Where the text file of an image may be: with "labels" for its last folder "images", or beside it."""
    stem = image.rpartition(".")[0]
    head, found, tail = f"/{stem}".rpartition("/images/")
    return [*([f"{head}/labels/{tail}.txt"[1:]] if found else []), f"{stem}.txt"]


def _label_path(tree: Tree, image: str) -> str:
    return next((path for path in _label_candidates(image) if tree.has(path)), "")


# ------------------------------------------------------------------------------------------------- writing

_KEYS = {"training": "train", "valid": "val", "validation": "val"}
"""Names of splits → the keys under which Ultralytics looks for them."""


POLYGONS_WITHOUT_SCORES = "yolo: rows of polygons have no column for scores"


def label_lines(example: Example, confidence: bool = False) -> str:
    """The lines of an image.

    Args:
        example: the image; its boxes are relative to its size.
        confidence: write the score of each box as a sixth column.

    Returns:
        a line for each box: class, centre and size, or of an image with outlines class and polygon, all as
        fractions of the image.

    Raises:
        InputError: scores of polygons, for which rows have no column.
    """
    x1, y1, x2, y2 = (example.boxes / np.tile(np.maximum(example.size, 1), 2)).T
    rows = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1).tolist()
    lines = []
    columns = box_classes(example), rows, box_scores(example), box_outlines(example)
    for label, row, score, outline in zip(*columns, strict=True):
        fields = [*row, score] if confidence and score is not None else row
        if outline is not None:
            if len(fields) > len(row):
                raise InputError(f"{POLYGONS_WITHOUT_SCORES}; leave --confidence out")
            fields = (outline / np.maximum(example.size, 1)).ravel().tolist()
        lines.append(" ".join([str(label), *map(number_text, fields)]) + "\n")
    return "".join(lines)


def _write(splits: Sequence[Split], output: Output, options: WriteOptions) -> None:
    for split in splits:
        for example in split:
            name = f"labels/{split.name}/{without_suffix(example.id)}.txt"
            output.write(name, label_lines(example, options.confidence))
    output.write("data.yaml", data_yaml(splits))


def data_yaml(splits: Sequence[Split]) -> str:
    """The file that names splits and classes. Ultralytics needs the keys train and val."""
    folders: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for split in splits:
        key = _KEYS.get(split.name.lower(), split.name)
        if len(splits) == 1 and key not in folders:
            key = "train"
        folders.setdefault(key, []).append(f"images/{split.name}")
    lines = ["# Folders are relative to this file; an empty split is one that the data set does not have."]
    for key, found in folders.items():
        value = yaml_text(found[0]) if len(found) == 1 else f"[{', '.join(map(yaml_text, found))}]"
        name = key if key in ("train", "val", "test") else yaml_text(key)
        lines.append(f"{name}: {value if found else ''}")
    lines += ["names:", *(f"  {i}: {yaml_text(name)}" for i, name in enumerate(splits[0].class_names))]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def yaml_text(text: str) -> str:
    """A double-quoted scalar of YAML, in which everything but printable ASCII and letters is escaped."""
    return '"' + "".join(map(_yaml_character, text)) + '"'


def _yaml_character(char: str) -> str:
    code = ord(char)
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


WRITER = Writer(
    "data.yaml, images/SPLIT, labels/SPLIT, as Ultralytics reads them",
    write=_write,
    image_folder=lambda split, options: f"images/{split}",
    is_flat=True,
    by_stem=True,
    loses=lambda options: (LABELS,) if options.confidence else (LABELS, SCORES),
    hint="--confidence writes scores as a sixth column",
)
