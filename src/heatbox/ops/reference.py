"""PyTorch's own depthwise convolution: the fallback, and the reference of HEATBOX_CHECK_OPS.

With HEATBOX_CHECK_OPS=1 the first call of every new configuration is compared with PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

# Largest accepted error, relative to the largest value of the result.
TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.bfloat16: 3e-2,
    torch.float16: 4e-3,
}

checked: set[tuple[Any, ...]] = set()


def native_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """PyTorch's convolution with the arguments of the operator."""
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return F.conv2d(x, weight, bias, padding=padding, groups=weight.shape[0])


def native_weight_gradient(x: Tensor, grad: Tensor, kernel: tuple[int, int]) -> Tensor:
    """PyTorch's weight gradient with the arguments of the operator."""
    channels, padding = x.shape[1], (kernel[0] // 2, kernel[1] // 2)
    return conv2d_weight(x, (channels, 1, *kernel), grad, padding=padding, groups=channels)


def precise(x: Any) -> Any:
    """`x` in the dtype of the reference: float64 on a GPU, where float32 may be rounded to TF32."""
    if x is None:
        return None
    return x.double() if x.device.type == "cuda" else x.float()


def tolerance(x: Tensor) -> float:
    """Accepted relative error; for float32 with TF32 that of float16, which has as many digits."""
    tf32 = x.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return TOLERANCE[torch.float16 if tf32 and x.dtype == torch.float32 else x.dtype]


def check(
    what: str, x: Tensor, kernel: tuple[int, int], out: Tensor, reference: Callable[[], Tensor]
) -> None:
    """With HEATBOX_CHECK_OPS=1, compare `out` with PyTorch's result, once per configuration.

    Raises:
        RuntimeError: they differ by more than `TOLERANCE` of the largest value.
    """
    if os.environ.get("HEATBOX_CHECK_OPS", "") in ("", "0"):
        return
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
