"""Output of the commands: messages, tables, JSON, the log of -v, exit codes."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from heatbox._utils import processes
from heatbox._utils.progress import printable
from heatbox.errors import AssumptionWarning

if TYPE_CHECKING:
    from rich.table import Table

    from heatbox.data.write import Written

SOME_FAILED, INTERRUPTED = 1, 130
AsJson = Annotated[bool, tyro.conf.arg(name="json")]
PIPE_WIDTH = 200
"""Width of a table that is written to a file or a pipe."""

MOST_PROBLEMS = 20
NARROWEST_COLUMN = 9
"""Width that a column of a table needs: six characters and its borders."""

_log = logging.getLogger(__name__)


def say(text: str) -> None:
    """Print one line to standard error, apart from the results on standard output."""
    if processes.is_first():
        print(printable(text), file=sys.stderr)


def print_json(content: object) -> None:
    """Print results as JSON to standard output."""
    from heatbox._utils.io import to_json

    print(to_json(content))


def print_table(table: Table) -> None:
    """Print a table to standard output, at full width where that is not a terminal.

    Nothing is cut off in a narrow terminal: cells are wrapped, and where even that leaves a column too
    narrow, each row becomes lines of heading and value.
    """
    from rich.console import Console
    from rich.measure import Measurement

    # rich exits when a pipe is closed, so it writes to a string that is printed here.
    text = StringIO()
    console = Console() if sys.stdout.isatty() else Console(file=text, width=PIPE_WIDTH)
    wanted = Measurement.get(console, console.options.update(max_width=10 * PIPE_WIDTH), table)
    if wanted.minimum > console.width:
        for column in table.columns:
            column.overflow, column.no_wrap = "fold", False
        if console.width < len(table.columns) * NARROWEST_COLUMN:
            return _print_rows(table)
    console.print(table)
    print(text.getvalue(), end="")


def _print_rows(table: Table) -> None:
    """Print the cells of a table one below the other, for the terminal to wrap."""
    if table.title:
        print(table.title)
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    for row in zip(*cells, strict=True):
        print()
        for column, cell in zip(table.columns, row, strict=True):
            if cell:
                print(f"{column.header}: {cell}")
    if table.caption:
        print(f"\n{table.caption}")


def show_scores(metrics: dict[str, Any], title: str, as_json: bool, breakdown: bool = False) -> None:
    """Print what metrics.json contains, as tables with the differences between maps below them, or as JSON.

    Args:
        metrics: the content.
        title: of the table.
        as_json: print JSON.
        breakdown: print the table of groups of images too.
    """
    if as_json:
        print_json(metrics)
    else:
        from heatbox.visualization.tables import difference_lines, terminal_score_tables

        for table in terminal_score_tables(metrics, title, breakdown):
            print_table(table)
        for line in difference_lines(metrics):
            print(printable(line))
    for sentence in metrics.get("warnings", ()):
        say(f"note: {sentence}")


def say_written(written: Written) -> int:
    """Print what became of a data set that was written; the exit code is 1 if images were left out."""
    for note in written.notes:
        say(f"note: {note}")
    for problem in written.problems[:MOST_PROBLEMS]:
        say(f"left out: {problem}")
    if len(written.problems) > MOST_PROBLEMS:
        say(f"... and {len(written.problems) - MOST_PROBLEMS} more")
    say(f"{written.images} images: {written.path}")
    return SOME_FAILED if written.problems else 0


def warn_of_random_weights(model: str, checkpoint: str | None) -> None:
    """Print a note where a model by name was given no weights."""
    if model.startswith("hf:"):  # built with its own weights, or refused
        return
    if checkpoint is None and ".py:" not in model:
        say(f"note: {model} has random weights; --checkpoint takes a file, or pretrained")


@contextmanager
def notes_of_warnings() -> Iterator[None]:
    """Print each `AssumptionWarning` as one note, however often it is issued."""
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", AssumptionWarning)
        show_others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, AssumptionWarning):
                show_others(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                say(f"note: {message}")

        warnings.showwarning = show
        yield


# ------------------------------------------------------------------------------------------- the log of -v


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the current `sys.stderr`, which a progress bar replaces."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(name)s: %(message)s", "%H:%M:%S"))

    @property
    def stream(self) -> object:  # type: ignore[override]
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextmanager
def logged(verbose: bool, command: str) -> Iterator[None]:
    """Show the log of heatbox on standard error while a command runs.

    Args:
        verbose: whether to show it.
        command: the command, for the first line.
    """
    if not verbose:
        yield
        return
    root, handler = logging.getLogger("heatbox"), _Stderr()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    begin = time.perf_counter()
    try:
        _log.info("%s", command)
        _log.info("%s", _environment())
        yield
    finally:
        _log.info("ended after %.1f s", time.perf_counter() - begin)
        root.removeHandler(handler)
        root.setLevel(level)


def _environment() -> str:
    from heatbox.evaluation.run import environment

    found = environment()
    packages = ", ".join(f"{name} {number or 'absent'}" for name, number in found["packages"].items())
    return f"Python {found['python']} on {found['platform']}, {found['processors']} processors; {packages}"
