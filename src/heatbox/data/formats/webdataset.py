"""WebDataset (webdataset.github.io): tar archives; members of one name and several endings are one sample.

``0001.jpg`` is an image; ``0001.cls`` its class number or name; ``0001.json`` what a row of a Hugging Face
folder has: label or labels, and objects with bbox [x, y, width, height]. Several archives of a folder are
shards of a split, which their names give: ``train-000000.tar``; or, named by a pattern or an address, their
folders: ``train/000000.tar``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from heatbox.data.files.archives import ArchiveTree
from heatbox.data.files.images import TreeImages, is_image
from heatbox.data.files.trees import Report, Tree, UnionTree, join
from heatbox.data.formats.huggingface import annotation_of, class_order, without_names
from heatbox.data.formats.rows import Annotation, annotated_split, decode_text, skipping
from heatbox.data.types import Split
from heatbox.errors import InputError

LAYOUT, DEPTH = "WebDataset", 0
_LABELS = (".cls", ".json")
_NUMBER = re.compile(r"[-_.]?\d+(?:-of-\d+)?$")


class Shards(Tree):
    """Several archives as a tree with a folder for each, named like its file."""

    def __init__(self, where: str, trees: Iterable[Tree]) -> None:
        self.where = where
        self.trees = {tree.name: tree for tree in trees if isinstance(tree, ArchiveTree)}
        self.depths = sorted({name.count("/") + 1 for name in self.trees})

    def _located(self, path: str) -> tuple[Tree, str]:
        """The archive that has a file or folder, and its path in there."""
        parts = path.split("/")
        for depth in self.depths:
            if (tree := self.trees.get("/".join(parts[:depth]))) is not None:
                return tree, "/".join(parts[depth:])
        raise InputError(f"{self.where}: has no archive {path!r}")

    def files(self, folder: str = "") -> list[str]:
        """Names of the files directly in a folder of an archive."""
        try:
            tree, inner = self._located(folder)
        except InputError:
            return []
        return tree.files(inner)

    def folders(self, folder: str = "") -> list[str]:
        """Names of the archives or their folders in a folder, or of the folders in one of an archive."""
        try:
            tree, inner = self._located(folder)
        except InputError:
            start = f"{folder}/" if folder else ""
            inside = (name[len(start) :] for name in self.trees if name.startswith(start))
            return sorted({name.partition("/")[0] for name in inside})
        return tree.folders(inner)

    def has(self, name: str) -> bool:
        """Whether an archive has a file of this name."""
        try:
            tree, inner = self._located(name)
        except InputError:
            return False
        return tree.has(inner)

    def read(self, name: str) -> bytes:
        """The content of a file of an archive."""
        tree, inner = self._located(name)
        return tree.read(inner)

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a file of an archive."""
        tree, inner = self._located(name)
        return tree.head(inner, count)

    def header(self, name: str) -> tuple[tuple[int, int], int] | None:
        """Size and orientation of an image, where they are known."""
        if not self.has(name):
            return None
        tree, inner = self._located(name)
        return tree.header(inner)

    def version(self, name: str) -> str:
        """Size and time or checksum of the archive of a file."""
        tree, inner = self._located(name)
        return tree.version(inner)

    def describe(self, name: str) -> str:
        """The name of a file in messages."""
        if not name:
            return self.where
        tree, inner = self._located(name)
        return tree.describe(inner)


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
        found: dict[str, list[ArchiveTree]] = {}
        for one in tree.trees[1:]:
            if isinstance(one, ArchiveTree) and _is_sample_tree(one):
                *folders, last = one.name.split("/")
                stem = _NUMBER.sub("", last.partition(".")[0])
                found.setdefault(stem or "".join(folders[-1:]) or "all", []).append(one)
        return {name: Shards(tree.where, trees) for name, trees in found.items()}
    is_archive = isinstance(tree, ArchiveTree) and tree.name.endswith(".tar")
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
