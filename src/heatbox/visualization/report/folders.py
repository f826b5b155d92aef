"""Folders of results that a page is made of: runs with scores, and analyses with figures."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from heatbox._utils.io import read_json
from heatbox.errors import InputError
from heatbox.evaluation.run import CONFIG, ENVIRONMENT, METRICS, PREDICTIONS, Run, short_names
from heatbox.evaluation.schema import NOT_PARQUET

ANALYSIS = "analysis.json"


@dataclass(frozen=True)
class PageFigure:
    """A figure of a page.

    Attributes:
        title: above it.
        file: an SVG or PNG; a small SVG next to a PNG is shown in its place.
    """

    title: str
    file: Path


@dataclass(frozen=True)
class Folder:
    """One folder of results.

    Attributes:
        path: of the folder.
        name: on the page, unique among the folders.
        metrics: scores of `heatbox evaluate` or `heatbox score`; None without scores.
        figures: of the analyses in it.
    """

    path: Path
    name: str
    metrics: dict[str, Any] | None
    figures: list[PageFigure]

    @property
    def run(self) -> Run:
        """The folder as a run."""
        return Run(self.path)

    @property
    def scores(self) -> dict[str, Any]:
        """The metrics of a folder with scores."""
        assert self.metrics is not None
        return self.metrics

    @property
    def maps(self) -> list[str]:
        """Names of the scored maps, without the baselines."""
        return [name for name in self.scores["methods"] if name not in self.scores["baselines"]]

    @property
    def has_masks(self) -> bool:
        """Whether its maps were scored against masks instead of boxes."""
        return self.metrics is not None and self.metrics.get("truth") == "masks"

    def measured(self, instrument: str, name: str) -> list[Path]:
        """The file `name` of every model that the analyses in the folder measured with an instrument."""
        return [
            file
            for analysis in _analyses(self.path)
            for file in sorted(analysis.glob(f"models/*/{instrument}/{name}"))
        ]

    def milliseconds(self) -> dict[str, float]:
        """Median milliseconds per image of each map, and of the "forward" pass; empty if not recorded.

        Raises:
            InputError: the times are damaged.
        """
        path = self.path / PREDICTIONS
        if not path.exists():
            return {}
        try:
            columns = [name for name in pq.read_schema(path).names if name.startswith("ms_")]
            table = pq.read_table(path, columns=columns)
        except NOT_PARQUET as error:
            raise InputError(f"{path}: is not a readable Parquet file ({error})") from error
        times = {name.removeprefix("ms_"): table[name].to_numpy() for name in columns}
        if wrong := next((name for name, values in times.items() if values.dtype.kind != "f"), ""):
            raise InputError(f"{path}: the milliseconds of {wrong!r} are not numbers")
        return {name: float(np.median(values)) for name, values in times.items()}

    def settings(self) -> str:
        """Configuration and versions as indented JSON."""
        files = [self.path / name for name in (CONFIG, ANALYSIS, ENVIRONMENT)]
        found = {file.name: read_json(file) for file in files if file.is_file()}
        return json.dumps(found, indent=2, ensure_ascii=False)


def read_folders(paths: Sequence[Path]) -> list[Folder]:
    """Read folders that `heatbox evaluate`, `score`, `analyze` or `demo` wrote.

    Raises:
        InputError: a path is no folder of results, or its run is unfinished.
    """
    return [_read(path, name) for path, name in zip(paths, short_names(paths), strict=True)]


def _read(path: Path, name: str) -> Folder:
    if not os.path.isdir(path):
        raise InputError(
            f"{path}: is not a folder, expected one that heatbox evaluate, score or analyze wrote"
        )
    figures = [
        PageFigure(png.stem.replace("-", " "), png)
        for analysis in _analyses(path)
        for png in sorted((analysis / "figures").glob("*.png"))
    ]
    metrics = Run(path).scores() if (path / METRICS).exists() else None
    if metrics is None and not figures:
        if (path / CONFIG).exists():
            raise InputError(f"{path}: contains an unfinished run; rerun the command to resume it")
        raise InputError(f"{path}: contains neither scores ({METRICS}) nor the figures of an analysis")
    return Folder(path, name, metrics, figures)


def _analyses(path: Path) -> list[Path]:
    """Folders of analyses: the folder itself and those directly inside."""
    return [note.parent for note in sorted({*path.glob(ANALYSIS), *path.glob(f"*/{ANALYSIS}")})]
