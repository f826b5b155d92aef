"""Limits within which one input has to end: time, memory, and the folder that may be written to."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MEMORY = 3 * 2**30  # bytes of address space above what the process has when it begins
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
_PATHS = {
    "os.rename": (0, 1), "os.remove": (0,), "os.mkdir": (0,), "os.rmdir": (0,), "os.link": (1,),
    "os.symlink": (1,), "os.truncate": (0,), "os.chmod": (0,), "shutil.rmtree": (0,), "os.utime": (0,),
}  # fmt: skip
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "socket.connect", "socket.getaddrinfo")
_MAY_START = (["git", "rev-parse"], ["uname", "-p"])  # which environment.json tells of
_allowed: list[str] = []


class Escape(BaseException):
    """Something was written outside the working folder, or started; no `except Exception` hides it.

    Attributes:
        path: what would have been written; "" for a program or a connection.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class Hang(BaseException):
    """An input took longer than it may."""


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _allowed:
        return
    if event == "open":
        path, _, flags = args
        if isinstance(path, str | bytes) and isinstance(flags, int) and flags & _WRITES:
            _check(event, path)
    elif event in _PATHS and (event == "os.truncate" or not _is_relative_to_a_folder(args)):
        for place in _PATHS[event]:
            if isinstance(args[place], str | bytes | os.PathLike):
                _check(event, args[place])
    elif event.startswith(_FORBIDDEN) or (
        event == "subprocess.Popen" and list(args[1])[:2] not in _MAY_START
    ):
        raise Escape(f"{event} {args!r:.200}")


def _is_relative_to_a_folder(args: tuple[Any, ...]) -> bool:
    """Whether names are relative to an open folder, as in `shutil.rmtree` below its argument."""
    return isinstance(args[-1], int) and args[-1] >= 0


def _check(event: str, path: Any) -> None:
    name = os.path.abspath(os.fsdecode(path))
    if "__pycache__" in name or "/matplotlib" in name:  # compiled code; the list of fonts
        return
    if not name.startswith((*_allowed, "/dev/null", "/proc/self/")):
        raise Escape(f"{event}: {name!r:.300}", name)


sys.addaudithook(_audit)


@contextmanager
def only_within(folder: str) -> Iterator[None]:
    """Python code that writes anywhere else, or starts a program, or connects, raises `Escape`."""
    _allowed.append(os.path.abspath(folder))
    try:
        yield
    finally:
        _allowed.pop()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Python code that computes for longer raises `Hang`; waiting for a busy machine does not count."""

    def ring(number: int, frame: Any) -> None:
        raise Hang(f"computed for longer than {seconds:g} s")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def limit_memory() -> None:
    """From now on this process may not have much more address space than it has."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
