"""Cue-conflict stimuli (Geirhos et al., ICLR 2019): the shape of one category in the texture of another.

Files are ``SHAPE/SHAPEn-TEXTUREm.png``: the name contains both categories. The label is the shape.
"""

from __future__ import annotations

import re

from heatbox.data.files.images import TreeImages, is_image
from heatbox.data.files.trees import Report, Tree
from heatbox.data.formats.rows import skipping
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT, DEPTH = "cue-conflict stimuli", 2
_NAME = re.compile(r"([a-z]+)\d+-([a-z]+)\d+\.\w+")


def shape_and_texture(name: str) -> tuple[str, str]:
    """The two categories in the name of a stimulus.

    Raises:
        InputError: the name is not of the form SHAPEn-TEXTUREm.
    """
    found = _NAME.fullmatch(name.rpartition("/")[2].lower())
    if not found:
        raise InputError(f"{name}: the name is not of the form SHAPEn-TEXTUREm.png, as in cat3-clock1.png")
    return found[1], found[2]


def split_names(tree: Tree) -> tuple[str, ...]:
    """The only split, "test", if the first image of every folder has such a name, of the folder's shape."""
    folders = tree.folders()
    firsts = (next(filter(is_image, tree.files(folder)), "") for folder in folders)
    names = (_NAME.fullmatch(first.lower()) for first in firsts)
    shapes = [name[1] if name else None for name in names]
    return ("test",) if folders and shapes == [folder.lower() for folder in folders] else ()


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read the stimuli; `shape_and_texture` of an id gives both categories.

    Raises:
        InputError: a name without two known categories, or with another shape than its folder.
    """
    shapes = tree.folders()
    examples = []
    for label, folder in enumerate(shapes):
        for file in filter(is_image, tree.files(folder)):
            where = tree.describe(f"{folder}/{file}")
            with skipping(report):
                shape, texture = shape_and_texture(where)
                if shape != folder.lower():
                    raise InputError(f"{where}: the name has {shape!r}, the folder {folder!r}")
                if texture not in map(str.lower, shapes):
                    expected = ", ".join(shapes)
                    raise InputError(f"{where}: texture {texture!r} is not one of the categories {expected}")
                examples.append(Example(f"{folder}/{file}", label, (0, 0)))
    return Split(name, examples, shapes, TreeImages(tree))
