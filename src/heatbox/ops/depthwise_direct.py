"""Direct depthwise convolution of large kernels on the CPU, compiled by numba.

Forward convolution and both gradients are the same sum over one channel,

    out[i, j] = sum over a, b of taps[a, b] plane[i + a - top, j + b - left],

with the kernel as `taps` for the output and the input gradient, and the output gradient as `taps` for the
gradient of the kernel. A tile of `ROWS` x `VECTOR` outputs stays in registers while the sum runs: each vector
of the plane is loaded once per tap column and multiplied by `ROWS` taps. Rows in the padding are skipped, and
so are the tap columns that only reach it. Planes are copied into a padded buffer of the first- or
second-level cache, which converts layouts and transposes at little cost: short sides of kernels lie along
the columns in the forward pass, and along the rows in the weight gradient, where the kernel is the output.

Vectors are LLVM's, of 16 numbers, which become as many registers of the processor as that takes.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from heatbox._utils.compiled import compiled

VECTOR = 16
# Sums of one column of vectors: 5 of them, the vector and a tap fit into AVX2's 16 registers.
ROWS = 5
# Channels copied together where they are neighbours in memory.
GROUP = 8
# Products that are summed sequentially, about; rounding errors grow with the square root of their number.
BAND = 512
# A thread is worth its start for this many products, about a tenth of a millisecond.
PER_THREAD = 1 << 21


@intrinsic
def add_tile(typing, plane, stride, taps, taps_stride, rows, columns, out, out_stride):
    """Add `rows` x `columns` products to each of ROWS x VECTOR outputs.

    `plane`, `taps` and `out` are addresses of float32. Output row r adds
    taps[column][r - row] plane[row][column + j] for each row and column.
    """
    signature = types.void(*[types.intp] * 8)

    def generate(context, builder, signature, arguments):
        plane, stride, taps, taps_stride, rows, columns, out, out_stride = arguments
        number, index = ir.FloatType(), ir.IntType(64)
        vector = ir.VectorType(number, VECTOR)
        plane, taps, out = (builder.inttoptr(p, number.as_pointer()) for p in (plane, taps, out))
        unset = ir.Constant(vector, ir.Undefined)
        same = ir.Constant(ir.VectorType(ir.IntType(32), VECTOR), [0] * VECTOR)

        def at(base, offset):
            return builder.bitcast(builder.gep(base, [offset]), vector.as_pointer())

        zero = ir.Constant(vector, [0.0] * VECTOR)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(ROWS)]
        with cgutils.for_range(builder, rows) as row:
            line = builder.gep(plane, [builder.mul(row.index, stride)])
            first = builder.gep(taps, [builder.neg(row.index)])
            with cgutils.for_range(builder, columns) as column:
                values = builder.load(at(line, column.index), align=4)
                taps_at = builder.gep(first, [builder.mul(column.index, taps_stride)])
                for r in range(ROWS):
                    tap = builder.load(builder.gep(taps_at, [index(r)]))
                    tap = builder.insert_element(unset, tap, ir.IntType(32)(0))
                    tap = builder.shuffle_vector(tap, unset, same)
                    product = builder.fmul(tap, values, flags=["contract"])
                    builder.store(builder.fadd(builder.load(sums[r]), product, flags=["contract"]), sums[r])
        for r in range(ROWS):
            target = at(out, builder.mul(out_stride, index(r)))
            builder.store(builder.fadd(builder.load(target, align=4), builder.load(sums[r])), target, align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def move(typing, target, source):
    """Copy one number. Unlike an assignment it is never made a gather or scatter, which are slower."""

    def generate(context, builder, signature, arguments):
        number = ir.IntType(32)
        target, source = (builder.inttoptr(p, number.as_pointer()) for p in arguments)
        builder.store_atomic(builder.load_atomic(source, "monotonic", 4), target, "monotonic", 4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@compiled
def relay(target, target_strides, source, source_strides, number, rows, columns):
    """Copy `number` x `rows` x `columns` numbers between addresses."""
    tq, ti, tj = target_strides
    sq, si, sj = source_strides
    if sq == 1 or tq == 1:  # channels are neighbours
        for i in range(rows):
            for j in range(columns):
                to, of = target + 4 * (i * ti + j * tj), source + 4 * (i * si + j * sj)
                for q in range(number):
                    move(to + 4 * q * tq, of + 4 * q * sq)
        return
    for q in range(number):
        for i in range(rows):
            to, of = target + 4 * (q * tq + i * ti), source + 4 * (q * sq + i * si)
            for j in range(columns):
                move(to + 4 * j * tj, of + 4 * j * sj)


@compiled
def correlate(x, x_strides, taps, tap_strides, bias, out, out_strides, sizes, channels, per_sample):
    """Write the channels from channels[0] to channels[1] of `out`.

    Args:
        x, taps, out: float32, one-dimensional; `bias` too, of as many values as channels or none.
        x_strides, tap_strides, out_strides: of (sample, channel, row, column), in numbers; a sample's is 0
            for taps that all samples share.
        sizes: samples; rows and columns of x, of the taps, of out; padding above and to the left.
        per_sample: True for an output for each sample, False for the sum over samples.
    """
    samples, height, width, tap_rows, tap_columns, out_rows, out_columns, top, left = sizes
    padded_columns = -(-out_columns // VECTOR) * VECTOR
    padded_rows = -(-out_rows // ROWS) * ROWS
    stride = padded_columns + tap_columns - 1
    tap_stride = tap_rows + 2 * (ROWS - 1)
    group = GROUP if x_strides[1] == 1 else 1
    planes = np.zeros(group * height * stride, np.float32)
    columns = np.zeros(group * tap_columns * tap_stride, np.float32)
    area = padded_rows * padded_columns
    sums = np.empty(group * area, np.float32)
    band = max(1, BAND // tap_columns)
    groups = -(-(channels[1] - channels[0]) // group)
    together = 1 if per_sample else samples
    for unit in range(groups * samples // together):
        start = channels[0] + unit % groups * group
        some = min(group, channels[1] - start)
        for q in range(some):
            sums[q * area : (q + 1) * area] = bias[start + q] if bias.size else np.float32(0)
        first = unit // groups
        for n in range(first, first + together):
            source = x.ctypes.data + 4 * (n * x_strides[0] + start * x_strides[1])
            order = (height * stride, stride, 1)
            relay(planes.ctypes.data + 4 * left, order, source, x_strides[1:], some, height, width)
            # columns of taps, last row first, between zeros for the rows of a tile that they do not reach
            source = taps.ctypes.data + 4 * (n * tap_strides[0] + start * tap_strides[1])
            target = columns.ctypes.data + 4 * (tap_rows + ROWS - 2)
            order = (tap_columns * tap_stride, -1, tap_stride)
            relay(target, order, source, tap_strides[1:], some, tap_rows, tap_columns)
            for q in range(some):
                for i in range(0, out_rows, ROWS):
                    for j in range(0, out_columns, VECTOR):
                        low, high = max(0, left - j - VECTOR + 1), min(tap_columns, left + width - j)
                        target = sums.ctypes.data + 4 * (q * area + i * padded_columns + j)
                        last = min(height, i + ROWS - 1 + tap_rows - top)
                        for y in range(max(0, i - top), last, band):
                            tap = tap_rows + ROWS - 2 - (y - i) - top
                            add_tile(
                                planes.ctypes.data + 4 * ((q * height + y) * stride + j + low),
                                stride,
                                columns.ctypes.data + 4 * ((q * tap_columns + low) * tap_stride + tap),
                                tap_stride,
                                min(y + band, last) - y,
                                max(0, high - low),
                                target,
                                padded_columns,
                            )
        target = out.ctypes.data + 4 * (first * out_strides[0] + start * out_strides[1])
        order = (area, padded_columns, 1)
        relay(target, out_strides[1:], sums.ctypes.data, order, some, out_rows, out_columns)


class Operand(NamedTuple):
    """Numbers of a dense (N, C, H, W) tensor in the order of memory, with its strides and its H and W."""

    numbers: np.ndarray
    strides: tuple[int, int, int, int]
    size: tuple[int, int]

    def mT(self) -> Operand:
        """Rows and columns exchanged."""
        (n, c, h, w), (height, width) = self.strides, self.size
        return Operand(self.numbers, (n, c, w, h), (width, height))


def operand(x: Tensor) -> Operand:
    """The numbers of a float32 tensor that is dense in NCHW or channels_last, without a copy."""
    order = x.permute(0, 2, 3, 1) if not x.is_contiguous() else x
    n, c, h, w = x.stride()
    return Operand(order.detach().view(-1).numpy(), (n, c, h, w), (x.shape[2], x.shape[3]))


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, C, H, W) * (C, 1, kh, kw) → (N, C, H, W) of the layout of `x`, float32, 'same' padding."""
    out = torch.empty_like(x)
    kh, kw = weight.shape[2:]
    taps = operand(weight.reshape(1, -1, kh, kw).contiguous())
    taps = taps._replace(strides=(0, *taps.strides[1:]))
    run(operand(x), taps, operand(out), (kh // 2, kw // 2), bias, kw > kh, x.shape, True)
    return out


def weight_grad(x: Tensor, grad: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Gradient (C, 1, kh, kw) of the weight from input and output gradient (N, C, H, W), float32."""
    kh, kw = kernel
    out = torch.empty(1, x.shape[1], kh, kw)
    run(operand(x), operand(grad), operand(out), (kh // 2, kw // 2), None, kh > kw, x.shape, False)
    return out.movedim(0, 1)


def run(
    x: Operand,
    taps: Operand,
    out: Operand,
    padding: tuple[int, int],
    bias: Tensor | None,
    transposed: bool,
    shape: torch.Size,
    per_sample: bool,
) -> None:
    """Call `correlate` for all channels, in as many threads as PyTorch uses."""
    if transposed:
        x, taps, out, padding = x.mT(), taps.mT(), out.mT(), padding[::-1]
    shifts = np.zeros(0, np.float32) if bias is None else bias.detach().contiguous().numpy()
    sizes = (shape[0], *x.size, *taps.size, *out.size, *padding)

    def some(channels: tuple[int, int]) -> None:
        operands = x.numbers, x.strides, taps.numbers, taps.strides, shifts, out.numbers, out.strides
        correlate(*operands, sizes, channels, per_sample)

    products = (
        shape.numel() * taps.size[0] * taps.size[1] * out.size[0] * out.size[1] // (x.size[0] * x.size[1])
    )
    in_threads(some, shape[1], products // PER_THREAD)


def in_threads(function, channels: int, most: int) -> None:
    """Call a function with ranges of channels, in at most as many threads as given and as PyTorch uses."""
    number = max(1, min(torch.get_num_threads(), most))
    step = -(-channels // (number * GROUP)) * GROUP
    ranges = [(start, min(start + step, channels)) for start in range(0, channels, step)]
    others = [threads().submit(function, part) for part in ranges[1:]]
    function(ranges[0])
    for other in others:
        other.result()


_pool: ThreadPoolExecutor | None = None


def threads() -> ThreadPoolExecutor:
    """The pool of this process; threads do not survive a fork."""
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), "heatbox-depthwise")
    return _pool


def forget_threads() -> None:
    """In a forked process, which has none of its parent's threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_threads)
