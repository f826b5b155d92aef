"""Files of a data set that is written: what the writers of all layouts share.

A writer receives splits whose examples have the size of their image file, unique ids that are the names of
the images in the layout, and one list of class names; `heatbox.data.write` prepares them.
"""

from __future__ import annotations

import json
import math
import os
import posixpath
import re
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from heatbox.data.files.images import IMAGE_SUFFIXES
from heatbox.data.formats.options import WriteOptions
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

Loss = str
SCORES, LABELS, OUTLINES = "scores", "labels of images without boxes", "outlines"
"""What of an example a layout may be unable to hold."""

_PART = 1 << 16
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Output(ABC):
    """Receives files under relative names with forward slashes, which writers derive from safe ids."""

    @abstractmethod
    def write(self, name: str, content: str | Iterable[str]) -> None:
        """Write a text file; a large one comes in parts."""

    @abstractmethod
    def place(self, name: str, source: Path | bytes, link: bool) -> int:
        """Link or copy an image file.

        Args:
            name: of the image in the output.
            source: path or content of the image.
            link: make a hard link where that is possible.

        Returns:
            the number of bytes that were copied.

        Raises:
            InputError: the file does not exist or cannot be read.
        """


class FolderOutput(Output):
    """Files in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _path(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, content: str | Iterable[str]) -> None:
        """Write a text file."""
        with self._path(name).open("wb") as file:
            file.writelines(encoded(content))

    def place(self, name: str, source: Path | bytes, link: bool) -> int:
        """Link or copy an image file."""
        path = self._path(name)
        if isinstance(source, bytes):
            return path.write_bytes(source)
        source = source.resolve()
        try:
            if link:
                with suppress(OSError):  # another file system, or one without links
                    os.link(source, path)
                    return 0
            shutil.copyfile(source, path)
        except FileNotFoundError as error:
            raise InputError(f"{source}: no such image file") from error
        return path.stat().st_size


class ZipOutput(Output):
    """Files in a zip archive, written by one thread; images are stored, text is deflated."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive

    def write(self, name: str, content: str | Iterable[str]) -> None:
        """Write a text file."""
        entry = self._entry(name)
        entry.compress_type = zipfile.ZIP_DEFLATED
        with self.archive.open(entry, "w", force_zip64=True) as file:  # its size is not known before
            file.writelines(encoded(content))

    def place(self, name: str, source: Path | bytes, link: bool) -> int:
        """Copy an image file."""
        try:
            content = source if isinstance(source, bytes) else source.read_bytes()
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
        self.archive.writestr(self._entry(name), content, zipfile.ZIP_STORED)
        return len(content)

    def _entry(self, name: str) -> zipfile.ZipInfo:
        entry = zipfile.ZipInfo(name)  # of 1980, so that equal data makes equal archives
        entry.external_attr = 0o644 << 16
        return entry


@dataclass(frozen=True)
class Writer:
    """How one layout is written: as a tree of files, as a single file, or as either.

    Attributes:
        summary: what is written, for the documentation.
        write: (splits, output, options) writes the annotation files; None for a layout of a single file.
        image_folder: (split, options) → folder of its images; their names in it are the ids.
        files: (split, options) → what is added to the stem of the output file, and the content in parts.
        suffix: of that file; the output is a file if it ends so.
        only_name: (split, options) → name of the only split, where tools know few names.
        is_archive: whether the tree is written into a .zip.
        is_flat: whether images lie in one folder, because tools do not search subfolders.
        by_stem: whether annotations are found by the name of the image without its ending.
        loses: options → what the layout cannot hold.
        hint: what the user can do about it, for messages.
    """

    summary: str
    write: Callable[[Sequence[Split], Output, WriteOptions], None] | None = None
    image_folder: Callable[[str, WriteOptions], str] = lambda split, options: "images"
    files: Callable[[Split, WriteOptions], Mapping[str, str | Iterable[str]]] | None = None
    suffix: str = ""
    only_name: Callable[[str, WriteOptions], str] = lambda split, options: split
    is_archive: bool = False
    is_flat: bool = False
    by_stem: bool = False
    loses: Callable[[WriteOptions], Sequence[Loss]] = lambda options: ()
    hint: str = ""


# ------------------------------------------------------------------------------------------------- values


def box_classes(example: Example) -> list[int]:
    """The class index of each box.

    Raises:
        InputError: boxes without a class.
    """
    if example.box_labels is not None:
        return [int(label) for label in example.box_labels]
    if len(example.boxes) and example.label < 0:
        raise InputError(f"image {example.id!r} has boxes of no class, which no annotation file can hold")
    return [example.label] * len(example.boxes)


def labels_without_boxes(example: Example) -> list[int]:
    """The labels of an image that none of its boxes has."""
    return sorted({*example.labels} - {*box_classes(example)})


def box_scores(example: Example) -> list[float | None]:
    """The confidence of each box; None for ground truth, and for one that is not finite."""
    if example.box_scores is None:
        return [None] * len(example.boxes)
    return [float(score) if math.isfinite(score) else None for score in example.box_scores]


def box_outlines(example: Example) -> list[np.ndarray | None]:
    """The polygon of each box, (N, 2) x, y in pixels; that of the box where it has no outline.

    All are None for an image without outlines.
    """
    if example.outlines is None:
        return [None] * len(example.boxes)
    corners = example.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    pairs = zip(example.outlines, corners, strict=True)
    return [corner if outline is None else outline for outline, corner in pairs]


def corner_and_size(box: np.ndarray | Sequence[float]) -> list[float]:
    """[x, y, width, height] of an xyxy box."""
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]


def without_suffix(name: str) -> str:
    """The name of an image without its ending, if it is that of an image."""
    stem, suffix = posixpath.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def number_text(value: float) -> str:
    """A number with ten significant digits, a millionth of a pixel in any image: 12, 3.5."""
    return f"{value:.10g}"


def encoded(content: str | Iterable[str]) -> Iterator[bytes]:
    """A text, or the parts of one, as UTF-8 in pieces of tens of kilobytes."""
    part: list[str] = []
    length = 0
    for one in [content] if isinstance(content, str) else content:
        part.append(one)
        length += len(one)
        if length > _PART:
            yield "".join(part).encode()
            part, length = [], 0
    yield "".join(part).encode()


def separated(parts: Iterable[str], separator: str) -> Iterator[str]:
    """The parts of a text with a separator between them."""
    for number, part in enumerate(parts):
        yield separator + part if number else part


def json_text(content: object) -> str:
    """JSON on one line, with names as they are."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def xml_text(value: object) -> str:
    """Text for the content or a quoted attribute of an XML element.

    Raises:
        InputError: a control character, which no XML file can contain.
    """
    text = str(value)
    if found := _NOT_IN_XML.search(text):
        raise InputError(f"{text!r} contains the character {found[0]!r}, which XML cannot hold; rename it")
    return escape(text, {'"': "&quot;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def one_line(name: str, file: str) -> str:
    """A name that a text file lists on a line of its own.

    Raises:
        InputError: it contains a line break.
    """
    if len(name.splitlines()) > 1 or name != name.rstrip("\r\n"):
        raise InputError(f"{name!r} contains a line break, which {file} cannot hold; rename it")
    return name
