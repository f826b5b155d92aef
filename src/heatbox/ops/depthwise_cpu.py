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

from heatbox.ops.layouts import CHANNELS_LAST, CONTIGUOUS, copy, is_channels_last, relaid

# The NCHW kernel exists up to this many columns.
MAX_NCHW_COLUMNS = 13
# From this many columns to those 13 the channels_last kernel is slow for its size.
SLOW_COLUMNS = 10
# Channels are vectorised by 16; portions are whole vectors.
VECTOR = 16
# Bytes of one portion of the input, per thread. Half of a second-level cache, roughly.
PORTION = 7 << 16
# With fewer taps than this what a call costs by itself weighs more than where its portion lies.
MANY_TAPS = 200
# Pixels that a weight gradient adds up one after the other.
BAND = 512
# Kernels with a shorter side than this take half as long again in bands, and more.
LEAST_BANDED = 15
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


def safe_dtype(dtype: torch.dtype, layout: torch.memory_format, channels: int) -> torch.dtype:
    """`dtype`, or float32 where oneDNN does not return.

    Seen with oneDNN 3.13: a bfloat16 convolution in channels_last with 8 to 16 channels, 15 or more columns
    and a map of 56 x 56 never ends, through nn.Conv2d as well.
    """
    hangs = layout == CHANNELS_LAST and dtype.itemsize == 2 and channels <= VECTOR
    return torch.float32 if hangs else dtype


def touching(kernel: tuple[int, int], shape: Sequence[int]) -> tuple[int, int]:
    """The part of a (kh, kw) kernel, about its middle, that ever meets an (N, C, H, W) map's pixels."""
    return min(kernel[0], max(2 * shape[2] - 1, 1)), min(kernel[1], max(2 * shape[3] - 1, 1))


def forward_plan(
    shape: Sequence[int], kernel: tuple[int, int], dtype: torch.dtype, channels_last: bool
) -> Plan:
    """Plan of the forward convolution of an (N, C, H, W) input with a (kh, kw) kernel."""
    kh, kw = touching(kernel, shape)
    sample = shape[1] * shape[2] * shape[3] * dtype.itemsize
    if dtype in IN_FLOAT32:
        nchw = kw <= MAX_NCHW_COLUMNS and (not channels_last or kh * kw >= 100)
        return Plan(CONTIGUOUS if nchw else CHANNELS_LAST, torch.float32, True)
    if channels_last and safe_dtype(dtype, CHANNELS_LAST, shape[1]) != dtype:
        return Plan(CHANNELS_LAST, torch.float32, True)
    if not channels_last:
        if kw > MAX_NCHW_COLUMNS:
            return Plan(CHANNELS_LAST, dtype, True)
        # PyTorch judges by the whole kernel
        return Plan(CONTIGUOUS, dtype, shape[0] * sample > LARGE or kernel[1] > MAX_NCHW_COLUMNS)
    large = shape[2] * shape[3] >= 100 or (dtype == torch.float32 and sample >= 1 << 17)
    if kw == MAX_NCHW_COLUMNS and kh >= MAX_NCHW_COLUMNS - 2 and large:
        # 13 columns are where the channels_last kernel is at its slowest, slower than with 21, most of all in
        # float32; small maps are convolved before they are transposed
        return Plan(CONTIGUOUS, dtype, True)
    return Plan(CHANNELS_LAST, dtype, False)


def weight_grad_plan(
    shape: Sequence[int], kernel: tuple[int, int], dtype: torch.dtype, channels_last: bool
) -> Plan:
    """Plan of the weight gradient of an (N, C, H, W) input and output gradient for a (kh, kw) kernel."""
    # `weight_grad` spares oneDNN's NCHW kernel the taps that only meet the padding, which it refuses
    nchw = touching(kernel, shape)[1] <= MAX_NCHW_COLUMNS
    if channels_last:
        # the columns of the map are those of the kernel here: again 13, and a few less, are slow here
        nchw = nchw and SLOW_COLUMNS <= shape[3] <= MAX_NCHW_COLUMNS
    return Plan(CONTIGUOUS if nchw else CHANNELS_LAST, torch.float32 if dtype in IN_FLOAT32 else dtype, True)


def portions(shape: Sequence[int], itemsize: int, kernel: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Cut (N, C, H, W) into (samples, channels) of about `PORTION` bytes a thread, or twice for few taps."""
    budget = PORTION * torch.get_num_threads() * (1 if kernel[0] * kernel[1] >= MANY_TAPS else 2)
    samples, channels, height, width = shape
    vector = max(height * width * itemsize, 1) * VECTOR
    # all samples of some channels if that fits, so that oneDNN rearranges each kernel once
    step = max(samples, 1) if samples * vector <= budget else 1
    vectors = max(1, budget // (vector * step))
    count = -(-channels // (vectors * VECTOR))
    # portions of equal size rather than a small last one
    size = -(-channels // count // VECTOR) * VECTOR if count > 1 else channels
    for start in range(0, channels, size):
        for sample in range(0, samples, step):
            yield slice(sample, min(sample + step, samples)), slice(start, min(start + size, channels))


def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """F.conv2d of depthwise weights, in the layout of `x`.

    A weight of (C, 1, kh, kw) is both contiguous and channels_last, and where its strides say the latter
    PyTorch converts `x`: a view without that ambiguity keeps the choice with `x`.
    """
    weight = weight.reshape(weight.shape[0], *weight.shape[2:]).unsqueeze(1)
    return F.conv2d(x, weight, bias, padding=padding, groups=weight.shape[0])


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
    """(N, C, H, W) * (C, 1, kh, kw) → (N, C, H, W) of the layout of `x`, stride 1, 'same' padding."""
    layout = CHANNELS_LAST if is_channels_last(x) else CONTIGUOUS
    (kh, kw), kernel = weight.shape[2:], touching((weight.shape[2], weight.shape[3]), x.shape)
    if not plan.portioned or x.numel() == 0:
        return same_conv(relaid(x, layout, x.dtype), weight, bias, (kh // 2, kw // 2))
    padding = (kernel[0] // 2, kernel[1] // 2)
    rows, columns = (slice(w // 2 - p, w // 2 + p + 1) for w, p in zip((kh, kw), padding, strict=True))
    weight = weight[:, :, rows, columns]
    out = torch.empty_like(x, memory_format=layout)
    for samples, channels in portions(x.shape, plan.dtype.itemsize, kernel):
        dtype = safe_dtype(plan.dtype, plan.layout, channels.stop - channels.start)
        part = relaid(x[samples, channels], plan.layout, dtype)
        some_bias = None if bias is None else bias[channels].to(dtype)
        copy(out[samples, channels], same_conv(part, weight[channels].to(dtype), some_bias, padding))
    return out


def weight_grad(x: Tensor, grad: Tensor, kernel: tuple[int, int], plan: Plan) -> Tensor:
    """Gradient (C, 1, kh, kw) of the kernel from input and output gradient, both (N, C, H, W).

    Tap (a, b) is the sum of x[n, c, i + a - kh//2, j + b - kw//2] grad[n, c, i, j]: a convolution of x,
    padded by (kh//2, kw//2), with grad as its kernel. Half-precision results of the portions are summed in
    float32.
    """
    if x.numel() == 0:
        return x.new_zeros(x.shape[1], 1, *kernel)
    inner = touching(kernel, x.shape)
    convolve = folded_weight_grad if plan.layout == CONTIGUOUS else sample_weight_grad
    taps = convolve(x, grad, inner, plan).to(x.dtype)
    if inner == kernel:
        return taps
    rows, columns = (kernel[0] - inner[0]) // 2, (kernel[1] - inner[1]) // 2
    return F.pad(taps, (columns, columns, rows, rows))


def folded_weight_grad(x: Tensor, grad: Tensor, kernel: tuple[int, int], plan: Plan) -> Tensor:
    """Weight gradient in NCHW, several samples in one convolution: in this layout samples × channels is a
    view."""
    total = torch.empty(x.shape[1], 1, *kernel, dtype=torch.promote_types(plan.dtype, torch.float32))
    for samples, channels in portions(x.shape, plan.dtype.itemsize, kernel):
        part = relaid(x[samples, channels], CONTIGUOUS, plan.dtype)
        taps = relaid(grad[samples, channels], CONTIGUOUS, plan.dtype)
        number, width = part.shape[:2]
        part = part.view(1, number * width, *part.shape[2:])
        taps = taps.view(number * width, 1, *taps.shape[2:])
        out = same_conv(part, taps, None, (kernel[0] // 2, kernel[1] // 2))  # (1, N C, kh, kw)
        out = out.view(number, width, 1, *kernel)
        if samples.start == 0:
            torch.sum(out, 0, dtype=total.dtype, out=total[channels])
        else:
            total[channels] += out.sum(0, dtype=total.dtype)
    return total


def sample_weight_grad(x: Tensor, grad: Tensor, kernel: tuple[int, int], plan: Plan) -> Tensor:
    """Weight gradient in channels_last, one convolution or more each sample.

    Folding samples into channels here would stride through memory by N C elements a pixel: 2 to 5 times
    slower.
    """
    precision = torch.promote_types(plan.dtype, torch.float32)
    total = torch.empty(1, x.shape[1], *kernel, dtype=precision)
    for _, channels in portions((1, *x.shape[1:]), plan.dtype.itemsize, kernel):
        dtype = safe_dtype(plan.dtype, plan.layout, channels.stop - channels.start)
        some = None
        for n in range(x.shape[0]):
            part = relaid(x[n : n + 1, channels], CHANNELS_LAST, dtype)
            taps = relaid(grad[n : n + 1, channels], CONTIGUOUS, dtype).movedim(0, 1)
            for out in bands_weight_grad(part, taps, kernel):  # (1, C, kh, kw)
                some = out.to(precision) if some is None else some.add_(out)
        assert some is not None
        copy(total[:, channels], some)
    return total.movedim(0, 1)


def bands_weight_grad(x: Tensor, grad: Tensor, kernel: tuple[int, int]) -> Iterator[Tensor]:
    """Summands (1, C, kh, kw) of a weight gradient: that of every few rows of the output gradient.

    oneDNN adds the pixels of a map one after the other, and the rounding errors grow with the square root of
    their number: with bands of `BAND` pixels they are those of PyTorch's own gradient at any size.

    Args:
        x: (1, C, H, W) in channels_last.
        grad: (C, 1, H, W).
        kernel: (kh, kw).
    """
    (kh, kw), (height, width) = kernel, x.shape[2:]
    if min(kernel) < LEAST_BANDED or height * width <= BAND or x.dtype != torch.float32:
        yield same_conv(x, grad, None, (kh // 2, kw // 2))
        return
    count = -(-height * width // BAND)
    rows, reach = -(-height // count), kh // 2
    for first in range(0, height, rows):
        last = min(first + rows, height)
        # the input rows that this band meets; those of them that lie in the padding, above or below
        above, below = max(0, reach - first), max(0, last + reach - height)
        seen = x[:, :, max(0, first - reach) : min(height, last + reach)]
        padding = max(above, below)
        out = same_conv(seen, grad[:, :, first:last], None, (padding, kw // 2))
        yield out[:, :, padding - above : padding - above + kh]
