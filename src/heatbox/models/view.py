"""See through a classifier: its last feature map, and the class weights that turn it into logits.

A class activation map is exact, that is, its spatial mean plus a bias equals the logit, only if everything
between feature map and logit is linear. Real heads are not: BatchNorm before the pooling (RepLKNet),
LayerNorm after it (ConvNeXt), a hidden layer with an activation (MobileNetV3). All of these are *affine for
one given image*, so they can be folded into the weights of the class, image by image, without error:

- BatchNorm: a scale and a shift per channel.
- LayerNorm of the pooled vector p: (p - mean) / std with the image's own mean and std. Subtracting the mean
  is the same as centring the weights.
- An activation a(z) after the pooling: z times the gate (a(z) - a(0)) / z, plus a(0).

The head is not looked up in a list of architectures. It is read off one traced forward pass of a small
random image: the chain of modules is followed back from the logits to the global average pooling, and every
link is checked by value. What does not fit is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from heatbox.errors import InputError

_PASS_THROUGH = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d)
_BATCH_NORM = nn.modules.batchnorm._BatchNorm
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
class _Call:
    """One call of a leaf module during the traced forward pass."""

    module: nn.Module
    input: Tensor
    output: Tensor


@dataclass(frozen=True)
class _Tap:
    """Where the feature map appears in a forward pass: as the input or the output of a module."""

    module: nn.Module
    side: Literal["input", "output"]


class ClassifierView:
    """The feature map and the class weights of a convolutional classifier.

    Works on any network whose logits are computed from a global average pooling of a (B, C, H, W) map by
    linear layers, BatchNorm, LayerNorm and elementwise activations: timm's CNNs, and most of one's own.

    Args:
        model: the classifier; images (B, 3, H, W) → logits (B, K). It is not changed, and its training
            mode is restored after every use.

    Raises:
        InputError: the model cannot be seen through; the message says why.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        with eval_mode(model), torch.no_grad():
            self._tap, self._head = _find_head(model)

    @property
    def classifier(self) -> nn.Module:
        """The last linear layer, whose rows are the raw class weights."""
        return self._head[-1]

    @property
    def num_classes(self) -> int:
        """Number of logits K."""
        return _matrix(self.classifier).shape[0]

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the classifier once, in eval mode.

        Args:
            images: (B, 3, H, W), preprocessed as the model expects.

        Returns:
            features (B, C, h, w), the map that the head reads, and logits (B, K).
        """
        caught: list[Tensor] = []
        with eval_mode(self.model), _tapped(self._tap, caught):
            logits = self.model(images)
        return caught[-1], logits

    def features(self, images: Tensor) -> Tensor:
        """The last feature map alone, (B, C, h, w)."""
        return self(images)[0]

    def head(self, features: Tensor) -> Tensor:
        """Logits (B, K) of a feature map (B, C, h, w), computed from the folded chain."""
        value = features.float().mean((2, 3))
        for step in self._head:
            value = _apply(step, value)
        return value

    def class_weights(
        self, features: Tensor, targets: Tensor, norm: Literal["fold", "ignore"] = "fold"
    ) -> tuple[Tensor, Tensor]:
        """Weights and bias that make the logit of a class from the spatial mean of the feature map.

        With ``norm="fold"``: ``(features.mean((2, 3)) * weights).sum(1) + bias`` equals the logit, for
        every image (supplement 11, eq. 2, made exact for heads that are not purely linear).

        Args:
            features: (B, C, h, w) from this view.
            targets: (B,) int64, one class per image.
            norm: "fold" is exact; "ignore" returns the classifier's raw row, as the paper's released code
                multiplies it with raw features.

        Returns:
            weights (B, C) and bias (B,), float32, on the device of the features.

        Raises:
            InputError: a target outside 0..K-1; or "ignore" on a head with a hidden layer, whose rows
                do not match the channels of the feature map.
        """
        self._check_targets(targets)
        weights = _matrix(self.classifier).float()[targets]  # (B, C_last)
        bias = _bias(self.classifier, weights)[targets]
        if norm == "ignore":
            if weights.shape[1] != features.shape[1]:
                raise InputError(
                    f"norm='ignore' needs a classifier that reads the {features.shape[1]} channels of the "
                    f"feature map; this one reads {weights.shape[1]} of a hidden layer"
                )
            return weights, bias
        inputs = [features.float().mean((2, 3))]
        for step in self._head[:-1]:
            inputs.append(_apply(step, inputs[-1]))
        for step, value in zip(reversed(self._head[:-1]), reversed(inputs[:-1]), strict=True):
            weights, bias = _fold(step, value, weights, bias)
        return weights, bias

    def _check_targets(self, targets: Tensor) -> None:
        if torch.compiler.is_compiling():
            return  # a graph that is being recorded has no values to look at
        if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= self.num_classes):
            bad = targets[(targets < 0) | (targets >= self.num_classes)][0].item()
            raise InputError(
                f"class {bad} is out of range: the model has classes 0 to {self.num_classes - 1}"
            )


# ------------------------------------------------------------------- one step of the head, there and back


def _matrix(module: nn.Module) -> Tensor:
    assert isinstance(module, nn.Linear | nn.Conv2d)
    return module.weight.flatten(1)  # a 1 x 1 convolution is a linear layer


def _bias(module: nn.Module, like: Tensor) -> Tensor:
    assert isinstance(module, nn.Linear | nn.Conv2d)
    return like.new_zeros(module.weight.shape[0]) if module.bias is None else module.bias.float()


def _affine(norm: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """gamma and beta of a norm layer, ones and zeros where it has none."""
    gamma, beta = getattr(norm, "weight", None), getattr(norm, "bias", None)
    width = like.shape[1]
    return (
        like.new_ones(width) if gamma is None else gamma.float(),
        like.new_zeros(width) if beta is None else beta.float(),
    )


def _batch_norm(norm: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift of a BatchNorm in eval mode."""
    assert isinstance(norm, _BATCH_NORM)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gamma, beta = _affine(norm, like)
    scale = gamma / (norm.running_var.float() + norm.eps).sqrt()
    return scale, beta - norm.running_mean.float() * scale


def _plain_batch_norm(norm: nn.Module, value: Tensor) -> Tensor:
    scale, shift = _batch_norm(norm, value)
    shape = [1, -1] + [1] * (value.ndim - 2)
    return value.float() * scale.view(shape) + shift.view(shape)


def _apply(step: nn.Module, value: Tensor) -> Tensor:
    """One step of the head on pooled vectors (B, C) in float32; BatchNorm commutes with the pooling."""
    if isinstance(step, nn.Linear | nn.Conv2d):
        return nn.functional.linear(value, _matrix(step).float(), _bias(step, value))
    if isinstance(step, _BATCH_NORM):
        scale, shift = _batch_norm(step, value)
        return value * scale + shift
    if isinstance(step, nn.LayerNorm):
        gamma, beta = _affine(step, value)
        return nn.functional.layer_norm(value, value.shape[1:], gamma, beta, step.eps)
    return step(value.clone())  # an activation, perhaps one that works in place


def _fold(step: nn.Module, value: Tensor, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and bias on the output of a step → the equivalent ones on its input `value` (B, C)."""
    if isinstance(step, nn.Linear | nn.Conv2d):
        return weights @ _matrix(step).float(), bias + weights @ _bias(step, weights)
    if isinstance(step, _BATCH_NORM):
        scale, shift = _batch_norm(step, value)
        return weights * scale, bias + weights @ shift
    if isinstance(step, nn.LayerNorm):
        gamma, beta = _affine(step, value)
        std = (value.var(1, correction=0, keepdim=True) + step.eps).sqrt()
        scaled = weights * gamma
        return (scaled - scaled.mean(1, keepdim=True)) / std, bias + weights @ beta
    at_zero = step(torch.zeros_like(value))
    gate = torch.where(value == 0, 0, (_apply(step, value) - at_zero) / torch.where(value == 0, 1, value))
    return weights * gate, bias + (weights * at_zero).sum(1)


# ------------------------------------------------------------------------------------- finding the head


@contextmanager
def _tapped(tap: _Tap, caught: list[Tensor]) -> Iterator[None]:
    if tap.side == "input":
        handle = tap.module.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    else:
        handle = tap.module.register_forward_hook(lambda _, args, output: caught.append(output))
    try:
        yield
    finally:
        handle.remove()


def _is_unit(module: nn.Module) -> bool:
    known = isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm | _BATCH_NORM)
    return (known or not any(module.children())) and not isinstance(module, _PASS_THROUGH)


def _trace(model: nn.Module, images: Tensor) -> tuple[list[_Call], Tensor]:
    """All calls of leaf modules in order, and the logits.

    A BatchNorm with an activation of its own counts as two calls, the plain BatchNorm first.
    """
    calls: list[_Call] = []
    entered: list[tuple[nn.Module, Tensor, int]] = []

    def enter(module: nn.Module, args: tuple) -> None:
        value = args[0].clone() if args and isinstance(args[0], Tensor) else torch.empty(0)
        entered.append((module, value, len(calls)))

    def leave(module: nn.Module, args: tuple, output: object) -> None:
        _, value, position = entered.pop()
        if isinstance(output, Tensor) and value.numel():
            plain = _plain_batch_norm(module, value) if isinstance(module, _BATCH_NORM) else output.clone()
            calls.insert(position, _Call(module, value, plain))

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


def _probe(model: nn.Module) -> tuple[list[_Call], Tensor, Tensor]:
    """Trace a small random image; the model's own input size where it does not take 64 pixels."""
    parameter = next(model.parameters(), torch.zeros(()))
    own_size = tuple((getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224)))
    generator = torch.Generator().manual_seed(0)
    failure: Exception | None = None
    for size in ((own_size[0], 64, 64), own_size, (3, 224, 224)):
        images = torch.randn(2, *size, generator=generator).to(parameter.device, parameter.dtype)
        try:
            calls, logits = _trace(model, images)
        except Exception as error:
            failure = error
            continue
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise InputError(
                f"{_name(model)} does not return logits of shape (B, K), so it has no class weights"
            )
        if any(_is_pooling(call) for call in calls) or size[1] >= 224:
            return calls, logits, images
    raise InputError(f"{_name(model)} could not be run on a random image of {own_size}: {failure}")


def _name(model: nn.Module) -> str:
    return (getattr(model, "pretrained_cfg", None) or {}).get("architecture") or type(model).__name__


def _close(a: Tensor, b: Tensor) -> bool:
    if a.numel() != b.numel():
        return False
    a, b = a.float().flatten(1), b.float().flatten(1)
    return bool(((a - b).norm() <= _RELATIVE_TOLERANCE * b.norm().clamp_min(1e-12)).all())


def _is_map(value: Tensor) -> bool:
    return value.ndim == 4 and value.shape[2] * value.shape[3] > 1


def _mean(value: Tensor) -> Tensor:
    return value.float().mean((2, 3))


def _is_pooling(call: _Call) -> bool:
    return _is_map(call.input) and call.output.numel() == call.input.shape[0] * call.input.shape[1]


def _find_head(model: nn.Module) -> tuple[_Tap, list[nn.Module]]:
    """Follow the calls back from the logits to the pooled feature map.

    Returns:
        where to tap the feature map, and the steps from its spatial mean to the logits.
    """
    calls, logits, images = _probe(model)
    name = _name(model)
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
            tap = _Tap(call.module, "output")  # the pooling is a plain function call
            return _check(model, *_past_batch_norm(model, images, calls[:index], call.output, tap, steps))
        if not _close(call.output, wanted):
            continue  # a side branch; if it was the link after all, nothing earlier fits and we say so below
        if _is_pooling(call):
            if not _close(_mean(call.input), wanted):
                raise InputError(
                    f"{name} pools its feature map by {type(call.module).__name__}, not by the mean"
                )
            tap = _Tap(call.module, "input")
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


def _is_foldable(call: _Call) -> bool:
    """Whether a step on pooled vectors is affine for a given image, in a way `_fold` knows."""
    module, value = call.module, call.input
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1 and not _is_map(value)
    if isinstance(module, nn.Linear | _BATCH_NORM):
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
    model: nn.Module, images: Tensor, calls: list[_Call], value: Tensor, tap: _Tap, steps: list[nn.Module]
) -> tuple[_Tap, list[nn.Module]]:
    """Take a BatchNorm before the pooling into the head, where the model's own features end before it."""
    forward_features = getattr(model, "forward_features", None)
    if not callable(forward_features) or not calls:
        return tap, steps
    own = forward_features(images)
    if not isinstance(own, Tensor) or (own.shape == value.shape and _close(own, value)):
        return tap, steps
    for call in reversed(calls):
        if isinstance(call.module, _BATCH_NORM) and _close(call.output, value) and _close(call.input, own):
            return _Tap(call.module, "input"), [call.module, *steps]
    return tap, steps


def _check(model: nn.Module, tap: _Tap, head: list[nn.Module]) -> tuple[_Tap, list[nn.Module]]:
    """The chain must reproduce the logits of other images than those it was read from."""
    view = object.__new__(ClassifierView)
    view.model, view._tap, view._head = model, tap, head
    parameter = next(model.parameters())
    config = getattr(model, "pretrained_cfg", None) or {}
    for size in ((3, 96, 96), tuple(config.get("input_size", (3, 224, 224)))):
        images = torch.randn(2, *size, generator=torch.Generator().manual_seed(1))
        try:
            features, logits = view(images.to(parameter.device, parameter.dtype))
        except Exception:  # a model of fixed input size
            continue
        if not _close(view.head(features), logits):
            raise InputError(
                f"{_name(model)}: its logits do not follow from the mean of its last feature map"
            )
        return tap, head
    raise InputError(f"{_name(model)}: the head that was found could not be checked on a second image")
