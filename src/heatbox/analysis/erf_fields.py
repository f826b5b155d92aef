"""Receptive fields over many images: a running mean on disk, so that hours of work can be interrupted."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heatbox._utils.io import write_atomically
from heatbox._utils.progress import Track, silent
from heatbox.analysis.erf import PUBLISHED_THRESHOLDS, ReceptiveField, contributions
from heatbox.data.loader import preprocessed
from heatbox.data.transforms import Preprocess
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.models.introspect import ClassifierView


@dataclass
class RunningField:
    """The sum of the contributions of some images, in one .npz file that is rewritten as it grows.

    Args:
        path: the file; what it holds already is taken up.

    Raises:
        InputError: the file is damaged.
    """

    path: Path

    def __post_init__(self) -> None:
        self.total: np.ndarray | None = None
        self.ids: list[str] = []
        self.skipped: list[str] = []
        if self.path.exists():
            try:
                with np.load(self.path) as file:
                    self.total, self.ids = file["total"], file["ids"].tolist()
                    self.skipped = file["skipped"].tolist()
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                raise InputError(
                    f"{self.path}: is damaged ({error}); delete it to measure its images again"
                ) from error

    def add(self, ids: Sequence[str], maps: np.ndarray) -> None:
        """Add the (B, H, W) contributions of some images; those not finite are left out and named."""
        finite = np.isfinite(maps).all((1, 2))
        summed = maps[finite].sum(0, dtype=np.float64)
        self.total = summed if self.total is None else self.total + summed
        for name, good in zip(ids, finite, strict=True):
            (self.ids if good else self.skipped).append(name)

    def save(self) -> None:
        """Write the file."""
        if self.total is not None:
            stream = io.BytesIO()
            ids, skipped = np.array(self.ids, dtype=str), np.array(self.skipped, dtype=str)
            np.savez(stream, total=self.total, ids=ids, skipped=skipped)
            write_atomically(self.path, stream.getvalue())

    def mean(self) -> ReceptiveField:
        """The mean over the images added so far.

        Raises:
            InputError: there is none.
        """
        if self.total is None or not self.ids:
            raise InputError(f"{self.path}: holds the receptive field of no image")
        return ReceptiveField(self.total / len(self.ids), len(self.ids), len(self.skipped))


def measure_field(
    view: ClassifierView,
    split: Split,
    examples: Sequence[Example],
    preprocess: Preprocess,
    batch_size: int,
    path: Path,
    what: str,
    track: Track = silent,
) -> ReceptiveField:
    """The mean receptive field over some examples; goes on from what `path` holds.

    The file is written after every batch: beside a backward pass that costs little.
    """
    field = RunningField(path)
    known = {*field.ids, *field.skipped}
    todo = [example for example in examples if example.id not in known]
    path.parent.mkdir(parents=True, exist_ok=True)
    coming = preprocessed(split, todo, preprocess, batch_size)
    for chosen, images in track(coming, what, -(-len(todo) // batch_size)):
        field.add([example.id for example in chosen], contributions(view, images))
        field.save()
    return field.mean()


def numbers_of(found: ReceptiveField) -> dict[str, Any]:
    """What is said of a receptive field in JSON: the published shares, the curve, its area, a Gaussian."""
    height, width = found.contribution.shape
    numbers: dict[str, Any] = {"images": found.images, "skipped": found.skipped, "size": [height, width]}
    for log in (True, False):
        shares, ratios = found.curve(log)
        numbers["log" if log else "linear"] = {
            "auc": found.auc(log),
            "side": {f"{t:g}": found.side(t, log) for t in PUBLISHED_THRESHOLDS},
            "area_ratio": {f"{t:g}": found.area_ratio(t, log) for t in PUBLISHED_THRESHOLDS},
            "t": shares,
            "r": ratios,
        }
    if found.contribution.any():
        fit = found.gaussian()
        numbers["gaussian"] = {"sigma": fit.sigma, "explained": fit.explained}
    return numbers
