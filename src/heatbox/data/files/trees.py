"""Files of a data set, in a folder or in an archive: the interface of both, and the folder.

Archives are in `heatbox.data.files.archives`. Links that lead out of a folder are refused.
"""

from __future__ import annotations

import io
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from heatbox.errors import InputError

MOST_FOLDERS = 12
"""Number of folders of a folder up to which the layout of a data set is looked for in them."""
Report = Callable[[str], None]
"""Receives each problem of a data set as one sentence; what the problem concerns is then skipped."""


def raise_problem(problem: str) -> NoReturn:
    """The default `Report`: the first problem is raised."""
    raise InputError(problem)


class Tree(ABC):
    """A read-only tree of files; names are relative, with forward slashes, "" is the root.

    Safe to use from several threads and forked processes: no open file is kept.
    """

    where: str

    @abstractmethod
    def files(self, folder: str = "") -> list[str]:
        """Names of the files directly in a folder, sorted; empty if there is no such folder."""

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
        """The input of an image decoder: the path of the file if it has one, else its content."""
        return self.read(name)

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a file.

        Raises:
            InputError: as `read`.
        """
        return self.read(name)[:count]

    def open(self, name: str) -> io.IOBase:
        """A file, to read and seek; the bytes of a remote one are fetched as they are read.

        Raises:
            InputError: as `read`.
        """
        return io.BytesIO(self.read(name))

    def header(self, name: str) -> tuple[tuple[int, int], int] | None:
        """Stored (width, height) and EXIF orientation of an image; None unless known without reading it."""
        return None

    def version(self, name: str) -> str:
        """What changes with the content of a file: its size and date, those of its archive, or a checksum.

        Raises:
            InputError: as `read`.
        """
        return f"{zlib.crc32(self.read(name)):08x}"

    def describe(self, name: str) -> str:
        """The name of a file in messages."""
        return f"{self.where}:{name}" if name else self.where

    def paths(self, folder: str, suffixes: str | tuple[str, ...]) -> list[str]:
        """Paths of the files directly in a folder with an ending, in any case, but for macOS' "._" files."""
        names = self.files(folder)
        return [join(folder, n) for n in names if n.lower().endswith(suffixes) and not n.startswith("._")]

    def walk(self, folder: str = "") -> Iterator[str]:
        """Paths of all files below a folder, in sorted order."""
        for name in self.files(folder):
            yield join(folder, name)
        for name in self.folders(folder):
            yield from self.walk(join(folder, name))


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
        return self._entries(folder, self._is_folder)

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        inside = not entry.is_symlink() or Path(entry.path).resolve().is_relative_to(self.root)
        return inside and entry.is_dir() and not entry.name.startswith(".")

    def _entries(self, folder: str, kind: Callable[[os.DirEntry[str]], bool]) -> list[str]:
        try:
            with os.scandir(self.root / folder) as entries:
                return sorted(entry.name for entry in entries if kind(entry))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise InputError(f"{self.root / folder}: cannot be listed ({error.strerror})") from error

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
            raise InputError(f"{name!r}: not a valid file name ({error})") from error
        if not path.is_relative_to(self.root):
            raise InputError(f"{name!r}: the image id leads out of {self.root}")
        return path

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a file."""
        try:
            # Names are safe here but for links, which are not followed; resolving each path takes longer.
            file = os.open(f"{self.root}/{name}", os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except (OSError, ValueError):
            return self.read(name)[:count]
        try:
            return os.read(file, count)
        except OSError as error:
            raise InputError(f"{self.describe(name)}: cannot be read ({error.strerror})") from error
        finally:
            os.close(file)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        path = self.source(name)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error

    def open(self, name: str) -> io.IOBase:
        """A file, to read and seek."""
        path = self.source(name)
        try:
            return path.open("rb")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error

    def version(self, name: str) -> str:
        """Size and time of a file."""
        return file_version(self.source(name))

    def describe(self, name: str) -> str:
        """The path of a file."""
        return str(self.root / name)


class NamedFiles(FolderTree):
    """Files that the user named by their paths, below a folder or anywhere; links may lead anywhere."""

    def __init__(self, root: Path | str = "") -> None:
        super().__init__(Path(root))
        self.where = str(root)

    def source(self, name: str) -> Path:
        """The path of a file."""
        return Path(self.where, name)

    def describe(self, name: str) -> str:
        """The path of a file."""
        return str(self.source(name)) if name else self.where


def file_version(path: Path) -> str:
    """Size and time of a file on a disk, which change with its content.

    Raises:
        InputError: there is no such file.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no such file") from error
    return f"{found.st_size} {found.st_mtime_ns}"


class UnionTree(Tree):
    """A folder of one or several trees, merged; of equal names, the first tree's is used."""

    def __init__(self, where: str, trees: Sequence[Tree], folder: str = "") -> None:
        self.where, self.trees, self.folder = where, trees, folder

    def files(self, folder: str = "") -> list[str]:
        """Names of the files directly in a folder of any of the trees."""
        return sorted({name for tree in self.trees for name in tree.files(join(self.folder, folder))})

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly in a folder of any of the trees."""
        return sorted({name for tree in self.trees for name in tree.folders(join(self.folder, folder))})

    def _located(self, name: str) -> tuple[Tree, str]:
        """The tree that has a file, and the name of the file in it."""
        first, *others = self.trees
        path = join(self.folder, name)
        return next((t for t in others if t.has(path) and not first.has(path)), first), path

    def has(self, name: str) -> bool:
        """Whether there is a file of this name in any of the trees."""
        return any(tree.has(join(self.folder, name)) for tree in self.trees)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        tree, path = self._located(name)
        return tree.read(path)

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a file."""
        tree, path = self._located(name)
        return tree.head(path, count)

    def source(self, name: str) -> bytes | Path:
        """The input of an image decoder: path or content."""
        tree, path = self._located(name)
        return tree.source(path)

    def open(self, name: str) -> io.IOBase:
        """A file, to read and seek."""
        tree, path = self._located(name)
        return tree.open(path)

    def header(self, name: str) -> tuple[tuple[int, int], int] | None:
        """Size and orientation of an image, where they are known."""
        tree, path = self._located(name)
        return tree.header(path)

    def version(self, name: str) -> str:
        """Size and time of a file or its archive."""
        tree, path = self._located(name)
        return tree.version(path)

    def describe(self, name: str) -> str:
        """The name of a file in messages."""
        tree, path = self._located(name)
        return tree.describe(path)


def join(folder: str, name: str) -> str:
    """The path of a file or folder in a folder, "" being the root."""
    return f"{folder}/{name}" if folder and name else folder or name


def common_folder(names: Iterable[str]) -> str:
    """The innermost folder that contains all of some files, "" for the root."""
    folders = {name.rpartition("/")[0] for name in names}
    return os.path.commonpath(folders).replace("\\", "/") if folders and "" not in folders else ""


def below(tree: Tree, folder: str) -> Tree:
    """A folder of a tree, as a tree."""
    return UnionTree(tree.describe(folder), [tree], folder) if folder else tree


def find_folders(tree: Tree, holds: Callable[[Tree], object], depth: int = 3) -> Iterator[str]:
    """Folders that fulfill a predicate, outermost first; of more than `MOST_FOLDERS`, none is searched.

    Args:
        tree: the tree to search.
        holds: predicate of a folder, which it receives as a tree.
        depth: maximum depth below the root.
    """
    level = [""]
    for _ in range(depth + 1):
        yield from (folder for folder in level if holds(below(tree, folder)))
        inner = ((folder, tree.folders(folder)) for folder in level)
        few = ((folder, names) for folder, names in inner if len(names) <= MOST_FOLDERS)
        level = [join(folder, name) for folder, names in few for name in names]
