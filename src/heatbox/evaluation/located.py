"""The lines of `heatbox locate` so far: an interrupted command is resumed, and processes share its files.

Lines are saved in ``OUT/unfinished-DIGITS``, a `ShardStore`, from `LINES_A_SHARD` lines on or if the command
is interrupted, and removed when all are there. The digits differ for other options and for other files.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from heatbox._utils import processes
from heatbox._utils.io import to_json
from heatbox._utils.progress import Track, silent
from heatbox.errors import InputError
from heatbox.evaluation.run import ShardStore
from heatbox.inference.locate import Line

LINES_A_SHARD = 64
_FUNCTION = re.compile(r"(?<=\.py):\w+$")  # of path/to/file.py:function


class LineStore:
    """The lines that are known of some files, and which are to be computed here.

    Args:
        out: folder of the command's results.
        files: image files, in the order of the lines.
        options: all that the lines depend on, besides: files among the values count with their contents.

    Attributes:
        own: positions of the files that this process is to localize.
    """

    def __init__(self, out: Path, files: Sequence[Path], options: Mapping[str, Any]) -> None:
        asked = to_json([options, sorted(map(_state, _files_in(options))), list(map(_state, files))])
        self.count = len(files)
        self._out = out
        self._store = ShardStore(out / f"unfinished-{hashlib.sha256(asked.encode()).hexdigest()[:12]}")
        self._known = processes.from_first(self._saved)
        todo = [index for index in range(self.count) if index not in self._known]
        self.own = processes.own_part(todo)

    def complete(
        self, located: Iterator[Line | InputError], track: Track = silent
    ) -> Iterator[Line | InputError]:
        """The lines of all files in their order, with those that are known.

        Processes that share the files end here with exit code 0, except for the first.

        Args:
            located: the lines, or errors, of the files that are to be localized here.
            track: how to show progress where processes share the files; lines come at the end then.
        """
        new = self._kept(located)
        if not processes.are_sharing():
            for index in range(self.count):
                yield self._known[index] if index in self._known else next(new)
            next(new, None)  # lets it end
        else:
            tracked = track(zip(self.own, new, strict=True), "localizing", len(self.own))
            errors = [(index, str(line)) for index, line in tracked if isinstance(line, InputError)]
            found = dict(chain.from_iterable(processes.gathered(errors)))
            processes.only_first_goes_on()
            lines = self._saved()
            for index in range(self.count):
                yield lines[index] if index in lines else InputError(found[index])
        if self._store.folder.exists():
            shutil.rmtree(self._store.folder, ignore_errors=True)
            with suppress(OSError):  # it contains overlays
                self._out.rmdir()

    def _kept(self, located: Iterator[Line | InputError]) -> Iterator[Line | InputError]:
        """Save lines as they come; the last ones only if they are needed again."""
        waiting: list[tuple[int, Line]] = []
        whole = False
        try:
            for line, index in zip(located, self.own, strict=True):
                if not isinstance(line, InputError):
                    waiting.append((index, line))
                if len(waiting) >= LINES_A_SHARD:
                    self._append(waiting)
                    waiting = []
                yield line
            whole = not processes.are_sharing()
        finally:
            if waiting and not whole:
                self._append(waiting)

    def _append(self, lines: Sequence[tuple[int, Line]]) -> None:
        ids, texts = (
            [str(index) for index, _ in lines],
            [json.dumps([line, _overlay_state(line)]) for _, line in lines],
        )
        self._store.append(pa.table({"id": ids, "line": texts}))

    def _saved(self) -> dict[int, Line]:
        """Position of a file → its line, without those whose overlay is lost or of another command."""
        found: dict[int, list[Any]] = {}
        for _, rows in self._store.read(_decoded):
            found |= rows
        return {index: line for index, (line, state) in found.items() if state == _overlay_state(line)}


def _overlay_state(line: Line) -> list[Any] | None:
    return list(_state(Path(line["overlay"]))) if "overlay" in line else None


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
    elif isinstance(options, str | Path) and (path := Path(_FUNCTION.sub("", str(options)))).is_file():
        yield path


def _state(file: Path) -> tuple[str, int, int]:
    """A path, and size and time of a file: what changes with its content."""
    try:
        found = file.stat()
    except OSError:
        return str(file), -1, -1
    return str(file), found.st_size, found.st_mtime_ns
