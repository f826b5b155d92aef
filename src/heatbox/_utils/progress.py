"""How long work tells that it goes on: one small protocol, so that libraries need not know a terminal."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
What = str | Callable[[], str]

SECONDS_A_LINE = 60.0
"""How often work tells of itself where standard error is no terminal."""

_log = logging.getLogger(__name__)


class Track(Protocol):
    """Wraps an iterable and shows how far it has come."""

    def __call__(self, items: Iterable[Item], what: What, total: int | None = None) -> Iterable[Item]:
        """Yield the items.

        Args:
            items: what is worked through.
            what: shown beside the bar; a function is asked again after each item.
            total: number of items, where the iterable does not know it.
        """
        ...


def printable(words: str) -> str:
    """Words for a terminal: control characters, which file names may hold, become replacement signs."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else "\N{REPLACEMENT CHARACTER}" for sign in words
    )


def silent(items: Iterable[Item], what: What, total: int | None = None) -> Iterable[Item]:
    """Show nothing: what library functions do unless told otherwise."""
    return items


def as_callback(track: Track, what: str, total: int) -> Callable[[int], None]:
    """A function to be called with the number of items done so far, shown by a `Track`."""
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

    Where standard error is no terminal, or one that cannot move its cursor, a line at the start and then
    one a minute: a log file stays short and tells how far the work is.
    """

    def words() -> str:
        return printable(what() if callable(what) else what)

    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    live = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    begin = time.monotonic()
    yield from (_as_bar if live else _as_lines)(items, words, total)
    _log.info("%s: done in %.1f s", words(), time.monotonic() - begin)


def _as_bar(items: Iterable[Item], words: Callable[[], str], total: int | None) -> Iterator[Item]:
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
        task = progress.add_task(words(), total=total)
        for item in items:
            yield item
            progress.update(task, advance=1, description=words())


def _as_lines(items: Iterable[Item], words: Callable[[], str], total: int | None) -> Iterator[Item]:
    begin = last = time.monotonic()
    _say(f"{words()} ({total} to do)" if total is not None else words())
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_A_LINE:
            last = now
            known = (
                f" of {total}, about {duration((now - begin) / done * (total - done))} left" if total else ""
            )
            _say(f"{words()}: {done}{known}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """``12 min`` or ``3 h 5 min``; at least 1 min."""
    minutes = max(round(seconds / 60), 1)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
