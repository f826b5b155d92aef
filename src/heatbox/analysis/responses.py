"""Tables of responses to cue-conflict images, in whatever form they come."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatbox.data.formats.cue_conflict import shape_and_texture
from heatbox.errors import InputError

# The published raw data (rgeirhos/texture-vs-shape) name their columns otherwise than our own tables.
_ALSO_CALLED = {
    "image": ("image", "imagename", "id"),
    "shape": ("shape", "category"),
    "texture": ("texture",),
    "response": ("response", "object_response"),
    "observer": ("model", "observer", "subj"),
}


@dataclass(frozen=True)
class Response:
    """One answer: which category an observer named for an image.

    Attributes:
        image: name of the image.
        shape, texture: its two categories, in lower case.
        response: the category named, in lower case; anything else ("na") counts as neither.
        observer: who answered; "" where the table does not say.
    """

    image: str
    shape: str
    texture: str
    response: str
    observer: str = ""


def read_responses(table: Any) -> list[Response]:
    """Read a table with the columns image, shape, texture and response.

    The columns of the published raw data are understood as well: imagename, category, object_response and
    subj; where there is no texture column, the name of the image tells it (``airplane1-bicycle2.png``,
    whatever stands before the last underscore).

    Args:
        table: path of a CSV file (.csv or .csv.gz), a list of dictionaries, a dictionary of columns, a
            pandas data frame or a pyarrow table.

    Raises:
        InputError: a file that cannot be read, a column that is missing, or a table without rows.
    """
    if isinstance(table, list | tuple) and table and all(isinstance(one, Response) for one in table):
        return list(table)
    columns, where = _columns(table)
    found = {
        ours: next((columns[name] for name in names if name in columns), None)
        for ours, names in _ALSO_CALLED.items()
    }
    image, response = found["image"], found["response"]
    if response is None or (image is None and (found["shape"] is None or found["texture"] is None)):
        raise InputError(
            f"{where}: has the columns {', '.join(columns) or 'none'}; expected image, shape, texture, "
            "response"
        )
    if not response:
        raise InputError(f"{where}: holds no response")
    images = [str(name) for name in image] if image is not None else [""] * len(response)
    told: list[tuple[str, str]] = []
    if found["shape"] is None or found["texture"] is None:
        told = [shape_and_texture(_bare(name)) for name in images]
    shapes = found["shape"] if found["shape"] is not None else [shape for shape, _ in told]
    textures = found["texture"] if found["texture"] is not None else [texture for _, texture in told]
    observers = found["observer"] if found["observer"] is not None else [""] * len(response)
    rows = zip(images, shapes, textures, response, observers, strict=True)
    return [
        Response(name, _word(shape), _word(texture), _word(said), str(observer))
        for name, shape, texture, said, observer in rows
    ]


def by_observer(responses: Iterable[Response]) -> dict[str, list[Response]]:
    """The responses of each observer, in the order in which they appear."""
    groups: dict[str, list[Response]] = {}
    for one in responses:
        groups.setdefault(one.observer, []).append(one)
    return groups


def _word(value: Any) -> str:
    """A category as it is compared; what is missing (None, NaN) is no category."""
    return "na" if value is None or value != value else str(value).strip().lower()


def _bare(name: str) -> str:
    """``0001_s5n_s01_0_bird_00_bird3-bird2.png`` → ``bird3-bird2.png``."""
    bare = name.rpartition("/")[2].rpartition("_")[2]
    return bare if "." in bare else f"{bare}.png"


def _columns(table: Any) -> tuple[dict[str, list[Any]], str]:
    """Columns by name, in lower case, and what messages call the table."""
    where = str(table) if isinstance(table, str | Path) else "the table of responses"
    if isinstance(table, str | Path):
        table = _csv_rows(Path(table))
    elif hasattr(table, "to_pydict"):  # pyarrow
        table = table.to_pydict()
    elif hasattr(table, "to_dict"):  # pandas
        table = table.to_dict("list")
    if not isinstance(table, Mapping):
        table = _transposed(table, where)
    return {str(name).strip().lower(): list(values) for name, values in table.items()}, where


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode(
            "utf-8-sig"
        )
        header, *rows = csv.reader(io.StringIO(text, newline=""))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise InputError(f"{path}: is no CSV file of responses that can be read ({error})") from error
    for number, row in enumerate(rows, 2):
        if row and len(row) != len(header):
            raise InputError(
                f"{path}: line {number} has {len(row)} cells, expected {len(header)} as the header"
            )
    return [dict(zip(header, row, strict=True)) for row in rows if row]


def _transposed(rows: Any, where: str) -> dict[str, list[Any]]:
    """A list of rows → columns."""
    try:
        rows = [dict(row) for row in rows]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where} is a {type(rows).__name__}; expected a CSV file, a list of dictionaries or a data frame"
        ) from error
    if not rows:
        raise InputError(f"{where}: holds no response")
    for number, row in enumerate(rows, 1):
        if set(row) != set(rows[0]):
            raise InputError(f"{where}: row {number} has other columns than the first one")
    return {name: [row[name] for row in rows] for name in rows[0]}
