"""Where to compute: the device of a model, and the threads and memory of the process."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from heatbox._utils.progress import Track, silent
from heatbox.errors import InputError

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
_BATCH = 128
_log = logging.getLogger(__name__)


def pick_device(name: str) -> torch.device:
    """A device by name; "auto" is CUDA, then MPS, then the CPU.

    Raises:
        InputError: a name that torch does not know, or a device that is not available.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()  # a device that computes, not meta
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} is not available ({str(error).splitlines()[0]})") from error
    details = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    )
    _log.info("computing on %s (%s)", device, details)
    return device


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BLOCK, _KEPT_TOP = 1 << 30, 2**31 - 1  # bytes


def configure_process() -> None:
    """Settings of a process that computes, made before the first library starts its threads.

    OpenMP threads sleep while they wait instead of spinning, so that several pools, and other programs, do
    not take the cores from each other; there are no more of them than `available_cores`. OpenCV, whose
    functions are called from several threads, starts none of its own. glibc keeps freed memory: otherwise it
    maps and unmaps the large temporaries of every batch, and each of their pages is a page fault. Variables
    that the user has set (`OMP_*`, `OPENCV_FOR_THREADS_NUM`, `MALLOC_*`, `GLIBC_TUNABLES`) take precedence.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
    if (cores := available_cores()) < (os.cpu_count() or 1):  # OpenMP knows masks, but not quotas
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if sys.platform == "linux" and not chosen:
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:  # musl has none
            set_option(_M_MMAP_THRESHOLD, _KEPT_BLOCK)
            set_option(_M_TRIM_THRESHOLD, _KEPT_TOP)


_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of processor time, and of which period


def available_cores() -> int:
    """Number of cores that this process may use: those of its mask, or the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))


def number_of_jobs(jobs: int | None) -> int:
    """The number of jobs; by default one per core.

    Raises:
        InputError: it is less than 1.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs is {jobs}, expected 1 or more")
    return jobs or available_cores()


def map_in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int | None = None,
    track: Track = silent,
    what: str = "",
) -> Iterator[Result]:
    """Results of a function for each item, in order, computed in threads.

    Args:
        function: called once per item, from several threads.
        items: processed in batches, so that few results wait to be consumed.
        jobs: number of threads, by default one per core.
        track: shows progress.
        what: description of the work, for `track`.
    """
    batches = range(0, len(items), _BATCH)
    with ThreadPoolExecutor(number_of_jobs(jobs)) as pool:
        for start in track(batches, what, len(batches)):
            yield from pool.map(function, items[start : start + _BATCH])
