"""Class weights against what their channels do: correlations with intervals, and a random head as control.

CAM Back Again, supplement 12 and 13: a point is a channel in an image, its height the weight that the image's
class gives to the channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from heatbox.errors import InputError
from heatbox.models.introspect import ClassifierView

FEWEST_FOR_INTERVAL = 5
"""Images below which resampling them says nothing, so that intervals are NaN."""


@dataclass(frozen=True)
class Correlation:
    """How two quantities of the same channels go together.

    Attributes:
        pearson: correlation coefficient; NaN where a quantity does not vary.
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

    Resampled images are summed up by their five moments each, so that no resample touches the channels
    again. Ranks are those among all points and are not taken anew in each resample.

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
        raise InputError("correlated arrays hold values that are not finite")
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
    """From the sums of x, y, x^2, y^2, xy of `count` points; NaN where one of them does not vary."""
    sx, sy, sxx, syy, sxy = moments
    spread_x, spread_y = sxx - sx * sx / count, syy - sy * sy / count
    varies = (spread_x > 1e-12 * sxx) & (spread_y > 1e-12 * syy)
    safe = np.sqrt(np.where(varies, spread_x * spread_y, 1.0))
    return np.where(varies, (sxy - sx * sy / count) / safe, np.nan)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on among all entries, equal ones sharing their mean rank."""
    flat = values.ravel()
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse.reshape(-1)].reshape(values.shape)


@contextmanager
def random_head(view: ClassifierView, seed: int = 0) -> Iterator[None]:
    """Give a classifier's last layer freshly initialised weights; the trained ones come back at the end.

    The control of supplement 13: what a correlation with the weights of an untrained head would be.

    Raises:
        InputError: the layer cannot be initialised anew.
    """
    layer = view.classifier
    reset = getattr(layer, "reset_parameters", None)
    if not callable(reset):
        raise InputError(f"{type(layer).__name__} has no reset_parameters, so it cannot be initialised anew")
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
    """Torch's generators seeded for what is inside, and put back afterwards."""
    device = next(layer.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
