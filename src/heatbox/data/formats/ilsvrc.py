"""ILSVRC2012 (ImageNet-1k), train and val, as published and as commonly rearranged.

Validation images are stored flat or in class folders, their boxes in one XML file per image; labels come
from the class folder, the XML and the devkit's ground truth, which have to agree. The devkit numbers classes
in its own order, which meta.mat or map_clsloc.txt lists; labels here are positions among the sorted WordNet
ids, the order that networks are trained in. Boxes are taken as they are written.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress

from heatbox.data.files.images import TreeImages, is_image
from heatbox.data.files.trees import Report, Tree, below, find_folders, join
from heatbox.data.formats.frames import UPRIGHT, turns_of
from heatbox.data.formats.rows import Annotation, parse_integer, read_class_words, read_rows, skipping
from heatbox.data.formats.table import SUFFIXES, is_table
from heatbox.data.formats.voc import read_voc
from heatbox.data.types import Split
from heatbox.errors import InputError

LAYOUT, DEPTH = "ILSVRC2012", 0
_WNID = re.compile(r"n\d{8}")
_VAL = re.compile(r"ILSVRC2012_val_(\d{8})\.(?:JPEG|jpeg|jpg|png)")
_TRAIN = re.compile(r"n\d{8}_\d+\.(?:JPEG|jpeg|jpg|png)")
_NUMBER = re.compile(r"[0-9]{1,4}")
_NO_CLASSES = frozenset({"train", "val", "valid", "validation", "test", "images", "data"})
_LISTS = ("meta.mat", "map_clsloc.txt", "ILSVRC2012_validation_ground_truth.txt")


def split_names(tree: Tree) -> tuple[str, ...]:
    """ "train" and "val", if files are named like theirs, flat or in class folders."""
    return tuple(sorted(_split_folders(tree)))


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read "train" or "val". Training images without boxes have size (0, 0).

    Raises:
        InputError: naming the file: an image without label, labels that disagree, an invalid box, or no
            class order.
    """
    folder = _split_folders(tree)[name]
    images = TreeImages(tree, folder)
    truth = _GroundTruth(tree, name, report)
    wnids = truth.class_order(images.tree)
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    found: dict[str, tuple[int, Annotation]] = {}
    for image, in_folder in _images(images.tree):
        with skipping(report, image):
            annotation = truth.annotation(image)
            wnid = truth.class_of(image, in_folder, annotation)
            if wnid not in labels:
                where = images.tree.describe(image)
                raise InputError(f"{where}: class {wnid!r} is not one of the data set")
            found[image] = labels[wnid], annotation
    turns = turns_of({image: listed for image, (_, listed) in found.items()}, images.tree, report)
    examples = []
    for image, (label, annotation) in found.items():
        with skipping(report, image):
            turn = turns.get(image, UPRIGHT)
            examples.append(annotation.example(image, label, images.tree, report, turn=turn))
    words = [file for name in ("LOC_synset_mapping.txt", "words.txt") if (file := _find(tree, name))]
    return Split(name, examples, read_class_words(tree, words, wnids), images, class_ids=wnids)


def _split_folders(tree: Tree) -> dict[str, str]:
    """Split → folder of its images or of its class folders; none if a table has labels or boxes of them."""
    found: dict[str, str] = {}
    for folder in find_folders(tree, _split_of, depth=4):
        if _is_class_folder(tree, folder):
            continue
        name, last = _split_of(below(tree, folder)), folder.rpartition("/")[2].lower()
        # Images for validation that someone took from the training images.
        name = last if name == "train" and last in ("val", "valid", "validation", "test") else name
        found.setdefault(name, folder)
    if found and any(
        is_table(tree, path) for place in ("", *found.values()) for path in tree.paths(place, SUFFIXES)
    ):
        return {}
    return found


def _is_class_folder(tree: Tree, folder: str) -> bool:
    """Whether a folder of validation images is one of several, of any names, that sort them by class.

    The published set has all in one folder, and other files that list their classes.
    """
    parent, _, last = folder.rpartition("/")
    siblings = [name for name in tree.folders(parent) if name != last and name.lower() not in _NO_CLASSES]
    several = any(any(map(is_image, tree.files(join(parent, name)))) for name in siblings)
    if not folder or last.lower() in _NO_CLASSES or not several:
        return False
    return not any(_find(tree, name) for name in _LISTS) and not any(
        find_folders(tree, lambda one: one.paths("", ".xml"), depth=4)
    )


def _split_of(tree: Tree) -> str:
    """ "val" or "train" for a folder of such images, "" for any other."""
    if _VAL.fullmatch(next(filter(is_image, tree.files()), "")):
        return "val"
    for folder in tree.folders()[:1]:
        if _WNID.fullmatch(folder):
            first = next(filter(is_image, tree.files(folder)), "")
            return "val" if _VAL.fullmatch(first) else "train" if _TRAIN.fullmatch(first) else ""
    return ""


def _images(tree: Tree) -> Iterator[tuple[str, str]]:
    """(id, WordNet id of its folder or "") of every image."""
    for name in filter(is_image, tree.files()):
        yield name, ""
    for folder in filter(_WNID.fullmatch, tree.folders()):
        for name in filter(is_image, tree.files(folder)):
            yield f"{folder}/{name}", folder


# ---------------------------------------------------------------------------------------- ground truth


class _GroundTruth:
    """Labels and boxes of a split, from every file that lists them."""

    def __init__(self, tree: Tree, split: str, report: Report) -> None:
        self.tree, self.split, self.report = tree, split, report
        devkit = _find(tree, "meta.mat") or _find(tree, "map_clsloc.txt")
        self.order = _devkit_order(tree, devkit) if devkit else {}
        self.numbers = self._devkit_classes() if split == "val" else []
        self.xml = {file.rpartition("/")[2]: file for file in self._xml_files()}

    def _xml_files(self) -> Iterator[str]:
        def has_class_folders_of_xml(tree: Tree) -> bool:
            first = next(iter(tree.folders()), "")
            return bool(_WNID.fullmatch(first) and tree.paths(first, ".xml"))

        folders = list(find_folders(self.tree, lambda t: t.paths("", ".xml"), depth=4))
        for folder in find_folders(self.tree, has_class_folders_of_xml, depth=4):
            folders += [join(folder, wnid) for wnid in self.tree.folders(folder)]
        for folder in folders:
            yield from self.tree.paths(folder, ".xml")

    def _devkit_classes(self) -> list[int]:
        """Devkit class of every validation image, from 1."""
        name = _find(self.tree, "ILSVRC2012_validation_ground_truth.txt")
        if not name:
            return []
        if not self.order:
            self.report(f"{self.tree.describe(name)}: the devkit's meta.mat or map_clsloc.txt is missing")
            return []
        classes = []
        for row in read_rows(self.tree, name):
            classes.append(0)
            with skipping(self.report):
                classes[-1] = parse_integer(row, row.text, "class number")
        return classes

    def class_order(self, images: Tree) -> list[str]:
        """Sorted WordNet ids, from the first source that has any: tables, class folders, XML."""
        mapping = _find(self.tree, "LOC_synset_mapping.txt")
        listed = {row.text.split()[0] for row in read_rows(self.tree, mapping)} if mapping else set()
        folders = {name for name in images.folders() if _WNID.fullmatch(name)}
        other = _split_folders(self.tree).get("train" if self.split == "val" else "val")
        if other is not None:
            folders |= {name for name in self.tree.folders(other) if _WNID.fullmatch(name)}
        if known := listed or set(self.order.values()) or folders:
            return sorted(known)
        # With XML alone, the classes are complete if each has an image, as in the full set.
        found: set[str] = set()
        for file in self.xml.values():
            with suppress(InputError):
                categories = read_voc(self.tree, file).categories
                found.update(categories if len(categories) == 1 else ())
        return sorted(found)

    def annotation(self, image: str) -> Annotation:
        """Size and objects of an image, which are of one class; empty if it has no XML."""
        file = self.xml.get(image.rpartition("/")[2].rpartition(".")[0] + ".xml")
        found = read_voc(self.tree, file) if file else Annotation(self.tree.where)
        if len(found.categories) > 1:
            names = ", ".join(map(repr, found.categories))
            raise InputError(f"{found.where}: its objects are of several classes, {names}")
        return found

    def class_of(self, image: str, in_folder: str, annotation: Annotation) -> str:
        """WordNet id of an image, on which all sources have to agree."""
        digits = image.rpartition("/")[2].rpartition(".")[0][-8:]
        number = int(digits) if self.split == "val" and digits.isdecimal() else 0
        in_devkit = self.order.get(self.numbers[number - 1], "") if 0 < number <= len(self.numbers) else ""
        in_xml = next(iter(annotation.categories), "")
        sources = {"its folder": in_folder, "its XML": in_xml, "the devkit": in_devkit}
        sources = {source: wnid for source, wnid in sources.items() if wnid}
        if not sources:
            raise InputError(
                f"{self.tree.where}: no class folder, XML or devkit lists the class of {image!r}"
            )
        if len(set(sources.values())) > 1:
            words = ", ".join(f"{source} has {wnid!r}" for source, wnid in sources.items())
            raise InputError(f"{self.tree.where}: the class of {image!r} is contradictory: {words}")
        return next(iter(sources.values()))


# ------------------------------------------------------------------------------------------- class order


def _find(tree: Tree, name: str) -> str:
    """The path of a file of this name, "" if there is none."""
    folder = next(find_folders(tree, lambda t: t.has(name), depth=3), None)
    return "" if folder is None else join(folder, name)


def _devkit_order(tree: Tree, name: str) -> dict[int, str]:
    """Devkit class number → WordNet id, from map_clsloc.txt (``wnid number words``) or meta.mat."""
    if name.endswith(".txt"):
        fields = [row.text.split() for row in read_rows(tree, name)]
        return {int(f[1]): f[0] for f in fields if len(f) >= 2 and _NUMBER.fullmatch(f[1])}
    try:
        synsets = read_structures(tree.read(name), "synsets")
        pairs = [(entry["ILSVRC2012_ID"], entry["WNID"]) for entry in synsets]
        order = {int(number[0]): wnid for number, wnid in pairs if number and isinstance(wnid, str)}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{tree.describe(name)}: is not the devkit's meta.mat ({error})") from error
    return {number: wnid for number, wnid in order.items() if number <= 1000}  # above are inner nodes


# ----------------------------------------------------------------------------------------- MATLAB files
# An array of structures out of a MATLAB file of version 5 (MathWorks, MAT-File Format), as the development
# kit has it. Fields with text or numbers are read, all others are None. No size in the file is trusted.

Value = str | list[float] | None

_MATRIX, _COMPRESSED = 14, 15
_STRUCTURE, _TEXT, _NUMBERS = 2, 4, range(6, 16)
_FORMATS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_ENCODINGS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MAX_BYTES = 2**26  # decompressed; the real file has 0.3 MB


def read_structures(content: bytes, name: str) -> list[dict[str, Value]]:
    """The structures of one variable, in the order of the file.

    Args:
        content: of the file.
        name: of the variable.

    Returns:
        one dictionary per structure, keyed by field name.

    Raises:
        ValueError: not such a file, a damaged one, or one without such a variable.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("it is not a MATLAB file of version 5")
    for kind, data in _elements(content[128:], order):
        if kind == _COMPRESSED:
            try:
                inflated = zlib.decompressobj().decompress(data, _MAX_BYTES)
            except zlib.error as error:
                raise ValueError(f"it cannot be decompressed, {error}") from error
            kind, data = next(_elements(inflated, order), (kind, data))
        if kind != _MATRIX:
            continue
        kind, parts = _matrix(data, order)
        if kind != _STRUCTURE or parts[2][1] != name.encode() or len(parts) < 5 or len(parts[3][1]) != 4:
            continue
        (width,) = struct.unpack(f"{order}i", parts[3][1])
        if width < 1:
            raise ValueError("its fields have no names")
        packed = parts[4][1]
        starts = range(0, len(packed), width)
        names = [packed[at : at + width].split(b"\0")[0].decode("latin-1") for at in starts]
        values = [_value(*element, order) for element in parts[5:]]
        if not names or len(values) % len(names):
            raise ValueError("its structures are not complete")
        rows = range(0, len(values), len(names))
        return [dict(zip(names, values[at : at + len(names)], strict=True)) for at in rows]
    raise ValueError(f"it has no variable {name!r} of structures")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, content) of the elements of a block in order; each begins at a multiple of 8 bytes."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # a small element: size and content are in the tag itself
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        if start + size > len(data) or (start == at + 4 and size > 4):
            raise ValueError("it ends inside a value")
        yield kind, data[start : start + size]
        at = at + 8 if start == at + 4 else start + size if kind == _COMPRESSED else start + -(-size // 8) * 8


def _matrix(data: bytes, order: str) -> tuple[int, list[tuple[int, bytes]]]:
    """Class of a matrix, and its elements: flags, dimensions, name, and what the class has."""
    parts = list(_elements(data, order))
    if len(parts) < 3 or len(parts[0][1]) < 4:
        raise ValueError("it has a matrix without header")
    return struct.unpack_from(f"{order}I", parts[0][1])[0] & 0xFF, parts


def _value(kind: int, data: bytes, order: str) -> Value:
    """Text or numbers of a matrix inside a structure."""
    if kind != _MATRIX or not data:
        return None
    kind, parts = _matrix(data, order)
    if len(parts) < 4 or (kind != _TEXT and kind not in _NUMBERS):
        return None
    stored, content = parts[3]
    if kind == _TEXT and stored in _ENCODINGS:
        return content.decode(_ENCODINGS[stored], errors="replace")
    if stored not in _FORMATS:
        return None
    form = _FORMATS[stored]
    count = len(content) // struct.calcsize(f"={form}")
    numbers = struct.unpack_from(f"{order}{count}{form}", content)
    if kind == _TEXT:
        return "".join(chr(int(n)) for n in numbers if 0 <= n < 0x110000)
    return [float(n) for n in numbers if math.isfinite(n)]
