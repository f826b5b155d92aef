"""The images of a training or of a fine-tuning, and those that are left out of it."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch

from heatbox._utils.io import read_json, to_json
from heatbox._utils.json_schema import TEXT, Kind, checked, one_of
from heatbox._utils.progress import Track
from heatbox.config import ScoreFunction
from heatbox.data.classes import match_classes
from heatbox.data.files.remote import shown
from heatbox.data.files.trees import Report, raise_problem
from heatbox.data.loader import preprocessed
from heatbox.data.open import TrainingSplits, open_split, open_training, open_training_split
from heatbox.data.problems import REASONS, SEVERAL, BadImage, LeftOut, usable
from heatbox.data.types import Split
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.run import LEFT_OUT, Run
from heatbox.training.config import FinetuneConfig, TrainConfig

Counts = dict[str, dict[str, int]]
"""Split, "train" or "test" → reason → number of images."""


class TrainingImages:
    """The images of a training, and those that are left out of it, which `left-out.json` in its folder lists.

    With `on_bad` "skip", every image is decoded once, before the training: the number and the order of the
    images are then fixed. A resumed training uses the list in the folder, whatever became of the files since.

    Args:
        config: the training.

    Attributes:
        splits: what is trained and validated on.
        left_out: "train" and "test" → the images that are left out.

    Raises:
        InputError: as `heatbox.data.open.open_training`.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.left_out = {"train": LeftOut(), "test": LeftOut()}
        both = (self.left_out["train"], self.left_out["test"])
        skip = config.on_bad == "skip"
        try:
            self.splits = open_training(config.data, config.test, config.limit, both if skip else None)
        except BadImage as error:
            raise _with_hint(error) from error

    @property
    def counts(self) -> Counts:
        """Number of images that are left out, for each split and reason that occurs."""
        return {name: counts for name, one in self.left_out.items() if (counts := one.counts())}

    def leave_out_unreadable(self, folder: Path, fabric: Any, track: Track, overwrite: bool = False) -> None:
        """Decode every image in the first process, or read what an earlier call found, and drop the others.

        Args:
            folder: of the training.
            fabric: a launched Lightning Fabric, whose other processes receive the list.
            track: progress display.
            overwrite: decode again.

        Raises:
            InputError: no image is left, or the list in the folder is damaged.
        """
        if self.config.on_bad != "skip":
            return
        listed: dict[str, Any] | None = None
        if fabric.global_rank == 0:
            listed = None if overwrite else self._listed(folder / LEFT_OUT)
            if listed is None:
                for name, split in self._named():
                    _decode(split, self.left_out[name], track)
                listed = self._content()
        listed = fabric.broadcast(listed)
        self.left_out = {name: LeftOut.restored(listed[name]) for name in self.left_out}
        kept = {
            name: self.left_out[name].filter(split, boxes=False, single=True) for name, split in self._named()
        }
        self.splits = TrainingSplits(kept["train"], kept.get("test"))

    def save(self, run: Run) -> None:
        """Write the list into the folder of the training."""
        if self.config.on_bad == "skip":
            run.write_json(LEFT_OUT, self._content())

    def _named(self) -> list[tuple[str, Split]]:
        test = self.splits.test
        return [("train", self.splits.train), *([] if test is None else [("test", test)])]

    def _asked(self) -> list[Any]:
        return [self.config.data, self.config.test, self.config.limit]

    def _content(self) -> dict[str, Any]:
        return {"data": self._asked(), **{name: one.as_dict() for name, one in self.left_out.items()}}

    def _listed(self, path: Path) -> dict[str, Any] | None:
        """The list in a folder; None if there is none, or if it is of other data."""
        if not path.is_file():
            return None
        found: dict[str, Any] = checked(read_json(path), _LISTED, str(path))
        return found if found["data"] == self._asked() else None


_REASON = one_of(*REASONS)
_NUMBER = Kind("an integer from 0", lambda value: type(value) is int and value >= 0)
_ONE = {"counts": {...: _NUMBER}, "images": {...: _REASON}, "problems": [TEXT]}
_LISTED = {"data": Kind("a list", lambda value: isinstance(value, list)), "train": _ONE, "test": _ONE}


def _decode(split: Split, left_out: LeftOut, track: Track) -> None:
    """Decode all images, and take note of those that cannot be."""
    size = 64
    opened = preprocessed(split, split.examples, lambda image: torch.empty(0), size, 3, left_out.unreadable)
    for _ in track(opened, f"opening {split.name}", -(-len(split) // size)):
        pass


class FinetuneImages:
    """The images of a fine-tuning, which may have any number of labels.

    Images that cannot be decoded are found while their features are computed, and are then left out, too.

    Args:
        config: the fine-tuning.
        split: the images; by default those of the configuration.

    Attributes:
        train: all images that are not in `test`.
        test: those to measure on, if the configuration names them.
        function: makes scores of logits: of one class an image, or of several.
        left_out: the images that are left out; None if the first one ends the fine-tuning.

    Raises:
        InputError: images that cannot be used, or too few classes.
    """

    def __init__(self, config: FinetuneConfig, split: Split | None = None) -> None:
        self.left_out = LeftOut() if config.on_bad == "skip" else None
        problem = raise_problem if self.left_out is None else self.left_out
        train = open_training_split(config.data, problem) if split is None else split.by_image()
        test = _same_classes(config, train, problem)
        several = [example for one in (train, test) for example in one or () if len(example.labels) > 1]
        self.function: ScoreFunction = config.scores or ("sigmoid" if several else "softmax")
        single = self.function == "softmax"
        if several and not config.scores:
            words = f"{len(several)} images are of several classes, so each class is decided alone (sigmoid)"
            assume(train.name, words)
        for one in (train, test):
            empty = sum(not example.labels for example in one or ())
            if one is not None and empty and not single:
                assume(one.name, f"{empty} images without a label count as images of none of the classes")
        try:
            self.train = usable(train, self.left_out, boxes=False, single=single)
            self.test = None if test is None else usable(test, self.left_out, boxes=False, single=single)
        except BadImage as error:
            several_allowed = "without --scores softmax each class is decided alone"
            raise _with_hint(error, several_allowed if error.reason == SEVERAL else "") from error
        if self.train.num_classes < (2 if single else 1):
            found = f"has {self.train.num_classes} classes, expected at least two to tell apart"
            raise InputError(f"{train.name}: {found}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; empty where the data set numbers them."""
        return tuple(str(name) for name in self.train.class_names)

    @property
    def digest(self) -> str:
        """A fingerprint of the images' ids and labels."""
        seen = hashlib.sha256(to_json(self.class_names).encode())
        for split in (self.train, self.test):
            for example in split or ():
                seen.update(f"{example.id}\0{example.labels}\n".encode())
            seen.update(b"\n")
        return seen.hexdigest()[:16]


def _same_classes(config: FinetuneConfig, train: Split, problem: Report) -> Split | None:
    """The split to measure on, with the classes of the one to train on; None if no split is named."""
    if config.test is None:
        return None
    classes, names = train.num_classes, train.class_names
    test = match_classes(
        open_split(config.test, report=problem), classes, names, config.test, "the training data"
    )
    if test.num_classes > classes:
        raise InputError(
            f"{shown(config.test)}: has {test.num_classes} classes, "
            f"{shown(config.data)} {classes} to train on"
        )
    return test


def _with_hint(error: BadImage, other: str = "") -> InputError:
    """The problem of an image with what can be done about it."""
    return InputError("; ".join(filter(None, (str(error), other, "--on-bad skip leaves such images out"))))


def assume(where: str, words: str) -> None:
    """Warn of an assumption."""
    warnings.warn(f"{where}: {words}", AssumptionWarning, 3)
