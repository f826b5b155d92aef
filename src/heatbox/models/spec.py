"""A built classifier: its preprocessing, class names, device, dtype and mode.

`heatbox.config.ModelSpec` describes which classifier to build; the rest of the package asks these two.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import DataParallel
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

IMAGENET_CLASSES = 1000


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside `DataParallel`, `DistributedDataParallel`, `AveragedModel` and `torch.compile`.

    These compute what the module inside computes, of the same images; they may be nested. Any other module
    is returned as it is.
    """
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
            model = model.module
        elif type(model).__name__ == "OptimizedModule" and isinstance(inner := model._orig_mod, nn.Module):
            model = inner
        else:
            return model


def data_config(model: nn.Module) -> dict[str, Any]:
    """The model's own preprocessing, fields of timm's `pretrained_cfg`; empty where it has none."""
    return dict(getattr(unwrap(model), "pretrained_cfg", None) or {})


def update_data_config(model: nn.Module, fields: Mapping[str, Any]) -> None:
    """Note how a model's weights were trained in its `pretrained_cfg`, if it has one."""
    config = getattr(unwrap(model), "pretrained_cfg", None)
    if isinstance(config, dict) and fields:
        for name in ("test_input_size", "test_crop_pct", "test_pool_size"):  # those of other weights
            config.pop(name, None)
        config.update(fields)


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the input that a model was trained with, 224 pixels if unknown."""
    channels, height, width = data_config(model).get("input_size", (3, 224, 224))
    return channels, height, width


def model_name(model: nn.Module) -> str:
    """Name of a model in messages: its architecture where it is known, otherwise its class."""
    return data_config(model).get("architecture") or type(unwrap(model)).__name__


def class_names(model: nn.Module, number: int) -> Sequence[str]:
    """Names of the classes where they are known: the model's, or those of ImageNet-1k for 1000 classes."""
    config = data_config(model)
    own = config.get("label_names") or ()
    if len(own) == number:
        described = config.get("label_descriptions") or {}
        return [str(described.get(name, name)) for name in own]
    if number != IMAGENET_CLASSES or not config:
        return ()
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(index) for index in range(number)]


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of a model's first parameter; the CPU and float32 where it has none."""
    parameter = next(model.parameters(), torch.zeros(()))
    return parameter.device, parameter.dtype


def as_input(model: nn.Module, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) on the model's device and in its dtype."""
    return images.to(*placement(model))


def blank_input(model: nn.Module, height: int, width: int) -> Tensor:
    """Zeros (1, 3, height, width) on the model's device and in its dtype."""
    return as_input(model, torch.zeros(1, 3, height, width))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode; afterwards each one is back in the mode it had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """A context after which every attribute of every module is what it was before.

    Some models change themselves for images of another size, such as their windows of attention. Parameters
    and buffers are put back as objects; their values are not copied.
    """
    before = [(module, dict(vars(module)), _contents(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes, contents in before:
            vars(module).clear()
            vars(module).update(attributes)
            for container, content in contents:
                if isinstance(container, list):
                    container[:] = content
                else:
                    container.clear()
                    container.update(content)


def _contents(module: nn.Module) -> list[tuple[Any, Any]]:
    """The lists, dictionaries and sets among a module's attributes, and copies of them."""
    return [
        (value, copy.copy(value))
        for value in vars(module).values()
        if type(value) in (list, dict, set, OrderedDict)
    ]
