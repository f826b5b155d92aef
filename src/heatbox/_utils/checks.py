"""What public functions say to arguments of a wrong kind: what came, and what was expected."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from heatbox.errors import InputError


def kind_of(value: Any) -> str:
    """What a value is, for a sentence: its type, and the shape of an array."""
    name = "None" if value is None else f"a {type(value).__module__}.{type(value).__qualname__}"
    name = name.replace("a builtins.", "a ").replace("a torch.Tensor", "a tensor")
    shape = getattr(value, "shape", None)
    return name if shape is None else f"{name} of shape {tuple(shape)}"


def check_tensor(value: Any, name: str, shape: str) -> None:
    """Raise a TypeError where a value is no tensor of real numbers; `shape` is told as expected."""
    from torch import Tensor

    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: {kind_of(value)}, expected a torch.Tensor {shape}")
    if value.is_complex():
        raise TypeError(f"{name}: a tensor of {value.dtype}, expected real numbers {shape}")


def check_module(value: Any, name: str) -> None:
    """Raise a TypeError where a value is no network."""
    from torch import nn

    if not isinstance(value, nn.Module):
        raise TypeError(f"{name}: {kind_of(value)}, expected a torch.nn.Module")


def check_whole(value: Any, name: str, least: int | None = 1) -> None:
    """Raise where a value is no whole number (TypeError), or below `least`, if given (InputError)."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name}: {kind_of(value)}, expected a whole number")
    if least is not None and value < least:
        raise InputError(f"{name} is {value}, expected {least} or more")


def check_number(value: Any, name: str, expected: str = "a number") -> None:
    """Raise where a value is no real number (TypeError), or NaN (InputError)."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: {kind_of(value)}, expected {expected}")
    if math.isnan(value):
        raise InputError(f"{name} is NaN, expected {expected}")


def check_choice(value: Any, name: str, choices: Sequence[Any]) -> None:
    """Raise an InputError where a value is none of the choices."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        words = [repr(choice) for choice in choices]
        raise InputError(f"{name} is {value!r}, expected {', '.join(words[:-1])} or {words[-1]}")


def check_length(value: Any, name: str, expected: str) -> None:
    """Raise a TypeError where a value has no length: an iterator, None, a number; text has none either."""
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or getattr(value, "ndim", 1) == 0:
        raise TypeError(f"{name}: {kind_of(value)}, expected {expected}")


def as_numbers(value: Any, name: str, expected: str) -> np.ndarray:
    """(...,) float64 array of numbers, or of an array or tensor of them; TypeError where it is none."""
    try:
        array = as_array(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(array.dtype)
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: {kind_of(value)}, expected {expected}") from None


def as_array(value: Any) -> np.ndarray:
    """An array of an array or of a tensor on any device (bfloat16 becomes float32)."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    return np.asarray(value)
