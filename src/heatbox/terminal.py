"""What commands say to the person at the terminal, and the codes they exit with."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import tyro

from heatbox.progress import printable

if TYPE_CHECKING:
    from rich.table import Table

SOME_FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130
AsJson = Annotated[bool, tyro.conf.arg(name="json")]


def say(words: str) -> None:
    """One line to the person at the terminal, apart from what a program reads."""
    print(printable(words), file=sys.stderr)


def print_table(table: Table) -> None:
    """A table on standard output, at full width where that is no terminal."""
    from rich.console import Console

    console = Console()
    # A pipe has no width of its own; 80 columns would cut the numbers off.
    (console if console.is_terminal else Console(width=200)).print(table)
