"""Data sets by path or by name: recognizes the layout and opens a split."""

from __future__ import annotations

import gc
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from heatbox._utils.checks import kind_of
from heatbox.data.classes import match_classes
from heatbox.data.files.archives import open_tree, with_archives
from heatbox.data.files.images import ImageFile, TreeImages, images_among, is_hidden, is_image, visible_images
from heatbox.data.files.remote import is_address, shown
from heatbox.data.files.trees import Report, Tree, below, find_folders, join, raise_problem
from heatbox.data.formats import (
    coco,
    cub,
    cue_conflict,
    cvat,
    folder,
    huggingface,
    ilsvrc,
    labelstudio,
    openimages,
    table,
    tiny_imagenet,
    voc,
    webdataset,
    wsol,
    yolo,
)
from heatbox.data.formats.rows import require_files
from heatbox.data.formats.splits import HELD_OUT, TRAIN, first_of, is_split
from heatbox.data.glyphs import glyphs
from heatbox.data.problems import LeftOut, usable
from heatbox.data.types import Split
from heatbox.errors import AssumptionWarning, InputError

_log = logging.getLogger(__name__)


class Format(Protocol):
    """The reader of one layout: what a module of `heatbox.data.formats` defines.

    Readers receive a folder or an archive as a `Tree`, which knows names and bytes of files, and open images
    with `TreeImages`. A problem is an `InputError`, one sentence with file, row and what was expected. Raised
    in a block of `skipping(report)`, it skips a row or an image; elsewhere, the whole split is unreadable.
    `heatbox.data.formats.rows` has what readers share: one whose files list the objects of each image fills a
    table of `Annotation` and returns `annotated_split`.

    Attributes:
        LAYOUT: the name of the layout in messages and reports.
        DEPTH: how many folders deep below the opened path the layout may begin.
    """

    LAYOUT: str
    DEPTH: int

    def split_names(self, tree: Tree) -> tuple[str, ...]:
        """Names of the splits of a tree, none if it does not begin with this layout.

        Fast, because it is called for several folders of a data set in any layout.
        """
        ...

    def load_split(self, tree: Tree, name: str, report: Report) -> Split:
        """Read one of `split_names`."""
        ...


FORMATS: tuple[Format, ...] = (
    tiny_imagenet, cub, openimages, wsol, cue_conflict, ilsvrc, coco, labelstudio, cvat, voc, yolo,
    huggingface, webdataset, table, folder,
)  # fmt: skip
"""In order of detection: a folder of classes is the least specific layout and comes last."""
_LISTING = (coco, labelstudio, cvat, voc, huggingface, table, folder)
"""Layouts in which images can lie that no annotation lists, and no other images beside them."""
_SPLIT = re.compile(r"[^\W\d][\w.-]*")


@dataclass(frozen=True)
class DataSet:
    """A data set whose layout was recognized.

    Attributes:
        where: the path that was opened.
        tree: its files, from the folder in which the layout begins.
        format: the module that reads it.
        splits: names of its splits.
    """

    where: str
    tree: Tree
    format: Format
    splits: tuple[str, ...]

    @property
    def layout(self) -> str:
        """Name of the layout."""
        return self.format.LAYOUT

    def load(self, split: str, report: Report = raise_problem) -> Split:
        """Read one split.

        Args:
            split: one of `splits`.
            report: receives each problem with a row, which is then skipped; by default the first is raised.

        Raises:
            InputError: there is no such split, or it cannot be read.
        """
        if split not in self.splits:
            raise InputError(
                f"{self.where}: has no split {split!r}, expected one of {', '.join(self.splits)}"
            )
        bad = []

        def noted(problem: str) -> None:
            bad.append(problem)
            report(problem)

        with _without_collection():
            found = self.format.load_split(self.tree, split, noted)
        if len(self.splits) == 1 and self.format in _LISTING:
            _warn_of_unlisted(found, " without a problem" if bad else "")
        return found


def _warn_of_unlisted(split: Split, condition: str) -> None:
    """Say how many images lie beside those of the only split of a data set and are not read.

    Warns:
        AssumptionWarning: with the number and the first of them.
    """
    if not isinstance(split.open_image, TreeImages):
        return
    tree, known = split.open_image.tree, {example.file for example in split}
    folders = {"", *(name.rpartition("/")[0] for name in known)}
    files = (join(folder, name) for folder in sorted(folders) for name in tree.files(folder))
    others = [name for name in files if name not in known and is_image(name) and not is_hidden(name)]
    if others:
        what = f"{others[0]!r} is" if len(others) == 1 else f"{len(others)} images ({others[0]!r} ...) are"
        what += f" in no annotation{condition}, and left out"
        warnings.warn(f"{tree.where}: {what}", AssumptionWarning, 3)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Pause the collection of cycles, of which readers make none, but which takes long with many objects."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def open_data_set(path: str | Path) -> DataSet:
    """Recognize the layout of a folder or archive, also in subfolders and in several archives of a folder.

    Args:
        path: as for `heatbox.data.files.archives.open_tree`: also a pattern or an address.

    Raises:
        InputError: no supported layout is found.
    """
    tree = open_tree(path)
    where = shown(str(path))
    found = detect_format(tree, where)
    # The archives of a folder may contain the rest of these layouts, or all of the data set.
    if found is None or found.format in (folder, cub):
        everything = with_archives(tree)
        if everything is not None:
            found = detect_format(everything, where) or found
    if found is None and "images" in tree.folders():
        require_files(tree, wsol.FILES, "the metadata layout")
    if found is None:
        names = ", ".join(reader.LAYOUT for reader in FORMATS)
        reason = f"; {why}" if (why := table.why_no_table(tree)) else ""
        raise InputError(f"{where}: no data set is recognized, expected one of: {names}{reason}")
    return found


def detect_format(tree: Tree, where: str) -> DataSet | None:
    """The first of `FORMATS` that finds splits in a tree; None if there is none.

    A data set may lie in a folder that is alone in the tree, as in most archives.

    Warns:
        AssumptionWarning: a folder that is alone counts as the data set and not as a class.
    """
    alone = _lone_folder(tree)
    for reader in FORMATS:
        # For other layouts the outermost folder counts; a class that is alone rather is the data set.
        inner_first = reader is folder and bool(alone) and folder.has_classes(below(tree, alone))
        for place in dict.fromkeys((alone, "") if inner_first else ("", alone)):
            for top in find_folders(below(tree, place), reader.split_names, depth=reader.DEPTH):
                inside = below(tree, join(place, top))
                found = DataSet(where, inside, reader, reader.split_names(inside))
                if inner_first and found.splits == ("all",):
                    names = ", ".join(inside.folders()[:3]) + (", ..." if len(inside.folders()) > 3 else "")
                    what = f"classes are the folders of {join(place, top)!r}, which is alone: {names}"
                    warnings.warn(f"{where}: {what}", AssumptionWarning, 2)
                return found
    return None


def _lone_folder(tree: Tree) -> str:
    """The innermost of folders that are alone, "" if there is none.

    Remarks and the files of a system may lie beside them. A folder that is named like a split is not entered.
    """
    found = ""
    while True:
        folders = [name for name in tree.folders(found) if name != "__MACOSX"]
        files = [name.lower() for name in tree.files(found) if not name.startswith(".")]
        if len(folders) != 1 or is_split(folders[0]) or not all(map(_is_remark, files)):
            return found
        found = join(found, folders[0])


def _is_remark(file: str) -> bool:
    return file.endswith((".txt", ".md", ".rst", ".pdf", ".html", ".ini", ".db")) or "." not in file


def open_split(
    data: str | os.PathLike[str] | object,
    metadata: str | Path | None = None,
    num_classes: int | None = None,
    report: Report = raise_problem,
    class_names: Sequence[str] = (),
) -> Split:
    """Open a split.

    Args:
        data: "glyphs", "glyphs:train", "glyphs:fullsup", "glyphs:test" or "glyphs:several" for the embedded
            data set (default: test), else a path, optionally followed by ":train" or the like. Without a
            name, the split to evaluate is opened: test, val, or the only one. A pattern of archives
            ("shards/{000..099}.tar") or an address that fsspec opens ("s3://bucket/shards/") is a path, too.
            Also a `datasets.Dataset` or `DatasetDict`.
        metadata: folder of the four files of the metadata layout, if they are not with the images.
        num_classes: number of classes of a network; if given, labels become those of the network, as
            `heatbox.data.classes.match_classes` describes.
        report: receives each problem with a row, which is then skipped; by default the first one is raised.
        class_names: names of the network's classes, where they are known.

    Raises:
        InputError: the path is not recognized, has no such split, a table of it is invalid, or its classes
            cannot be matched with those of the network.
        TypeError: `data` is neither text nor a path.

    Warns:
        AssumptionWarning: what is not certain, for example which of several splits is read.
    """
    if huggingface.is_dataset(data):
        found, where = huggingface.dataset_split(data, report=report), type(data).__name__
    elif isinstance(data, str | os.PathLike):
        found = _open_split(os.fspath(data), metadata, num_classes, report)
        where = shown(os.fspath(data))
    else:
        raise TypeError(f"data: {kind_of(data)}, expected a path, glyphs:SPLIT or a datasets.Dataset")
    if num_classes is not None:
        found = match_classes(found, num_classes, class_names, where)
    _log.info("read %s: %s, %d images of %d classes", where, found.name, len(found), found.num_classes)
    return found


def tree_with_images(tree: Tree) -> Tree | None:
    """The tree if it has images, or else that of the images in its archives or in its Parquet files.

    Returns:
        None if there is no image.
    """
    if next(images_among(tree.walk()), None) is not None:
        return tree
    archives = with_archives(tree)
    if archives is None:
        return huggingface.image_tree(tree)
    shards = webdataset.Shards(tree.where, archives.trees)
    return None if next(images_among(shards.walk()), None) is None else shards


def images_at(path: str) -> list[ImageFile]:
    """All images of an archive, of the files that a pattern names, or at an address, whatever their layout.

    Args:
        path: as for `open_split`; with ":train" or the like, the images of that split.

    Raises:
        InputError: nothing can be read there, or there is no image.
    """
    where, name = path_and_split(path)
    if name:
        split = open_split(path, report=LeftOut()).by_image()
        if isinstance(split.open_image, TreeImages):
            return [ImageFile(split.open_image.tree, example.id) for example in split]
    tree = tree_with_images(open_tree(where))
    if tree is None:
        what = "is a folder without images" if os.path.isdir(where) else "has no image"
        raise InputError(f"{shown(path)}: {what}")
    names = tree.places if isinstance(tree, huggingface.ParquetImages) else visible_images(tree)
    return [ImageFile(tree, name) for name in names]


def open_splits(data: str, problems: list[str] | None = None) -> list[Split]:
    """Open every split of a data set, or the one that is named.

    Args:
        data: as for `open_split`; without a name, all splits are opened.
        problems: receives the problems with rows and images, which are then left out; by default the first
            one is raised.

    Raises:
        InputError: as for `open_split`; or no image of a split is left.
    """
    path, name = path_and_split(data)
    if name or _glyphs(data, "test") is not None:
        return [_without_bad(lambda report: open_split(data, report=report), problems)]
    data_set = open_data_set(path)
    return [_without_bad(partial(data_set.load, split), problems) for split in data_set.splits]


def _without_bad(load: Callable[[Report], Split], problems: list[str] | None) -> Split:
    if problems is None:
        return load(raise_problem)
    left_out = LeftOut()
    split = left_out.filter(load(left_out), boxes=False)
    problems += left_out.problems
    return split


def _open_split(data: str, metadata: str | Path | None, num_classes: int | None, report: Report) -> Split:
    if (embedded := _glyphs(data, "test")) is not None:
        return embedded
    if metadata is not None:
        return wsol.load_wsol(data, metadata, num_classes, report)
    path, name = path_and_split(data)
    data_set = open_data_set(path)
    if data_set.format is wsol and len(data_set.splits) == 1 and not name:
        return wsol.load_wsol(path, None, num_classes, report)
    return load_held_out(data_set, name, report)


def load_held_out(data_set: DataSet, name: str = "", report: Report = raise_problem) -> Split:
    """Read the split of a name, or else that to test on, to validate on, or the first.

    Raises:
        InputError: there is no such split, or it cannot be read.

    Warns:
        AssumptionWarning: of several splits none is known to be held out.
    """
    chosen = name or first_of((*HELD_OUT, "all"), data_set.splits) or data_set.splits[0]
    if not name and len(data_set.splits) > 1 and chosen.lower() not in HELD_OUT:
        what = f"of its splits {', '.join(data_set.splits)}, {chosen!r} is read; name another as PATH:SPLIT"
        warnings.warn(f"{data_set.where}: {what}", AssumptionWarning, 3)
    return data_set.load(chosen, report)


def _glyphs(data: str, default: str) -> Split | None:
    """The split of the embedded data set that is named, if any."""
    name, _, split = data.partition(":")
    return glyphs(split or default) if name == "glyphs" and not os.path.exists(data) else None


def path_and_split(data: str) -> tuple[str, str]:
    """PATH:SPLIT → path and name of the split, "" if none is named."""
    if os.path.exists(data) or ":" not in data:
        return data, ""
    path, _, split = data.rpartition(":")
    if is_address(data) and ("?" in data or "/" not in path.partition("://")[2]):
        is_name = _SPLIT.fullmatch(split) is not None  # neither a port nor the end of a query
    else:
        is_name = "/" not in split
    return (path, split) if is_name else (data, "")


@dataclass(frozen=True)
class TrainingSplits:
    """The splits of a training.

    Attributes:
        train: images and labels to train on.
        test: images to validate on after each epoch, or None.
    """

    train: Split
    test: Split | None

    @property
    def has_boxes(self) -> bool:
        """Whether every test image has a ground-truth box."""
        return self.test is not None and all(len(example.boxes) for example in self.test)


def open_training_split(data: str, report: Report = raise_problem) -> Split:
    """Open the split to train on alone; images may have any number of labels.

    Args:
        data: as for `open_training`.
        report: receives each problem with a row, which is then skipped; by default the first one is raised.

    Raises:
        InputError: no data set is named, or it has no split to train on.
    """
    return _training_split(data, report)[0]


def _training_split(data: str, report: Report = raise_problem) -> tuple[Split, str]:
    """The split to train on, and the name of one to validate on; "" if there is none."""
    if not data:
        raise InputError("no data set to train on: name one with --data")
    if (embedded := _glyphs(data, "train")) is not None:
        return embedded, "glyphs:test"
    path, split = path_and_split(data)
    data_set = open_data_set(path)
    splits = data_set.splits
    chosen = split or first_of(TRAIN, splits) or (splits[0] if len(splits) == 1 else "")
    if not chosen:
        raise InputError(
            f"{data_set.where}: has no split to train on, only {', '.join(splits)}; "
            f"name one as {data_set.where}:SPLIT"
        )
    validation = first_of(HELD_OUT, [name for name in splits if name != chosen])
    return data_set.load(chosen, report), f"{path}:{validation}" if validation else ""


def open_training(
    data: str,
    test: str | None = None,
    limit: int | None = None,
    left_out: tuple[LeftOut, LeftOut] | None = None,
) -> TrainingSplits:
    """Open the split to train on and the split to validate on.

    Args:
        data: a data set with a split "train", or PATH:SPLIT; "glyphs" for the embedded data set.
        test: the split to validate on, in the same form; by default one of the same data set.
        limit: number of images to train on, all by default.
        left_out: receive the images of the two splits that cannot be used, which are then left out; by
            default the first one is raised.

    Raises:
        InputError: no data set is named, it has no split to train on, or the test split has more classes.
    """
    of_train, of_test = left_out or (raise_problem, raise_problem)
    train, own = _training_split(data, of_train)
    found = open_split(test or own, report=of_test) if test or own else None
    if found is not None and found.class_names:
        # Folders of the two splits may be of different classes, and their numbers then of no use.
        found = match_classes(found, train.num_classes, train.class_names, test or own, "the training data")
    if found is not None and found.num_classes > train.num_classes:
        raise InputError(
            f"{shown(test or own)}: has labels up to {found.num_classes - 1}, but {shown(data)} has only "
            f"{train.num_classes} classes to train on"
        )
    train = usable(train, left_out and left_out[0], boxes=False, single=True)
    if found is not None:
        found = usable(found, left_out and left_out[1], boxes=False, single=True)
    _log.info(
        "training on %s: %s, %d images of %d classes", shown(data), train.name, len(train), train.num_classes
    )
    return TrainingSplits(train.take(limit), found)
