"""How long work tells that it goes on: one small protocol, so that libraries need not know a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
What = str | Callable[[], str]


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

    Where standard error is not a terminal, one line at the start and one at the end.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    def words() -> str:
        return printable(what() if callable(what) else what)

    console = Console(stderr=True)
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if not console.is_terminal:
        line = f"{words()} ({total} to do)" if total is not None else words()
        console.print(line, highlight=False, markup=False)  # names may hold square brackets
        yield from items
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(words(), total=total)
        for item in items:
            yield item
            progress.update(task, advance=1, description=words())
