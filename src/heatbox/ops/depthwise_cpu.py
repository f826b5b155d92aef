"""Large depthwise convolution on the CPU: choice of the oneDNN kernel, memory layout and portions.

oneDNN, which PyTorch includes on x86, has two fast depthwise kernels, both for the forward pass only:

- in channels_last (NHWC) one for any kernel size, near peak performance from about 15 columns;
- in NCHW one for kernels of up to 13 columns; beyond that PyTorch uses a slow general path.

PyTorch uses them only if the layout of the input happens to fit, and never in backward. Here all three passes
are forward convolutions: the input gradient is one with the flipped kernel, the weight gradient one whose
kernel is the output gradient. Plans choose the layout and the portions.

The portions are as important as the kernel. A portion of a few hundred kilobytes (some channels of one
sample) is copied to the faster layout, convolved and copied back while it stays in the second-level cache.
Without portions, channels_last with hundreds of channels has strides of a power of two and evicts its own
cache lines, and temporaries of tens of megabytes cost more in page faults than the convolution in arithmetic.

The thresholds were measured (see docs/performance.md); they choose between exact computations, so on another
machine they can cost time but not correctness.
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
# From this many columns to those 13 the channels_last kernel is slow.
SLOW_COLUMNS = 10
# Channels are vectorized by 16; portions are whole vectors.
VECTOR = 16
# Bytes of one portion of the input, per thread. Half of a second-level cache, roughly.
PORTION = 7 << 16
# With fewer taps than this the overhead of a call costs more than a portion outside the cache.
MANY_TAPS = 200
# Pixels that a weight gradient sums sequentially.
BAND = 512
# Kernels with a shorter side than this take at least 1.5 times as long in bands.
LEAST_BANDED = 15
# Tensors larger than this are convolved in portions even if their layout already fits: from about this size
# the C library requests every temporary from the system, with a page fault for each page.
LARGE = 24 << 20
# Cache lines in a first-level cache of 32 kB.
LINES = 512
# Strides that are multiples of this use at most 8 of its 64 sets.
CLASHING = 512
# Tiles of the transposing copy are 60 x 60: fewer channels than this do not fill them.
FEWEST_CHANNELS = 48


class Plan(NamedTuple):
    """How one pass is computed.

    Attributes:
        layout: memory format that the portions are copied to.
        dtype: floating type that oneDNN computes in; sums are float32 inside.
        portioned: False passes the whole tensor to PyTorch, in its own layout and dtype.
    """

    layout: torch.memory_format
    dtype: torch.dtype
    portioned: bool


def unsupported_dtypes() -> frozenset[torch.dtype]:
    """Half-precision types that oneDNN does not support on this processor; float32 replaces them."""
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return frozenset(dtype for dtype, check in supported.items() if not check())


# Whether this build and processor have the kernels that the plans assume.
HAS_ONEDNN = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()
IN_FLOAT32 = unsupported_dtypes() if HAS_ONEDNN else frozenset()


def safe_dtype(dtype: torch.dtype, layout: torch.memory_format, channels: int) -> torch.dtype:
    """`dtype`, or float32 where oneDNN does not return.

    Observed with oneDNN 3.13: a bfloat16 convolution in channels_last with 8 to 16 channels, 15 or more
    columns and a map of 56 x 56 never ends, through nn.Conv2d as well.
    """
    hangs = layout == CHANNELS_LAST and dtype.itemsize == 2 and channels <= VECTOR
    return torch.float32 if hangs else dtype


def touching(kernel: tuple[int, int], shape: Sequence[int]) -> tuple[int, int]:
    """Size of the central part of a (kh, kw) kernel that reaches pixels of an (N, C, H, W) map."""
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
        # PyTorch decides by the whole kernel
        return Plan(CONTIGUOUS, dtype, shape[0] * sample > LARGE or kernel[1] > MAX_NCHW_COLUMNS)
    large = shape[2] * shape[3] >= 100 or (dtype == torch.float32 and sample >= 1 << 17)
    if kw == MAX_NCHW_COLUMNS and kh >= MAX_NCHW_COLUMNS - 2 and large:
        # the channels_last kernel is slowest with 13 columns, slower than with 21, especially in float32;
        # small maps are convolved faster than they are transposed
        return Plan(CONTIGUOUS, dtype, True)
    return Plan(CHANNELS_LAST, dtype, False)


def weight_grad_plan(
    shape: Sequence[int], kernel: tuple[int, int], dtype: torch.dtype, channels_last: bool
) -> Plan:
    """Plan of the weight gradient of an (N, C, H, W) input and output gradient for a (kh, kw) kernel."""
    # `weight_grad` omits the taps that only reach the padding, which oneDNN's NCHW kernel does not support
    nchw = touching(kernel, shape)[1] <= MAX_NCHW_COLUMNS
    if channels_last:
        # here the columns of the map are those of the kernel: again 13 and slightly fewer are slow
        nchw = nchw and SLOW_COLUMNS <= shape[3] <= MAX_NCHW_COLUMNS
    return Plan(CONTIGUOUS if nchw else CHANNELS_LAST, torch.float32 if dtype in IN_FLOAT32 else dtype, True)


def portions(shape: Sequence[int], itemsize: int, kernel: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Slices (samples, channels) of (N, C, H, W): about `PORTION` bytes a thread, twice that for few taps."""
    budget = PORTION * torch.get_num_threads() * (1 if kernel[0] * kernel[1] >= MANY_TAPS else 2)
    samples, channels, height, width = shape
    vector = max(height * width * itemsize, 1) * VECTOR
    # all samples of some channels if they fit, so that oneDNN reorders each kernel once
    step = max(samples, 1) if samples * vector <= budget else 1
    vectors = max(1, budget // (vector * step))
    count = -(-channels // (vectors * VECTOR))
    # equal portions instead of a small last one
    size = -(-channels // count // VECTOR) * VECTOR if count > 1 else channels
    for start in range(0, channels, size):
        for sample in range(0, samples, step):
            yield slice(sample, min(sample + step, samples)), slice(start, min(start + size, channels))


def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """F.conv2d of depthwise weights, in the layout of `x`.

    A weight of (C, 1, kh, kw) is both contiguous and channels_last, and with the strides of the latter
    PyTorch converts `x`; a view with unambiguous strides prevents that.
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
    """Weight gradient in NCHW, several samples per convolution: samples × channels is a view here."""
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
    """Weight gradient in channels_last, one or more convolutions per sample.

    Folding samples into channels would give strides of N C elements per pixel here: 2 to 5 times slower.
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
    """Terms (1, C, kh, kw) of a weight gradient, one per band of rows of the output gradient.

    oneDNN sums the pixels of a map sequentially, and rounding errors grow with the square root of their
    number: with bands of `BAND` pixels they are those of PyTorch's gradient at any size. `x` is
    (1, C, H, W) in channels_last, `grad` (C, 1, H, W).
    """
    (kh, kw), (height, width) = kernel, x.shape[2:]
    if min(kernel) < LEAST_BANDED or height * width <= BAND or x.dtype != torch.float32:
        yield same_conv(x, grad, None, (kh // 2, kw // 2))
        return
    count = -(-height * width // BAND)
    rows, reach = -(-height // count), kh // 2
    for first in range(0, height, rows):
        last = min(first + rows, height)
        # the input rows that this band reaches, and how many of them lie in the padding above or below
        above, below = max(0, reach - first), max(0, last + reach - height)
        inside = x[:, :, max(0, first - reach) : min(height, last + reach)]
        padding = max(above, below)
        out = same_conv(inside, grad[:, :, first:last], None, (padding, kw // 2))
        yield out[:, :, padding - above : padding - above + kh]


def is_channels_last(x: Tensor) -> bool:
    """Whether channels vary fastest in memory; False where both layouts are the same."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=CHANNELS_LAST)


def copy_by_tiles(target: Tensor, source: Tensor) -> bool:
    """Whether the transposing copy is faster for (N, C, H, W) tensors of different layouts.

    PyTorch's general copy follows the memory of its target. From channels_last to NCHW it reads one number
    from each of H W cache lines, channel after channel: fast while those lines stay in the first-level cache,
    two to six times slower if they are too many or if their stride maps them to few of its sets. PyTorch has
    a second copy, of matrices to their transposes, which works in tiles; it is used where the general one
    would fall out of the cache.
    """
    if target.dtype != source.dtype:
        return False
    channels, pixels = source.shape[1], source.shape[2] * source.shape[3]
    if source.stride(1) == 1:  # channels_last to NCHW
        return (pixels >= LINES and channels >= FEWEST_CHANNELS) or (
            source.stride(3) * source.itemsize % CLASHING == 0 and pixels >= 16
        )
    # NCHW to channels_last reads one number from each of C planes
    return channels >= 32 and pixels * source.itemsize % (8 * CLASHING) == 0


def copy(target: Tensor, source: Tensor) -> None:
    """Copy (N, C, H, W) values; each sample of the tensors must be dense in one of the two layouts."""
    if not copy_by_tiles(target, source):
        target.copy_(source)
        return
    for to, of in zip(target, source, strict=True):
        if of.stride(0) == 1:
            to.view(to.shape[0], -1).copy_(of.permute(1, 2, 0).flatten(0, 1).contiguous().t())
        else:
            to.permute(1, 2, 0).view(-1, to.shape[0]).copy_(of.flatten(1).t())


def relaid(x: Tensor, layout: torch.memory_format, dtype: torch.dtype) -> Tensor:
    """(N, C, H, W) values in this layout and dtype; `x` itself if it has them."""
    if x.dtype == dtype and x.is_contiguous(memory_format=layout):
        return x
    out = torch.empty(x.shape, dtype=dtype, memory_format=layout)
    copy(out, x)
    return out
