"""Validation of arguments: errors that name the argument, what was passed and what was expected."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from heatbox.errors import InputError


def kind_of(value: Any) -> str:
    """Type of a value, and shape of an array, for error messages."""
    name = "None" if value is None else f"a {type(value).__module__}.{type(value).__qualname__}"
    name = name.replace("a builtins.", "a ").replace("a torch.Tensor", "a tensor")
    shape = getattr(value, "shape", None)
    return name if shape is None else f"{name} of shape {tuple(shape)}"


def check_tensor(value: Any, name: str, shape: str) -> None:
    """Raise a TypeError unless a value is a tensor of real numbers; `shape` describes the expected one."""
    from torch import Tensor

    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: {kind_of(value)}, expected a torch.Tensor {shape}")
    if value.is_complex():
        raise TypeError(f"{name}: a tensor of {value.dtype}, expected real numbers {shape}")


def check_module(value: Any, name: str) -> None:
    """Raise a TypeError unless a value is a `torch.nn.Module`."""
    from torch import nn

    if not isinstance(value, nn.Module):
        raise TypeError(f"{name}: {kind_of(value)}, expected a torch.nn.Module")


def check_integer(value: Any, name: str, least: int | None = 1) -> None:
    """Raise unless a value is an integer (TypeError) and, if given, at least `least` (InputError)."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name}: {kind_of(value)}, expected an integer")
    if least is not None and value < least:
        raise InputError(f"{name} is {value}, expected {least} or more")


def check_number(value: Any, name: str, expected: str = "a number") -> None:
    """Raise unless a value is a real number (TypeError) and not NaN (InputError)."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: {kind_of(value)}, expected {expected}")
    if math.isnan(value):
        raise InputError(f"{name} is NaN, expected {expected}")


def check_choice(value: Any, name: str, choices: Sequence[Any]) -> None:
    """Raise an InputError unless a value is one of the choices."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        words = [repr(choice) for choice in choices]
        raise InputError(f"{name} is {value!r}, expected {', '.join(words[:-1])} or {words[-1]}")


def check_length(value: Any, name: str, expected: str) -> None:
    """Raise a TypeError unless a value is a sized collection: not an iterator, None, a number, or text."""
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or getattr(value, "ndim", 1) == 0:
        raise TypeError(f"{name}: {kind_of(value)}, expected {expected}")


def as_numbers(value: Any, name: str, expected: str) -> np.ndarray:
    """Numbers, an array or a tensor as a float64 array of the same shape; TypeError for anything else."""
    try:
        array = as_array(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(array.dtype)
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: {kind_of(value)}, expected {expected}") from None


def as_array(value: Any) -> np.ndarray:
    """An array, or a tensor on any device, as an array; bfloat16 becomes float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    return np.asarray(value)
