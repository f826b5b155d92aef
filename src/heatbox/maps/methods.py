"""Maps by name: "cam", "pc1", or any callable of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.maps.cam import cam
from heatbox.maps.pc1 import pc1
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

    Raises:
        InputError: there is no method of that name.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise InputError(f"there is no map method {method!r}, expected one of {', '.join(METHODS)}")
        return METHODS[method]
    function = method

    def adapted(scene: Scene) -> Tensor:
        maps = function(scene.view.model, scene.images, scene.targets)
        if not isinstance(maps, Tensor) or maps.ndim != 3 or maps.shape[0] != scene.images.shape[0]:
            shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise InputError(f"the map method returned {shape}, expected ({scene.images.shape[0]}, h, w)")
        return maps.detach().float()

    return adapted
