"""How complex the feature maps of several networks are."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heatbox._utils.progress import Track, silent
from heatbox.analysis.complexity import (
    components_for,
    explained_variance,
    reconstruction_error,
    sample_channels,
)
from heatbox.analysis.config import ComplexityConfig
from heatbox.analysis.subjects import Subject
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.collect import collect
from heatbox.evaluation.run import METRICS, Record, Run
from heatbox.models.spec import as_input
from heatbox.visualization.figures import complexity as figures
from heatbox.visualization.figures.style import save_figure

Numbers = dict[str, Any]
_BAND = (0.1, 0.9)


def common_grid(subjects: Sequence[Subject], config: ComplexityConfig) -> int:
    """The side to which all networks' maps are averaged: as asked, or the smallest map's.

    Raises:
        InputError: a network whose map has a single position along a side.
    """
    grid = config.grid
    for subject in subjects:
        side = subject.feature_side()
        if side < 2:
            raise InputError(
                f"{subject.label}: its feature map has one position a side; pass a larger --size"
            )
        grid = min(grid, side)
        if len(subjects) > 1:
            subject.release()
    return grid


def measure(
    subject: Subject,
    split: Split,
    config: ComplexityConfig,
    grid: int,
    overwrite: bool = False,
    track: Track = silent,
) -> Numbers:
    """Explained variance of every image, and dictionaries learned from half of the images.

    Raises:
        InputError: fewer than two images, or what `reconstruction_error` raises.
    """
    if len(split) < 2:
        raise InputError(
            f"{config.data}: has one image; dictionaries need some to learn from and some unseen"
        )
    options = {name: getattr(config, name) for name in ("data", "limit", "channel_norm", "channels_an_image")}
    run = subject.run("complexity", options | {"grid": grid}, config.seed, overwrite)
    if not run.finished:

        def records(examples: Sequence[Example], images: Tensor) -> list[Record]:
            return _records(subject, examples, images, config, grid)

        what = f"complexity of {subject.label}"
        collect(split, subject.preprocess(), config.batch_size, run, records, what, track)
        run.finish()
    numbers = numbers_of(run, config, grid)
    run.write_json(METRICS, numbers)
    return numbers


def _records(
    subject: Subject, examples: Sequence[Example], images: Tensor, config: ComplexityConfig, grid: int
) -> list[Record]:
    norm = None if config.channel_norm == "none" else config.channel_norm
    with torch.inference_mode():
        features = subject.view.features(as_input(subject.view.model, images)).float()
        pooled = torch.nn.functional.adaptive_avg_pool2d(features, grid)
        own, common = (explained_variance(maps, norm).cpu().numpy() for maps in (features, pooled))
        seeds = [zlib.crc32(f"{config.seed} {example.id}".encode()) for example in examples]
        drawn = sample_channels(features, config.channels_an_image, grid, seeds).cpu().numpy()
    height, width = features.shape[2:]
    return [
        {"id": example.id, "explained": own[i], "explained_grid": common[i], "sample": drawn[i],
         "height": height, "width": width}
        for i, example in enumerate(examples)
    ]  # fmt: skip


def numbers_of(run: Run, config: ComplexityConfig, grid: int) -> Numbers:
    """Curves and errors of what a finished run holds."""
    records = [record for batch in run.records() for record in batch]
    own, common = (np.stack([record[key] for record in records]) for key in ("explained", "explained_grid"))
    side = (records[0]["height"], records[0]["width"])
    sample = np.stack([record["sample"] for record in records])
    # Every other image, so that both halves hold all classes of a data set sorted by class.
    found = reconstruction_error(sample[::2], sample[1::2], config.atoms, config.nonzero, config.seed)
    return {
        "own": _curve(own, side),
        "grid": _curve(common, (grid, grid)),
        "reconstruction": {**asdict(found), "grid": grid},
    }


def _curve(explained: np.ndarray, side: tuple[int, int]) -> Numbers:
    known = explained[~np.isnan(explained).any(1)]
    if not len(known):
        raise InputError("the feature maps of all images are constant: there is no variance to explain")
    cumulative = known.astype(np.float64).cumsum(1)
    low, high = np.quantile(cumulative, _BAND, axis=0)
    return {
        "mean": cumulative.mean(0),
        "low": low,
        "high": high,
        "map": side,
        "images": len(known),
        "first": float(cumulative[:, 0].mean()),
        "components_for_90": float(components_for(known, 0.9).mean()),
    }


def draw(found: dict[str, Numbers], out: Path) -> list[Path]:
    """Explained variance, and reconstruction error."""
    written = save_figure(figures.explained_variance(found), out / "explained-variance")
    errors = {label: numbers["reconstruction"] for label, numbers in found.items()}
    return written + save_figure(figures.reconstruction(errors), out / "reconstruction")


def headline(numbers: Numbers) -> dict[str, Any]:
    """The numbers that the comparison shows."""
    return {
        "pc1_explained": numbers["grid"]["first"],
        "components_for_90": numbers["grid"]["components_for_90"],
        "reconstruction_error": float(numbers["reconstruction"]["error"][-1]),
    }
