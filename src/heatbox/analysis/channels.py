"""Channels of the last feature map: the area on which they are active, and their class weights.

CAM Back Again, supplement 12 and 13 (Fig. 5, 12, 18, 19): the smaller the active area of a channel, the
larger its class weight tends to be, so that class activation maps cover only the most discriminative part.
Each point of these figures is a channel of an image, plotted at the channel's weight for the class of the
image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from heatbox._utils import processes
from heatbox._utils.io import read_json
from heatbox._utils.json_schema import NUMBER, checked
from heatbox.analysis.config import ChannelsConfig
from heatbox.analysis.runner import evenly_spaced
from heatbox.data.loader import preprocessed
from heatbox.data.types import Example
from heatbox.errors import InputError
from heatbox.evaluation.images import require_same_labels
from heatbox.evaluation.run import METRICS, Record, Run
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import as_input
from heatbox.visualization.figures import channels as figures
from heatbox.visualization.figures.style import save_figure

if TYPE_CHECKING:
    from heatbox.analysis.runner import Analysis, ComparedModel

PUBLISHED_THRESHOLD = 10.0
"""Activation above which the source counts a pixel."""

FEWEST_FOR_INTERVAL = 5
"""Images below which resampling them is meaningless, so that intervals are NaN."""


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of each channel in each of B images.

    Attributes:
        area: (B, C) fraction of pixels above the threshold, in [0, 1].
        gap: (B, C) spatial mean, in units of the feature map.
    """

    area: Tensor
    gap: Tensor


def activation_area(features: Tensor, threshold: float | Tensor = PUBLISHED_THRESHOLD) -> Tensor:
    """Fraction of a channel's pixels strictly above a threshold.

    Args:
        features: (B, C, h, w).
        threshold: in units of the feature map. The source takes 10 for all its models; models with features
            of another scale need their own, see `percentile_threshold`.

    Returns:
        (B, C) float32 in [0, 1].

    Raises:
        InputError: not (B, C, h, w).
    """
    _check(features)
    return (features > threshold).flatten(2).float().mean(2)


def channel_statistics(features: Tensor, threshold: float = PUBLISHED_THRESHOLD) -> ChannelStatistics:
    """Activation area and spatial mean of every channel of every image; see `activation_area`."""
    return ChannelStatistics(activation_area(features, threshold), features.float().mean((2, 3)))


def percentile_threshold(features: Tensor, percentile: float) -> float:
    """The activation below which `percentile` percent of all values of some images lie.

    A threshold that means the same for models whose features differ in scale: each then counts the same
    fraction of its activations.

    Args:
        features: (B, C, h, w) of a sample of the images.
        percentile: in [0, 100].

    Raises:
        InputError: not (B, C, h, w), or a percentile out of range.
    """
    _check(features)
    if not 0 <= percentile <= 100:
        raise InputError(f"the percentile is {percentile}, expected a number from 0 to 100")
    # NumPy's: torch.quantile refuses more than 2^24 values.
    return float(np.percentile(features.detach().float().cpu().numpy(), percentile))


def _check(features: Tensor) -> None:
    if features.ndim != 4 or 0 in features.shape:
        raise InputError(
            f"features have shape {tuple(features.shape)}, expected (B, C, h, w), none of them 0"
        )


# ----------------------------------------------------------------------------------------- class weights


@dataclass(frozen=True)
class Correlation:
    """Correlation of two quantities of the same channels.

    Attributes:
        pearson: correlation coefficient; NaN if a quantity does not vary.
        spearman: correlation of ranks.
        pearson_interval, spearman_interval: 95% bootstrap intervals over images, since the channels of one
            image are not independent of each other; NaN for fewer than 5 images.
        images: number of images.
        points: number of channels in images.
    """

    pearson: float
    spearman: float
    pearson_interval: tuple[float, float]
    spearman_interval: tuple[float, float]
    images: int
    points: int


def correlate(x: np.ndarray, y: np.ndarray, resamples: int = 2000, seed: int = 0) -> Correlation:
    """Correlation and rank correlation over all channels of all images.

    Each image enters a resample through its five moments, so that no resample passes over the channels.
    Ranks are those among all points; they are not recomputed in a resample.

    Args:
        x, y: (N, C), images by channels.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Raises:
        InputError: arrays of different or wrong shapes, or values that are not finite.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 2 or not first.size:
        raise InputError(
            f"correlated arrays have shapes {first.shape} and {second.shape}, expected (N, C) both"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("correlated arrays contain values that are not finite")
    images = len(first)
    counts = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples)
    plain, plain_interval = _pearson(first, second, counts)
    ranked, ranked_interval = _pearson(_ranks(first), _ranks(second), counts)
    return Correlation(plain, ranked, plain_interval, ranked_interval, images, first.size)


def correlate_by_class(
    x: np.ndarray, y: np.ndarray, labels: Sequence[int], resamples: int = 500, seed: int = 0
) -> dict[int, Correlation]:
    """`correlate` for the images of each class, classes in ascending order."""
    of = np.asarray(labels)
    if of.shape != (len(x),):
        raise InputError(f"there are {of.size} labels for {len(x)} images")
    return {int(label): correlate(x[of == label], y[of == label], resamples, seed) for label in np.unique(of)}


def _pearson(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Correlation of all points, and its interval over resamples of the images given as counts."""
    x, y = x - x.mean(), y - y.mean()
    moments = np.stack([x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)])  # (5, N)
    points = x.shape[1]
    whole = float(_correlation(moments.sum(1), x.size))
    if len(x) < FEWEST_FOR_INTERVAL or math.isnan(whole):
        return whole, (math.nan, math.nan)
    drawn = _correlation(moments @ counts.T, counts.sum(1) * points)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return whole, (float(low), float(high))


def _correlation(moments: np.ndarray, count: np.ndarray | int) -> np.ndarray:
    """From the sums of x, y, x^2, y^2, xy of `count` points; NaN if one of them does not vary."""
    sx, sy, sxx, syy, sxy = moments
    spread_x, spread_y = sxx - sx * sx / count, syy - sy * sy / count
    varies = (spread_x > 1e-12 * sxx) & (spread_y > 1e-12 * syy)
    safe = np.sqrt(np.where(varies, spread_x * spread_y, 1.0))
    return np.where(varies, (sxy - sx * sy / count) / safe, np.nan)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on among all entries; equal entries share their mean rank."""
    flat = values.ravel()
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse.reshape(-1)].reshape(values.shape)


@contextmanager
def random_head(view: ClassifierView, seed: int = 0) -> Iterator[None]:
    """Initialise a classifier's last layer at random; the trained weights are restored on exit.

    The control of supplement 13: the correlation with the weights of an untrained head.

    Raises:
        InputError: the layer has no `reset_parameters`.
    """
    layer = view.classifier
    reset = getattr(layer, "reset_parameters", None)
    if not callable(reset):
        raise InputError(f"{type(layer).__name__} has no reset_parameters, so it cannot be reinitialized")
    kept = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    try:
        with _seeded(layer, seed):
            reset()
        yield
    finally:
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                parameter.copy_(kept[name])


@contextmanager
def _seeded(layer: nn.Module, seed: int) -> Iterator[None]:
    """Torch's generators seeded inside, and restored on exit."""
    device = next(layer.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


# ---------------------------------------------------------------------------------------- over a data set

Numbers = dict[str, Any]
THRESHOLD = "threshold.json"
PERCENTILE_IMAGES = 32
"""Images from which the percentile of a model's activations is computed."""
FEWEST_ACTIVATED = 0.01
"""Fraction of channels that must exceed the fixed threshold somewhere for it to be informative."""
_COLUMNS = ("area", "area_percentile", "gap", "weight", "random_weight")


def prepare(analysis: Analysis, config: ChannelsConfig) -> ChannelsConfig:
    """Refuse images whose classes are not those of every model."""
    analysis.match(config)
    return config


def measure(analysis: Analysis, model: ComparedModel, config: ChannelsConfig) -> Numbers:
    """Areas, spatial means and weights of all channels of all images, and their correlations.

    Raises:
        InputError: a model whose head cannot be traced, or images that cannot be used.
    """
    names = ("data", "limit", "target", "area_threshold", "area_percentile", "norm")
    run = analysis.start(model, "channels", {name: getattr(config, name) for name in names})
    if analysis.overwrite:
        (run.folder / THRESHOLD).unlink(missing_ok=True)
    images = analysis.images_of(model, config)
    if config.target == "label":
        require_same_labels(run, images, "target")
    threshold = processes.from_first(partial(_threshold, analysis, model, config, run))
    analysis.fill(run, model, partial(_records, model, config, threshold), "channels", images)
    numbers = processes.from_first(partial(numbers_of, run, config, threshold))
    run.write_json(METRICS, numbers)
    return numbers


def _threshold(analysis: Analysis, model: ComparedModel, config: ChannelsConfig, run: Run) -> float:
    """The percentile of the activations of some images, saved so that a resumed run has the same."""
    path = run.folder / THRESHOLD
    if path.exists():
        return float(checked(read_json(path), {"threshold": NUMBER}, str(path))["threshold"])
    some = evenly_spaced(analysis.images, PERCENTILE_IMAGES)
    network = model.view.model
    preprocess = model.spec.preprocess(network)
    with torch.inference_mode():
        maps = [
            model.view.features(as_input(network, images)).float().cpu()
            for _, images in preprocessed(some, some.examples, preprocess, config.batch_size)
        ]
    threshold = percentile_threshold(torch.cat(maps), config.area_percentile)
    run.write_json(THRESHOLD, {"threshold": threshold, "images": len(some)})
    return threshold


def _records(
    model: ComparedModel,
    config: ChannelsConfig,
    threshold: float,
    examples: Sequence[Example],
    images: Tensor,
) -> list[Record]:
    view = model.view
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


def numbers_of(run: Run, config: ChannelsConfig, threshold: float) -> Numbers:
    """Correlations and densities of the records of a finished run."""
    records = [record for batch in run.records() for record in batch]
    targets = [record["target"] for record in records]
    value = {name: np.stack([record[name] for record in records]) for name in _COLUMNS}
    numbers: Numbers = {
        "images": len(targets),
        "channels": value["gap"].shape[1],
        "activated_share": float((value["area"] > 0).mean()),
        "threshold": config.area_threshold,
        "percentile": config.area_percentile,
        "percentile_threshold": threshold,
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
    """Which of the two areas the figures show, and the label of its axis."""
    few = any(numbers["activated_share"] < FEWEST_ACTIVATED for numbers in found.values())
    if config.area_by == "percentile" or (config.area_by == "auto" and few):
        ordinal = f"{config.area_percentile:g}th percentile"
        return "area_percentile", f"activation area: fraction of pixels\nabove the model's {ordinal}"
    return "area", f"activation area: fraction of pixels\nabove {config.area_threshold:g}"


def draw_areas(analysis: Analysis, found: dict[str, Numbers], config: ChannelsConfig) -> list[Path]:
    """Weight against area, pooled and by class."""
    key, words = shown_area(found, config)
    pooled = figures.against_weight({label: one[key] for label, one in found.items()}, words)
    classes = {label: one[key]["classes"] for label, one in found.items()}
    by_class = figures.by_class(classes, "activation area and class weight")
    written = save_figure(pooled, analysis.figures / "area-weight")
    return written + save_figure(by_class, analysis.figures / "area-weight-classes")


def draw_weights(analysis: Analysis, found: dict[str, Numbers], config: ChannelsConfig) -> list[Path]:
    """Weight against spatial mean, with the trained and with a random head."""
    sides = {
        f"{label}, {head} head": one["control"][head]
        for label, one in found.items()
        for head in ("trained", "random")
    }
    words = "spatial mean of the channel\n(units of the feature map)"
    heads = {
        label: {head: one["control"][head]["correlation"] for head in ("trained", "random")}
        for label, one in found.items()
    }
    written = save_figure(figures.against_weight(sides, words, per_row=2), analysis.figures / "gap-weight")
    return written + save_figure(figures.control(heads), analysis.figures / "gap-weight-control")


def headline(numbers: Numbers) -> Numbers:
    """The numbers of the comparison."""
    return {
        "area_weight_rank_correlation": numbers["area_percentile"]["correlation"]["spearman"],
        "gap_weight_rank_correlation": numbers["gap"]["correlation"]["spearman"],
        "mean_area_above_threshold": numbers["mean_area"],
    }
