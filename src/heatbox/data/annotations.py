"""Annotations of images that lie elsewhere: a file or a folder without the images beside it."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path

from heatbox.data.classes import match_classes
from heatbox.data.files.archives import open_tree
from heatbox.data.files.images import is_image
from heatbox.data.files.trees import FolderTree, Tree
from heatbox.data.open import detect_format
from heatbox.data.problems import LeftOut
from heatbox.data.types import Split
from heatbox.errors import AssumptionWarning, InputError

ANNOTATION_FILES = (".json", ".csv", ".tsv", ".xml")
"""Endings of files of annotations."""


def open_annotations(annotations: str | os.PathLike[str], images: Tree | None = None) -> Split:
    """Open boxes of images in any format that is read; a file of annotations needs no images beside it.

    Args:
        annotations: a data set, as for `heatbox.open_split`; or one file of annotations (.json, .csv, .tsv or
            .xml).
        images: the images that a file of annotations is about.

    Raises:
        InputError: the format is not recognized.
    """
    path, left_out = Path(annotations), LeftOut()
    if path.is_file() and path.suffix.lower() in ANNOTATION_FILES:
        files: Tree = FolderTree(path.parent)
        tree: Tree = files if images is None else _WithImages(files, images, path.name)
    else:
        files = open_tree(path)
        own = any(map(is_image, files.walk()))
        tree = files if own or images is None else _WithImages(files, images)
    found = detect_format(tree, str(path))
    if found is None:
        table = path.suffix.lower() in (".csv", ".tsv")
        wanted = (
            "columns for the image, its class, and x1, y1, x2, y2" if table else "a format that heatbox reads"
        )
        raise InputError(f"{path}: no boxes are recognized, expected {wanted}")
    splits = [found.load(name, left_out) for name in found.splits]
    for problem in left_out.problems[:1]:
        what = f"{len(left_out.problems)} entries are left out; the first: {problem}"
        warnings.warn(f"{path}: {what}", AssumptionWarning, stacklevel=2)
    if len(splits) > 1:
        names = list(dict.fromkeys(str(name) for split in splits for name in split.class_names))
        examples = [e for split in splits for e in match_classes(split, len(names), names, str(path))]
        return dataclasses.replace(splits[0], examples=examples, class_names=names, class_ids=())
    return splits[0]


class _WithImages(Tree):
    """Annotation files beside images that lie elsewhere."""

    def __init__(self, files: Tree, images: Tree, only: str = "") -> None:
        self.annotations, self.images, self.only, self.where = files, images, only, files.where

    def files(self, folder: str = "") -> list[str]:
        """Names of the files in a folder: annotations, and the images."""
        own = [name for name in self.annotations.files(folder) if not self.only or name == self.only]
        own = [] if self.only and folder else own
        return sorted({*own, *filter(is_image, self.images.files(folder))})

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder."""
        own = [] if self.only else self.annotations.folders(folder)
        return sorted({*own, *self.images.folders(folder)})

    def _holder(self, name: str) -> Tree:
        own = name == self.only if self.only else self.annotations.has(name)
        return self.annotations if own else self.images

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self._holder(name).has(name) and (self._holder(name) is self.annotations or is_image(name))

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return self._holder(name).read(name)

    def source(self, name: str) -> bytes | Path:
        """The path or the content of an image."""
        return self._holder(name).source(name)

    def describe(self, name: str) -> str:
        """The name of a file in messages."""
        return self._holder(name).describe(name)
