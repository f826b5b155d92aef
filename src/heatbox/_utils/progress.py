"""Progress: a small protocol that library functions call, and its bar or log lines on a terminal."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from heatbox._utils import processes

Item = TypeVar("Item")
What = str | Callable[[], str]

SECONDS_PER_LINE = 60.0
"""Seconds between progress lines where standard error is not a terminal."""

_log = logging.getLogger(__name__)


class Track(Protocol):
    """Wraps an iterable and shows its progress."""

    def __call__(self, items: Iterable[Item], what: What, total: int | None = None) -> Iterable[Item]:
        """Yield the items.

        Args:
            items: the items to process.
            what: description, shown beside the bar; a function is called again after each item.
            total: number of items, where the iterable has no length.
        """
        ...


def printable(text: str) -> str:
    """Text for a terminal: control characters, as file names may contain, become replacement characters."""
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def silent(items: Iterable[Item], what: What, total: int | None = None) -> Iterable[Item]:
    """Show nothing: the default of library functions."""
    return items


def as_callback(track: Track, what: str, total: int) -> Callable[[int], None]:
    """A callback that takes the number of items done so far and shows it by a `Track`."""
    steps = iter(track(range(total), what, total))
    shown = 0

    def done(count: int) -> None:
        nonlocal shown
        while shown < count and next(steps, None) is not None:
            shown += 1
        if shown >= total:
            next(steps, None)  # lets the bar end

    return done


def on_terminal(items: Iterable[Item], what: What, total: int | None = None) -> Iterator[Item]:
    """A progress bar with speed and remaining time on standard error.

    Where standard error is not a terminal, or one that cannot move its cursor, it prints a line at the start
    and then one per minute, so that a log file stays short.
    """

    def description() -> str:
        return printable(what() if callable(what) else what)

    if not processes.is_first():
        yield from items
        return
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    live = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    begin = time.monotonic()
    yield from (_as_bar if live else _as_lines)(items, description, total)
    _log.info("%s: done in %.1f s", description(), time.monotonic() - begin)


def _as_bar(items: Iterable[Item], description: Callable[[], str], total: int | None) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description(), total=total)
        for item in items:
            yield item
            progress.update(task, advance=1, description=description())


def _as_lines(items: Iterable[Item], description: Callable[[], str], total: int | None) -> Iterator[Item]:
    begin = last = time.monotonic()
    _print_line(f"{description()} ({total} to do)" if total is not None else description())
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_PER_LINE:
            last = now
            remaining = (
                f" of {total}, about {duration((now - begin) / done * (total - done))} left" if total else ""
            )
            _print_line(f"{description()}: {done}{remaining}")


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as ``12 min`` or ``3 h 5 min``; at least 1 min."""
    minutes = max(round(seconds / 60), 1)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
