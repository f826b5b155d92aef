"""What every accumulating metric can do: reset, merge, save its state, and add up over processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np

from heatbox._utils.checks import kind_of
from heatbox.errors import InputError
from heatbox.metrics.distributed import concatenate_over_processes, sum_over_processes

M = TypeVar("M", bound="Accumulator")


class Accumulator:
    """A metric whose state is a few arrays that are summed, or joined end to end, when states merge.

    Sums of integers and joined rows that are later sorted do not depend on order: merging is associative
    and commutative, to the last bit.
    """

    SUMMED: ClassVar[tuple[str, ...]] = ()
    JOINED: ClassVar[tuple[str, ...]] = ()

    def settings(self) -> tuple[Any, ...]:
        """What two metrics must share for their states to be merged."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget everything added."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, np.ndarray]:
        """What has been accumulated, as arrays."""
        return {name: np.array(getattr(self, name)) for name in (*self.SUMMED, *self.JOINED)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict` of a metric with the same settings.

        Raises:
            InputError: an array is missing or has another shape.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: {kind_of(state)}, expected what state_dict() returned")
        for name in (*self.SUMMED, *self.JOINED):
            now = np.asarray(getattr(self, name))
            value = np.asarray(state[name]) if name in state else None
            rows = slice(1, None) if name in self.JOINED else slice(None)
            if value is None or value.shape[rows] != now.shape[rows]:
                raise InputError(
                    f"the state's {name!r} has shape {None if value is None else value.shape}, "
                    f"expected {now.shape}: it was saved with other settings"
                )
            self._set(name, value.astype(now.dtype))

    def merge(self: M, *others: M) -> M:
        """Add what others have accumulated, in any order; returns this metric.

        Raises:
            InputError: another was set up differently.
        """
        for other in others:
            if not isinstance(other, type(self)):
                raise TypeError(f"cannot merge {kind_of(other)} into a {type(self).__name__}")
            if self.settings() != other.settings():
                raise InputError(f"cannot merge metrics set up as {self.settings()} and {other.settings()}")
        for other in others:
            for name in self.SUMMED:
                self._set(name, np.asarray(getattr(self, name)) + getattr(other, name))
            for name in self.JOINED:
                self._set(name, np.concatenate([getattr(self, name), getattr(other, name)]))
        return self

    def all_reduce(self: M, fabric: Any = None) -> M:
        """Make this the merge of all processes' metrics, in each of them; returns itself.

        Args:
            fabric: a Lightning Fabric, or None for the initialised torch.distributed group.
        """
        for name in self.SUMMED:
            self._set(name, sum_over_processes(np.atleast_1d(getattr(self, name)), fabric))
        for name in self.JOINED:
            self._set(name, concatenate_over_processes(getattr(self, name), fabric))
        return self

    def _set(self, name: str, value: np.ndarray) -> None:
        """Store a state, keeping plain integers plain."""
        plain = isinstance(getattr(self, name), int)
        setattr(self, name, int(np.asarray(value).reshape(())) if plain else value)
