"""Compressed tar archives, decompressed once into one .tar file, within limits."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import zlib
from pathlib import Path
from typing import IO, cast

from heatbox._utils.io import named_when_whole
from heatbox.errors import InputError

COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
MAX_RATIO = 200  # decompressed size over compressed size
UNPACKED = ".heatbox.tar"


def decompressed(path: Path) -> Path:
    """The .tar inside a compressed one: made once, beside it or in the user's cache folder, then reused.

    Raises:
        InputError: damaged, larger than `MAX_RATIO` times the archive, or no room for it.
    """
    suffix = next(s for s in sorted(COMPRESSED, key=len, reverse=True) if path.name.lower().endswith(s))
    name = path.name[: -len(suffix)] + UNPACKED
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heatbox"
    made = path.stat().st_mtime_ns
    places = [path.with_name(name), cache / f"{zlib.crc32(str(path.resolve()).encode()):08x}-{name}"]
    for place in places:
        if place.is_file() and place.stat().st_mtime_ns == made:
            return place
    target = places[0] if os.access(path.resolve().parent, os.W_OK) else places[1]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with named_when_whole(target) as temporary:
            with _opened(path, suffix) as source, temporary.open("wb") as file:
                _copy(source, file, max(path.stat().st_size, 2**16) * MAX_RATIO, path)
            os.utime(temporary, ns=(made, made))
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise InputError(f"{path}: cannot be decompressed into {target.parent} ({error})") from error
    return target


def _copy(source: IO[bytes], target: IO[bytes], limit: int, path: Path) -> None:
    limit = min(limit, shutil.disk_usage(Path(target.name).parent).free)
    written = 0
    while block := source.read(2**20):
        written += len(block)
        if written > limit:
            raise InputError(f"{path}: unpacks to more than {limit} bytes, which is not safe or has no room")
        target.write(block)


def _opened(path: Path, suffix: str) -> IO[bytes]:
    if suffix.endswith("bz2"):
        return cast(IO[bytes], bz2.open(path))
    return cast(IO[bytes], lzma.open(path) if suffix.endswith("xz") else gzip.open(path))
