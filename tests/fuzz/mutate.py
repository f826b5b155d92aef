"""Damage to files: bytes, lines, words, numbers and structure; every choice comes from one generator."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any
from xml.etree import ElementTree

Case = dict[str, bytes]
"""The files of one input by name."""

NUMBERS = (
    *(b"0", b"-0", b"-1", b"1", b"255", b"256", b"65536", b"2147483647", b"2147483648", b"-2147483649"),
    *(b"9223372036854775808", b"18446744073709551616", b"9" * 400, b"1e308", b"1e999", b"-1e999", b"nan"),
    *(
        b"inf",
        b"-inf",
        b"0.1",
        b"1e-320",
        b"3.0",
        b"0x10",
        b"1_0",
        b"\xc2\xb94",
        b"\xd9\xa3",
        b"1e5",
        b"-7.5",
    ),
)
WORDS = (
    *(b"", b" ", b"\0", b"\t", b"\n", b"\r", b"\r\n", b",", b";", b'"', b"'", b"\\", b"/", b"..", b"../x"),
    *(b"/etc/passwd", b"C:\\x", b"<", b">", b"&amp;", b"&x;", b"{", b"}", b"[", b"]", b"[]", b"{}", b"null"),
    *(b"true", b"None", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"%s"),
    *(b"\x1b[31m", b"\xe2\x80\xae", b"a" * 3000, b"<!DOCTYPE x>", b"<![CDATA[", b".", b"-", b"~", b"$HOME"),
)
_WORD = re.compile(rb"[\w.+-]+|[^\w\s]|\s+")
_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def damaged(case: Case, others: Sequence[Case], random: Random, names: Sequence[str] | None = None) -> Case:
    """A case with one to four mutations of some of its files.

    Args:
        case: the valid files.
        others: valid files to splice with.
        random: where every choice comes from.
        names: files that may be damaged; all of them by default.
    """
    case = dict(case)
    chosen = list(case) if names is None else [name for name in names if name in case]
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        name = random.choice(chosen)
        if random.random() < 0.08:
            other = random.choice(others)
            case[name] = spliced(case[name], other[random.choice(list(other))], random)
        else:
            case[name] = mutated(name, case[name], random)
    return case


def mutated(name: str, data: bytes, random: Random) -> bytes:
    """One mutation of one file, as its suffix or its content allows."""
    aware = [change for suffix, change in AWARE.items() if name.endswith(suffix)]
    if aware and random.random() < 0.6:
        found = aware[0](data, random)
        if found is not None:
            return found
    textual = b"\0" not in data[:4000]
    return random.choice(TEXTUAL if textual and random.random() < 0.8 else BINARY)(data, random)


# ---------------------------------------------------------------------------------------------- any bytes


def flipped(data: bytes, random: Random) -> bytes:
    """Some bits are turned over."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        if out:
            out[random.randrange(len(out))] ^= 1 << random.randrange(8)
    return bytes(out)


def overwritten(data: bytes, random: Random) -> bytes:
    """A number of 1 to 8 bytes at its extremes, of either byte order."""
    size = random.choice((1, 2, 4, 8))
    value = random.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1, 127))
    at = random.randrange(len(data) + 1)
    return data[:at] + value.to_bytes(size, random.choice(("little", "big"))) + data[at + size :]


def cut(data: bytes, random: Random) -> bytes:
    """The end is missing."""
    return data[: random.randrange(len(data) + 1)]


def removed(data: bytes, random: Random) -> bytes:
    """A piece is missing."""
    start, stop = _span(data, random)
    return data[:start] + data[stop:]


def repeated(data: bytes, random: Random) -> bytes:
    """A piece comes several times."""
    start, stop = _span(data, random)
    return data[:stop] + data[start:stop] * random.choice((1, 1, 2, 20)) + data[stop:]


def inserted(data: bytes, random: Random) -> bytes:
    """Noise in between."""
    at = random.randrange(len(data) + 1)
    return data[:at] + random.randbytes(random.choice((1, 2, 4, 32))) + data[at:]


def moved(data: bytes, random: Random) -> bytes:
    """A piece stands elsewhere."""
    start, stop = _span(data, random)
    rest = data[:start] + data[stop:]
    at = random.randrange(len(rest) + 1)
    return rest[:at] + data[start:stop] + rest[at:]


def spliced(data: bytes, other: bytes, random: Random) -> bytes:
    """The beginning of one file and the end of another."""
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def _span(data: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.choice((1, 2, 4, 16, 64, 400)))


# ---------------------------------------------------------------------------------------------- text


def lines_changed(data: bytes, random: Random) -> bytes:
    """Lines twice, exchanged, missing, joined, or in any order."""
    lines = data.split(b"\n")
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    kind = random.randrange(6)
    if kind == 0:
        lines.insert(other, lines[at])
    elif kind == 1:
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 2:
        del lines[at]
    elif kind == 3:
        lines[at : at + 2] = [b"".join(lines[at : at + 2])]
    elif kind == 4:
        random.shuffle(lines)
    else:
        lines[at] = random.choice(WORDS)
    return b"\n".join(lines)


def words_changed(data: bytes, random: Random) -> bytes:
    """A word replaced, doubled, missing, exchanged with another, or with noise before it."""
    words = _WORD.findall(data)
    if not words:
        return random.choice(WORDS)
    at, other = random.randrange(len(words)), random.randrange(len(words))
    kind = random.randrange(6)
    if kind <= 1:
        words[at] = random.choice(WORDS)
    elif kind == 2:
        words[at] = words[at] * 2
    elif kind == 3:
        del words[at]
    elif kind == 4:
        words[at], words[other] = words[other], words[at]
    else:
        words.insert(at, random.choice(WORDS))
    return b"".join(words)


def numbers_changed(data: bytes, random: Random) -> bytes:
    """A number replaced by an awkward one."""
    found = list(_NUMBER.finditer(data))
    if not found:
        return words_changed(data, random)
    span = random.choice(found).span()
    return data[: span[0]] + random.choice(NUMBERS) + data[span[1] :]


def encoded(data: bytes, random: Random) -> bytes:
    """Another encoding, or other ends of lines."""
    text = data.decode("latin-1")
    return random.choice(
        (
            lambda: text.encode("utf-16"),
            lambda: text.encode("utf-16-be"),
            lambda: text.encode("utf-8-sig"),
            lambda: data.replace(b"\n", b"\r\n"),
            lambda: data.replace(b"\n", b"\r"),
            lambda: data.upper(),
        )
    )()


# ------------------------------------------------------------------------------------------- structure


def json_changed(data: bytes, random: Random) -> bytes | None:
    """A value of a JSON document replaced, missing, twice, nested, or under another key."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return json.dumps(value_changed(content, random)).encode("utf-8", "surrogatepass")


def value_changed(content: Any, random: Random) -> Any:
    """One place in nested dictionaries and lists changed; `content` itself may be replaced."""
    holder: Any = [content]
    root, key = holder, 0
    depth = random.choice((0, 1, 2, 3, 4, 5, 6))
    for _ in range(depth):
        inside = holder[key]
        if isinstance(inside, dict) and inside:
            holder, key = inside, random.choice(list(inside))
        elif isinstance(inside, list) and inside:
            holder, key = inside, random.randrange(len(inside))
        else:
            break
    _change(holder, key, random)
    return root[0] if root else None


def _change(holder: Any, key: Any, random: Random) -> None:
    kind = random.randrange(8)
    if kind == 0 and holder[key] is not None:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[random.choice((str(key) + "x", "", "id", "a/b", "\0", "__class__"))] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif kind == 3:
        holder[key] = [holder[key]]
    elif kind == 4:
        holder[key] = {"x": holder[key]}
    elif kind == 5:
        other = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[key] = holder[other]
    else:
        holder[key] = any_value(random)


def any_value(random: Random) -> Any:
    """A value of any kind that JSON has, and some that it should not have."""
    nested: Any = []
    for _ in range(random.choice((0, 3, 900))):
        nested = [nested]
    return random.choice(
        (
            *(
                None,
                True,
                False,
                0,
                -1,
                1,
                10**30,
                -(10**400),
                0.5,
                1e308,
                float("nan"),
                float("inf"),
                "",
                "x",
            ),
            *(
                "0",
                "\0",
                "\ud800",
                "<script>",
                "../x",
                "/x",
                "a\nb",
                "x" * 5000,
                [],
                {},
                [1, 2],
                [None],
                nested,
            ),
            *({"value": 1}, {"id": 1}, [[1, 2], [3]], ["a", 1], "nan", 1000, 65536, 2**31, 2**63),
        )
    )


def xml_changed(data: bytes, random: Random) -> bytes | None:
    """An element of an XML document missing, twice, renamed, or with another text."""
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    above = [(parent, child) for parent in root.iter() for child in parent]
    if not above:
        return None
    parent, child = random.choice(above)
    kind = random.randrange(5)
    if kind == 0:
        parent.remove(child)
    elif kind == 1:
        parent.append(child)
    elif kind == 2:
        child.tag = random.choice(above)[1].tag
    elif kind == 3:
        child.text = random.choice((*NUMBERS, b"", b"x", b"n01440764")).decode()
    else:
        child.insert(0, ElementTree.fromstring("<object><bndbox/></object>"))
    return ElementTree.tostring(root)


def png_changed(data: bytes, random: Random) -> bytes | None:
    """The content of a PNG's chunk damaged and its checksum made right again."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    chunks, at = [], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:  # a file that an earlier mutation has cut
        return None
    place = random.randrange(len(chunks))
    kind, content = chunks[place]
    if random.random() < 0.2:
        chunks.insert(random.randrange(len(chunks)), (kind, content))
    elif kind == b"IDAT" and random.random() < 0.5:
        try:
            content = zlib.compress(random.choice(BINARY)(zlib.decompress(content), random))
        except zlib.error:
            content = random.choice(BINARY)(content, random)
        chunks[place] = kind, content
    else:
        chunks[place] = kind, random.choice(BINARY)(content, random)
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return data[:8] + b"".join(parts)


def zip_changed(data: bytes, random: Random) -> bytes | None:
    """A member of a zip archive damaged, missing or renamed, the archive whole."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = [(info.filename, file.read(info)) for info in file.infolist()]
    except Exception:
        return None
    if not members:
        return None
    place = random.randrange(len(members))
    name, content = members[place]
    kind = random.randrange(8)
    if kind == 0:
        del members[place]
    elif kind == 1:
        members[place] = name + random.choice(("x", "/", "\0", "/../y")), content
    else:
        members[place] = name, mutated(name, content, random)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in members:
            file.writestr(zipfile.ZipInfo(name.replace("\0", "_") or "_"), content)  # of no date of its own
    return out.getvalue()


def header_changed(data: bytes, random: Random) -> bytes | None:
    """The JSON header of a safetensors file changed, its length made right again."""
    if len(data) < 8:
        return None
    size = int.from_bytes(data[:8], "little")
    header = (json_changed if random.random() < 0.7 else words_changed)(data[8 : 8 + size], random)
    if header is None:
        return None
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


Change = Callable[[bytes, Random], bytes]
BINARY: tuple[Change, ...] = (flipped, flipped, overwritten, cut, removed, repeated, inserted, moved)
TEXTUAL: tuple[Change, ...] = (
    lines_changed,
    words_changed,
    words_changed,
    numbers_changed,
    numbers_changed,
    encoded,
)
AWARE: dict[str, Callable[[bytes, Random], bytes | None]] = {
    ".json": json_changed,
    ".xml": xml_changed,
    ".png": png_changed,
    ".zip": zip_changed,
    ".pth": zip_changed,
    ".pt": zip_changed,
    ".safetensors": header_changed,
}
