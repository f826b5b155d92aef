"""The model that a training starts from, the checkpoints it writes, and the model of a run folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models import get_pretrained_cfg
from torch import nn

from heatbox._utils.io import made_folder, read_json, to_json
from heatbox._utils.json_schema import COUNT, checked, one_of
from heatbox.config import ModelSpec
from heatbox.errors import InputError
from heatbox.evaluation.run import CONFIG, Run
from heatbox.evaluation.schema import checked_network
from heatbox.models.checkpoints import gap_fc_head, load_checkpoint, read_checkpoint, write_safetensors
from heatbox.models.factory import PRETRAINED, create_model, shipped
from heatbox.models.spec import input_channels, update_data_config
from heatbox.ops import accelerate
from heatbox.training.config import TrainConfig
from heatbox.training.recipes import PRETRAINED_ON

PUBLISHED, SCRATCH = "published", "scratch"
CHECKPOINTS = "checkpoints"
TRAINING = "training.json"
WEIGHTS = "weights.safetensors"
"""Weights of a run folder that is no training of a recipe: a demo, a fine-tuning."""
_SETTINGS = ("num_classes", "size", "interpolation", "crop_pct", "mean", "std", "model_options")


def built(config: TrainConfig, num_classes: int, checkpoint: str | None = None) -> nn.Module:
    """The model of a configuration, with its preprocessing in `pretrained_cfg`; by default untrained."""
    model = create_model(config.model, num_classes, checkpoint, **config.model_options)
    if config.head == "gap_fc":
        try:
            gap_fc_head(model)
        except InputError as error:
            better = (
                f"heatbox train finetune --model {config.model} fits any network to the classes of --data"
            )
            raise InputError(f"{error}; {better}") from error
    update_data_config(model, preprocessing_of(config))
    return model


def preprocessing_of(config: TrainConfig) -> dict[str, Any]:
    """The fields of timm's pretrained_cfg that a configuration determines."""
    spec = config.spec
    return {
        "input_size": (3, spec.size, spec.size),
        "mean": spec.mean,
        "std": spec.std,
        "interpolation": spec.interpolation,
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }


def start_model(config: TrainConfig, num_classes: int, recompute: bool = False) -> nn.Module:
    """The model with its initial weights, its large convolutions accelerated.

    Args:
        config: the model and its initial weights.
        num_classes: of the data.
        recompute: recompute activations in the backward pass instead of keeping them.

    Raises:
        InputError: the file of weights does not exist (the message names where it is published), the model
            does not read RGB images, or it does not support activation checkpointing.
    """
    file = None if config.pretrained in (PUBLISHED, SCRATCH) else Path(config.pretrained)
    if file is not None and not file.is_file():
        raise InputError(
            f"{file}: no such file of initial weights; it is published in "
            f"{config.pretrained_source or 'a place this recipe does not name'}: give its path with "
            "--pretrained, or --pretrained scratch to train from random weights"
        )
    torch.manual_seed(config.seed)
    model = built(config, num_classes, PRETRAINED if config.pretrained == PUBLISHED else None)
    if (channels := input_channels(model)) != 3:
        raise InputError(f"{config.model}: reads images of {channels} channels, but heatbox trains on RGB")
    if file is not None:
        load_checkpoint(model, file, head=False)
    accelerate(model, verbose=False)
    if recompute:
        set_checkpointing = getattr(model, "set_grad_checkpointing", None)
        if set_checkpointing is None:
            raise InputError(f"{config.model}: does not support activation checkpointing; omit --recompute")
        set_checkpointing(True)
    return model.to(memory_format=torch.channels_last)


def pretraining_of(config: TrainConfig) -> str:
    """What the initial weights were trained on: "scratch", "in1k", "in22k", or the recipe of a training.

    For timm's published weights it is the first data set in their tag ("fb_in22k_ft_in1k" → "in22k"), or the
    tag where it names no ImageNet; for a file of unknown origin it is the file's name.
    """
    if config.pretrained == SCRATCH:
        return SCRATCH
    if config.pretrained == PUBLISHED and config.model not in shipped():
        known = get_pretrained_cfg(config.model)
        tag = (known.tag if known is not None else "") or PUBLISHED
        found = re.search(r"in\d+k", tag)
        return found[0] if found else tag
    file = shipped()[config.model] if config.pretrained == PUBLISHED else Path(config.pretrained)
    return PRETRAINED_ON.get(file.name) or read_checkpoint(file).metadata.get("recipe") or file.stem


def checkpoint_path(out: Path, epoch: int, name: str) -> Path:
    """The file of an epoch's weights, or of their moving average ("ema")."""
    return out / CHECKPOINTS / f"epoch-{epoch:04d}{'-ema' if name == 'ema' else ''}.safetensors"


def save_weights(
    model: nn.Module,
    config: TrainConfig,
    num_classes: int,
    pretraining: str,
    path: Path,
    class_names: Sequence[str] = (),
) -> None:
    """Write a checkpoint that `heatbox evaluate --checkpoint` reads, with metadata about the training.

    Args:
        model: the weights.
        config: of the training.
        num_classes: of the data.
        pretraining: see `pretraining_of`.
        path: see `checkpoint_path`.
        class_names: names of the classes, where the data has them.
    """
    metadata = {
        "model": config.model,
        "kwargs": to_json(config.model_options),
        "num_classes": str(num_classes),
        "preprocessing": to_json(preprocessing_of(config)),
        "recipe": config.recipe,
        "pretraining": pretraining,
    }
    if len(class_names) == num_classes:
        metadata["class_names"] = to_json([str(name) for name in class_names])
    made_folder(path.parent)
    write_safetensors(path, model.state_dict(), metadata)


def last_checkpoint(folder: Path) -> Path | None:
    """The last weights of a training, their average where there is one; None where nothing was trained.

    Raises:
        InputError: training.json is damaged.
    """
    path = folder / TRAINING
    if not path.is_file():
        return None
    last = checked(read_json(path), {"last": {"epoch": COUNT}}, str(path))["last"]
    return checkpoint_path(folder, last["epoch"], "ema" if "ema" in last else "weights")


def best_checkpoint(folder: Path, method: str = "cam") -> Path:
    """The checkpoint of a training with the best MaxBoxAcc of a map, or the last one where none was scored.

    The paper reports the best checkpoint of CAM (supplement 8).

    Raises:
        InputError: there is no such checkpoint.
    """
    path = folder / TRAINING
    last = last_checkpoint(folder)
    if last is None:
        raise InputError(f"{folder}: contains no finished training ({TRAINING} is missing)")
    form = {"best": {f"{method}?": {"epoch": COUNT, "weights": one_of("weights", "ema")}}}
    best = checked(read_json(path), form, str(path))["best"].get(method)
    chosen = checkpoint_path(folder, best["epoch"], best["weights"]) if best else last
    if not chosen.is_file():
        raise InputError(f"{chosen}: is missing; train {folder.name} again")
    return chosen


def spec_of_run(folder: str | Path, **overrides: Any) -> ModelSpec:
    """The model of a run folder: the evaluated model, or that of a training with its last weights.

    Args:
        folder: of an evaluation, a demo or a training.
        overrides: fields of `ModelSpec` that replace the run's; those that are None do not. The device is
            not the run's: it is "auto" unless it is given here.

    Raises:
        InputError: the folder contains no run, or its files are damaged.
    """
    path = next((one for one in (Path(folder), Path(folder) / "training") if (one / CONFIG).is_file()), None)
    if path is None:
        raise InputError(f"{folder}: contains no {CONFIG}; expected the folder of a run, or a model's name")
    saved = checked_network(Run(path).config(), path / CONFIG)
    weights = path / WEIGHTS
    last = weights if weights.is_file() else last_checkpoint(path)
    fields = {name: saved[name] for name in _SETTINGS if saved.get(name) is not None}
    fields |= {name: tuple(fields[name]) for name in ("mean", "std") if name in fields}
    fields |= {"model": saved["model"], "checkpoint": str(last) if last else saved.get("checkpoint")}
    return ModelSpec(**fields | {name: value for name, value in overrides.items() if value is not None})
