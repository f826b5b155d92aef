"""ILSVRC2012 (ImageNet-1k), train and val, as published and as commonly rearranged.

Validation images lie flat or in class folders, their boxes in one XML file an image; labels come from the
class folder, the XML and the devkit's ground truth, and have to agree. The devkit numbers classes in an order
of its own, which meta.mat or map_clsloc.txt explains; labels here are positions among the sorted WordNet ids,
the order that networks are trained in. Boxes are taken as they are written.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree import ElementTree

import numpy as np

from heatbox.data.files.images import TreeImages, is_image
from heatbox.data.files.trees import Tree, below, find_folders
from heatbox.data.formats.rows import Box, Complain, checked_box, refuse, rows, whole
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT = "ILSVRC2012"
_WNID = re.compile(r"n\d{8}")
_VAL = re.compile(r"ILSVRC2012_val_(\d{8})\.(?:JPEG|jpeg|jpg|png)")
_TRAIN = re.compile(r"n\d{8}_\d+\.(?:JPEG|jpeg|jpg|png)")
_NUMBER = re.compile(r"[0-9]{1,4}")
_SLACK = 1.0  # pixels; some boxes end at width + 1


def recognises(tree: Tree) -> bool:
    """Whether there are files named like those of ILSVRC2012, flat or in class folders."""
    return bool(_folders(tree))


def split_names(tree: Tree) -> tuple[str, ...]:
    """ "train" and "val", as far as they are there."""
    return tuple(sorted(_folders(tree)))


def _folders(tree: Tree) -> dict[str, str]:
    """Split → folder of its images or of its class folders."""
    found: dict[str, str] = {}

    for folder in find_folders(tree, lambda t: bool(_kind(t)), depth=4):
        found.setdefault(_kind(below(tree, folder)), folder)
    return found


def _kind(tree: Tree) -> str:
    """ "val" or "train" for a folder of such images, "" for any other."""
    if _VAL.fullmatch(next(filter(is_image, tree.files()), "")):
        return "val"
    for folder in tree.folders()[:1]:
        if _WNID.fullmatch(folder):
            first = next(filter(is_image, tree.files(folder)), "")
            return "val" if _VAL.fullmatch(first) else "train" if _TRAIN.fullmatch(first) else ""
    return ""


def load_split(tree: Tree, name: str, complain: Complain = refuse) -> Split:
    """Read "train" or "val". Training images without boxes have size (0, 0).

    Raises:
        InputError: naming the file: an image without label, labels that disagree, a bad box, no class order.
    """
    folder = _folders(tree)[name]
    truth = _Truth(tree, name, complain)
    wnids = truth.class_order(below(tree, folder))
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    examples = []
    for image, in_folder in _images(below(tree, folder)):
        note = truth.note(image, in_folder)
        if note is None:
            continue
        if note.wnid not in labels:
            complain(f"{tree.describe(f'{folder}/{image}')}: class {note.wnid!r} is not one of the data set")
            continue
        boxes = np.array(note.boxes, dtype=np.float64).reshape(-1, 4)
        examples.append(Example(image, labels[note.wnid], note.size, boxes))
    return Split(name, examples, _names(tree, wnids), TreeImages(tree, folder))


def _images(tree: Tree) -> Iterator[tuple[str, str]]:
    """(id, WordNet id of its folder or "") of every image."""
    for name in filter(is_image, tree.files()):
        yield name, ""
    for folder in filter(_WNID.fullmatch, tree.folders()):
        for name in filter(is_image, tree.files(folder)):
            yield f"{folder}/{name}", folder


# ---------------------------------------------------------------------------------------- ground truth


@dataclass
class Note:
    """What is known of one image."""

    wnid: str = ""
    size: tuple[int, int] = (0, 0)
    boxes: list[Box] = field(default_factory=list)


class _Truth:
    """Labels and boxes of a split, from every file that tells them."""

    def __init__(self, tree: Tree, split: str, complain: Complain) -> None:
        self.tree, self.split, self.complain = tree, split, complain
        self.devkit = _find(tree, "meta.mat") or _find(tree, "map_clsloc.txt")
        self.order = _devkit_order(tree, self.devkit) if self.devkit else {}
        self.numbers = self._ground_truth() if split == "val" else []
        self.xml = {file.rpartition("/")[2]: file for file in self._xml_files()}

    def _xml_files(self) -> Iterator[str]:
        def holds_xml(inner: Tree) -> bool:
            return any(name.endswith(".xml") for name in inner.files())

        for folder in find_folders(self.tree, holds_xml, depth=4):
            yield from (f"{folder}/{n}".lstrip("/") for n in self.tree.files(folder) if n.endswith(".xml"))
        for folder in find_folders(self.tree, lambda t: _is_class_folders_of_xml(t), depth=4):
            for wnid in self.tree.folders(folder):
                above = f"{folder}/{wnid}".lstrip("/")
                yield from (f"{above}/{n}" for n in self.tree.files(above) if n.endswith(".xml"))

    def _ground_truth(self) -> list[int]:
        """Devkit class of every validation image, from 1."""
        name = _find(self.tree, "ILSVRC2012_validation_ground_truth.txt")
        if not name:
            return []
        if not self.order:
            self.complain(f"{self.tree.describe(name)}: the devkit's meta.mat or map_clsloc.txt is missing")
            return []
        found = [whole(row, row.text, "class number", self.complain) for row in rows(self.tree, name)]
        return [number or 0 for number in found]

    def class_order(self, images: Tree) -> list[str]:
        """Sorted WordNet ids, from whichever file or folders tell most of them."""
        mapping = _find(self.tree, "LOC_synset_mapping.txt")
        listed = {row.text.split()[0] for row in rows(self.tree, mapping)} if mapping else set()
        folders = {name for name in images.folders() if _WNID.fullmatch(name)}
        other = _folders(self.tree).get("train" if self.split == "val" else "val")
        if other is not None:
            folders |= {name for name in self.tree.folders(other) if _WNID.fullmatch(name)}
        if found := listed or set(self.order.values()) or folders:
            return sorted(found)
        # Only XML tells: its classes are complete where all of them have an image, as in the full set.
        silent: list[str] = []
        return sorted(
            {note.wnid for f in self.xml.values() if (note := read_xml(self.tree, f, silent.append))}
        )

    def note(self, image: str, in_folder: str) -> Note | None:
        """Label, size and boxes of an image, or None after complaining."""
        name = image.rpartition("/")[2].rpartition(".")[0]
        file = self.xml.get(name + ".xml")
        note = read_xml(self.tree, file, self.complain) if file else Note()
        if note is None:
            return None
        number = int(name[-8:]) if self.split == "val" and name[-8:].isdecimal() else 0
        listed = self.order.get(self.numbers[number - 1], "") if 0 < number <= len(self.numbers) else ""
        told = {"its folder": in_folder, "its XML": note.wnid, "the devkit": listed}
        told = {source: wnid for source, wnid in told.items() if wnid}
        if not told:
            self.complain(f"{self.tree.where}: no class folder, XML or devkit tells the class of {image!r}")
            return None
        if len(set(told.values())) > 1:
            words = ", ".join(f"{source} says {wnid!r}" for source, wnid in told.items())
            self.complain(f"{self.tree.where}: the class of {image!r} is contradictory: {words}")
            return None
        note.wnid = next(iter(told.values()))
        return note


def _is_class_folders_of_xml(tree: Tree) -> bool:
    return any(
        _WNID.fullmatch(f) and any(n.endswith(".xml") for n in tree.files(f)[:1]) for f in tree.folders()[:1]
    )


def read_xml(tree: Tree, name: str, complain: Complain) -> Note | None:
    """Class, size and boxes of a PASCAL VOC annotation, or None after complaining.

    Documents with a DTD are refused: none of the data sets has one, and entities can be made to explode.
    """
    where = tree.describe(name)
    data = tree.read(name)
    try:
        if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise ValueError("it has a document type declaration")
        root = ElementTree.fromstring(data.lstrip())
        size = (_number(root, "size/width"), _number(root, "size/height"))
        objects = root.findall("object")
        wnids = {(thing.findtext("name") or "").strip() for thing in objects}
        corners = [
            [_number(thing, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")] for thing in objects
        ]
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        complain(f"{where}: is not an annotation in PASCAL VOC's XML ({error})")
        return None
    if len(wnids) > 1:
        complain(f"{where}: its objects are of several classes, {', '.join(map(repr, sorted(wnids)))}")
        return None
    whole_size = (int(size[0]), int(size[1]))
    checked = [
        checked_box(box, whole_size, f"{where}, object {i}", complain, _SLACK)
        for i, box in enumerate(corners, 1)
    ]
    return Note(next(iter(wnids), ""), whole_size, [box for box in checked if box])


def _number(element: ElementTree.Element, path: str) -> float:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"no {path}")
    value = float(text)
    if not -1e9 < value < 1e9:
        raise ValueError(f"{path} is {text.strip()}")
    return value


# ------------------------------------------------------------------------------------------- class order


def _find(tree: Tree, name: str) -> str:
    folder = next(find_folders(tree, lambda t: t.has(name), depth=3), None)
    return "" if folder is None else f"{folder}/{name}".lstrip("/")


def _devkit_order(tree: Tree, name: str) -> dict[int, str]:
    """Devkit class number → WordNet id, from map_clsloc.txt (``wnid number words``) or meta.mat."""
    if name.endswith(".txt"):
        fields = [row.text.split() for row in rows(tree, name)]
        return {int(f[1]): f[0] for f in fields if len(f) >= 2 and _NUMBER.fullmatch(f[1])}
    try:
        synsets = read_structures(tree.read(name), "synsets")
        pairs = [(entry["ILSVRC2012_ID"], entry["WNID"]) for entry in synsets]
        order = {int(number[0]): wnid for number, wnid in pairs if number and isinstance(wnid, str)}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{tree.describe(name)}: is not the devkit's meta.mat ({error})") from error
    return {number: wnid for number, wnid in order.items() if number <= 1000}  # above it are inner nodes


def _names(tree: Tree, wnids: list[str]) -> list[str]:
    """The words of each class where LOC_synset_mapping.txt or words.txt has them, else its id."""
    words: dict[str, str] = {}
    for file in ("LOC_synset_mapping.txt", "words.txt"):
        if name := _find(tree, file):
            for row in rows(tree, name):
                wnid, *rest = row.text.split(maxsplit=1)
                words[wnid] = rest[0] if rest else wnid
    return [words.get(wnid, wnid) for wnid in wnids]


# ------------------------------------------------------------ MATLAB files
# An array of structures out of a MATLAB file of version 5 (MathWorks, MAT-File Format), as the development
# kit has it. Fields that hold text or numbers are read, all others are None. No size in the file is trusted.

Value = str | list[float] | None

_MATRIX, _COMPRESSED = 14, 15
_STRUCTURE, _TEXT, _NUMBERS = 2, 4, range(6, 16)
_FORMATS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_ENCODINGS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MOST_BYTES = 2**26  # unpacked; the real file has 0.3 MB


@dataclass(frozen=True)
class _Element:
    kind: int
    data: bytes


def read_structures(content: bytes, name: str) -> list[dict[str, Value]]:
    """The structures of one variable, in the order of the file.

    Args:
        content: of the file.
        name: of the variable.

    Returns:
        a dictionary for each structure, by name of the field.

    Raises:
        ValueError: this is no such file, it is damaged, or has no such variable.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("it is not a MATLAB file of version 5")
    for element in _elements(content[128:], order):
        if element.kind == _COMPRESSED:
            element = next(_elements(_unpacked(element.data), order), element)
        if element.kind == _MATRIX:
            found = _structures(element.data, order, name)
            if found is not None:
                return found
    raise ValueError(f"it has no variable {name!r} of structures")


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"it cannot be unpacked, {error}") from error


def _elements(data: bytes, order: str) -> Iterator[_Element]:
    """The elements of a block, one after the other; each begins at a multiple of 8 bytes."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # a small element: size and content are in the tag itself
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        if start + size > len(data) or (start == at + 4 and size > 4):
            raise ValueError("it ends inside a value")
        yield _Element(kind, data[start : start + size])
        at = at + 8 if start == at + 4 else start + size if kind == _COMPRESSED else start + -(-size // 8) * 8


def _parts(data: bytes, order: str) -> tuple[int, list[_Element]]:
    """Class of a matrix, and its elements: flags, dimensions, name, and what the class has."""
    parts = list(_elements(data, order))
    if len(parts) < 3 or len(parts[0].data) < 4:
        raise ValueError("it has a matrix without head")
    return struct.unpack_from(f"{order}I", parts[0].data)[0] & 0xFF, parts


def _structures(data: bytes, order: str, name: str) -> list[dict[str, Value]] | None:
    """The structures of a matrix of this name, None for any other matrix."""
    kind, parts = _parts(data, order)
    if kind != _STRUCTURE or parts[2].data != name.encode() or len(parts) < 5 or len(parts[3].data) != 4:
        return None
    (width,) = struct.unpack(f"{order}i", parts[3].data)
    if width < 1:
        raise ValueError("its fields have no names")
    packed, values = parts[4].data, parts[5:]
    names = [packed[i : i + width].split(b"\0")[0].decode("latin-1") for i in range(0, len(packed), width)]
    if not names or len(values) % len(names):
        raise ValueError("its structures are not whole")
    read = [_value(element, order) for element in values]
    return [dict(zip(names, read[i : i + len(names)], strict=True)) for i in range(0, len(read), len(names))]


def _value(element: _Element, order: str) -> Value:
    """Text or numbers of a matrix inside a structure."""
    if element.kind != _MATRIX or not element.data:
        return None
    kind, parts = _parts(element.data, order)
    if len(parts) < 4 or (kind != _TEXT and kind not in _NUMBERS):
        return None
    stored, content = parts[3].kind, parts[3].data
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
