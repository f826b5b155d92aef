"""The base class of the metrics: state, merging, and reduction over processes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from heatbox._utils.checks import kind_of
from heatbox.errors import InputError

M = TypeVar("M", bound="Metric")


class Metric:
    """A metric over a split, updated batch by batch, as in torchmetrics.

    The state is a few arrays that are summed, or lists of arrays that are concatenated, when states merge.
    Sums of integers and rows whose order does not matter make merging associative and commutative, bit for
    bit. Calling the metric updates it with a batch and returns the score of that batch alone.

    Attributes:
        SUMMED: names of the states that are summed, arrays or integers.
        JOINED: names of the states that are concatenated, lists of arrays.
    """

    SUMMED: tuple[str, ...] = ()
    JOINED: tuple[str, ...] = ()

    def settings(self) -> tuple[Any, ...]:
        """The settings that two metrics must share for their states to be merged."""
        raise NotImplementedError

    def reset(self) -> None:
        """Reset the state to that of a new metric."""
        raise NotImplementedError

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch of images."""
        raise NotImplementedError

    def compute(self) -> Any:
        """The score over all images added since the last reset."""
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Update the metric with a batch and return the score of that batch.

        Takes the arguments of `update`. If the batch has no score, nothing is added.
        """
        batch = copy.copy(self)
        batch.reset()
        batch.update(*args, **kwargs)
        score = batch.compute()
        self.merge(batch)
        return score

    def state_dict(self) -> dict[str, np.ndarray]:
        """The accumulated state, as arrays."""
        summed = {name: np.array(self._get(name)) for name in self.SUMMED}
        return summed | {name: np.concatenate(self._get(name)) for name in self.JOINED}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the state by a `state_dict` of a metric with the same settings.

        Raises:
            InputError: an array is missing or has another shape.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: {kind_of(state)}, expected the result of state_dict()")
        for name, current in self.state_dict().items():
            value = np.asarray(state[name]) if name in state else None
            rows = slice(1 if name in self.JOINED else 0, None)
            if value is None or value.shape[rows] != current.shape[rows]:
                raise InputError(
                    f"the state's {name!r} has shape {None if value is None else value.shape}, "
                    f"expected {current.shape}: it was saved with other settings"
                )
            self._load(name, value if name in self.JOINED else value.astype(current.dtype))

    def merge(self: M, *others: M) -> M:
        """Add the states of other metrics, in any order; returns this metric.

        Raises:
            InputError: another metric has other settings.
        """
        for other in others:
            if not isinstance(other, type(self)):
                raise TypeError(f"cannot merge {kind_of(other)} into a {type(self).__name__}")
            if self.settings() != other.settings():
                raise InputError(
                    f"cannot merge metrics with settings {self.settings()} and {other.settings()}"
                )
        for other in others:
            for name in (*self.SUMMED, *self.JOINED):
                self._set(name, self._get(name) + other._get(name))
        return self

    def all_reduce(self: M, fabric: Any = None) -> M:
        """Replace the state in every process by the merge of the states of all; returns this metric.

        Args:
            fabric: a Lightning Fabric, or None for the initialized torch.distributed group.
        """
        for name, value in self.state_dict().items():
            if name in self.JOINED:
                self._load(name, concatenate_over_processes(value, fabric))
            else:
                self._load(name, sum_over_processes(np.atleast_1d(value), fabric))
        return self

    def _load(self, name: str, value: np.ndarray) -> None:
        """Store a state in the type that it has: an integer, an array, or a list of arrays."""
        plain = isinstance(self._get(name), int)
        self._set(name, int(value.reshape(())) if plain else [value] if name in self.JOINED else value)

    def _get(self, name: str) -> Any:
        return getattr(self, name)

    def _set(self, name: str, value: Any) -> None:
        setattr(self, name, value)


# ------------------------------------------------------------------------------------------ processes


def _gather(array: np.ndarray, fabric: Any) -> np.ndarray:
    """The array of every process, (processes, *shape); shapes must agree.

    Bytes are sent, so that types that a backend cannot send, such as uint16, are sent too.
    """
    import torch
    import torch.distributed as dist

    tensor = torch.from_numpy(np.ascontiguousarray(array).view(np.uint8))
    if fabric is not None:
        gathered = fabric.all_gather(tensor)
    elif dist.is_available() and dist.is_initialized():
        tensor = tensor.to("cuda" if dist.get_backend() == "nccl" else "cpu")
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor)
        gathered = torch.stack(parts)
    else:
        return array[None]
    return gathered.cpu().numpy().view(array.dtype).reshape(-1, *array.shape)


def sum_over_processes(array: np.ndarray, fabric: Any = None) -> np.ndarray:
    """The sum of an array over processes, exact for integers.

    Args:
        array: of the same shape and type in every process.
        fabric: a Lightning Fabric (any object with `all_gather`); by default the initialized
            torch.distributed group, or this process alone where there is none.
    """
    return _gather(array, fabric).sum(0, dtype=array.dtype)


def concatenate_over_processes(array: np.ndarray, fabric: Any = None) -> np.ndarray:
    """The arrays of all processes, concatenated along the first axis; lengths may differ."""
    lengths = _gather(np.array([len(array)]), fabric)[:, 0]
    if lengths.max() == 0:
        return array
    padded = np.zeros((int(lengths.max()), *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return np.concatenate([part[:n] for part, n in zip(_gather(padded, fabric), lengths, strict=True)])
