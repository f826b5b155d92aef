"""RepLKNet: depthwise convolutions of up to 31 x 31, each with a parallel 5 x 5 that is merged into it.

Paper: "Scaling Up Your Kernels to 31x31: Revisiting Large Kernel Design in CNNs", Ding, Zhang, Zhou, Han,
Ding and Sun, CVPR 2022, https://arxiv.org/abs/2203.06717. Written from the paper; parameter names are those
of the authors' files (https://github.com/DingXiaoH/RepLKNet-pytorch, MIT license), which load unchanged.
Weights: linked from the tables of that repository's README, for download in a browser; load the file with
`heatbox.models.checkpoints.load_checkpoint`. RepLKNet-XL was trained with mean and std 0.5.

A stage alternates RepLK blocks (1x1, large depthwise, 1x1) and ConvFFNs (1x1, GELU, 1x1), both residual with
BatchNorm first. A transition (1x1, 3x3 depthwise of stride 2) connects two stages. The network ends in
BatchNorm, average pooling and one linear layer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from heatbox.models._blocks import (
    HALF,
    Blocks,
    ConvNorm,
    Reparameterizable,
    StagedNet,
    build,
    centred,
    drop_path_rates,
    large_depthwise,
    set_weights,
    weights_cfg,
)


class LargeKernelConv(Reparameterizable):
    """A large and a small depthwise convolution in parallel, each with BatchNorm, summed.

    Merged (section 3.2 of the paper), it is one convolution with bias. `small_kernel=0` omits the small one.
    """

    merged_key = "lkb_reparam.weight"

    def __init__(self, channels: int, kernel_size: int, small_kernel: int) -> None:
        super().__init__()
        self.lkb_origin = ConvNorm(large_depthwise(channels, (kernel_size, kernel_size)))
        if small_kernel:
            self.small_conv = ConvNorm(large_depthwise(channels, (small_kernel, small_kernel)))

    def merge(self) -> None:
        """Fold both BatchNorms and add the small kernel to the centre of the large one."""
        if hasattr(self, "lkb_reparam"):
            return
        kernel, bias = self.lkb_origin.folded()
        if hasattr(self, "small_conv"):
            small, small_bias = self.small_conv.folded()
            kernel, bias = kernel + centred(small, kernel.shape[-2:]), bias + small_bias
            del self.small_conv
        self.lkb_reparam = set_weights(self.lkb_origin.conv, kernel, bias)
        del self.lkb_origin

    reparameterize = merge  # the name `timm.utils.reparameterize_model` looks for

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        if hasattr(self, "lkb_reparam"):
            return self.lkb_reparam(x)
        large = self.lkb_origin(x)
        return large + self.small_conv(x) if hasattr(self, "small_conv") else large


class RepLKBlock(nn.Module):
    """Residual block: BatchNorm, 1x1, large depthwise convolution, 1x1."""

    def __init__(
        self, channels: int, width: int, kernel_size: int, small_kernel: int, drop_path: float
    ) -> None:
        super().__init__()
        self.pw1 = pointwise(channels, width, relu=True)
        self.pw2 = pointwise(width, channels)
        self.large_kernel = LargeKernelConv(width, kernel_size, small_kernel)
        self.lk_nonlinear = nn.ReLU()
        self.prelkb_bn = nn.BatchNorm2d(channels)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        branch = self.lk_nonlinear(self.large_kernel(self.pw1(self.prelkb_bn(x))))
        return x + self.drop_path(self.pw2(branch))


class ConvFFN(nn.Module):
    """Residual block: BatchNorm, 1x1, GELU, 1x1."""

    def __init__(self, channels: int, width: int, drop_path: float) -> None:
        super().__init__()
        self.preffn_bn = nn.BatchNorm2d(channels)
        self.pw1 = pointwise(channels, width)
        self.pw2 = pointwise(width, channels)
        self.nonlinear = nn.GELU()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return x + self.drop_path(self.pw2(self.nonlinear(self.pw1(self.preffn_bn(x)))))


def depthwise3x3(channels: int, stride: int) -> ConvNorm:
    """3 x 3 depthwise convolution, BatchNorm, ReLU."""
    return ConvNorm(nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), relu=True)


def pointwise(in_channels: int, channels: int, relu: bool = False) -> ConvNorm:
    """1 x 1 convolution, BatchNorm, optionally ReLU."""
    return ConvNorm(nn.Conv2d(in_channels, channels, 1, bias=False), relu)


class RepLKNet(StagedNet):
    """The network of the paper (section 4), with timm's interface.

    `forward_features` returns the last stage's output; `forward_head` applies the final BatchNorm to it,
    then averages over positions, then classifies.

    Args:
        in_chans: channels of the image.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: timm pooling type, "avg" in the paper; "" for none.
        channels: channels of the four stages.
        layers: layers of the four stages (a layer is a RepLK block and a ConvFFN).
        large_kernels: side of the large kernel in each stage.
        small_kernel: side of the parallel kernel; 0 for none.
        dw_ratio: width of the large convolution relative to the stage's channels.
        ffn_ratio: hidden width of the ConvFFN relative to the stage's channels.
        strides: stride of the stem (4, 2 or 1) and of the three transitions (2 or 1).
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last layer.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        channels: Sequence[int] = (128, 256, 512, 1024),
        layers: Sequence[int] = (2, 2, 18, 2),
        large_kernels: Sequence[int] = (31, 29, 27, 13),
        small_kernel: int = 5,
        dw_ratio: float = 1.0,
        ffn_ratio: float = 4.0,
        strides: Sequence[int] = (4, 2, 2, 2),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(in_chans, global_pool, channels, strides, drop_rate)
        first, stem_stride = channels[0], strides[0]
        self.stem = nn.ModuleList(
            [
                ConvNorm(nn.Conv2d(in_chans, first, 3, min(stem_stride, 2), 1, bias=False), relu=True),
                depthwise3x3(first, 1),
                pointwise(first, first, relu=True),
                depthwise3x3(first, max(stem_stride // 2, 1)),
            ]
        )
        self.stages = nn.ModuleList()
        rates = drop_path_rates(drop_path_rate, layers)
        for width, kernel, drop_paths in zip(channels, large_kernels, rates, strict=True):
            blocks = Blocks()
            for rate in drop_paths:
                blocks.append(RepLKBlock(width, int(width * dw_ratio), kernel, small_kernel, rate))
                blocks.append(ConvFFN(width, int(width * ffn_ratio), rate))
            self.stages.append(nn.Sequential(OrderedDict(blocks=blocks)))
        self.transitions = nn.ModuleList(
            nn.Sequential(pointwise(before, after, relu=True), depthwise3x3(after, stride))
            for before, after, stride in zip(channels[:-1], channels[1:], strides[1:], strict=True)
        )
        self.norm = nn.BatchNorm2d(channels[-1])
        self.make_head(num_classes)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that group parameters by depth, for layer-wise learning rates."""
        if coarse:
            return {"stem": r"^stem", "blocks": r"^(?:stages|transitions)\.(\d+)"}
        blocks = [(r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^transitions\.(\d+)", (99999,))]
        return {"stem": r"^stem", "blocks": blocks}

    def fuse_batch_norms(self) -> RepLKNet:
        """Merge the large kernels and fold every BatchNorm that follows a convolution, in place.

        The BatchNorm at the start of a block and the one before the pooling follow no convolution: they stay.
        """
        for module in self.modules():  # without a list: merging removes the modules inside
            if isinstance(module, Reparameterizable):
                module.merge()
        return self

    def enter(self, i: int, x: Tensor) -> Tensor:
        """The stem (i = 0) or the transition from stage i - 1 to stage i."""
        if i > 0:
            return self.transitions[i - 1](x)
        for layer in self.stem:
            x = layer(x)
        return x

    def keep_stages(self, number: int) -> None:
        """Remove all stages after the first `number`, and the transitions to them."""
        super().keep_stages(number)
        self.transitions = self.transitions[: number - 1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, h, w) → (B, C) for `pre_logits`, else logits (B, num_classes)."""
        x = self.head_drop(self.global_pool(self.norm(x)))
        return x if pre_logits else self.head(x)


default_cfgs = generate_default_cfgs(
    {
        "replknet_31b.in1k": weights_cfg(),
        "replknet_31b.in1k_384": weights_cfg(384),
        "replknet_31b.in22k_ft_in1k": weights_cfg(),
        "replknet_31b.in22k_ft_in1k_384": weights_cfg(384),
        "replknet_31b.in22k": weights_cfg(num_classes=21841),
        "replknet_31l.in22k_ft_in1k_384": weights_cfg(384),
        "replknet_31l.in22k": weights_cfg(num_classes=21841),
        "replknet_xl.megdata73m_ft_in1k": weights_cfg(320, **HALF),
        "replknet_xl.megdata73m": weights_cfg(320, **HALF),
        "replknet_nano": weights_cfg(64, pool_size=(8, 8)),
        "replknet_micro": weights_cfg(64, pool_size=(8, 8)),
        "test_replknet": weights_cfg(64),
    }
)


@register_model
def replknet_31b(pretrained: bool = False, **kwargs: Any) -> RepLKNet:
    """RepLKNet-31B of the paper: 79 M parameters."""
    return build(RepLKNet, "replknet_31b", pretrained, **kwargs)


@register_model
def replknet_31l(pretrained: bool = False, **kwargs: Any) -> RepLKNet:
    """RepLKNet-31L of the paper: 172 M parameters."""
    config = {"channels": (192, 384, 768, 1536)}
    return build(RepLKNet, "replknet_31l", pretrained, **config | kwargs)


@register_model
def replknet_xl(pretrained: bool = False, **kwargs: Any) -> RepLKNet:
    """RepLKNet-XL of the paper: 335 M parameters, no small kernels, mean and std 0.5."""
    config = {
        "channels": (256, 512, 1024, 2048),
        "large_kernels": (27, 27, 27, 13),
        "small_kernel": 0,
        "dw_ratio": 1.5,
    }
    return build(RepLKNet, "replknet_xl", pretrained, **config | kwargs)


@register_model
def replknet_nano(pretrained: bool = False, **kwargs: Any) -> RepLKNet:
    """A small RepLKNet for 64-pixel images (not in the paper), with an 8 x 8 feature map."""
    config = {
        "channels": (40, 80, 160, 320),
        "layers": (2, 2, 6, 2),
        "large_kernels": (17, 15, 13, 7),
        "strides": (2, 2, 2, 1),
    }
    return build(RepLKNet, "replknet_nano", pretrained, **config | kwargs)


@register_model
def replknet_micro(pretrained: bool = False, **kwargs: Any) -> RepLKNet:
    """A RepLKNet of 0.6 million parameters for 64-pixel images, trained on a CPU; an 8 x 8 feature map."""
    config = {
        "channels": (32, 64, 96, 128),
        "layers": (1, 1, 2, 1),
        "large_kernels": (15, 13, 13, 7),
        "strides": (4, 2, 1, 1),
    }
    return build(RepLKNet, "replknet_micro", pretrained, **config | kwargs)


@register_model
def test_replknet(pretrained: bool = False, **kwargs: Any) -> RepLKNet:  # noqa: PT028
    """A tiny RepLKNet for tests, with a 4 x 4 feature map for a 64-pixel image."""
    config = {
        "channels": (8, 16, 24, 32),
        "layers": (1, 1, 2, 1),
        "large_kernels": (13, 11, 9, 7),
        "strides": (4, 2, 2, 1),
    }
    return build(RepLKNet, "test_replknet", pretrained, **config | kwargs)
