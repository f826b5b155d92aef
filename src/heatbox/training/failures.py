"""What can go wrong in the middle of a training through no bug of ours, said in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from heatbox.errors import InputError
from heatbox.training.config import TrainConfig

# What torch says when an allocation on the CPU fails, and when a process of the group is gone.
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory", re.IGNORECASE)
_LOST = re.compile(
    r"closed by peer|connection (reset|refused|closed)|timed? ?out|nccl|gloo|broken pipe", re.IGNORECASE
)


@contextmanager
def explained(config: TrainConfig, world_size: int) -> Iterator[None]:
    """Turn exhausted memory and lost processes into an `InputError` that says what to do."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise InputError(_memory(config)) from error
    except RuntimeError as error:
        if _NO_MEMORY.search(str(error)):
            raise InputError(_memory(config)) from error
        if world_size > 1 and _LOST.search(str(error)):
            raise InputError(
                "another process of this training has ended, so this one ends too; the same command goes on "
                f"from the last saved state ({str(error).splitlines()[0][:200]})"
            ) from error
        raise


def _memory(config: TrainConfig) -> str:
    smaller = max(config.per_device // 2, 1)
    return (
        f"{config.per_device} images of {config.size} pixels a forward pass do not fit into memory; "
        f"--per-device {smaller} accumulates the same batch of {config.batch_size} in smaller passes, and "
        "--recompute needs less memory for each"
    )
