"""Names of images as annotation files write them, and the files that they mean.

Annotation files come from other machines: with the folder of the images before the name or without it, with
backslashes, with absolute paths of the machine on which they were made. One rule is found that fits a whole
file: a folder of the data set in which the names lie, and a number of leading folders of the names that do
not count. A rule for each name of its own could take an image of another folder in silence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote

from heatbox.data.files.images import is_image
from heatbox.data.files.trees import Tree, join

_MOST_FOLDERS = 200  # of images that are tried
_DRIVE = re.compile(r"^[A-Za-z]:(?=/)")
_UPLOADED = re.compile(r"(?:(?<=/)|^)[0-9a-f]{8}-(?=[^/]+$)")


def cleaned(listed: str) -> str:
    """A listed name with forward slashes, without "./" at its beginning."""
    name = listed.strip().replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def _inner(listed: str) -> str:
    """The part of a listed name that can be a path in the data set.

    What comes before is dropped: the host of an address, a drive, and all up to the last "..". So no name
    leads out of the data set.
    """
    name = cleaned(listed)
    if "?d=" in name:  # Label Studio's address of a local file
        name = _decoded(name.partition("?d=")[2])
    if "://" in name:
        name = name.partition("://")[2].partition("?")[0]
    name = _DRIVE.sub("", name)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    return "/".join(parts).replace("\0", "")


def _decoded(name: str) -> str:
    return unquote(name, errors="replace").replace("\\", "/").replace("\0", "")


_SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    lambda name: _inner(_decoded(name)),
    lambda name: _UPLOADED.sub("", _inner(_decoded(name))),
)
"""Names as they are; without the escapes of an address; and without what Label Studio puts before uploads."""


@dataclass(frozen=True)
class Located:
    """Where the images of an annotation file are.

    Attributes:
        folder: the folder of the tree that ids are relative to.
        ids: listed name → id of its image; names without a file are their own ids.
        missing: names without a file.
    """

    folder: str
    ids: dict[str, str]
    missing: list[str] = field(default_factory=list)


def locate_images(tree: Tree, listed: Iterable[str], folders: Sequence[str]) -> Located:
    """Find the images that an annotation file lists.

    Args:
        tree: the data set.
        listed: names as listed; those that lead out of the data set are found inside it or are missing.
        folders: folders in which the images are expected, the likeliest first.
    """
    names = {name: _inner(name) for name in listed}
    files = _Files(tree)
    likely = list(dict.fromkeys(folders))
    best = _best(files, names.values(), likely, [0])
    if best[0] < len(names):  # only now: all folders of the data set are listed
        others = [name for name in files.folders_with_images() if name not in likely]
        for spelling in _SPELLINGS:
            spelled = {name: spelling(inner) for name, inner in names.items()}
            longest = max((name.count("/") for name in spelled.values()), default=0)
            rule = _best(files, spelled.values(), [*likely, *others], range(longest + 1))
            if rule[0] > best[0]:
                best, names = rule, spelled
            if best[0]:
                break
    _, folder, stripped = best
    ids = {name: files.find(join(folder, _strip(clean, stripped))) for name, clean in names.items()}
    if not stripped and all(ids.values()):
        start = len(folder) + 1 if folder else 0
        return Located(folder, {name: found[start:] for name, found in ids.items() if found})
    missing = [name for name, found in ids.items() if not found]
    if missing:
        alone = files.by_file_name()
        for name in missing:  # a name without folders may lie anywhere, if there is one such file
            places = alone.get(_normal(names[name]), [])
            if "/" not in names[name] and len(places) == 1:
                ids[name] = places[0]
    missing = [name for name in missing if not ids[name]]
    if not stripped and not any(found and not _below(found, folder) for found in ids.values()):
        start = len(folder) + 1 if folder else 0
        return Located(folder, {n: f[start:] if f else names[n] for n, f in ids.items()}, missing)
    return Located("", {name: found or names[name] for name, found in ids.items()}, missing)


def _best(
    files: _Files, names: Iterable[str], folders: Sequence[str], strips: Iterable[int]
) -> tuple[int, str, int]:
    """(names found, folder, leading folders that do not count) of the rule that finds most names.

    Of the numbers of leading folders, the first with which any name is found counts.
    """
    found = (0, folders[0] if folders else "", 0)
    names = list(names)
    for stripped in strips:
        shorter = names if not stripped else [_strip(name, stripped) for name in names]
        for folder in folders:
            hits = sum(1 for name in shorter if files.find(join(folder, name)))
            if hits > found[0]:
                found = hits, folder, stripped
                if hits == len(names):
                    return found
        if found[0]:  # with fewer folders, a name could mean an image of another folder
            break
    return found


def _below(name: str, folder: str) -> bool:
    return not folder or name.startswith(f"{folder}/")


def _strip(name: str, count: int) -> str:
    """A name without its first folders; the last part always stays."""
    parts = [part for part in name.split("/") if part]
    return "/".join(parts[min(count, len(parts) - 1) :]) if count and parts else name


def _normal(name: str) -> str:
    """One form of a name whose accents may be written in two ways, as macOS and others do."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


class _Files:
    """Files of a tree by path; each folder is listed once."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._listed: dict[str, dict[str, str]] = {}
        self._stems: dict[str, dict[str, str]] = {}
        self._images: list[str] | None = None

    def find(self, path: str) -> str:
        """The path of a file, "" if there is none."""
        folder, _, name = path.rpartition("/")
        if folder not in self._listed:
            self._listed[folder] = {_normal(file): file for file in self.tree.files(folder)}
        file = self._listed[folder].get(_normal(name))
        if file is None and name and not is_image(name):  # listed without its ending
            if folder not in self._stems:
                stems = ((_normal(file.rpartition(".")[0]), file) for file in self._listed[folder].values())
                self._stems[folder] = {stem: file for stem, file in stems if is_image(file)}
            file = self._stems[folder].get(_normal(name))
        return "" if file is None else join(folder, file)

    def images(self) -> list[str]:
        """Paths of all images."""
        if self._images is None:
            self._images = list(filter(is_image, self.tree.walk()))
        return self._images

    def folders_with_images(self) -> list[str]:
        """Folders with images in them or below them, outermost first."""
        found: dict[str, None] = {}
        for name in self.images():
            parts = PurePosixPath(name).parts[:-1]
            for depth in range(len(parts) + 1):
                found.setdefault("/".join(parts[:depth]))
            if len(found) > _MOST_FOLDERS:
                break
        return sorted(found, key=lambda folder: (folder.count("/") + bool(folder), folder))

    def by_file_name(self) -> dict[str, list[str]]:
        """File name → paths of the images of that name."""
        found: dict[str, list[str]] = {}
        for name in self.images():
            found.setdefault(_normal(name.rpartition("/")[2]), []).append(name)
        return found
