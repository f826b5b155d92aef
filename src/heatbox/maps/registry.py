"""Map methods by name: "cam", "pc1", "walk", methods of pytorch-grad-cam, or any callable.

Names are composed: "walk:pc1" is the random walk with PC1 as its seed, "walk+foreground" is the mean of the
walk and the map of a foreground head, "cam+centre" is a map times the centre prior. Tables and saved runs
show the full name, so that different maps are never confused. A new map is a function of `MapInputs`,
registered in `METHODS`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heatbox._utils.plugins import is_plugin, load_function
from heatbox.errors import AssumptionWarning, InputError
from heatbox.maps.baselines import with_centre_prior
from heatbox.maps.cam import Signs, cam
from heatbox.maps.foreground import (
    ForegroundHead,
    average_maps,
    collection_features,
    foreground,
    foreground_walk,
)
from heatbox.maps.gradcam import GRADIENT_METHODS, gradient_map, tool_class
from heatbox.maps.pc1 import pc1
from heatbox.maps.random_walk import random_walk
from heatbox.models.introspect import ClassifierView, ModelOutput
from heatbox.models.spec import eval_mode, model_name

MapFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, images (B, 3, H, W), targets (B,)) → maps (B, h, w)."""

_LARGEST_HALF = 65504.0

ENLARGED = 2
"""Side of the larger images over the side of the model's input."""


@dataclass(frozen=True)
class Requirements:
    """Inputs that methods need beside the last feature map.

    Attributes:
        class_map: a class map of the model, see `heatbox.class_maps`.
        features: its last feature map; only functions of one's own need none.
        middle: feature maps of middle layers.
        sharp: the last feature map at twice the resolution.
        larger: the images at `ENLARGED` times the side.
        head: a foreground head, which reads the feature maps of middle layers at both sizes.
    """

    middle: bool = False
    sharp: bool = False
    larger: bool = False
    head: bool = False
    class_map: bool = field(default=False, compare=False)
    features: bool = field(default=False, compare=False)


class HeadShape(NamedTuple):
    """The shape of the features of an image that a foreground head reads.

    Attributes:
        layers: number of channels of each of the maps that they consist of.
        height, width: of their grid.
    """

    layers: tuple[int, ...]
    height: int
    width: int

    @property
    def channels(self) -> int:
        """Number of channels of all maps."""
        return sum(self.layers)


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
        head: the foreground head of methods that have one.
    """

    view: ClassifierView
    images: Tensor
    features: Tensor
    targets: Tensor
    norm: Literal["fold", "ignore"]
    middle: tuple[Tensor, ...] = ()
    sharp: Tensor | None = None
    larger: Tensor | None = None
    head: ForegroundHead | None = None

    @classmethod
    def from_output(
        cls,
        output: ModelOutput,
        view: ClassifierView,
        images: Tensor,
        targets: Tensor,
        norm: Literal["fold", "ignore"] = "fold",
        larger: Tensor | None = None,
        head: ForegroundHead | None = None,
    ) -> MapInputs:
        """Inputs from the output of one forward pass, see `run_model`."""
        return cls(view, images, output.features, targets, norm, output.middle, output.sharp, larger, head)

    @cached_property
    def enlarged(self) -> MapInputs:
        """The inputs of a second forward pass, on the larger images.

        They are these inputs where the last feature map is as fine as the middle ones.
        """
        if self.view.is_isotropic:
            return self
        images = self.larger
        if images is None:
            images = F.interpolate(self.images, scale_factor=ENLARGED, mode="bicubic", align_corners=False)
        output = self.view.extract(images, 1)  # its middle map is for a foreground head
        return MapInputs.from_output(output, self.view, images, self.targets, self.norm)

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

    @property
    def _head_maps(self) -> tuple[Tensor, ...]:
        finer = self.enlarged
        return (*self.middle_maps, *(finer.middle if finer is not self else ()), finer.features)

    @property
    def head_shape(self) -> HeadShape:
        """The shape of what a foreground head reads."""
        maps = self._head_maps
        return HeadShape(tuple(one.shape[1] for one in maps), *maps[-1].shape[2:])

    @cached_property
    def head_features(self) -> Tensor:
        """(B, C, h, w) float16: what a foreground head reads, on the grid of the larger images' last map.

        The two middle maps of the images, and the last middle map and the last map of the larger images.
        """
        maps = self._head_maps
        found = collection_features(maps, (maps[-1].shape[2], maps[-1].shape[3]))
        return found.clamp_(-_LARGEST_HALF, _LARGEST_HALF).half()

    @cached_property
    def _found(self) -> dict[str, Tensor]:
        return {}

    def map_of(self, method: str) -> Tensor:
        """The map of a method, (B, h, w), computed once."""
        if method not in self._found:
            self._found[method] = find_method(method)(self)
        return self._found[method]


Method = Callable[[MapInputs], Tensor]


def _class_map(inputs: MapInputs) -> Tensor:
    return inputs.view.contributions(inputs.features, inputs.targets, inputs.norm).maps


def _signed(signs: Signs) -> Method:
    """CAM of the channels whose class weight has one sign (F_pos or F_neg, supplement 12).

    The negative map is negated: it is high where its channels are active, and subtracted from the logit.
    """

    def method(inputs: MapInputs) -> Tensor:
        found = inputs.view.contributions(inputs.features, inputs.targets, inputs.norm)
        if found.weights is None:
            raise InputError(f"{model_name(inputs.view.model)}: its {inputs.view.kind} have no class weights")
        maps = cam(inputs.features, found.weights, signs)
        return -maps if signs == "negative" else maps

    return method


METHODS: dict[str, Method] = {
    "cam": _class_map,
    "cam-positive": _signed("positive"),
    "cam-negative": _signed("negative"),
    "pc1": lambda inputs: pc1(inputs.features),
}
"""Name of a method → its function."""


def _patch_tokens(inputs: MapInputs) -> Tensor:
    if inputs.view.exact:
        raise InputError(f"{model_name(inputs.view.model)} reads no class token: its class map is cam")
    return _class_map(inputs)


PATCH_TOKENS = "patch-tokens"
TOKEN_METHODS: dict[str, Method] = {
    PATCH_TOKENS: _patch_tokens,
    "attention": lambda inputs: inputs.view.attention(inputs.features, inputs.targets),
}
"""Methods for models that read their logits from a class token."""

LARGER = "larger"
WALKS: dict[str, tuple[Requirements, Callable[[MapInputs], MapInputs]]] = {
    "walk": (Requirements(middle=True, larger=True), lambda inputs: inputs.enlarged),
    "walk-one-pass": (Requirements(middle=True, sharp=True), lambda inputs: inputs.sharpened),
    LARGER: (Requirements(larger=True), lambda inputs: inputs.enlarged),
}
"""Name of a walk → its requirements, and the inputs of its seed. "larger" is the seed of a walk itself, the
map of the image of twice the side."""

SEED, CENTRE_PRIOR = "cam", "+centre"
FOREGROUND, FOREGROUND_WALK, HEAD_SEED = "foreground", "foreground-walk", "walk"


@dataclass(frozen=True)
class ForegroundName:
    """The parts of a name [BASE+]foreground[-walk][:SEED][+centre].

    Attributes:
        base: the method whose map is averaged with that of the head, "" for the head alone; or the class map
            that a foreground walk starts from, by default "larger".
        walk: whether it is a foreground walk, see `heatbox.maps.foreground.foreground_walk`.
        seed: the method whose maps the head is fitted to; "" for the default.
        prior: "+centre" or "".
    """

    base: str = ""
    walk: bool = False
    seed: str = ""
    prior: str = ""

    def __str__(self) -> str:
        name = FOREGROUND_WALK if self.walk else FOREGROUND
        if self.base and not (self.walk and self.base == LARGER):
            name = f"{self.base}+{name}"
        return name + (f":{self.seed}" if self.seed not in ("", HEAD_SEED) else "") + self.prior

    @classmethod
    def of(cls, method: object) -> ForegroundName | None:
        """The parts of a name; None for a method without a foreground head."""
        found = _FOREGROUND_NAME.fullmatch(method) if isinstance(method, str) else None
        if found is None:
            return None
        base, walk, seed, prior = (part or "" for part in found.groups())
        return cls(base or (LARGER if walk else ""), bool(walk), seed, prior)

    def finish(self, base: Tensor | None, head: ForegroundHead, projected: Tensor, found: Tensor) -> Tensor:
        """The map of this name.

        Args:
            base: (B, h, w) of the method `base`.
            head: the head.
            projected: (B, D, h, w) features that the head read, on its device.
            found: (B, h, w) of the head.
        """
        if self.walk:
            assert base is not None
            middle = head.projection.restore(projected, 2)
            maps = foreground_walk(found, base, [one.to(base.device) for one in middle])
        else:
            maps = found if base is None else average_maps([base, found])
        return with_centre_prior(maps) if self.prior else maps


_FOREGROUND_NAME = re.compile(
    rf"(?:(.+)\+)?{FOREGROUND}(-walk)?(?::(.+?))?({re.escape(CENTRE_PRIOR)})?", flags=re.DOTALL
)


def projected_features(head: ForegroundHead, features: Tensor) -> Tensor:
    """(B, D, h, w) float16: what a head reads, rounded as stored features are.

    Args:
        head: on the device of the features.
        features: (B, C, h, w), see `MapInputs.head_features`.
    """
    return head.projection(features.to(head.projection.mean.device)).half()


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
    if (parts := ForegroundName.of(method)) is not None:
        return _with_head(parts, method)
    name = method.removesuffix(CENTRE_PRIOR)
    base, colon, seed = name.partition(":")
    sources = [*METHODS, *TOKEN_METHODS, *GRADIENT_METHODS]
    if base in WALKS and (seed in sources or not colon):
        found = _walk(base, _source(seed or SEED))
    elif name in sources:
        found = _source(name)
    elif base in WALKS:
        names = ", ".join(sources)
        raise InputError(f"{method!r}: {seed!r} cannot seed a walk, expected one of {names}")
    elif is_plugin(name):
        found = _from_function(load_function(name))
    else:
        names = ", ".join([*METHODS, *WALKS, FOREGROUND, *TOKEN_METHODS, *GRADIENT_METHODS])
        raise InputError(
            f"there is no map method {method!r}, expected one of {names}, a walk from another seed "
            f"(walk:pc1), a mean with the foreground head (walk+{FOREGROUND}), {FOREGROUND_WALK}, one with "
            f"the centre prior (cam{CENTRE_PRIOR}), or path/to/file.py:function"
        )
    return (lambda inputs: with_centre_prior(found(inputs))) if name != method else found


def refuse_heads(methods: Iterable[str | MapFunction], where: str) -> None:
    """Raise for methods with a foreground head where none can be fitted or given.

    Raises:
        InputError: naming the method.
    """
    for method in methods:
        if ForegroundName.of(method) is not None:
            raise InputError(f"{method}: {where} has no foreground head, expected another map such as walk")


def with_seed(method: str, seed: str, head_seed: str = HEAD_SEED) -> str:
    """The name of a method, with the seeds appended of walks and foreground heads that have none.

    >>> with_seed("walk+centre", "pc1"), with_seed("walk", "cam"), with_seed("cam", "pc1")
    ('walk:pc1+centre', 'walk', 'cam')
    >>> with_seed("walk+foreground", "cam", "pc1"), with_seed("walk+foreground", "pc1")
    ('walk+foreground:pc1', 'walk:pc1+foreground:walk:pc1')
    """
    if (parts := ForegroundName.of(method)) is not None:
        base = with_seed(parts.base, seed) if parts.base else ""
        return str(replace(parts, base=base, seed=with_seed(parts.seed or head_seed, seed)))
    name = method.removesuffix(CENTRE_PRIOR)
    return name + f":{seed}" + method[len(name) :] if name in WALKS and seed != SEED else method


def named_for(view: ClassifierView, method: str) -> str:
    """The name of a method for a model: what is not exact is not called a class activation map.

    For a model that reads its logits from a class token "cam" becomes "patch-tokens", and a walk from it
    "walk:patch-tokens".

    Warns:
        AssumptionWarning: the name was changed.
    """
    if (parts := ForegroundName.of(method)) is not None:
        base, seed = (named_for(view, one) if one else "" for one in (parts.base, parts.seed))
        return str(replace(parts, base=base, seed=seed))
    name = method.removesuffix(CENTRE_PRIOR)
    base, _, seed = name.partition(":")
    if view.exact or view.reason or SEED not in (name, seed or (SEED if base in WALKS else None)):
        return method
    other = (f"{base}:{PATCH_TOKENS}" if base in WALKS else PATCH_TOKENS) + method[len(name) :]
    warnings.warn(
        f"{model_name(view.model)} reads its logits from a class token, so there is no exact class map: "
        f"{method} is the approximation {other}",
        AssumptionWarning,
        stacklevel=2,
    )
    return other


def requirements_of(methods: Iterable[str | MapFunction], view: ClassifierView | None = None) -> Requirements:
    """The requirements of several methods together.

    Args:
        methods: names or callables. The seed of a foreground head counts only where it is one of them: a
            head that is fitted needs none.
        view: the model. Where its middle maps are as coarse as the last one, as in a ViT, no method needs
            larger images.
    """
    plain: list[str | MapFunction] = []
    heads = False
    for method in methods:
        parts = ForegroundName.of(method)
        heads = heads or parts is not None
        plain += [method] if parts is None else [parts.base] * bool(parts.base)
    names = [m.removesuffix(CENTRE_PRIOR).partition(":") for m in plain if isinstance(m, str)]
    walks = [WALKS[name][0] for name, _, _ in names if name in WALKS]
    sources = {seed or (SEED if name in WALKS else name) for name, _, seed in names}
    found = Requirements(
        middle=heads or any(walk.middle for walk in walks),
        sharp=any(walk.sharp for walk in walks),
        larger=heads or any(walk.larger for walk in walks),
        head=heads,
        class_map=any(name.startswith(SEED) or name == PATCH_TOKENS for name in sources),
        features=heads or any(not is_plugin("".join(name)) for name in names),
    )
    return replace(found, larger=False) if found.larger and view is not None and view.is_isotropic else found


def check_requirements(view: ClassifierView, requirements: Requirements) -> None:
    """Raise before any image is processed if a model cannot meet the requirements.

    Raises:
        InputError: the model has no class map, no feature maps before the last one, or no sharp one, or does
            not run on larger images.
    """
    name = model_name(view.model)
    if requirements.features and not view.has_features:
        raise InputError(f"{name}: {view.reason}; only your own functions, as path/to/file.py:function, run")
    if requirements.class_map and view.reason:
        raise InputError(
            f"{name} has no class map: {view.reason}. pc1, walk:pc1, gradient methods and your own functions "
            "need none"
        )
    if requirements.middle and not view.stages:
        what = "foreground head" if requirements.head else "walk"
        raise InputError(f"{name}: no feature map before the last one was found, so there is no {what} on it")
    if requirements.larger and not view.accepts(ENLARGED):
        what = "foreground head, which also reads" if requirements.head else "walk, whose seed is the map of"
        raise InputError(
            f"{name} only runs on images of its own size, so there is no {what} an image of {ENLARGED} times "
            "the side"
        )
    if requirements.sharp:
        _ = view.last_stage_input  # raises


def run_model(view: ClassifierView, images: Tensor, requirements: Requirements) -> ModelOutput:
    """One forward pass that keeps what the methods need."""
    return view.extract(images, 2 if requirements.middle else 0, requirements.sharp)


def _source(name: str) -> Method:
    """A method that computes a map from the last feature map."""
    if name in GRADIENT_METHODS:
        tool_class(name)  # raises for a missing package before anything is computed
        return lambda inputs: gradient_map(name, inputs.view, inputs.images, inputs.targets, inputs.features)
    return METHODS[name] if name in METHODS else TOKEN_METHODS[name]


def _with_head(parts: ForegroundName, method: str) -> Method:
    for name in filter(None, (parts.base, parts.seed)):
        if ForegroundName.of(name) is not None:
            raise InputError(f"{method!r}: {name} cannot be a part of it, which has a foreground head itself")
        find_method(name)  # raises

    def combined(inputs: MapInputs) -> Tensor:
        if inputs.head is None:
            raise InputError(
                f"{method}: no foreground head was fitted; Localizer.fit_foreground(images) fits one, and "
                "--foreground FILE or Localizer(foreground=FILE) applies one"
            )
        base = inputs.map_of(parts.base) if parts.base else None
        projected = projected_features(inputs.head, inputs.head_features)
        found = foreground(inputs.head, projected, projected=True)
        return parts.finish(base, inputs.head, projected, found)

    return combined


def _walk(kind: str, seed: Method) -> Method:
    _, seed_inputs = WALKS[kind]
    if kind == LARGER:
        return lambda inputs: seed(seed_inputs(inputs))
    return lambda inputs: random_walk(seed(seed_inputs(inputs)), inputs.middle_maps)


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
