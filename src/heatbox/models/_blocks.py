"""What the large-kernel families share: a convolution with BatchNorm, its folding, checkpointed blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from heatbox.ops import DepthwiseConv2d

BATCH_NORM = nn.modules.batchnorm._BatchNorm  # 2-D and synchronised ones alike


def large_depthwise(channels: int, kernel_size: tuple[int, int], bias: bool = False) -> nn.Conv2d:
    """The one place where large depthwise convolutions are made: stride 1, output as large as the input."""
    padding = (kernel_size[0] // 2, kernel_size[1] // 2)
    return DepthwiseConv2d(channels, channels, kernel_size, padding=padding, groups=channels, bias=bias)


def initialise(module: nn.Module, std: float | None = 0.02) -> None:
    """Truncated normal weights of a convolution or linear layer, biases zero; for `nn.Module.apply`.

    Args:
        module: any module; others than convolutions and linear layers are left alone.
        std: standard deviation; None for 1 / sqrt(number of inputs of an output).

    The families' authors take 0.02, which is right for their widths. In networks of 30 to 160 channels it
    lets residual branches begin at nearly nothing, and training stands still for its first epochs.
    """
    if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
        trunc_normal_(module.weight, std=std or module.weight[0].numel() ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Reparameterizable(nn.Module):
    """A module with a second, cheaper form of the same function in eval mode.

    `merge` puts the module into that form, in place, and does nothing a second time. Weights that hold
    `merged_key` are of that form, so loading them merges the module first: merged checkpoints load into
    models as they are built.
    """

    merged_key: str

    def merge(self) -> None:
        """Replace the branches by the one convolution that equals them in eval mode."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if prefix + self.merged_key in state_dict:
            self.merge()
        super()._load_from_state_dict(state_dict, prefix, *args)


class ConvNorm(Reparameterizable):
    """Convolution without bias, then BatchNorm, then (where asked for) ReLU."""

    merged_key = "conv.bias"

    def __init__(self, conv: nn.Conv2d, relu: bool = False) -> None:
        super().__init__()
        self.conv = conv
        self.bn: nn.Module = nn.BatchNorm2d(conv.out_channels)
        self.relu: nn.Module = nn.ReLU() if relu else nn.Identity()

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias of the one convolution that equals this module (before ReLU) in eval mode."""
        if not isinstance(self.bn, BATCH_NORM):
            assert self.conv.bias is not None
            return self.conv.weight.detach(), self.conv.bias.detach()
        return fold_batch_norm(self.conv.weight.detach(), self.bn)

    def merge(self) -> None:
        """Fold the BatchNorm into the convolution."""
        if isinstance(self.bn, BATCH_NORM):
            self.conv = with_weights(self.conv, *self.folded())
            self.bn = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H', W')."""
        return self.relu(self.bn(self.conv(x)))


def fold_batch_norm(kernel: Tensor, bn: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the convolution that equals `kernel` (no bias) followed by `bn` in eval mode.

    Computed in float64 where the device has it: hundreds of folded layers in a row must not drift.
    """
    assert bn.running_mean is not None
    assert bn.running_var is not None
    precise = torch.float32 if kernel.device.type == "mps" else torch.float64
    scale = bn.weight.detach().to(precise) / (bn.running_var.to(precise) + bn.eps).sqrt()
    bias = bn.bias.detach().to(precise) - bn.running_mean.to(precise) * scale
    folded = kernel.to(precise) * scale.view(-1, 1, 1, 1)
    return folded.to(kernel.dtype), bias.to(kernel.dtype)


def centred(small: Tensor, size: Sequence[int]) -> Tensor:
    """Zero-pad (C, 1, h, w) kernels of odd sides to (C, 1, *size), the small kernel in the middle."""
    rows, columns = (size[0] - small.shape[-2]) // 2, (size[1] - small.shape[-1]) // 2
    return nn.functional.pad(small, (columns, columns, rows, rows))


def with_weights(conv: nn.Conv2d, kernel: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A convolution of the class, shape and mode of `conv` that has these weights."""
    new = type(conv)(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        groups=conv.groups,
        bias=bias is not None,
        device="meta",
    )
    new.weight = nn.Parameter(kernel, requires_grad=conv.weight.requires_grad)
    if bias is not None:
        new.bias = nn.Parameter(bias, requires_grad=conv.weight.requires_grad)
    return new.train(conv.training)


def fold_batch_norms(model: nn.Module) -> None:
    """Fold, in place, every BatchNorm that directly follows the convolution of a `ConvNorm`."""
    for module in model.modules():
        if isinstance(module, ConvNorm):
            module.merge()


def adopt_form(model: nn.Module, keys: Iterable[str]) -> None:
    """Merge those modules of `model`, in place, whose weights among `keys` are of the merged form."""
    present = set(keys)
    for name, module in list(model.named_modules()):
        if isinstance(module, Reparameterizable) and f"{name}.{module.merged_key}" in present:
            module.merge()


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Stochastic depth: rates from 0 for the first block linearly to `rate` for the last, by stage."""
    last = max(sum(depths) - 1, 1)
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [
        [rate * (start + j) / last for j in range(depth)] for start, depth in zip(starts, depths, strict=True)
    ]


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, checkpointed: bool) -> Tensor:
    """Run blocks in order; checkpointed ones keep only their inputs and are recomputed in backward."""
    for block in blocks:
        if checkpointed and torch.is_grad_enabled():
            x = checkpoint(block, x, use_reentrant=False, **recompute_options(block))
        else:
            x = block(x)
    return x


def recompute_options(block: nn.Module) -> dict[str, Any]:
    """Options of `checkpoint` that keep the second run from updating BatchNorm's running statistics."""
    if torch.compiler.is_compiling():
        return {}  # compiled graphs recompute values, not updates
    return {"context_fn": lambda: (contextlib.nullcontext(), Again(lambda: frozen_statistics(block)))}


class Again(contextlib.AbstractContextManager[None]):
    """A context that can be entered again and again: each backward of a kept graph recomputes its blocks."""

    def __init__(self, make: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self.make = make

    def __enter__(self) -> None:
        self.context = self.make()
        self.context.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self.context.__exit__(*raised)


@contextlib.contextmanager
def frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Keep the running statistics as they are, so that a recomputed batch is not counted twice."""
    norms = [module for module in block.modules() if isinstance(module, BATCH_NORM)]
    momenta = [norm.momentum for norm in norms]
    counts = [None if n.num_batches_tracked is None else n.num_batches_tracked.clone() for n in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
