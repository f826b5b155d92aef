"""Large depthwise convolution on the CPU: which oneDNN kernel, in which layout, in what portions.

oneDNN, which PyTorch brings along on x86, has two good depthwise kernels, and both compute forward only:

- in channels_last (NHWC) one for any kernel size, near peak from about 15 columns on;
- in NCHW one for kernels of up to 13 columns, which PyTorch leaves for a slow general path beyond that.

PyTorch reaches them only where the layout of the caller's tensor happens to fit, and its backward never does.
Here all three passes are forward convolutions: the input gradient is one with the flipped kernel, the weight
gradient is one whose kernel is the output gradient. The plans below choose the layout and the portions.

Portions matter as much as the kernel. A portion of a few hundred kilobytes (some channels of one sample) is
copied into the better layout, convolved and copied back while it stays in the second-level cache;
channels_last with hundreds of channels otherwise strides through memory by a power of two and evicts itself,
and temporaries of tens of megabytes cost more in page faults than the convolution in arithmetic.

The thresholds were measured (docs/performance.md says where and how); they choose between exact computations,
so on another machine they can cost time, never correctness.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS_LAST = torch.channels_last
CONTIGUOUS = torch.contiguous_format

# The NCHW kernel exists up to this many columns.
MAX_NCHW_COLUMNS = 13
# Channels are vectorised by 16; portions are whole vectors.
VECTOR = 16
# Bytes of one portion of the input, per thread. Half of a second-level cache, roughly.
PORTION = 7 << 16
# Tensors larger than this are convolved in portions even where their layout already fits: about there the C
# library asks the system for every temporary anew, and each of its pages is a fault.
LARGE = 24 << 20


class Plan(NamedTuple):
    """How one pass is computed.

    Attributes:
        layout: memory format that the portions are copied to.
        dtype: floating type that oneDNN computes in; sums are float32 inside.
        portioned: False hands the whole tensor to PyTorch as it is, layout and dtype included.
    """

    layout: torch.memory_format
    dtype: torch.dtype
    portioned: bool


def unsupported_dtypes() -> frozenset[torch.dtype]:
    """Half-precision types that oneDNN has no instructions for on this processor; float32 stands in."""
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return frozenset(dtype for dtype, check in supported.items() if not check())


# Whether this build and processor have the kernels that the plans are made for.
HAS_ONEDNN = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()
IN_FLOAT32 = unsupported_dtypes() if HAS_ONEDNN else frozenset()


def is_channels_last(x: Tensor) -> bool:
    """Whether channels vary fastest in memory; False where both layouts are the same."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=CHANNELS_LAST)


def safe_dtype(dtype: torch.dtype, layout: torch.memory_format, channels: int) -> torch.dtype:
    """`dtype`, or float32 where oneDNN does not return.

    Seen with oneDNN 3.13: a bfloat16 convolution in channels_last with 8 to 16 channels, 15 or more columns
    and a map of 56 x 56 never ends, through nn.Conv2d as well.
    """
    hangs = layout == CHANNELS_LAST and dtype.itemsize == 2 and channels <= VECTOR
    return torch.float32 if hangs else dtype


def forward_plan(
    shape: Sequence[int], kernel: tuple[int, int], dtype: torch.dtype, channels_last: bool
) -> Plan:
    """Plan of the forward convolution of an (N, C, H, W) input with a (kh, kw) kernel."""
    kh, kw = kernel
    sample = shape[1] * shape[2] * shape[3] * dtype.itemsize
    if dtype in IN_FLOAT32:
        nchw = kw <= MAX_NCHW_COLUMNS and (not channels_last or kh * kw >= 100)
        return Plan(CONTIGUOUS if nchw else CHANNELS_LAST, torch.float32, True)
    if channels_last and safe_dtype(dtype, CHANNELS_LAST, shape[1]) != dtype:
        return Plan(CHANNELS_LAST, torch.float32, True)
    if not channels_last:
        if kw > MAX_NCHW_COLUMNS:
            return Plan(CHANNELS_LAST, dtype, True)
        return Plan(CONTIGUOUS, dtype, shape[0] * sample > LARGE)
    if kw == MAX_NCHW_COLUMNS and kh >= MAX_NCHW_COLUMNS - 2 and shape[2] * shape[3] >= 100:
        # 13 columns are where the channels_last kernel is at its slowest, slower than with 21; on small maps
        # the transpositions eat up the gain
        return Plan(CONTIGUOUS, dtype, True)
    return Plan(CHANNELS_LAST, dtype, kh * kw >= 200 and sample > 1 << 20)


def weight_grad_plan(
    shape: Sequence[int], kernel: tuple[int, int], dtype: torch.dtype, channels_last: bool
) -> Plan:
    """Plan of the weight gradient of an (N, C, H, W) input and output gradient for a (kh, kw) kernel."""
    (kh, kw), (height, width) = kernel, shape[2:]
    # oneDNN's NCHW kernel refuses outputs that lie in the padding altogether
    nchw = kw <= MAX_NCHW_COLUMNS and kh // 2 < height and kw // 2 < width
    if channels_last:
        # worth two transpositions where the other layout is slow: maps 8 to 14 wide are its kernel here
        nchw = nchw and kh * kw >= (49 if 8 <= width <= 14 else 150)
    return Plan(CONTIGUOUS if nchw else CHANNELS_LAST, torch.float32 if dtype in IN_FLOAT32 else dtype, True)


def portions(shape: Sequence[int], itemsize: int) -> Iterator[tuple[slice, slice]]:
    """Cut (N, C, H, W) into (samples, channels) of about `PORTION` bytes a thread."""
    budget = PORTION * torch.get_num_threads()
    samples, channels, height, width = shape
    vector = max(height * width * itemsize, 1) * VECTOR
    # all samples of some channels if that fits, so that oneDNN rearranges each kernel once
    together = max(samples, 1) if samples * vector <= budget else 1
    vectors = max(1, budget // (vector * together))
    count = -(-channels // (vectors * VECTOR))
    # portions of equal size rather than a small last one
    size = -(-channels // count // VECTOR) * VECTOR if count > 1 else channels
    for start in range(0, channels, size):
        for sample in range(0, samples, together):
            yield slice(sample, sample + together), slice(start, min(start + size, channels))


def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """F.conv2d of depthwise weights, in the layout of `x`.

    A weight of (C, 1, kh, kw) is both contiguous and channels_last, and where its strides say the latter
    PyTorch converts `x`: a view without that ambiguity keeps the choice with `x`.
    """
    weight = weight.reshape(weight.shape[0], *weight.shape[2:]).unsqueeze(1)
    return F.conv2d(x, weight, bias, padding=padding, groups=weight.shape[0])


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
    """(N, C, H, W) * (C, 1, kh, kw) → (N, C, H, W) of the layout of `x`, stride 1, 'same' padding."""
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    layout = CHANNELS_LAST if is_channels_last(x) else CONTIGUOUS
    if not plan.portioned or x.numel() == 0:
        return same_conv(x.contiguous(memory_format=layout), weight, bias, padding)
    out = torch.empty_like(x, memory_format=layout)
    for samples, channels in portions(x.shape, plan.dtype.itemsize):
        dtype = safe_dtype(plan.dtype, plan.layout, channels.stop - channels.start)
        part = x[samples, channels].to(dtype).contiguous(memory_format=plan.layout)
        some_bias = None if bias is None else bias[channels].to(dtype)
        out[samples, channels].copy_(same_conv(part, weight[channels].to(dtype), some_bias, padding))
    return out


def weight_grad(x: Tensor, grad: Tensor, kernel: tuple[int, int], plan: Plan) -> Tensor:
    """Gradient (C, 1, kh, kw) of the kernel from input and output gradient, both (N, C, H, W).

    Tap (a, b) is the sum of x[n, c, i + a - kh//2, j + b - kw//2] grad[n, c, i, j]: a convolution of x,
    padded by (kh//2, kw//2), with grad as its kernel. Half-precision results of the portions are summed in
    float32.
    """
    channels = x.shape[1]
    if x.numel() == 0:
        return x.new_zeros(channels, 1, *kernel)
    total = torch.empty(channels, 1, *kernel, dtype=torch.promote_types(plan.dtype, torch.float32))
    convolve = folded_weight_grad if plan.layout == CONTIGUOUS else sample_weight_grad
    for samples, part in portions(x.shape, plan.dtype.itemsize):
        dtype = safe_dtype(plan.dtype, plan.layout, part.stop - part.start)
        rows = x[samples, part].to(dtype).contiguous(memory_format=plan.layout)
        taps = convolve(rows, grad[samples, part].to(dtype), kernel)
        if samples.start == 0:
            total[part].copy_(taps)
        else:
            total[part].add_(taps)
    return total.to(x.dtype)


def folded_weight_grad(x: Tensor, grad: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Weight gradient of NCHW samples, all in one convolution: in this layout samples × channels is a
    view."""
    samples, channels, height, width = x.shape
    folded = samples * channels
    taps = grad.contiguous().view(folded, 1, height, width)
    x = x.contiguous().view(1, folded, height, width)
    out = same_conv(x, taps, None, (kernel[0] // 2, kernel[1] // 2))  # (1, N C, kh, kw)
    return out.view(samples, channels, 1, *kernel).sum(0, dtype=torch.promote_types(x.dtype, torch.float32))


def sample_weight_grad(x: Tensor, grad: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Weight gradient of channels_last samples, one convolution each.

    Folding samples into channels here would stride through memory by N C elements a pixel: 2 to 5 times
    slower.
    """
    padding = (kernel[0] // 2, kernel[1] // 2)
    precision = torch.promote_types(x.dtype, torch.float32)
    total = same_conv(x[:1], grad[0].unsqueeze(1), None, padding)  # (1, C, kh, kw)
    for i in range(1, x.shape[0]):
        total = total.to(precision) + same_conv(x[i : i + 1], grad[i].unsqueeze(1), None, padding)
    return total.movedim(0, 1)
