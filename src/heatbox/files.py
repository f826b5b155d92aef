"""Files that are either there whole or not at all, and names for them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from heatbox.errors import InputError

_log = logging.getLogger(__name__)


@contextmanager
def named_when_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside a file's own, to be written to; it becomes the file when all went well.

    Raises:
        OSError: it could not be renamed. Whatever is raised, the old content is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
        _log.info("wrote %s, %d bytes", path, path.stat().st_size)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which gets its name when it is whole and on the disk.

    Raises:
        InputError: the disk is full or the folder cannot be written to; the old content is still there.
    """
    try:
        with named_when_whole(path) as temporary, temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error})") from error


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a file so that its name only ever shows the old or the complete new content.

    Raises:
        InputError: the disk is full or the folder cannot be written to; the old content is still there.
    """
    with written_atomically(path) as file:
        file.write(content)
    return path


def made_folder(folder: Path) -> Path:
    """The folder, made with those above it where it is not there yet.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: could not be made ({error.strerror})") from error
    return folder


def folder_name(words: str) -> str:
    """A folder name made of words that may hold slashes and the like."""
    return re.sub(r"[^\w.-]+", "-", Path(words).name if "/" not in words else words).strip("-.") or "run"
