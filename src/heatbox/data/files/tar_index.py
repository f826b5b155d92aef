"""Members of tar archives; those at addresses are listed once, and the list is kept on this machine.

A tar has no table of contents. Listing a remote one follows its headers, which skips large members and reads
through small ones. The index has, besides places and sizes, what opening a data set needs: the size and the
orientation of images, and the content of small files, such as labels.
"""

from __future__ import annotations

import hashlib
import logging
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from heatbox._utils import processes
from heatbox._utils.devices import map_in_threads
from heatbox._utils.io import cache_folder, made_folder, named_when_whole
from heatbox.data.files.images import is_image, stored_header
from heatbox.data.files.remote import SMALLEST, RemoteFile
from heatbox.errors import AssumptionWarning, InputError

_log = logging.getLogger(__name__)

AT_ONCE = 8
"""Number of archives that are listed at the same time."""
LARGEST_KEPT = 2**16
"""Bytes of the largest file whose content is in the index."""

_SCHEMA = pa.schema(
    [
        ("name", pa.binary()),  # of any encoding
        ("start", pa.int64()),
        ("size", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("orientation", pa.int8()),
        ("content", pa.binary()),
    ]
)
_UNKNOWN = ((0, 0), 0)


def tar_members(file: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    """(name, (offset, size)) of the regular files in a tar archive.

    Args:
        file: a `heatbox.data.files.archives.File`.

    Raises:
        InputError: it is no tar, or it ends or is damaged before its end mark.
    """
    try:
        with file.open() as opened, tarfile.open(fileobj=opened, mode="r:") as tar:
            for entry in tar:
                if entry.isreg() and not entry.issparse():
                    yield entry.name, (entry.offset_data, entry.size)
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
            mark = file.read(tar.offset, tarfile.BLOCKSIZE)
    except InputError:
        raise
    except (tarfile.TarError, ValueError, EOFError) as error:  # of a damaged header
        raise InputError(f"{file.where}: the archive is damaged ({error})") from error
    if mark.strip(b"\0"):
        raise InputError(f"{file.where}: the archive is damaged: no file begins at byte {tar.offset}")
    if not mark:
        what = "the archive ends without the mark at the end of a tar; if it was cut off, files are missing"
        warnings.warn(f"{file.where}: {what}", AssumptionWarning, stacklevel=2)


def index_tars(files: Mapping[str, RemoteFile]) -> dict[str, pa.Table]:
    """The indexes of tar archives, listed as far as none is kept; several processes share the work.

    Args:
        files: name → archive.

    Raises:
        InputError: an archive is missing, damaged or cannot be read; the indexes made before it are kept.
    """
    if not files:
        return {}
    own = processes.own_part(list(files))
    new = [name for name in own if not _place(files[name]).is_file()]
    if new:
        what = f"{len(new)} of {len(own)} archives are read once to list their files"
        where = files[new[0]].where
        warnings.warn(f"{where}: {what}, kept in {_folder()}", AssumptionWarning, stacklevel=2)
    made = dict(zip(own, map_in_threads(lambda name: _index(files[name]), own, AT_ONCE), strict=True))
    found = {name: table for part in processes.gathered(made) for name, table in part.items()}
    return {name: found[name] for name in files}


def _folder() -> Path:
    return cache_folder() / "indexes"


def _place(file: RemoteFile) -> Path:
    """The file of an index, of another name for another version of the archive."""
    return _folder() / f"{hashlib.sha256(f'{file.address} {file.version}'.encode()).hexdigest()}.parquet"


def _index(file: RemoteFile) -> pa.Table:
    place = _place(file)
    try:
        table = pq.read_table(place)
        if table.schema.equals(_SCHEMA):
            return table
    except FileNotFoundError:
        pass
    except (OSError, ValueError, pa.ArrowException) as error:
        _log.info("%s: is made again (%s)", place, error)
    table = pa.Table.from_pylist(list(_rows(file)), _SCHEMA)
    try:
        made_folder(place.parent)
        with named_when_whole(place) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    except (OSError, InputError) as error:
        warnings.warn(f"{place}: is not kept ({error})", AssumptionWarning, stacklevel=2)
    return table


def _rows(file: RemoteFile) -> Iterator[dict[str, Any]]:
    for name, (start, size) in tar_members(file):
        content, header = None, _UNKNOWN
        if is_image(name):
            header = _header(file, name, start, size)
        elif size <= LARGEST_KEPT:
            content = file.read(start, size)
        (width, height), orientation = header
        yield {
            "name": name.encode("utf-8", "surrogateescape"),
            "start": start,
            "size": size,
            "width": width,
            "height": height,
            "orientation": orientation,
            "content": content,
        }


def _header(file: RemoteFile, name: str, start: int, size: int) -> tuple[tuple[int, int], int]:
    """Size and orientation of an image, from its first bytes if they are enough."""
    for count in (SMALLEST, size):
        try:
            return stored_header(file.read(start, min(count, size)), name)
        except InputError:  # reported when the image is opened
            continue
    return _UNKNOWN
