"""OpenImages30k: the metadata layout with masks for boxes (Choe et al., CVPR 2020; Benenson et al., 2019).

Rows of ``localization.txt`` are ``image,mask,ignore``: one mask file for every object of the class, and, in
an image's first row, the file of a region that counts neither way. ``image_sizes.txt`` is empty, because
masks need no size: each is resized with its heatmap.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from heatbox.data.files.images import TreeImages, open_grey
from heatbox.data.files.trees import Tree, below
from heatbox.data.formats.rows import Complain, refuse, rows, safe_id
from heatbox.data.formats.wsol import has_row, image_folder, metadata_folders, read_ids, read_labels
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT = "OpenImages30k (masks)"
IGNORE = 255
_SIDE = 224
_PLACES = ("", "masks", "OpenImages_annotations", "dataset/OpenImages", "OpenImages")


def recognises(tree: Tree) -> bool:
    """Whether a localization.txt names mask files."""
    return any(_has_masks(below(tree, folder)) for folder in metadata_folders(tree).values())


def _has_masks(metadata: Tree) -> bool:
    if not metadata.has("localization.txt"):
        return False
    first = next(rows(metadata, "localization.txt"), None)
    return first is not None and first.text.split(",")[1:2] != [] and ".png" in first.text.split(",", 1)[1]


def split_names(tree: Tree) -> tuple[str, ...]:
    """Names of the splits, which are those of their folders."""
    return tuple(metadata_folders(tree))


def load_split(tree: Tree, name: str, complain: Complain = refuse) -> Split:
    """Read a split whose masks are opened on demand; examples have no boxes and no size.

    Raises:
        InputError: naming file and row, as for the metadata layout, or a mask that is not listed properly.
    """
    folder = metadata_folders(tree)[name]
    metadata = below(tree, folder)
    ids = read_ids(metadata, complain)
    labels = read_labels(metadata, None, complain)
    known = [i for i in ids if has_row(i, labels, metadata, "class_labels.txt", complain)]
    images = TreeImages(tree, image_folder(tree, folder, ids[0] if ids else ""))
    masks = _masks(metadata, set(known), complain)
    if masks:
        for i in known:
            has_row(i, masks, metadata, "localization.txt", complain)
    split = Split(name, [Example(i, labels[i], (0, 0)) for i in known], (), images)
    return dataclasses.replace(split, open_mask=_Masks(tree, images.tree, masks)) if masks else split


def _masks(metadata: Tree, ids: set[str], complain: Complain) -> dict[str, list[tuple[str, str]]]:
    """Image id → (mask, ignore region or "") of each of its objects."""
    found: dict[str, list[tuple[str, str]]] = {}
    for row in rows(metadata, "localization.txt"):
        parts = [part.strip() for part in row.text.rsplit(",", 2)]
        if len(parts) != 3 or not parts[1]:
            complain(f"{row.where}: {row.text!r} is not of the form id,mask,ignore")
        elif not all(safe_id(part) for part in parts if part):
            complain(f"{row.where}: {row.text!r} leads out of the mask folder")
        elif parts[0] in ids:
            found.setdefault(parts[0], []).append((parts[1], parts[2]))
    return found


class _Masks:
    """Example → mask: 1 on any object, 255 on what is to be ignored and no object, 0 elsewhere.

    Where the masks of an image differ in size, each is brought to 224 x 224, the frame in which maps are
    scored, by nearest neighbours, as the reference evaluator does with every mask.
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
        trees = [self.images, *(below(self.tree, place) for place in _PLACES)]
        tree = next((t for t in trees if t.has(name)), None)
        if tree is None:
            raise InputError(f"{self.tree.describe(name)}: no such mask file")
        return open_grey(tree, name) > 0


def _resized(mask: np.ndarray) -> np.ndarray:
    return cv2.resize(mask.astype(np.uint8), (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST) > 0
