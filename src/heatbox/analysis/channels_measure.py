"""What channels do in each image, and the weight their class gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heatbox._utils.io import read_json
from heatbox._utils.progress import Track, silent
from heatbox.analysis.activation import activation_area, percentile_threshold
from heatbox.analysis.class_weights import correlate, correlate_by_class, random_head
from heatbox.analysis.config import ChannelsConfig
from heatbox.analysis.subjects import Subject, spread
from heatbox.data.loader import preprocessed
from heatbox.data.types import Example, Split
from heatbox.evaluation.collect import collect
from heatbox.evaluation.run import METRICS, Record, Run
from heatbox.evaluation.schema import NUMBER, checked
from heatbox.models.spec import as_input
from heatbox.visualization.figures import channels as figures
from heatbox.visualization.figures.style import save_figure

Numbers = dict[str, Any]
THRESHOLD = "threshold.json"
PERCENTILE_IMAGES = 32
"""Images from which the percentile of a network's activations is read."""
FEWEST_ACTIVATED = 0.01
"""Share of channels that must pass the fixed threshold somewhere for it to say anything."""
_COLUMNS = ("area", "area_percentile", "gap", "weight", "random_weight")


def measure(
    subject: Subject, split: Split, config: ChannelsConfig, overwrite: bool = False, track: Track = silent
) -> Numbers:
    """Areas, spatial means and weights of all channels of all images, and how they go together.

    Raises:
        InputError: a network that cannot be seen through, or images that cannot be used.
    """
    options = {
        name: getattr(config, name)
        for name in ("data", "limit", "target", "area_threshold", "area_percentile", "norm")
    }
    run = subject.run("channels", options, config.seed, overwrite)
    if overwrite:
        (run.folder / THRESHOLD).unlink(missing_ok=True)
    if not run.finished:
        threshold = _threshold(subject, split, config, run)

        def records(examples: Sequence[Example], images: Tensor) -> list[Record]:
            return _records(subject, examples, images, config, threshold)

        what = f"channels of {subject.label}"
        collect(split, subject.preprocess(), config.batch_size, run, records, what, track)
        run.finish()
    numbers = numbers_of(run, config)
    run.write_json(METRICS, numbers)
    return numbers


def _threshold(subject: Subject, split: Split, config: ChannelsConfig, run: Run) -> float:
    """The percentile of the activations of some images, kept so that a resumed run has the same."""
    if (run.folder / THRESHOLD).exists():
        return _saved_threshold(run)
    some = spread(split, PERCENTILE_IMAGES).examples
    with torch.inference_mode():
        maps = [
            subject.view.features(as_input(subject.view.model, images)).float().cpu()
            for _, images in preprocessed(split, some, subject.preprocess(), config.batch_size)
        ]
    threshold = percentile_threshold(torch.cat(maps), config.area_percentile)
    run.write_json(THRESHOLD, {"threshold": threshold, "images": len(some)})
    return threshold


def _saved_threshold(run: Run) -> float:
    path = run.folder / THRESHOLD
    return float(checked(read_json(path), {"threshold": NUMBER}, str(path))["threshold"])


def _records(
    subject: Subject, examples: Sequence[Example], images: Tensor, config: ChannelsConfig, threshold: float
) -> list[Record]:
    view = subject.view
    with torch.inference_mode():
        features, logits = view(as_input(view.model, images))
        labels = torch.tensor([example.label for example in examples], device=features.device)
        targets = labels if config.target == "label" else logits.argmax(1)
        found = {
            "area": activation_area(features, config.area_threshold),
            "area_percentile": activation_area(features, threshold),
            "gap": features.float().mean((2, 3)),
            "weight": view.class_weights(features, targets, config.norm)[0],
        }
    with random_head(view, config.seed), torch.inference_mode():
        found["random_weight"] = view.class_weights(features, targets, config.norm)[0]
    arrays = {name: value.cpu().numpy().astype(np.float32) for name, value in found.items()}
    return [
        {"id": example.id, "target": int(targets[i]), **{name: arrays[name][i] for name in _COLUMNS}}
        for i, example in enumerate(examples)
    ]


def numbers_of(run: Run, config: ChannelsConfig) -> Numbers:
    """Correlations and densities of what a finished run holds."""
    targets: list[int] = []
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
    for batch in run.records():
        targets += [record["target"] for record in batch]
        for name, values in parts.items():
            values.append(np.stack([record[name] for record in batch]))
    value = {name: np.concatenate(values) for name, values in parts.items()}
    numbers: Numbers = {
        "images": len(targets),
        "channels": value["gap"].shape[1],
        "activated_share": float((value["area"] > 0).mean()),
        "threshold": config.area_threshold,
        "percentile": config.area_percentile,
        "percentile_threshold": _saved_threshold(run),
        "mean_area": float(value["area"].mean()),
        "mean_area_percentile": float(value["area_percentile"].mean()),
    }
    for name in ("area", "area_percentile", "gap"):
        numbers[name] = _against(value[name], value["weight"], targets, config.seed)
    # The control is drawn on fewer images, as in the source, and beside the trained head on the same ones.
    chosen = np.random.default_rng(config.seed).permutation(len(targets))[: config.control_images]
    numbers["control"] = {
        head: {
            "correlation": asdict(correlate(value["gap"][chosen], value[name][chosen], seed=config.seed)),
            "density": figures.density(value["gap"][chosen].ravel(), value[name][chosen].ravel()),
        }
        for head, name in (("trained", "weight"), ("random", "random_weight"))
    }
    return numbers


def _against(x: np.ndarray, weight: np.ndarray, targets: list[int], seed: int) -> Numbers:
    return {
        "correlation": asdict(correlate(x, weight, seed=seed)),
        "density": figures.density(x.ravel(), weight.ravel()),
        "classes": [
            {
                "class": label,
                "pearson": one.pearson,
                "spearman": one.spearman,
                "low": one.spearman_interval[0],
                "high": one.spearman_interval[1],
                "images": one.images,
            }
            for label, one in correlate_by_class(x, weight, targets, seed=seed).items()
        ],
    }


def shown_area(found: dict[str, Numbers], config: ChannelsConfig) -> tuple[str, str]:
    """Which of the two areas the figures show, and what their axis says."""
    few = any(numbers["activated_share"] < FEWEST_ACTIVATED for numbers in found.values())
    if config.area_by == "percentile" or (config.area_by == "auto" and few):
        ordinal = f"{config.area_percentile:g}th percentile"
        return "area_percentile", f"activation area: share of pixels\nabove the network's {ordinal}"
    return "area", f"activation area: share of pixels\nabove {config.area_threshold:g}"


def draw_areas(found: dict[str, Numbers], out: Path, config: ChannelsConfig) -> list[Path]:
    """Weight against area, pooled and by class."""
    key, words = shown_area(found, config)
    written = save_figure(
        figures.against_weight({label: one[key] for label, one in found.items()}, words), out / "area-weight"
    )
    classes = {label: one[key]["classes"] for label, one in found.items()}
    return written + save_figure(
        figures.by_class(classes, "activation area and class weight"), out / "area-weight-classes"
    )


def draw_weights(found: dict[str, Numbers], out: Path) -> list[Path]:
    """Weight against spatial mean, with the trained and with a random head."""
    sides = {
        f"{label}, {head} head": one["control"][head]
        for label, one in found.items()
        for head in ("trained", "random")
    }
    words = "spatial mean of the channel\n(units of the feature map)"
    written = save_figure(figures.against_weight(sides, words, per_row=2), out / "gap-weight")
    heads = {
        label: {head: one["control"][head]["correlation"] for head in ("trained", "random")}
        for label, one in found.items()
    }
    return written + save_figure(figures.control(heads), out / "gap-weight-control")


def headline(numbers: Numbers) -> dict[str, Any]:
    """The numbers that the comparison shows."""
    return {
        "area_weight_rank_correlation": numbers["area_percentile"]["correlation"]["spearman"],
        "gap_weight_rank_correlation": numbers["gap"]["correlation"]["spearman"],
        "mean_area_above_threshold": numbers["mean_area"],
    }
