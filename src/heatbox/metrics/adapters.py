"""heatbox metrics as torchmetrics metrics, for use in a `MetricCollection`.

Importing this module requires torchmetrics, which heatbox does not install.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
import torchmetrics

from heatbox.errors import InputError
from heatbox.metrics.base import Metric


class TorchMetric(torchmetrics.Metric):  # type: ignore[misc]
    """A torchmetrics metric around a heatbox metric; torchmetrics reduces the state over processes.

    Args:
        metric: a metric of `heatbox.metrics` that is used by nothing else.
        score: name of one scalar of the metric's score, such as "accuracy" of `MaxBoxAcc`, "pxap" of `PxAP`
            or "value" of `PointingGame`. `compute` then returns it alone, as Lightning's `self.log` and
            checkpoints that are chosen by a score need it.
        **kwargs: passed on to torchmetrics.

    `update` takes the arguments of the metric's own `update`. `compute` returns the scalars of its score as a
    dictionary of tensors; in a collection, the collection's keys tell equal names apart. Metrics of one
    collection whose settings and states are the same are updated once: a `RelevanceRank` and an
    `EnergyPointingGame`, but not `MaxBoxAcc` of the largest and of all contours.

    Examples:
        >>> from heatbox.metrics import MaxBoxAcc
        >>> metric = TorchMetric(MaxBoxAcc(), score="accuracy")
        >>> heatmap = torch.zeros(1, 224, 224)
        >>> heatmap[0, 50:150, 60:160] = 1.0
        >>> metric.update(heatmap, [[[60, 50, 160, 150]]], [(224, 224)])
        >>> metric.compute()
        tensor(100.)
    """

    full_state_update = False
    higher_is_better = True
    plot_lower_bound = 0.0

    def __init__(self, metric: Metric, score: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._metric, self.score = metric, score
        # A collection takes metrics for one whose states are equal after the first batch, which those of
        # MaxBoxAcc with other contours can be by chance. So the settings are a state too.
        settings = hashlib.sha256(repr(metric.settings()).encode()).digest()[:8]
        self.add_state("settings", torch.tensor(list(settings)), dist_reduce_fx="max")
        for name, value in metric.state_dict().items():
            joined = name in metric.JOINED
            self.add_state(
                name,
                default=[] if joined else _as_tensor(value).clone(),
                dist_reduce_fx="cat" if joined else "sum",
            )

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add images."""
        self._metric.reset()
        self._metric.update(*args, **kwargs)
        for name, value in self._metric.state_dict().items():
            tensor = _as_tensor(value).to(self.device)
            if name not in self._metric.JOINED:
                setattr(self, name, getattr(self, name) + tensor)
            elif len(tensor):
                getattr(self, name).append(tensor)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As in torchmetrics, also where a process has no image: the shape of its rows is that of the others'
        rows."""
        self._metric.reset()
        for name, value in self._metric.state_dict().items():
            if name in self._metric.JOINED and not len(getattr(self, name)):
                setattr(self, name, [_as_tensor(value).to(self.device)])
        super().sync(*args, **kwargs)

    def compute(self) -> Any:
        """The scalars of the metric's score, or the one that `score` names.

        Raises:
            InputError: no image was added, or the score has no scalar of that name.
        """
        self._metric.reset()
        state = self._metric.state_dict()
        for name in state:
            value = getattr(self, name)
            if name in self._metric.JOINED:
                parts = value if isinstance(value, list) else [value]
                value = torch.cat(parts) if parts else torch.from_numpy(state[name])
            state[name] = value.cpu().numpy()
        self._metric.load_state_dict(state)
        found = {name: torch.tensor(value) for name, value in _scalars(self._metric.compute()).items()}
        if self.score is None:
            return found
        if self.score not in found:
            raise InputError(f"score is {self.score!r}, expected one of {', '.join(found)}")
        return found[self.score]

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the scalars of the score, or those that `forward` or `compute` returned.

        Args:
            val: what was returned, once or in a list of several calls; by default the current score.
            ax: the matplotlib axes; by default new ones.

        Returns:
            (figure, axes).
        """
        return self._plot(val, ax)


def _as_tensor(value: np.ndarray) -> torch.Tensor:
    """An array as a tensor of a type that every backend of torch.distributed sends."""
    return torch.from_numpy(value.astype(np.int32) if value.dtype.kind == "u" else value)


def _scalars(score: Any) -> dict[str, float]:
    """The numbers of a score, or of several by name."""
    if isinstance(score, Mapping):
        found = {name: _scalars(one) for name, one in score.items()}
        return {
            name if key == "value" else f"{name}_{key}": value
            for name, one in found.items()
            for key, value in one.items()
        }
    names = [field.name for field in fields(score)]
    return {name: value for name in names if isinstance(value := getattr(score, name), float)}
