"""Parameters and multiply-accumulates of a model, counted without computing anything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Counts:
    """Size and cost of a model for one image.

    Attributes:
        params: parameters (no buffers).
        conv_macs: multiply-accumulates of convolutions.
        linear_macs: multiply-accumulates of linear layers.
    """

    params: int
    conv_macs: int
    linear_macs: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers together."""
        return self.conv_macs + self.linear_macs


def count(model: nn.Module, side: int, in_chans: int = 3) -> Counts:
    """Count a model that lives on the meta device, for one image of `side` x `side` pixels.

    As usual in the field, only convolutions and linear layers are counted, without their biases, and one
    multiply-accumulate is called one FLOP in the papers' tables.

    Args:
        model: built under `torch.device("meta")`; its mode is left as it is.
        side: side of the square image in pixels.
        in_chans: channels of the image.
    """
    macs = {nn.Conv2d: 0, nn.Linear: 0}

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            macs[nn.Conv2d] += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            macs[nn.Linear] += output.numel() * module.in_features

    hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.empty(1, in_chans, side, side, device="meta"))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    params = sum(parameter.numel() for parameter in model.parameters())
    return Counts(params, macs[nn.Conv2d], macs[nn.Linear])
