"""WebDataset (webdataset.github.io): tar archives; members of one name and several endings are one sample.

``0001.jpg`` is an image; ``0001.cls`` its class number or name; ``0001.json`` what a row of a Hugging Face
folder has: label or labels, and objects with bbox [x, y, width, height]. Several archives of a folder are
shards of a split, which their names give: ``train-000000.tar``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from heatbox.data.files.images import TreeImages, is_image
from heatbox.data.files.trees import Report, Tree, UnionTree, join
from heatbox.data.formats.huggingface import annotation_of, class_order, without_names
from heatbox.data.formats.rows import Annotation, annotated_split, decode_text, skipping
from heatbox.data.types import Split
from heatbox.errors import InputError

LAYOUT, DEPTH = "WebDataset", 0
_LABELS = (".cls", ".json")
_NUMBER = re.compile(r"[-_.]?\d+(?:-of-\d+)?$")


class _Shards(Tree):
    """Several archives as a tree with a folder for each, named like its file."""

    def __init__(self, where: str, trees: Sequence[Tree]) -> None:
        self.where = where
        self.trees = {Path(tree.where).name: tree for tree in trees}

    def files(self, folder: str = "") -> list[str]:
        """Names of the files directly in a folder of an archive."""
        name, _, inner = folder.partition("/")
        return self.trees[name].files(inner) if name in self.trees else []

    def folders(self, folder: str = "") -> list[str]:
        """The archives, or the folders directly in a folder of one."""
        name, _, inner = folder.partition("/")
        return (
            sorted(self.trees)
            if not folder
            else self.trees[name].folders(inner)
            if name in self.trees
            else []
        )

    def has(self, name: str) -> bool:
        """Whether an archive has a file of this name."""
        archive, _, inner = name.partition("/")
        return archive in self.trees and self.trees[archive].has(inner)

    def read(self, name: str) -> bytes:
        """The content of a file of an archive."""
        archive, _, inner = name.partition("/")
        if archive not in self.trees:
            raise InputError(f"{self.where}: has no archive {archive!r}")
        return self.trees[archive].read(inner)

    def describe(self, name: str) -> str:
        """The name of a file in messages."""
        archive, _, inner = name.partition("/")
        return self.trees[archive].describe(inner) if archive in self.trees else super().describe(name)


def split_names(tree: Tree) -> tuple[str, ...]:
    """The names of the archives without their numbers, or "all" for a single archive."""
    return tuple(_splits(tree))


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read the samples of a split; a sample without label is an image without object.

    Raises:
        InputError: naming archive and member: a label of another form, a box outside its image.
    """
    shards = _splits(tree)[name]
    table: dict[str, Annotation] = {}
    for stem, images, labels in _samples(shards):
        with skipping(report, images[0]):
            if len(images) > 1:
                raise InputError(f"{shards.describe(images[0])}: sample {stem!r} has {len(images)} images")
            table[images[0]] = _annotation(shards, images[0], labels)
    class_names, unnamed = class_order(table.values(), {})
    split = annotated_split(name, table, class_names, TreeImages(shards), report)
    return without_names(split) if unnamed else split


def _splits(tree: Tree) -> dict[str, Tree]:
    """Split → its archives as one tree."""
    if isinstance(tree, UnionTree) and not tree.folder and len(tree.trees) > 1:
        archives = [one for one in tree.trees[1:] if _is_sample_tree(one)]
        found: dict[str, list[Tree]] = {}
        for one in archives:
            stem = Path(one.where).name.partition(".")[0]
            found.setdefault(_NUMBER.sub("", stem) or "all", []).append(one)
        return {name: _Shards(tree.where, trees) for name, trees in found.items()}
    is_archive = Path(tree.where).suffix == ".tar"
    return {"all": tree} if is_archive and _is_sample_tree(tree) else {}


def _is_sample_tree(tree: Tree) -> bool:
    """Whether the first image of an archive has a label of its name beside it."""
    names = tree.files()
    first = next(filter(is_image, names), None)
    if first is None:
        return False
    stem = first.partition(".")[0]
    return any(f"{stem}{suffix}" in names for suffix in _LABELS) or any(
        name.endswith(_LABELS[0]) for name in names
    )


def _samples(tree: Tree, folder: str = "") -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """(name, images, ending → label file) of each sample with an image."""
    groups: dict[str, list[str]] = {}
    for file in tree.files(folder):
        if not file.startswith("."):
            groups.setdefault(file.partition(".")[0], []).append(join(folder, file))
    for stem, files in groups.items():
        images = [file for file in files if is_image(file)]
        labels = {f".{file.rpartition('.')[2]}": file for file in files}
        if images:
            yield join(folder, stem), images, {one: labels[one] for one in _LABELS if one in labels}
    for inner in tree.folders(folder):
        yield from _samples(tree, join(folder, inner))


def _annotation(tree: Tree, image: str, labels: dict[str, str]) -> Annotation:
    """What the label files of a sample list."""
    found = Annotation(tree.describe(image))
    if ".json" in labels:
        where = tree.describe(labels[".json"])
        try:
            content = json.loads(decode_text(tree.read(labels[".json"]), where))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: is not JSON ({error})") from error
        row = {"label": content} if isinstance(content, int | str) else content
        if not isinstance(row, dict):
            raise InputError(f"{where}: is no object of JSON and no class")
        found = annotation_of(row, where, {})
    if ".cls" in labels:
        where = tree.describe(labels[".cls"])
        kind = decode_text(tree.read(labels[".cls"]), where).strip()
        if not kind or "\n" in kind:
            raise InputError(f"{where}: expected a class number or name")
        if kind not in found.labels:
            found = replace(found, labels=[*found.labels, kind])
    return found
