"""Archives as trees of files: .tar, .zip, compressed .tar, or the archives in a folder together with it.

Nothing is extracted under a name from an archive: members are read in place, only regular files are listed,
and names that are absolute or contain ".." are skipped. A compressed tar, which has no random access, is
decompressed once.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO, cast

from heatbox._utils.checks import kind_of
from heatbox._utils.io import named_when_whole
from heatbox.data.files.trees import FolderTree, Tree, UnionTree
from heatbox.errors import InputError

MAX_MEMBER = 2**30  # bytes of one file read from an archive
MAX_RATIO = 200  # decompressed size over compressed size
UNPACKED = ".heatbox.tar"  # suffix of the decompressed copy of an archive
_TAR, _ZIP, _COMPRESSED = (".tar",), (".zip",), (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
ARCHIVES = (*_TAR, *_ZIP, *_COMPRESSED)


class _ArchiveTree(Tree):
    """The common part of tar and zip: a table of members, built once."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self.path, self.where = path, str(path)
        self._files: dict[str, set[str]] = {"": set()}
        self._folders: dict[str, set[str]] = {"": set()}
        for name in names:
            parts = PurePosixPath(name).parts
            above = ["/".join(parts[:depth]) for depth in range(len(parts))]
            for folder, child in zip(above[:-1], parts[:-1], strict=True):
                self._folders.setdefault(folder, set()).add(child)
            self._files.setdefault(above[-1], set()).add(parts[-1])

    def files(self, folder: str = "") -> list[str]:
        """Names of the members directly in a folder."""
        return sorted(self._files.get(folder, ()))

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly in a folder."""
        return sorted(self._folders.get(folder, ()))

    def has(self, name: str) -> bool:
        """Whether there is a member of this name."""
        folder, _, last = name.rpartition("/")
        return last in self._files.get(folder, ())

    def _bytes(self, start: int, count: int, name: str) -> bytes:
        if count > MAX_MEMBER:
            raise InputError(f"{self.describe(name)}: is larger than {MAX_MEMBER} bytes")
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                data = file.read(count)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error
        if len(data) != count:
            raise InputError(f"{self.path}: ends inside member {name!r}")
        return data


class TarTree(_ArchiveTree):
    """An uncompressed tar archive."""

    def __init__(self, path: Path) -> None:
        try:
            with tarfile.open(path, "r:") as tar:
                self._spans = {
                    name: (m.offset_data, m.size)
                    for m in tar
                    if m.isreg() and not m.issparse() and (name := _safe(m.name))
                }
        except Exception as error:  # a damaged header can make the reader raise anything
            raise InputError(f"{path}: the archive is damaged ({error})") from error
        super().__init__(path, self._spans)

    def read(self, name: str) -> bytes:
        """The content of a member."""
        if name not in self._spans:
            raise InputError(f"{self.path}: has no member {name!r}")
        return self._bytes(*self._spans[name], name)


class ZipTree(_ArchiveTree):
    """A zip archive, stored or deflated."""

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as file:
                self._members = {
                    name: info
                    for info in file.infolist()
                    if not info.filename.endswith("/")
                    and not _is_link(info)
                    and (name := _safe(info.filename))
                }
        except Exception as error:  # a damaged table of members can make the reader raise anything
            raise InputError(f"{path}: the archive is damaged ({error})") from error
        super().__init__(path, self._members)

    def read(self, name: str) -> bytes:
        """The content of a member, its checksum verified."""
        info = self._members.get(name)
        if info is None:
            raise InputError(f"{self.path}: has no member {name!r}")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{self.describe(name)}: is encrypted or compressed with an unsupported method")
        if info.file_size > MAX_MEMBER or info.file_size > MAX_RATIO * max(info.compress_size, 2**16):
            raise InputError(
                f"{self.describe(name)}: decompresses to {info.file_size} bytes, which is not safe"
            )
        header = self._bytes(
            info.header_offset, 30, name
        )  # local header: two lengths at its end, APPNOTE 4.3.7
        if header[:4] != b"PK\x03\x04":
            raise InputError(f"{self.describe(name)}: the archive is damaged (no member at its offset)")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        data = self._bytes(start, info.compress_size, name)
        if info.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-15).decompress(data, info.file_size + 1)
            except zlib.error as error:
                raise InputError(f"{self.describe(name)}: the archive is damaged ({error})") from error
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise InputError(f"{self.describe(name)}: the archive is damaged (wrong checksum)")
        return data


def open_tree(path: str | Path) -> Tree:
    """A folder or an archive as a tree.

    Raises:
        InputError: neither a folder nor an archive, a damaged archive, or one that decompresses to more than
            `MAX_RATIO` times its size.
        TypeError: not a path.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"path: {kind_of(path)}, expected a folder or an archive")
    path = Path(path)
    if path.is_dir():
        return FolderTree(path)
    if path.is_file() and path.name.lower().endswith(_ZIP):
        return ZipTree(path)
    if path.is_file() and path.name.lower().endswith(_COMPRESSED):
        return TarTree(decompress(path))
    if path.is_file() and path.name.lower().endswith(_TAR):
        return TarTree(path)
    raise InputError(f"{path}: expected a folder or a .tar archive (or {', '.join(ARCHIVES[1:])})")


def with_archives(folder: FolderTree) -> Tree | None:
    """A folder merged with the content of its archives; None if it has no archive."""
    names = [n for n in folder.files() if n.lower().endswith(ARCHIVES) and not n.endswith(UNPACKED)]
    if not names:
        return None
    return UnionTree(folder.where, [folder, *(open_tree(folder.root / name) for name in names)])


def _safe(name: str) -> str:
    """The name of a member without "./"; "" if it is absolute or leads out of the archive."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        return ""
    return "/".join(parts)


def _is_link(info: zipfile.ZipInfo) -> bool:
    return (info.external_attr >> 16) & 0o170000 == 0o120000


def decompress(path: Path) -> Path:
    """The .tar of a compressed one, decompressed once, beside it or in the user's cache folder, and reused.

    Raises:
        InputError: a damaged archive, content of more than `MAX_RATIO` times its size, or a full disk.
    """
    suffix = next(s for s in sorted(_COMPRESSED, key=len, reverse=True) if path.name.lower().endswith(s))
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
            raise InputError(
                f"{path}: decompresses to more than {limit} bytes, which is not safe or does not fit"
            )
        target.write(block)


def _opened(path: Path, suffix: str) -> IO[bytes]:
    if suffix.endswith("bz2"):
        return cast(IO[bytes], bz2.open(path))
    return cast(IO[bytes], lzma.open(path) if suffix.endswith("xz") else gzip.open(path))
