"""Compile once, keep the machine code on disk where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable

from numba import njit


def compiled(function: Callable) -> Callable:
    """Compile a function at its first call, without the interpreter's lock.

    The code is kept beside the source, or in the user's cache folder where that is not writable, so that
    later processes start at once. Where neither can be written (a read-only container), numba refuses to
    cache; the function then compiles in each process.
    """
    try:
        return njit(function, cache=True, nogil=True)
    except RuntimeError:
        return njit(function, nogil=True)
