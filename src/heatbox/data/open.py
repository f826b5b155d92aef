"""A data set by what the user typed: a path, or the name of the embedded one."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from heatbox._utils.checks import kind_of
from heatbox.data.files.archives import open_tree, with_archives
from heatbox.data.files.trees import FolderTree, Tree, below, find_folders
from heatbox.data.formats import coco, cub, cue_conflict, folder, ilsvrc, openimages, tiny_imagenet, wsol
from heatbox.data.formats.rows import Complain, refuse
from heatbox.data.formats.wsol import load_wsol
from heatbox.data.glyphs import glyphs
from heatbox.data.types import Split
from heatbox.errors import InputError

_log = logging.getLogger(__name__)

# Asked in this order: a folder of classes is what remains when nothing more definite is seen.
_LAYOUTS: Sequence[ModuleType] = (
    tiny_imagenet, cub, openimages, wsol, cue_conflict, ilsvrc, coco, folder
)  # fmt: skip
_EVALUATED = ("test", "val", "valid", "validation", "fullsup", "all")
_TRAINED = ("train", "train-weaksup", "train_weaksup", "training")


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


def open_split(
    data: str | os.PathLike[str], metadata: Path | None = None, num_classes: int | None = None
) -> Split:
    """Open a split.

    Args:
        data: "glyphs", "glyphs:train", "glyphs:fullsup" or "glyphs:test" for the embedded data set (test
            by default), else a path, which ":train" or the like may follow. Of several splits the one to be
            evaluated is taken: test, val, or the only one.
        metadata: folder of the four metadata files, where they are not with the images.
        num_classes: labels have to be below it.

    Raises:
        InputError: the path is not recognised, has no such split, or what the reader of its layout raises.
        TypeError: data is neither text nor a path.
    """
    if not isinstance(data, str | os.PathLike):
        raise TypeError(f"data: {kind_of(data)}, expected a path or glyphs:SPLIT")
    found = _open_split(os.fspath(data), metadata, num_classes)
    _log.info("read %s: %s, %d images of %d classes", data, found.name, len(found), found.num_classes)
    return found


def _open_split(data: str, metadata: Path | None, num_classes: int | None) -> Split:
    name, _, split = data.partition(":")
    if name == "glyphs" and not os.path.exists(data):
        return glyphs(split or "test")
    if metadata is not None:
        return load_wsol(data, metadata, num_classes)
    path, split = data, ""
    if not os.path.exists(data) and ":" in data:
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


@dataclass(frozen=True)
class TrainingSplits:
    """What a training is made of.

    Attributes:
        train: images and labels to learn from.
        test: images to be looked at after each epoch, or None.
    """

    train: Split
    test: Split | None

    @property
    def has_boxes(self) -> bool:
        """Whether every test image has a box to be scored against."""
        return self.test is not None and all(len(example.boxes) for example in self.test)


def open_training(data: str, test: str | None = None, limit: int | None = None) -> TrainingSplits:
    """The split to learn from, and the one to look at.

    Args:
        data: a data set with a split "train", or one with its split named: PATH:SPLIT; "glyphs" for the
            embedded one.
        test: the split to look at, named the same way; by default the data set's own.
        limit: learn from the first so many images only.

    Raises:
        InputError: no data set is named, it has no split to learn from, or the two disagree in their classes.
    """
    if not data:
        raise InputError("no data set to learn from: name one with --data")
    name, _, split = data.partition(":")
    if name == "glyphs" and not os.path.exists(data):
        train, own = glyphs(split or "train"), "glyphs:test"
    else:
        train, own = _train_split(data)
    found = open_split(test or own) if test or own else None
    if found is not None and found.num_classes > train.num_classes:
        raise InputError(
            f"{test or own}: has labels up to {found.num_classes - 1}, but only {train.num_classes} classes "
            f"are learned from {data}"
        )
    _log.info(
        "learning from %s: %s, %d images of %d classes", data, train.name, len(train), train.num_classes
    )
    return TrainingSplits(train.take(limit), found)


def _train_split(data: str) -> tuple[Split, str]:
    """A split to learn from, and the name of the split of the same data set to look at ("" for none)."""
    path, split = data, ""
    if not os.path.exists(data) and ":" in data:
        path, _, split = data.rpartition(":")
    data_set = open_data_set(path)
    chosen = split or next((name for name in _TRAINED if name in data_set.splits), "")
    if not chosen and len(data_set.splits) == 1:
        chosen = data_set.splits[0]
    if not chosen:
        raise InputError(
            f"{path}: has no split to learn from, only {', '.join(data_set.splits)}; name one as {path}:SPLIT"
        )
    looked_at = next((name for name in _EVALUATED if name in data_set.splits and name != chosen), "")
    return data_set.load(chosen), f"{path}:{looked_at}" if looked_at else ""
