"""Per-image outcomes on disk, written part by part, so that an interrupted scoring continues."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heatbox._utils.io import write_atomically
from heatbox.boxes.contours import threshold_index
from heatbox.errors import InputError
from heatbox.evaluation.schema import NOT_PARQUET


@dataclass(frozen=True)
class Records:
    """Per-image outcomes of one scoring.

    Attributes:
        ids: image ids.
        correct: score name → (N, I, T) booleans packed along the last axis to (N, I, ceil(T / 8)) uint8.
        thresholds: number of thresholds T.
    """

    ids: Sequence[str]
    correct: dict[str, np.ndarray]
    thresholds: int

    def bits(self, name: str) -> np.ndarray:
        """(N, I, T) booleans of one score, unpacked: 1 KB an image and IoU."""
        return np.unpackbits(self.correct[name], axis=2, count=self.thresholds).view(bool)

    def at(self, name: str, threshold: np.ndarray) -> np.ndarray:
        """(N, I) booleans of one score at one threshold an IoU, each in [0, 1)."""
        columns = threshold_index(threshold, self.thresholds)
        packed = self.correct[name]
        picked = packed[:, np.arange(packed.shape[1]), columns // 8]
        return (picked >> (7 - columns % 8).astype(np.uint8) & 1).astype(bool)


def recorded_at(folder: Path) -> dict[str, float]:
    """Id of each image recorded in a folder → when its part was written, in seconds since 1970."""
    times: dict[str, float] = {}
    for part in folder.glob("part-*.parquet"):
        try:
            ids = pq.read_table(part, columns=["id"])["id"].to_pylist()
        except (*NOT_PARQUET, KeyError):
            continue  # damaged: `RecordFolder` deals with it
        times |= dict.fromkeys((name for name in ids if isinstance(name, str)), part.stat().st_mtime)
    return times


@dataclass
class RecordFolder:
    """A folder of record parts and the settings they were made with.

    Args:
        path: the folder; made if missing.
        settings: what the records depend on, JSON values. Parts made with others are refused.
        shapes: score name → (I, T).
    """

    path: Path
    settings: dict[str, Any]
    shapes: dict[str, tuple[int, int]]
    _next: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.path}: could not be made ({error})") from error
        note = self.path / "settings.json"
        if note.exists():
            try:
                found = json.loads(note.read_text())
            except (ValueError, RecursionError) as error:
                raise InputError(f"{note}: is not JSON; remove the folder to score anew") from error
            if found != self.settings:
                raise InputError(
                    f"{note}: these records were made with other settings ({found}, not {self.settings}); "
                    "choose another folder or remove this one"
                )
        else:
            write_atomically(note, json.dumps(self.settings).encode())
        numbers = [int(p.stem.split("-")[1]) for p in self.parts()]
        self._next = max(numbers, default=-1) + 1

    def parts(self) -> list[Path]:
        """The parts in order."""
        return sorted(self.path.glob("part-*.parquet"))

    def write(self, ids: Sequence[str], correct: dict[str, np.ndarray]) -> None:
        """Add one part: (N, I, T) booleans of each score. It is there whole or not at all."""
        columns: dict[str, Any] = {"id": pa.array(list(ids), pa.string())}
        for name, bits in correct.items():
            packed = np.packbits(bits, axis=2).reshape(len(ids), -1)
            columns[name] = pa.array([row.tobytes() for row in packed], pa.binary(packed.shape[1]))
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, compression="zstd")
        write_atomically(self.path / f"part-{self._next:06d}.parquet", sink.getvalue().to_pybytes())
        self._next += 1

    def read_parts(self) -> Iterator[tuple[list[str], dict[str, np.ndarray]]]:
        """Each part's ids and packed booleans.

        A damaged part is set aside under the name part-NUMBER.damaged and passed over, so that its images
        are scored again.
        """
        for part in self.parts():
            try:
                table = pq.read_table(part)
                ids = table["id"].to_pylist()
                if not all(isinstance(name, str) for name in ids):
                    raise TypeError
                correct = {
                    name: np.frombuffer(b"".join(table[name].to_pylist()), np.uint8).reshape(
                        len(ids), ious, -(-thresholds // 8)
                    )
                    for name, (ious, thresholds) in self.shapes.items()
                }
            except (*NOT_PARQUET, KeyError, TypeError, ValueError):
                part.replace(part.with_suffix(".damaged"))  # its images are scored again
                continue
            yield ids, correct

    def read(self) -> Records:
        """All parts together, a few hundred bytes an image."""
        ids: list[str] = []
        correct: dict[str, list[np.ndarray]] = {
            name: [np.zeros((0, ious, -(-t // 8)), np.uint8)] for name, (ious, t) in self.shapes.items()
        }
        for some, bits in self.read_parts():
            ids += some
            for name, value in bits.items():
                correct[name].append(value)
        thresholds = next(iter(self.shapes.values()))[1]
        return Records(ids, {name: np.concatenate(v) for name, v in correct.items()}, thresholds)
