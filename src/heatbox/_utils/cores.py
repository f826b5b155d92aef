"""How many threads work beside each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from heatbox._utils.progress import Track, silent
from heatbox.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
_BATCH = 128


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


def map_in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int | None = None,
    track: Track = silent,
    what: str = "",
) -> Iterator[Result]:
    """Results of a function for each item, in order, computed in threads.

    Args:
        function: called once per item, from several threads.
        items: processed in batches, so that few results wait to be consumed.
        jobs: number of threads, by default one per core.
        track: shows progress.
        what: description of the work, for `track`.
    """
    batches = range(0, len(items), _BATCH)
    with ThreadPoolExecutor(number_of_jobs(jobs)) as pool:
        for start in track(batches, what, len(batches)):
            yield from pool.map(function, items[start : start + _BATCH])
