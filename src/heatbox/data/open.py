"""A data set by what the user typed: a path, or the name of the embedded one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from heatbox.data import coco, cub, cue_conflict, folder, ilsvrc, openimages, tiny_imagenet, wsol
from heatbox.data.archives import FolderTree, Tree, below, find_folders, open_tree, with_archives
from heatbox.data.example import Split
from heatbox.data.glyphs import glyphs
from heatbox.data.rows import Complain, refuse
from heatbox.data.wsol import load_wsol
from heatbox.errors import InputError

# Asked in this order: a folder of classes is what remains when nothing more definite is seen.
_LAYOUTS: Sequence[ModuleType] = (
    tiny_imagenet, cub, openimages, wsol, cue_conflict, ilsvrc, coco, folder
)  # fmt: skip
_EVALUATED = ("test", "val", "valid", "validation", "fullsup", "all")


@dataclass(frozen=True)
class DataSet:
    """A data set whose layout was recognised.

    Attributes:
        layout: name of the layout, as people call it.
        where: the path that was opened.
        tree: its files, from the folder in which the layout begins.
        reader: the module that reads it.
        splits: names of its splits.
    """

    layout: str
    where: str
    tree: Tree
    reader: ModuleType
    splits: tuple[str, ...]

    def load(self, split: str, complain: Complain = refuse) -> Split:
        """Read one split.

        Args:
            split: one of `splits`.
            complain: is told every problem with a row, which is then left out; by default it is raised.

        Raises:
            InputError: there is no such split, or it cannot be read.
        """
        if split not in self.splits:
            raise InputError(
                f"{self.where}: has no split {split!r}, expected one of {', '.join(self.splits)}"
            )
        return self.reader.load_split(self.tree, split, complain)


def open_data_set(path: str | Path) -> DataSet:
    """Recognise the layout of a folder or archive, also one or two folders deep, also in several archives.

    Raises:
        InputError: nothing that is read is there.
    """
    tree = open_tree(path)
    found = _recognise(tree, str(path))
    if isinstance(tree, FolderTree) and (found is None or found.reader is folder or found.reader is cub):
        everything = with_archives(tree)
        if everything is not None:
            found = _recognise(everything, str(path)) or found
    if found is None and "images" in tree.folders():
        needed = ", ".join(wsol.FILES)
        raise InputError(f"{tree.describe(wsol.FILES[0])}: missing; the metadata layout needs {needed}")
    if found is None:
        names = ", ".join(reader.LAYOUT for reader in _LAYOUTS)
        raise InputError(f"{path}: no data set is recognised; what is read: {names}")
    return found


def _recognise(tree: Tree, where: str) -> DataSet | None:
    for reader in _LAYOUTS:
        deep = 0 if reader in (ilsvrc, wsol, openimages) else 1 if reader in (coco, folder) else 2
        top = next(find_folders(tree, reader.recognises, depth=deep), None)
        if top is not None:
            inside = below(tree, top)
            return DataSet(reader.LAYOUT, where, inside, reader, reader.split_names(inside))
    return None


def open_split(data: str, metadata: Path | None = None, num_classes: int | None = None) -> Split:
    """Open a split.

    Args:
        data: "glyphs", "glyphs:train", "glyphs:fullsup" or "glyphs:test" for the embedded data set (test
            by default), else a path, which ":train" or the like may follow. Of several splits the one to be
            evaluated is taken: test, val, or the only one.
        metadata: folder of the four metadata files, where they are not with the images.
        num_classes: labels have to be below it.

    Raises:
        InputError: the path is not recognised, has no such split, or what the reader of its layout raises.
    """
    name, _, split = data.partition(":")
    if name == "glyphs" and not Path(data).exists():
        return glyphs(split or "test")
    if metadata is not None:
        return load_wsol(data, metadata, num_classes)
    path, split = data, ""
    if not Path(data).exists() and ":" in data:
        path, _, split = data.rpartition(":")
    data_set = open_data_set(path)
    if data_set.reader is wsol and len(data_set.splits) == 1 and not split:
        return load_wsol(path, None, num_classes)
    chosen = split or next((s for s in _EVALUATED if s in data_set.splits), data_set.splits[0])
    found = data_set.load(chosen)
    largest = max((example.label for example in found), default=0)
    if num_classes is not None and largest >= num_classes:
        raise InputError(f"{path}: label {largest} is out of range, expected 0 to {num_classes - 1}")
    return found
