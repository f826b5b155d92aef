"""Quick steps for the tests of a plan: what they do is seen in files, so that worker processes can do it."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

from heatbox.errors import InputError
from heatbox.paper.steps import Cost, Step


def write(path: Path, words: str = "", *, report, overwrite):
    """Add a line to a file: how often, in what order and with which words it was called can be read off."""
    report(f"writing {words}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if overwrite:
        words += " again"
    with path.open("a") as file:
        file.write(f"{words}\n")


def refuse(path: Path, *, report, overwrite):
    raise InputError("the disk of this test is full")


def break_down(path: Path, *, report, overwrite):
    raise RuntimeError("a bug\nof two lines")


def die(path: Path, *, report, overwrite):
    os.kill(os.getpid(), signal.SIGKILL)


def nothing(path: Path, *, report, overwrite):
    """Promise a file and write none."""


def save_when_ended(path: Path, *, report, overwrite):
    """Work for a minute, and save when asked to end."""
    path.with_suffix(".pid").write_text(str(os.getpid()))
    report("under way")
    try:
        time.sleep(60)
    finally:
        path.with_suffix(".saved").write_text("kept")


def meet(own: Path, other: Path, *, report, overwrite):
    """Wait until another step is under way: that needs two processes."""
    own.write_text("here")
    for _ in range(600):
        if other.exists():
            return
        time.sleep(0.05)
    raise InputError("nobody came")


def step(name, folder, work=write, *words, outputs=None, seconds=None, **more):
    """A step that writes NAME.txt."""
    path = folder / f"{name}.txt"
    return Step(
        name,
        f"do {name}",
        partial(work, path, *words),
        outputs=(path,) if outputs is None else outputs,
        cost=Cost(seconds, "guessed for a test"),
        **more,
    )
