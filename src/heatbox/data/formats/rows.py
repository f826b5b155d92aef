"""Text tables as they are found in the wild: numbered rows, checked boxes, and what to do with bad ones.

Windows line ends, byte order marks (UTF-8 and UTF-16), blank lines and tabs for spaces are read, because what
they mean is certain. What is not is handed, in one sentence with file and row, to a `Complain` function.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NoReturn, TypeVar

from heatbox.data.files.trees import Tree
from heatbox.errors import InputError

Complain = Callable[[str], None]
Number = TypeVar("Number", int, float)
Box = list[float]


def refuse(problem: str) -> NoReturn:
    """The default `Complain`: the first problem ends the reading."""
    raise InputError(problem)


@dataclass(frozen=True, slots=True)
class Row:
    """One line that is not blank.

    Attributes:
        where: file and row number, as messages call them.
        text: the line without its end and without spaces around it.
    """

    where: str
    text: str


def decode_text(data: bytes, where: str) -> str:
    """Text of a file in UTF-8, or in UTF-16 with its mark.

    Raises:
        InputError: other encodings, named by the row in which they show.
    """
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise InputError(f"{where}, row {row}: is not UTF-8 text ({error.reason})") from error


def rows(tree: Tree, name: str) -> Iterator[Row]:
    """Rows of a text file; see `text_rows`."""
    where = tree.describe(name)
    return text_rows(decode_text(tree.read(name), where), where)


def text_rows(text: str, where: str) -> Iterator[Row]:
    """Rows that are not blank, numbered from 1 as an editor would."""
    # Not splitlines(), which also breaks lines at characters that names may hold.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield Row(f"{where}, row {number}", line.strip())


def numbers(row: Row, texts: Sequence[str], form: str, complain: Complain) -> list[float] | None:
    """Finite numbers of some fields, or None after complaining."""
    try:
        found = [float(text) for text in texts]
    except ValueError:
        complain(f"{row.where}: {row.text!r} is not of the form {form}")
        return None
    if not all(map(math.isfinite, found)):
        complain(f"{row.where}: {row.text!r} holds a number that is not finite")
        return None
    return found


def whole(row: Row, text: str, form: str, complain: Complain) -> int | None:
    """One integer, which may be written as 3 or 3.0, or None after complaining."""
    try:
        value = float(text)
        if value != int(value):
            raise ValueError
    except (ValueError, OverflowError):
        complain(f"{row.where}: {row.text!r} is not of the form {form}")
        return None
    return int(value)


def id_table(tree: Tree, name: str, complain: Complain, form: str) -> dict[int, tuple[Row, str]]:
    """``number rest`` rows, separated by spaces or tabs, by number; rows repeated word for word are one."""
    table: dict[int, tuple[Row, str]] = {}
    for row in rows(tree, name):
        first, *rest = row.text.split(maxsplit=1)
        number = whole(row, first, form, complain)
        if number is None or not rest:
            if number is not None:
                complain(f"{row.where}: {row.text!r} is not of the form {form}")
        elif number in table and table[number][1].split() != rest[0].split():
            complain(f"{row.where}: id {number} has another row, and they differ: {table[number][0].where}")
        else:
            table[number] = row, rest[0]
    return table


def safe_id(name: str) -> bool:
    """Whether an image id is a relative path that stays below its folder."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts)


def checked_box(
    box: Sequence[float], size: tuple[int, int], where: str, complain: Complain, slack: float = 0
) -> Box | None:
    """An xyxy box that is ordered and inside its image, or None after complaining.

    Args:
        box: x1, y1, x2, y2 in pixels.
        size: (width, height) of its image.
        where: file and row, for the message.
        complain: is told what is wrong.
        slack: pixels by which the makers' convention may overshoot; such boxes are clipped.
    """
    x1, y1, x2, y2 = box
    width, height = size
    if not all(map(math.isfinite, box)):
        complain(f"{where}: box {_show(box)} is not finite")
        return None
    if x2 < x1 or y2 < y1:
        complain(f"{where}: box {_show(box)} has x2 < x1 or y2 < y1")
        return None
    if min(x1, y1) < -slack or x2 > width + slack or y2 > height + slack:
        complain(f"{where}: box {_show(box)} lies outside its {width} x {height} image")
        return None
    return [max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)]


def _show(box: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"
