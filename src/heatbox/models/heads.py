"""From the last feature map to the logits: what each position contributes to the logit of a class.

Between the feature map and the logits most networks compute functions that are affine *for a given image*:
the mean, linear layers, norms with the image's own statistics, activations with the image's own gates,
attention with the image's own weights. `RecordedHead` records these operations; `Affine` finds out by calling
each of them which kind it is, and computes them again with those statistics, gates and weights held constant.
With the derivative W of the result with respect to the feature map F, the logit is sum(W F) + bias.

- A function with f(2x) - f(0) = 2 (f(x) - f(0)) is homogeneous up to an offset: linear layers, pooling by
  mean, maximum or top-k, ReLU, the absolute value. By Euler's theorem f(x) = sum(x df/dx) + f(0).
- A product of two such values has degree two: f(x) = sum(x df/dx) / 2.
- An elementwise function a(x), such as an activation, is x times the gate (a(x) - a(0)) / x, plus a(0).
- LayerNorm, GroupNorm and RMSNorm are affine once the image's own deviation is constant.
- A softmax, a denominator and a sigmoid that multiplies another value are weights, which are held constant.

Whatever is none of these is named in the reason why there is no exact map.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from heatbox.errors import InputError
from heatbox.models.recording import MOVING, RESHAPING, Boundary, Graph, Layout, Operation, Recorder, Ref
from heatbox.models.spec import hooked, model_name

_HALF = (torch.float16, torch.bfloat16)
_SOFTMAX = ("softmax", "safe_softmax")
_FINAL = {
    "softmax": "softmax",
    "log_softmax": "softmax",
    "sigmoid": "sigmoid",
    "log_sigmoid_forward": "sigmoid",
}
"""An activation after the logits → how it makes scores of them."""

_SQUASHING = ("sigmoid", "hardsigmoid", "tanh", "erf")
_ATTENTION = (*_SOFTMAX, "native_multi_head_attention", "transformer_encoder_layer_fwd")
_MOST_ATTENTION = 1
"""Most layers of attention that pool a feature map; more of them are a network of their own."""

_WINDOWS = ("max_pool2d_with_indices", "avg_pool2d")
_MOST_BRANCHES = 64
"""Most values whose origin is followed in the search for feature maps."""


class NotAffine(Exception):
    """The logits are no affine function of the feature map; the message is the reason."""


class OtherPath(InputError):
    """A model computes logits in another way than when its head was found.

    Args:
        model: its name.
    """

    def __init__(self, model: str) -> None:
        super().__init__(
            f"{model} takes another path for these images than for those that its head was found with"
        )


@dataclass(frozen=True)
class Part:
    """One feature map that the logits are computed from.

    Whether a tensor is copied or viewed when it is reshaped depends on the number of images. So a map is
    found again by the operation that computed its values, and by its shape.

    Attributes:
        step: which of the recorded operations, other than those that reshape, computes it.
        output: which of the tensors that the operation returns.
        moves: how often axes change places between that operation and the map.
        channels: number C.
        layout: how it is read as (B, C, h, w).
    """

    step: int
    output: int
    moves: int
    channels: int
    layout: Layout

    def find(self, recorder: Recorder, wanted: set[int], batch: int) -> int | None:
        """The number of the map in a recording; None if there is no such map.

        Args:
            recorder: the recording.
            wanted: the tensors that the logits are computed from.
            batch: number of images.
        """
        computed = [one for one in recorder.operations if one.name not in RESHAPING]
        if self.step >= len(computed) or self.output >= len(computed[self.step].outputs):
            return None
        number = computed[self.step].outputs[self.output]
        moves = {number: 0}  # of the tensors with its values, in order
        for operation in recorder.operations:
            source = next((one for one in operation.inputs if one in moves), None)
            if operation.name in RESHAPING and source is not None:
                moved = moves[source] + (operation.name in MOVING)
                moves.update(dict.fromkeys(operation.outputs, moved))
        for one, moved in moves.items():
            if one in wanted and moved == self.moves and self._has_shape(recorder.shapes[one], batch):
                return one
        return None

    def _has_shape(self, shape: Sequence[int], batch: int) -> bool:
        ndim = 3 if self.layout.has_tokens else 4
        return len(shape) == ndim and shape[0] == batch and self.layout.channels(shape) == self.channels


class Recording:
    """The operations of one forward pass after its feature maps, with their values.

    Args:
        recorder: that recorded them.
        parts: the feature maps.
        output: what the model returned: (B, K), or (B,) for one class.
        image: (height, width) of the images.
    """

    def __init__(
        self, recorder: Recorder, parts: Sequence[Part], output: Tensor, image: Sequence[int]
    ) -> None:
        self._recorder = recorder
        self.operations, self.values, self.bases = recorder.operations, recorder.values, recorder.bases
        self.image = tuple(image)
        number = recorder.number(output)
        self.logits_number, self.activation = (
            (-1, None) if number is None else final_activation(self.operations, number)
        )
        self.starts: list[int] = []
        self.needed: list[Operation] = []
        self._begin(parts, len(output))

    def _begin(self, parts: Sequence[Part], batch: int) -> None:
        wanted = {self.logits_number, *(n for one in self._before([]) for n in one.inputs)}
        found = [part.find(self._recorder, wanted, batch) for part in parts]
        self.parts, self.starts = parts, [number for number in found if number is not None]
        if len(self.starts) < len(parts):
            raise OtherPath("the model")
        self.needed = self._before(self.starts)

    def starting_at(self, parts: Sequence[Part]) -> Recording:
        """The same forward pass, from other feature maps on."""
        other = copy.copy(self)
        other._begin(parts, len(self.logits))
        return other

    @property
    def logits(self) -> Tensor:
        """(B, K), before any activation that the model ends in."""
        return as_logits(self.values[self.logits_number])

    @property
    def features(self) -> list[Tensor]:
        """The feature maps (B, C, h, w)."""
        return [
            part.layout.to_map(self.values[start], self.image)
            for part, start in zip(self.parts, self.starts, strict=True)
        ]

    def _before(self, starts: Sequence[int]) -> list[Operation]:
        """The operations after some tensors that the logits need, in order."""
        producer = {n: index for index, one in enumerate(self.operations) for n in one.outputs}
        found: set[int] = set()
        waiting = [self.logits_number]
        while waiting:
            number = waiting.pop()
            index = producer.get(number)
            if number in starts or index is None or index in found:
                continue
            found.add(index)
            waiting += self.operations[index].inputs
        return [self.operations[index] for index in sorted(found)]

    def run(
        self,
        starts: Sequence[Tensor],
        apply: Callable[[Operation, Any, Any], Any] = lambda one, args, kwargs: one.function(*args, **kwargs),
    ) -> Tensor:
        """Compute the logits again, in float32 where the model has half precision.

        Args:
            starts: tensors in place of the feature maps, in the shape of the recorded ones.
            apply: how an operation is computed: (operation, args, kwargs) → its results; by default as the
                operator does. The arguments are those of this computation.
        """
        values: dict[int, Tensor] = dict(zip(self.starts, starts, strict=True))

        def argument(value: Any) -> Any:
            if isinstance(value, Ref) and value.number in values:
                value = values[value.number]
            elif isinstance(value, Ref | Tensor):  # a parameter, or a value that does not depend on the maps
                value = (self.values[value.number] if isinstance(value, Ref) else value).detach()
                value = value.clone() if value.is_inference() else value
            if isinstance(value, Tensor) and value.dtype in _HALF:
                return value.float()
            return torch.float32 if value in _HALF else value

        for operation in self.needed:
            args, kwargs = tree_map(argument, operation.args)
            results = apply(operation, args, kwargs)
            values.update(zip(operation.outputs, _tensors(results), strict=True))
        return as_logits(values[self.logits_number])


def final_activation(operations: Sequence[Operation], number: int) -> tuple[int, str | None]:
    """Step back from a model's output over a softmax or sigmoid to the logits.

    Returns:
        number of the logits, and "softmax", "sigmoid" or None for how the model makes scores of them.
    """
    producer = {n: one for one in operations for n in one.outputs}
    at, found = number, None
    while (operation := producer.get(at)) is not None and len(operation.inputs) >= 1:
        if operation.name in _FINAL and (
            _FINAL[operation.name] == "sigmoid" or operation.args[0][1] % len(operation.shapes[0]) == 1
        ):
            at, found = operation.inputs[0], _FINAL[operation.name]
            number = at
        elif operation.name in RESHAPING and operation.shapes[0].numel() and found is None:
            at = operation.inputs[0]
        else:
            break
    return number, found


def as_logits(value: Tensor) -> Tensor:
    """(B, K) of (B,), (B, K) or (B, K, 1, 1)."""
    return value.reshape(len(value), -1)


def _tensors(results: Any) -> list[Tensor]:
    """The tensors that an operator returns."""
    listed = results if isinstance(results, tuple | list) else [results]
    return [value for value in listed if isinstance(value, Tensor)]


# ---------------------------------------------------------------------------------------------- the rules


class Affine:
    """The logits of a recording as an affine function of its feature maps.

    Every operation has a rule, see `_APPLY`. The rules are found once, by calling the operators with random
    values, and hold for every recording of the same operations.

    Args:
        recording: the operations.

    Raises:
        NotAffine: an operation fits no rule; the message names it.
    """

    def __init__(self, recording: Recording) -> None:
        self._functions = [operation.function for operation in recording.needed]
        held: set[Operation] = set()
        while True:
            finder = _Finder(recording, held)
            try:
                with torch.no_grad():
                    starts = [recording.values[start].clone() for start in recording.starts]
                    recording.run(starts, finder.classify)
            except _Held as found:
                held.add(found.operation)
            else:
                break
        if finder.state(recording.logits_number) != "value":
            raise NotAffine("its logits do not depend on its last feature map in an affine way")
        self.rules = [finder.rules[operation] for operation in recording.needed]

    def fits(self, recording: Recording) -> bool:
        """Whether the rules are those of the operations of a recording."""
        return self._functions == [operation.function for operation in recording.needed]

    def contributions(self, recording: Recording, targets: Tensor) -> tuple[list[Tensor], Tensor]:
        """What each position of the feature maps contributes to the logit of a class.

        Args:
            recording: operations that the rules fit.
            targets: (B,) one class for each image.

        Returns:
            for each feature map the weights, in its own shape, whose product with it, summed over an image,
            is its part of the logit; and the logits (B, K); float32.
        """
        rules = dict(zip(recording.needed, self.rules, strict=True))
        with torch.inference_mode(False), torch.enable_grad():
            targets = targets.clone()
            leaves = [_single(recording.values[start]).requires_grad_() for start in recording.starts]
            logits = recording.run(
                [leaf.clone() for leaf in leaves], lambda one, *given: _APPLY[rules[one]](one, *given)
            )
            picked = logits.gather(1, targets[:, None])[:, 0]
            weights = torch.autograd.grad(picked.sum(), leaves, allow_unused=True)
        pairs = zip(weights, leaves, strict=True)  # a map that only weighs another has no derivative
        return [torch.zeros_like(leaf) if one is None else one for one, leaf in pairs], logits.detach()


class _Held(Exception):
    """An operation whose value has to be held constant, because it multiplies another value."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.operation = operation


class _Finder:
    """Finds the rule of each operation of a recording, in order.

    A tensor has one of three states: "value" (an affine function of the feature maps), "weight" (it depends
    on them and is held constant) or "constant".
    """

    def __init__(self, recording: Recording, held: set[Operation]) -> None:
        self.rules: dict[Operation, str] = {}
        self._bases, self._held = recording.bases, held
        self._states: dict[int, str] = dict.fromkeys(recording.starts, "value")
        self._written: dict[int, str] = {}  # base → the state of what was written in place
        self._squashed: dict[int, Operation] = {}  # tensor → the sigmoid it comes from by scale and shift

    def state(self, number: int) -> str:
        """The state of a tensor."""
        return self._written.get(self._bases[number], self._states.get(number, "constant"))

    def classify(self, operation: Operation, args: Any, kwargs: Any) -> Any:
        """Run an operation and note its rule."""
        given = _copied(operation, (args, kwargs))
        results = operation.function(*args, **kwargs)
        leaves = tree_flatten(operation.args)[0]
        states = [self.state(leaf.number) if isinstance(leaf, Ref) else "constant" for leaf in leaves]
        rule = "constant"
        if "value" in states:
            rule = self._rule(operation, _Trial(operation, given, states), _tensors(results))
        elif "weight" in states:
            rule = "weight"
        self.rules[operation] = rule
        for number, value in zip(operation.outputs, _tensors(results), strict=True):
            state = rule if rule in ("constant", "weight") else "value"
            if rule != "constant" and not value.is_floating_point():
                state = "weight"
            self._states[number] = state
            if operation.function._schema.is_mutable:
                self._written[self._bases[number]] = state
        self._follow_squashed(operation, rule, leaves, states)
        return results

    def _rule(self, operation: Operation, trial: _Trial, results: list[Tensor]) -> str:
        name = operation.name
        if operation in self._held or name in _SOFTMAX or not any(one.is_floating_point() for one in results):
            return "weight"
        if name in _SPECIAL:
            return name
        if name == "div" and trial.states[1:2] == ["value"]:
            return "quotient" if trial.states[0] == "value" else "weight"
        one, two, none = trial.at(1), trial.at(2), trial.at(0)
        if _equal(
            [b - c for b, c in zip(two, none, strict=True)],
            [2 * (a - c) for a, c in zip(one, none, strict=True)],
        ):
            if "weight" in trial.states and any(bool(value[value.isfinite()].any()) for value in none):
                raise NotAffine(f"its head adds ({name}) a value that is no sum over the positions of a map")
            return "linear"
        if _equal(two, [4 * value for value in one]) and not any(bool(value.any()) for value in none):
            numbers = [leaf.number for leaf in tree_flatten(operation.args)[0] if isinstance(leaf, Ref)]
            if len(sigmoids := {self._squashed[n] for n in numbers if n in self._squashed}) == 1:
                raise _Held(sigmoids.pop())
            return "product"
        if trial.is_elementwise():
            return "activation" if all(bool(value.isfinite().all()) for value in none) else "weight"
        raise NotAffine(f"{name} in its head is no affine function of the last feature map")

    def _follow_squashed(self, operation: Operation, rule: str, leaves: list[Any], states: list[str]) -> None:
        if rule == "activation" and operation.name in _SQUASHING:
            self._squashed.update(dict.fromkeys(operation.outputs, operation))
            return
        values = [leaf.number for leaf, state in zip(leaves, states, strict=True) if state == "value"]
        if rule == "linear" and len(values) == 1 and values[0] in self._squashed:
            self._squashed.update(dict.fromkeys(operation.outputs, self._squashed[values[0]]))


class _Trial:
    """Calls an operator with random values in place of those that depend on the feature maps."""

    def __init__(self, operation: Operation, given: Any, states: list[str]) -> None:
        self.states = states
        self._operation = operation
        self._leaves, self._structure = tree_flatten(given)
        generator = torch.Generator().manual_seed(0)
        self._random = {
            index: torch.randn(leaf.shape, generator=generator).to(leaf)
            for index, (leaf, state) in enumerate(zip(self._leaves, states, strict=True))
            if state == "value"
        }
        if not all(bool(value.isfinite().all()) for value in self.at(1)):  # such as powers and logarithms
            self._random = {index: value.abs() + 0.1 for index, value in self._random.items()}

    def at(self, scale: float) -> list[Tensor]:
        """Results that are not integers, for the random values times a factor."""
        return self._call({index: scale * value for index, value in self._random.items()})

    def is_elementwise(self) -> bool:
        """Whether each element of the one result is a function of one element of the one value."""
        if len(self._random) != 1:
            return False
        ((index, value),) = self._random.items()
        (result, *more) = self.at(1)
        if more or result.shape != value.shape:
            return False
        half = torch.arange(value.numel(), device=value.device).view(value.shape) % 2 == 0
        changed = self._call({index: torch.where(half, value + 0.5, value)})[0]
        return bool(torch.equal(changed[~half], result[~half]))

    def _call(self, values: dict[int, Tensor]) -> list[Tensor]:
        leaves = [values.get(index, leaf) for index, leaf in enumerate(self._leaves)]
        args, kwargs = _copied(self._operation, tree_unflatten(leaves, self._structure))
        results = _tensors(self._operation.function(*args, **kwargs))
        return [value for value in results if value.is_floating_point() and value.numel()]


def _equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether values agree up to rounding wherever both are finite, which some have to be."""
    for a, b in zip(first, second, strict=True):
        finite = a.isfinite() & b.isfinite()
        a, b = a[finite].double(), b[finite].double()
        if not len(a) or bool((a - b).norm() > 1e-4 * b.norm() + 1e-9):
            return False
    return True


def _single(value: Tensor) -> Tensor:
    """A copy in float32, or in float64 where the value is."""
    return value.detach().clone() if value.dtype == torch.float64 else value.detach().float().clone()


Apply = Callable[[Operation, Any, Any], Any]


def _as_is(operation: Operation, args: Any, kwargs: Any) -> Any:
    return operation.function(*args, **kwargs)


def _as_weight(operation: Operation, args: Any, kwargs: Any) -> Any:
    with torch.no_grad():
        args, kwargs = _copied(operation, (args, kwargs))
        return operation.function(*args, **kwargs)


def _as_product(operation: Operation, args: Any, kwargs: Any) -> Any:
    """Half the derivative: by Euler's theorem a function of degree two is half of sum(x df/dx)."""

    def halved(value: Any) -> Any:
        return (
            (value + value.detach()) / 2 if isinstance(value, Tensor) and value.is_floating_point() else value
        )

    return _written(
        operation, args, tree_map(halved, operation.function(*_copied(operation, args), **kwargs))
    )


def _as_activation(operation: Operation, args: Any, kwargs: Any) -> Any:
    leaves, structure = tree_flatten((args, kwargs))
    (index,) = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
    value = leaves[index]

    def at(given: Tensor) -> Tensor:
        inputs = [given if i == index else leaf for i, leaf in enumerate(leaves)]
        some_args, some_kwargs = _copied(operation, tree_unflatten(inputs, structure))
        return _tensors(operation.function(*some_args, **some_kwargs))[0]

    with torch.no_grad():
        zero = at(torch.zeros_like(value))
        gate = torch.where(value == 0, 0, (at(value) - zero) / torch.where(value == 0, 1, value))
    return _written(operation, args, value * gate + zero)


def _as_quotient(operation: Operation, args: Any, kwargs: Any) -> Any:
    return operation.function(args[0], args[1].detach(), *args[2:], **kwargs)


def _layer_norm(operation: Operation, args: Any, kwargs: Any) -> Any:
    value, shape, weight, bias, eps = args
    axes = tuple(range(-len(shape), 0))
    centred = value - value.mean(axes, keepdim=True)
    scale = (centred.detach().square().mean(axes, keepdim=True) + eps).rsqrt()
    out = centred * scale
    out = out if weight is None else out * weight
    return (out if bias is None else out + bias), value.detach().mean(axes, keepdim=True), scale


def _group_norm(operation: Operation, args: Any, kwargs: Any) -> Any:
    value, weight, bias, _, channels, _, groups, eps = args
    grouped = value.reshape(len(value), groups, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    scale = (centred.detach().square().mean(2, keepdim=True) + eps).rsqrt()
    out = (centred * scale).view(value.shape)
    per_channel = (1, channels) + (1,) * (value.ndim - 2)
    out = out if weight is None else out * weight.view(per_channel)
    out = out if bias is None else out + bias.view(per_channel)
    return out, grouped.detach().mean(2), scale[:, :, 0]


def _rms_norm(operation: Operation, args: Any, kwargs: Any) -> Any:
    value, shape, weight, eps = args
    axes = tuple(range(-len(shape), 0))
    eps = torch.finfo(value.dtype).eps if eps is None else eps
    scale = (value.detach().square().mean(axes, keepdim=True) + eps).rsqrt()
    out = value * scale
    return (out if weight is None else out * weight), scale


def _glu(operation: Operation, args: Any, kwargs: Any) -> Any:
    value, gate = args[0].chunk(2, args[1] if len(args) > 1 else -1)
    return value * gate.detach().sigmoid()


def _copied(operation: Operation, args: Any) -> Any:
    """Arguments that an operator may overwrite."""
    mutable = operation.function._schema.is_mutable
    return tree_map(lambda v: v.clone() if mutable and isinstance(v, Tensor) else v, args)


def _written(operation: Operation, args: Any, result: Any) -> Any:
    """A result, written into the first argument where the operator works in place."""
    return args[0].copy_(result) if operation.function._schema.is_mutable else result


_SPECIAL: dict[str, Apply] = {
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "fused_rms_norm": _rms_norm,
    "glu": _glu,
}
_APPLY: dict[str, Apply] = {
    "constant": _as_is,
    "linear": _as_is,
    "weight": _as_weight,
    "product": _as_product,
    "activation": _as_activation,
    "quotient": _as_quotient,
    **_SPECIAL,
}
"""Rule → how an operation is computed so that its derivative gives its contributions."""


# ---------------------------------------------------------------------------------------------- the head

Select = Callable[[Any], Tensor]
"""What a model returns → the one tensor of logits in it."""


@dataclass(frozen=True)
class Contributions:
    """What the positions of the last feature maps contribute to the logit of a class, for B images.

    Attributes:
        maps: (B, h, w) float32; its mean is the part of the logit that the positions explain.
        bias: (B,) float32, the logit minus that mean.
        logits: (B, K) float32.
        weights: (B, C) or, where they depend on the position, (B, C, h, w): the product with the features,
            summed over channels, is the map; None for an approximation.
    """

    maps: Tensor
    bias: Tensor
    logits: Tensor
    weights: Tensor | None


class NoFeatureMap(InputError):
    """A model computes its logits from no feature map."""


class RecordedHead:
    """What leads from the last feature maps of a model to its logits, found in its operations.

    Args:
        model: the classifier, in eval mode.
        select: see `Select`.
        graph: of one forward pass.
        target: number of the logits in it.
        images: other images, on which the head is checked.
        small: whether the images are smaller than those the model is made for. A network of large stride
            leaves one position of them, so a map far from the logits is then no feature map.

    Attributes:
        classifier: the linear layer that returns the logits; None if another operation does.
        num_classes: number of logits K.
        activation: "softmax" or "sigmoid" if the model ends in one, else None.
        kind: what the class map is, see `heatbox.class_maps`.
        reason: why there is no exact class map; "" if there is one.

    Raises:
        NoFeatureMap: the model reads its logits from no feature map.
    """

    def __init__(
        self, model: nn.Module, select: Select, graph: Graph, target: int, images: Tensor, small: bool
    ) -> None:
        self.model, self.select, self.reason, self.kind = model, select, "", ""
        self.uniform = False
        """Whether a channel has the same weight at every position."""
        self._affine: Affine | None = None
        self._inner: Part | None = None
        self._parts: list[Part] = []
        found = find_feature_maps(graph, target)
        if not found and not small:
            found = [one for one in graph.dominators(target) if one and graph.layout(one) is not None][:1]
            layers = sum(one.name in _ATTENTION for one in graph.between(found[0], target)) if found else 0
            self.reason = (
                f"its logits are read from its last feature map through {layers} weighted sums (softmax), of "
                "which a class map holds one"
                if layers > _MOST_ATTENTION
                else "its logits are computed from feature maps of several depths, not all of them by a head"
            )
        if not found:
            raise NoFeatureMap("it computes its logits from no feature map")
        self.classifier = graph.layer_of(target)
        self._start_at(graph, found)
        try:
            self._examine(graph, target, found, images)
        except InputError as error:
            if self.reason:  # the map is not only far from the logits but also elsewhere for other images
                raise NoFeatureMap(self.reason) from error
            raise

    # ---------------------------------------------------------------------------------- running it

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Recording]:
        """Features (B, C, h, w), logits (B, K) and the recording of one forward pass.

        The features are a tensor of their own, so that a recording can be freed when they are.
        """
        recording = self.record(images)
        features = self.features(recording)
        return features.view_as(features), recording.logits, recording

    def record(self, images: Tensor) -> Recording:
        """Run the model once and keep the operations after its last feature maps.

        Args:
            images: (B, C, H, W) on the device of the model and in its dtype.

        Raises:
            InputError: the model computes something else for these images than for those it was found with.
        """
        recorder = Recorder(keep=True)
        differentiable = torch.is_grad_enabled() and images.requires_grad
        with torch.inference_mode(False), torch.set_grad_enabled(differentiable), ExitStack() as stack:

            def begin() -> None:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # attention weights as a tensor
                stack.enter_context(recorder)

            images = images.clone() if images.is_inference() else images
            with _plain_attention(), self._boundary.reached(begin):
                output = self.select(self.model(images))
        return Recording(recorder, self._parts, output, images.shape[2:])

    def features(self, recording: Recording) -> Tensor:
        """(B, C, h, w): the last feature map; several maps are put together on a common grid."""
        maps = recording.features
        grid = [math.lcm(*sides) for sides in zip(*(one.shape[2:] for one in maps), strict=True)]
        return maps[0] if len(maps) == 1 else torch.cat([_repeated(one, grid) for one in maps], 1)

    def contributions(self, recording: Recording, targets: Tensor) -> Contributions:
        """The class map of a forward pass.

        Raises:
            InputError: the model has none; see `reason`.
        """
        if self._affine is None:
            raise InputError(f"{model_name(self.model)}: {self.reason}")
        with torch.inference_mode(False):
            targets = targets.clone()
            if not self._affine.fits(recording):  # other operations for another size
                self._affine = self._rules(recording)
            slopes, logits = self._affine.contributions(recording, targets)
            if self.kind == "patch tokens":
                maps = self._patch_tokens(recording, targets)
                rest = logits.gather(1, targets[:, None])[:, 0] - maps.mean((1, 2))
                return Contributions(maps, rest, logits, None)
        features = self.features(recording).float()
        weights = []
        for part, slope in zip(recording.parts, slopes, strict=True):
            one = part.layout.to_map(slope, recording.image)
            weights.append(_repeated(one * one[0, 0].numel(), features.shape[2:]))
        weight = torch.cat(weights, 1)
        maps = weighted_sum(features, weight)
        rest = logits.gather(1, targets[:, None])[:, 0] - maps.mean((1, 2))
        return Contributions(maps, rest, logits, weight[:, :, 0, 0] if self.uniform else weight)

    def run(self, recording: Recording, features: Tensor) -> Tensor:
        """Logits (B, K) of feature maps (B, C, h, w) in place of the recorded ones."""
        starts, first = [], 0
        for part, start in zip(recording.parts, recording.starts, strict=True):
            original = _single(recording.values[start])
            shape = part.layout.to_map(original, recording.image).shape
            one = F.adaptive_avg_pool2d(features[:, first : first + shape[1]], (shape[2], shape[3]))
            starts.append(part.layout.from_map(one, original, recording.image))
            first += shape[1]
        return recording.run(starts)

    def gradient_start(self, recording: Recording) -> Recording:
        """The recording from the map whose gradient is not zero at the positions of the image.

        It is that of the last feature map, but for a class token: there it is the map that the last attention
        reads, after its norm; later, only the token is read.
        """
        if self._inner is None or self.kind != "patch tokens":
            return recording
        return recording.starting_at([self._inner])

    def attention(self, recording: Recording, targets: Tensor) -> Tensor:
        """Gradient-weighted attention of a class token in the last layer of attention.

        The mean over heads of max(0, A dy/dA), with the attention A and the logit y (Chefer et al.,
        "Generic Attention-model Explainability", ICCV 2021, eq. 5), in the row of the class token.

        Returns:
            (B, h, w) float32.

        Raises:
            InputError: the model reads its logits from no class token.
        """
        if self._inner is None:
            raise InputError(f"{model_name(self.model)} reads no class token, whose attention could be used")
        inner = recording.starting_at([self._inner])
        layout = self._inner.layout
        found: list[Tensor] = []

        def apply(operation: Operation, args: Any, kwargs: Any) -> Any:
            result = _as_is(operation, args, kwargs)
            if operation.name not in _SOFTMAX:
                return result
            found.append(result.detach().requires_grad_())
            return found[-1]

        with torch.inference_mode(False), torch.enable_grad():
            targets = targets.clone()
            logits = inner.run([_single(inner.values[start]) for start in inner.starts], apply)
            attention = found[-1]
            (slope,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), attention)
        heads = (attention.detach() * slope).clamp_min(0)  # (B, heads, rows, tokens)
        rows = heads.shape[-2]
        tokens = heads[..., : layout.prefix, :] if rows == heads.shape[-1] else heads
        grid = layout.grid(inner.values[inner.starts[0]].shape, recording.image)
        assert grid is not None
        mean = tokens.flatten(1, -2).mean(1)[:, -grid[0] * grid[1] :]
        return mean.reshape(len(mean), *grid)

    # ------------------------------------------------------------------------------- finding it

    def _start_at(self, graph: Graph, numbers: Sequence[int]) -> None:
        """Note where a forward pass has these maps, and where to begin to record."""
        origins = [graph.origin(number) for number in numbers]
        self._boundary = graph.boundary_before(min(graph.producer[origin] for origin in origins))
        self._parts = []
        for number, origin in zip(numbers, origins, strict=True):
            layout = graph.layout(number)
            assert layout is not None
            layout = replace(layout, flipped=graph.mirrored(number))
            position = graph.producer[origin]
            before = graph.operations[self._boundary.position : position]
            step = sum(operation.name not in RESHAPING for operation in before)
            output = graph.operations[position].outputs.index(origin)
            moves = sum(one.name in MOVING for one in graph.between(origin, number))
            channels = layout.channels(graph.shapes[number])
            self._parts.append(Part(step, output, moves, channels, layout))

    def _examine(self, graph: Graph, target: int, found: list[int], images: Tensor) -> None:
        """Find out what the class map of the model is, on images other than those of the graph."""
        recording = self.record(images)
        self.num_classes, self.activation = recording.logits.shape[1], recording.activation
        if getattr(self.model, "num_classes", None) == 0:
            self.reason = "it has no classifier (num_classes=0): what it returns are features, not logits"
        if self.reason:
            return
        try:
            self._affine = Affine(recording)
        except NotAffine as error:
            self.reason = str(error)
            return
        targets = torch.arange(len(images), device=images.device) % self.num_classes
        weights, logits = self._affine.contributions(recording, targets)
        _check_logits(self.model, logits, recording.logits)
        if any(part.layout.has_tokens for part in self._parts):
            layouts = [
                _oriented(part.layout, weight, recording.image)
                for part, weight in zip(self._parts, weights, strict=True)
            ]
            self._parts = [
                replace(part, layout=layout, channels=layout.channels(weight.shape))
                for part, layout, weight in zip(self._parts, layouts, weights, strict=True)
            ]
            recording = recording.starting_at(self._parts)
        prefixes = [self._split(part, weight) for part, weight in zip(self._parts, weights, strict=True)]
        if any(token and not patch for token, patch in prefixes):
            self._read_class_token(graph, target, found)
        elif any(token for token, _ in prefixes):
            self.kind = "patch tokens beside other tokens"
            if len(found) == 1:
                self._find_attended(graph, target, found)
        else:
            self._name(recording, weights)

    @staticmethod
    def _split(part: Part, weight: Tensor) -> tuple[bool, bool]:
        """Whether the logits read tokens before those of the image, and the positions of the image."""
        if not part.layout.prefix:
            return False, True
        tokens = weight if part.layout.kind == "token channels" else weight.transpose(1, 2)
        first, rest = tokens[..., : part.layout.prefix], tokens[..., part.layout.prefix :]
        size = weight.abs().max()
        return bool(first.abs().max() > 1e-6 * size), bool(rest.abs().max() > 1e-6 * size)

    def _name(self, recording: Recording, weights: Sequence[Tensor]) -> None:
        """Name an exact map by what is between the feature map and the logits."""
        slopes = [p.layout.to_map(w, recording.image) for p, w in zip(self._parts, weights, strict=True)]
        spread = [(slope - slope[:, :, :1, :1]).abs().max() for slope in slopes]
        self.uniform = all(bool(one <= 1e-5 * s.abs().max()) for one, s in zip(spread, slopes, strict=True))
        if len(slopes) > 1:
            self.kind = f"sum of {len(slopes)} maps"
        elif any(operation.name in _SOFTMAX for operation in recording.needed):
            self.kind = "attention pooling"
        elif not self.uniform:
            self.kind = "positional weights"
        elif slopes[0].shape[1] == self.num_classes > 1 and bool(
            ((slopes[0][:, :, 0, 0] != 0).sum(1) == 1).all()
        ):
            self.kind = "class map"
        else:
            self.kind = "class weights"

    def _read_class_token(self, graph: Graph, target: int, found: list[int]) -> None:
        """Prepare the approximations of a model that reads its logits from class tokens."""
        self.kind = "patch tokens"
        if len(found) > 1:
            self._affine, self.reason = None, "its logits are read from class tokens of several branches"
            return
        self._find_attended(graph, target, found)

    def _find_attended(self, graph: Graph, target: int, found: list[int]) -> None:
        """Find the tokens that the last attention reads."""
        for number in graph.dominators(target):
            if not number or number >= found[0] or not graph.has_tokens(number):
                continue
            layers = [one for one in graph.between(number, target) if one.name in _ATTENTION]
            if layers:
                # The tokens as the attention reads them, after a norm: through a norm, which does not change
                # if its input is scaled, the gradient times the input is zero.
                read = [one for one in graph.dominators(layers[0].outputs[0]) if graph.has_tokens(one)]
                (last,) = self._parts  # its layout may have been found by value
                self._start_at(graph, [found[0], min((one for one in read if one > number), default=number)])
                self._inner = self._parts.pop()
                self._parts = [replace(self._parts[0], layout=last.layout, channels=last.channels)]
                return

    def _rules(self, recording: Recording) -> Affine:
        try:
            return Affine(recording)
        except NotAffine as error:
            raise InputError(f"{model_name(self.model)}: {error}") from error

    def _patch_tokens(self, recording: Recording, targets: Tensor) -> Tensor:
        """(B, h, w): the logit of a class where each patch token stands in place of the class tokens."""
        (part,), (start,) = self._parts, recording.starts
        tokens = _single(recording.values[start])
        axis = 1 if part.layout.kind == "tokens" else 2
        place, patches = tokens.narrow(axis, 0, part.layout.prefix), part.layout.prefix
        logits = []
        for index in range(patches, tokens.shape[axis]):
            place.copy_(tokens.narrow(axis, index, 1).expand_as(place))
            logits.append(recording.run([tokens.clone()]).gather(1, targets[:, None])[:, 0])
        grid = part.layout.grid(tokens.shape, recording.image)
        assert grid is not None
        return torch.stack(logits, 1).view(len(tokens), *grid)


def _oriented(layout: Layout, weights: Tensor, image: Sequence[int]) -> Layout:
    """The layout of tokens by their weights: where tokens are averaged, a channel has one weight.

    The shape alone leaves open which axis has the positions where both could.
    """
    axes = {"tokens": 1, "token channels": 2}
    if layout.kind not in axes:
        return layout
    constant = {
        kind: weights.ndim == 3
        and bool((weights - weights.narrow(axis, 0, 1)).abs().max() <= 1e-5 * weights.abs().max())
        for kind, axis in axes.items()
    }
    if constant[layout.kind]:
        return layout
    for other in (Layout("tokens"), Layout("token channels")):
        if constant[other.kind] and other.grid(weights.shape, image) is not None:
            return other
    return layout


def _check_logits(model: nn.Module, found: Tensor, expected: Tensor) -> None:
    tolerance = 1e-4 if expected.dtype not in _HALF else 64 * torch.finfo(expected.dtype).eps
    expected = expected.to(found.dtype)
    if bool((found - expected).norm() > tolerance * expected.norm() + 1e-9):
        raise InputError(f"{model_name(model)}: its logits could not be computed again from its last map")


def weighted_sum(features: Tensor, weights: Tensor) -> Tensor:
    """Features (B, C, h, w), weighted by (B, C), (C,) or (B, C, h, w) and summed over channels; float32.

    Returns:
        (B, h, w).
    """
    batch, channels, height, width = features.shape
    if weights.ndim == 4:
        return (weights.float() * features.float()).sum(1)
    weights = weights.float().expand(batch, channels)
    return (weights[:, None] @ features.float().reshape(batch, channels, -1)).view(batch, height, width)


def _repeated(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, C, h, w) maps on a finer grid whose sides are multiples; means stay the same."""
    rows, columns = (side // own for side, own in zip(grid, maps.shape[2:], strict=True))
    return maps.repeat_interleave(rows, 2).repeat_interleave(columns, 3) if rows * columns > 1 else maps


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention layers compute their steps one by one, not in one operation without derivatives."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def record_graph(
    model: nn.Module, select: Select, images: Tensor, recorder: Recorder, small: bool = False
) -> tuple[Graph, int, Tensor]:
    """The graph of one forward pass, the number of the logits in it, and what the model returns.

    Raises:
        InputError: the model returns no logits, or none that are computed from the images.
        ValueError: it does not accept images of this size, of which it returns logits of another number.
    """
    boundaries: list[Boundary] = []
    calls: Counter[tuple[nn.Module, str]] = Counter()

    def note(module: nn.Module, side: Literal["input", "output"]) -> None:
        if isinstance(module, torch.jit.RecursiveScriptModule):  # which takes no hooks
            return
        boundaries.append(Boundary(module, side, calls[module, side], len(recorder.operations)))
        calls[module, side] += 1

    with torch.inference_mode(False), torch.no_grad(), ExitStack() as stack:
        stack.enter_context(_plain_attention())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(
            hooked(model, lambda one, _: note(one, "input"), lambda one, *_: note(one, "output"))
        )
        recorder.add(images)
        with recorder:
            output = select(model(images))
    if len(output) != len(images):  # view(-1, C) of images of another size
        raise ValueError(f"it returns logits of {len(output)} images for {len(images)}")
    if not boundaries:
        raise InputError(f"{model_name(model)} has no module that takes hooks")
    number = recorder.number(output)
    graph = Graph(recorder, boundaries, images.shape[2:], small)
    if number is None or not graph.depends(number):
        raise InputError(
            f"{model_name(model)} returns logits that no operation of PyTorch computes from the images"
        )
    return graph, final_activation(graph.operations, number)[0], output


def find_feature_maps(graph: Graph, target: int, seen: set[int] | None = None) -> list[int]:
    """The last feature maps through which every path from the images to the logits leads.

    One map is looked for first. Where only the images or a map deep inside the network lead to the logits,
    each of the values that the logits are put together from is looked at in turn: ensembles, mirrored
    copies, branches.

    Returns:
        numbers of the maps; empty where there are none.
    """
    for number in graph.dominators(target):
        if number == 0:
            break
        if graph.layout(number) is None:
            continue
        if not _is_head(graph, number, target):
            break
        return [_before_pooling(graph, _before_token(graph, target, number))]
    seen = set() if seen is None else seen
    position = graph.producer.get(target)
    if position is None or graph.layout(target) is not None or len(seen) > _MOST_BRANCHES:
        return []
    operation = graph.operations[position]
    if _is_trunk(operation, graph) or operation.name in _ATTENTION:
        return []
    seen.add(target)
    found: list[int] = []
    for source in dict.fromkeys(operation.inputs):
        if graph.depends(source) and source not in seen:
            maps = find_feature_maps(graph, source, seen)
            if not maps:
                return []
            found += [one for one in maps if one not in found]
    return found


def _is_trunk(operation: Operation, graph: Graph) -> bool:
    """Whether an operation belongs to the network before its head: a convolution that leaves a map.

    On a small image also one that leaves a single position, and pooling in windows, may leave a map of an
    image of the usual size.
    """
    if operation.name in _WINDOWS:
        return graph.small
    if operation.name != "convolution" or math.prod(operation.shapes[1][2:]) == 1:
        return False
    return graph.small or math.prod(graph.shapes[operation.outputs[0]][2:]) > 1


def _before_token(graph: Graph, target: int, number: int) -> int:
    """The tokens from which a further one was computed, such as their mean, by a head alone."""
    layout = graph.layout(number)
    if layout is None or not layout.prefix:
        return number
    for earlier in graph.dominators(target):
        if earlier == 0 or not _is_head(graph, earlier, target):
            break
        layout = graph.layout(earlier)
        if earlier < number and layout is not None and layout.prefix == 0:
            return earlier
    return number


def _is_head(graph: Graph, number: int, target: int) -> bool:
    """Whether what is between a map and the logits is a head: no convolution, no more than one attention."""
    after = graph.between(number, target)
    layers = sum(operation.name in _ATTENTION for operation in after)
    return layers <= _MOST_ATTENTION and not any(_is_trunk(operation, graph) for operation in after)


def _before_pooling(graph: Graph, number: int) -> int:
    """The map from which a map was only reshaped, so that its rows and columns are certain, or pooled.

    A map that is pooled to a fixed grid may be finer before.
    """
    found = at = number
    while True:
        operation = graph.operations[graph.producer[at]]
        if operation.name not in (*RESHAPING, "adaptive_avg_pool2d"):
            return found
        sources = [source for source in operation.inputs if graph.depends(source)]
        if len(sources) != 1 or sources[0] == 0:
            return found
        (at,) = sources
        layout = graph.layout(at)
        if layout is not None and (operation.name == "adaptive_avg_pool2d" or not layout.has_tokens):
            found = at
