"""A built classifier: its preprocessing, input, class names, device, dtype and mode.

`heatbox.config.ModelSpec` describes which classifier to build; the rest of the package asks these two.

A classifier often lies inside another module that changes its images first. Which change that is, is measured
instead of recognized by name: the outer module gets a few small images, and its forward pass is stopped where
the inner module is called. Where the inner module then has ``scale * x + shift`` of each channel x, the
preprocessing of both together follows from that of the inner one.
"""

from __future__ import annotations

import itertools
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import DataParallel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from heatbox.errors import InputError

IMAGENET_CLASSES = 1000
_TORCHVISION = (
    *("AlexNet", "ConvNeXt", "DenseNet", "EfficientNet", "GoogLeNet", "Inception3", "MNASNet", "MaxVit"),
    *("MobileNetV2", "MobileNetV3", "RegNet", "ResNet", "ShuffleNetV2", "SqueezeNet", "SwinTransformer"),
    *("VGG", "VisionTransformer"),
)
"""Classifiers of torchvision, which do not keep the preprocessing of their weights."""

_TOLERANCE = 0.01  # of the spread: an outer module may round to 8 bits, a gamma curve is further from a line

_FRAMING = 0.03
"""Fraction of an image that a model may crop or pad inside without it being said."""


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


# -------------------------------------------------------------------------------------------- preprocessing


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of a model as far as it is known.

    Attributes:
        config: the known fields of timm's `pretrained_cfg`: input_size (C, H, W), mean, std, interpolation;
            and channel_order, "bgr" where the network reads blue first.
        notes: clauses about the model: what was concluded or could not be known about mean and std.
        framing: a clause about a crop or padding inside the model; "" without.
    """

    config: dict[str, Any]
    notes: tuple[str, ...] = ()
    framing: str = ""


def data_config(model: nn.Module) -> dict[str, Any]:
    """The model's own preprocessing, as far as it is known, as fields of timm's `pretrained_cfg`.

    It is that of the network inside where the model contains it, see `find_preprocessing`.
    """
    return find_preprocessing(model).config


def find_preprocessing(model: nn.Module) -> Preprocessing:
    """What is known of how images become the input of a model.

    It is the `pretrained_cfg` of the model or of a network inside it, or the preprocessor_config.json in the
    local folder that a model of Hugging Face was loaded from. Where a module around that network changes the
    images by a scale and a shift of each channel, mean and std are those of the whole. A module without any
    `pretrained_cfg` that normalizes images itself reads images in [0, 1] or [0, 255].
    """
    model = unwrap(model)
    inner = _configured(model)
    if inner == [model]:
        return Preprocessing(_config_of(model))
    if inner:
        return _seen_from_outside(model, inner)
    partial = _config_of(model)  # of Hugging Face: an input size alone
    return _of_first_layer(model, partial)


def _config_of(module: nn.Module) -> dict[str, Any]:
    """The preprocessing that a module itself describes; empty where it does not."""
    config = getattr(module, "pretrained_cfg", None)
    if isinstance(config, Mapping) and config:
        return dict(config)
    own = getattr(module, "config", None)
    if hasattr(own, "to_dict") and hasattr(own, "model_type"):
        return _hugging_face_config(own)
    return {}


def _configured(model: nn.Module) -> list[nn.Module]:
    """The outermost modules that describe the mean of their images, in the order of registration."""
    if "mean" in _config_of(model):
        return [model]
    return [found for child in model.children() for found in _configured(unwrap(child))]


def is_torchvision(model: nn.Module) -> bool:
    """Whether a model is a classifier of torchvision."""
    model = unwrap(model)
    classes = type(model).__mro__
    return any(c.__module__.startswith("torchvision.models") and c.__name__ in _TORCHVISION for c in classes)


# ---- Hugging Face


def _hugging_face_config(config: Any) -> dict[str, Any]:
    """Preprocessing of a model of transformers: its processor's where that is at hand, and its image size."""
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
    channels = channels if isinstance(channels, int) else 3
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    known: dict[str, Any] = {}
    if len(sides) == 2 and all(isinstance(side, int) for side in sides):
        known["input_size"] = (channels, *sides)
    path = _processor_file(str(getattr(config, "_name_or_path", "") or ""))
    return known if path is None else known | _processor_config(path, path.stat().st_mtime_ns, channels)


@lru_cache(maxsize=32)
def _processor_config(path: Path, changed: int, channels: int) -> dict[str, Any]:
    """What the image processor of a folder does; empty where it cannot be used."""
    from heatbox.models.processors import processor_config

    try:
        return processor_config(path.parent, path.parent.name, channels)
    except InputError:  # as if there were none, which is said
        return {}


def _processor_file(name: str) -> Path | None:
    """The file that describes the image processor of a local folder, or of a repository in the cache."""
    from heatbox.models.processors import PROCESSORS

    if not name:
        return None
    if Path(name).is_dir():
        return next((path for file in PROCESSORS if (path := Path(name, file)).is_file()), None)
    if name.count("/") > 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        found = (try_to_load_from_cache(name, file) for file in PROCESSORS)
        return next((Path(path) for path in found if isinstance(path, str)), None)
    except ValueError:  # no name of a repository
        return None


# ---- what reaches a network inside another module


class _Reached(BaseException):
    """Ends a forward pass; not an Exception, so that no `except Exception` of a model stops it."""


def _inputs_of(
    model: nn.Module, modules: Sequence[nn.Module], images: Tensor, every: bool
) -> dict[nn.Module, Tensor]:
    """Module → the tensor that its first call gets; the forward pass ends there.

    Args:
        model: it is in the same state afterwards, but for random numbers on other devices than the CPU.
        modules: of the model.
        images: input of the model.
        every: stop when all of the modules were called; otherwise at the first.
    """
    found: dict[nn.Module, Tensor] = {}

    def stop(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        first = next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)), None)
        if module not in found and first is not None:
            found[module] = first.detach().float().cpu().clone()
        if not every or len(found) == len(modules):
            raise _Reached

    with ExitStack() as stack:
        stack.enter_context(unchanged(model))
        stack.enter_context(_same_buffers(model))
        stack.enter_context(eval_mode(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for module in modules:
            stack.callback(module.register_forward_pre_hook(stop, with_kwargs=True).remove)
        with suppress(_Reached):
            model(as_input(model, images))
    return found


def _noise(channels: int, height: int, width: int) -> Tensor:
    """(2, C, H, W) in [0, 1], the second image of less contrast: standardizing each image is no scale."""
    noise = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    noise[1] = 0.5 + 0.4 * noise[1]
    return noise


def _colours(channels: int, height: int, width: int) -> Tensor:
    """(N, C, H, W), each image of one random colour, for modules that also resize, crop or pad."""
    colours = torch.rand(4 + 2 * channels, channels, 1, 1, generator=torch.Generator().manual_seed(0))
    return colours.expand(-1, -1, height, width).contiguous()


@dataclass(frozen=True)
class _Affine:
    """Each channel of an inner module is ``scale * x[source] + shift``, x being the outer module's input.

    Attributes:
        scale, shift: (C_inner,) float64.
        source: the channel of the input that each inner channel reads; None where a single inner channel
            is a weighted sum of all, with `scale` the sum of the weights.
        channels: of the input.
        pixelwise: whether each pixel follows from that at the same place; otherwise images are also resized,
            cropped or padded.
    """

    scale: np.ndarray
    shift: np.ndarray
    source: tuple[int, ...] | None
    channels: int
    pixelwise: bool = True

    @property
    def is_identity(self) -> bool:
        """Whether the images are unchanged."""
        straight = self.source == tuple(range(self.channels))
        return straight and bool(
            np.allclose(self.scale, 1, atol=1e-3) and np.allclose(self.shift, 0, atol=1e-3)
        )

    def before(self, mean: Sequence[float], std: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and std, for each inner channel, with which the outer module gives the inner one its pixels.

        ``scale * (p - m) / s + shift = (p - mean) / std`` for all pixels p where ``s = scale * std`` and
        ``m = mean + std * shift``.
        """
        inner_mean, inner_std = np.asarray(mean, float), np.asarray(std, float)
        return inner_mean + inner_std * self.shift, inner_std * self.scale

    def _readers(self) -> list[list[int]]:
        """For each channel of the input the inner channels that read it."""
        if self.source is None:
            return [[0]] * self.channels
        pairs = list(enumerate(self.source))
        return [[inner for inner, source in pairs if source == one] for one in range(self.channels)]

    def outer_channels(self, mean: np.ndarray, std: np.ndarray) -> tuple[list[float], list[float]]:
        """The result of `before` for each channel of the input; the mean where several inner ones read it."""
        readers = self._readers()
        return (
            [float(mean[one].mean()) if one else 0.0 for one in readers],
            [float(std[one].mean()) if one else 1.0 for one in readers],
        )

    def is_mixed(self, mean: np.ndarray, std: np.ndarray) -> bool:
        """Whether inner channels that read the same one of the input need different values."""
        spans = [max(np.ptp(mean[one]), np.ptp(std[one])) for one in self._readers() if len(one) > 1]
        return max(spans, default=0.0) > 1e-3


def fit_affine(outer: Tensor, inner: Tensor) -> _Affine | None:
    """How the channels of an inner module follow from those of the outer one; None where they do not so.

    Args:
        outer, inner: (N, C) values of the same pixels.
    """
    x, y = outer.double().numpy(), inner.double().numpy()
    if not np.isfinite(y).all():
        return None
    solution = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0]
    weights, shift = solution[:-1].T, solution[-1]  # (C_inner, C), (C_inner,)
    spread = y.std(0)
    residual = np.sqrt(((x @ weights.T + shift - y) ** 2).mean(0))
    if (spread <= 0).any() or (residual > _TOLERANCE * spread).any():
        return None
    largest = np.abs(weights).max(1, keepdims=True)
    source = tuple(int(one) for one in np.abs(weights).argmax(1))
    if ((np.abs(weights) > _TOLERANCE * largest).sum(1) == 1).all():
        scale = weights[np.arange(len(weights)), source]
        return _Affine(scale, shift, source, x.shape[1]) if (scale > 0).all() else None
    total = weights.sum(1)
    return _Affine(total, shift, None, x.shape[1]) if len(weights) == 1 and total[0] > 0 else None


def _pixels(images: Tensor, inner: Tensor | None, plain: bool) -> tuple[Tensor, Tensor] | None:
    """(N, C) values of the same pixels outside and inside; None where the shapes do not tell which those are.

    Args:
        images: (B, C, H, W).
        inner: what reached the inner module.
        plain: whether each image has one colour.
    """
    if inner is None or inner.ndim != 4 or len(inner) != len(images):
        return None
    if inner.shape[2:] == images.shape[2:] and not plain:
        return images.movedim(1, 3).flatten(0, 2), inner.movedim(1, 3).flatten(0, 2)
    if plain:  # resized, cropped or padded, the pixel at the centre still has the colour
        return images[:, :, 0, 0], inner[:, :, inner.shape[2] // 2, inner.shape[3] // 2]
    return None


def _relations(
    model: nn.Module, inner: Sequence[nn.Module], size: tuple[int, int, int], every: bool
) -> dict[nn.Module, _Affine | None]:
    """Inner module that is called → how its input follows from the images; None where it does not so.

    The relation is measured on noise, or else on plain colours. Without `every`, only the first module that
    is called is measured.
    """
    found: dict[nn.Module, _Affine | None] = {}
    for make in (_noise, _colours):
        images = make(*size)
        try:
            reached = _inputs_of(model, inner, images, every)
        except (
            Exception
        ):  # a foreign module may raise anything, for example at a size that it does not accept
            continue
        for module, value in reached.items():
            if found.get(module) is None:
                pixels = _pixels(images, value, make is _colours)
                relation = None if pixels is None else fit_affine(*pixels)
                found[module] = relation and replace(relation, pixelwise=make is _noise)
        if found and None not in found.values():
            break
    return found


def _framing(
    model: nn.Module, module: nn.Module, relation: _Affine, size: tuple[int, int, int]
) -> str | None:
    """Words on how a model crops or pads its images before a module; None where that sees them whole.

    The part is measured on two images whose values are the horizontal and the vertical position.
    """
    if relation.pixelwise:
        return None
    channels, height, width = size
    across = ((torch.arange(width) + 0.5) / width).expand(height, width)
    down = ((torch.arange(height) + 0.5) / height)[:, None].expand(height, width)
    images = torch.stack([across, down])[:, None].expand(2, channels, height, width).contiguous()
    try:
        inner = _inputs_of(model, [module], images, every=False)[module]
    except Exception:  # as in `_relations`
        return None
    positions = (inner[:, 0].double().numpy() - relation.shift[0]) / relation.scale[0]  # (2, h, w)
    ends = []
    for line in (positions[0][positions.shape[1] // 2], positions[1][:, positions.shape[2] // 2]):
        middle = np.arange(len(line) // 4, len(line) - len(line) // 4)
        slope, start = np.polyfit(middle, line[middle], 1) if len(middle) > 1 else (1.0, 0.5)
        ends.append((start - slope / 2, start + slope * (len(line) - 0.5)))
    if all(abs(low) < _FRAMING and abs(high - 1) < _FRAMING for low, high in ends):
        return None
    (left, right), (top, bottom) = ((round(100 * low), round(100 * high)) for low, high in ends)
    return (
        f"crops or pads its images before {_short(module)} reads them (from {left} to {right}% of the width "
        f"and {top} to {bottom}% of the height), but its maps are taken as maps of the whole image"
    )


def _seen_from_outside(model: nn.Module, inner: Sequence[nn.Module]) -> Preprocessing:
    """The preprocessing of a model with one or several networks inside that describe theirs."""
    height, width = tuple(_config_of(inner[0]).get("input_size", (3, 224, 224)))[-2:]
    size = (input_channels(model), height, width)
    relations = _relations(model, inner, size, every=True) or dict.fromkeys(inner)
    config = {**_config_of(next(iter(relations))), "input_size": size}
    notes: list[str] = []
    framing: list[str | None] = []
    found: list[tuple[list[float], list[float]]] = []
    for network, relation in relations.items():
        own = _config_of(network)
        mean, std = list(own["mean"]), list(own.get("std", ())) or [1.0] * len(own["mean"])
        if relation is None:
            notes.append(
                f"changes its images before {_short(network)} reads them, and not by a scale and a shift of "
                f"each channel, so the mean and std of {_short(network)} are used as they are"
            )
            found.append((mean, std))
            continue
        framing.append(_framing(model, network, relation, size))
        if relation.is_identity and len(mean) == len(std) == size[0]:
            found.append((mean, std))
            continue
        count = len(relation.scale)
        outer = relation.before(matched(mean, count), matched(std, count))
        if relation.is_mixed(*outer):
            notes.append(
                f"gives one channel to several of {_short(network)}, whose mean and std are averaged"
            )
        if words := _own_normalization(relation, mean, std):
            notes.append(f"{words}, unlike {_short(network)}, whose mean and std are followed")
        found.append(relation.outer_channels(*outer))
    if any(not np.allclose(other, found[0], rtol=1e-3, atol=1e-3) for other in found[1:]):
        notes.append("contains networks of different mean and std, of which those of the first are used")
    config |= {"mean": tuple(map(_rounded, found[0][0])), "std": tuple(map(_rounded, found[0][1]))}
    return Preprocessing(config, tuple(dict.fromkeys(notes)), next(filter(None, framing), ""))


def _own_normalization(relation: _Affine, mean: Sequence[float], std: Sequence[float]) -> str | None:
    """Words on a normalization of images in [0, 1] by other values than `mean` and `std`; None for others."""
    own_mean, own_std = -relation.shift / relation.scale, 1 / relation.scale
    count = len(own_mean)
    if (
        relation.is_identity
        or not ((own_mean > 0.1) & (own_mean < 0.9) & (own_std > 0.05) & (own_std < 1)).all()
    ):
        return None
    if np.allclose(own_mean, matched(mean, count), atol=0.01) and np.allclose(
        own_std, matched(std, count), atol=0.01
    ):
        return None
    return f"normalizes images by mean {_listed(own_mean)} and std {_listed(own_std)}"


def _of_first_layer(model: nn.Module, config: dict[str, Any]) -> Preprocessing:
    """The preprocessing of a model that describes none: known where the model normalizes images itself."""
    channels, height, width = input_size(model, config)
    known = {**config, **({"input_size": (channels, height, width)} if "input_size" in config else {})}
    measured = _relations(model, _first_layers(model), (channels, height, width), every=False)
    relation = next(iter(measured.values()), None)
    if relation is None:
        return Preprocessing(known)
    framing = _framing(model, next(iter(measured)), relation, (channels, height, width)) or ""
    if np.allclose([relation.scale, relation.shift + 1], 1, atol=1e-3):
        return Preprocessing(known, framing=framing)
    own_mean, own_std = -relation.shift / relation.scale, 1 / relation.scale
    largest = 255.0 if max(np.abs(own_mean).max(), own_std.max()) > 2 else 1.0
    known |= {"mean": (0.0,) * channels, "std": (1 / largest,) * channels}
    note = (
        f"normalizes images itself (mean {_listed(own_mean)}, std {_listed(own_std)}), so it is given images "
        f"in [0, {largest:g}]"
    )
    return Preprocessing(known, (note,), framing)


def _first_layers(model: nn.Module) -> list[nn.Module]:
    """The modules of which one is the first to read the images: those with weights, torchvision's as one."""
    if is_torchvision(model):
        return [model]
    if isinstance(getattr(model, "weight", None), Tensor):
        return [model]
    return [found for child in model.children() for found in _first_layers(child)]


def matched(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """A mean or std for a number of channels: the values, or their mean for every channel."""
    return tuple(values) if len(values) == channels else (float(np.mean(values)),) * channels


def _short(model: nn.Module) -> str:
    return str(_config_of(model).get("architecture") or type(model).__name__)


def _rounded(value: float) -> float:
    """A measured value without the rounding of float32."""
    return 0.0 if abs(value) < 1e-6 else float(f"{value:.6g}")


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{_rounded(value):.3g}" for value in values)


def update_data_config(model: nn.Module, fields: Mapping[str, Any]) -> None:
    """Note how a model's weights were trained in its `pretrained_cfg`; it gets one where it has none.

    A network inside another module is left as it is: the fields describe the images of the whole.
    """
    model = unwrap(model)
    config = getattr(model, "pretrained_cfg", None)
    if not fields:
        return
    if isinstance(config, dict):
        for name in ("test_input_size", "test_crop_pct", "test_pool_size"):  # those of other weights
            config.pop(name, None)
        config.update(fields)
    else:
        vars(model)["pretrained_cfg"] = {**data_config(model), **fields}


# ------------------------------------------------------------------------------------------------- the input


def input_size(model: nn.Module, config: Mapping[str, Any] | None = None) -> tuple[int, int, int]:
    """Channels, height and width of the input that a model was trained with, 224 pixels if unknown.

    Args:
        model: any classifier.
        config: its `data_config`, if that is known already.
    """
    config = data_config(model) if config is None else config
    height, width = tuple(config.get("input_size", (3, 224, 224)))[-2:]
    return input_channels(model), height, width


def input_channels(model: nn.Module) -> int:
    """Number of channels of the images that a model reads: 3 where it accepts them, else those it accepts.

    A plain timm model is asked for its first convolution, if that has as many channels as the model's images
    had. Otherwise (other channels, pixels moved to channels before the convolution) a forward pass is stopped
    at the first layer with weights; images have the right number of channels where they fit that layer.
    """
    model = unwrap(model)
    config = _config_of(model)
    first = config.get("first_conv")
    first = first[0] if isinstance(first, list | tuple) and first else first
    named = dict(model.named_modules()).get(first) if isinstance(first, str) else None
    if isinstance(named, nn.Conv2d) and named.in_channels == config.get("input_size", (3,))[0]:
        return int(named.in_channels)
    layers = _weighted(model)
    convolutions = [
        layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d) and layer.in_channels
    ]
    listed = next((_config_of(one).get("input_size") for one in model.modules() if _config_of(one)), None)
    own, *sides = listed or (3, 224, 224)
    for channels in dict.fromkeys([3, own, *convolutions[:1], 1, *convolutions[1:4], 4, 2]):
        for height, width in dict.fromkeys([tuple(sides), (64, 64)]):
            images = _noise(channels, height, width)
            try:
                reached = _inputs_of(model, layers, images, every=False)
            except Exception:  # as it may raise for images of another number of channels
                continue
            if any(_fits(layer, value, channels) for layer, value in reached.items()):
                return int(channels)
    return int(convolutions[0] if convolutions else own)


def _weighted(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(getattr(module, "weight", None), Tensor)]


def _fits(layer: nn.Module, value: Tensor, channels: int) -> bool:
    """Whether a layer can read a value that was made of images with so many channels."""
    if isinstance(layer, nn.Conv2d):
        return value.ndim in (3, 4) and value.shape[-3] == layer.in_channels
    if isinstance(layer, nn.Linear):
        return value.shape[-1] == layer.in_features
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return value.ndim > 1 and value.shape[1] == layer.num_features
    if isinstance(layer, nn.LayerNorm):
        return tuple(value.shape[-len(layer.normalized_shape) :]) == tuple(layer.normalized_shape)
    return channels == 3


def as_input(model: nn.Module, images: Tensor) -> Tensor:
    """Images (B, C, H, W) on the model's device and in its dtype."""
    return images.to(*placement(model))


def blank_input(model: nn.Module, height: int, width: int) -> Tensor:
    """Zeros (1, C, height, width) on the model's device and in its dtype."""
    return as_input(model, torch.zeros(1, input_channels(model), height, width))


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of a model's input: those of its first weights; the CPU and float32 without any.

    Weights are parameters of two or more dimensions and a floating-point dtype, if there are any: a scalar
    may have another dtype. A model that accelerate dispatched gets its input on the device that executes it.

    Raises:
        InputError: the parameters are on the meta device, without values.
    """
    weights = (one for one in model.parameters() if one.is_floating_point() and one.ndim > 1)
    others = (one for one in model.parameters() if one.is_floating_point())
    first: Tensor = next(itertools.chain(weights, others), torch.zeros(()))
    if (device := execution_device(model)) is not None:
        return device, first.dtype
    if first.is_meta:
        raise InputError(
            f"{model_name(model)}: its parameters are on the meta device and have no values; load its weights"
        )
    return first.device, first.dtype


def execution_device(model: nn.Module) -> torch.device | None:
    """The device to which accelerate moves the input of a model that it dispatched; None for other models."""
    for module in model.modules():
        hook = vars(module).get("_hf_hook")
        for one in (hook, *getattr(hook, "hooks", ())):
            if (device := getattr(one, "execution_device", None)) is not None:
                return torch.device(device)
    return None


# ------------------------------------------------------------------------------------------ names and mode


def model_name(model: nn.Module) -> str:
    """Name of a model in messages: its architecture, or that of the network inside it; else its class."""
    inner = _configured(unwrap(model))
    return _short(inner[0] if len(inner) == 1 else unwrap(model))


def class_names(model: nn.Module, number: int) -> Sequence[str]:
    """Names of the classes where they are known: the model's, or those of ImageNet-1k for 1000 classes."""
    inner = _configured(unwrap(model))
    config = _config_of(inner[0] if inner else unwrap(model))
    own = config.get("label_names") or ()
    if len(own) == number:
        described = config.get("label_descriptions") or {}
        return [str(described.get(name, name)) for name in own]
    if number != IMAGENET_CLASSES or not config:
        return ()
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(index) for index in range(number)]


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode; afterwards each one is back in the mode it had.

    What `torch.compile` was called on runs as it is written: hooks would have it compiled again, for minutes.
    """
    training = [module for module in model.modules() if module.training]
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # otherwise nothing can be compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if training:
            model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


@contextmanager
def _same_buffers(model: nn.Module, largest: int = 4096) -> Iterator[None]:
    """Afterwards, buffers of few numbers, such as counters, have the values they had before."""
    buffers = [(one, one.clone()) for one in model.buffers() if one.numel() <= largest and not one.is_meta]
    try:
        yield
    finally:
        with torch.no_grad():
            for one, before in buffers:
                one.copy_(before)


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
        (value, value.copy() if value else ())
        for value in vars(module).values()
        if type(value) in (list, dict, set, OrderedDict)
    ]


@contextmanager
def hooked(
    model: nn.Module,
    before: Callable[[nn.Module, tuple[Any, ...]], None] | None,
    after: Callable[[nn.Module, tuple[Any, ...], Any], None],
) -> Iterator[None]:
    """Call functions before and after each module of a model.

    Two hooks for all modules of the process take much less time than two for each of a thousand modules.

    Args:
        model: the modules of other models are passed over.
        before: called with a module and its arguments.
        after: called with a module, its arguments and what it returns.
    """
    inside = set(model.modules())
    handles = [
        register_module_forward_hook(
            lambda module, args, output: after(module, args, output) if module in inside else None
        )
    ]
    if before is not None:
        first = before
        handles.append(
            register_module_forward_pre_hook(
                lambda module, args: first(module, args) if module in inside else None
            )
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
