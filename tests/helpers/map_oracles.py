"""Class maps computed in another way than heatbox does: by the gradient of a network whose gates are frozen.

Behind the last map a head is a chain of linear layers, norms and activations, and for one image each of them
is affine: a norm divides by that image's standard deviation, an activation multiplies by a(z) - a(0) over z,
an attention multiplies by that image's weights. With those numbers held constant the gradient of a logit with
respect to the map is the weight of each position, whatever the network; map times gradient, summed over
channels, is what each position contributes.

The last map itself is found by its effect: logits that are read from a mean do not change when a map is
replaced by its mean over positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from helpers.unchanged import logits_of

_ACTIVATIONS = {
    F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_,
    F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.hardtanh, F.relu6, F.elu, F.selu, F.celu, F.leaky_relu,
    F.mish,
    F.softplus, F.softsign, F.tanhshrink, F.logsigmoid, F.softshrink, F.hardshrink, F.threshold,
    torch.square, Tensor.square, torch.prelu,
    torch.tanh, Tensor.tanh, F.tanh, torch.sigmoid, Tensor.sigmoid, F.sigmoid,
}  # fmt: skip
_DIVISORS = {
    torch.rsqrt, Tensor.rsqrt, torch.sqrt, Tensor.sqrt, torch.var, Tensor.var, torch.std, Tensor.std,
    torch.norm, Tensor.norm, torch.linalg.vector_norm, torch.linalg.norm,
}  # fmt: skip
_SOFTMAX = {torch.softmax, Tensor.softmax, F.softmax}


def _gated(function: Callable[..., Tensor], value: Tensor, args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """An activation as its gate times the input, plus its value at zero; the gate is constant."""
    kwargs = {key: one for key, one in kwargs.items() if key != "inplace"}
    with torch.no_grad():
        at_zero = function(torch.zeros_like(value), *args, **kwargs)
        result = function(value.clone(), *args, **kwargs)
        gate = torch.where(value == 0, 0, (result - at_zero) / torch.where(value == 0, 1, value))
    return gate * value + at_zero


class FrozenGates(TorchFunctionMode):
    """Norms, activations and attentions whose statistics, gates and weights are constant, once it is on."""

    on = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.on:
            return function(*args, **kwargs)
        if function in _ACTIVATIONS:
            return _gated(function, args[0], args[1:], kwargs)
        if function in _DIVISORS or function in _SOFTMAX:
            with torch.no_grad():
                return function(*args, **kwargs)
        if function is F.layer_norm:
            return self._layer_norm(*args, **kwargs)
        if function is F.group_norm:
            return self._group_norm(*args, **kwargs)
        if function is getattr(F, "rms_norm", None):
            return self._rms_norm(*args, **kwargs)
        if function is F.normalize:
            value, p, dim, eps = self._arguments(args, kwargs, ("p", 2.0), ("dim", 1), ("eps", 1e-12))
            return value / value.detach().norm(p, dim, keepdim=True).clamp_min(eps)
        if function is F.scaled_dot_product_attention:
            names = ("key", None), ("value", None), ("attn_mask", None)
            query, key, value, mask = self._arguments(args, kwargs, *names)
            with torch.no_grad():
                scale = kwargs.get("scale") or query.shape[-1] ** -0.5
                scores = query @ key.transpose(-2, -1) * scale
                if mask is not None:
                    scores = (
                        scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
                    )
                weights = scores.softmax(-1)
            return weights @ value
        if function is F.multi_head_attention_forward:
            return self._attention(*args[:13]), None
        return function(*args, **kwargs)

    @staticmethod
    def _attention(
        query, key, value, width, heads, matrix, shift, _key, _value, _zero, _drop, out_matrix, out_shift
    ):
        """Of `nn.MultiheadAttention` without masks; queries, keys and values are (N, B, C)."""
        shifts = (None,) * 3 if shift is None else shift.chunk(3)
        query, key, value = (
            F.linear(one, part, bias).unflatten(-1, (heads, width // heads)).permute(1, 2, 0, 3)
            for one, part, bias in zip((query, key, value), matrix.chunk(3), shifts, strict=True)
        )
        weights = (query @ key.mT * (width // heads) ** -0.5).softmax(-1).detach()
        return F.linear((weights @ value).permute(2, 0, 1, 3).flatten(2), out_matrix, out_shift)

    @staticmethod
    def _arguments(args: tuple, kwargs: dict[str, Any], *names: tuple[str, Any]) -> list[Any]:
        given = {**dict(names), **kwargs}
        given.update(zip([name for name, _ in names], args[1:], strict=False))
        return [args[0] if args else kwargs["input"], *(given[name] for name, _ in names)]

    @staticmethod
    def _affine(value: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        value = value if weight is None else value * weight
        return value if bias is None else value + bias

    def _layer_norm(self, value, normalized_shape, weight=None, bias=None, eps=1e-5):
        dims = tuple(range(-len(normalized_shape), 0))
        deviation = (value.detach().var(dims, correction=0, keepdim=True) + eps).sqrt()
        return self._affine((value - value.mean(dims, keepdim=True)) / deviation, weight, bias)

    def _group_norm(self, value, num_groups, weight=None, bias=None, eps=1e-5):
        grouped = value.reshape(len(value), num_groups, -1)
        deviation = (grouped.detach().var(-1, correction=0, keepdim=True) + eps).sqrt()
        shape = [1, -1] + [1] * (value.ndim - 2)
        plain = ((grouped - grouped.mean(-1, keepdim=True)) / deviation).reshape(value.shape)
        return self._affine(
            plain, None if weight is None else weight.view(shape), None if bias is None else bias.view(shape)
        )

    def _rms_norm(self, value, normalized_shape, weight=None, eps=None):
        dims = tuple(range(-len(normalized_shape), 0))
        eps = torch.finfo(value.dtype).eps if eps is None else eps
        size = (value.detach().square().mean(dims, keepdim=True) + eps).sqrt()
        return self._affine(value / size, weight, None)


@dataclass(frozen=True)
class Point:
    """Where a map appears in a forward pass, and along which dimensions its positions lie.

    Attributes:
        at: number of the call of a torch function that returns it; or name of the module whose last input
            or output it is.
        side: "function", "input" or "output".
        dims: of the positions.
    """

    at: int | str
    side: str
    dims: tuple[int, ...]


class Calls(TorchFunctionMode):
    """`visit` sees every tensor that a torch function returns, in order, and may return another one."""

    def __init__(self, visit: Callable[[int, Tensor], Tensor | None]) -> None:
        super().__init__()
        self.visit, self.number = visit, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        self.number += 1
        changed = self.visit(self.number, output)
        return output if changed is None else changed


def _run(model: nn.Module, images: Tensor, point: Point, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits when the tensor at a point is replaced by a function of it."""
    if point.side == "function":
        with Calls(lambda number, value: function(value) if number == point.at else None):
            return logits_of(model(images))
    module = model.get_submodule(str(point.at))
    if point.side == "input":
        handle = module.register_forward_pre_hook(lambda module, args: (function(args[0]), *args[1:]))
    else:
        handle = module.register_forward_hook(lambda module, args, output: function(output))
    try:
        return logits_of(model(images))
    finally:
        handle.remove()


def _mean_over(value: Tensor, dims: tuple[int, ...], prefix: int) -> Tensor:
    """The value with its mean at every position, but for the first ones."""
    start = value.narrow(dims[0], 0, prefix)
    rest = value.narrow(dims[0], prefix, value.shape[dims[0]] - prefix)
    return torch.cat([start, rest.mean(dims, keepdim=True).expand_as(rest)], dims[0])


def _layouts(shape: torch.Size, positions: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Dimensions that may hold the positions, and the number of prefix tokens."""
    for dims in {4: ((2, 3), (1, 2)), 3: ((1,), (2,))}.get(len(shape), ()):
        count = math.prod(shape[dim] for dim in dims)
        prefix = count - positions
        if count > 1 and (prefix == 0 or (len(dims) == 1 and 0 < prefix <= 16)):
            yield dims, prefix


@torch.no_grad()
def find_mean(model: nn.Module, images: Tensor, positions: int, most: int = 24) -> Point | None:
    """The last map, with that many positions, whose mean is all that the logits read; None if there is none.

    Args:
        model: in eval mode.
        images: (B, C, H, W).
        positions: of the map, without prefix tokens.
        most: number of tensors that are tried, from the end.
    """
    shapes: list[torch.Size] = []
    model(images)  # tables that it keeps for images of this size are there before functions are counted
    with Calls(lambda number, value: shapes.append(value.shape)):
        logits = logits_of(model(images))
    scale = logits.abs().max()
    tried = 0
    for number in range(len(shapes), 0, -1):
        for dims, prefix in _layouts(shapes[number - 1], positions):
            tried += 1
            if tried > most:
                return None
            point = Point(number, "function", dims)
            same = _run(model, images, point, lambda value, d=dims, p=prefix: _mean_over(value, d, p))
            if not (same - logits).abs().max() < 1e-4 * scale:
                continue
            other = _run(
                model, images, point, lambda value, d=dims, p=prefix: value - 2 * _mean_over(value, d, p)
            )
            if (other - logits).abs().max() > 1e-3 * scale:
                return point
    return None


def positions(model: nn.Module, images: Tensor, point: Point) -> int:
    """Number of positions of the map at a point."""
    shapes: list[torch.Size] = []

    def note(value: Tensor) -> Tensor:
        shapes.append(value.shape)
        return value

    _run(model, images, point, note)
    return math.prod(shapes[-1][dim] for dim in point.dims)


def frozen_map(model: nn.Module, images: Tensor, targets: Tensor, point: Point, positions: int) -> Tensor:
    """(B, positions): what each position contributes to the logit times their number, without the bias.

    Args:
        model: in eval mode, without gradients of its own.
        images: (B, C, H, W).
        targets: (B,) class of each image.
        point: where the map is.
        positions: of the map; further tokens before them are left out.
    """
    found: list[Tensor] = []

    def cut(value: Tensor) -> Tensor:
        gates.on = True
        found.append(value.detach().clone().requires_grad_())
        return found[-1].clone()

    gates = FrozenGates()
    with torch.enable_grad(), gates:
        logits = _run(model, images, point, cut)
        chosen = logits[torch.arange(len(targets)), targets].sum()
        gradient = torch.autograd.grad(chosen, found[-1])[0]
    product = gradient * found[-1].detach()
    channels = [dim for dim in range(1, product.ndim) if dim not in point.dims]
    return product.sum(channels).flatten(1)[:, -positions:] * positions


def difference(maps: Tensor, oracle: Tensor) -> float:
    """Largest difference of centred maps over the oracle's largest value; constants belong to the bias."""
    maps, oracle = (values.flatten(1).double() for values in (maps, oracle))
    maps, oracle = (values - values.mean(1, keepdim=True) for values in (maps, oracle))
    return float((maps - oracle).abs().max() / oracle.abs().max().clamp_min(1e-30))
