"""A network with a new last layer: its parts of the images, the fit of the layer, and its scores."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heatbox._utils.io import to_json
from heatbox._utils.json_schema import FINITE, Kind, checked, or_null
from heatbox._utils.plugins import is_plugin
from heatbox._utils.progress import Track, silent
from heatbox.data.held_out import held_out_part
from heatbox.data.loader import preprocessed
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.run import Run
from heatbox.metrics.classification import multi_label_scores, single_label_scores
from heatbox.models.checkpoints import classes_of, read_checkpoint, read_safetensors, write_safetensors
from heatbox.models.factory import PRETRAINED, create_with_new_head
from heatbox.models.outputs import select_output
from heatbox.models.spec import as_input, eval_mode
from heatbox.ops import accelerate
from heatbox.training.config import FinetuneConfig
from heatbox.training.features import LastLayer
from heatbox.training.images import FinetuneImages, assume
from heatbox.training.linear import Objective, balanced_weights, fit_linear
from heatbox.training.weights import WEIGHTS

FEATURES, TEST_FEATURES = "features", "features-test"
HELD_OUT, HEAD = "held-out.json", "head.safetensors"

NUMBER, KNOWN = Kind("an integer from 0", lambda value: type(value) is int and value >= 0), or_null(FINITE)
FITTED = {
    "images": {"train": NUMBER, "measured": NUMBER},
    "loss": KNOWN,
    "weight_decay": FINITE,
    "weight_decays": [[KNOWN]],
}
"""Form of the scores of a fitted last layer."""


@dataclass(frozen=True)
class Part:
    """Images that are trained on, or measured on.

    Attributes:
        split: the images.
        features: (N, D), input of the last layer.
        targets: (N,) int64 labels, or (N, K) uint8 of several classes.
    """

    split: Split
    features: Tensor
    targets: Tensor

    @property
    def per_class(self) -> list[int]:
        """Number of images of each class."""
        if self.targets.ndim == 2:
            return [int(one) for one in self.targets.sum(0, dtype=torch.int64)]
        return torch.bincount(self.targets, minlength=self.split.num_classes).tolist()


def _part(split: Split, examples: Sequence[Example], features: Tensor, classes: int, single: bool) -> Part:
    if single:
        targets = torch.tensor([example.label for example in examples], dtype=torch.int64)
    else:
        targets = torch.zeros(len(examples), classes, dtype=torch.uint8)
        for row, example in enumerate(examples):
            targets[row, list(example.labels)] = 1
    return Part(dataclasses.replace(split, examples=list(examples)), features, targets)


class Classifier:
    """A network with a new last layer.

    Args:
        last: its last layer.
        images: whose classes are the network's.
    """

    def __init__(self, last: LastLayer, images: FinetuneImages) -> None:
        self.last, self.images, self.config, self.model = last, images, last.config, last.model

    @classmethod
    def start(cls, config: FinetuneConfig, images: FinetuneImages) -> Classifier:
        """The network with its initial weights."""
        torch.manual_seed(config.seed)
        checkpoint = None if config.from_scratch else config.checkpoint or PRETRAINED
        classes = images.train.num_classes
        model, layer = create_with_new_head(config.model, classes, checkpoint, **config.model_options)
        if is_plugin(config.model) and checkpoint == PRETRAINED:
            assume(config.model, "its weights are used as the function returns them")
        if checkpoint not in (None, PRETRAINED):
            before = classes_of(read_checkpoint(checkpoint))
            if before not in (None, classes):
                assume(checkpoint, f"its classifier of {before} classes is replaced by one of {classes}")
        accelerate(model, verbose=False)
        model = config.to_device(model).to(memory_format=torch.channels_last)
        return cls(LastLayer(model, layer, config), images)

    def parts(self, out: Path, track: Track) -> tuple[Part, Part]:
        """The images to train on and those to measure on, which are noted in the run folder."""
        config, data = self.config, self.images
        classes, single = data.train.num_classes, data.function == "softmax"
        examples, features = self.last.features(data.train, out / FEATURES, data.left_out, track)
        if data.test is not None:
            others = self.last.features(data.test, out / TEST_FEATURES, data.left_out, track)
            train = _part(data.train, examples, features, classes, single)
            measured = _part(data.test, *others, classes, single)
        else:
            chosen = held_out_part(examples, classes, config.held_out, config.seed)
            train, measured = (
                _part(data.train, [examples[i] for i in rows], features[rows], classes, single)
                for rows in (np.flatnonzero(~chosen).tolist(), np.flatnonzero(chosen).tolist())
            )
        _say_small_classes(data, train, measured)
        ids = [example.id for example in measured.split]
        Run(out).write_json(HELD_OUT, {"data": data.digest, "split": config.test, "ids": ids})
        return train, measured

    def objective(self, train: Part, smoothing: float = 0.0) -> Objective:
        """The loss, with the class weights of the configuration."""
        function, classes = self.images.function, self.images.train.num_classes
        wanted = self.config.class_weights
        balanced = wanted == "balanced" or (wanted == "auto" and function == "softmax")
        weights = balanced_weights(train.targets, classes, function) if balanced else torch.ones(classes)
        return Objective(function, weights, smoothing)

    def fit_head(self, train: Part, measured: Part, out: Path, track: Track) -> dict[str, Any]:
        """Fit the last layer, write it and the network into the run folder; returns the scores."""
        path = out / HEAD
        if not path.exists():
            found = fit_linear(
                train.features, train.targets, self.objective(train), (measured.features, measured.targets),
                self.last.layer.bias is not None, track=track,
            )  # fmt: skip
            logits = found(measured.features)
            scores = self.scores(train, measured, logits, 0)
            scores |= {"weight_decay": found.weight_decay, "weight_decays": found.losses}
            tensors = {"weight": found.weight, "bias": found.bias}
            write_safetensors(path, tensors, {"scores": to_json(scores)})
        tensors, metadata = read_safetensors(path)
        fitted = _fitted(path, metadata)
        if fitted["images"] != {"train": len(train.split), "measured": len(measured.split)}:
            raise other_images(out)  # files that could not be read before, or cannot any more
        with torch.no_grad():
            self.last.layer.weight.copy_(tensors["weight"].view_as(self.last.layer.weight))
            if self.last.layer.bias is not None:
                self.last.layer.bias.copy_(tensors["bias"])
        if not (out / WEIGHTS).exists():  # of a later epoch otherwise
            self.save(out / WEIGHTS, 0)
        return fitted

    def save(self, path: Path, epoch: int) -> None:
        """Write the network as a checkpoint that every command reads."""
        config, data = self.config, self.images
        metadata = {
            "model": config.model,
            "kwargs": to_json(config.model_options),
            "num_classes": str(data.train.num_classes),
            "classifier": self.last.name,
            "preprocessing": to_json(self.last.fields),
            "scores": data.function,
            "recipe": config.recipe,
            "pretraining": "scratch" if config.from_scratch else str(config.checkpoint or PRETRAINED),
            "epoch": str(epoch),
        }
        if len(data.class_names) == data.train.num_classes:
            metadata["class_names"] = to_json(data.class_names)
        write_safetensors(path, self.model.state_dict(), metadata)

    def logits(self, part: Part, track: Track = silent) -> Tensor:
        """Logits (N, K) float32 of the images of a part, on the CPU."""
        size, found = self.config.batch_size, []
        with eval_mode(self.model), torch.inference_mode():
            batches = preprocessed(part.split, part.split.examples, self.last.preprocess, size)
            for _, images in track(
                batches, f"measuring on {len(part.split)} images", -(-len(part.split) // size)
            ):
                batch = as_input(self.model, images).contiguous(memory_format=torch.channels_last)
                output = select_output(self.model(batch), self.config.output, len(images))
                found.append(output.float().cpu())
        return torch.cat(found) if found else torch.zeros(0, self.images.train.num_classes)

    def scores(self, train: Part, measured: Part, logits: Tensor, epoch: int) -> dict[str, Any]:
        """The content of finetune.json; see `heatbox.metrics.classification` for the numbers."""
        data, config = self.images, self.config
        single = data.function == "softmax"
        score = single_label_scores if single else multi_label_scores
        targets = measured.targets.numpy() if single else measured.targets.numpy().astype(bool)
        found = score(logits.numpy(), targets)
        names = data.class_names or tuple(str(label) for label in range(data.train.num_classes))
        rows = zip(names, train.per_class, found.pop("per_class"), strict=True)
        confusion = found.pop("confusion")
        loss = float(self.objective(train).mean(logits, measured.targets)) if len(logits) else None
        return {
            "recipe": config.recipe,
            "model": config.model,
            "scores": data.function,
            "measured_on": config.test or "held-out",
            "images": {"train": len(train.split), "measured": len(measured.split)},
            "epoch": epoch,
            "loss": loss,
            **found,
            "classes": [{"name": name, "train": count, **row} for name, count, row in rows],
            "confusion": confusion,
        }


def _fitted(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The scores of a fitted last layer, from the metadata of its file."""
    try:
        found = json.loads(metadata["scores"])
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: has no scores of a fine-tuning; --overwrite starts again") from error
    fitted: dict[str, Any] = checked(found, FITTED, str(path))
    return fitted


def _say_small_classes(data: FinetuneImages, train: Part, measured: Part) -> None:
    """Say which classes have no image to train on, or none to measure on."""
    names = data.class_names or tuple(str(label) for label in range(data.train.num_classes))
    where = data.train.name
    for counts, words in (
        (train.per_class, "to train on, so that it is never found"),
        (measured.per_class, "to measure on, so that nothing is known of its accuracy"),
    ):
        empty = [name for name, count in zip(names, counts, strict=True) if not count]
        if empty and len(measured.split):
            shown = ", ".join(empty[:3]) + (f" and {len(empty) - 3} more" if len(empty) > 3 else "")
            assume(where, f"no image of {shown} is left {words}")
    if not len(measured.split):
        assume(
            where,
            "no image is held out, so that nothing is known of the accuracy and nothing is chosen by it",
        )


def other_images(out: Path) -> InputError:
    """The sentence about a folder whose last layer was fitted to other images."""
    return InputError(
        f"{out}: was made with other images or labels; choose another --out or pass --overwrite"
    )
