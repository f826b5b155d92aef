"""Several box metrics, updated in one pass over the maps."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from heatbox._utils.checks import kind_of
from heatbox.errors import InputError
from heatbox.metrics.base import Metric
from heatbox.metrics.functional import BoxCounts, box_counts
from heatbox.metrics.max_box_acc import MaxBoxAcc


class BoxMetrics(Metric):
    """Several `MaxBoxAcc` metrics of one protocol and number of thresholds, updated together.

    MaxBoxAcc and MaxBoxAccV2 share most of their work: together they cost little more than either. The
    metrics themselves are updated, as in a torchmetrics `MetricCollection`. The state contains those of all
    metrics, under `<metric>.<state>`.

    Args:
        metrics: the metrics, in a list or under names.

    Raises:
        InputError: no metric, or metrics that differ in `protocol` or `thresholds`.
        TypeError: a metric that is not a `MaxBoxAcc`.

    Examples:
        >>> from heatbox.metrics.max_box_acc import MaxBoxAccV2
        >>> metrics = BoxMetrics({"MaxBoxAcc": MaxBoxAcc(), "MaxBoxAccV2": MaxBoxAccV2()})
        >>> heatmap = np.zeros((1, 224, 224))
        >>> heatmap[0, 50:150, 60:160] = 1.0
        >>> metrics.update(heatmap, boxes=[np.array([[60, 50, 160, 150]])], image_sizes=[(224, 224)])
        >>> {name: score.accuracy for name, score in metrics.compute().items()}
        {'MaxBoxAcc': 100.0, 'MaxBoxAccV2': 100.0}
    """

    def __init__(self, metrics: Sequence[MaxBoxAcc] | Mapping[str, MaxBoxAcc]) -> None:
        self.named = isinstance(metrics, Mapping)
        self.metrics: dict[str, MaxBoxAcc] = (
            dict(metrics) if isinstance(metrics, Mapping) else {str(k): m for k, m in enumerate(metrics)}
        )
        if strange := [m for m in self.metrics.values() if not isinstance(m, MaxBoxAcc)]:
            raise TypeError(f"metrics: one is {kind_of(strange[0])}, expected MaxBoxAcc or MaxBoxAccV2")
        if len({(m.protocol, len(m.thresholds)) for m in self.metrics.values()}) != 1:
            raise InputError("metrics that are updated together must share protocol and thresholds")
        self.latest_counts: list[BoxCounts] = []  # of the last update, one per metric
        self.SUMMED = tuple(f"{name}.{state}" for name in self.metrics for state in MaxBoxAcc.SUMMED)
        self.JOINED = tuple(f"{name}.{state}" for name in self.metrics for state in MaxBoxAcc.JOINED)

    def __len__(self) -> int:
        return len(self.metrics)

    def __iter__(self) -> Iterator[MaxBoxAcc]:
        return iter(self.metrics.values())

    def __getitem__(self, key: str | int) -> MaxBoxAcc:
        return self.metrics[str(key)]

    def update(
        self,
        heatmaps: Any,
        boxes: Sequence[Any],
        image_sizes: Sequence[Sequence[float]],
        return_iou: bool = False,
    ) -> np.ndarray | None:
        """Add images to every metric.

        Args:
            heatmaps: (N, H, W) in [0, 1], an array, a tensor on any device, or N maps of any sizes.
            boxes: for each image a (K, 4) xyxy array in pixels of the original image.
            image_sizes: for each image its original (width, height).
            return_iou: return the per-image curves.

        Returns:
            With `return_iou`, (M, N, T) float64: for each metric and image the best IoU at each threshold.

        Raises:
            InputError: something is malformed; then no image of this call is counted.
        """
        first = next(iter(self))
        criteria = [(m.iou, m.contours) for m in self]
        found = box_counts(
            heatmaps,
            boxes,
            image_sizes,
            criteria,
            first.protocol,
            first.thresholds,
            first.threads,
            return_iou,
        )
        self.latest_counts = found
        objects = sum(len(np.atleast_2d(one)) for one in boxes)
        for metric, counts in zip(self, found, strict=True):
            metric.add(counts, len(boxes), objects)
        return np.stack([counts.iou for counts in found]) if return_iou else None

    def compute(self) -> Any:
        """The `BoxScore` of each metric over all images: a dictionary if they have names, otherwise a list.

        Raises:
            InputError: no image was added.
        """
        scores = {name: metric.compute() for name, metric in self.metrics.items()}
        return scores if self.named else list(scores.values())

    def settings(self) -> tuple[Any, ...]:
        """The settings of each metric."""
        return tuple((name, *metric.settings()) for name, metric in self.metrics.items())

    def reset(self) -> None:
        """Reset every metric."""
        for metric in self:
            metric.reset()

    def __copy__(self) -> BoxMetrics:
        metrics = {name: copy.copy(metric) for name, metric in self.metrics.items()}
        return BoxMetrics(metrics if self.named else list(metrics.values()))

    def _get(self, name: str) -> Any:
        metric, _, state = name.rpartition(".")
        return getattr(self.metrics[metric], state)

    def _set(self, name: str, value: Any) -> None:
        metric, _, state = name.rpartition(".")
        setattr(self.metrics[metric], state, value)


def update_together(
    metrics: Sequence[MaxBoxAcc],
    heatmaps: Any,
    boxes: Sequence[Any],
    image_sizes: Sequence[Sequence[float]],
    records: bool = False,
) -> np.ndarray | None:
    """Deprecated: use `BoxMetrics(metrics).update(heatmaps, boxes, image_sizes, return_iou=records)`."""
    warnings.warn(
        "update_together is deprecated, use heatbox.metrics.BoxMetrics",
        DeprecationWarning,
        stacklevel=2,
    )
    return BoxMetrics(metrics).update(heatmaps, boxes, image_sizes, return_iou=records)
