"""The photographs that are labelled: opened, measured, with a label for each class that is searched."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from heatbox._utils.checks import kind_of
from heatbox._utils.devices import map_in_threads
from heatbox._utils.progress import Track, silent
from heatbox.config import LabelOptions, ScoreFunction
from heatbox.data.classes import match_classes
from heatbox.data.files.archives import ARCHIVES, ArchiveTree, open_tree
from heatbox.data.files.images import (
    TreeImages,
    image_size,
    images_among,
    network_image,
    picture_size,
    shown_image,
    visible_images,
)
from heatbox.data.files.remote import is_address, is_pattern
from heatbox.data.files.trees import FolderTree, Report, Tree, raise_problem
from heatbox.data.formats.yolo import warn_of_labels
from heatbox.data.open import (
    DataSet,
    load_held_out,
    open_data_set,
    open_split,
    path_and_split,
    tree_with_images,
)
from heatbox.data.problems import LeftOut
from heatbox.data.types import Example, Split
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.predict import run_inference
from heatbox.evaluation.run import Record, Run
from heatbox.inference.networks import mean_scores
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import as_input

_TEXTS = (".csv", ".tsv", ".json", ".xml", ".txt", ".yaml", ".yml", ".xlsx", ".xls", ".ods")
"""Endings of files that may have labels."""


def open_photos(photos: Any, class_names: Sequence[str] = (), report: Report = raise_problem) -> Split:
    """Open photographs with their labels, or without any.

    Args:
        photos: what `heatbox.open_split` reads; a folder of images without labels; a split; or a list of
            paths, of PIL images or of arrays, which have no labels.
        class_names: names of the classes of images without labels.
        report: receives each problem with an image, which is then skipped.

    Returns:
        one example per image.

    Raises:
        InputError: nothing can be read there.
    """
    if isinstance(photos, Split):
        return photos.by_image()
    if isinstance(photos, Sequence) and not isinstance(photos, str):
        return _listed(photos, class_names)
    where = os.fspath(photos) if isinstance(photos, str | os.PathLike) else ""
    path, name = path_and_split(where)
    data_set = _data_set(path) if where else None
    tree = unlabelled_tree(where) if where and data_set is None else None
    if tree is not None:
        images = visible_images(tree)
        warn_of_labels(tree, images)
        return _without_labels("all", images, class_names, TreeImages(tree))
    if data_set is None:
        return open_split(photos, report=report).by_image()
    split = load_held_out(data_set, name, report).by_image()
    if not name and len(data_set.splits) > 1:
        what = f"of its splits {', '.join(data_set.splits)}, {split.name!r} is labelled"
        warnings.warn(
            f"{data_set.where}: {what}; name another as {data_set.where}:SPLIT", AssumptionWarning, 2
        )
    return split


def _data_set(path: str) -> DataSet | None:
    """The data set of a folder or of archives; None if no layout is recognized."""
    try:
        return open_data_set(path) if _has_files(path) else None
    except InputError:
        return None


def _has_files(where: str) -> bool:
    return os.path.isdir(where) or is_address(where) or is_pattern(where) or where.endswith(ARCHIVES)


def unlabelled_tree(where: str) -> Tree | None:
    """The images of a folder, or of archives, of no layout that is recognized.

    Returns:
        None if there is no image, or a file that may have labels, of a layout that is not recognized.
    """
    if not _has_files(where):
        return None
    tree = open_tree(where)
    files = tree.files()
    if isinstance(tree, ArchiveTree):  # a text of the name of an image is about that image
        images = {name.partition(".")[0] for name in images_among(files)}
        files = [name for name in files if name.partition(".")[0] not in images]
    if any(name.lower().endswith(_TEXTS) for name in files):
        return None
    return tree_with_images(tree)


def _without_labels(name: str, ids: Sequence[str], class_names: Sequence[str], open_image: Any) -> Split:
    return Split(name, [Example(one, -1, (0, 0)) for one in ids], list(map(str, class_names)), open_image)


def _listed(photos: Sequence[Any], class_names: Sequence[str]) -> Split:
    """A list of paths, or of images in memory, as a split without labels."""
    if not len(photos):
        raise InputError("there is no image to label")
    if all(isinstance(one, str | os.PathLike) for one in photos):
        files = [Path(os.path.abspath(one)) for one in photos]
        root = Path(os.path.commonpath([file.parent for file in files]))
        names = [file.relative_to(root).as_posix() for file in files]
        if len({*names}) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{root / twice}: is listed twice")
        return _without_labels("all", names, class_names, TreeImages(FolderTree(root)))
    if not all(isinstance(one, Image.Image | np.ndarray) for one in photos):
        kinds = sorted({type(one).__name__ for one in photos})
        raise TypeError(f"images: a list of {', '.join(kinds)}, expected paths, PIL images or arrays")
    ids = [f"{number:06d}.png" for number in range(len(photos))]
    places = {name: number for number, name in enumerate(ids)}

    def open_image(example: Example) -> Image.Image:
        return shown_image(network_image(photos[places[example.file]]))

    split = _without_labels("all", ids, class_names, open_image)
    examples = [dataclasses.replace(e, size=picture_size(open_image(e))) for e in split]
    return dataclasses.replace(split, examples=examples)


def listed_photos(photos: Any, labels: Sequence[Any]) -> Split:
    """A list of images with their labels, as a split.

    Args:
        photos: paths, PIL images or arrays.
        labels: for each image the name or index of a class, several of them, or None.

    Raises:
        InputError: another number of labels, or names beside indices.
        TypeError: something else than a list, names and indices.
    """
    if not isinstance(photos, Sequence) or isinstance(photos, str):
        raise TypeError(f"images: {kind_of(photos)}, expected a list, since labels are given for each")
    if len(photos) != len(labels):
        raise InputError(f"there are {len(photos)} images, but labels of {len(labels)}")
    split = _listed(photos, ())
    many = [_labels_of(one, number) for number, one in enumerate(labels)]
    kinds = {label for one in many for label in one}
    if not all(isinstance(kind, str) for kind in kinds) and any(isinstance(kind, str) for kind in kinds):
        raise InputError("labels are partly names and partly indices, expected one kind")
    names = sorted(kinds) if all(isinstance(kind, str) for kind in kinds) else []
    numbers = (
        {name: number for number, name in enumerate(names)} if names else {kind: int(kind) for kind in kinds}
    )
    examples = []
    for example, one in zip(split, many, strict=True):
        found = [numbers[kind] for kind in one]
        examples.append(Example(example.id, found[0] if found else -1, example.size, labels=tuple(found)))
    return dataclasses.replace(split, examples=examples, class_names=names)


def _labels_of(given: Any, number: int) -> tuple[Any, ...]:
    """The names or indices in what is given for an image; None and NaN, which pandas has for it, are none."""
    if given is None or (isinstance(given, float | np.floating) and np.isnan(given)):
        return ()
    found = tuple(given) if isinstance(given, list | tuple | set | frozenset | np.ndarray) else (given,)
    for one in found:
        is_number = isinstance(one, int | np.integer | float | np.floating) and float(one).is_integer()
        if not isinstance(one, str) and not (is_number and one >= 0):
            raise InputError(f"label of image {number} is {one!r}, expected the name or the index of a class")
    return tuple(one if isinstance(one, str) else int(one) for one in found)


def measured(split: Split, left_out: LeftOut | None, track: Track = silent) -> Split:
    """The split with the upright size of every image, from the headers of the files.

    Args:
        split: the split; sizes that it knows stay, since boxes of its files are in them.
        left_out: receives the images that cannot be read; None raises the first.
        track: shows progress.

    Raises:
        InputError: an image that cannot be read, or none is left.
    """
    reader = split.open_image

    def sized(example: Example) -> Example | InputError:
        if example.size != (0, 0):
            return example
        try:
            if isinstance(reader, TreeImages):
                size = image_size(reader.tree, example.file)
            else:
                size = reader(example).size
        except InputError as error:
            return error
        return dataclasses.replace(example, size=size)

    if all(example.size != (0, 0) for example in split):
        return split
    examples = []
    found = map_in_threads(sized, split.examples, None, track, f"sizes of {len(split)} images")
    for example, one in zip(split, found, strict=True):
        if isinstance(one, InputError):
            if left_out is None:
                raise one
            left_out.unreadable(example, one)
        else:
            examples.append(one)
    if not examples and left_out is not None:
        raise InputError(f"{split.name}: no image can be read; the first problem: {left_out.problems[-1]}")
    return dataclasses.replace(split, examples=examples)


def without_boxes(split: Split) -> Split:
    """The split with labels alone; boxes that its files have take no part in the labelling.

    Warns:
        AssumptionWarning: there are boxes.
    """
    boxed = sum(len(example.boxes) > 0 for example in split)
    if not boxed:
        return split
    what = f"{boxed} of {len(split)} images have boxes, which are not used; --corrected learns from them"
    warnings.warn(f"{split.name}: {what}", AssumptionWarning, stacklevel=2)
    return dataclasses.replace(split, examples=[label_only(example) for example in split])


def own_classes(
    given: Split, num_classes: int, class_names: Sequence[str], where: str
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The names of the classes of photographs, and the class of the network for each.

    Args:
        given: the photographs with their own labels.
        num_classes: number of classes of the network.
        class_names: their names, where they are known.
        where: the data set, for messages.
    """
    names = [str(name) for name in given.class_names]
    if not names:  # the labels are numbers of classes of the network
        used = sorted({label for example in given for label in example.labels})
        known = [str(name) for name in class_names] or [str(number) for number in range(num_classes)]
        return tuple(known[label] for label in used), tuple(used)
    examples = [Example(str(label), label, (0, 0)) for label in range(given.num_classes)]
    probe = dataclasses.replace(given, examples=examples)
    found = match_classes(probe, num_classes, class_names, where)
    return tuple(names), tuple(example.label for example in found)


def used_classes(split: Split) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and numbers of the classes that images have."""
    used = sorted({label for example in split for label in example.labels})
    names = [*map(str, split.class_names), *map(str, range(len(split.class_names), split.num_classes))]
    return tuple(names[label] for label in used), tuple(used)


def label_only(example: Example) -> Example:
    """An example without its boxes."""
    return Example(example.id, example.label, example.size, labels=example.labels, image=example.image)


def with_predicted_labels(
    split: Split,
    views: Sequence[ClassifierView],
    config: LabelOptions,
    function: ScoreFunction,
    run: Run,
    track: Track = silent,
    left_out: LeftOut | None = None,
) -> tuple[Split, int]:
    """The split in which every image has the classes that the classifier predicts for it, or none.

    With softmax that is the class of the highest score, with sigmoid each class; only those with a score of
    at least `config.min_score`.

    Args:
        split: images without labels.
        views: the classifier, or several whose scores are averaged.
        config: preprocessing, batch size, `min_score`.
        function: how scores are made of logits.
        run: where predictions are kept; images that it contains are not predicted again.
        track: shows progress.
        left_out: receives images that cannot be read; None raises the first.

    Returns:
        the split, and the number of images without a class.

    Raises:
        InputError: an image that cannot be read.
    """
    import torch

    prepared = [config.preprocess(view.model) for view in views]

    def records(examples: Sequence[Example], images: Sequence[Any]) -> list[Record]:
        with torch.inference_mode():
            logits = [
                view.extract(as_input(view.model, one), 0).logits.float().cpu().numpy()
                for view, one in zip(views, images, strict=True)
            ]
        scores = mean_scores(logits, function)
        found = []
        for example, row in zip(examples, scores, strict=True):
            labels = np.flatnonzero(row >= config.min_score)
            if function == "softmax":
                labels = labels[labels == row.argmax()]
            order = labels[np.argsort(-row[labels], kind="stable")]
            found.append({"id": example.id, "classes": order.astype(np.int64), "class_scores": row[order]})
        return found

    what, skipped = f"classes of {split.name}", None if left_out is None else left_out.unreadable
    run_inference(
        split, lambda image: [one(image) for one in prepared], config.batch_size, run, records, what, track,
        channels=prepared[0].channels, unreadable=skipped,
    )  # fmt: skip
    classes = {record["id"]: record["classes"].tolist() for batch in run.records() for record in batch}
    examples, empty = [], 0
    for example in split:
        if example.id in classes:
            labels = classes[example.id]
            empty += not labels
            label = labels[0] if labels else -1
            examples.append(Example(example.id, label, example.size, labels=tuple(labels)))
    return dataclasses.replace(split, examples=examples), empty
