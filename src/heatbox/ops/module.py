"""Depthwise convolution as a module."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.ops.depthwise import depthwise_conv2d


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` for the depthwise case, computed by `depthwise_conv2d`; same arguments and state_dict.

    Args:
        in_channels, out_channels: both the number of channels.
        kernel_size: odd, one number or (kh, kw).
        stride, dilation: 1.
        padding: "same", or what amounts to it: kernel_size // 2.
        groups: the number of channels, which is also the default.
        bias, padding_mode, device, dtype: as for `nn.Conv2d`; only padding with zeros.

    Raises:
        InputError: the arguments describe another kind of convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = "same",
        dilation: int | tuple[int, int] = 1,
        groups: int | None = None,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            in_channels if groups is None else groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        reason = why_not(self)
        if reason:
            raise InputError(f"DepthwiseConv2d: {reason}.")

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.dim() == 3:  # without batch, as nn.Conv2d allows
            return depthwise_conv2d(input.unsqueeze(0), weight, bias).squeeze(0)
        return depthwise_conv2d(input, weight, bias)


def why_not(conv: nn.Conv2d) -> str:
    """What keeps a convolution from being computed by `depthwise_conv2d`; empty if nothing does."""
    kh, kw = conv.kernel_size
    if not conv.groups == conv.in_channels == conv.out_channels:
        return (
            f"{conv.in_channels} to {conv.out_channels} channels in {conv.groups} groups, expected as many "
            "groups as channels in and out"
        )
    if conv.stride != (1, 1) or conv.dilation != (1, 1):
        return f"stride {conv.stride} and dilation {conv.dilation}, expected 1"
    if kh % 2 == 0 or kw % 2 == 0:
        return f"kernel of {kh} x {kw}, expected odd sides"
    if conv.padding != "same" and tuple(conv.padding) != (kh // 2, kw // 2):
        return f"padding {conv.padding}, expected {(kh // 2, kw // 2)}"
    if conv.padding_mode != "zeros":
        return f"padding mode {conv.padding_mode!r}, expected 'zeros'"
    return ""
