"""Our metrics as torchmetrics ones, for those who collect metrics in a `MetricCollection`.

torchmetrics is not needed otherwise; install it to import this module.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torchmetrics import Metric

from heatbox.metrics.base import Accumulator


class TorchMetric(Metric):  # type: ignore[misc]
    """A torchmetrics metric around one of ours; processes are reduced by torchmetrics' own rules.

    Args:
        metric: any accumulating metric of `heatbox.metrics`; a fresh one of its own.
        **kwargs: passed on to torchmetrics.

    `update` takes what the metric's own takes. `compute` returns the scalars of its result as a dict of
    tensors: names are kept apart by the collection's keys.
    """

    full_state_update = False

    def __init__(self, metric: Accumulator, **kwargs: Any) -> None:
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
        self._metric.update(*args, **kwargs)  # type: ignore[attr-defined]
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
        score = asdict(self._metric.compute())  # type: ignore[attr-defined]
        return {k: torch.tensor(v) for k, v in score.items() if isinstance(v, float)}
