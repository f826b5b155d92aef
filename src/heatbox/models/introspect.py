"""The last feature map of a classifier, and the class weights that map it to logits.

A class activation map is exact, that is, its spatial mean plus a bias equals the logit, only if everything
between feature map and logit is linear. Many heads are not linear: they have BatchNorm before the pooling
(RepLKNet), LayerNorm after it (ConvNeXt), or a hidden layer with an activation (MobileNetV3). All of these
are *affine for a given image*, so they can be folded exactly into the weights of the class for each image:

- BatchNorm: a scale and a shift per channel.
- LayerNorm of the pooled vector p: (p - mean) / std with the image's own mean and std. Subtracting the mean
  is the same as centring the weights.
- An activation a(z): z times the gate (a(z) - a(0)) / z, plus a(0).

The head is not looked up in a list of architectures. It is found by tracing the forward pass of a small
random image: the chain of modules is followed back from the logits to the global average pooling, and every
step is checked by value. A head that cannot be folded is refused with the reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Literal

import torch
from torch import Tensor, nn

from heatbox._utils.checks import check_choice, check_integer, check_module, check_tensor
from heatbox.errors import InputError
from heatbox.models._blocks import BATCH_NORM, batch_norm_affine
from heatbox.models.forms import refusal
from heatbox.models.spec import as_input, eval_mode, input_size, model_name
from heatbox.models.stages import (
    FeatureHook,
    SharpOffset,
    StageOutput,
    capture_stages,
    find_last_stage_input,
    find_sharp_offset,
    find_stages,
    stitched,
)

_PASS_THROUGH = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d)
_RELATIVE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ModelOutput:
    """Outputs of one forward pass.

    Attributes:
        features: (B, C, h, w), the feature map that the head reads.
        logits: (B, K).
        middle: outputs (B, C_i, h_i, w_i) of the stages before the last one, finest first.
        sharp: (B, C, 2 h, 2 w), the last feature map at twice the resolution, if requested; a side is one
            less where the last stage rounds an odd one up.
    """

    features: Tensor
    logits: Tensor
    middle: tuple[Tensor, ...]
    sharp: Tensor | None


class ClassifierView:
    """The feature map and the class weights of a convolutional classifier.

    Works on any network whose logits are computed from a global average pooling of a (B, C, H, W) map by
    linear layers, BatchNorm, LayerNorm and elementwise activations: timm's CNNs and most custom ones.

    Args:
        model: the classifier; images (B, 3, H, W) → logits (B, K). It is not changed, and its training
            mode is restored after every use.

    Raises:
        InputError: the model has no such head; the message gives the reason.
        TypeError: not an `nn.Module`.
    """

    def __init__(self, model: nn.Module) -> None:
        check_module(model, "model")
        self.model = model
        self._offsets: dict[tuple[int, int], SharpOffset] = {}
        try:
            with eval_mode(model), torch.no_grad():
                self._hook, self._head = find_head(model)
        except (InputError, AttributeError, NotImplementedError) as error:
            if reason := refusal(model):
                raise InputError(f"{model_name(model)} {reason}") from error
            raise

    @property
    def classifier(self) -> nn.Module:
        """The last linear layer, whose rows are the raw class weights."""
        return self._head[-1]

    @property
    def num_classes(self) -> int:
        """Number of logits K."""
        return linear_of(self.classifier)[0].shape[0]

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the classifier once, in eval mode.

        Args:
            images: (B, 3, H, W), preprocessed as the model expects.

        Returns:
            features (B, C, h, w), the feature map that the head reads, and logits (B, K).

        Raises:
            InputError: images of another number of dimensions.
            TypeError: not a tensor.
        """
        output = self.extract(images, 0)
        return output.features, output.logits

    @cached_property
    def stages(self) -> list[StageOutput]:
        """Where the stages before the last one end, finest first."""
        return find_stages(self.model, self._hook)

    @cached_property
    def last_stage_input(self) -> StageOutput:
        """The input of the last stage, which is shifted for a sharp feature map.

        Raises:
            InputError: the last stage does not double the stride, or cannot be run alone.
        """
        return find_last_stage_input(self.model, self._hook, self.stages)

    def sharp_offset(self, size: Sequence[int]) -> SharpOffset:
        """Which positions of the sharp map are those of the last feature map.

        For (row, column), 0 or 1 each, they are ``sharp[:, :, row::2, column::2]``.

        Args:
            size: (height, width) of the images.

        Raises:
            InputError: as `last_stage_input`.
        """
        height, width = size
        if (height, width) not in self._offsets:
            self._offsets[height, width] = find_sharp_offset(self.model, self.last_stage_input, size)
        return self._offsets[height, width]

    def extract(self, images: Tensor, layers: int = 2, sharp: bool = False) -> ModelOutput:
        """Run the classifier once, in eval mode, and keep the outputs of its middle layers.

        Args:
            images: (B, 3, H, W), preprocessed as the model expects.
            layers: number of stages before the last whose outputs are kept, at most as many as there are: 2
                are those at strides 8 and 16 of a network of stride 32.
            sharp: also run the last stage on shifted inputs for a feature map of twice the resolution, see
                `heatbox.models.stages`. Features and logits do not change.

        Raises:
            InputError: a sharp map of a model whose last stage cannot be run alone, images of another
                number of dimensions, or negative `layers`.
            TypeError: not a tensor, or not an integer.
        """
        check_tensor(images, "images", "(B, 3, H, W)")
        if images.ndim != 4:
            raise InputError(f"images have shape {tuple(images.shape)}, expected (B, 3, H, W)")
        check_integer(layers, "layers", 0)
        stages = self.stages[-layers:] if layers else []
        shifted = self.last_stage_input if sharp else None
        offset = self.sharp_offset(images.shape[2:]) if sharp else (False, False)
        with (
            eval_mode(self.model),
            capture_stages(stages, shifted, offset) as outputs,
            self._hook.capture() as captured,
        ):
            logits = self.model(images)
        features, batch = captured[-1], images.shape[0]
        middle = tuple(outputs[stage][:batch] for stage in stages)  # after the shift there are four batches
        if shifted is None:
            return ModelOutput(features, logits, middle, None)
        height, width = outputs[shifted].shape[2:]
        return ModelOutput(
            features[:batch], logits[:batch], middle, stitched(features, offset)[:, :, :height, :width]
        )

    def look(self, images: Tensor, layers: int = 2, sharp: bool = False) -> ModelOutput:
        """Deprecated: use `extract`."""
        message = "ClassifierView.look is deprecated and removed in heatbox 0.3; use ClassifierView.extract"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.extract(images, layers, sharp)

    def features(self, images: Tensor) -> Tensor:
        """The last feature map alone, (B, C, h, w)."""
        return self(images)[0]

    def replace_features(self, function: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        """A context in which the model's forward passes continue with `function` of the feature map."""
        return self._hook.apply(function)

    def head(self, features: Tensor) -> Tensor:
        """Logits (B, K) of a feature map (B, C, h, w), computed step by step from its spatial mean."""
        return _run_steps(self._head, features)

    def class_weights(
        self, features: Tensor, targets: Tensor, norm: Literal["fold", "ignore"] = "fold"
    ) -> tuple[Tensor, Tensor]:
        """Weights and bias that turn the spatial mean of the feature map into the logit of a class.

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
                do not match the channels of the feature map; or an unknown `norm`.
            TypeError: not tensors, or targets that are not integers.
        """
        check_tensor(features, "features", "(B, C, h, w)")
        check_choice(norm, "norm", ("fold", "ignore"))
        self._check_targets(targets)
        weights, bias = (values[targets] for values in linear_of(self.classifier))  # (B, C_last), (B,)
        if norm == "ignore":
            if weights.shape[1] != features.shape[1]:
                raise InputError(
                    f"norm='ignore' needs a classifier that reads the {features.shape[1]} channels of the "
                    f"feature map; this one reads {weights.shape[1]} of a hidden layer"
                )
            return weights, bias
        steps, inputs = self._head[:-1], [_mean(features)]
        for step in steps[:-1]:
            inputs.append(apply_step(step, inputs[-1]))
        for step, value in zip(reversed(steps), reversed(inputs[: len(steps)]), strict=True):
            weights, bias = fold_step(step, value, weights, bias)
        return weights, bias

    def _check_targets(self, targets: Tensor) -> None:
        check_tensor(targets, "targets", "(B,) of class indices")
        if targets.is_floating_point() or targets.dtype == torch.bool:
            raise TypeError(f"targets: a tensor of {targets.dtype}, expected class indices in torch.int64")
        if torch.compiler.is_compiling():
            return  # values are not known while a graph is recorded
        if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= self.num_classes):
            bad = targets[(targets < 0) | (targets >= self.num_classes)][0].item()
            raise InputError(
                f"class {bad} is out of range: the model has classes 0 to {self.num_classes - 1}"
            )


@dataclass(frozen=True)
class Call:
    """One call of a leaf module during the traced forward pass."""

    module: nn.Module
    input: Tensor
    output: Tensor


def _is_unit(module: nn.Module) -> bool:
    known = isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm | BATCH_NORM)
    return (known or not any(module.children())) and not isinstance(module, _PASS_THROUGH)


def _trace(model: nn.Module, images: Tensor) -> tuple[list[Call], Tensor]:
    """All calls of leaf modules in order, and the logits.

    The output of a BatchNorm is recorded without an activation that it may include; that activation is a
    module of its own and is recorded as the next call.
    """
    calls: list[Call] = []
    entered: list[tuple[Tensor, int]] = []

    def enter(module: nn.Module, args: tuple[object, ...]) -> None:
        value = args[0].clone() if args and isinstance(args[0], Tensor) else torch.empty(0)
        entered.append((value, len(calls)))

    def leave(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        value, position = entered.pop()
        if isinstance(output, Tensor) and value.numel():
            plain = plain_batch_norm(module, value) if isinstance(module, BATCH_NORM) else output.clone()
            calls.insert(position, Call(module, value, plain))

    with ExitStack() as stack:
        for module in filter(_is_unit, model.modules()):
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        return calls, model(images)


def _probe(model: nn.Module) -> tuple[list[Call], Tensor, Tensor]:
    """Trace a small random image, of the model's own input size where it does not accept 64 pixels."""
    own_size = input_size(model)
    generator = torch.Generator().manual_seed(0)
    failure = ""
    for size in ((own_size[0], 64, 64), own_size, (3, 224, 224)):
        images = as_input(model, torch.randn(2, *size, generator=generator))
        try:
            calls, logits = _trace(model, images)
        except Exception as error:
            failure = f"of {size}: {error}"
            continue
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise InputError(
                f"{model_name(model)} does not return logits of shape (B, K), so it has no class weights"
            )
        if any(_is_pooling(call) for call in calls) or size[1] >= 224:
            return calls, logits, images
    raise InputError(f"{model_name(model)} could not be run on a random image {failure}")


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


def find_head(model: nn.Module) -> tuple[FeatureHook, list[nn.Module]]:
    """Follow the calls back from the logits to the pooled feature map.

    Returns:
        where the feature map appears, and the steps from its spatial mean to the logits.

    Raises:
        InputError: there is no global average pooling followed by steps that can be folded.
    """
    calls, logits, images = _probe(model)
    name = model_name(model)
    if (
        not calls
        or not isinstance(calls[-1].module, nn.Linear | nn.Conv2d)
        or not _close(calls[-1].output, logits)
    ):
        raise InputError(f"{name} does not end in a linear layer, so it has no class weights")
    steps: list[nn.Module] = []
    wanted = logits  # the value whose producer is searched next
    for index in range(len(calls) - 1, -1, -1):
        call = calls[index]
        if _is_map(call.output) and _close(_mean(call.output), wanted):
            hook, features = FeatureHook(call.module, "output"), call.output  # pooled by a function call
        elif not _close(call.output, wanted):
            continue  # a side branch; if it was the link after all, nothing earlier fits and an error follows
        elif not _is_pooling(call):
            if not _is_foldable(call):
                raise InputError(
                    f"{name} has {type(call.module).__name__} in its head, which cannot be folded"
                )
            steps.insert(0, call.module)
            wanted = call.input
            continue
        elif _close(_mean(call.input), wanted):
            hook, features = FeatureHook(call.module, "input"), call.input
        else:
            raise InputError(f"{name} pools its feature map by {type(call.module).__name__}, not by the mean")
        hook, steps = _include_batch_norm(model, images, calls[:index], features, hook, steps)
        _check(model, hook, steps)
        return hook, steps
    if any(call.output.ndim == 3 for call in calls):
        raise InputError(
            f"{name} reads its logits from tokens (B, N, C), not from the mean of a feature map "
            "(B, C, H, W): class activation maps need a convolutional classifier"
        )
    raise InputError(
        f"{name}: no global average pooling of a (B, C, H, W) feature map was found before its class weights"
    )


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
    if not callable(forward_features) or not calls:
        return hook, steps
    own = forward_features(images)
    if not isinstance(own, Tensor) or (own.shape == features.shape and _close(own, features)):
        return hook, steps
    for call in reversed(calls):
        if isinstance(call.module, BATCH_NORM) and _close(call.output, features) and _close(call.input, own):
            return FeatureHook(call.module, "input"), [call.module, *steps]
    return hook, steps


def _check(model: nn.Module, hook: FeatureHook, steps: list[nn.Module]) -> None:
    """Raise unless the steps reproduce the logits of images other than those they were found with."""
    for size in ((3, 96, 96), input_size(model)):
        images = torch.randn(2, *size, generator=torch.Generator().manual_seed(1))
        try:
            with hook.capture() as features:
                logits = model(as_input(model, images))
        except Exception:  # a model of fixed input size
            continue
        if not _close(_run_steps(steps, features[-1]), logits):
            raise InputError(
                f"{model_name(model)}: its logits do not follow from the mean of its last feature map"
            )
        return
    raise InputError(f"{model_name(model)}: the head that was found could not be checked on a second image")


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
