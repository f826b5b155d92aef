"""Effective receptive fields of several networks on one data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from heatbox._utils.progress import Track, silent
from heatbox.analysis.config import ErfConfig
from heatbox.analysis.erf_fields import RunningField, measure_field, numbers_of
from heatbox.analysis.positions import receptive_fields
from heatbox.analysis.subjects import Subject
from heatbox.data.loader import preprocessed
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.evaluation.run import METRICS
from heatbox.visualization.figures import erf as figures
from heatbox.visualization.figures.style import save_figure

FIELD = "contribution.npz"
Numbers = dict[str, Any]


def measure(
    subject: Subject, split: Split, config: ErfConfig, overwrite: bool = False, track: Track = silent
) -> Numbers:
    """The receptive field of one network, of the centre and of a grid of positions.

    Returns:
        what `numbers_of` says, with "positions" where a grid was asked for.

    Raises:
        InputError: an argument out of range, or images that cannot be used.
    """
    for name in ("erf_size", "erf_images", "erf_batch_size", "erf_grid_images"):
        if getattr(config, name) < 1:
            raise InputError(f"{name.replace('_', ' ')} is {getattr(config, name)}, expected 1 or more")
    options = {"data": config.data, "erf_size": config.erf_size, "erf_images": config.erf_images}
    run = subject.run("erf", options, config.seed, overwrite)
    path = run.folder / FIELD
    if overwrite:
        path.unlink(missing_ok=True)
    examples = split.take(config.erf_images).examples
    what = f"receptive field of {subject.label}"
    size = (config.erf_size, "bicubic")
    preprocess = subject.preprocess(*size)
    found = measure_field(subject.view, split, examples, preprocess, config.erf_batch_size, path, what, track)
    numbers = numbers_of(found)
    before = run.metrics().get("positions") if (run.folder / METRICS).exists() else None
    wanted = [config.erf_grid, config.erf_grid_images]
    if before and before.get("asked") == wanted:
        numbers["positions"] = before
    elif config.erf_grid > 0:
        some = split.take(config.erf_grid_images).examples
        coming = (images for _, images in preprocessed(split, some, preprocess, 1))
        numbers["positions"] = _positions(
            subject, track(coming, f"positions of {subject.label}", len(some)), wanted
        )
    run.write_json(METRICS, numbers)
    return numbers


def _positions(subject: Subject, images: Any, wanted: list[int]) -> Numbers:
    fields = receptive_fields(subject.view, images, wanted[0])
    fits = fields.gaussians()
    return {
        "asked": wanted,
        "rows": fields.rows,
        "columns": fields.columns,
        "sigma": np.array([[fit.sigma for fit in row] for row in fits]),
        "explained": np.array([[fit.explained for fit in row] for row in fits]),
        "mass_centre": fields.mass_centres(),
        "feature_size": fields.feature_size,
        "size": fields.contribution.shape[2:],
        "images": fields.images,
    }


def draw(subjects: list[Subject], found: dict[str, Numbers], out: Path) -> list[Path]:
    """Heatmaps with the squares, the curves of all networks on one plot, the radius of each position."""
    maps = {
        subject.label: (
            RunningField(subject.folder / "erf" / FIELD).mean().contribution,
            found[subject.label],
        )
        for subject in subjects
    }
    written = save_figure(figures.heatmaps(maps), out / "erf-heatmaps")
    written += save_figure(figures.curves(found), out / "erf-curves")
    grids = {label: numbers["positions"] for label, numbers in found.items() if "positions" in numbers}
    if grids:
        written += save_figure(figures.positions(grids), out / "erf-positions")
    return written


def headline(numbers: Numbers) -> dict[str, Any]:
    """The numbers that the comparison shows."""
    return {
        "erf_auc": numbers["log"]["auc"],
        "erf_area_at_half": numbers["log"]["area_ratio"]["0.5"],
        "erf_gaussian_radius_px": numbers.get("gaussian", {}).get("sigma"),
    }
