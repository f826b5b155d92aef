"""Atomic writes, JSON, and names of files and folders."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from heatbox.errors import InputError

_log = logging.getLogger(__name__)

LONGEST = 220
"""Bytes of a file name that leave room for what a temporary name adds; file systems allow 255."""

_tidied: set[Path] = set()


def temporary_beside(path: Path) -> Path:
    """The name under which a file is written before it gets its own.

    The first time that a process writes into a folder, what killed processes of this machine left there is
    removed; names under which others are still writing stay.
    """
    if path.parent not in _tidied:
        _tidied.add(path.parent)  # once: folders of many files are slow to list
        _remove_leftovers(path.parent)
    name = path.name if len(os.fsencode(path.name)) < LONGEST else f"{zlib.crc32(os.fsencode(path.name)):08x}"
    return path.parent / f".{name}.{_machine()}-{os.getpid()}.tmp"


def _remove_leftovers(folder: Path) -> None:
    for left in folder.glob(f".*.{_machine()}-*.tmp"):
        process = left.name.removesuffix(".tmp").rpartition("-")[2]
        if process.isdecimal() and not _is_running(int(process)):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


@cache
def _machine() -> str:
    """A name of this machine or container: process ids are only comparable within one."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # not Linux
        space = 0
    return f"{zlib.crc32(f'{platform.node()} {space}'.encode()):08x}"


def _is_running(process: int) -> bool:
    """Whether a process has this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's, or no number of a process
        pass
    return True


def holds_only(folder: Path, *names: str) -> bool:
    """Whether a folder contains only some names and temporary files, as a run that was killed early does."""
    return all(
        entry.name in names or (entry.name.startswith(".") and entry.name.endswith(".tmp"))
        for entry in folder.iterdir()
    )


@contextmanager
def named_when_whole(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of a file, to be written to; it is renamed to the file on success.

    Raises:
        OSError: it could not be renamed. Whatever is raised, the old content is still there.
    """
    temporary = temporary_beside(path)
    try:
        yield temporary
        temporary.replace(path)
        _log.info("wrote %s, %d bytes", path, path.stat().st_size)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which gets its name when it is complete and on the disk.

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
    """Write a file so that its name always refers to the old or to the complete new content.

    Raises:
        InputError: the disk is full or the folder cannot be written to; the old content is still there.
    """
    with written_atomically(path) as file:
        file.write(content)
    return path


@contextmanager
def folder_when_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder to write into; on success its files come to stand in the folder.

    A folder that does not exist yet appears complete, by one renaming. In one that exists, files of the same
    names are replaced and all others stay.

    Raises:
        InputError: a file cannot be written or moved. Whatever is raised, no file is left incomplete.
    """
    folder = folder.resolve()
    made_folder(folder.parent)
    exists = folder.exists()
    temporary = temporary_beside(folder / folder.name if exists else folder)  # on the same file system
    try:
        try:
            temporary.mkdir()
            yield temporary
            if not exists:
                temporary.replace(folder)
            else:
                for file in sorted(path for path in temporary.rglob("*") if not path.is_dir()):
                    target = folder / file.relative_to(temporary)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    file.replace(target)
        except OSError as error:
            raise InputError(f"{folder}: could not be written ({error})") from error
        _log.info("wrote %s", folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def cache_folder() -> Path:
    """The folder for files that can be made again; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heatbox"


def folder_name(words: str) -> str:
    """A folder name made of words that may contain slashes and similar characters."""
    return re.sub(r"[^\w.-]+", "-", Path(words).name if "/" not in words else words).strip("-.") or "run"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: it cannot be read, or contains something else.
    """
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: contains a {type(content).__name__}, expected a JSON object")
    return content


def to_json(content: object) -> str:
    """JSON text of dictionaries, dataclasses, arrays and paths; NaN and infinity become null."""
    return json.dumps(_plain(content), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    """A value in JSON's types: dataclasses become dictionaries, arrays lists, NaN and infinity null."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # an array or a number of NumPy, which need not be imported here
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
