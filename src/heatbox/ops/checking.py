"""HEATBOX_CHECK_OPS=1: compare the first call of every new configuration with PyTorch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Largest error of the result over its largest value that the comparison with PyTorch accepts.
TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.bfloat16: 3e-2,
    torch.float16: 4e-3,
}

checked: set[tuple[Any, ...]] = set()


def checking() -> bool:
    """Whether results are to be compared with PyTorch."""
    return os.environ.get("HEATBOX_CHECK_OPS", "") not in ("", "0")


def precise(x: Any) -> Any:
    """`x`, if there is one, in the type of the reference: on a GPU one that no setting rounds to TF32."""
    if x is None:
        return None
    return x.double() if x.device.type == "cuda" else x.float()


def tolerance(x: Tensor) -> float:
    """What the result may be off by: that of float16 where TF32 is allowed, which has as many digits."""
    tf32 = x.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return TOLERANCE[torch.float16 if tf32 and x.dtype == torch.float32 else x.dtype]


def check(
    what: str, x: Tensor, kernel: tuple[int, int], out: Tensor, reference: Callable[[], Tensor]
) -> None:
    """Compare `out` with PyTorch's result, once for each configuration.

    Raises:
        RuntimeError: they differ by more than `TOLERANCE` of the largest value.
    """
    configuration = (what, x.device.type, x.dtype, tuple(x.shape), x.stride(), kernel)
    if configuration in checked or out.numel() == 0:
        return
    expected = reference().double()
    error = float((out.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    if not error <= tolerance(x) and bool(expected.isfinite().all()):
        raise RuntimeError(
            f"HEATBOX_CHECK_OPS: the {what} of a {kernel[0]} x {kernel[1]} depthwise convolution of "
            f"{tuple(x.shape)} {x.dtype} on {x.device} differs from PyTorch's by {error:.1e} of its largest "
            f"value, expected at most {tolerance(x):.0e}."
        )
    checked.add(configuration)
