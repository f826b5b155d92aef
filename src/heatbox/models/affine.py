"""What leads from feature maps to the logits, recorded and computed again as an affine function of the maps.

Between the feature map and the logits most networks compute functions that are affine *for a given image*:
the mean, linear layers, norms with the image's own statistics, activations with the image's own gates,
attention with the image's own weights. `Recording` holds these operations with their values; `Affine` finds
out by calling each of them which kind it is, and computes them again with those statistics, gates and weights
held constant.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from heatbox.errors import InputError
from heatbox.models.recording import MOVING, RESHAPING, Layout, Operation, Recorder, Ref

HALF = (torch.float16, torch.bfloat16)
SOFTMAX = ("softmax", "safe_softmax")
_FINAL = {
    "softmax": "softmax",
    "log_softmax": "softmax",
    "sigmoid": "sigmoid",
    "log_sigmoid_forward": "sigmoid",
}
"""An activation after the logits → how it makes scores of them."""

_SQUASHING = ("sigmoid", "hardsigmoid", "tanh", "erf")


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
            if isinstance(value, Tensor) and value.dtype in HALF:
                return value.float()
            return torch.float32 if value in HALF else value

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
            leaves = [single(recording.values[start]).requires_grad_() for start in recording.starts]
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
        if operation in self._held or name in SOFTMAX or not any(one.is_floating_point() for one in results):
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


def single(value: Tensor) -> Tensor:
    """A copy in float32, or in float64 where the value is."""
    return value.detach().clone() if value.dtype == torch.float64 else value.detach().float().clone()


Apply = Callable[[Operation, Any, Any], Any]


def as_is(operation: Operation, args: Any, kwargs: Any) -> Any:
    """What the operation returns for these arguments."""
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
    "constant": as_is,
    "linear": as_is,
    "weight": _as_weight,
    "product": _as_product,
    "activation": _as_activation,
    "quotient": _as_quotient,
    **_SPECIAL,
}
"""Rule → how an operation is computed so that its derivative gives its contributions."""
