"""heatbox metrics as torchmetrics metrics, for use in a `MetricCollection`.

Importing this module requires torchmetrics, which heatbox does not install.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
import torchmetrics

from heatbox.metrics.base import Metric


class TorchMetric(torchmetrics.Metric):  # type: ignore[misc]
    """A torchmetrics metric around a heatbox metric; torchmetrics reduces the state over processes.

    Args:
        metric: a metric of `heatbox.metrics` that is used by nothing else.
        **kwargs: passed on to torchmetrics.

    `update` takes the arguments of the metric's own `update`. `compute` returns the scalars of its score as a
    dictionary of tensors; in a collection, the collection's keys tell equal names apart.
    """

    full_state_update = False
    higher_is_better = True
    plot_lower_bound = 0.0

    def __init__(self, metric: Metric, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._metric = metric
        for name, value in metric.state_dict().items():
            joined = name in metric.JOINED
            self.add_state(
                name,
                default=[] if joined else torch.from_numpy(value).clone(),
                dist_reduce_fx="cat" if joined else "sum",
            )

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add images."""
        self._metric.reset()
        self._metric.update(*args, **kwargs)
        for name, value in self._metric.state_dict().items():
            tensor = torch.from_numpy(value).to(self.device)
            if name not in self._metric.JOINED:
                setattr(self, name, getattr(self, name) + tensor)
            elif len(tensor):
                getattr(self, name).append(tensor)

    def compute(self) -> dict[str, torch.Tensor]:
        """The scalars of the metric's score."""
        self._metric.reset()
        state = self._metric.state_dict()
        for name in state:
            value = getattr(self, name)
            if name in self._metric.JOINED:
                parts = value if isinstance(value, list) else [value]
                value = torch.cat(parts) if parts else torch.from_numpy(state[name])
            state[name] = value.cpu().numpy()
        self._metric.load_state_dict(state)
        return {name: torch.tensor(value) for name, value in _scalars(self._metric.compute()).items()}

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the scalars of the score, or those that `forward` or `compute` returned.

        Args:
            val: what was returned, once or in a list of several calls; by default the current score.
            ax: the matplotlib axes; by default new ones.

        Returns:
            (figure, axes).
        """
        return self._plot(val, ax)


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
