"""AdamW with the paper's learning rates: one for the classifier and one for the rest, or layer-wise decay."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from heatbox.models.checkpoints import classifier_names
from heatbox.training.config import TrainConfig


def rate_at(step: int, steps: int, warmup: int, floor: float) -> float:
    """Fraction of the peak learning rate at a step: linear warm-up, then cosine decay to a floor.

    Args:
        step: from 0.
        steps: of the whole training.
        warmup: steps until the peak.
        floor: fraction of the peak at the end.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(steps - 1 - warmup, 1)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Parameter groups, each with its "peak" learning rate and its weight decay.

    The classifier has `lr_head`, the rest `lr`, multiplied by `layer_decay`, where that is set, once for each
    layer below the last (timm's grouping of layers). Tensors of fewer than two dimensions, and those that the
    model lists in `no_weight_decay`, have no weight decay.
    """
    scales = _layer_scales(model, config.layer_decay) if config.layer_decay is not None else {}
    head = classifier_names(model)
    undecayed: set[str] = getattr(model, "no_weight_decay", set)()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        peak = config.lr_head if name in head else config.lr * scales.get(name, 1.0)
        decay = 0.0 if parameter.ndim < 2 or name in undecayed else config.weight_decay
        groups.setdefault((peak, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay}
        for (peak, decay), parameters in groups.items()
    ]


def _layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """Parameter name → factor of its learning rate."""
    from timm.optim import param_groups_layer_decay

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: group["lr_scale"]
        for group in param_groups_layer_decay(model, layer_decay=decay)
        for parameter in group["params"]
    }


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; `set_rates` sets the learning rates of a step."""
    return torch.optim.AdamW(parameter_groups(model, config), lr=config.lr, weight_decay=config.weight_decay)


def set_rates(optimizer: torch.optim.Optimizer, fraction: float) -> None:
    """Set the learning rate of every group to a fraction of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * fraction
