"""Map methods by name: "cam", "pc1", "walk", methods of pytorch-grad-cam, or any callable.

Names are composed: "walk:pc1" is the random walk with PC1 as its seed, "cam+centre" is a map times the centre
prior. Tables and saved runs show the full name, so that different maps are never confused. A new map is a
function of `MapInputs`, registered in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heatbox._utils.plugins import is_plugin, load_function
from heatbox.errors import InputError
from heatbox.maps.baselines import with_centre_prior
from heatbox.maps.cam import Signs, cam
from heatbox.maps.gradcam import GRADIENT_METHODS, gradient_map, tool_class
from heatbox.maps.pc1 import pc1
from heatbox.maps.random_walk import random_walk
from heatbox.models.introspect import ClassifierView, ModelOutput
from heatbox.models.spec import eval_mode, model_name

MapFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, images (B, 3, H, W), targets (B,)) → maps (B, h, w)."""

ENLARGED = 2
"""Side of the larger images over the side of the model's input."""


@dataclass(frozen=True)
class Requirements:
    """Inputs that methods need beside the last feature map.

    Attributes:
        middle: feature maps of middle layers.
        sharp: the last feature map at twice the resolution.
        larger: the images at `ENLARGED` times the side.
    """

    middle: bool = False
    sharp: bool = False
    larger: bool = False


@dataclass(frozen=True)
class MapInputs:
    """Inputs of a map method, computed once for all methods.

    Attributes:
        view: the classifier.
        images: (B, 3, H, W) preprocessed images.
        features: (B, C, h, w) last feature map.
        targets: (B,) class that each map is for.
        norm: how norm layers of the head are treated, see `ClassifierView.class_weights`.
        middle: feature maps of middle layers, see `ClassifierView.extract`; empty if no method needs them.
        sharp: (B, C, 2 h, 2 w) the last feature map at twice the resolution; None if no method needs it.
        larger: (B, 3, 2 H, 2 W) the images at twice the side; None interpolates them when needed.
    """

    view: ClassifierView
    images: Tensor
    features: Tensor
    targets: Tensor
    norm: Literal["fold", "ignore"]
    middle: tuple[Tensor, ...] = ()
    sharp: Tensor | None = None
    larger: Tensor | None = None

    @classmethod
    def from_output(
        cls,
        output: ModelOutput,
        view: ClassifierView,
        images: Tensor,
        targets: Tensor,
        norm: Literal["fold", "ignore"] = "fold",
        larger: Tensor | None = None,
    ) -> MapInputs:
        """Inputs from the output of one forward pass, see `run_model`."""
        return cls(view, images, output.features, targets, norm, output.middle, output.sharp, larger)

    @cached_property
    def enlarged(self) -> MapInputs:
        """The inputs of a second forward pass, on the larger images."""
        images = self.larger
        if images is None:
            images = F.interpolate(self.images, scale_factor=ENLARGED, mode="bicubic", align_corners=False)
        return MapInputs(self.view, images, self.view.features(images), self.targets, self.norm)

    @cached_property
    def sharpened(self) -> MapInputs:
        """These inputs with the sharp feature map in place of the last one."""
        sharp = self.view.extract(self.images, 0, sharp=True).sharp if self.sharp is None else self.sharp
        assert sharp is not None
        return replace(self, features=sharp)

    @property
    def middle_maps(self) -> tuple[Tensor, ...]:
        """Feature maps of middle layers, from another forward pass if there are none yet."""
        return self.middle or self.view.extract(self.images).middle


Method = Callable[[MapInputs], Tensor]


def _cam(signs: Signs) -> Method:
    """CAM of all channels, or of those whose class weight has one sign (F_pos or F_neg, supplement 12).

    The negative map is negated: it is high where its channels are active, and subtracted from the logit.
    """

    def method(inputs: MapInputs) -> Tensor:
        weights, _ = inputs.view.class_weights(inputs.features, inputs.targets, inputs.norm)
        maps = cam(inputs.features, weights, signs)
        return -maps if signs == "negative" else maps

    return method


METHODS: dict[str, Method] = {
    "cam": _cam("all"),
    "cam-positive": _cam("positive"),
    "cam-negative": _cam("negative"),
    "pc1": lambda inputs: pc1(inputs.features),
}
"""Name of a method → its function; any of them can be the seed of a walk."""

WALKS: dict[str, tuple[Requirements, Callable[[MapInputs], MapInputs]]] = {
    "walk": (Requirements(middle=True, larger=True), lambda inputs: inputs.enlarged),
    "walk-one-pass": (Requirements(middle=True, sharp=True), lambda inputs: inputs.sharpened),
}
"""Name of a walk → its requirements, and the inputs of its seed."""

SEED, CENTRE_PRIOR = "cam", "+centre"


def find_method(method: str | MapFunction) -> Method:
    """The method of a name, or one that wraps a callable (model, images, targets) → (B, h, w).

    Args:
        method: a name from `METHODS`, `WALKS` or `GRADIENT_METHODS`, composed as this module describes;
            path/to/file.py:function; or a callable.

    Raises:
        InputError: there is no method of that name, or its package is not installed.
    """
    if not isinstance(method, str):
        return _from_function(method)
    name = method.removesuffix(CENTRE_PRIOR)
    base, colon, seed = name.partition(":")
    if base in WALKS and (seed in METHODS or not colon):
        found = _walk(base, seed or SEED)
    elif name in METHODS:
        found = METHODS[name]
    elif name in GRADIENT_METHODS:
        found = _gradient_method(name)
    elif base in WALKS:
        raise InputError(f"{method!r}: {seed!r} cannot seed a walk, expected one of {', '.join(METHODS)}")
    elif is_plugin(name):
        found = _from_function(load_function(name))
    else:
        names = ", ".join([*METHODS, *WALKS, *GRADIENT_METHODS])
        raise InputError(
            f"there is no map method {method!r}, expected one of {names}, a walk from another seed "
            f"(walk:pc1), one with the centre prior (cam{CENTRE_PRIOR}), or path/to/file.py:function"
        )
    return (lambda inputs: with_centre_prior(found(inputs))) if name != method else found


def with_seed(method: str, seed: str) -> str:
    """The name of a method, with the seed appended if it is a walk without one.

    >>> with_seed("walk+centre", "pc1"), with_seed("walk", "cam"), with_seed("cam", "pc1")
    ('walk:pc1+centre', 'walk', 'cam')
    """
    name = method.removesuffix(CENTRE_PRIOR)
    return name + f":{seed}" + method[len(name) :] if name in WALKS and seed != SEED else method


def requirements_of(methods: Iterable[str | MapFunction]) -> Requirements:
    """The requirements of several methods together."""
    names = [m.removesuffix(CENTRE_PRIOR).partition(":")[0] for m in methods if isinstance(m, str)]
    walks = [WALKS[name][0] for name in names if name in WALKS]
    return Requirements(
        *(any(getattr(walk, field) for walk in walks) for field in ("middle", "sharp", "larger"))
    )


def check_requirements(view: ClassifierView, requirements: Requirements) -> None:
    """Raise before any image is processed if a model cannot meet the requirements.

    Raises:
        InputError: the model has no feature maps before the last one, or no sharp one.
    """
    if requirements.middle and not view.stages:
        name = model_name(view.model)
        raise InputError(f"{name}: no feature map before the last one was found, so there is no walk on it")
    if requirements.sharp:
        _ = view.last_stage_input  # raises


def run_model(view: ClassifierView, images: Tensor, requirements: Requirements) -> ModelOutput:
    """One forward pass that keeps what the methods need."""
    return view.extract(images, 2 if requirements.middle else 0, requirements.sharp)


def _gradient_method(name: str) -> Method:
    tool_class(name)  # raises for a missing package before anything is computed
    return lambda inputs: gradient_map(name, inputs.view, inputs.images, inputs.targets)


def _walk(kind: str, seed: str) -> Method:
    _, seed_inputs = WALKS[kind]
    return lambda inputs: random_walk(METHODS[seed](seed_inputs(inputs)), inputs.middle_maps)


def _from_function(function: MapFunction) -> Method:
    def method(inputs: MapInputs) -> Tensor:
        with torch.inference_mode(False), torch.no_grad(), eval_mode(inputs.view.model):
            # Cloned, because the method may need gradients, which inference tensors do not allow.
            maps = function(inputs.view.model, inputs.images.clone(), inputs.targets.clone())
        if not isinstance(maps, Tensor) or maps.ndim != 3 or maps.shape[0] != inputs.images.shape[0]:
            shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise InputError(f"the map method returned {shape}, expected ({inputs.images.shape[0]}, h, w)")
        return maps.detach().float()

    return method
