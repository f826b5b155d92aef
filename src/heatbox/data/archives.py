"""Files of a data set, wherever they lie: a folder, a .tar, a .zip, a compressed .tar, or several of them.

Nothing is ever extracted under a name that an archive chose: members are read in place, only regular files
are seen, and names that are absolute or climb with ".." are left out. A compressed tar, which cannot be read
at random, is decompressed once.
"""

from __future__ import annotations

import os
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from heatbox.data.decompress import COMPRESSED, MAX_RATIO, UNPACKED, decompressed
from heatbox.errors import InputError

MAX_MEMBER = 2**30  # bytes of one file read from an archive
_TAR, _ZIP = (".tar",), (".zip",)
ARCHIVES = (*_TAR, *_ZIP, *COMPRESSED)


class Tree(ABC):
    """A read-only tree of files; names are relative, with forward slashes, "" is the root.

    Safe to use from several threads and forked processes: no open file is kept.
    """

    where: str

    @abstractmethod
    def files(self, folder: str = "") -> list[str]:
        """Names of the files directly in a folder, sorted; none where there is no such folder."""

    @abstractmethod
    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly in a folder, sorted."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            InputError: there is no such file, it leads out of the tree, or it cannot be read.
        """

    def source(self, name: str) -> bytes | Path:
        """What an image decoder is given: a path where there is one, else the content."""
        return self.read(name)

    def describe(self, name: str) -> str:
        """A file as messages call it."""
        return f"{self.where}:{name}"

    def walk(self, folder: str = "") -> Iterator[str]:
        """Names of all files below a folder, relative to the root, in sorted order."""
        above = f"{folder}/" if folder else ""
        for name in self.files(folder):
            yield above + name
        for name in self.folders(folder):
            yield from self.walk(above + name)


class FolderTree(Tree):
    """A folder on disk. Links that lead out of it are refused when they are read."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.where = str(root)

    def files(self, folder: str = "") -> list[str]:
        """Names of the files directly in a folder."""
        return self._entries(folder, os.DirEntry.is_file)

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly in a folder; hidden ones and links out of the tree are left out."""
        return [
            name
            for name in self._entries(folder, os.DirEntry.is_dir)
            if not name.startswith(".") and self._inside(self.root / folder / name)
        ]

    def _entries(self, folder: str, kind: Callable[[os.DirEntry[str]], bool]) -> list[str]:
        try:
            with os.scandir(self.root / folder) as entries:
                return sorted(entry.name for entry in entries if kind(entry))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise InputError(f"{self.root / folder}: cannot be listed ({error.strerror})") from error

    def _inside(self, path: Path) -> bool:
        return not path.is_symlink() or path.resolve().is_relative_to(self.root)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        try:
            return (self.root / name).is_file()
        except (OSError, ValueError):
            return False

    def source(self, name: str) -> Path:
        """The path of a file, which is inside the folder."""
        try:
            path = (self.root / name).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"{name!r}: no file can have this name ({error})") from error
        if not path.is_relative_to(self.root):
            raise InputError(f"{name!r}: the image id leads out of {self.root}")
        return path

    def read(self, name: str) -> bytes:
        """The content of a file."""
        path = self.source(name)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error

    def describe(self, name: str) -> str:
        """The path of a file."""
        return str(self.root / name)


class _ArchiveTree(Tree):
    """What tar and zip have in common: a table of members, made once."""

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
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
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
                    if not info.is_dir() and not _is_link(info) and (name := _safe(info.filename))
                }
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"{path}: the archive is damaged ({error})") from error
        super().__init__(path, self._members)

    def read(self, name: str) -> bytes:
        """The content of a member, its checksum verified."""
        info = self._members.get(name)
        if info is None:
            raise InputError(f"{self.path}: has no member {name!r}")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{self.describe(name)}: is encrypted or compressed in a way that is not read")
        if info.file_size > MAX_MEMBER or info.file_size > MAX_RATIO * max(info.compress_size, 2**16):
            raise InputError(f"{self.describe(name)}: unpacks to {info.file_size} bytes, which is not safe")
        header = self._bytes(
            info.header_offset, 30, name
        )  # local header: two lengths at its end, APPNOTE 4.3.7
        if header[:4] != b"PK\x03\x04":
            raise InputError(f"{self.describe(name)}: the archive is damaged (no member where one should be)")
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


class UnionTree(Tree):
    """Several trees laid over each other; of equal names the first tree's counts."""

    def __init__(self, where: str, trees: Iterable[Tree]) -> None:
        self.where, self.trees = where, tuple(trees)

    def files(self, folder: str = "") -> list[str]:
        """Names of the files directly in a folder of any of the trees."""
        return sorted({name for tree in self.trees for name in tree.files(folder)})

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly in a folder of any of the trees."""
        return sorted({name for tree in self.trees for name in tree.folders(folder)})

    def _holder(self, name: str) -> Tree:
        return next((tree for tree in self.trees if tree.has(name)), self.trees[0])

    def has(self, name: str) -> bool:
        """Whether there is a file of this name in any of the trees."""
        return self._holder(name).has(name)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return self._holder(name).read(name)

    def source(self, name: str) -> bytes | Path:
        """What an image decoder is given."""
        return self._holder(name).source(name)

    def describe(self, name: str) -> str:
        """A file as messages call it."""
        return self._holder(name).describe(name)


class SubTree(Tree):
    """A folder of another tree."""

    def __init__(self, tree: Tree, folder: str) -> None:
        self.tree, self.prefix = tree, folder.strip("/") + "/"
        self.where = tree.describe(folder)

    def files(self, folder: str = "") -> list[str]:
        """Names of the files directly in a folder."""
        return self.tree.files((self.prefix + folder).rstrip("/"))

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly in a folder."""
        return self.tree.folders((self.prefix + folder).rstrip("/"))

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self.tree.has(self.prefix + name)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return self.tree.read(self.prefix + name)

    def source(self, name: str) -> bytes | Path:
        """What an image decoder is given."""
        return self.tree.source(self.prefix + name)

    def describe(self, name: str) -> str:
        """A file as messages call it."""
        return self.tree.describe(self.prefix + name)


def below(tree: Tree, folder: str) -> Tree:
    """The tree seen from one of its folders."""
    return SubTree(tree, folder) if folder else tree


def open_tree(path: str | Path) -> Tree:
    """A folder or an archive as a tree.

    Raises:
        InputError: neither a folder nor an archive, a damaged archive, or one that unpacks to more than
            `MAX_RATIO` times its size.
    """
    path = Path(path)
    if path.is_dir():
        return FolderTree(path)
    if path.is_file() and path.name.lower().endswith(_ZIP):
        return ZipTree(path)
    if path.is_file() and path.name.lower().endswith(COMPRESSED):
        return TarTree(decompressed(path))
    if path.is_file() and path.name.lower().endswith(_TAR):
        return TarTree(path)
    raise InputError(f"{path}: expected a folder or a .tar archive (or {', '.join(ARCHIVES[1:])})")


def with_archives(folder: FolderTree) -> Tree | None:
    """A folder together with what its archives hold; None where it has no archive."""
    names = [n for n in folder.files() if n.lower().endswith(ARCHIVES) and not n.endswith(UNPACKED)]
    if not names:
        return None
    return UnionTree(folder.where, [folder, *(open_tree(folder.root / name) for name in names)])


def _safe(name: str) -> str:
    """A member's name without "./", or "" where it is absolute or climbs out."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        return ""
    return "/".join(parts)


def _is_link(info: zipfile.ZipInfo) -> bool:
    return (info.external_attr >> 16) & 0o170000 == 0o120000


def find_folders(tree: Tree, holds: Callable[[Tree], bool], depth: int = 3) -> Iterator[str]:
    """Folders for which `holds` is true, the outermost first, not looked for among hundreds of class folders.

    Args:
        tree: where to look.
        holds: is given the tree seen from a folder.
        depth: how deep below the root.
    """
    level = [""]
    for _ in range(depth + 1):
        yield from (folder for folder in level if holds(below(tree, folder)))
        inner = ((folder, tree.folders(folder)) for folder in level)
        level = [f"{f}/{name}".lstrip("/") for f, names in inner if len(names) <= 12 for name in names]
