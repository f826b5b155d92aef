"""Bootstrap intervals over images: how much a score varies between samples of the same kind.

Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979: the percentile interval of the score over
resamples drawn with replacement. Results are determined by the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from heatbox._utils.checks import as_numbers, check_integer, check_number
from heatbox._utils.devices import available_cores
from heatbox.errors import InputError
from heatbox.metrics.functional import average_precision

IMAGES_AT_A_TIME = 2048
"""Images whose curves or histograms are processed at once, to limit memory."""

FEW_VALUES = 4096
"""Number of distinct per-image scores up to which a resample is drawn as counts of each value."""


@dataclass(frozen=True)
class Interval:
    """A score in percent with its bootstrap interval.

    Attributes:
        estimate: the score on the images themselves.
        low: lower end.
        high: upper end.
        level: fraction of resamples between the ends.
    """

    estimate: float
    low: float
    high: float
    level: float


def bootstrap_interval(
    correct: np.ndarray, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval of an accuracy at fixed thresholds.

    The sum over a resample of N images depends only on how often it drew each of the few distinct per-image
    scores. These counts are multinomial: drawing them gives the same distribution as drawing the images.

    Args:
        correct: (N,) or (N, I) per-image correctness at the chosen thresholds, as booleans or numbers;
            several columns (the IoUs of MaxBoxAccV2) are averaged.
        resamples: number of resamples.
        level: fraction of resamples that the interval contains.
        seed: of the resampling.

    Raises:
        InputError: no image, a value that is not finite, or an argument out of range.
        TypeError: values that are not numbers.

    Examples:
        >>> interval = bootstrap_interval(np.array([1, 1, 1, 0]))
        >>> interval.estimate, interval.low, interval.high
        (75.0, 25.0, 100.0)
    """
    expected = "(N,) or (N, I) numbers or booleans"
    scores = as_numbers(correct, "correct", expected)
    fits = scores.ndim in (1, 2) and 0 not in scores.shape[1:] and bool(np.isfinite(scores).all())
    _check(fits, expected, len(scores) if scores.ndim else 0, resamples, level, seed)
    scores = scores.mean(1) if scores.ndim == 2 else scores
    rng = np.random.default_rng(seed)
    values, counts = np.unique(scores, return_counts=True)
    if len(values) <= FEW_VALUES:
        drawn = np.concatenate(
            [
                rng.multinomial(len(scores), counts / len(scores), n) @ values
                for n in _batches(resamples, max(1, 2**22 // len(values)))
            ]
        )
    else:
        drawn = np.array([scores[rng.integers(0, len(scores), len(scores))].sum() for _ in range(resamples)])
    return _interval(float(scores.mean() * 100), drawn / len(scores) * 100, level)


def paired_interval(
    correct: np.ndarray, other: np.ndarray, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval of the difference of two methods on the same images, first minus second.

    Both methods use the same resamples, so that the difficulty of an image for both cancels out.

    Args:
        correct: (N,) or (N, I) per-image correctness of the first method.
        other: the same of the second, images in the same order.
        resamples: number of resamples.
        level: fraction of resamples that the interval contains.
        seed: of the resampling.

    Raises:
        InputError: shapes differ, or as `bootstrap_interval`.
    """
    expected = "(N,) or (N, I) numbers or booleans"
    first, second = as_numbers(correct, "correct", expected), as_numbers(other, "other", expected)
    if first.shape != second.shape:
        raise InputError(f"compared scores have shapes {first.shape} and {second.shape}, expected the same")
    return bootstrap_interval(first - second, resamples, level, seed)


def best_threshold_interval(
    correct: np.ndarray,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
    threads: int | None = None,
) -> Interval:
    """Interval of a score under the oracle policy, the best threshold chosen again in every resample.

    Choosing the best of many thresholds on the scored images biases the score upwards; an interval at a
    threshold that was chosen once omits the part of the spread that the choice adds.

    Args:
        correct: (N, I, T) booleans: image, IoU, threshold.
        resamples: number of resamples.
        level: fraction of resamples that the interval contains.
        seed: of the resampling.
        threads: threads to use; all cores by default.

    Raises:
        InputError: as `bootstrap_interval`.
    """
    from heatbox.metrics._kernels import best_of_resamples

    bits = np.asarray(correct, dtype=bool)
    _check(bits.ndim == 3, "(N, I, T) booleans", len(bits) if bits.ndim else 0, resamples, level, seed)
    images, _, thresholds = bits.shape
    # As the threshold rises, an image's correctness changes only a few times: keep these changes.
    rising, falling = _changes(bits, 1), _changes(bits, -1)
    batches = _batches(resamples, 64)
    seeds = np.random.default_rng(seed).integers(1, 2**63, len(batches), dtype=np.uint64)

    def draw(k: int) -> np.ndarray:
        return best_of_resamples(images, *rising, *falling, thresholds, batches[k], seeds[k])

    with ThreadPoolExecutor(threads or available_cores()) as pool:
        drawn = np.concatenate(list(pool.map(draw, range(len(batches)))))
    estimate = float(bits.sum(0).max(1).mean() / images * 100)
    return _interval(estimate, drawn / images * 100, level)


def pxap_interval(
    histograms: np.ndarray,
    other: np.ndarray | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of PxAP over images, or of the difference of two methods on the same images.

    The score is that of the pooled pixels; the bootstrap draws images, not pixels.

    Args:
        histograms: (N, 2, T + 2) background and object pixels of each image by value, from a `PxAP` metric
            with `per_image`.
        other: the same of the method to be subtracted, images in the same order.
        resamples: number of resamples.
        level: fraction of resamples that the interval contains.
        seed: of the resampling.

    Raises:
        InputError: shapes differ, or as `bootstrap_interval`.
    """
    _check(histograms.ndim == 3, "(N, 2, T + 2) counts", len(histograms), resamples, level, seed)
    if other is not None and other.shape != histograms.shape:
        raise InputError(
            f"compared histograms have shapes {histograms.shape} and {other.shape}, expected the same"
        )
    estimate, drawn = _pxap(histograms, resamples, seed)
    if other is not None:
        subtracted, drawn_too = _pxap(other, resamples, seed)
        estimate, drawn = estimate - subtracted, drawn - drawn_too
    return _interval(estimate, drawn, level)


def _pxap(histograms: np.ndarray, resamples: int, seed: int) -> tuple[float, np.ndarray]:
    """PxAP of the images, and (resamples,) PxAP of as many images drawn with replacement."""
    images, _, bins = histograms.shape
    rng = np.random.default_rng(seed)
    times = rng.multinomial(images, np.full(images, 1 / images), resamples).astype(np.float64)
    pooled = np.zeros((resamples, 2 * bins))
    for first in range(0, images, IMAGES_AT_A_TIME):
        part = slice(first, first + IMAGES_AT_A_TIME)
        pooled += times[:, part] @ histograms[part].reshape(-1, 2 * bins).astype(np.float64)
    estimate = float(average_precision(histograms.sum(0, dtype=np.int64)))
    return estimate, average_precision(pooled.reshape(resamples, 2, bins))


def _changes(bits: np.ndarray, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose (N, I, T) correctness rises (sign 1) or falls (-1) at each IoU and threshold.

    Returns:
        The images in order of IoU and threshold, and (I * T + 1,) the index of the first of each IoU and
        threshold, with the total as the last entry.
    """
    images, ious, thresholds = bits.shape
    found = []
    for first in range(0, images, IMAGES_AT_A_TIME):
        steps = np.diff(bits[first : first + IMAGES_AT_A_TIME].view(np.int8), axis=2, prepend=np.int8(0))
        image, iou, threshold = np.nonzero(steps == sign)
        found.append(np.stack([iou * thresholds + threshold, first + image]))
    place, image = np.concatenate(found, axis=1)
    order = np.argsort(place, kind="stable")
    start = np.searchsorted(place[order], np.arange(ious * thresholds + 1))
    return image[order].astype(np.uint32), start.astype(np.int64)


def _check(well_formed: bool, expected: str, images: int, resamples: int, level: float, seed: int) -> None:
    check_integer(resamples, "resamples", None)
    check_number(level, "level", "a fraction in (0, 1)")
    check_integer(seed, "seed", 0)
    if not well_formed:
        raise InputError(f"per-image outcomes have another shape or are not finite, expected {expected}")
    if images == 0:
        raise InputError("no image to resample, expected at least one")
    if resamples < 1 or not 0 < level < 1:
        raise InputError(f"resamples is {resamples} and level {level}, expected >= 1 and in (0, 1)")


def _batches(total: int, most: int) -> Sequence[int]:
    """`total` split into numbers of at most `most`."""
    return [min(most, total - done) for done in range(0, total, most)]


def _interval(estimate: float, drawn: np.ndarray, level: float) -> Interval:
    """The percentile interval; NaN is PxAP of a resample without an object pixel and is left out."""
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level)
