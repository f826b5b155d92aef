"""The models of the paper and small ones, with their size, cost and the released weights that fit them."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, overload

import timm
import torch
from timm.utils.model import reparameterize_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from heatbox._utils.checks import check_choice, check_integer, kind_of
from heatbox.models._blocks import HALF, Reparameterizable, crop_cfg
from heatbox.models.spec import eval_mode

REPLKNET = "github.com/DingXiaoH/RepLKNet-pytorch"
SLAK = "github.com/VITA-Group/SLaK"
PAPER = "github.com/snskysk/CAM-Back-Again"
HUB = "hf-hub:timm"


@dataclass(frozen=True, slots=True)
class Weights:
    """A released set of weights.

    Attributes:
        name: its name in the paper or on the hub.
        side: side of the square image it was trained on, in pixels.
        source: repository that links or contains it.
        file: start of the released file's name, lower case; "" where files are fetched by hub name.
        preprocessing: fields of timm's pretrained_cfg that differ from the model's defaults at `side`.
    """

    name: str
    side: int
    source: str
    file: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The image side and all preprocessing as fields of timm's pretrained_cfg."""
        return {"input_size": (3, self.side, self.side), **crop_cfg(self.side), **self.preprocessing}


@dataclass(frozen=True, slots=True)
class ZooModel:
    """A model of the zoo, with the arguments of `timm.create_model`.

    Attributes:
        name: the name in listings and messages.
        timm_name: the name registered with timm.
        kwargs: further arguments of `timm.create_model`.
        sides: image sides in pixels for which cost is listed.
        weights: released weights that fit.
    """

    name: str
    timm_name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    sides: tuple[int, ...] = (224,)
    weights: tuple[Weights, ...] = ()

    def on_meta(self, num_classes: int = 1000) -> nn.Module:
        """The model on the meta device: shapes without values."""
        with torch.device("meta"):
            return timm.create_model(self.timm_name, num_classes=num_classes, **self.kwargs)


# The paper's fine-tuned files: the whole image squashed, with torchvision's default interpolation.
CUB = HALF | {"interpolation": "bilinear", "num_classes": 200}


def hub_weights(tag: str, side: int = 224) -> Weights:
    """ConvNeXt weights in timm's collection on the hub; the preprocessing is timm's own."""
    return Weights(f"{HUB}/{tag}", side, HUB)


def slak_weights(name: str) -> tuple[Weights, ...]:
    """Weights of the SLaK authors, whose files have no fixed names."""
    return (Weights(name, 224, SLAK),)


ZOO = (
    ZooModel(
        "replknet_31b",
        "replknet_31b",
        sides=(224, 384),
        weights=(
            Weights("31B1K224", 224, REPLKNET, "replknet-31b_imagenet-1k_224"),
            Weights("31B1K384", 384, REPLKNET, "replknet-31b_imagenet-1k_384"),
            Weights("31B22K224", 224, REPLKNET, "replknet-31b_imagenet-22k-to-1k_224"),
            Weights("31B22K384", 384, REPLKNET, "replknet-31b_imagenet-22k-to-1k_384"),
            Weights("31B1K384 on CUB", 384, PAPER, "replknet_31b1k384_cub", CUB),
        ),
    ),
    ZooModel(
        "replknet_31l",
        "replknet_31l",
        sides=(224, 384),
        weights=(Weights("31L22K384", 384, REPLKNET, "replknet-31l_imagenet-22k-to-1k_384"),),
    ),
    ZooModel(
        "replknet_xl",
        "replknet_xl",
        sides=(224, 320),
        weights=(Weights("XL", 320, REPLKNET, "replknet-xl_megdata73m_imagenet1k", HALF),),
    ),
    ZooModel("slak_tiny_k31", "slak_tiny", {"kernel_size": 31}, (224, 384), slak_weights("SLaK_tiny31")),
    ZooModel("slak_tiny", "slak_tiny", {"kernel_size": 51}, (224, 384), slak_weights("SLaK_tiny51")),
    ZooModel("slak_tiny_k61", "slak_tiny", {"kernel_size": 61}, (224, 384), slak_weights("SLaK_tiny61")),
    ZooModel("slak_small", "slak_small", {"kernel_size": 51}, (224, 384), slak_weights("SLaK_small51")),
    ZooModel("slak_base", "slak_base", {"kernel_size": 51}, (224, 384), slak_weights("SLaK_base51")),
    ZooModel("convnext_tiny", "convnext_tiny", weights=(hub_weights("convnext_tiny.fb_in1k"),)),
    ZooModel("convnext_small", "convnext_small", weights=(hub_weights("convnext_small.fb_in1k"),)),
    ZooModel(
        "convnext_base",
        "convnext_base",
        sides=(224, 384),
        weights=(
            hub_weights("convnext_base.fb_in1k"),
            hub_weights("convnext_base.fb_in22k_ft_in1k"),
            hub_weights("convnext_base.fb_in22k_ft_in1k_384", 384),
            Weights("convnext_base_384_in22ft1k on CUB", 384, PAPER, "convnext_base_384_in22ft1k_cub", CUB),
        ),
    ),
    ZooModel(
        "convnext_large",
        "convnext_large",
        weights=(hub_weights("convnext_large.fb_in1k"), hub_weights("convnext_large.fb_in22k_ft_in1k")),
    ),
    # For images of 64 pixels.
    *(
        ZooModel(name, name, sides=(64,))
        for name in (
            *("replknet_nano", "slak_nano", "convnext_atto_64"),
            *("replknet_micro", "slak_micro", "convnext_micro", "resnet10_small"),
            *("test_replknet", "test_slak"),  # map of 4 x 4, for tests
        )
    ),
)


@dataclass(frozen=True, slots=True)
class Counts:
    """Size and cost of a model for one image.

    Attributes:
        params: parameters (no buffers).
        conv_macs: multiply-accumulates of convolutions.
        linear_macs: multiply-accumulates of linear layers.
    """

    params: int
    conv_macs: int
    linear_macs: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers together."""
        return self.conv_macs + self.linear_macs


def count(model: nn.Module, side: int) -> Counts:
    """Parameters and multiply-accumulates of a model on the meta device, for one square image.

    Only convolutions and linear layers are counted, without biases, as is usual; the tables of the papers
    list multiply-accumulates as FLOPs. The model's mode is restored.
    """
    with FlopCounterMode(display=False) as counter, eval_mode(model), torch.no_grad():
        model(torch.empty(1, 3, side, side, device="meta"))
    flops, aten = counter.get_flop_counts()["Global"], torch.ops.aten
    linear = flops.get(aten.addmm, 0) + flops.get(aten.mm, 0)
    params = sum(parameter.numel() for parameter in model.parameters())
    return Counts(params, flops.get(aten.convolution, 0) // 2, linear // 2)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model of the zoo with its size, cost, preprocessing and released weights.

    Attributes:
        name: the name in listings and messages.
        timm_name: the name registered with timm.
        kwargs: further arguments of `timm.create_model`.
        params: parameters.
        macs: image side in pixels → multiply-accumulates for one image.
        merged_macs: the same after re-parameterization, where the model has one.
        mean: mean of the preprocessing, per channel.
        std: standard deviation of the preprocessing, per channel.
        checkpoints: released weights that fit, as (name, image side, source).
    """

    name: str
    timm_name: str
    kwargs: Mapping[str, Any]
    params: int
    macs: Mapping[int, int]
    merged_macs: Mapping[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checkpoints: tuple[tuple[str, int, str], ...]


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models in the zoo; `timm.list_models` lists timm's.

    Args:
        pattern: only names that match it, with the wildcards * and ?.

    Raises:
        TypeError: a pattern that is not text.

    Examples:
        >>> list_models("replknet_*")
        ['replknet_31b', 'replknet_31l', 'replknet_xl', 'replknet_nano', 'replknet_micro']
    """
    if not isinstance(pattern, str):
        raise TypeError(f"pattern: {kind_of(pattern)}, expected text such as '*convnext*'")
    return fnmatch.filter([entry.name for entry in ZOO], pattern)


@overload
def model_info(name: str, num_classes: int = 1000) -> ModelInfo: ...
@overload
def model_info(name: None = None, num_classes: int = 1000) -> list[ModelInfo]: ...
def model_info(name: str | None = None, num_classes: int = 1000) -> ModelInfo | list[ModelInfo]:
    """Size, cost, preprocessing and fitting released weights of one model of the zoo, or of all of them.

    Args:
        name: one of `list_models()`; None for all.
        num_classes: outputs of the classifiers that are counted.

    Raises:
        InputError: no model of that name, or fewer than one class.
        TypeError: a number of classes that is not an integer.

    Examples:
        >>> model_info("replknet_micro").params
        631848
    """
    check_integer(num_classes, "num_classes")
    if name is None:
        return [_info_of(entry, num_classes) for entry in ZOO]
    check_choice(name, "name", list_models())
    return next(_info_of(entry, num_classes) for entry in ZOO if entry.name == name)


def _info_of(entry: ZooModel, num_classes: int) -> ModelInfo:
    model = entry.on_meta(num_classes)
    config: Any = model.pretrained_cfg
    counts = {side: count(model, side) for side in entry.sides}
    merged = counts
    if any(isinstance(module, Reparameterizable) for module in model.modules()):
        reparameterize_model(model, inplace=True)
        merged = {side: count(model, side) for side in entry.sides}
    return ModelInfo(
        name=entry.name,
        timm_name=entry.timm_name,
        kwargs=entry.kwargs,
        params=counts[entry.sides[0]].params,
        macs={side: c.macs for side, c in counts.items()},
        merged_macs={side: c.macs for side, c in merged.items()},
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        checkpoints=tuple((w.name, w.side, w.source) for w in entry.weights),
    )
