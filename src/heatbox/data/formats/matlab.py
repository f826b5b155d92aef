"""An array of structures out of a MATLAB file of version 5, as ImageNet's development kit has it.

Follows MathWorks' description of the format (MAT-File Format, "Level 5 MAT-File Format"). Fields that hold
text or numbers are read, all others are None. Nothing that a damaged file says is taken on trust.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

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
