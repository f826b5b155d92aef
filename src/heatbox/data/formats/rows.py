"""Rows of text tables, boxes of images, and their validation: what the readers of all layouts share.

Windows line ends, byte order marks (UTF-8 and UTF-16), blank lines and tabs for spaces are accepted, because
their meaning is certain. Every other problem is reported in one sentence with file and row.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from heatbox.data.files.images import TreeImages, image_size
from heatbox.data.files.trees import Report, Tree
from heatbox.data.formats.frames import SIDEWAYS, UPRIGHT, turned, turns_of
from heatbox.data.problems import MALFORMED, OUTSIDE, BadImage, Problem
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

Box = list[float]
MAX_SIDE = 2**31
"""Pixels; no image has a side of this length."""
SLACK = 1.0
"""Pixels by which a box may overshoot its image; it is then clipped."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line that is not blank.

    Attributes:
        where: file and row number, for messages.
        text: the line, stripped of surrounding whitespace.
    """

    where: str
    text: str

    def malformed(self, form: str) -> InputError:
        """The problem that the line is not of a form such as "id label"."""
        return InputError(f"{self.where}: {self.text!r} is not of the form {form}")


@contextmanager
def skipping(report: Report, image: str = "") -> Iterator[None]:
    """Report an `InputError` raised in the block, and go on after it: a row or an image is skipped.

    Args:
        report: receives the problem.
        image: id of the image that the block is about, if it is about one.
    """
    try:
        yield
    except InputError as error:
        report(Problem(str(error), image, error.reason if isinstance(error, BadImage) else MALFORMED))


def require_files(tree: Tree, files: Sequence[str], layout: str) -> None:
    """Raise an `InputError` if a tree lacks one of the files that a layout needs."""
    for file in files:
        if not tree.has(file):
            raise InputError(f"{tree.describe(file)}: missing; {layout} needs {', '.join(files)}")


def decode_text(data: bytes, where: str) -> str:
    """Text of a file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        InputError: another encoding, naming the row of the first invalid byte.
    """
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise InputError(f"{where}, row {row}: is not UTF-8 text ({error.reason})") from error


def read_rows(tree: Tree, name: str) -> Iterator[Row]:
    """Rows of a text file that are not blank, numbered from 1 as an editor numbers them."""
    where = tree.describe(name)
    text = decode_text(tree.read(name), where)
    # Not splitlines(), which also breaks lines at characters that names may contain.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield Row(f"{where}, row {number}", line.strip())


def parse_floats(row: Row, texts: Sequence[str], form: str, count: int | None = None) -> list[float]:
    """Finite numbers of some fields, `count` if it is given; raises an `InputError` for any others."""
    try:
        found = [float(text) for text in texts]
    except ValueError as error:
        raise row.malformed(form) from error
    if count not in (None, len(found)):
        raise row.malformed(form)
    if not all(map(math.isfinite, found)):
        raise InputError(f"{row.where}: {row.text!r} contains a number that is not finite")
    return found


def parse_integer(row: Row, text: str, form: str) -> int:
    """One integer, written as 3 or 3.0; raises an `InputError` for anything else."""
    (value,) = parse_floats(row, [text], form)
    if not value.is_integer():
        raise row.malformed(form)
    return int(value)


def read_id_table(tree: Tree, name: str, report: Report, form: str) -> dict[int, tuple[Row, str]]:
    """Rows ``number rest``, separated by spaces or tabs, by number; identical rows are merged."""
    table: dict[int, tuple[Row, str]] = {}
    for row in read_rows(tree, name):
        with skipping(report):
            first, *rest = row.text.split(maxsplit=1)
            number = parse_integer(row, first, form)
            if not rest:
                raise row.malformed(form)
            if number in table and table[number][1].split() != rest[0].split():
                above = table[number][0].where
                raise InputError(f"{row.where}: id {number} has another row, and they differ: {above}")
            table[number] = row, rest[0]
    return table


def read_class_words(tree: Tree, files: Sequence[str], ids: Sequence[str]) -> list[str]:
    """The words of each class id, from tables of ``id words``; the id itself where no table has it."""
    words: dict[str, str] = {}
    for row in (row for file in files if tree.has(file) for row in read_rows(tree, file)):
        first, *rest = row.text.split(maxsplit=1)
        words[first] = rest[0] if rest else first
    return [words.get(name, name) for name in ids]


def is_safe_id(name: str) -> bool:
    """Whether an image id is a relative path that stays inside its folder."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        return False
    return any(part not in ("", ".") for part in parts)


# ------------------------------------------------------------------------------------------------- boxes


def validate_box(box: Sequence[float], size: tuple[int, int], where: str) -> Box:
    """The xyxy box, clipped to its image, which it may overshoot by `SLACK` pixels.

    Args:
        box: x1, y1, x2, y2 in pixels.
        size: (width, height) of its image.
        where: file and row, for the message.

    Raises:
        InputError: the box is not finite, not ordered or not inside its image.
    """
    x1, y1, x2, y2 = box
    width, height = size
    reason = MALFORMED
    if not all(map(math.isfinite, box)):
        problem = "is not finite"
    elif x2 < x1 or y2 < y1:
        problem = "has x2 < x1 or y2 < y1"
    elif min(x1, y1) < -SLACK or x2 > width + SLACK or y2 > height + SLACK:
        problem, reason = f"lies outside its {width} x {height} image", OUTSIDE
    else:
        x1, y1 = min(max(x1, 0), width), min(max(y1, 0), height)
        return [x1, y1, max(min(x2, width), x1), max(min(y2, height), y1)]
    raise BadImage(f"{where}: box ({', '.join(f'{value:g}' for value in box)}) {problem}", reason)


def refuse_fractions(annotations: Iterable[Annotation], where: str, of: str = "box") -> None:
    """Raise an `InputError` if all boxes of a file are fractions of their images, where pixels are expected.

    Args:
        annotations: of the images.
        where: the file, for the message.
        of: what has the values.
    """
    boxed = [one for one in annotations if one.objects]
    sides = [float(side) for one in boxed for thing in one.objects for side in thing.box]
    if any(max(one.size) == 1 for one in boxed):  # pixels are as small
        return
    if all(0 <= side <= 1 for side in sides) and not all(side.is_integer() for side in sides):
        raise InputError(f"{where}: all values of {of} are fractions of the image, expected pixels")


def box_array(boxes: Sequence[Box]) -> np.ndarray:
    """(K, 4) float64 of a list of boxes, which may be empty."""
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


class Object(NamedTuple):
    """One object of an image, as its file has it.

    Attributes:
        category: name of its class; "" if the file has none.
        box: xyxy in pixels of the listed size; not validated yet.
        where: file and row, for messages.
        flags: words of `BOX_FLAGS`.
        score: confidence in [0, 1], of a prediction.
    """

    category: str
    box: Sequence[float]
    where: str
    flags: tuple[str, ...] = ()
    score: float | None = None


@dataclass
class Annotation:
    """What a table or an annotation file lists for one image.

    Attributes:
        where: file and row of the image, for messages.
        size: (width, height), (0, 0) if it is not listed.
        objects: the objects, with boxes that are not validated yet.
        labels: classes of the image as a whole, besides those of its objects.
    """

    where: str
    size: tuple[int, int] = (0, 0)
    objects: list[Object] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    @property
    def categories(self) -> list[str]:
        """The categories of the objects, each once, sorted."""
        return sorted({one.category for one in self.objects})

    def example(
        self,
        name: str,
        label: int,
        images: Tree,
        report: Report,
        ignored: Collection[str] = (),
        turn: int = UPRIGHT,
        classes: Mapping[str, int] | None = None,
    ) -> Example:
        """The example of an image, with its valid boxes.

        Args:
            name: of the image, also its id.
            label: class index; used where `classes` is None.
            images: has the image, whose header is read if objects but no size are listed.
            report: receives the problems with boxes.
            ignored: categories whose boxes are left out.
            turn: EXIF orientation by which boxes and size are turned; see `heatbox.data.formats.frames`.
            classes: category → class index, for a layout whose images may be of several classes.

        Raises:
            InputError: the size is not listed, and the image cannot be read.
        """
        listed = not self.objects or min(self.size) > 0
        size = self.size if listed else image_size(images, name)
        if not listed and turn in SIDEWAYS:
            size = size[::-1]
        boxes: list[Box] = []
        kept: list[Object] = []
        for one in self.objects:
            if one.category not in ignored:
                try:  # not skipping(), which takes longer than the rest
                    boxes.append(validate_box(one.box, size, one.where))
                except BadImage as error:
                    report(Problem(str(error), name, error.reason))
                else:
                    kept.append(one)
        array = box_array(boxes)
        if turn != UPRIGHT:
            array, size = turned(array, size, turn)
        flags = tuple(one.flags for one in kept) if any(one.flags for one in kept) else None
        scores = None
        if any(one.score is not None for one in kept):
            scores = np.array([np.nan if one.score is None else one.score for one in kept])
        if classes is None:
            return Example(name, label, size, array, box_scores=scores, box_flags=flags)
        of_objects = {classes[one.category] for one in self.objects}
        labels = tuple(sorted(of_objects | {classes[kind] for kind in self.labels}))
        of_boxes = None
        if len(labels) > 1:
            of_boxes = np.array([classes[one.category] for one in kept], dtype=np.int64)
        return Example(name, labels[0] if labels else -1, size, array, labels, of_boxes, scores, flags)


def annotated_split(
    name: str,
    table: Mapping[str, Annotation],
    class_names: Sequence[str],
    images: TreeImages,
    report: Report,
    open_mask: Callable[[Example], np.ndarray] | None = None,
) -> Split:
    """A split of a table of image → annotation; labels are positions in `class_names`.

    The labels of an image are the categories of its objects and those of the image as a whole; an image may
    have several, or none.
    """
    refuse_fractions(table.values(), next((one.where for one in table.values() if one.objects), name))
    classes = {category: label for label, category in enumerate(class_names)}
    turns = turns_of(table, images.tree, report)
    examples = []
    for file, annotation in table.items():
        with skipping(report, file):
            turn = turns.get(file, UPRIGHT)
            examples.append(annotation.example(file, -1, images.tree, report, turn=turn, classes=classes))
    return Split(name, examples, class_names, images, open_mask)
