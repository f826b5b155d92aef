"""Maps by name: "cam", "pc1", "walk", methods of pytorch-grad-cam, or any callable of one's own.

A name may be put together: "walk:pc1" is the walk with PC1 as its seed, "cam+centre" a map times the centre
prior. Tables and saved runs show the whole name, so that no map passes for another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.maps.baselines import with_centre_prior
from heatbox.maps.cam import cam
from heatbox.maps.gradcam import GRADIENT_METHODS, gradient_map, tool_class
from heatbox.maps.pc1 import pc1
from heatbox.maps.random_walk import walk
from heatbox.models.factory import function_of
from heatbox.models.introspect import ClassifierView, ModelOutput
from heatbox.models.spec import eval_mode, model_name

MapFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, images (B, 3, H, W), targets (B,)) → maps (B, h, w)."""

ENLARGED = 2
"""How many times the side of its input the walk's second, larger input has."""


@dataclass(frozen=True)
class Requirements:
    """What methods have to be given beside the last feature map.

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
    """What a method may look at, computed once for all methods.

    Attributes:
        view: the classifier.
        images: (B, 3, H, W) preprocessed images.
        features: (B, C, h, w) last feature map.
        targets: (B,) class each map is made for.
        norm: how norm layers of the head are treated, see `ClassifierView.class_weights`.
        middle: maps of middle layers, see `ClassifierView.extract`; empty if no method asked for them.
        sharp: the last feature map at twice the resolution, likewise.
        larger: (B, 3, 2 H, 2 W) the images at twice the side; by default they are interpolated.
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
    def of(
        cls,
        look: ModelOutput,
        view: ClassifierView,
        images: Tensor,
        targets: Tensor,
        norm: Literal["fold", "ignore"] = "fold",
        larger: Tensor | None = None,
    ) -> MapInputs:
        """A scene from one look of the classifier at the images."""
        return cls(view, images, look.features, targets, norm, look.middle, look.sharp, larger)

    @cached_property
    def enlarged(self) -> MapInputs:
        """The same scene, seen in a second pass with the larger images."""
        images = self.larger
        if images is None:
            images = F.interpolate(self.images, scale_factor=ENLARGED, mode="bicubic", align_corners=False)
        return MapInputs(self.view, images, self.view.features(images), self.targets, self.norm)

    @cached_property
    def sharpened(self) -> MapInputs:
        """The same scene with the sharp feature map in place of the last one."""
        sharp = self.view.extract(self.images, 0, sharp=True).sharp if self.sharp is None else self.sharp
        assert sharp is not None
        return replace(self, features=sharp)

    @property
    def middle_maps(self) -> tuple[Tensor, ...]:
        """Maps of middle layers."""
        return self.middle or self.view.extract(self.images).middle


Method = Callable[[MapInputs], Tensor]


def _cam(scene: MapInputs) -> Tensor:
    weights, _ = scene.view.class_weights(scene.features, scene.targets, scene.norm)
    return cam(scene.features, weights)


def _signed(signs: Literal["positive", "negative"]) -> Callable[[MapInputs], Tensor]:
    """CAM of the channels whose class weight has one sign (F_pos or F_neg, supplement 12).

    Both maps are high where their channels fire: the negative one is what they take away from the logit.
    """

    def signed(scene: MapInputs) -> Tensor:
        weights, _ = scene.view.class_weights(scene.features, scene.targets, scene.norm)
        part = cam(scene.features, weights, signs)
        return part if signs == "positive" else -part

    return signed


METHODS: dict[str, Method] = {
    "cam": _cam,
    "cam-positive": _signed("positive"),
    "cam-negative": _signed("negative"),
    "pc1": lambda scene: pc1(scene.features),
}
"""Maps made from a scene; any of them can be the seed of a walk."""

WALKS: dict[str, tuple[Requirements, Callable[[MapInputs], MapInputs]]] = {
    "walk": (Requirements(middle=True, larger=True), lambda scene: scene.enlarged),
    "walk-one-pass": (Requirements(middle=True, sharp=True), lambda scene: scene.sharpened),
}
"""Walks: what each needs, and the scene its seed is made from."""

SEED, CENTRE_PRIOR = "cam", "+centre"


def find_method(method: str | MapFunction) -> Method:
    """A method by name, or a callable (model, images, targets) → (B, h, w) adapted.

    A name is one of `METHODS`, one of `GRADIENT_METHODS`, or path/to/file.py:function for a callable.

    Raises:
        InputError: there is no method of that name, or its package is not installed.
    """
    if not isinstance(method, str):
        return _adapted(method)
    name = method.removesuffix(CENTRE_PRIOR)
    base, colon, seed = name.partition(":")
    if base in WALKS and (seed in METHODS or not colon):
        found = _walk(base, seed or SEED)
    elif name in METHODS:
        found = METHODS[name]
    elif name in GRADIENT_METHODS:
        found = _of_tool(name)
    elif base in WALKS:
        raise InputError(f"{method!r}: {seed!r} is no seed of a walk, expected one of {', '.join(METHODS)}")
    elif ".py:" in name:
        found = _adapted(function_of(name))
    else:
        names = ", ".join([*METHODS, *WALKS, *GRADIENT_METHODS])
        raise InputError(
            f"there is no map method {method!r}, expected one of {names}, a walk from another seed "
            f"(walk:pc1), one with the centre prior (cam{CENTRE_PRIOR}), or path/to/file.py:function"
        )
    return (lambda scene: with_centre_prior(found(scene))) if name != method else found


def with_seed(method: str, seed: str) -> str:
    """The name of a method, with the seed spelled out if it is a walk of no named seed.

    >>> with_seed("walk+centre", "pc1"), with_seed("walk", "cam"), with_seed("cam", "pc1")
    ('walk:pc1+centre', 'walk', 'cam')
    """
    name = method.removesuffix(CENTRE_PRIOR)
    return name + f":{seed}" + method[len(name) :] if name in WALKS and seed != SEED else method


def needs_of(methods: Iterable[str | MapFunction]) -> Requirements:
    """What some methods need together."""
    names = [m.removesuffix(CENTRE_PRIOR).partition(":")[0] for m in methods if isinstance(m, str)]
    needs = [WALKS[name][0] for name in names if name in WALKS]
    return Requirements(
        *(any(getattr(one, field) for one in needs) for field in ("middle", "sharp", "larger"))
    )


def require(view: ClassifierView, needs: Requirements) -> None:
    """Raise, before any image is looked at, what a model cannot give.

    Raises:
        InputError: the model has no feature maps before the last one, or no sharp one.
    """
    if needs.middle and not view.stages:
        name = model_name(view.model)
        raise InputError(f"{name}: no feature map before the last one was found, so there is no walk on it")
    if needs.sharp:
        assert view.last_stage_input


def look_at(view: ClassifierView, images: Tensor, needs: Requirements) -> ModelOutput:
    """One forward pass that shows what the methods need of it."""
    return view.extract(images, 2 if needs.middle else 0, needs.sharp)


def _of_tool(name: str) -> Method:
    tool_class(name)  # a missing package is said before anything is computed
    return lambda scene: gradient_map(name, scene.view, scene.images, scene.targets)


def _walk(kind: str, seed: str) -> Method:
    _, seeded_from = WALKS[kind]
    return lambda scene: walk(METHODS[seed](seeded_from(scene)), scene.middle_maps)


def _adapted(function: MapFunction) -> Method:
    def adapted(scene: MapInputs) -> Tensor:
        with torch.inference_mode(False), torch.no_grad(), eval_mode(scene.view.model):
            # Tensors made in inference mode would refuse the gradients that a method may want.
            maps = function(scene.view.model, scene.images.clone(), scene.targets.clone())
        if not isinstance(maps, Tensor) or maps.ndim != 3 or maps.shape[0] != scene.images.shape[0]:
            shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise InputError(f"the map method returned {shape}, expected ({scene.images.shape[0]}, h, w)")
        return maps.detach().float()

    return adapted
