"""OpenImages30k: the metadata layout with masks for boxes (Choe et al., CVPR 2020; Benenson et al., 2019).

Rows of ``localization.txt`` are ``image,mask,ignore``: one mask file per object of the class and, in the
first row of an image, the file of a region to ignore. ``image_sizes.txt`` is empty, because masks need no
size: each is resized with its heatmap.
"""

from __future__ import annotations

from collections.abc import Container

import cv2
import numpy as np

from heatbox.data.files.images import read_grayscale
from heatbox.data.files.trees import Report, Tree, below
from heatbox.data.formats.rows import is_safe_id, read_rows
from heatbox.data.formats.wsol import FILES, listed, metadata_folders, read_labelled, read_values
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT, DEPTH = "OpenImages30k (masks)", 0
IGNORE = 255
_SIDE = 224
_MASK_FOLDERS = ("", "masks", "OpenImages_annotations", "dataset/OpenImages", "OpenImages")


def split_names(tree: Tree) -> tuple[str, ...]:
    """Names of the folders of the splits, if a localization.txt names mask files."""
    folders = metadata_folders(tree)
    return tuple(folders) if any(_has_masks(below(tree, folder)) for folder in folders.values()) else ()


def _has_masks(tables: Tree) -> bool:
    first = next(read_rows(tables, FILES[3]), None) if tables.has(FILES[3]) else None
    return first is not None and ".png" in first.text.partition(",")[2]


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read a split whose masks are opened on demand; examples have no boxes and no size.

    Raises:
        InputError: naming file and row, as for the metadata layout, or an invalid row of a mask.
    """
    folder = metadata_folders(tree)[name]
    tables = below(tree, folder)
    labels, images = read_labelled(tree, folder, tables, report)
    masks = _read_masks(tables, labels, report)
    if masks:
        listed(labels, masks, tables, FILES[3], report)
    open_mask = _Masks(tree, images.tree, masks) if masks else None
    return Split(name, [Example(i, label, (0, 0)) for i, label in labels.items()], (), images, open_mask)


def _read_masks(tables: Tree, ids: Container[str], report: Report) -> dict[str, list[tuple[str, str]]]:
    """Image id → (mask, ignore region or "") of each of its objects."""
    found: dict[str, list[tuple[str, str]]] = {}
    form = "id,mask,ignore"
    for row, name, (mask, ignore) in read_values(tables, FILES[3], str, form, report):
        if not mask:
            report(str(row.malformed(form)))
        elif not all(is_safe_id(part) for part in (name.strip(), mask, ignore) if part):
            report(f"{row.where}: {row.text!r} leads out of the mask folder")
        elif name.strip() in ids:
            found.setdefault(name.strip(), []).append((mask, ignore))
    return found


class _Masks:
    """Example → mask: 1 on any object, 255 on an ignore region without object, 0 elsewhere.

    If the masks of an image differ in size, each is resized to 224 x 224, the size at which maps are scored,
    by nearest neighbour, as the reference evaluator does with every mask.
    """

    def __init__(self, tree: Tree, images: Tree, files: dict[str, list[tuple[str, str]]]) -> None:
        self.tree, self.images, self.files = tree, images, files

    def __call__(self, example: Example) -> np.ndarray:
        pairs = self.files.get(example.id)
        if not pairs:
            raise InputError(f"{self.tree.where}: no mask is listed for image {example.id!r}")
        objects = [self._open(mask) for mask, _ in pairs]
        ignored = [self._open(ignore) for _, ignore in pairs if ignore]
        if len({mask.shape for mask in (*objects, *ignored)}) > 1:
            objects, ignored = ([_resized(mask) for mask in masks] for masks in (objects, ignored))
        union = np.any(objects, axis=0)
        result = union.astype(np.uint8)
        if ignored:
            result[np.any(ignored, axis=0) & ~union] = IGNORE
        return result

    def _open(self, name: str) -> np.ndarray:
        trees = [self.images, *(below(self.tree, place) for place in _MASK_FOLDERS)]
        tree = next((t for t in trees if t.has(name)), None)
        if tree is None:
            raise InputError(f"{self.tree.describe(name)}: no such mask file")
        return read_grayscale(tree, name) > 0


def _resized(mask: np.ndarray) -> np.ndarray:
    return cv2.resize(mask.astype(np.uint8), (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST) > 0
