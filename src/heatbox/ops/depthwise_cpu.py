"""Large depthwise convolution on the CPU: plans by instruction set, memory layout and portions.

Three ways of computing are chosen from:

- PyTorch's convolution of the whole tensor, in its own layout. On x86 it calls oneDNN, which has two fast
  depthwise kernels, both for the forward pass only. The one for NCHW exists up to a number of columns of the
  convolution kernel that depends on the instruction set. The one for channels_last takes kernels of any size
  and is near peak performance with AVX-512 and at half of it with AVX2; without AVX2 it is missing.
- The same in portions: a few hundred kilobytes (some channels of one sample) are copied to the faster layout,
  convolved and copied back while they stay in the second-level cache. Without portions, channels_last with
  hundreds of channels has strides of a power of two and evicts its own cache lines, and temporaries of tens
  of megabytes cost more in page faults than the convolution in arithmetic.
- Direct code, `heatbox.ops.depthwise_direct`, for large convolution kernels.

All three passes are forward convolutions: the input gradient is one with the flipped kernel, the weight
gradient one whose kernel is the output gradient.

The rules are functions of shapes and of the instruction set, measured (see docs/performance.md). They choose
between exact computations, so on another machine they can cost time but not correctness.
"""

from __future__ import annotations

import platform
from collections.abc import Container, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS_LAST = torch.channels_last
CONTIGUOUS = torch.contiguous_format
# Convolution kernels of this length or longer are large: direct code is faster than portions.
LARGE_KERNEL = 13
# Maps of fewer pixels than this do not fill the vectors of direct code.
FEWEST_PIXELS = 100
# From this width of the map on, direct code is faster than oneDNN's NCHW kernel for tall convolution kernels.
WIDE_MAP = 28
# Channels are vectorized by 16; portions are whole vectors.
VECTOR = 16
# Bytes of one portion of the input, per thread. Half of a second-level cache, roughly.
PORTION = 7 << 16
# With fewer taps than this the overhead of a call costs more than a portion outside the cache.
MANY_TAPS = 200
# Tensors larger than this are convolved in portions even if their layout already fits: from about this size
# the C library requests every temporary from the system, with a page fault for each page.
LARGE = 24 << 20
# Cache lines in a first-level cache of 32 kB.
LINES = 512
# Strides that are multiples of this use at most 8 of its 64 sets.
CLASHING = 512
# Tiles of the transposing copy are 60 x 60: fewer channels than this do not fill them.
FEWEST_CHANNELS = 48


Way = Literal["native", "portions", "direct"]


class Plan(NamedTuple):
    """How one pass is computed.

    Attributes:
        way: "native" is PyTorch's convolution of the whole tensor in its own layout and dtype, "portions" is
            PyTorch's in portions, "direct" is `heatbox.ops.depthwise_direct`.
        layout: memory format that portions are copied to.
        dtype: floating type that is computed in; sums are float32 inside.
    """

    way: Way
    layout: torch.memory_format
    dtype: torch.dtype


class Kernels(NamedTuple):
    """oneDNN's depthwise kernels for an instruction set.

    Attributes:
        nchw_columns: the kernel for NCHW exists for convolution kernels up to this many columns.
        channels_last: the one for channels_last and more columns is as fast as direct code, slower, or
            missing.
    """

    nchw_columns: int
    channels_last: Literal["fast", "slow", "missing"]


# AMX and AVX10 have AVX-512's depthwise kernels, AVX those of SSE4.1.
KERNELS = {"avx512": Kernels(13, "fast"), "avx2": Kernels(9, "slow"), "sse41": Kernels(7, "missing")}


def instruction_set() -> str:
    """The key of `KERNELS` that oneDNN runs with in this process; "other" if it is none or unknown.

    oneDNN chooses by the processor and by the variable ONEDNN_MAX_CPU_ISA, and has no function in PyTorch
    that reports the choice. The size of a kernel that it has prepared for 3 channels does: they are filled up
    to a vector of 16 with AVX-512, of 8 with AVX2, and not at all where no kernel for 31 columns exists.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return "other"
    try:
        weight = torch.zeros(3, 1, 31, 31, dtype=torch.float32, device="cpu").to_mkldnn()
        padding, ones, size = [15, 15], [1, 1], [1, 3, 31, 31]
        prepare: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        prepared = prepare(weight, padding, ones, ones, 3, size)
        channels = torch.ops.mkldnn._nbytes(prepared) // (31 * 31 * 4)
    except (AttributeError, RuntimeError):  # a later version of PyTorch
        return "other"
    return {16: "avx512", 8: "avx2", 3: "sse41"}.get(channels, "other")


def unsupported_dtypes() -> frozenset[torch.dtype]:
    """Half-precision types that oneDNN does not support on this processor; float32 replaces them."""
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return frozenset(dtype for dtype, check in supported.items() if not check())


INSTRUCTION_SET = instruction_set()
IN_FLOAT32 = unsupported_dtypes() if INSTRUCTION_SET in KERNELS else frozenset()


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
    shape: Sequence[int],
    kernel: tuple[int, int],
    dtype: torch.dtype,
    channels_last: bool,
    instructions: str = INSTRUCTION_SET,
    in_float32: Container[torch.dtype] = IN_FLOAT32,
) -> Plan:
    """Plan of the forward convolution of an (N, C, H, W) input with a (kh, kw) kernel.

    Args:
        shape, kernel, dtype, channels_last: of the input, and the kernel.
        instructions: a key of `KERNELS`, or another word for PyTorch's convolution as it is.
        in_float32: types that are computed in float32.
    """
    own = CHANNELS_LAST if channels_last else CONTIGUOUS
    if instructions not in KERNELS:
        return Plan("native", own, dtype)
    kernels, (kh, kw) = KERNELS[instructions], touching(kernel, shape)
    pixels, sample = shape[2] * shape[3], shape[1] * shape[2] * shape[3] * dtype.itemsize
    compute = torch.float32 if dtype in in_float32 else dtype
    native: Way = "native" if compute == dtype else "portions"
    if channels_last and safe_dtype(compute, CHANNELS_LAST, shape[1]) != compute:
        return Plan("portions", CHANNELS_LAST, torch.float32)
    in_nchw, is_float32 = kw <= kernels.nchw_columns, compute == torch.float32
    if channels_last:
        if kernels.channels_last != "fast":
            missing = kernels.channels_last == "missing" and not in_nchw
            if is_float32 and (missing or (max(kh, kw) >= LARGE_KERNEL and pixels >= FEWEST_PIXELS)):
                return Plan("direct", own, compute)
        elif kw == 13:
            # oneDNN's kernel is slowest with 13 columns, slower than with 21, especially in float32;
            # small maps are convolved faster than they are transposed
            if pixels >= FEWEST_PIXELS and is_float32:
                return Plan("direct", own, compute)
            if kh >= 11 and (
                pixels >= FEWEST_PIXELS or (is_float32 and 1 << 17 <= shape[0] * sample < 1 << 20)
            ):
                return Plan("portions", CONTIGUOUS, compute)
        return Plan(native, own, compute)
    few_pixels = pixels < FEWEST_PIXELS and kh * kw >= FEWEST_PIXELS and kernels.channels_last != "missing"
    if not in_nchw and (few_pixels or not is_float32):
        return Plan("portions", CHANNELS_LAST, compute)
    if not in_nchw or (is_float32 and max(kh, kw) > LARGE_KERNEL and shape[3] >= WIDE_MAP):
        return Plan("direct", own, compute)
    # PyTorch decides by the whole kernel, of which portions contain the touching part
    portioned = shape[0] * sample > LARGE or kernel[1] > kernels.nchw_columns
    return Plan("portions" if portioned else native, own, compute)


def weight_grad_plan(
    shape: Sequence[int],
    kernel: tuple[int, int],
    dtype: torch.dtype,
    channels_last: bool,
    instructions: str = INSTRUCTION_SET,
    in_float32: Container[torch.dtype] = IN_FLOAT32,
) -> Plan:
    """Plan of the weight gradient of an (N, C, H, W) input and output gradient for a (kh, kw) kernel."""
    own = CHANNELS_LAST if channels_last else CONTIGUOUS
    if instructions not in KERNELS:
        return Plan("native", own, dtype)
    kernels, (kh, kw) = KERNELS[instructions], touching(kernel, shape)
    compute = torch.float32 if dtype in in_float32 else dtype
    nchw = kw <= kernels.nchw_columns
    nchw_is_fast = nchw and max(kh, kw) < LARGE_KERNEL and (kh, kw) != (1, 1)
    if compute == torch.float32 and (channels_last or not nchw_is_fast):
        return Plan("direct", own, compute)
    if channels_last and kernels.channels_last == "fast":
        # here the columns of the map are those of the kernel: again 13 and slightly fewer are slow
        nchw = nchw and 10 <= shape[3] <= 13
    return Plan("portions", CONTIGUOUS if nchw else CHANNELS_LAST, compute)


def portions(shape: Sequence[int], itemsize: int, kernel: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Slices (samples, channels) of (N, C, H, W): about `PORTION` bytes a thread, twice that for few taps."""
    budget = PORTION * torch.get_num_threads() * (1 if kernel[0] * kernel[1] >= MANY_TAPS else 2)
    samples, channels, height, width = shape
    vector = max(height * width * itemsize, 1) * VECTOR
    fitting, vectors = max(1, budget // vector), -(-channels // VECTOR)
    # all samples of some channels if they fit, so that oneDNN reorders each kernel once
    step = max(1, samples if samples <= fitting else fitting // vectors)
    count = -(-vectors // max(1, fitting // step))
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
    layout = memory_format(x)
    (kh, kw), kernel = weight.shape[2:], touching((weight.shape[2], weight.shape[3]), x.shape)
    if plan.way == "native" or x.numel() == 0:
        return same_conv(relaid(x, layout, x.dtype), weight, bias, (kh // 2, kw // 2))
    if plan.way == "direct":
        from heatbox.ops import depthwise_direct  # imports numba

        some_bias = None if bias is None else bias.to(plan.dtype)
        out = depthwise_direct.forward(relaid(x, layout, plan.dtype), weight.to(plan.dtype), some_bias)
        return out.to(x.dtype)
    padding = (kernel[0] // 2, kernel[1] // 2)
    rows, columns = (slice(w // 2 - p, w // 2 + p + 1) for w, p in zip((kh, kw), padding, strict=True))
    weight = weight[:, :, rows, columns]

    def convolved(samples: slice, channels: slice) -> Tensor:
        dtype = safe_dtype(plan.dtype, plan.layout, channels.stop - channels.start)
        some_bias = None if bias is None else bias[channels].to(dtype)
        part = relaid(x[samples, channels], plan.layout, dtype)
        return same_conv(part, weight[channels].to(dtype), some_bias, padding)

    parts = list(portions(x.shape, plan.dtype.itemsize, kernel))
    if len(parts) == 1:
        return relaid(convolved(*parts[0]), layout, x.dtype)
    out = torch.empty_like(x, memory_format=layout)
    for samples, channels in parts:
        copy(out[samples, channels], convolved(samples, channels))
    return out


def weight_grad(x: Tensor, grad: Tensor, kernel: tuple[int, int], plan: Plan) -> Tensor:
    """Gradient (C, 1, kh, kw) of the kernel from input and output gradient, both (N, C, H, W).

    Tap (a, b) is the sum of x[n, c, i + a - kh//2, j + b - kw//2] grad[n, c, i, j]: a convolution of x,
    padded by (kh//2, kw//2), with grad as its kernel. Half-precision results of the portions are summed in
    float32.
    """
    if x.numel() == 0:
        return x.new_zeros(x.shape[1], 1, *kernel)
    if plan.way == "direct":
        from heatbox.ops import depthwise_direct

        x32, grad = relaid(x, memory_format(x), plan.dtype), relaid(grad, memory_format(grad), plan.dtype)
        return depthwise_direct.weight_grad(x32, grad, kernel).to(x.dtype)
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
    """Weight gradient in channels_last, one convolution per sample.

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
            out = same_conv(part, taps, None, (kernel[0] // 2, kernel[1] // 2))  # (1, C, kh, kw)
            some = out.to(precision) if some is None else some.add_(out)
        assert some is not None
        copy(total[:, channels], some)
    return total.movedim(0, 1)


def is_channels_last(x: Tensor) -> bool:
    """Whether channels vary fastest in memory; False where both layouts are the same."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=CHANNELS_LAST)


def memory_format(x: Tensor) -> torch.memory_format:
    """Memory format of the output for input `x`."""
    return CHANNELS_LAST if is_channels_last(x) else CONTIGUOUS


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
