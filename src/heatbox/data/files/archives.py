"""Archives as trees of files: .tar, .zip, compressed .tar, or the archives in a folder together with it;
also files that were named.

They are files on a disk, or at an address that fsspec opens (`heatbox.data.files.remote`). Nothing is
extracted under a name from an archive: members are read in place, only regular files are listed, and names
that are absolute or contain ".." are skipped. A compressed tar, which has no random access, is decompressed
once.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import lzma
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import IOBase
from pathlib import Path, PurePosixPath
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa

from heatbox._utils.checks import kind_of
from heatbox._utils.io import cache_folder, folder_name, named_when_whole
from heatbox.data.files.images import ImageFile, is_image
from heatbox.data.files.remote import RemoteFile, expand_braces, files_at, is_address, is_pattern, shown
from heatbox.data.files.tar_index import index_tars, tar_members
from heatbox.data.files.trees import FolderTree, NamedFiles, Tree, UnionTree, file_version, join
from heatbox.errors import InputError, UnreachableError

MAX_MEMBER = 2**30  # bytes of one file read from an archive
MAX_RATIO = 200  # decompressed size over compressed size
UNPACKED = ".heatbox.tar"  # suffix of the decompressed copy of an archive
_COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
ARCHIVES = (".tar", ".zip", *_COMPRESSED)
PARQUET = ".parquet"
_NUMBERS = ("start", "size", "width", "height", "orientation")
HALF_ADDRESS = re.compile(r"[a-z0-9+]{2,}:/[^/]")


class File(Protocol):
    """What an archive is read from: a `LocalFile` or a `RemoteFile`."""

    where: str

    @property
    def version(self) -> str:
        """What changes when the file does."""

    def read(self, start: int, count: int) -> bytes:
        """A range of bytes; fewer at the end of the file."""

    def open(self) -> IOBase:
        """The file, to read and seek."""


class LocalFile:
    """A file on disk, opened for each reading."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)

    @property
    def version(self) -> str:
        """Its size and time."""
        return file_version(self.path)

    def read(self, start: int, count: int) -> bytes:
        """A range of bytes; fewer at the end of the file."""
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(count)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error

    def open(self) -> IOBase:
        """The file, to read and seek."""
        return self.path.open("rb")


Member = TypeVar("Member")


class _MemberTree(Tree, Generic[Member]):
    """A tree of which all files are known: a table of members, built once."""

    def __init__(self, where: str, members: Iterable[tuple[str, Member]]) -> None:
        self.where = where
        self._members = {name: member for full, member in members if (name := _safe(full))}
        self._files: dict[str, set[str]] = {"": set()}
        self._folders: dict[str, set[str]] = {"": set()}
        for name in self._members:
            parts = PurePosixPath(name).parts
            above = ["/".join(parts[:depth]) for depth in range(len(parts))]
            for folder, child in zip(above[:-1], parts[:-1], strict=True):
                self._folders.setdefault(folder, set()).add(child)
            self._files.setdefault(above[-1], set()).add(parts[-1])

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
        return self._content(name, self._member(name))

    def _member(self, name: str) -> Member:
        if name not in self._members:
            raise InputError(f"{self.where}: has no member {name!r}")
        return self._members[name]


class FileTree(_MemberTree[File]):
    """Files that were named, or that are below an address."""

    def _content(self, name: str, member: File) -> bytes:
        data = member.read(0, MAX_MEMBER + 1)
        if len(data) > MAX_MEMBER:
            raise InputError(f"{member.where}: is larger than {MAX_MEMBER} bytes")
        return data

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a file."""
        return self._member(name).read(0, count)

    def open(self, name: str) -> IOBase:
        """A file, to read and seek."""
        return self._member(name).open()

    def version(self, name: str) -> str:
        """Size and time or checksum of a file."""
        return self._member(name).version

    def archives(self) -> dict[str, File]:
        """The archives among the files, by name."""
        return {name: file for name, file in self._members.items() if _is_archive(name)}

    def describe(self, name: str) -> str:
        """The path or address of a file."""
        return self._members[name].where if name in self._members else self.where


class JoinedImages(_MemberTree[ImageFile]):
    """Images of several trees under names of their own."""

    def _content(self, name: str, member: ImageFile) -> bytes:
        return member.tree.read(member.name)

    def source(self, name: str) -> bytes | Path:
        """Path or content of an image."""
        one = self._member(name)
        return one.tree.source(one.name)

    def header(self, name: str) -> tuple[tuple[int, int], int] | None:
        """Size and orientation of an image, where they are known."""
        one = self._member(name)
        return one.tree.header(one.name)

    def describe(self, name: str) -> str:
        """The name of an image in messages."""
        return str(self._members[name]) if name in self._members else self.where


class ArchiveTree(_MemberTree[Member]):
    """The common part of tar and zip.

    Attributes:
        name: path of the archive below the folder in which it was found.
    """

    def __init__(self, file: File, name: str) -> None:
        self.file, self.name = file, name
        try:
            super().__init__(file.where, self._list())
        except (InputError, UnreachableError):
            raise
        except Exception as error:  # a damaged header can make the reader raise anything
            raise InputError(f"{file.where}: the archive is damaged ({error})") from error

    @abstractmethod
    def _list(self) -> Iterator[tuple[str, Member]]:
        """Names and entries of the regular files."""

    def version(self, name: str) -> str:
        """Size and time or checksum of the archive."""
        return self.file.version

    def _bytes(self, start: int, count: int, name: str) -> bytes:
        if count > MAX_MEMBER:
            raise InputError(f"{self.describe(name)}: is larger than {MAX_MEMBER} bytes")
        data = self.file.read(start, count)
        if len(data) != count:
            raise InputError(f"{self.where}: ends inside member {name!r}")
        return data


class _TarTree(ArchiveTree[tuple[int, int]]):
    """An uncompressed tar archive; members are offset and size."""

    def _list(self) -> Iterator[tuple[str, tuple[int, int]]]:
        yield from tar_members(self.file)

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a member."""
        start, size = self._member(name)
        return self._bytes(start, min(size, count), name)

    def _content(self, name: str, member: tuple[int, int]) -> bytes:
        return self._bytes(*member, name)


class _RemoteTarTree(ArchiveTree[int]):
    """A tar archive at an address; members are rows of its index."""

    def __init__(self, file: RemoteFile, name: str, index: pa.Table) -> None:
        self._index = index
        self._numbers = {key: index[key].to_numpy() for key in _NUMBERS}
        super().__init__(file, name)

    def _list(self) -> Iterator[tuple[str, int]]:
        for row, name in enumerate(self._index["name"]):
            yield name.as_py().decode("utf-8", "surrogateescape"), row

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a member."""
        return self._first(name, self._member(name), count)

    def _content(self, name: str, member: int) -> bytes:
        return self._first(name, member, int(self._numbers["size"][member]))

    def _first(self, name: str, row: int, count: int) -> bytes:
        if (known := self._index["content"][row].as_py()) is not None:
            return known[:count]  # type: ignore[no-any-return]
        start, size = int(self._numbers["start"][row]), int(self._numbers["size"][row])
        return self._bytes(start, min(size, count), name)

    def header(self, name: str) -> tuple[tuple[int, int], int] | None:
        """Size and orientation of an image, None where they are not known or there is no such member."""
        if (row := self._members.get(name)) is None:
            return None
        width, height, orientation = (int(self._numbers[key][row]) for key in _NUMBERS[2:])
        return ((width, height), orientation) if width else None


class _ZipTree(ArchiveTree[zipfile.ZipInfo]):
    """A zip archive, stored or deflated; backslashes in names, which some tools write, are slashes."""

    def _list(self) -> Iterator[tuple[str, zipfile.ZipInfo]]:
        with self.file.open() as opened, zipfile.ZipFile(opened) as file:
            for info in file.infolist():
                name = info.filename.replace("\\", "/")
                if not name.endswith("/") and not stat.S_ISLNK(info.external_attr >> 16):
                    yield name, info

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a member, whose checksum is not verified."""
        member = self._member(name)
        if member.compress_type != zipfile.ZIP_STORED:
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
    """A folder or an archive as a tree; also several that a pattern names, and what lies at an address.

    Args:
        path: of a folder or archive; a pattern with braces or * ("shards/{000..099}.tar"); or an address that
            fsspec opens (s3://, gs://, hf://, https://), of a folder, a file or a pattern.

    Raises:
        InputError: neither a folder nor an archive, a damaged archive, or one that decompresses to more than
            `MAX_RATIO` times its size.
        TypeError: not a path.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"path: {kind_of(path)}, expected a folder or an archive")
    if isinstance(path, str):
        path = path.removeprefix("file://")
    if is_address(path):
        files = files_at(str(path))
        tree = FileTree(shown(str(path)), files.items())
        return _only_archive(tree) or tree
    text, path = str(path), Path(path)
    if path.is_dir():
        return FolderTree(path)
    if not path.exists() and is_pattern(text):
        return _named_files(text)
    name = path.name.lower()
    if path.is_file() and name.endswith(PARQUET):
        return FileTree(text, [(path.name, LocalFile(path))])
    if not path.is_file() or not name.endswith(ARCHIVES):
        hint = "; an address is given as text, with two slashes" if HALF_ADDRESS.match(text) else ""
        raise InputError(
            f"{path}: expected a folder or a .tar archive (or {', '.join([*ARCHIVES[1:], PARQUET])}){hint}"
        )
    return _open_archives({path.name: LocalFile(path)})[0]


def joined_images(images: Sequence[ImageFile]) -> tuple[Tree, list[str]]:
    """A tree that has all of some images, and their names in it.

    Those that were named by paths are below the innermost folder that contains them. Those of an archive or
    at an address keep their names, with that of their tree before it where there are several trees.
    """
    paths = {str(image): os.path.abspath(image.path) for image in images if image.path is not None}
    trees = {id(image.tree): image.tree for image in images if image.path is None}
    if not paths and len(trees) == 1:
        return images[0].tree, [image.name for image in images]
    root = os.path.commonpath([os.path.dirname(path) for path in paths.values()]) if paths else ""
    names = {name: Path(path).relative_to(root).as_posix() for name, path in paths.items()}
    if not trees:
        return NamedFiles(root), [names[str(image)] for image in images]
    folders: dict[str, int] = {}
    for number, tree in trees.items():
        first = folder_name(tree.where)
        free = (first, *(f"{first}-{again}" for again in range(2, len(trees) + 1)))
        folders[next(name for name in free if name not in folders)] = number
    before = {number: name for name, number in folders.items()}
    ids = [
        names[str(image)] if image.path is not None else join(before[id(image.tree)], image.name)
        for image in images
    ]
    places = [*(tree.where for tree in trees.values()), *([root] if paths else [])]
    places.sort(key=lambda place: not is_address(place))
    return JoinedImages(", ".join(dict.fromkeys(places)), zip(ids, images, strict=True)), ids


def _is_archive(name: str) -> bool:
    """Whether a file is an archive, and not the decompressed copy of one."""
    return name.lower().endswith(ARCHIVES) and not name.endswith(UNPACKED)


def with_archives(folder: Tree) -> UnionTree | None:
    """A folder, or named files, merged with the content of the archives; None if there is no archive.

    Archives in the subfolders of a folder count if it has neither archives itself nor images at any depth.
    """
    if isinstance(folder, FileTree):
        archives = folder.archives()
    elif isinstance(folder, FolderTree):
        names = list(filter(_is_archive, folder.files()))
        if not names and next(filter(is_image, folder.walk()), None) is None:
            names = list(filter(_is_archive, folder.walk()))
        archives = {name: LocalFile(folder.root / name) for name in names}
    else:
        return None
    return UnionTree(folder.where, [folder, *_open_archives(archives)]) if archives else None


def _only_archive(tree: FileTree) -> Tree | None:
    """The archive that an address is of."""
    archives = tree.archives()
    is_one = len(archives) == 1 and tree.where.lower().endswith(ARCHIVES) and not is_pattern(tree.where)
    return _open_archives(archives)[0] if is_one else None


def _named_files(pattern: str) -> Tree:
    """The local files that a pattern names."""
    paths = [Path(name) for one in expand_braces(pattern) for name in sorted(glob.glob(one)) or [one]]
    if missing := [path for path in paths if not path.is_file()]:
        raise InputError(f"{pattern}: {missing[0]} is no file")
    folder = os.path.commonpath([path.absolute().parent for path in paths])
    named = {path.absolute().relative_to(folder).as_posix(): LocalFile(path) for path in paths}
    return FileTree(pattern, named.items())


def _open_archives(files: Mapping[str, File]) -> list[Tree]:
    """Archives as trees, the remote tars among them by their indexes."""
    remote: dict[str, RemoteFile] = {}
    for name, file in files.items():
        if isinstance(file, RemoteFile) and not name.lower().endswith(".zip"):
            if not name.lower().endswith(".tar"):
                raise InputError(
                    f"{file.where}: a compressed archive is read from a disk only, expected .tar or .zip"
                )
            remote[name] = file
    indexes = index_tars(remote)
    return [_open_archive(name, file, indexes.get(name)) for name, file in files.items()]


def _open_archive(name: str, file: File, index: pa.Table | None) -> Tree:
    if isinstance(file, RemoteFile) and index is not None:
        return _RemoteTarTree(file, name, index)
    if name.lower().endswith(".zip"):
        return _ZipTree(file, name)
    if name.lower().endswith(".tar") or not isinstance(file, LocalFile):
        return _TarTree(file, name)
    return _TarTree(LocalFile(_decompress(file.path)), name)


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
    made = path.stat().st_mtime_ns
    places = [path.with_name(name), cache_folder() / f"{zlib.crc32(str(path.resolve()).encode()):08x}-{name}"]
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
