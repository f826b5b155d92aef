"""Cue-conflict stimuli (Geirhos et al., ICLR 2019): the shape of one category in the texture of another.

Files are ``SHAPE/SHAPEn-TEXTUREm.png``: the name says both categories. The label is the shape.
"""

from __future__ import annotations

import re

from heatbox.data.files.images import TreeImages, is_image
from heatbox.data.files.trees import Tree
from heatbox.data.formats.rows import Complain, refuse
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT = "cue-conflict stimuli"
_NAME = re.compile(r"([a-z]+)\d+-([a-z]+)\d+\.\w+")


def shape_and_texture(name: str) -> tuple[str, str]:
    """The two categories that a file name tells.

    Raises:
        InputError: the name is not of the form SHAPEn-TEXTUREm.
    """
    found = _NAME.fullmatch(name.rpartition("/")[2].lower())
    if not found:
        raise InputError(f"{name}: the name is not of the form SHAPEn-TEXTUREm.png, as in cat3-clock1.png")
    return found[1], found[2]


def recognises(tree: Tree) -> bool:
    """Whether the pictures of every folder have such names, by the first of each."""
    folders = tree.folders()
    firsts = [next(filter(is_image, tree.files(folder)), "") for folder in folders]
    return bool(folders) and all(
        (found := _NAME.fullmatch(first.lower())) and found[1] == folder.lower()
        for folder, first in zip(folders, firsts, strict=True)
    )


def split_names(tree: Tree) -> tuple[str, ...]:
    """There is one split, "test"."""
    return ("test",)


def load_split(tree: Tree, name: str = "test", complain: Complain = refuse) -> Split:
    """Read the stimuli; `shape_and_texture` of an id tells both categories.

    Raises:
        InputError: a name that does not tell two known categories, or another shape than its folder.
    """
    shapes = tree.folders()
    examples = []
    for label, folder in enumerate(shapes):
        for file in filter(is_image, tree.files(folder)):
            where = tree.describe(f"{folder}/{file}")
            found = _NAME.fullmatch(file.lower())
            if not found:
                complain(f"{where}: the name is not of the form SHAPEn-TEXTUREm.png, as in cat3-clock1.png")
            elif found[1] != folder.lower():
                complain(f"{where}: the name says {found[1]!r}, the folder {folder!r}")
            elif found[2] not in map(str.lower, shapes):
                complain(f"{where}: texture {found[2]!r} is none of the categories {', '.join(shapes)}")
            else:
                examples.append(Example(f"{folder}/{file}", label, (0, 0)))
    return Split(name, examples, shapes, TreeImages(tree))
