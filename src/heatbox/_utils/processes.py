"""Processes that share the images of one command, as torchrun or srun starts them.

All of them run the same command. Each runs the network on its part of the images and saves the records in the
one run folder, which has to be on a file system that all can reach. The first process alone fits, joins,
scores and prints.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from heatbox.errors import InputError

Item = TypeVar("Item")

LONGEST_START, LONGEST_WAIT = timedelta(minutes=10), timedelta(days=7)
"""How long a process waits for the first one at the start, and later for one that has not ended."""

LOST = re.compile(
    r"closed by peer|connection (reset|refused|closed)|timed? ?out|nccl|gloo|broken pipe", re.IGNORECASE
)
"""torch's messages for a lost process of a group."""

_rank, _count, _alone = 0, 1, 0


def started() -> tuple[int, int, int]:
    """(number of this process, number of all, number of this one on its machine), from the environment."""
    environ = os.environ
    if "RANK" in environ and "WORLD_SIZE" in environ:  # torchrun
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif "SLURM_PROCID" in environ and "SLURM_STEP_NUM_TASKS" in environ:  # srun; not sbatch's own script
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    else:
        return 0, 1, 0
    rank, count, local = (int(environ.get(name, 0)) for name in names)
    return rank, count, local


def join() -> None:
    """Join the other processes, where this one was started with several.

    Raises:
        InputError: they cannot be reached.
    """
    global _rank, _count
    rank, count, local = started()
    if count == 1:
        return
    import torch
    import torch.distributed as dist

    if "MASTER_ADDR" not in os.environ:
        raise InputError(
            "the processes of srun need the address of the first machine: set MASTER_ADDR, for example to "
            'the first line of scontrol show hostnames "$SLURM_JOB_NODELIST", and MASTER_PORT to a free port'
        )
    os.environ.setdefault("MASTER_PORT", "29500")
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
    with _losses_explained():
        store, _, _ = next(dist.rendezvous("env://", rank, count, timeout=LONGEST_START))
        store = dist.PrefixStore("heatbox", store)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=LONGEST_WAIT)
    _rank, _count = rank, count


def is_first() -> bool:
    """Whether this is the first process, or the only one."""
    return _rank == 0


def are_sharing() -> bool:
    """Whether images are shared with other processes here."""
    return _count > 1 and not _alone


def rank() -> int:
    """Number of this process."""
    return _rank


def count() -> int:
    """Number of processes."""
    return _count


def meet() -> None:
    """Wait until all processes are here.

    Raises:
        InputError: one of them has ended.
    """
    if are_sharing():
        import torch.distributed as dist

        with _losses_explained():
            dist.barrier()


def own_part(items: Sequence[Item]) -> Sequence[Item]:
    """The part of a list that this process does: parts are contiguous and in the order of the processes."""
    if not are_sharing():
        return items
    return items[_rank * len(items) // _count : (_rank + 1) * len(items) // _count]


def gathered(own: Any) -> list[Any]:
    """What each process passes, in their order, in all processes.

    Raises:
        InputError: one of them has ended.
    """
    if not are_sharing():
        return [own]
    import torch.distributed as dist

    found: list[Any] = [None] * _count
    with _losses_explained():
        dist.all_gather_object(found, own)
    return found


@contextmanager
def first_alone() -> Iterator[None]:
    """Run a block in the first process, and then in the others, which find what it has saved."""
    global _alone
    if not is_first():
        meet()
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1
    if is_first():
        meet()


def only_first_goes_on() -> None:
    """End the other processes, whose part is done, with exit code 0; the first waits for none any more."""
    global _alone
    if are_sharing():
        if not is_first():
            raise SystemExit(0)
        _alone += 1


@contextmanager
def _losses_explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not LOST.search(str(error)):
            raise
        raise InputError(
            "another process of this command has ended, so this one ends too; rerun the command to resume "
            f"({str(error).splitlines()[0][:200]})"
        ) from error
