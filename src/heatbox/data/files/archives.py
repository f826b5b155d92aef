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
import stat
import struct
import tarfile
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from heatbox._utils.checks import kind_of
from heatbox._utils.io import named_when_whole
from heatbox.data.files.trees import FolderTree, Tree, UnionTree
from heatbox.errors import InputError

MAX_MEMBER = 2**30  # bytes of one file read from an archive
MAX_RATIO = 200  # decompressed size over compressed size
UNPACKED = ".heatbox.tar"  # suffix of the decompressed copy of an archive
_COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
ARCHIVES = (".tar", ".zip", *_COMPRESSED)


Member = TypeVar("Member")


class _ArchiveTree(Tree, Generic[Member]):
    """The common part of tar and zip: a table of members, built once."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)
        try:
            self._members = {name: member for full, member in self._list() if (name := _safe(full))}
        except Exception as error:  # a damaged header can make the reader raise anything
            raise InputError(f"{path}: the archive is damaged ({error})") from error
        self._files: dict[str, set[str]] = {"": set()}
        self._folders: dict[str, set[str]] = {"": set()}
        for name in self._members:
            parts = PurePosixPath(name).parts
            above = ["/".join(parts[:depth]) for depth in range(len(parts))]
            for folder, child in zip(above[:-1], parts[:-1], strict=True):
                self._folders.setdefault(folder, set()).add(child)
            self._files.setdefault(above[-1], set()).add(parts[-1])

    @abstractmethod
    def _list(self) -> Iterator[tuple[str, Member]]:
        """Names and entries of the regular files."""

    @abstractmethod
    def _content(self, name: str, member: Member) -> bytes:
        """The content of a member."""

    def files(self, folder: str = "") -> list[str]:
        return sorted(self._files.get(folder, ()))

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly in a folder; hidden ones and macOS's are left out."""
        return sorted(n for n in self._folders.get(folder, ()) if n[0] != "." and n != "__MACOSX")

    def has(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> bytes:
        if name not in self._members:
            raise InputError(f"{self.path}: has no member {name!r}")
        return self._content(name, self._members[name])

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


class _TarTree(_ArchiveTree[tuple[int, int]]):
    """An uncompressed tar archive; members are offset and size."""

    def _list(self) -> Iterator[tuple[str, tuple[int, int]]]:
        with tarfile.open(self.path, "r:") as tar:
            for entry in tar:
                if entry.isreg() and not entry.issparse():
                    yield entry.name, (entry.offset_data, entry.size)

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a member."""
        start, size = self._members.get(name, (0, 0))
        return self._bytes(start, min(size, count), name) if name in self._members else self.read(name)

    def _content(self, name: str, member: tuple[int, int]) -> bytes:
        return self._bytes(*member, name)


class _ZipTree(_ArchiveTree[zipfile.ZipInfo]):
    """A zip archive, stored or deflated."""

    def _list(self) -> Iterator[tuple[str, zipfile.ZipInfo]]:
        with zipfile.ZipFile(self.path) as file:
            for info in file.infolist():
                if not info.filename.endswith("/") and not stat.S_ISLNK(info.external_attr >> 16):
                    yield info.filename, info

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a member, whose checksum is not verified."""
        member = self._members.get(name)
        if member is None or member.compress_type != zipfile.ZIP_STORED:
            return self.read(name)[:count]
        return self._packed(name, member, count)

    def _packed(self, name: str, member: zipfile.ZipInfo, count: int) -> bytes:
        """The first bytes of a member as they are stored."""
        where, size = self.describe(name), member.file_size
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{where}: is encrypted or compressed with an unsupported method")
        if size > MAX_MEMBER or size > MAX_RATIO * max(member.compress_size, 2**16):
            raise InputError(f"{where}: decompresses to {size} bytes, which is not safe")
        start = member.header_offset + 30
        header = self._bytes(member.header_offset, 30, name)  # two lengths at its end, APPNOTE 4.3.7
        if header[:4] != b"PK\x03\x04":
            raise InputError(f"{where}: the archive is damaged (no member at its offset)")
        start += sum(struct.unpack("<HH", header[26:]))
        return self._bytes(start, min(member.compress_size, count), name)

    def _content(self, name: str, member: zipfile.ZipInfo) -> bytes:
        where, size = self.describe(name), member.file_size
        data = self._packed(name, member, member.compress_size)
        if member.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-15).decompress(data, size + 1)
            except zlib.error as error:
                raise InputError(f"{where}: the archive is damaged ({error})") from error
        if len(data) != size or zlib.crc32(data) != member.CRC:
            raise InputError(f"{where}: the archive is damaged (wrong checksum)")
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
    name = path.name.lower()
    if not path.is_file() or not name.endswith(ARCHIVES):
        raise InputError(f"{path}: expected a folder or a .tar archive (or {', '.join(ARCHIVES[1:])})")
    if name.endswith(".zip"):
        return _ZipTree(path)
    return _TarTree(path if name.endswith(".tar") else _decompress(path))


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


def _decompress(path: Path) -> Path:
    """The .tar of a compressed one, decompressed once, beside it or in the cache folder, and reused."""
    suffix = next(suffix for suffix in _COMPRESSED if path.name.lower().endswith(suffix))
    name = path.name[: -len(suffix)] + UNPACKED
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heatbox"
    made = path.stat().st_mtime_ns
    places = [path.with_name(name), cache / f"{zlib.crc32(str(path.resolve()).encode()):08x}-{name}"]
    for place in places:
        if place.is_file() and place.stat().st_mtime_ns == made:
            return place
    target = places[0] if os.access(path.resolve().parent, os.W_OK) else places[1]
    target.parent.mkdir(parents=True, exist_ok=True)
    library: Any = bz2 if suffix.endswith("bz2") else lzma if suffix.endswith("xz") else gzip
    try:
        with named_when_whole(target) as temporary:
            with library.open(path) as source, temporary.open("wb") as file:
                limit = max(path.stat().st_size, 2**16) * MAX_RATIO
                limit = min(limit, shutil.disk_usage(target.parent).free)
                while block := source.read(2**20):
                    if file.tell() + len(block) > limit:
                        what = f"decompresses to more than {limit} bytes, which is not safe or does not fit"
                        raise InputError(f"{path}: {what}")
                    file.write(block)
            os.utime(temporary, ns=(made, made))
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise InputError(f"{path}: cannot be decompressed into {target.parent} ({error})") from error
    return target
