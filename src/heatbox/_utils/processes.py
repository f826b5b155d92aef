"""Processes that share the images of one command, as torchrun or srun starts them.

All of them run the same command. Each runs the network on its part of the images and saves the records in the
one run folder, which has to be on a file system that all can reach. The first process alone fits, joins,
scores and prints.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Thread
from typing import Any, TypeVar

from heatbox.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

LONGEST_START, LONGEST_WAIT = timedelta(minutes=10), timedelta(days=7)
"""How long a process waits for the first one at the start, and later for one that has not ended."""

FIRST_PORT, PORTS, CHOICES = 15_000, 15_000, 4
"""Ports at which processes of srun meet, below those that systems give to outgoing connections; and how many
of them a step tries."""

ANSWER = 2.0
"""Seconds until another program at such a port has to answer."""

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

    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
    with _losses_explained(), _store(rank, count) as store:
        own = dist.PrefixStore("heatbox", store)
        dist.init_process_group("gloo", store=own, rank=rank, world_size=count, timeout=LONGEST_WAIT)
    _rank, _count = rank, count
    torch.manual_seed(from_first(torch.initial_seed))  # weights that are drawn are the same in all


@contextmanager
def _store(rank: int, count: int) -> Iterator[Any]:
    """torch's store of all processes, which can join a group in the block."""
    import torch.distributed as dist

    if "MASTER_PORT" not in os.environ:
        with _met(*meeting_place(os.environ), rank) as store:
            yield store
        return
    os.environ.setdefault("MASTER_ADDR", meeting_place(os.environ)[0])  # of torchrun, or chosen
    yield next(dist.rendezvous("env://", rank, count, timeout=LONGEST_START))[0]


@contextmanager
def _met(address: str, ports: Sequence[int], step: str, rank: int) -> Iterator[Any]:
    """torch's store of the processes of srun, which the first one opens and the others find in the block.

    The first one tells the port of the store, which the system chooses, to all that ask at one of the ports
    where they meet. Another job, or any program, may listen at these, too.

    Args:
        address: of the machine of the first process.
        ports: the first process takes the first of them that is free.
        step: the name of job and step, by which the first process is known.
        rank: of this process.

    Raises:
        InputError: no port is free, or the first process is not found in the longest time of a start.
    """
    import torch.distributed as dist

    def store(port: int) -> Any:
        return dist.TCPStore(address, port, None, rank == 0, LONGEST_START, wait_for_workers=False)

    where, name = f"{address}, ports {', '.join(map(str, ports))}", f"heatbox {step} ".encode()
    if rank:
        yield store(_found(address, ports, name, where))
        return
    own, listener = store(0), next(filter(None, map(_listener, ports)), None)
    if listener is None:
        raise InputError(f"{where}: all are in use; set MASTER_PORT to a free one, for all processes")
    Thread(target=_answer, args=(listener, b"%s%d" % (name, own.port)), daemon=True).start()
    try:
        yield own
    finally:
        with listener, suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # ends the thread


def _listener(port: int) -> socket.socket | None:
    """A socket that listens at a port, None where it is in use."""
    both = socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if both else socket.AF_INET
        return socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError:
        return None


def _answer(listener: socket.socket, words: bytes) -> None:
    """Say some words to all that connect, until the listener is closed."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, suppress(OSError):
            connection.sendall(words)


def _found(address: str, ports: Sequence[int], name: bytes, where: str) -> int:
    """The port of the store, said by the first process at one of some ports after a name."""
    until = time.monotonic() + LONGEST_START.total_seconds()
    while time.monotonic() < until:
        for port in ports:
            said = b""
            with suppress(OSError), socket.create_connection((address, port), ANSWER) as connection:
                said = connection.makefile("rb").read(100)
            if said.startswith(name):
                return int(said.removeprefix(name))
        time.sleep(0.2)
    raise InputError(f"{where}: the first process of this command was not found there; has it ended?")


def meeting_place(environ: Mapping[str, str]) -> tuple[str, list[int], str]:
    """(address, ports, name of the step) by which the processes of srun find the first one.

    It is the first machine of the step, at one of some ports that differ for other jobs and steps. The
    machine itself stands for the only one of a step: its name need not be known there.

    Raises:
        InputError: SLURM's variables do not name it.
    """
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    first = re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).partition(",")[0].strip()  # of node[01-04,07],gpu3
    if environ.get("SLURM_STEP_NUM_NODES") == "1":
        first = "127.0.0.1"
    if not first and "MASTER_ADDR" not in environ:
        raise InputError(
            "SLURM_STEP_NODELIST, which names the first machine, is not set: set MASTER_ADDR to its address"
        )
    names = [environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
    job, step = (int(name) if name.isdecimal() else 0 for name in names)
    ports = [FIRST_PORT + (job + 101 * step + 3331 * choice) % PORTS for choice in range(CHOICES)]
    return environ.get("MASTER_ADDR") or first, ports, ".".join(names)


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


def own_part(items: Sequence[Item], size: int = 1) -> Sequence[Item]:
    """The part of a list that this process does: parts are contiguous and in the order of the processes.

    Args:
        items: the same in all processes.
        size: of a batch. Parts are whole batches, so that batches are those of one process: a network's
            results depend, in their last digits, on the images beside an image.
    """
    if not are_sharing():
        return items
    batches = -(-len(items) // size)
    return items[_rank * batches // _count * size : (_rank + 1) * batches // _count * size]


def own_turns(items: Sequence[Item], size: int) -> tuple[Sequence[Item], int]:
    """The batches of a list that this process does if all take turns, and the number of rounds."""
    if not are_sharing():
        return items, -(-len(items) // size)
    starts = range(_rank * size, len(items), _count * size)
    own = [item for start in starts for item in items[start : start + size]]
    return own, -(-len(items) // (_count * size))


def from_first(work: Callable[[], Result]) -> Result:
    """What a function returns in the first process, in all processes.

    Raises:
        InputError: one of them has ended.
    """
    if not are_sharing():
        return work()
    import torch.distributed as dist

    found: list[Any] = [None]
    if is_first():
        with _by_itself():
            found = [work()]
    with _losses_explained():
        dist.broadcast_object_list(found, 0)
    result: Result = found[0]
    return result


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


def joined_at_first(own: list[Item]) -> list[Item]:
    """The lists of all processes, joined in their order, in the first; empty in the others.

    Raises:
        InputError: one of them has ended.
    """
    if not are_sharing():
        return own
    import torch.distributed as dist

    found: list[Any] = [None] * _count
    with _losses_explained():
        dist.gather_object(own, found if is_first() else None)
    return [item for part in found for item in part] if is_first() else []


@contextmanager
def _by_itself() -> Iterator[None]:
    """Share nothing inside."""
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


@contextmanager
def first_alone() -> Iterator[None]:
    """Run a block in the first process, and then in the others, which find what it has saved."""
    if not is_first():
        meet()
    with _by_itself():
        yield
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
        if "EADDRINUSE" in str(error):
            raise InputError(
                f"MASTER_PORT is {os.environ.get('MASTER_PORT')}, which is in use on this machine: set it to "
                "a free port, the same for all processes"
            ) from error
        if not LOST.search(str(error)):
            raise
        raise InputError(
            "another process of this command has ended, so this one ends too; rerun the command to resume "
            f"({str(error).splitlines()[0][:200]})"
        ) from error
