"""Maps by name: "cam", "pc1", methods of pytorch-grad-cam, or any callable of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.maps.cam import cam
from heatbox.maps.gradients import GRADIENT_METHODS, gradient_map, tool_class
from heatbox.maps.pc1 import pc1
from heatbox.models.head import eval_mode
from heatbox.models.view import ClassifierView

MapFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, images (B, 3, H, W), targets (B,)) → maps (B, h, w)."""


@dataclass(frozen=True)
class Scene:
    """What a method may look at, computed once for all methods.

    Attributes:
        view: the classifier.
        images: (B, 3, H, W) preprocessed images.
        features: (B, C, h, w) last feature map.
        targets: (B,) class each map is made for.
        norm: how norm layers of the head are treated, see `ClassifierView.class_weights`.
    """

    view: ClassifierView
    images: Tensor
    features: Tensor
    targets: Tensor
    norm: Literal["fold", "ignore"]


def _cam(scene: Scene) -> Tensor:
    weights, _ = scene.view.class_weights(scene.features, scene.targets, scene.norm)
    return cam(scene.features, weights)


def _signed(signs: Literal["positive", "negative"]) -> Callable[[Scene], Tensor]:
    """CAM of the channels whose class weight has one sign (F_pos or F_neg, supplement 12).

    Both maps are high where their channels fire: the negative one is what they take away from the logit.
    """

    def signed(scene: Scene) -> Tensor:
        weights, _ = scene.view.class_weights(scene.features, scene.targets, scene.norm)
        part = cam(scene.features, weights, signs)
        return part if signs == "positive" else -part

    return signed


METHODS: dict[str, Callable[[Scene], Tensor]] = {
    "cam": _cam,
    "cam-positive": _signed("positive"),
    "cam-negative": _signed("negative"),
    "pc1": lambda scene: pc1(scene.features),
}


def find_method(method: str | MapFunction) -> Callable[[Scene], Tensor]:
    """A method by name, or a callable (model, images, targets) → (B, h, w) adapted.

    A name is one of `METHODS`, one of `GRADIENT_METHODS`, or path/to/file.py:function for a callable.

    Raises:
        InputError: there is no method of that name, or its package is not installed.
    """
    if isinstance(method, str):
        if method in METHODS:
            return METHODS[method]
        if method in GRADIENT_METHODS:
            tool_class(method)  # a missing package is said before anything is computed
            return lambda scene: gradient_map(method, scene.view, scene.images, scene.targets)
        if ".py:" not in method:
            names = ", ".join([*METHODS, *GRADIENT_METHODS])
            raise InputError(f"there is no map method {method!r}, expected one of {names}")
        from heatbox.models.build import function_of

        function: MapFunction = function_of(method)
    else:
        function = method

    def adapted(scene: Scene) -> Tensor:
        with torch.inference_mode(False), torch.no_grad(), eval_mode(scene.view.model):
            # Tensors made in inference mode would refuse the gradients that a method may want.
            maps = function(scene.view.model, scene.images.clone(), scene.targets.clone())
        if not isinstance(maps, Tensor) or maps.ndim != 3 or maps.shape[0] != scene.images.shape[0]:
            shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise InputError(f"the map method returned {shape}, expected ({scene.images.shape[0]}, h, w)")
        return maps.detach().float()

    return adapted
