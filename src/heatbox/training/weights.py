"""The model a training begins with, and the files of weights it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from heatbox._utils.io import to_json
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.models.checkpoint_files import write_safetensors
from heatbox.models.checkpoint_fit import gap_fc_head
from heatbox.models.checkpoints import load_checkpoint
from heatbox.models.factory import PRETRAINED, create_model
from heatbox.ops import accelerate
from heatbox.training.config import TrainConfig

PUBLISHED, SCRATCH = "published", "scratch"
CHECKPOINTS = "checkpoints"


def built(config: TrainConfig, num_classes: int, checkpoint: str | None = None) -> nn.Module:
    """The untrained model of a configuration, with its preprocessing noted in `pretrained_cfg`."""
    model = create_model(config.model, num_classes, checkpoint, **config.model_options)
    if config.head == "gap_fc":
        gap_fc_head(model)
    known = getattr(model, "pretrained_cfg", None)
    if isinstance(known, dict):
        known.update(preprocessing_of(config))
    return model


def preprocessing_of(config: TrainConfig) -> dict[str, Any]:
    """Fields of timm's pretrained_cfg that a configuration settles."""
    return {
        "input_size": (3, config.size, config.size),
        "mean": config.mean,
        "std": config.std,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }


def start_model(config: TrainConfig, num_classes: int, recompute: bool = False) -> nn.Module:
    """The model with the weights that the training starts from, its large convolutions accelerated.

    Args:
        config: which model and weights.
        num_classes: of the data.
        recompute: activations are computed again in the backward pass instead of being kept.

    Raises:
        InputError: the file of weights is not there; the message says where it is published. Or the model
            cannot recompute its activations.
    """
    from_timm = config.pretrained == PUBLISHED
    if not from_timm and config.pretrained != SCRATCH and not Path(config.pretrained).is_file():
        raise InputError(
            f"{config.pretrained}: no such file of weights to start from; it is published in "
            f"{config.pretrained_source or 'a place this recipe does not know'}: give its path with "
            "--pretrained, or --pretrained scratch to train from random weights"
        )
    torch.manual_seed(config.seed)
    model = built(config, num_classes, PRETRAINED if from_timm else None)
    if not from_timm and config.pretrained != SCRATCH:
        load_checkpoint(model, config.pretrained, head=False)
    accelerate(model, verbose=False)
    if recompute:
        switch = getattr(model, "set_grad_checkpointing", None)
        if switch is None:
            raise InputError(f"{config.model}: has no activation checkpointing; leave --recompute out")
        switch(True)
    return model.to(memory_format=torch.channels_last)


def checkpoint_path(out: Path, epoch: int, name: str) -> Path:
    """Where the weights of an epoch are, or their average ("ema")."""
    return out / CHECKPOINTS / f"epoch-{epoch:04d}{'-ema' if name == 'ema' else ''}.safetensors"


def save_weights(model: nn.Module, config: TrainConfig, split: Split, path: Path) -> None:
    """Write weights that `heatbox evaluate --checkpoint` reads, with what is known of them."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent}: could not be made ({error})") from error
    metadata = {
        "model": config.model,
        "kwargs": to_json(config.model_options),
        "num_classes": str(split.num_classes),
        "preprocessing": to_json(preprocessing_of(config)),
        "recipe": config.recipe,
    }
    write_safetensors(path, model.state_dict(), metadata)
