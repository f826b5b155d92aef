"""Files that are either there whole or not at all, and names for them."""

from __future__ import annotations

import glob
import os
import platform
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from heatbox.errors import InputError

LONGEST = 220
"""Bytes of a file name that leave room for what a temporary name adds; file systems allow 255."""


def temporary_beside(path: Path) -> Path:
    """The name under which a file is written before it gets its own.

    What killed processes of this machine left of earlier attempts at this file is removed; a name under which
    another process is still writing stays.
    """
    machine = f"{zlib.crc32(platform.node().encode()):08x}"  # process ids say nothing about another machine's
    name = path.name if len(os.fsencode(path.name)) < LONGEST else f"{zlib.crc32(os.fsencode(path.name)):08x}"
    beginning = f".{name}.{machine}-"
    for left in path.parent.glob(f"{glob.escape(beginning)}*.tmp"):
        process = left.name.removeprefix(beginning).removesuffix(".tmp")
        if process.isdecimal() and not _is_running(int(process)):
            left.unlink(missing_ok=True)
    return path.with_name(f"{beginning}{os.getpid()}.tmp")


def _is_running(process: int) -> bool:
    """Whether another process than this one has this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's; no number of a process
        return True
    return process != os.getpid()


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which gets its name when it is whole and on the disk.

    Raises:
        InputError: the disk is full or the folder cannot be written to; the old content is still there.
    """
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a file so that its name only ever shows the old or the complete new content.

    Raises:
        InputError: the disk is full or the folder cannot be written to; the old content is still there.
    """
    with written_atomically(path) as file:
        file.write(content)
    return path


def folder_name(words: str) -> str:
    """A folder name made of words that may hold slashes and the like."""
    return re.sub(r"[^\w.-]+", "-", Path(words).name if "/" not in words else words).strip("-.") or "run"
