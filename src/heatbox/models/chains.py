"""Heads that are chains of modules from a global average pooling to the logits, and their folded weights.

Every step is affine for a given image and is folded in closed form into the weights of the class:

- BatchNorm: a scale and a shift per channel.
- LayerNorm of the pooled vector p: (p - mean) / std with the image's own mean and std. Subtracting the mean
  is the same as centring the weights.
- An activation a(z): z times the gate (a(z) - a(0)) / z, plus a(0).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.models._blocks import BATCH_NORM, batch_norm_affine
from heatbox.models.affine import OtherPath
from heatbox.models.heads import Select
from heatbox.models.recording import unrecorded
from heatbox.models.spec import as_input, hooked, model_name
from heatbox.models.stages import FeatureHook

_PASS_THROUGH = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d)
_RELATIVE_TOLERANCE = 1e-4
_ROUNDING = 0.1  # relative error of logits above which it is no rounding, also of 8 bits


class FoldedHead:
    """A chain of modules from the spatial mean of a feature map (B, C, h, w) to the logits.

    Attributes:
        hook: where the feature map appears.
        steps: the modules; the last one is the classifier.
        activation, kind, reason: see `ClassifierView`.
    """

    activation = None
    kind = "class weights"
    reason = ""

    def __init__(self, model: nn.Module, select: Select, hook: FeatureHook, steps: list[nn.Module]) -> None:
        self.model, self.select, self.hook, self.steps = model, select, hook, steps

    @property
    def classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.steps[-1]

    @property
    def num_classes(self) -> int:
        """Number of logits K."""
        return linear_of(self.classifier)[0].shape[0]

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, None]:
        """Features (B, C, h, w) and logits (B, K) of images."""
        with self.hook.capture() as captured:
            logits = self.select(self.model(images))
        if not captured:
            raise OtherPath(model_name(self.model))
        return captured[-1], logits, None

    def logits(self, features: Tensor) -> Tensor:
        """Logits (B, K) of a feature map (B, C, h, w), computed step by step from its spatial mean."""
        return _run_steps(self.steps, features)

    def fits(self, features: Tensor, logits: Tensor) -> bool:
        """Whether the logits (B, K) of each image are those of its feature map, but for rounding.

        Where the terms of a logit cancel, rounding is measured by their usual size.
        """
        value, (matrix, bias) = _run_steps(self.steps[:-1], features), linear_of(self.classifier)
        found = nn.functional.linear(value, matrix, bias)
        terms = value.norm(dim=1) * matrix.norm() / math.sqrt(matrix.shape[1])
        allowed = _ROUNDING * torch.maximum(logits.float().norm(dim=1), terms)
        return not bool(((found - logits).norm(dim=1) > allowed).any())

    def class_weights(
        self, features: Tensor, targets: Tensor, norm: Literal["fold", "ignore"]
    ) -> tuple[Tensor, Tensor]:
        """See `ClassifierView.class_weights`."""
        weights, bias = (values[targets] for values in linear_of(self.classifier))  # (B, C_last), (B,)
        if norm == "ignore":
            if weights.shape[1] != features.shape[1]:
                raise InputError(
                    f"norm='ignore' needs a classifier that reads the {features.shape[1]} channels of the "
                    f"feature map; this one reads {weights.shape[1]} of a hidden layer"
                )
            return weights, bias
        steps, inputs = self.steps[:-1], [_mean(features)]
        for step in steps[:-1]:
            inputs.append(apply_step(step, inputs[-1]))
        for step, value in zip(reversed(steps), reversed(inputs[: len(steps)]), strict=True):
            weights, bias = fold_step(step, value, weights, bias)
        return weights, bias


@dataclass(frozen=True)
class Call:
    """One call of a leaf module during the traced forward pass."""

    module: nn.Module
    input: Tensor
    output: Tensor


@contextmanager
def traced(model: nn.Module) -> Iterator[list[Call]]:
    """A list of all calls of leaf modules in a forward pass inside, in order.

    The output of a BatchNorm is recorded without an activation that it may include; that activation is a
    module of its own and is recorded as the next call.
    """
    calls: list[Call] = []
    entered: list[tuple[Tensor, int]] = []

    units = set(filter(_is_unit, model.modules()))

    def enter(module: nn.Module, args: tuple[object, ...]) -> None:
        if module not in units:
            return
        with unrecorded():
            value = args[0].clone() if args and isinstance(args[0], Tensor) else torch.empty(0)
        entered.append((value, len(calls)))

    def leave(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        if module not in units:
            return
        value, position = entered.pop()
        if isinstance(output, Tensor) and value.numel():
            with unrecorded():
                plain = plain_batch_norm(module, value) if isinstance(module, BATCH_NORM) else output.clone()
            calls.insert(position, Call(module, value, plain))

    with hooked(model, enter, leave):
        yield calls


def _is_unit(module: nn.Module) -> bool:
    known = isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm | BATCH_NORM)
    return (known or not any(module.children())) and not isinstance(module, _PASS_THROUGH)


def find_chain(
    model: nn.Module, select: Select, calls: list[Call], logits: Tensor, images: Tensor
) -> FoldedHead | None:
    """Follow the calls of modules back from the logits to the pooled feature map; None if that fails."""
    ends = [i for i, one in enumerate(calls) if _is_linear(one.module) and close(one.output, logits)]
    steps: list[nn.Module] = []
    wanted = logits  # the value whose producer is searched next
    for index in range(max(ends, default=-1), -1, -1):
        call = calls[index]
        if _is_map(call.output) and close(_mean(call.output), wanted):
            hook, features = FeatureHook(call.module, "output"), call.output  # pooled by a function call
        elif not close(call.output, wanted):
            continue  # a side branch; if it was the link after all, nothing earlier fits
        elif not _is_pooling(call):
            if not _is_foldable(call):
                return None
            steps.insert(0, call.module)
            wanted = call.input
            continue
        elif close(_mean(call.input), wanted):
            hook, features = FeatureHook(call.module, "input"), call.input
        else:
            return None
        hook, steps = _include_batch_norm(model, images, calls[:index], features, hook, steps)
        head = FoldedHead(model, select, hook, steps)
        again = any(one.module is hook.module for one in calls[index + 1 :])  # its last call is another
        return head if steps and not again and _reproduces_logits(head, images.shape[1:]) else None
    return None


def _is_pooling(call: Call) -> bool:
    return _is_map(call.input) and call.output.numel() == call.input.shape[0] * call.input.shape[1]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def _is_foldable(call: Call) -> bool:
    """Whether a step on pooled vectors is affine for a given image, in a form that `fold_step` knows."""
    module, value = call.module, call.input
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1 and not _is_map(value)
    if isinstance(module, nn.Linear | BATCH_NORM):
        return value.ndim == 2 or not _is_map(value)
    if isinstance(module, nn.LayerNorm):
        return value.flatten(1).shape[1] == module.weight.numel() if module.weight is not None else True
    if call.output.shape != value.shape:
        return False
    nudged = value.clone()
    nudged[:, 0] += 1
    # Elementwise, so an activation: changing one channel leaves the others unchanged.
    return bool(torch.equal(module(nudged)[:, 1:], module(value.clone())[:, 1:]))


def _include_batch_norm(
    model: nn.Module,
    images: Tensor,
    calls: list[Call],
    features: Tensor,
    hook: FeatureHook,
    steps: list[nn.Module],
) -> tuple[FeatureHook, list[nn.Module]]:
    """Count a BatchNorm before the pooling as part of the head if `forward_features` ends before it."""
    forward_features = getattr(model, "forward_features", None)
    norms = [one for one in calls if isinstance(one.module, BATCH_NORM) and close(one.output, features)]
    if not callable(forward_features) or not norms:
        return hook, steps
    own = forward_features(images)
    if not isinstance(own, Tensor) or (own.shape == features.shape and close(own, features)):
        return hook, steps
    for call in reversed(norms):
        if close(call.input, own):
            return FeatureHook(call.module, "input"), [call.module, *steps]
    return hook, steps


def _reproduces_logits(head: FoldedHead, size: Sequence[int]) -> bool:
    """Whether the steps give the logits of images other than those they were found with."""
    channels, *own = size
    for side in ((96, 96), own):
        try:
            features, logits, _ = head(noise(head.model, (channels, *side), 1))
        except Exception:  # a model of fixed input size
            continue
        if len(logits) != len(features):  # such a model, too
            continue
        return close(head.logits(features), logits)
    return False


def linear_of(module: nn.Module) -> tuple[Tensor, Tensor]:
    """(out, in) matrix and (out,) bias of a linear layer or 1 x 1 convolution, float32; zeros for no bias."""
    assert isinstance(module, nn.Linear | nn.Conv2d)
    matrix = module.weight.flatten(1).float()
    return matrix, matrix.new_zeros(len(matrix)) if module.bias is None else module.bias.float()


def _affine(norm: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """gamma and beta of a LayerNorm, ones and zeros if it has none."""
    gamma, beta = getattr(norm, "weight", None), getattr(norm, "bias", None)
    width = like.shape[1]
    return (
        like.new_ones(width) if gamma is None else gamma.float(),
        like.new_zeros(width) if beta is None else beta.float(),
    )


def plain_batch_norm(norm: nn.Module, value: Tensor) -> Tensor:
    """A BatchNorm in eval mode, without an activation that it may include, on (B, C, ...) values."""
    scale, shift = batch_norm_affine(norm)
    shape = [1, -1] + [1] * (value.ndim - 2)
    return value.float() * scale.view(shape) + shift.view(shape)


def _run_steps(steps: Sequence[nn.Module], features: Tensor) -> Tensor:
    """Steps of the head on the spatial mean of a feature map (B, C, h, w)."""
    return reduce(lambda value, step: apply_step(step, value), steps, _mean(features))


def apply_step(step: nn.Module, value: Tensor) -> Tensor:
    """One step of the head on pooled vectors (B, C) in float32; BatchNorm commutes with the pooling."""
    if isinstance(step, nn.Linear | nn.Conv2d):
        return nn.functional.linear(value, *linear_of(step))
    if isinstance(step, BATCH_NORM):
        scale, shift = batch_norm_affine(step)
        return value * scale + shift
    if isinstance(step, nn.LayerNorm):
        gamma, beta = _affine(step, value)
        return nn.functional.layer_norm(value, value.shape[1:], gamma, beta, step.eps)
    return step(value.clone())  # an activation, possibly an in-place one


def fold_step(step: nn.Module, value: Tensor, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and bias for the output of a step → the equivalent ones for its input `value` (B, C)."""
    if isinstance(step, nn.Linear | nn.Conv2d):
        matrix, shift = linear_of(step)
        return weights @ matrix, bias + weights @ shift
    if isinstance(step, BATCH_NORM):
        scale, shift = batch_norm_affine(step)
        return weights * scale, bias + weights @ shift
    if isinstance(step, nn.LayerNorm):
        gamma, beta = _affine(step, value)
        std = (value.var(1, correction=0, keepdim=True) + step.eps).sqrt()
        scaled = weights * gamma
        return (scaled - scaled.mean(1, keepdim=True)) / std, bias + weights @ beta
    at_zero = step(torch.zeros_like(value))
    gate = torch.where(value == 0, 0, (apply_step(step, value) - at_zero) / torch.where(value == 0, 1, value))
    return weights * gate, bias + (weights * at_zero).sum(1)


def noise(model: nn.Module, size: tuple[int, int, int], seed: int) -> Tensor:
    """Two random images (2, C, h, w) in the type and on the device of the model."""
    generator = torch.Generator().manual_seed(seed)
    return as_input(model, torch.randn(2, *size, generator=generator))


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of the same images have the same values but for rounding, in any shape."""
    if a.numel() != b.numel() or len(a) != len(b) or not a.is_floating_point():
        return False
    tolerance = max(_RELATIVE_TOLERANCE, *(8 * torch.finfo(one.dtype).eps for one in (a, b)))
    a, b = a.float().flatten(1), b.float().flatten(1)
    return bool(((a - b).norm() <= tolerance * b.norm().clamp_min(1e-12)).all())


def _is_map(value: Tensor) -> bool:
    return value.ndim == 4 and value.shape[2] * value.shape[3] > 1


def _mean(value: Tensor) -> Tensor:
    return value.float().mean((2, 3))
