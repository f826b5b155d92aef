"""Depthwise convolution with stride 1 and 'same' padding: a function, a module and a PyTorch operator.

The operator `heatbox::depthwise_conv2d` and its weight gradient are closed under differentiation: the
derivative of each consists of the two, so gradients of every order exist. On the CPU they run
`heatbox.ops.depthwise_cpu`, on CUDA devices `heatbox.ops.depthwise_triton`, and otherwise, or where PyTorch's
convolution is as fast, `heatbox.ops.reference`.

Set HEATBOX_CHECK_OPS=1 to compare the first call of every new configuration with PyTorch.
"""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.ops import depthwise_cpu, depthwise_triton
from heatbox.ops.depthwise_cpu import is_channels_last, memory_format
from heatbox.ops.reference import check, native_convolution, native_weight_gradient, precise

# Kernels whose longer side is below this are left to PyTorch: its 3 x 3 is fast, forward and backward.
SMALLEST_KERNEL = 5
OUR_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve every channel with its own kernel; the output is as large as the input.

    The same result as `F.conv2d(x, weight, bias, padding=(kh // 2, kw // 2), groups=C)`. Differentiable to
    any order; follows autocast; works under `torch.compile` and `torch.func.vmap`.

    Args:
        x: (N, C, H, W), NCHW or channels_last; the output has the same layout.
        weight: (C, 1, kh, kw) of the dtype of `x`; kh and kw odd.
        bias: (C,) or None.

    Raises:
        InputError: shapes or dtypes do not fit together.
    """
    if not torch.jit.is_tracing():  # type: ignore[no-untyped-call]
        validate(x, weight, bias)
    device = x.device.type
    if autocasts(device):
        x, weight, bias = autocast_cast(device, x, weight, bias)
    if runs_native(x, weight, bias):
        return native_convolution(x, weight, bias)
    return convolve(x, weight, bias)


def autocasts(device: str) -> bool:
    """Whether autocast is on for a type of device; the meta device has none."""
    return device != "meta" and torch.is_autocast_enabled(device)


def validate(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise InputError unless the arguments of `depthwise_conv2d` fit together."""
    if x.dim() != 4 or weight.dim() != 4:
        raise InputError(
            f"depthwise_conv2d: x and weight have shapes {tuple(x.shape)} and {tuple(weight.shape)}, "
            "expected (N, C, H, W) and (C, 1, kh, kw)."
        )
    channels, one, kh, kw = weight.shape
    if one != 1 or channels != x.shape[1] or kh % 2 == 0 or kw % 2 == 0:
        raise InputError(
            f"depthwise_conv2d: weight has shape {tuple(weight.shape)}, expected ({x.shape[1]}, 1, kh, kw) "
            "with odd kh and kw."
        )
    if bias is not None and bias.shape != (channels,):
        raise InputError(f"depthwise_conv2d: bias has shape {tuple(bias.shape)}, expected ({channels},).")
    if not autocasts(x.device.type) and (
        weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype)
    ):
        raise InputError(
            f"depthwise_conv2d: weight ({weight.dtype}) or bias is not of the dtype of x, expected {x.dtype}."
        )


def autocast_cast(device: str, *tensors: Tensor | None) -> list[Any]:
    """Floating tensors, except float64, in autocast's dtype for this device."""
    dtype = torch.get_autocast_dtype(device)
    return [
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    ]


def runs_native(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether PyTorch's convolution is called directly.

    It is where the operator is not faster, and in exports, which should contain the standard operator.
    Without gradients it is also called where only the backward of the operator is faster.
    """
    if is_exporting() or forward_ad._current_level >= 0:
        return True
    if torch.jit.is_tracing():  # type: ignore[no-untyped-call]
        return True
    if torch.is_grad_enabled() and torch._C._functorch.peek_interpreter_stack() is not None:
        return True  # custom operators have no rule for torch.func.grad
    device, (kh, kw) = x.device.type, weight.shape[2:]
    if device not in ("cpu", "cuda") or max(kh, kw) < SMALLEST_KERNEL or x.dtype not in OUR_DTYPES:
        return True
    if device == "cuda":
        return not depthwise_triton.takes(x.shape, (kh, kw), x.dtype)
    if depthwise_cpu.INSTRUCTION_SET not in depthwise_cpu.KERNELS:
        return True
    if needs_gradient(x, weight, bias):
        return False
    channels_last = x.stride(1) == 1 and x.shape[1] > 1
    return depthwise_cpu.forward_plan(x.shape, (kh, kw), x.dtype, channels_last).way == "native"


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd records an operation on these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def without_autocast(device: str) -> contextlib.AbstractContextManager[None]:
    """Disable autocast inside an operator, whose inputs are already cast."""
    if autocasts(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def compute_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Implementation of the operator behind `depthwise_conv2d`; the output has the layout of `x`."""
    kernel = (weight.shape[2], weight.shape[3])
    with without_autocast(x.device.type):
        if x.device.type == "cuda" and depthwise_triton.takes(x.shape, kernel, x.dtype):
            out = depthwise_triton.forward(x, weight, bias)
        elif x.device.type == "cpu":
            plan = depthwise_cpu.forward_plan(x.shape, kernel, x.dtype, is_channels_last(x))
            out = depthwise_cpu.forward(x, weight, bias, plan)
        else:
            out = native_convolution(x, weight, bias)
        check(
            "forward", x, kernel, out, lambda: native_convolution(precise(x), precise(weight), precise(bias))
        )
    return in_layout_of(x, out)


def compute_weight_gradient(x: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
    """Gradient (C, 1, kh, kw) of the weight, from input and output gradient (N, C, H, W)."""
    kernel = (kh, kw)
    with without_autocast(x.device.type):
        if x.device.type == "cuda" and depthwise_triton.takes(x.shape, kernel, x.dtype):
            out = depthwise_triton.weight_grad(x, grad, kernel)
        elif x.device.type == "cpu":
            plan = depthwise_cpu.weight_grad_plan(x.shape, kernel, x.dtype, is_channels_last(x))
            if plan.way == "native":
                out = native_weight_gradient(x, grad, kernel)
            else:
                out = depthwise_cpu.weight_grad(x, grad, kernel, plan)
        else:
            out = native_weight_gradient(x, grad, kernel)
        check(
            *("weight gradient", x, kernel, out),
            lambda: native_weight_gradient(precise(x), precise(grad), kernel),
        )
    return out.contiguous()


convolution = torch.library.custom_op(
    "heatbox::depthwise_conv2d",
    compute_convolution,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
)
weight_gradient = torch.library.custom_op(
    "heatbox::depthwise_conv2d_weight_grad",
    compute_weight_gradient,
    mutates_args=(),
    schema="(Tensor x, Tensor grad, int kh, int kw) -> Tensor",
)


def unobserved(*tensors: Tensor | None) -> bool:
    """Whether only the caller observes an operation: no autograd, compiler, transform, mode or subclass.

    The functions behind the operators are then called directly: the dispatcher takes as long as a small
    convolution.
    """
    return not (
        needs_gradient(*tensors)
        or torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
    ) and all(t is None or type(t) in (Tensor, nn.Parameter) for t in tensors)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The operator `convolution`, or its implementation if unobserved."""
    return (compute_convolution if unobserved(x, weight, bias) else convolution)(x, weight, bias)


def in_layout_of(x: Tensor, out: Tensor) -> Tensor:
    """`out` with exactly the strides of the fake implementation."""
    _, channels, height, width = x.shape
    plane = height * width
    if memory_format(x) == torch.channels_last:
        expected = (channels * plane, 1, width * channels, channels)
    else:
        expected = (channels * plane, plane, width, 1)
    if out.stride() == expected:
        return out
    return torch.empty_like(out, memory_format=memory_format(x)).copy_(out)


@convolution.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.empty_like(x, memory_format=memory_format(x))


@weight_gradient.register_fake
def _(x: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
    return x.new_empty(x.shape[1], 1, kh, kw)


def save_convolution(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    """Save the inputs of the gradients: the weight for that of x, x for that of the weight."""
    x, weight, _ = inputs
    ctx.kernel = (weight.shape[2], weight.shape[3])
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)


def convolution_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, weight and bias."""
    x, weight = ctx.saved_tensors
    need_x, need_weight, need_bias = ctx.needs_input_grad
    gradient = compute_weight_gradient if unobserved(x, grad) else weight_gradient
    return (
        convolve(grad, weight.flip(2, 3), None) if need_x else None,
        gradient(x, grad, *ctx.kernel) if need_weight else None,
        grad.sum((0, 2, 3)) if need_bias else None,
    )


def save_weight_gradient(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
    """Save both factors: the weight gradient is linear in each."""
    x, grad, _, _ = inputs
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, grad if ctx.needs_input_grad[0] else None)


def weight_gradient_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    """Gradients of x and of the output gradient; `grad` is a kernel (C, 1, kh, kw)."""
    x, output_grad = ctx.saved_tensors
    need_x, need_grad = ctx.needs_input_grad[:2]
    return (
        convolution(output_grad, grad.flip(2, 3), None) if need_x else None,
        convolution(x, grad, None) if need_grad else None,
        None,
        None,
    )


convolution.register_autograd(convolution_backward, setup_context=save_convolution)
weight_gradient.register_autograd(weight_gradient_backward, setup_context=save_weight_gradient)


def batched(x: Tensor, dim: int | None, size: int, to: int) -> Tensor:
    """`x` with its vmap dimension at `to`, expanded along it if it has none."""
    if dim is not None:
        return x.movedim(dim, to)
    return x.unsqueeze(to).expand(*x.shape[:to], size, *x.shape[to:])


@convolution.register_vmap
def _(
    info: Any,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, int]:
    size = info.batch_size
    if in_dims[1] is None and in_dims[2] is None:  # more samples
        x = batched(x, in_dims[0], size, 0)
        out = convolution(x.flatten(0, 1), weight, bias)
        return out.unflatten(0, (size, x.shape[1])), 0
    x = batched(x, in_dims[0], size, 1)  # more channels: (N, size, C, H, W)
    weight = batched(weight, in_dims[1], size, 0)
    if bias is not None:
        bias = batched(bias, in_dims[2], size, 0).flatten()
    out = convolution(x.flatten(1, 2), weight.flatten(0, 1), bias)
    return out.unflatten(1, (size, x.shape[2])), 1


@weight_gradient.register_vmap
def _(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, grad: Tensor, kh: int, kw: int
) -> tuple[Tensor, int]:
    size = info.batch_size
    x, grad = batched(x, in_dims[0], size, 1), batched(grad, in_dims[1], size, 1)
    out = weight_gradient(x.flatten(1, 2), grad.flatten(1, 2), kh, kw)
    return out.unflatten(0, (size, x.shape[2])), 0


def register_autocast(device: str) -> None:
    """Under autocast, cast the inputs of the operator to autocast's dtype for the device, as for F.conv2d."""

    def cast_and_call(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        arguments = autocast_cast(device, x, weight, bias)
        with torch.autocast(device, enabled=False):
            return convolution(*arguments)

    library.impl("depthwise_conv2d", cast_and_call, f"Autocast{device.upper()}")  # type: ignore[no-untyped-call]


library = torch.library.Library("heatbox", "FRAGMENT")  # type: ignore[no-untyped-call]
register_autocast("cpu")
register_autocast("cuda")


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` for the depthwise case, computed by `depthwise_conv2d`; same arguments and state_dict.

    Args:
        in_channels, out_channels: both the number of channels.
        kernel_size: odd, one integer or (kh, kw).
        stride, dilation: 1.
        padding: "same", or the equivalent kernel_size // 2.
        groups: the number of channels, which is also the default.
        bias, padding_mode, device, dtype: as for `nn.Conv2d`; only zero padding.

    Raises:
        InputError: the arguments describe another convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = "same",
        dilation: int | tuple[int, int] = 1,
        groups: int | None = None,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            in_channels if groups is None else groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        reason = why_not(self)
        if reason:
            raise InputError(f"DepthwiseConv2d: {reason}.")

    # What the latest call was like that PyTorch's convolution took without gradients: the same again needs no
    # plan. A large convolution evicts the interpreter from the cache, so that a plan costs a tenth of it.
    _native: tuple[Any, ...] | None = None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or autocasts(input.device.type):
            return self._planned(input, weight, bias)
        call = input.shape, input.stride(), input.dtype, input.device
        if call != self._native:
            self._native = None
            if input.dim() != 4 or not runs_native(input, weight, bias):
                return self._planned(input, weight, bias)
            self._native = call
        return native_convolution(input, weight, bias)

    def _planned(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.dim() == 3:  # without batch, as nn.Conv2d allows
            return depthwise_conv2d(input.unsqueeze(0), weight, bias).squeeze(0)
        if input.dim() == 4 and not autocasts(input.device.type) and runs_native(input, weight, bias):
            return native_convolution(input, weight, bias)  # without the checks of the function
        return depthwise_conv2d(input, weight, bias)


def why_not(conv: nn.Conv2d) -> str:
    """Why a convolution cannot be computed by `depthwise_conv2d`; empty if it can."""
    kh, kw = conv.kernel_size
    if not conv.groups == conv.in_channels == conv.out_channels:
        return (
            f"{conv.in_channels} to {conv.out_channels} channels in {conv.groups} groups, expected as many "
            "groups as channels in and out"
        )
    if conv.stride != (1, 1) or conv.dilation != (1, 1):
        return f"stride {conv.stride} and dilation {conv.dilation}, expected 1"
    if kh % 2 == 0 or kw % 2 == 0:
        return f"kernel of {kh} x {kw}, expected odd sides"
    if conv.padding != "same" and tuple(conv.padding) != (kh // 2, kw // 2):
        return f"padding {conv.padding}, expected {(kh // 2, kw // 2)}"
    if conv.padding_mode != "zeros":
        return f"padding mode {conv.padding_mode!r}, expected 'zeros'"
    return ""
