"""The steps of a classifier's head on pooled vectors, and how each is folded into class weights.

Everything here is affine for one given image:

- BatchNorm: a scale and a shift per channel.
- LayerNorm of the pooled vector p: (p - mean) / std with the image's own mean and std. Subtracting the mean
  is the same as centring the weights.
- An activation a(z): z times the gate (a(z) - a(0)) / z, plus a(0).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BATCH_NORM = nn.modules.batchnorm._BatchNorm


def matrix_of(module: nn.Module) -> Tensor:
    """(out, in) matrix of a linear layer, or of a 1 x 1 convolution."""
    assert isinstance(module, nn.Linear | nn.Conv2d)
    return module.weight.flatten(1)


def bias_of(module: nn.Module, like: Tensor) -> Tensor:
    """(out,) float32 bias of a linear layer, zeros where it has none."""
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
    assert isinstance(norm, BATCH_NORM)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gamma, beta = _affine(norm, like)
    scale = gamma / (norm.running_var.float() + norm.eps).sqrt()
    return scale, beta - norm.running_mean.float() * scale


def plain_batch_norm(norm: nn.Module, value: Tensor) -> Tensor:
    """A BatchNorm in eval mode without any activation it may carry, on (B, C, ...) values."""
    scale, shift = _batch_norm(norm, value)
    shape = [1, -1] + [1] * (value.ndim - 2)
    return value.float() * scale.view(shape) + shift.view(shape)


def apply_step(step: nn.Module, value: Tensor) -> Tensor:
    """One step of the head on pooled vectors (B, C) in float32; BatchNorm commutes with the pooling."""
    if isinstance(step, nn.Linear | nn.Conv2d):
        return nn.functional.linear(value, matrix_of(step).float(), bias_of(step, value))
    if isinstance(step, BATCH_NORM):
        scale, shift = _batch_norm(step, value)
        return value * scale + shift
    if isinstance(step, nn.LayerNorm):
        gamma, beta = _affine(step, value)
        return nn.functional.layer_norm(value, value.shape[1:], gamma, beta, step.eps)
    return step(value.clone())  # an activation, perhaps one that works in place


def fold_step(step: nn.Module, value: Tensor, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and bias on the output of a step → the equivalent ones on its input `value` (B, C)."""
    if isinstance(step, nn.Linear | nn.Conv2d):
        return weights @ matrix_of(step).float(), bias + weights @ bias_of(step, weights)
    if isinstance(step, BATCH_NORM):
        scale, shift = _batch_norm(step, value)
        return weights * scale, bias + weights @ shift
    if isinstance(step, nn.LayerNorm):
        gamma, beta = _affine(step, value)
        std = (value.var(1, correction=0, keepdim=True) + step.eps).sqrt()
        scaled = weights * gamma
        return (scaled - scaled.mean(1, keepdim=True)) / std, bias + weights @ beta
    at_zero = step(torch.zeros_like(value))
    gate = torch.where(value == 0, 0, (apply_step(step, value) - at_zero) / torch.where(value == 0, 1, value))
    return weights * gate, bias + (weights * at_zero).sum(1)
