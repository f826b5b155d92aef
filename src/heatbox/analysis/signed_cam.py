"""Class activation maps of several networks: signs of the weights, and thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from heatbox._utils.progress import Track, silent
from heatbox.analysis.activation import activated_area
from heatbox.analysis.config import MapsConfig
from heatbox.analysis.subjects import Subject
from heatbox.analysis.thresholds import threshold_curve
from heatbox.boxes.ops import REFERENCE_SIDE
from heatbox.data.types import Split
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import METRICS, Record, Run
from heatbox.maps.normalize import normalize_heatmap
from heatbox.visualization.figures import maps as figures
from heatbox.visualization.figures.style import save_figure
from heatbox.visualization.overlay import contact_sheet, save_png

Numbers = dict[str, Any]
SIGNED = ("cam", "cam-positive", "cam-negative")
METHODS = (*SIGNED, "pc1")
AREA_THRESHOLDS = np.arange(20) / 20
_HALF = 10  # index of .5


def measure(
    subject: Subject, split: Split, config: MapsConfig, overwrite: bool = False, track: Track = silent
) -> Numbers:
    """Make and score the maps of one network.

    Returns:
        "scores" (see `heatbox.evaluation.summary.table_of`), "areas" (what each signed map keeps) and
        "curves" (method → score at every threshold).

    Raises:
        InputError: images without boxes, or what `heatbox.evaluation.predict.evaluate` raises.
    """
    run = Run(subject.folder / "maps")
    asked = subject.evaluate_config(
        data=config.data,
        metadata=config.metadata,
        method=METHODS,
        target=config.target,
        norm=config.norm,
        thresholds=config.thresholds,
        limit=config.limit,
        batch_size=config.batch_size,
    )
    run.start(asked, config.seed, resume=not overwrite)
    if run.finished and (run.folder / METRICS).exists():
        scores = run.metrics()
    else:
        scores = evaluate(asked, run, track, model=subject.view.model, split=split)
    numbers = {
        "scores": scores,
        "areas": areas_of(run, track),
        "curves": {
            name: asdict(threshold_curve(scores["methods"][name], scores["images"])) for name in METHODS
        },
    }
    run.write_json("instruments.json", {key: numbers[key] for key in ("areas", "curves")})
    return numbers


def areas_of(run: Run, track: Track = silent) -> Numbers:
    """How much of the image each signed map keeps at each threshold, and how much the boxes cover."""
    areas: dict[str, list[np.ndarray]] = {name: [] for name in SIGNED}
    objects: list[float] = []
    for batch in track(run.records(64), "activated areas", -(-len(run) // 64)):
        objects += [_covered(record) for record in batch]
        for name, found in areas.items():
            maps = np.stack([normalize_heatmap(record[f"map_{name}"], REFERENCE_SIDE) for record in batch])
            found.append(activated_area(maps, AREA_THRESHOLDS))
    whole = {name: np.concatenate(found) for name, found in areas.items()}
    both = np.stack([whole["cam"][:, _HALF], whole["cam-positive"][:, _HALF]])  # (2, N)
    counts = np.random.default_rng(0).multinomial(
        both.shape[1], np.full(both.shape[1], 1 / both.shape[1]), 2000
    )
    drawn = both @ counts.T
    ratios = drawn[0] / np.maximum(drawn[1], 1e-12)
    return {
        "thresholds": AREA_THRESHOLDS,
        "area": {name: found.mean(0) for name, found in whole.items()},
        "ratio": float(both[0].sum() / max(both[1].sum(), 1e-12)),
        "ratio_interval": np.quantile(ratios, [0.025, 0.975]),
        "shrunk_share": float((both[0] < both[1]).mean()),
        "object": float(np.mean(objects)),
        "images": both.shape[1],
    }


def _covered(record: Record) -> float:
    """Share of the image under the union of the boxes, on a grid of 224 x 224."""
    scale = REFERENCE_SIDE / np.tile([record["width"], record["height"]], 2)
    mask = np.zeros((REFERENCE_SIDE, REFERENCE_SIDE), bool)
    for x1, y1, x2, y2 in (record["boxes"] * scale).round().astype(int):
        mask[max(y1, 0) : y2, max(x1, 0) : x2] = True
    return float(mask.mean())


def draw_signed(
    subjects: Sequence[Subject], found: dict[str, Numbers], split: Split, out: Path, examples: int
) -> list[Path]:
    """Scores and areas of maps from positive weights, negative weights and all; a sheet of pictures each."""
    scores = {
        label: {
            name: {**numbers["scores"]["methods"][name], "images": numbers["scores"]["images"]}
            for name in SIGNED
        }
        | {"images": numbers["scores"]["images"]}
        for label, numbers in found.items()
    }
    written = save_figure(figures.signed_scores(scores), out / "signed-cam-scores")
    areas = {label: numbers["areas"] for label, numbers in found.items()}
    written += save_figure(figures.signed_areas(areas), out / "signed-cam-areas")
    for subject in subjects:
        path = out / f"signed-cam-{subject.folder.name}.png"
        runs = {subject.label: Run(subject.folder / "maps").records()}
        sheet = contact_sheet(runs, split, SIGNED, examples, 160)
        written.append(save_png(sheet, path))
    return written


def draw_thresholds(found: dict[str, Numbers], out: Path) -> list[Path]:
    """Score against threshold, CAM and PC1."""
    curves = {
        method: {label: numbers["curves"][method] for label, numbers in found.items()}
        for method in ("cam", "pc1")
    }
    return save_figure(figures.threshold_curves(curves), out / "thresholds")


def headline(numbers: Numbers) -> dict[str, Any]:
    """The numbers that the comparison shows."""
    methods = numbers["scores"]["methods"]
    return {
        "cam_MaxBoxAcc": methods["cam"]["MaxBoxAcc"],
        "cam_MaxBoxAcc_interval": methods["cam"]["MaxBoxAcc_interval"],
        "cam_MaxBoxAccV2": methods["cam"]["MaxBoxAccV2"],
        "cam_MaxBoxAccV2_interval": methods["cam"]["MaxBoxAccV2_interval"],
        "pc1_MaxBoxAccV2": methods["pc1"]["MaxBoxAccV2"],
        "cam_threshold": methods["cam"]["threshold"],
        "pc1_threshold": methods["pc1"]["threshold"],
        "area_all_over_positive": numbers["areas"]["ratio"],
    }
