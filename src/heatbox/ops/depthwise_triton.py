"""Large depthwise convolution on CUDA devices: Triton kernels that express it as matrix products.

A depthwise convolution has no sum over channels, so it cannot use tensor cores directly. Along one axis,
however, it is a product with a banded Toeplitz matrix: for one channel and one kernel row a,

    out[n, i, u] += sum over v of x[n, i + a - kh//2, v] T_a[v, u],    T_a[v, u] = weight[a, v - u + kw//2].

The images of a batch share T, so they are the rows of the left matrix, and an input row is read once for
several output rows, whose Toeplitz blocks are concatenated. For small batches the output rows are rows of the
left matrix instead. The weight gradient is the transposed product: over images and input rows, output
gradient times input, whose sums along diagonals are the taps. `expand` writes the Toeplitz blocks of a call
to memory once. The Toeplitz axis must be the longer kernel side: 51 x 5 is computed transposed.

Windows of input columns start at multiples of 16 so that loads are vectorized; H and W are compile-time
constants. The fastest of a few fixed tiles is chosen by timing them at the first call of a configuration.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heatbox.ops.reference import native_convolution, native_weight_gradient

try:
    import triton

    if not hasattr(triton.language, "gather"):  # it came with 3.3, beside PyTorch 2.7
        raise ImportError(f"version {triton.__version__} is older than 3.3")
    from heatbox.ops import triton_kernels as kernels

    MISSING = ""
except ImportError as error:  # macOS, Windows, CPU-only builds
    MISSING = f"Triton cannot be imported ({error})"

# Kernels whose longer side is below this are left to PyTorch: the band is too narrow for a matrix product.
SMALLEST_KERNEL = 13
LARGEST_SIDE = 256  # of the map: programs are compiled for H and W
ALIGN = 16
DEPTH = 16  # columns of input in one step of the forward product
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# From this batch size images are the rows of the left matrix.
MANY_IMAGES = 32

warned: set[str] = set()
# Configurations on which Triton failed: (N, C, H, W), kernel, dtype. They are not compiled again.
failed: set[tuple[Any, ...]] = set()
tuned: dict[tuple[Any, ...], Tile] = {}


@dataclass(frozen=True)
class Tile:
    """Tile of one program, and its launch parameters.

    Attributes:
        images: size of the output tile; for the weight gradient the images in one step of the product.
        rows: output rows; for the weight gradient kernel rows.
        columns: columns of the output or its gradient.
        warps, stages: Triton's launch parameters.
    """

    images: int
    rows: int
    columns: int
    warps: int = 4
    stages: int = 3


def warn_once(reason: str) -> None:
    """Warn once why PyTorch's convolution runs instead."""
    if reason not in warned:
        warned.add(reason)
        warnings.warn(f"large depthwise convolutions fall back to PyTorch's: {reason}", stacklevel=3)


def or_native(
    x: Tensor, kernel: tuple[int, int], run: Callable[[], Tensor], native: Callable[[], Tensor]
) -> Tensor:
    """The result of `run`; if Triton fails, a warning and PyTorch's from now on for this configuration."""
    try:
        with torch.cuda.device_of(x):
            return run()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers fail in many ways; all are handled alike
        failed.add((tuple(x.shape), kernel, x.dtype))
        warn_once(f"Triton failed on {tuple(x.shape)} {x.dtype}: {type(error).__name__}: {error}")
        return native()


def takes(shape: Sequence[int], kernel: tuple[int, int], dtype: torch.dtype) -> bool:
    """Whether this module supports an (N, C, H, W) input, (kh, kw) kernel and dtype on a CUDA device."""
    if max(kernel) < SMALLEST_KERNEL or dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    if min(shape) == 0 or max(shape[2:]) > LARGEST_SIDE or torch.version.hip is not None:
        return False
    if MISSING:
        warn_once(MISSING)
        return False
    if (tuple(shape), kernel, dtype) in failed:
        return False
    if torch.cuda.get_device_capability() < (8, 0):
        warn_once("the device is older than compute capability 8.0")
        return False
    return True


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, C, H, W) * (C, 1, kh, kw) → (N, C, H, W), NCHW; by PyTorch if Triton fails."""
    kh, kw = weight.shape[2:]

    def run() -> Tensor:
        if kh > kw:
            return banded_product(x.mT.contiguous(), weight.mT.contiguous(), bias).mT.contiguous()
        return banded_product(x.contiguous(), weight.contiguous(), bias)

    return or_native(x, (kh, kw), run, lambda: native_convolution(x, weight, bias))


def weight_grad(x: Tensor, grad: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Gradient (C, 1, kh, kw) of the kernel from input and output gradient; by PyTorch if Triton fails."""

    def run() -> Tensor:
        if kernel[0] > kernel[1]:
            return tap_sums(x.mT.contiguous(), grad.mT.contiguous(), (kernel[1], kernel[0])).mT
        return tap_sums(x.contiguous(), grad.contiguous(), kernel)

    return or_native(x, kernel, run, lambda: native_weight_gradient(x, grad, kernel))


def window(kw: int, columns: int) -> tuple[int, int]:
    """Left margin and width of the input columns that `columns` outputs read, both multiples of 16."""
    margin = -(-(kw // 2) // ALIGN) * ALIGN
    return margin, -(-(columns + kw - 1 + margin - kw // 2) // ALIGN) * ALIGN


def precision(dtype: torch.dtype) -> str:
    """tf32 for float32 if torch.set_float32_matmul_precision allows it, otherwise exact products."""
    if dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest":
        return "ieee"
    return "tf32"


def forward_tiles(images: int, width: int) -> list[Tile]:
    """The tiles to choose from; the first is used where timing is impossible."""
    columns = 16 if width <= 16 else 32
    rows = 128 // columns
    if images >= MANY_IMAGES:
        return [
            Tile(64, rows, columns),
            Tile(64, rows, columns, 4, 4),
            Tile(128, rows, columns, 8),
            Tile(64, 2 * rows, columns, 8),
        ]
    if images >= 4:
        return [Tile(4, 16, columns), Tile(8, 16, columns), Tile(4, 32, columns, 8)]
    return [Tile(1, 64, columns), Tile(1, 128, columns, 8), Tile(1, 64, columns, 4, 4)]


def grad_tiles(images: int, width: int) -> list[Tile]:
    """The weight-gradient tiles to choose from; the first is used where timing is impossible."""
    columns = 16 if width <= 16 else 32
    step = max(16, min(64, triton.next_power_of_2(images)))
    return [Tile(step, 4, columns), Tile(16, 4, columns), Tile(step, 4, columns, 8)]


def choose(key: tuple[Any, ...], tiles: Sequence[Any], run: Callable[[Any], Tensor]) -> Tensor:
    """Run with the fastest tile for this configuration, timing all of them the first time."""
    if key not in tuned:
        if INTERPRETED or torch.cuda.is_current_stream_capturing():
            return run(tiles[0])
        tuned[key] = fastest(tiles, run)
    return run(tuned[key])


def fastest(tiles: Sequence[Any], run: Callable[[Any], Tensor]) -> Any:
    """The tile of the shortest median time; tiles that do not compile or fit are skipped."""
    times, failure = {}, None
    for tile in tiles:
        try:
            times[tile] = triton.testing.do_bench(lambda tile=tile: run(tile), 5, 20, return_mode="median")
        except Exception as error:  # out of registers or shared memory; the next tile may fit
            failure = error
    if not times:
        assert failure is not None
        raise failure
    return min(times, key=times.__getitem__)


def banded_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Forward of contiguous tensors on the tensor cores."""
    samples, width = x.shape[0], x.shape[3]
    key = ("forward", x.device.index, tuple(x.shape), tuple(weight.shape), x.dtype, precision(x.dtype))
    return choose(key, forward_tiles(samples, width), lambda tile: launch_forward(x, weight, bias, tile))


def launch_forward(x: Tensor, weight: Tensor, bias: Tensor | None, tile: Tile) -> Tensor:
    """Expand the Toeplitz blocks, then run the kernel for this batch size."""
    samples, channels, height, width = x.shape
    kh, kw = weight.shape[2:]
    many = samples >= MANY_IMAGES
    margin, wide = window(kw, tile.columns)
    # for several output rows at once, blocks of zeros surround the kernel
    border = tile.rows - 1 if many else 0
    bands = torch.empty(channels, kh + 2 * border, wide, tile.columns, dtype=x.dtype, device=x.device)
    kernels.expand[(channels, kh + 2 * border)](
        weight, bands, margin - kw // 2, border, kh, kw, wide, triton.next_power_of_2(wide), tile.columns
    )
    out = torch.empty_like(x)
    programs = (
        triton.cdiv(width, tile.columns)
        * triton.cdiv(height, tile.rows)
        * triton.cdiv(samples, tile.images)
        * channels
    )
    kernel = kernels.forward_images if many else kernels.forward_rows
    kernel[(programs,)](
        x,
        bands,
        x if bias is None else bias,
        out,
        samples,
        channels,
        H=height,
        W=width,
        KH=kh,
        MARGIN=margin,
        WIDE=wide,
        IMAGES=tile.images,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=DEPTH,
        HAS_BIAS=bias is not None,
        PRECISION=precision(x.dtype),
        UPCAST=INTERPRETED and x.dtype == torch.bfloat16,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


def tap_sums(x: Tensor, grad: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Weight gradient of contiguous tensors on the tensor cores."""
    samples, _, _, width = x.shape
    key = ("weight gradient", x.device.index, tuple(x.shape), kernel, x.dtype, precision(x.dtype))
    return choose(key, grad_tiles(samples, width), lambda tile: launch_weight_grad(x, grad, kernel, tile))


def launch_weight_grad(x: Tensor, grad: Tensor, kernel: tuple[int, int], tile: Tile) -> Tensor:
    """One partial sum per strip of output columns, summed afterwards in a fixed order."""
    samples, channels, height, width = x.shape
    kh, kw = kernel
    margin, wide = window(kw, tile.columns)
    strips = triton.cdiv(width, tile.columns)
    partial = torch.empty(strips, channels, kh, kw, dtype=torch.float32, device=x.device)
    kernels.weight_grad[(strips * triton.cdiv(kh, tile.rows) * channels,)](
        x,
        grad,
        partial,
        samples,
        channels,
        H=height,
        W=width,
        KH=kh,
        KW=kw,
        MARGIN=margin,
        WIDE=triton.next_power_of_2(wide),
        TAPS=tile.rows,
        COLUMNS=tile.columns,
        IMAGES=tile.images,
        KW_POW2=triton.next_power_of_2(kw),
        PRECISION=precision(x.dtype),
        UPCAST=INTERPRETED and x.dtype == torch.bfloat16,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return partial.sum(0).to(x.dtype).unsqueeze(1)
