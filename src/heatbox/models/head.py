"""Find the head of a classifier: the steps between its last feature map and its logits.

The head is not looked up in a list of architectures. It is read off one traced forward pass of a small
random image: the chain of modules is followed back from the logits to the global average pooling, and every
link is checked by value. What does not fit is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.models.folding import BATCH_NORM, apply_step, plain_batch_norm
from heatbox.models.spec import as_input, input_size, model_name

_PASS_THROUGH = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d)
_RELATIVE_TOLERANCE = 1e-4


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode and restore each one's own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class Call:
    """One call of a leaf module during the traced forward pass."""

    module: nn.Module
    input: Tensor
    output: Tensor


@dataclass(frozen=True)
class Tap:
    """Where the feature map appears in a forward pass: as the input or the output of a module."""

    module: nn.Module
    side: Literal["input", "output"]


@contextmanager
def tapped(tap: Tap, caught: list[Tensor]) -> Iterator[None]:
    """Append the feature map of every forward pass to `caught`; the hook is taken off at the end."""
    if tap.side == "input":
        handle = tap.module.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    else:
        handle = tap.module.register_forward_hook(lambda _, args, output: caught.append(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def replaced(tap: Tap, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Every forward pass goes on with `function` of the feature map; the hook is taken off at the end."""
    if tap.side == "input":
        handle = tap.module.register_forward_pre_hook(lambda _, args: (function(args[0]), *args[1:]))
    else:
        handle = tap.module.register_forward_hook(lambda _, args, output: function(output))
    try:
        yield
    finally:
        handle.remove()


def _is_unit(module: nn.Module) -> bool:
    known = isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm | BATCH_NORM)
    return (known or not any(module.children())) and not isinstance(module, _PASS_THROUGH)


def _trace(model: nn.Module, images: Tensor) -> tuple[list[Call], Tensor]:
    """All calls of leaf modules in order, and the logits.

    A BatchNorm with an activation of its own counts as two calls, the plain BatchNorm first.
    """
    calls: list[Call] = []
    entered: list[tuple[nn.Module, Tensor, int]] = []

    def enter(module: nn.Module, args: tuple) -> None:
        value = args[0].clone() if args and isinstance(args[0], Tensor) else torch.empty(0)
        entered.append((module, value, len(calls)))

    def leave(module: nn.Module, args: tuple, output: object) -> None:
        _, value, position = entered.pop()
        if isinstance(output, Tensor) and value.numel():
            plain = plain_batch_norm(module, value) if isinstance(module, BATCH_NORM) else output.clone()
            calls.insert(position, Call(module, value, plain))

    handles = []
    for module in model.modules():
        if _is_unit(module):
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return calls, logits


def _probe(model: nn.Module) -> tuple[list[Call], Tensor, Tensor]:
    """Trace a small random image; the model's own input size where it does not take 64 pixels."""
    own_size = input_size(model)
    generator = torch.Generator().manual_seed(0)
    failure: Exception | None = None
    for size in ((own_size[0], 64, 64), own_size, (3, 224, 224)):
        images = as_input(model, torch.randn(2, *size, generator=generator))
        try:
            calls, logits = _trace(model, images)
        except Exception as error:
            failure = error
            continue
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise InputError(
                f"{model_name(model)} does not return logits of shape (B, K), so it has no class weights"
            )
        if any(_is_pooling(call) for call in calls) or size[1] >= 224:
            return calls, logits, images
    raise InputError(f"{model_name(model)} could not be run on a random image of {own_size}: {failure}")


def _close(a: Tensor, b: Tensor) -> bool:
    if a.numel() != b.numel():
        return False
    a, b = a.float().flatten(1), b.float().flatten(1)
    return bool(((a - b).norm() <= _RELATIVE_TOLERANCE * b.norm().clamp_min(1e-12)).all())


def _is_map(value: Tensor) -> bool:
    return value.ndim == 4 and value.shape[2] * value.shape[3] > 1


def _mean(value: Tensor) -> Tensor:
    return value.float().mean((2, 3))


def _is_pooling(call: Call) -> bool:
    return _is_map(call.input) and call.output.numel() == call.input.shape[0] * call.input.shape[1]


def find_head(model: nn.Module) -> tuple[Tap, list[nn.Module]]:
    """Follow the calls back from the logits to the pooled feature map.

    Returns:
        where to tap the feature map, and the steps from its spatial mean to the logits.
    """
    calls, logits, images = _probe(model)
    name = model_name(model)
    if (
        not calls
        or not isinstance(calls[-1].module, nn.Linear | nn.Conv2d)
        or not _close(calls[-1].output, logits)
    ):
        raise InputError(
            f"{name} does not end in a linear layer, so it has no class weights (num_classes=0?)"
        )
    steps: list[nn.Module] = []
    wanted = logits  # the value whose producer is looked for next
    for index in range(len(calls) - 1, -1, -1):
        call = calls[index]
        if _is_map(call.output) and _close(_mean(call.output), wanted):
            tap = Tap(call.module, "output")  # the pooling is a plain function call
            return _check(model, *_past_batch_norm(model, images, calls[:index], call.output, tap, steps))
        if not _close(call.output, wanted):
            continue  # a side branch; if it was the link after all, nothing earlier fits and we say so below
        if _is_pooling(call):
            if not _close(_mean(call.input), wanted):
                raise InputError(
                    f"{name} pools its feature map by {type(call.module).__name__}, not by the mean"
                )
            tap = Tap(call.module, "input")
            return _check(model, *_past_batch_norm(model, images, calls[:index], call.input, tap, steps))
        if not _is_foldable(call):
            raise InputError(f"{name} has {type(call.module).__name__} in its head, which cannot be folded")
        steps.insert(0, call.module)
        wanted = call.input
    if any(call.output.ndim == 3 for call in calls):
        raise InputError(
            f"{name} reads its logits from tokens (B, N, C), not from the mean of a feature map "
            "(B, C, H, W): class activation maps need a convolutional classifier"
        )
    raise InputError(
        f"{name}: no global average pooling of a (B, C, H, W) feature map was found before its class weights"
    )


def _is_foldable(call: Call) -> bool:
    """Whether a step on pooled vectors is affine for a given image, in a way `_fold` knows."""
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
    # Elementwise, so an activation: a change of one channel is not seen in the others.
    return bool(torch.equal(module(nudged)[:, 1:], module(value.clone())[:, 1:]))


def _past_batch_norm(
    model: nn.Module, images: Tensor, calls: list[Call], value: Tensor, tap: Tap, steps: list[nn.Module]
) -> tuple[Tap, list[nn.Module]]:
    """Take a BatchNorm before the pooling into the head, where the model's own features end before it."""
    forward_features = getattr(model, "forward_features", None)
    if not callable(forward_features) or not calls:
        return tap, steps
    own = forward_features(images)
    if not isinstance(own, Tensor) or (own.shape == value.shape and _close(own, value)):
        return tap, steps
    for call in reversed(calls):
        if isinstance(call.module, BATCH_NORM) and _close(call.output, value) and _close(call.input, own):
            return Tap(call.module, "input"), [call.module, *steps]
    return tap, steps


def _check(model: nn.Module, tap: Tap, head: list[nn.Module]) -> tuple[Tap, list[nn.Module]]:
    """The chain must reproduce the logits of other images than those it was read from."""
    for size in ((3, 96, 96), input_size(model)):
        images = torch.randn(2, *size, generator=torch.Generator().manual_seed(1))
        caught: list[Tensor] = []
        try:
            with tapped(tap, caught):
                logits = model(as_input(model, images))
        except Exception:  # a model of fixed input size
            continue
        value = caught[-1].float().mean((2, 3))
        for step in head:
            value = apply_step(step, value)
        if not _close(value, logits):
            raise InputError(
                f"{model_name(model)}: its logits do not follow from the mean of its last feature map"
            )
        return tap, head
    raise InputError(f"{model_name(model)}: the head that was found could not be checked on a second image")
