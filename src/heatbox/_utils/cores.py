"""How many threads work beside each other."""

from __future__ import annotations

import os

from heatbox.errors import InputError


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def number_of_jobs(asked: int | None) -> int:
    """As many as were asked for, or one for each core.

    Raises:
        InputError: less than one was asked for.
    """
    if asked is not None and asked < 1:
        raise InputError(f"jobs is {asked}, expected 1 or more")
    return asked or available_cores()
