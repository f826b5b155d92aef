"""The run folder: what a run saves, where, and how it is read back.

``config.json``         every setting needed to run it again
``environment.json``    versions, platform, git commit, seed
``predictions.parquet`` one row per image: labels, logits, low-resolution maps, boxes, IoU
``metrics.json``        the scores
``left-out.json``       which images were left out, and why, if any were
``classes.json``        names of the classes of the labels, if they are known
``foreground.json``     which foreground head made the maps, if one did; ``foreground.safetensors`` is the
                        head if it was fitted in this run, see `heatbox.evaluation.collection`
``fullsup/``            the run on the fully supervised split, if there is one
``networks.json``       the networks whose maps were averaged, if they were; ``networks/1``, ... are their
                        runs, see `heatbox.evaluation.networks`

Until a run is finished its rows are in ``parts/``, a `ShardStore`: an interrupted run loses at most the last
few hundred images. Every file is written under a temporary name, flushed to disk and then renamed, so a file
with its final name is complete.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heatbox._utils import processes
from heatbox._utils.extras import require
from heatbox._utils.io import (
    holds_only,
    made_folder,
    read_json,
    to_json,
    write_atomically,
    written_atomically,
)
from heatbox.errors import InputError
from heatbox.evaluation.schema import (
    NOT_PARQUET,
    SHAPE,
    SavedRecord,
    check_columns,
    check_record,
    checked_networks,
    checked_scores,
    checked_settings,
)

if TYPE_CHECKING:
    import pandas

CONFIG, ENVIRONMENT, METRICS, PREDICTIONS = (
    "config.json",
    "environment.json",
    "metrics.json",
    "predictions.parquet",
)
LEFT_OUT, CLASSES = "left-out.json", "classes.json"
"""Which images were left out and why; the names of the classes of the labels. Written where there are any."""
FOREGROUND, HEAD, COLLECTION = "foreground.json", "foreground.safetensors", "collection"
"""What the foreground head was fitted on, the head, and what the first pass of its fit keeps of images."""
CORRECTED = "corrected"
"""Folder of the run in a run whose head learned from corrected boxes."""
FULLSUP, NETWORKS = "fullsup", "networks"
"""Folders of runs in a run: on the fully supervised split, and of each network whose maps are averaged."""
NETWORKS_NOTE = "networks.json"
SETTINGS = "settings.json"
BOX = "box_"
"""Prefix of the columns with each map's box in pixels of the image, (K, 4) xyxy, half-open."""
MASK = "mask"
"""Column of records: the mask in the 224 x 224 frame, 0 background, 1 object, 255 ignored."""
IMAGE = "image"
"""Column of records whose ids are pairs of an image and a class of it: the id of the image."""
LATER_KEYS: dict[str, Any] = {"output": None, "scores": None, "model_options": {}}
"""Keys of config.json that version 0.1.0 did not write → their values in its runs."""
FILES = (
    CONFIG,
    ENVIRONMENT,
    METRICS,
    PREDICTIONS,
    LEFT_OUT,
    CLASSES,
    FOREGROUND,
    HEAD,
    NETWORKS_NOTE,
)
FOLDERS = ("parts", "records", "records-fullsup", "records-pseudo", FULLSUP, NETWORKS, COLLECTION, CORRECTED)
_PACKAGES = (
    "heatbox",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "numba",
    "opencv-python-headless",
    "pillow",
    "pyarrow",
)

RECORDS_AT_ONCE = 256
JOINED = "-all"
"""End of the name of a shard that replaces those before it."""

Record = dict[str, Any]
T = TypeVar("T")


class ShardStore:
    """Rows of a resumable pass over images: a folder of numbered Parquet files, the shards.

    Every row has the id of an image under "id". A shard is complete or does not exist. Version 0.1.0 named
    the shards of a scoring part-NUMBER.parquet; these are also read and continued. A shard NUMBER-all.parquet
    contains all rows of those with lower numbers, in order.

    Args:
        folder: the folder; it is made when something is first written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def require(self, settings: Mapping[str, Any]) -> None:
        """Keep the settings that the rows depend on in settings.json, or compare them with those kept there.

        Raises:
            InputError: the rows were made with other settings.
        """
        note = made_folder(self.folder) / SETTINGS
        if not note.exists():
            write_atomically(note, json.dumps(settings).encode())
        elif (found := read_json(note)) != settings:
            keys = [key for key in {**found, **settings} if found.get(key) != settings.get(key)]
            other = ", ".join(f"{key} {found.get(key)}, not {settings.get(key)}" for key in keys)
            raise InputError(
                f"{note}: these records were made with other settings ({other}); "
                "choose another folder or remove this one"
            )

    def shards(self) -> list[Path]:
        """The shards in order."""
        files = self.folder.glob("*.parquet")
        found = sorted((file for file in files if _digits(file).isdecimal()), key=_number)
        joined = [index for index, file in enumerate(found) if file.stem.endswith(JOINED)]
        return found[joined[-1] :] if joined else found

    def append(self, table: pa.Table) -> None:
        """Write the next shard; processes that share a folder use different numbers."""
        number = self._next()
        number += (processes.rank() - number) % processes.count()
        shard = made_folder(self.folder) / f"{number:06d}.parquet"
        _write_parquet(shard, [table])
        _whole.add(_identity(shard))

    def _next(self) -> int:
        return 1 + max(map(_number, self.shards()), default=-1)

    def ids(self) -> set[str]:
        """The ids of all rows; damaged shards are renamed.

        All columns are read, some rows at a time, of shards that this process has neither written nor read.
        """
        found: set[str] = set()
        for shard in self.shards():
            try:
                known = _identity(shard) in _whole
                with pq.ParquetFile(shard) as file:
                    batches = file.iter_batches(RECORDS_AT_ONCE, columns=["id"] if known else None)
                    found |= {name for batch in batches for name in ids_of(pa.Table.from_batches([batch]))}
                _whole.add(_identity(shard))
            except (*NOT_PARQUET, KeyError, TypeError, ValueError):
                _set_aside(shard)
        return found

    def sort(self, place: Mapping[str, int]) -> None:
        """Join the shards to one with the rows in order, unless they are in order.

        Shards are not, after several processes have written them and some were killed.

        Args:
            place: id of an image → its place.
        """
        files = self.shards()
        groups = [(file, group) for file in files for group in range(pq.read_metadata(file).num_row_groups)]
        rows = [
            (place.get(name, len(place)), number, row)
            for number, (file, group) in enumerate(groups)
            for row, name in enumerate(ids_of(_row_group(file, group, ["id"])))
        ]
        if all(one <= other for one, other in pairwise(rows)):
            return
        rows.sort()
        read = lru_cache(2 * processes.count() + 2)(lambda number: _row_group(*groups[number]))

        def tables() -> Iterator[pa.Table]:
            for first in range(0, len(rows), RECORDS_AT_ONCE):
                group = rows[first : first + RECORDS_AT_ONCE]
                parts = [
                    read(number).take([row for _, _, row in found])
                    for number, found in groupby(group, key=itemgetter(1))
                ]
                try:
                    yield pa.concat_tables(parts)
                except (pa.ArrowException, ValueError) as error:
                    raise InputError(
                        f"{self.folder}: the records of the run differ in their columns ({error})"
                    ) from error

        _write_parquet(self.folder / f"{self._next():06d}{JOINED}.parquet", tables())
        for file in files:
            file.unlink()

    def read(self, decode: Callable[[pa.Table], T]) -> Iterator[tuple[Path, T]]:
        """Each shard and what `decode` makes of its table.

        A shard that cannot be read, or whose table `decode` refuses with a KeyError, TypeError or ValueError,
        is renamed to *.damaged and skipped: its images do not count as done.
        """
        for shard in self.shards():
            try:
                found = decode(pq.read_table(shard))  # all columns: each is checked
            except (*NOT_PARQUET, KeyError, TypeError, ValueError):
                _set_aside(shard)
                continue
            yield shard, found


_whole: set[tuple[str, int, int]] = set()
"""Shards that this process has written or read whole, see `_identity`."""


def _identity(shard: Path) -> tuple[str, int, int]:
    """Path, time and size of a file, which change if its content does."""
    found = shard.stat()
    return str(shard), found.st_mtime_ns, found.st_size


def _row_group(file: Path, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    with pq.ParquetFile(file) as opened:
        return opened.read_row_group(group, columns)


def _set_aside(shard: Path) -> None:
    with suppress(FileNotFoundError):  # another process has done it
        shard.replace(shard.with_suffix(".damaged"))


def _digits(shard: Path) -> str:
    return shard.stem.removeprefix("part-").removesuffix(JOINED)


def _number(shard: Path) -> int:
    return int(_digits(shard))


def ids_of(table: pa.Table) -> list[str]:
    """The ids of a shard.

    Raises:
        KeyError, TypeError: it has no column of ids.
    """
    ids = table["id"].to_pylist()
    if not all(isinstance(name, str) for name in ids):
        raise TypeError("ids that are not strings")
    return ids


class Run:
    """A run folder, to write into or to read from.

    Args:
        folder: the folder; it is created when something is first written.

    Raises:
        InputError: the folder's name is not UTF-8 text, without which no Parquet file can be opened.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.parts = ShardStore(self.folder / "parts")
        try:
            str(folder).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{str(folder)!r}: the folder's name is not UTF-8 text, choose another"
            ) from error

    # ------------------------------------------------------------------------------------------- writing

    def start(self, config: object, seed: int | None = None, resume: bool = True) -> None:
        """Write config.json and environment.json, or check that an unfinished run had the same config.

        A key that the saved config lacks counts as the default of its field.

        Args:
            config: a dataclass, or a dictionary for JSON.
            seed: recorded in environment.json.
            resume: keep the shards of an earlier, unfinished run of the same config; otherwise remove them.

        Raises:
            InputError: the folder contains a run of another config, contains something that is not a run, or
                cannot be written to.
        """
        wanted = json.loads(to_json(config))
        with processes.first_alone():
            self._start(config, wanted, seed, resume or not processes.is_first())

    def _start(self, config: object, wanted: dict[str, Any], seed: int | None, resume: bool) -> None:
        try:
            there = (self.folder / CONFIG).exists()
            if self.folder.exists() and not self.folder.is_dir():
                raise InputError(f"{self.folder}: is a file, expected a folder for the run")
            if there and resume:
                saved = {**_defaults(config), **self.config()}
                keys = {*self.config(), *wanted}
                if other := sorted(key for key in keys if saved.get(key) != wanted.get(key)):
                    raise InputError(
                        f"{self.folder}: contains a run with another configuration ("
                        f"another {', '.join(other)}); choose another --out or pass --overwrite"
                    )
                return
            # A run that was killed early may lack its config.
            if not there and self.folder.is_dir() and not holds_only(self.folder, ENVIRONMENT):
                raise InputError(f"{self.folder}: is not empty and contains no run; choose another --out")
            for name in (PREDICTIONS, METRICS):
                (self.folder / name).unlink(missing_ok=True)
            for name in FOLDERS:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            for name in sorted(FILES, key=lambda name: name == CONFIG):  # without it the folder is no run
                (self.folder / name).unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            self.write_json(ENVIRONMENT, environment(seed))
            self.write_json(CONFIG, wanted)
        except OSError as error:
            raise InputError(f"{self.folder}: could not be made the folder of a run ({error})") from error

    def write_json(self, name: str, content: object) -> Path:
        """Write a JSON file of the run atomically; NaN and infinity become null.

        Of several processes the first writes it.
        """
        path = self.folder / name
        return write_atomically(path, (to_json(content) + "\n").encode()) if processes.is_first() else path

    def append(self, records: Sequence[Record]) -> None:
        """Save the records of some images as the next shard."""
        if records:
            self.parts.append(_table(records))

    def done(self) -> set[str]:
        """Ids already saved by an unfinished run; those of damaged shards are not among them."""
        return self.parts.ids()

    def sort(self, ids: Iterable[str]) -> None:
        """Bring the records of an unfinished run into the order of some ids."""
        self.parts.sort({name: place for place, name in enumerate(ids)})

    def finish(self, add_columns: Callable[[Record], Mapping[str, Any]] | None = None) -> None:
        """Join the shards to predictions.parquet, with further columns computed from each record.

        Args:
            add_columns: record → its values of the further columns, by name.
        """

        def tables() -> Iterator[pa.Table]:
            for records in self._read(self.parts.shards(), RECORDS_AT_ONCE):
                if add_columns is not None:
                    for record in records:
                        record.update(add_columns(record))
                yield _table(records)

        _write_parquet(self.folder / PREDICTIONS, tables())
        shutil.rmtree(self.parts.folder)

    # ------------------------------------------------------------------------------------------- reading

    @property
    def finished(self) -> bool:
        """Whether predictions.parquet is there."""
        return (self.folder / PREDICTIONS).exists()

    def require_finished(self) -> None:
        """Raise an InputError unless the run is finished."""
        if not self.finished:
            raise InputError(
                f"{self.folder}: contains no finished predictions, expected a run of heatbox evaluate"
            )

    def _files(self) -> list[Path]:
        """predictions.parquet, or the shards of an unfinished run."""
        return [self.folder / PREDICTIONS] if self.finished else self.parts.shards()

    def made(self) -> float | None:
        """When the first of its predictions were written, in seconds since 1970; None before that."""
        files = [*self._files(), *(self.folder / COLLECTION).rglob("*.parquet")]
        return min((file.stat().st_mtime for file in files), default=None)

    def config(self) -> dict[str, Any]:
        """The configuration of the run."""
        return self._read_json(CONFIG)

    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json, whatever it is."""
        return self._read_json(METRICS)

    def scores(self) -> dict[str, Any]:
        """The scores of maps that `evaluate` or `score` wrote, validated; see `heatbox.evaluation.schema`."""
        return checked_scores(self.metrics(), self.folder / METRICS)

    def foreground(self) -> dict[str, Any] | None:
        """What is known of the foreground head that made maps of the run; None if none did."""
        return self._read_json(FOREGROUND) if (self.folder / FOREGROUND).is_file() else None

    def networks(self) -> list[dict[str, Any]] | None:
        """The networks whose maps were averaged, see `heatbox.evaluation.networks`; None if none were."""
        if not (self.folder / NETWORKS_NOTE).is_file():
            return None
        return checked_networks(self._read_json(NETWORKS_NOTE), self.folder / NETWORKS_NOTE)

    def settings(self) -> dict[str, Any]:
        """The config of a run of `evaluate`, validated; with defaults where readers of its maps need them."""
        return checked_settings(self.config(), self.folder / CONFIG)

    def methods(self) -> tuple[str, ...]:
        """Names of the methods whose maps the records contain."""
        first = next(iter(self.records(1)))[0]
        return tuple(key.removeprefix("map_") for key in first if key.startswith("map_"))

    @property
    def has_masks(self) -> bool:
        """Whether the records contain masks in place of boxes."""
        return MASK in next(iter(self.records(1)))[0]

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not os.path.isfile(path):  # false, too, for names that no file can have
            raise InputError(f"{path}: missing; expected the folder of a run")
        return read_json(path)

    def records(self, batch_size: int = RECORDS_AT_ONCE) -> Iterator[list[Record]]:
        """All records in batches, from the finished run or from the shards of an unfinished one.

        Maps are (h, w) float32 arrays under "map_METHOD", boxes (K, 4) float64 arrays under "boxes".

        Raises:
            InputError: nothing was saved yet, or a file is damaged.
        """
        files = self._files()
        if not files:
            raise InputError(f"{self.folder}: contains no predictions; expected the folder of a run")
        empty = True
        for batch in self._read(files, batch_size):
            empty = False
            yield batch
        if empty:
            raise InputError(f"{files[0]}: contains the prediction of no image")

    def _read(self, files: Sequence[Path], batch_size: int) -> Iterator[list[Record]]:
        for path in files:
            try:
                with pq.ParquetFile(path) as file:
                    names = file.schema_arrow.names
                    if len(set(names)) < len(names):
                        raise InputError(f"{path}: has two columns of one name")
                    in_pixels = (file.schema_arrow.metadata or {}).items() >= _IN_PIXELS.items()
                    derived = {} if in_pixels else self._boxes(names)
                    for batch in file.iter_batches(batch_size):
                        yield _records(batch, str(path), derived)
            except NOT_PARQUET as error:
                raise InputError(f"{path}: is not a readable Parquet file ({error})") from error

    def _boxes(self, columns: Sequence[str]) -> dict[str, Callable[[Record], Any]]:
        """Box columns of a run of 0.1.0, in the 224 x 224 frame there, computed from the maps instead."""

        def box(record: Record, method: str) -> np.ndarray:
            from heatbox.inference.boxes import map_to_boxes

            size, threshold = (record["width"], record["height"]), thresholds()[method]
            return map_to_boxes(record[f"map_{method}"], size, threshold, protocol=settings()["protocol"])

        @cache
        def thresholds() -> dict[str, float]:
            return {name: found["threshold"] for name, found in self.scores()["methods"].items()}

        settings = cache(self.settings)
        names = [name for name in columns if name.startswith(BOX) and not name.endswith(SHAPE)]
        return {name: partial(box, method=name.removeprefix(BOX)) for name in names}

    def to_pandas(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """The records as a data frame, one row per image; arrays are cells of type object.

        Args:
            columns: names of the columns to keep, such as "id", "label" and "iou_cam"; by default all.

        Raises:
            InputError: pandas is not installed, or as `records`.
        """
        require("pandas", "to_pandas()")
        import pandas as pd

        rows = [record for batch in self.records() for record in batch]
        return pd.DataFrame(
            [{name: record[name] for name in columns or record} for record in rows], columns=columns
        )

    def __len__(self) -> int:
        try:
            return sum(pq.read_metadata(path).num_rows for path in self._files())
        except NOT_PARQUET as error:
            raise InputError(f"{self.folder}: contains a damaged Parquet file ({error})") from error


def require_older(path: Path | None, written: float | None, done: str) -> None:
    """Raise if a file is newer than the results made from it, so that no outdated results are used.

    Args:
        path: the file; None for none.
        written: when the results were written, in seconds since 1970; None if there are none.
        done: what was done with the file, for the message.

    Raises:
        InputError: the file is newer.
    """
    if path is not None and written is not None and path.is_file() and path.stat().st_mtime > written:
        raise InputError(f"{path}: has changed since {done}; choose another folder or pass --overwrite")


def _defaults(config: object) -> dict[str, Any]:
    """Key → default value of a key that a config lacks, in the form that JSON has."""
    found = dict(LATER_KEYS)
    for field in fields(config) if is_dataclass(config) else ():
        if field.default is not MISSING:
            found[field.name] = field.default
        elif field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
    known: dict[str, Any] = json.loads(to_json(found))
    return known


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of paths, as few as make them unique; numbered where paths are equal."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, 1)]


def environment(seed: int | None = None) -> dict[str, Any]:
    """Versions, platform, git commit of the working folder (None outside a checkout) and seed."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "packages": versions,
        "git_commit": _git_commit(),
        "seed": seed,
    }


def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


# ---------------------------------------------------------------------------------------- Parquet files

_IN_PIXELS = {b"heatbox.boxes": b"image pixels, half-open"}
"""Metadata of tables whose box columns are in pixels of the image; version 0.1.0 wrote none."""


def _table(records: Sequence[Record]) -> pa.Table:
    """Arrays of two dimensions become a flat list column and a column ``NAME_shape``."""
    columns: dict[str, Any] = {}
    for name in records[0]:
        values = [record[name] for record in records]
        if isinstance(values[0], np.ndarray):
            kind = pa.list_(pa.from_numpy_dtype(values[0].dtype))
            columns[name] = pa.array([value.ravel() for value in values], type=kind)
            if values[0].ndim > 1:
                shapes = [list(value.shape) for value in values]
                columns[name + SHAPE] = pa.array(shapes, type=pa.list_(pa.int32()))
        else:
            columns[name] = pa.array(values)
    return pa.table(columns).replace_schema_metadata(_IN_PIXELS)


def _records(
    batch: pa.RecordBatch, where: str, derived: Mapping[str, Callable[[Record], Any]]
) -> list[Record]:
    check_columns(batch, where)
    records = [SavedRecord(where, derived) for _ in range(batch.num_rows)]
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name.endswith(SHAPE) or name in derived:
            continue
        lists = pa.types.is_list(column.type)
        shapes = batch[name + SHAPE].to_pylist() if name + SHAPE in batch.schema.names else None
        for index, value in enumerate(column):
            if lists and value.is_valid:
                array = value.values.to_numpy(zero_copy_only=False)
                try:
                    records[index][name] = array.reshape(shapes[index]) if shapes else array
                except (TypeError, ValueError) as error:
                    raise InputError(f"{where}: column {name!r} does not have the shape it states") from error
            else:
                records[index][name] = value.as_py()
    for record in records:
        check_record(record)
    if len({len(record["logits"]) for record in records if "logits" in record}) > 1:
        raise InputError(f"{where}: column 'logits' differs in length from image to image")
    return list(records)


def _write_parquet(path: Path, tables: Iterator[pa.Table] | Sequence[pa.Table]) -> None:
    writer: pq.ParquetWriter | None = None
    with written_atomically(path) as file:
        for table in tables:
            if writer is None:
                writer = pq.ParquetWriter(file, table.schema, compression="zstd")
            try:
                writer.write_table(table)
            except (pa.ArrowException, ValueError) as error:
                raise InputError(
                    f"{path}: the records of the run differ in their columns ({error})"
                ) from error
        if writer is None:
            raise InputError(f"{path}: there is no record to write")
        writer.close()
