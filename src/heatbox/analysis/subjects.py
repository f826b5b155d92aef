"""The networks that are compared: what the user named, built when first needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from heatbox._utils.devices import pick_device
from heatbox._utils.io import folder_name, to_json
from heatbox.analysis.config import DataConfig, ModelsConfig
from heatbox.config import EvaluateConfig
from heatbox.data.transforms import Preprocess
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.evaluation.run import Run
from heatbox.models.factory import create_model
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import blank_input
from heatbox.training.weights import spec_of_run

NO_CHECKPOINT = "none"
_SETTINGS = ("num_classes", "size", "interpolation", "mean", "std")


@dataclass(frozen=True)
class Subject:
    """One network under the instruments.

    Attributes:
        label: what figures and folders call it.
        model: a name that `create_model` takes.
        checkpoint: a file of weights, "pretrained" or None.
        settings: num_classes, size, interpolation, mean and std where they are not the model's own, and the
            options of the function that builds it.
        device: where to compute.
        folder: where what is measured is saved.
    """

    label: str
    model: str
    checkpoint: str | None
    settings: dict[str, Any] = field(hash=False)
    device: str
    folder: Path

    @cached_property
    def view(self) -> ClassifierView:
        """The network, built when first asked for."""
        options = self.settings.get("model_options") or {}
        network = create_model(self.model, self.settings.get("num_classes"), self.checkpoint, **options)
        return ClassifierView(network.to(pick_device(self.device)))

    @cached_property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.view.num_classes

    def release(self) -> None:
        """Forget the built network; it is built again when asked for."""
        self.__dict__.pop("view", None)

    def preprocess(self, size: int | None = None, interpolation: str | None = None) -> Preprocess:
        """How pictures become input, by default as the network was trained."""
        return self.evaluate_config(data="").preprocess(self.view.model, size, interpolation)

    def evaluate_config(self, **changes: Any) -> EvaluateConfig:
        """What `heatbox evaluate` would be asked for this network."""
        settings = {key: self.settings[key] for key in _SETTINGS if self.settings.get(key) is not None}
        return EvaluateConfig(
            model=self.model, checkpoint=self.checkpoint, device=self.device, **(settings | changes)
        )

    def run(self, instrument: str, options: dict[str, Any], seed: int, overwrite: bool) -> Run:
        """The run folder of one instrument, which refuses to go on with other settings or weights.

        Raises:
            InputError: the folder holds measurements made otherwise.
        """
        run = Run(self.folder / instrument)
        asked = {"instrument": instrument, "model": self.model, "weights": self.weights, **self.settings}
        run.start(json.loads(to_json(asked | options)), seed, resume=not overwrite)
        return run

    @cached_property
    def weights(self) -> str | None:
        """The checkpoint and the beginning of its hash, so that changed weights are told apart."""
        if self.checkpoint is None or not Path(self.checkpoint).is_file():
            return self.checkpoint
        with Path(self.checkpoint).open("rb") as file:
            return f"{self.checkpoint} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"

    def feature_side(self) -> int:
        """Smaller side of the last feature map at the network's input size."""
        height, width = self.preprocess().size
        blank = blank_input(self.view.model, height, width)
        with torch.inference_mode():
            return min(self.view.features(blank).shape[2:])


def subjects_of(config: ModelsConfig, out: Path) -> list[Subject]:
    """The networks that a configuration names.

    A folder of a run (of `heatbox demo`, say) stands for the network it was made with.

    Raises:
        InputError: numbers of names, checkpoints and labels that do not match, or a folder that is no run.
    """
    if not config.model:
        raise InputError("no model was named, expected --model with one or more")
    for name, given in (("checkpoint", config.checkpoint), ("label", config.label)):
        if given and len(given) != len(config.model):
            raise InputError(
                f"there are {len(config.model)} models and {len(given)} {name}s, expected as many"
            )
    for name in ("batch_size", "size"):
        number = getattr(config, name)
        if number is not None and number < 1:
            raise InputError(f"{name.replace('_', ' ')} is {number}, expected 1 or more")
    checkpoints = [None if one == NO_CHECKPOINT else one for one in config.checkpoint]
    named = [
        _named(model, checkpoint, config)
        for model, checkpoint in zip(config.model, checkpoints or [None] * len(config.model), strict=True)
    ]
    labels = list(config.label) or _unique([subject.label for subject in named])
    if len(set(labels)) < len(labels):
        raise InputError(f"two models have the same label among {', '.join(labels)}")
    return [
        replace(subject, label=label, folder=out / "models" / folder_name(label.replace("/", "-")))
        for subject, label in zip(named, labels, strict=True)
    ]


def _named(model: str, checkpoint: str | None, config: ModelsConfig) -> Subject:
    settings = {key: getattr(config, key) for key in _SETTINGS}
    if not Path(model).is_dir():
        label = model.rpartition(":")[2] if ".py:" in model else model
        return Subject(label, model, checkpoint, settings, config.device, Path())
    spec = spec_of_run(model, checkpoint=checkpoint, **settings)
    settings = {key: getattr(spec, key) for key in (*_SETTINGS, "model_options")}
    return Subject(Path(model).resolve().name, spec.model, spec.checkpoint, settings, config.device, Path())


def _unique(labels: Sequence[str]) -> list[str]:
    """Labels with a number behind those that were there before."""
    counts: dict[str, int] = {}
    found = []
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
        found.append(label if counts[label] == 1 else f"{label}-{counts[label]}")
    return found


def check_labels(subjects: Sequence[Subject], split: Split, config: DataConfig) -> None:
    """Refuse labels that a network has no class for, where the label's class is looked at.

    Raises:
        InputError: naming the network and the label.
    """
    if config.target != "label":
        return
    largest = max(example.label for example in split)
    for subject in subjects:
        if largest >= subject.num_classes:
            raise InputError(
                f"{subject.label}: has classes 0 to {subject.num_classes - 1}, but {config.data} has label "
                f"{largest}; --target predicted looks at the predicted class instead"
            )


def images_of(split: Split, config: DataConfig) -> Split:
    """The images that are measured: all, or `limit` of them evenly spread over the split.

    Raises:
        InputError: a limit below 1, or a split without images.
    """
    if config.limit is not None and config.limit < 1:
        raise InputError(f"limit is {config.limit}, expected 1 or more")
    if not len(split):
        raise InputError(f"{config.data}: holds no image")
    return spread(split, config.limit or len(split))


def spread(split: Split, count: int) -> Split:
    """At most `count` examples, evenly spread: data sets are often sorted by class."""
    if count >= len(split):
        return split
    chosen = [split.examples[index * len(split) // count] for index in range(count)]
    return replace(split, examples=chosen)
