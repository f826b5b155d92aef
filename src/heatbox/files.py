"""Files that are either there whole or not at all, and names for them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from heatbox.errors import InputError


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a file so that its name only ever shows the old or the complete new content.

    Raises:
        InputError: the disk is full or the folder cannot be written to; the old content is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: could not be written ({error})") from error
    return path


def folder_name(words: str) -> str:
    """A folder name made of words that may hold slashes and the like."""
    return re.sub(r"[^\w.-]+", "-", Path(words).name if "/" not in words else words).strip("-.") or "run"
