"""Compilation by numba, with a cache on disk."""

from __future__ import annotations

from collections.abc import Callable

from numba import njit


def compiled(function: Callable) -> Callable:
    """Compile a function at its first call; it runs without the interpreter's lock.

    The machine code is cached beside the source, or in the user's cache folder if that is not writable, so
    that later processes start without compiling. If neither is writable (a read-only container), numba
    refuses to cache, and the function is compiled in each process.
    """
    try:
        return njit(function, cache=True, nogil=True)
    except RuntimeError:
        return njit(function, nogil=True)
