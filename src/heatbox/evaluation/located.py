"""The lines of `heatbox locate` so far: an interrupted command is resumed, and processes share its files.

Lines are saved in ``OUT/unfinished-DIGITS``, a `ShardStore`, from `LINES_A_SHARD` lines on or if the command
is interrupted, and removed when all are there and annotation files are written. The digits differ for other
options and for other files. Lines of other versions of heatbox or of the libraries are refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from heatbox._utils import processes
from heatbox._utils.io import to_json
from heatbox._utils.progress import Track, silent
from heatbox.data.files.images import ImageFile
from heatbox.errors import InputError
from heatbox.evaluation.run import ShardStore, environment
from heatbox.inference.locate import Line

LINES_A_SHARD = 64
_FUNCTION = re.compile(r"(?<=\.py):\w+$")  # of path/to/file.py:function


class LineStore:
    """The lines that are known of some files, and which are to be computed here.

    Args:
        out: folder of the command's results.
        files: the images, in the order of the lines.
        options: all that the lines depend on, besides: files among the values count with their contents.

    Attributes:
        own: positions of the files that this process is to localize.

    Raises:
        InputError: the lines were made by other versions.
    """

    def __init__(self, out: Path, files: Sequence[Path | ImageFile], options: Mapping[str, Any]) -> None:
        images = [_image_state(ImageFile.of(file)) for file in files]
        asked = to_json([options, sorted(map(_state, _files_in(options))), images])
        self.count = len(files)
        self._out = out
        self._store = ShardStore(out / f"unfinished-{hashlib.sha256(asked.encode()).hexdigest()[:12]}")
        self._versions: dict[str, str | None] = environment()["packages"]
        if self._store.folder.exists():
            self._store.require(self._versions)
        self._known = processes.from_first(self._saved)
        self._unsaved: list[tuple[int, Line | InputError]] = []
        self._todo = [index for index in range(self.count) if index not in self._known]
        self.own = processes.own_part(self._todo)

    def complete(
        self, located: Iterator[Line | InputError], track: Track = silent
    ) -> Iterator[Line | InputError]:
        """The lines of all files in their order, with those that are known.

        Processes that share the files end here with exit code 0, except for the first.

        Args:
            located: the lines, or errors, of the files that are to be localized here.
            track: how to show progress where processes share the files; lines come at the end then.
        """
        new = self._kept(located) if self._todo or not self.count else iter(())
        if not processes.are_sharing():
            for index in range(self.count):
                yield self._known[index] if index in self._known else next(new)
            next(new, None)  # lets it end
        else:
            tracked = track(zip(self.own, new, strict=True), "localizing", len(self.own))
            errors = [(index, line) for index, line in tracked if isinstance(line, InputError)]
            self._unsaved = list(chain.from_iterable(processes.gathered(errors)))
            processes.only_first_goes_on()
            lines = self._saved() | dict(self._unsaved)
            yield from (lines[index] for index in range(self.count))

    @contextmanager
    def removed_after_use(self) -> Iterator[None]:
        """Run a block that writes what it makes of all lines: they are kept if it raises.

        Raises:
            InputError: as in the block.
        """
        try:
            yield
        except BaseException as error:
            kept = False
            with suppress(InputError):  # the disk may be full
                self._append(self._unsaved)
                kept = True
            if kept and isinstance(error, InputError):
                raise InputError(f"{error}; the boxes are kept, rerun the command to write them") from error
            raise
        if self._store.folder.exists():
            shutil.rmtree(self._store.folder, ignore_errors=True)
            with suppress(OSError):  # it contains overlays
                self._out.rmdir()

    def _kept(self, located: Iterator[Line | InputError]) -> Iterator[Line | InputError]:
        """Save lines as they come; the last ones, and errors, only if they are needed again."""
        waiting: list[tuple[int, Line | InputError]] = []
        try:
            for line, index in zip(located, self.own, strict=True):
                (self._unsaved if isinstance(line, InputError) else waiting).append((index, line))
                if len(waiting) >= LINES_A_SHARD:
                    self._append(waiting)
                    waiting = []
                yield line
            if not processes.are_sharing():
                self._unsaved += waiting
                waiting = []
        finally:
            self._append(waiting)

    def _append(self, lines: Sequence[tuple[int, Line | InputError]]) -> None:
        if lines:
            self._store.require(self._versions)
            known = [str(line) if isinstance(line, InputError) else line for _, line in lines]
            texts = [json.dumps([line, _overlay_state(line)]) for line in known]
            self._store.append(pa.table({"id": [str(index) for index, _ in lines], "line": texts}))

    def _saved(self) -> dict[int, Line | InputError]:
        """Position of a file → its line or error, without those whose overlay is lost or not of here."""
        found: dict[int, list[Any]] = {}
        for _, rows in self._store.read(_decoded):
            found |= rows
        known = {index: line for index, (line, state) in found.items() if state == _overlay_state(line)}
        return {index: InputError(line) if isinstance(line, str) else line for index, line in known.items()}


def _overlay_state(line: Line | str) -> list[Any] | None:
    """Of a line with an overlay; None of others and of errors."""
    return list(_state(Path(line["overlay"]))) if isinstance(line, dict) and "overlay" in line else None


def _decoded(table: pa.Table) -> dict[int, list[Any]]:
    rows = zip(table["id"].to_pylist(), table["line"].to_pylist(), strict=True)
    return {int(index): json.loads(line) for index, line in rows}


def _files_in(options: Any) -> Iterator[Path]:
    """The paths among the values of options, and the texts that name files."""
    if is_dataclass(options) and not isinstance(options, type):
        options = asdict(options)
    if isinstance(options, Mapping):
        options = list(options.values())
    if isinstance(options, list | tuple):
        for value in options:
            yield from _files_in(value)
    elif isinstance(options, str | Path):
        path = Path(_FUNCTION.sub("", str(options)).removeprefix("hf:"))
        if path.is_file():
            yield path
        elif str(options).startswith("hf:"):
            yield from filter(Path.is_file, path.rglob("*"))


def _image_state(image: ImageFile) -> tuple[str, str]:
    """The name of an image, and what changes with its content or with the archive that has it."""
    try:
        return str(image), image.tree.version(image.name)
    except InputError:  # reported when it is opened
        return str(image), ""


def _state(file: Path) -> tuple[str, int, int]:
    """A path, and size and time of a file: what changes with its content."""
    try:
        found = file.stat()
    except OSError:
        return str(file), -1, -1
    return str(file), found.st_size, found.st_mtime_ns
