"""Shared by the large-kernel families: convolution with BatchNorm and its folding, and timm's interface."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from timm.layers import create_classifier, trunc_normal_
from timm.models import build_model_with_cfg
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from heatbox.ops import DepthwiseConv2d

BATCH_NORM = nn.modules.batchnorm._BatchNorm  # 2-D and synchronized ones alike


def large_depthwise(channels: int, kernel_size: tuple[int, int], bias: bool = False) -> nn.Conv2d:
    """A large depthwise convolution of stride 1 whose output is as large as its input."""
    padding = (kernel_size[0] // 2, kernel_size[1] // 2)
    return DepthwiseConv2d(channels, channels, kernel_size, padding=padding, groups=channels, bias=bias)


def initialise(module: nn.Module, std: float | None = 0.02) -> None:
    """Truncated normal weights of a convolution or linear layer, biases zero; for `nn.Module.apply`.

    The authors use a standard deviation of 0.02, which suits their widths. In networks of 30 to 160 channels
    residual branches then start close to zero, and training makes no progress in its first epochs: None is
    1 / sqrt(number of inputs of an output).
    """
    if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
        trunc_normal_(module.weight, std=std or module.weight[0].numel() ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Reparameterizable(nn.Module):
    """A module whose branches can be merged into one convolution that is equivalent in eval mode.

    `merge` does so in place; a second call has no effect. A state dict that contains `merged_key` has the
    merged form, and loading it merges the module first: merged checkpoints load into newly built models.
    """

    merged_key: str

    def merge(self) -> None:
        """Replace the branches by the equivalent convolution."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if prefix + self.merged_key in state_dict:
            self.merge()
        super()._load_from_state_dict(state_dict, prefix, *args)


class ConvNorm(Reparameterizable):
    """Convolution without bias, BatchNorm, and optionally ReLU."""

    merged_key = "conv.bias"

    def __init__(self, conv: nn.Conv2d, relu: bool = False) -> None:
        super().__init__()
        self.conv = conv
        self.bn: nn.Module = nn.BatchNorm2d(conv.out_channels)
        self.relu: nn.Module = nn.ReLU() if relu else nn.Identity()

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias of the convolution that equals this module (before ReLU) in eval mode."""
        if not isinstance(self.bn, BATCH_NORM):
            assert self.conv.bias is not None
            return self.conv.weight.detach(), self.conv.bias.detach()
        return fold_batch_norm(self.conv.weight.detach(), self.bn)

    def merge(self) -> None:
        """Fold the BatchNorm into the convolution."""
        if isinstance(self.bn, BATCH_NORM):
            set_weights(self.conv, *self.folded())
            self.bn = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H', W')."""
        return self.relu(self.bn(self.conv(x)))


def fold_batch_norm(kernel: Tensor, bn: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the convolution that equals `kernel` (no bias) followed by `bn` in eval mode.

    Computed in float64 if the device supports it, so that errors do not add up over hundreds of layers.
    """
    precise = torch.float32 if kernel.device.type == "mps" else torch.float64
    with torch.no_grad():
        scale, bias = batch_norm_affine(bn, precise)
        folded = kernel.to(precise) * scale.view(-1, 1, 1, 1)
    return folded.to(kernel.dtype), bias.to(kernel.dtype)


def batch_norm_affine(bn: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) that a BatchNorm applies in eval mode."""
    assert isinstance(bn, BATCH_NORM)
    assert bn.running_mean is not None
    assert bn.running_var is not None
    mean, var = bn.running_mean.to(dtype), bn.running_var.to(dtype)
    gamma = torch.ones_like(mean) if bn.weight is None else bn.weight.to(dtype)
    beta = torch.zeros_like(mean) if bn.bias is None else bn.bias.to(dtype)
    scale = gamma / (var + bn.eps).sqrt()
    return scale, beta - mean * scale


def centred(small: Tensor, size: Sequence[int]) -> Tensor:
    """Zero-pad (C, 1, h, w) kernels of odd sides to (C, 1, *size), centred."""
    rows, columns = (size[0] - small.shape[-2]) // 2, (size[1] - small.shape[-1]) // 2
    return nn.functional.pad(small, (columns, columns, rows, rows))


def set_weights(conv: nn.Conv2d, kernel: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """Replace the weight and, if given, the bias of a convolution; returns it."""
    trainable = conv.weight.requires_grad
    conv.weight = nn.Parameter(kernel, trainable)
    if bias is not None:
        conv.bias = nn.Parameter(bias, trainable)
    return conv


def merge_as_in(model: nn.Module, keys: Iterable[str]) -> None:
    """Merge, in place, the modules of `model` whose keys in a state dict have the merged form."""
    present = set(keys)
    for name, module in list(model.named_modules()):
        if isinstance(module, Reparameterizable) and f"{name}.{module.merged_key}" in present:
            module.merge()


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates of stochastic depth by stage, increasing linearly from 0 for the first block to `rate`."""
    last = max(sum(depths) - 1, 1)
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [
        [rate * (start + j) / last for j in range(depth)] for start, depth in zip(starts, depths, strict=True)
    ]


class Blocks(nn.Sequential):
    """Blocks of one resolution; with `grad_checkpointing` backward recomputes them from their inputs."""

    grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        for block in self:
            if not (self.grad_checkpointing and torch.is_grad_enabled()):
                x = block(x)
            elif torch.compiler.is_compiling():  # compiled graphs recompute values without updates
                x = checkpoint(block, x, use_reentrant=False)
            else:
                contexts = partial(recompute_contexts, block)
                x = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
        return x


def recompute_contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a block's first run in `checkpoint` and of those that recompute it."""
    return nullcontext(), FrozenStatistics(block)


class FrozenStatistics(AbstractContextManager[None]):
    """Keeps running statistics as they are, so that a recomputed batch is not counted twice.

    It can be entered repeatedly: every backward pass of a kept graph recomputes its blocks.
    """

    def __init__(self, block: nn.Module) -> None:
        self.norms = [module for module in block.modules() if isinstance(module, BATCH_NORM)]

    def __enter__(self) -> None:
        self.kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm, _, count in self.kept:
            norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()

    def __exit__(self, *raised: object) -> None:
        for norm, momentum, count in self.kept:
            norm.momentum, norm.num_batches_tracked = momentum, count


class StagedNet(nn.Module):
    """A network of stages with timm's interface; `forward_head` applies `norm`, average pooling and `head`.

    A subclass defines `stages` (of `Blocks`), `norm`, and `enter(i, x)`: the stem for i = 0, otherwise the
    layers between stages i - 1 and i.
    """

    stages: nn.ModuleList
    norm: nn.Module
    global_pool: nn.Module
    head: nn.Module

    def __init__(
        self,
        in_chans: int,
        global_pool: str,
        channels: Sequence[int],
        strides: Sequence[int],
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.in_chans, self.drop_rate = in_chans, drop_rate
        self.num_features = self.head_hidden_size = channels[-1]
        self.pool_type = global_pool
        reductions = torch.tensor(strides, device="cpu").cumprod(0).tolist()
        self.feature_info = [
            {"num_chs": width, "reduction": reduction, "module": f"stages.{i}"}
            for i, (width, reduction) in enumerate(zip(channels, reductions, strict=True))
        ]

    def make_head(self, num_classes: int) -> None:
        """Pooling, dropout and a new linear layer of `num_classes` outputs (0 for none)."""
        self.num_classes = num_classes
        self.global_pool, self.head = create_classifier(
            self.num_features, num_classes, pool_type=self.pool_type
        )
        self.head_drop = nn.Dropout(self.drop_rate)

    def enter(self, i: int, x: Tensor) -> Tensor:
        """The input of stage `i` from the output of the previous stage (or from the image)."""
        raise NotImplementedError

    def keep_stages(self, number: int) -> None:
        """Drop all stages after the first `number`."""
        self.stages = self.stages[:number]

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay: norms, biases and layer scales."""
        return {name for name, parameter in self.named_parameters() if parameter.ndim < 2}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in backward instead of storing its activations."""
        for module in self.modules():
            if isinstance(module, Blocks):
                module.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The linear layer that computes the logits."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one of `num_classes` outputs (0 for none)."""
        self.pool_type = self.pool_type if global_pool is None else global_pool
        weight = next(self.parameters())
        self.make_head(num_classes)
        self.head.to(weight.device, weight.dtype).train(self.training)
        self.head_drop.train(self.training)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of the chosen stages, preceded by that of the last stage unless `intermediates_only`.

        Args:
            x: images (B, 3, H, W).
            indices: the last n stages for an integer, all for None, otherwise these stages.
            norm: has no effect; part of timm's interface.
            stop_early: compute no stage after the last chosen one.
            output_fmt: only "NCHW".
            intermediates_only: return the list alone.
        """
        assert output_fmt == "NCHW", "feature maps of a CNN are NCHW"
        chosen, last = feature_take_indices(len(self.stages), indices)
        taken = []
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(self.enter(i, x))  # (B, channels[i], h, w)
            if i in chosen:
                taken.append(x)
        return taken if intermediates_only else (x, taken)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers that the chosen stages do not need; returns their indices."""
        chosen, last = feature_take_indices(len(self.stages), indices)
        if prune_norm or last < len(self.stages) - 1:
            self.norm = nn.Identity()
        self.keep_stages(last + 1)
        if prune_head:
            self.reset_classifier(0, "")
        return chosen

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, C, h, w), the output of the last stage, before any final norm."""
        for i, stage in enumerate(self.stages):
            x = stage(self.enter(i, x))
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, h, w) → (B, C) for `pre_logits`, else logits (B, num_classes)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))


Net = TypeVar("Net", bound=StagedNet)


def build(family: type[Net], variant: str, pretrained: bool, **kwargs: Any) -> Net:
    """Build a variant as timm does, with its `pretrained_cfg` and the `features_only` wrapper."""
    feature_cfg = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
    return build_model_with_cfg(family, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def crop_cfg(side: int) -> dict[str, Any]:
    """How images are cropped: from 384 pixels on the whole image is squashed to the square."""
    return {"crop_pct": 1.0, "crop_mode": "squash"} if side >= 384 else {}


def weights_cfg(side: int = 224, **overrides: Any) -> dict[str, Any]:
    """timm's `pretrained_cfg` of weights for images of this side: 1000 classes, ImageNet's mean and std."""
    return {
        "num_classes": 1000,
        "input_size": (3, side, side),
        "pool_size": (side // 32, side // 32),
        "interpolation": "bicubic",
        "classifier": "head",
        "license": "mit",
        "crop_pct": 0.875,
        **crop_cfg(side),
        **overrides,
    }
