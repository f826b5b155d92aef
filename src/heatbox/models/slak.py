"""SLaK: kernels of up to 61 x 61, decomposed into two rectangles and a small square, trained sparsely.

Paper: "More ConvNets in the 2020s: Scaling up Kernels Beyond 51 x 51 using Sparsity", Liu, Chen, Chen, Chen,
Xiao, Wu, Kärkkäinen, Pechenizkiy, Mocanu and Wang, ICLR 2023, https://arxiv.org/abs/2207.03620. Written from
the paper; parameter names are those of the authors' files (https://github.com/VITA-Group/SLaK, MIT license),
which load unchanged: dense tensors whose zeros are the sparsity (`recover_masks`).
Weights: linked from the tables of that repository's README, for download in a browser; load the file with
`heatbox.models.checkpoints.load_checkpoint`.

The network is ConvNeXt's (stem, LayerNorm, 2 x 2 downsampling, layer scale) with another depthwise layer:
K x 5, 5 x K and 5 x 5 convolutions, each with BatchNorm, summed. Widths are 1.3 times ConvNeXt's; with 40 %
of the weights at zero the parameter counts are about ConvNeXt's again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath, LayerNorm2d
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.models._blocks import (
    Blocks,
    ConvNorm,
    Reparameterizable,
    StagedNet,
    build,
    centred,
    drop_path_rates,
    initialise,
    large_depthwise,
    set_weights,
    weights_cfg,
)

# Kernel sides of the four stages, by the first: the paper's three settings.
KERNELS = {31: (31, 29, 27, 13), 51: (51, 49, 47, 13), 61: (61, 59, 57, 13)}


class DecomposedKernel(Reparameterizable):
    """K x s, s x K and s x s depthwise convolutions, each with BatchNorm, summed (section 4 of the paper).

    LoRA1 and LoRA2 are the authors' names of the rectangles. Merging adds the square to the centre of the
    first rectangle, which then also has the bias.
    """

    merged_key = "LoRA1.conv.bias"

    def __init__(self, channels: int, kernel_size: int, short: int) -> None:
        super().__init__()
        self.LoRA1 = ConvNorm(large_depthwise(channels, (kernel_size, short)))
        self.LoRA2 = ConvNorm(large_depthwise(channels, (short, kernel_size)))
        self.small_conv = ConvNorm(large_depthwise(channels, (short, short)))

    def merge(self) -> None:
        """Fold the three BatchNorms and add the square to the first rectangle."""
        if not hasattr(self, "small_conv"):
            return
        tall, bias = self.LoRA1.folded()
        wide, wide_bias = self.LoRA2.folded()
        square, square_bias = self.small_conv.folded()
        tall = tall + centred(square, tall.shape[-2:])
        set_weights(self.LoRA1.conv, tall, bias + wide_bias + square_bias)
        set_weights(self.LoRA2.conv, wide)
        self.LoRA1.bn, self.LoRA2.bn = nn.Identity(), nn.Identity()
        del self.small_conv

    reparameterize = merge  # the name `timm.utils.reparameterize_model` looks for

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        rectangles = self.LoRA1(x) + self.LoRA2(x)
        return rectangles + self.small_conv(x) if hasattr(self, "small_conv") else rectangles


class SLaKBlock(nn.Module):
    """Residual block: decomposed kernel, LayerNorm, linear, GELU, linear, layer scale."""

    def __init__(
        self, channels: int, kernel_size: int, short: int, drop_path: float, layer_scale: float
    ) -> None:
        super().__init__()
        self.gamma = nn.Parameter(layer_scale * torch.ones(channels))
        self.large_kernel = DecomposedKernel(channels, kernel_size, short)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        branch = self.norm(self.large_kernel(x).permute(0, 2, 3, 1))  # (B, H, W, C)
        branch = self.gamma * self.pwconv2(self.act(self.pwconv1(branch)))
        return x + self.drop_path(branch.permute(0, 3, 1, 2))


class SLaK(StagedNet):
    """The network of the paper (section 4), with timm's interface.

    `forward_features` returns the last stage's output; `forward_head` averages it over positions, applies
    LayerNorm to the average, then classifies.

    Args:
        in_chans: channels of the image.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: timm pooling type, "avg" in the paper; "" for none.
        depths: blocks of the four stages.
        dims: channels of the four stages before `width_factor`.
        width_factor: multiplies `dims`, rounded down.
        kernel_size: 31, 51 or 61 for the paper's settings, or the kernel sides of the four stages.
        short_side: short side of the rectangles and side of the square.
        strides: stride of the stem and of the three downsampling layers.
        layer_scale: initial value of gamma.
        init_std: standard deviation of initial weights; None for 1 / sqrt(fan in), see `initialise`.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block.

    Raises:
        InputError: another `kernel_size`.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        width_factor: float = 1.3,
        kernel_size: int | Sequence[int] = 51,
        short_side: int = 5,
        strides: Sequence[int] = (4, 2, 2, 2),
        layer_scale: float = 1e-6,
        init_std: float | None = 0.02,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        kernels = stage_kernels(kernel_size)
        channels = [int(width_factor * dim) for dim in dims]
        super().__init__(in_chans, global_pool, channels, strides, drop_rate)
        stem = nn.Sequential(
            nn.Conv2d(in_chans, channels[0], strides[0], strides[0]), LayerNorm2d(channels[0], eps=1e-6)
        )
        self.downsample_layers = nn.ModuleList([stem])
        for before, after, stride in zip(channels[:-1], channels[1:], strides[1:], strict=True):
            self.downsample_layers.append(
                nn.Sequential(LayerNorm2d(before, eps=1e-6), nn.Conv2d(before, after, stride, stride))
            )
        rates = drop_path_rates(drop_path_rate, depths)
        self.stages = nn.ModuleList(
            Blocks(*(SLaKBlock(width, kernel, short_side, rate, layer_scale) for rate in stage_rates))
            for width, kernel, stage_rates in zip(channels, kernels, rates, strict=True)
        )
        self.norm = nn.LayerNorm(channels[-1], eps=1e-6)
        self.make_head(num_classes)
        self.apply(partial(initialise, std=init_std))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that group parameters by depth, for layer-wise learning rates."""
        stem = r"^downsample_layers\.0"
        if coarse:
            return {"stem": stem, "blocks": r"^(?:stages|downsample_layers)\.(\d+)"}
        blocks = [(r"^downsample_layers\.(\d+)", (-1,)), (r"^stages\.(\d+)\.(\d+)", None)]
        return {"stem": stem, "blocks": blocks}

    def enter(self, i: int, x: Tensor) -> Tensor:
        """The stem (i = 0) or the downsampling before stage i."""
        return self.downsample_layers[i](x)

    def keep_stages(self, number: int) -> None:
        """Remove all stages after the first `number`, and the downsampling to them."""
        super().keep_stages(number)
        self.downsample_layers = self.downsample_layers[:number]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, h, w) → (B, C) for `pre_logits`, else logits (B, num_classes)."""
        x = self.global_pool(x)
        x = self.norm(x) if x.ndim == 2 else self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)


def stage_kernels(kernel_size: int | Sequence[int]) -> tuple[int, ...]:
    """Kernel sides of the four stages, from the first one or as given."""
    kernels = KERNELS.get(kernel_size, ()) if isinstance(kernel_size, int) else tuple(kernel_size)
    if len(kernels) != 4:
        raise InputError(
            f"kernel_size={kernel_size!r}: must be one of {sorted(KERNELS)} or four sides, one per stage"
        )
    return kernels


def recover_masks(state_dict: Mapping[str, Tensor], least: float = 0.01) -> dict[str, Tensor]:
    """The sparsity masks of the authors' files, which store pruned weights as zeros.

    Training never leaves a kept weight at exactly zero, so zeros are the mask. As in the authors' code, only
    convolutions and linear layers (4-D and 2-D tensors) have masks; a tensor with a smaller fraction of zeros
    than `least` is dense and has none.

    Args:
        state_dict: names → tensors.
        least: smallest fraction of zeros of a sparse tensor.

    Returns:
        names → bool tensors of the same shape, True where the weight is kept.
    """
    weights = {name: t for name, t in state_dict.items() if t.ndim in (2, 4) and t.is_floating_point()}
    masks = {name: tensor != 0 for name, tensor in weights.items()}
    return {name: mask for name, mask in masks.items() if (~mask).float().mean().item() >= least}


default_cfgs = generate_default_cfgs(
    {
        "slak_tiny.in1k": weights_cfg(),
        "slak_small.in1k": weights_cfg(),
        "slak_base.in1k": weights_cfg(),
        "slak_nano": weights_cfg(64, pool_size=(8, 8)),
        "slak_micro": weights_cfg(64, pool_size=(8, 8)),
        "test_slak": weights_cfg(64),
    }
)


@register_model
def slak_tiny(pretrained: bool = False, **kwargs: Any) -> SLaK:
    """SLaK-T of the paper: 30 M parameters at 40 % sparsity; `kernel_size` 31, 51 or 61."""
    return build(SLaK, "slak_tiny", pretrained, **kwargs)


@register_model
def slak_small(pretrained: bool = False, **kwargs: Any) -> SLaK:
    """SLaK-S of the paper: 55 M parameters at 40 % sparsity; `kernel_size` 31, 51 or 61."""
    return build(SLaK, "slak_small", pretrained, **{"depths": (3, 3, 27, 3)} | kwargs)


@register_model
def slak_base(pretrained: bool = False, **kwargs: Any) -> SLaK:
    """SLaK-B of the paper: 95 M parameters at 40 % sparsity; `kernel_size` 31, 51 or 61."""
    config = {"depths": (3, 3, 27, 3), "dims": (128, 256, 512, 1024)}
    return build(SLaK, "slak_base", pretrained, **config | kwargs)


@register_model
def slak_nano(pretrained: bool = False, **kwargs: Any) -> SLaK:
    """A small SLaK for 64-pixel images (not in the paper), with an 8 x 8 feature map."""
    config = {
        "depths": (2, 2, 6, 2),
        "dims": (32, 64, 128, 256),
        "width_factor": 1.25,
        "kernel_size": (29, 27, 25, 13),
        "short_side": 3,
        "strides": (2, 2, 2, 1),
    }
    return build(SLaK, "slak_nano", pretrained, **config | kwargs)


@register_model
def slak_micro(pretrained: bool = False, **kwargs: Any) -> SLaK:
    """A SLaK of 0.7 million parameters for 64-pixel images, trained on a CPU; an 8 x 8 feature map."""
    config = {
        "depths": (1, 1, 2, 1),
        "dims": (24, 48, 96, 128),
        "width_factor": 1.25,
        "kernel_size": (15, 13, 13, 7),
        "short_side": 3,
        "strides": (2, 2, 2, 1),
        "layer_scale": 1.0,
        "init_std": None,
    }
    return build(SLaK, "slak_micro", pretrained, **config | kwargs)


@register_model
def test_slak(pretrained: bool = False, **kwargs: Any) -> SLaK:  # noqa: PT028
    """A tiny SLaK for tests, with a 4 x 4 feature map for a 64-pixel image."""
    config = {
        "depths": (1, 1, 2, 1),
        "dims": (8, 12, 16, 24),
        "kernel_size": (15, 13, 11, 7),
        "short_side": 3,
        "strides": (4, 2, 2, 1),
    }
    return build(SLaK, "test_slak", pretrained, **config | kwargs)
