"""Replace the depthwise convolutions of any model by the fast one, and restore them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from heatbox._utils.checks import check_module
from heatbox.ops.depthwise import SMALLEST_KERNEL, DepthwiseConv2d, why_not

# The RepLKNet authors' wrapper of an extension that needs a compiler; always 'same', whatever its `padding`.
OFFICIAL_NAME = "DepthWiseConv2dImplicitGEMM"
# Attribute of a replaced module: its original class.
FORMER = "_heatbox_former_class"


@dataclass(frozen=True)
class Acceleration:
    """Result of `accelerate`.

    Attributes:
        model: the model, changed in place.
        swapped: names of the convolutions now computed by `depthwise_conv2d`, with their kernel sizes.
        left: names of the other depthwise convolutions, with the reason why they are unchanged.
    """

    model: nn.Module
    swapped: dict[str, tuple[int, int]]
    left: dict[str, str]

    def restore(self) -> nn.Module:
        """Give the swapped convolutions their original class; returns the model."""
        for name in self.swapped:
            put_back(self.model.get_submodule(name))
        return self.model

    def __str__(self) -> str:
        lines = [
            f"depthwise convolutions: {len(self.swapped)} accelerated, {len(self.left)} left as they are"
        ]
        sizes = list(self.swapped.values())
        lines += [f"  {kh} x {kw}: {sizes.count((kh, kw))} accelerated" for kh, kw in dict.fromkeys(sizes)]
        lines += [f"  {name}: left, {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def accelerate(model: nn.Module, *, verbose: bool = True) -> Acceleration:
    """Compute every eligible depthwise convolution of a model by `depthwise_conv2d`; changes it in place.

    Eligible are `nn.Conv2d` modules with as many groups as channels, stride and dilation 1, 'same' padding
    with zeros and odd kernels of at least 5 rows or columns, and the RepLKNet authors'
    DepthWiseConv2dImplicitGEMM. Only the class of these modules changes: parameters, state_dict, hooks and
    optimizers are unaffected. A compiled model should be compiled again.

    Args:
        model: any module: a timm model, one of the official repositories, or your own.
        verbose: print which convolutions were swapped and which were not.

    Returns:
        A record whose `restore()` undoes the change; `restore(model)` does so without the record.

    Raises:
        TypeError: not an `nn.Module`.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(8, 8, 31, padding=15, groups=8), nn.Conv2d(8, 8, 3, groups=8))
        >>> record = accelerate(model)
        depthwise convolutions: 1 accelerated, 1 left as they are
          31 x 31: 1 accelerated
          1: left, PyTorch is fast for 3 x 3
    """
    check_module(model, "model")
    swapped: dict[str, tuple[int, int]] = {}
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d) or isinstance(module, DepthwiseConv2d):
            continue
        if not 1 < module.groups == module.in_channels:
            continue
        if reason := why_left(module):
            left[name] = reason
        else:
            swapped[name] = (module.kernel_size[0], module.kernel_size[1])
            setattr(module, FORMER, type(module))
            module.__class__ = DepthwiseConv2d
    record = Acceleration(model, swapped, left)
    if verbose:
        print(record)
    return record


def why_left(conv: nn.Conv2d) -> str:
    """Why a depthwise convolution is not swapped; empty if it is."""
    official = type(conv).__name__ == OFFICIAL_NAME
    if type(conv) is not nn.Conv2d and not official:
        return f"its class is {type(conv).__name__}"
    if max(conv.kernel_size) < SMALLEST_KERNEL:
        return f"PyTorch is fast for {conv.kernel_size[0]} x {conv.kernel_size[1]}"
    reason = why_not(conv)
    return "" if official and reason.startswith("padding (0, 0)") else reason


def restore(model: nn.Module) -> int:
    """Undo `accelerate` on a model; returns the number of restored convolutions."""
    return sum(put_back(module) for module in model.modules())


def put_back(module: nn.Module) -> bool:
    """Give one module its original class; False if it was not swapped."""
    former = module.__dict__.pop(FORMER, None)
    if former is None:
        return False
    module.__class__ = former
    return True
