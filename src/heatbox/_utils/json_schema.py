"""Validation of JSON: the form of a value, and messages that name the key at which it has another."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from heatbox.errors import InputError


@dataclass(frozen=True)
class Kind:
    """A kind of JSON value: its words in messages, and whether a value is one."""

    words: str
    holds: Callable[[Any], bool]


Form = Any
"""What a value has to be: a `Kind`, ``[form]`` for a list of any length, ``(form, form)`` for one of this
length, a dictionary of forms by key (a key ending in "?" may be missing), or ``{...: form}`` for any keys."""


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def one_of(*values: Any) -> Kind:
    """One of some values."""
    return Kind(" or ".join(sorted(map(repr, values))), lambda value: value in values)


def or_null(kind: Kind) -> Kind:
    """A kind of value, or null."""
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.holds(value))


TEXT = Kind("a str", lambda value: isinstance(value, str))
FINITE = Kind("a number", lambda value: _is(value, (int, float)) and abs(value) < 1e300)
NUMBER = Kind("a number", lambda value: value is None or FINITE.holds(value))
"""null is a number that is not finite; it becomes NaN."""
FRACTION = Kind("a number from 0 to 1", lambda value: FINITE.holds(value) and 0 <= value <= 1)
COUNT = Kind("an integer above 0", lambda value: _is(value, int) and 0 < value <= 10**9)
GRID = Kind("an integer from 1 to a million", lambda value: _is(value, int) and 0 < value <= 10**6)


def checked(value: Any, form: Form, where: str, key: str = "") -> Any:
    """A value of JSON that has the form; numbers that are null become NaN.

    Raises:
        InputError: naming the key at which it has another.
    """

    def require(right: bool, words: str) -> None:
        if not right:
            raise InputError(f"{where}: {key!r} is not {words}")

    if isinstance(form, Kind):
        require(form.holds(value), form.words)
        return math.nan if value is None and form is NUMBER else value
    if isinstance(form, dict):
        require(isinstance(value, dict), "names and their values")
        forms = dict.fromkeys(value, form[...]) if ... in form else form
        found = dict(value)
        for name, each in forms.items():
            bare, path = name, f"{key}/{name}".lstrip("/")
            if ... not in form:
                bare, path = name.removesuffix("?"), path.removesuffix("?")
            if bare in value:
                found[bare] = checked(value[bare], each, where, path)
            elif bare == name:
                raise InputError(f"{where}: has no {path!r}")
        return found
    require(isinstance(value, list), "a list")
    if isinstance(form, tuple):
        require(len(value) == len(form), f"a list of {len(form)}")
    each = form if isinstance(form, tuple) else form * len(value)
    return [checked(one, f, where, f"{key}[{i}]") for i, (one, f) in enumerate(zip(value, each, strict=True))]
