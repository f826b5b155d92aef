"""Folders that commands leave, read back for a page: scores, figures, settings, and what can be explored."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from heatbox._utils.io import read_json
from heatbox.data.open import open_split
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.evaluation.run import CONFIG, ENVIRONMENT, METRICS, PREDICTIONS, Run
from heatbox.evaluation.schema import NOT_PARQUET
from heatbox.visualization.figures.style import as_plain_text
from heatbox.visualization.report.explorer import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANALYSIS = "analysis.json"
LARGEST_SVG = 400_000
"""Bytes above which the PNG of a figure is shown in its place."""


@dataclass(frozen=True)
class Folder:
    """One folder of results.

    Attributes:
        path: where it is.
        name: what a page calls it, unlike the names of the others beside it.
        metrics: scores of `heatbox evaluate` or `heatbox score`, or None where it holds none.
        figures: title and image file of each figure that an analysis left in it, or in a folder inside.
    """

    path: Path
    name: str
    metrics: dict[str, Any] | None
    figures: list[tuple[str, Path]]

    @property
    def run(self) -> Run:
        """The folder as a run."""
        return Run(self.path)

    @property
    def scores(self) -> dict[str, Any]:
        """Its metrics, of a folder that holds some."""
        assert self.metrics is not None
        return self.metrics

    @property
    def has_masks(self) -> bool:
        """Whether its maps were scored against masks in place of boxes."""
        return self.metrics is not None and self.metrics.get("truth") == "masks"


def read_folders(paths: Sequence[Path]) -> list[Folder]:
    """Recognise folders of results.

    Raises:
        InputError: one is no folder of results, or its run is unfinished.
    """
    return [_folder(path, name) for path, name in zip(paths, short_names(paths), strict=True)]


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of paths, as few as tell them apart; a number where nothing does."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, 1)]


def _folder(path: Path, name: str) -> Folder:
    if not os.path.isdir(path):
        raise InputError(
            f"{path}: is not a folder, expected one that heatbox evaluate, score or analyze wrote"
        )
    figures = figures_in(path)
    metrics = Run(path).scores() if (path / METRICS).exists() else None
    if metrics is None and not figures:
        unfinished = (path / CONFIG).exists()
        raise InputError(
            f"{path}: holds an unfinished run; go on with the command that began it"
            if unfinished
            else f"{path}: holds neither scores ({METRICS}) nor the figures of an analysis"
        )
    return Folder(path, name, metrics, figures)


def analysed(path: Path, instrument: str, name: str) -> list[Path]:
    """The file `name` of every network that the analyses in a folder measured with an instrument."""
    notes = sorted({*path.glob(ANALYSIS), *path.glob(f"*/{ANALYSIS}")})
    return [file for note in notes for file in sorted(note.parent.glob(f"models/*/{instrument}/{name}"))]


def figures_in(path: Path) -> list[tuple[str, Path]]:
    """Title and file of each figure of the analyses in a folder: its own, and those of folders inside."""
    found: list[tuple[str, Path]] = []
    for note in sorted({*path.glob(ANALYSIS), *path.glob(f"*/{ANALYSIS}")}):
        folder = note.parent / "figures"
        for png in sorted(folder.glob("*.png")):
            found.append((png.stem.replace("-", " "), lighter(png)))
    return found


def lighter(png: Path) -> Path:
    """The SVG of a figure where there is one that is not large, which stays sharp; otherwise its PNG."""
    svg = png.with_suffix(".svg")
    return svg if svg.is_file() and svg.stat().st_size <= LARGEST_SVG else png


def figure_source(file: Path) -> str:
    """An image file as a data URI: an image cannot run a script or fetch anything."""
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[file.suffix]
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def svg_source(figure: Figure) -> str:
    """A matplotlib figure as a data URI."""
    from matplotlib import rc_context

    stream = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "heatbox"}):
        as_plain_text(figure).savefig(stream, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode()}"


def source_of(folder: Folder, notes: list[str]) -> Source | None:
    """What the explorer needs of a folder; None where it holds no maps of images.

    Args:
        folder: a finished run.
        notes: is told, in a sentence, where the pictures are not at hand.
    """
    if folder.metrics is None or folder.has_masks or not (folder.path / PREDICTIONS).exists():
        return None
    config = folder.run.settings()
    split: Split | None = None
    try:
        metadata = config.get("metadata")
        split = open_split(config["data"], Path(metadata) if metadata else None)
    except (InputError, KeyError) as error:
        notes.append(f"{folder.name}: its pictures were not found, so maps are shown without them ({error})")
    return Source(folder.name, folder.run, folder.metrics, split, config)


def settings_of(folder: Folder) -> str:
    """What was asked and with what versions, as indented JSON."""
    found = {}
    for name in (CONFIG, ANALYSIS, ENVIRONMENT):
        file = folder.path / name
        if file.is_file():
            found[name] = read_json(file)
    return json.dumps(found, indent=2, ensure_ascii=False)


def milliseconds(folder: Folder) -> dict[str, float]:
    """Median milliseconds an image of each map, and of the "forward" pass, where the run holds times."""
    path = folder.path / PREDICTIONS
    if not path.exists():
        return {}
    try:
        columns = [name for name in pq.read_schema(path).names if name.startswith("ms_")]
        table = pq.read_table(path, columns=columns)
    except NOT_PARQUET as error:
        raise InputError(f"{path}: is not a readable Parquet file ({error})") from error
    times = {name.removeprefix("ms_"): table[name].to_numpy() for name in columns}
    if wrong := next((name for name, values in times.items() if values.dtype.kind != "f"), ""):
        raise InputError(f"{path}: the milliseconds of {wrong!r} are no numbers")
    return {name: float(np.median(values)) for name, values in times.items()}
