"""Run a plan in worker processes; steps that do not depend on each other run in parallel."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from heatbox._utils.devices import available_cores, number_of_jobs
from heatbox.errors import InputError, did_you_mean
from heatbox.paper.steps import Step, priorities, statuses, write_mark

LOGS = "logs"
PATIENCE = 60.0
"""Seconds that an interrupted step has to save its work."""
Report = Callable[[str], None]


@dataclass
class _Worker:
    """A process that runs one step after the other, with the same imports and compiled kernels."""

    process: Any
    link: Connection
    step: Step | None = None
    started: float = 0.0


@dataclass
class _Progress:
    """The outcome of the steps so far, and the processes."""

    failed: dict[str, str] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    workers: list[_Worker] = field(default_factory=list)

    def busy(self) -> dict[str, _Worker]:
        """Name of each running step → its worker."""
        return {worker.step.name: worker for worker in self.workers if worker.step is not None}


def run_plan(
    plan: Sequence[Step],
    out: Path,
    jobs: int = 1,
    report: Report = lambda line: None,
    only: Collection[str] | None = None,
) -> dict[str, str]:
    """Run the steps that are not done yet.

    Args:
        plan: steps, each after those it depends on.
        out: folder of the output, the logs and the marks of finished steps.
        jobs: number of processes.
        report: called with a line when a step starts, ends or fails.
        only: names of the steps that are run; by default all. Others count as failed where they are not done.

    Returns:
        name → reason, of every step that is not done at the end.

    Raises:
        InputError: a step that is not of the plan, fewer than one process was asked for, or the folder cannot
            be written to.
        KeyboardInterrupt: after running steps have had time to save.
    """
    jobs = number_of_jobs(jobs)
    names = [step.name for step in plan]
    for name in only or ():
        if name not in names:
            raise InputError(f"there is no step {name!r}{did_you_mean(name, names)}; --list prints all steps")
    try:
        (out / LOGS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: could not be made the folder of a plan ({error})") from error
    progress = _Progress()
    if only is not None:
        found = statuses(plan, out)
        others = [name for name in names if name not in only and found[name].state != "done"]
        progress.failed |= dict.fromkeys(others, "it was not asked for")
    with _threads(max(1, available_cores() // jobs)):
        try:
            while True:
                _start_steps(plan, out, jobs, progress, report)
                if not progress.busy():
                    break
                _receive(progress, report)
        except BaseException:
            _stop(progress.busy().values())
            raise
        finally:
            for worker in progress.workers:
                worker.link.close()  # ends its process
    lost = _unreachable(plan, progress.failed)
    return {
        name: lost.get(name) or "; ".join(status.why) or "it was not reached"
        for name, status in statuses(plan, out).items()
        if status.state != "done" and name not in progress.done and (only is None or name in only)
    }


def _start_steps(plan: Sequence[Step], out: Path, jobs: int, progress: _Progress, report: Report) -> None:
    """Give idle workers the steps with the longest chain to the end of the plan.

    A step can start if it is ready, or waits only for failed steps that it does not require.
    """
    found, lost, busy = statuses(plan, out), _unreachable(plan, progress.failed), progress.busy()
    pending = {name for name, status in found.items() if status.state in ("ready", "waiting")} - {*lost}
    taken = {*progress.done, *busy}
    ready = [step for step in plan if step.name in pending - taken and pending.isdisjoint(step.before)]
    weights = priorities(plan)
    ready.sort(key=lambda step: -weights[step.name])
    for step in ready[: jobs - len(busy)]:
        worker = next((one for one in progress.workers if one.step is None), None)
        if worker is None:
            worker = _new_worker(out)
            progress.workers.append(worker)
        worker.step, worker.started = step, time.monotonic()
        worker.link.send((step, found[step.name].stale))
        report(f"{step.name}: started ({step.title})")


def _unreachable(plan: Sequence[Step], failed: dict[str, str]) -> dict[str, str]:
    """Steps that have failed, or cannot run because others have: name → reason."""
    lost = dict(failed)
    for step in plan:
        gone = [name for name in step.needs if name in lost]
        if step.name not in lost and gone:
            lost[step.name] = f"it needs {gone[0]}, which was not made"
        elif step.name not in lost and step.after and all(name in lost for name in step.after):
            lost[step.name] = "none of the steps whose results it shows was made"
    return lost


# ------------------------------------------------------------------------------------------ the parent


def _new_worker(out: Path) -> _Worker:
    context = multiprocessing.get_context("spawn")  # torch's thread pools do not survive a fork
    here, there = context.Pipe()
    process = context.Process(target=_run_worker, args=(out, there), name="heatbox paper")
    process.start()
    there.close()
    return _Worker(process, here)


def _receive(progress: _Progress, report: Report) -> None:
    """Wait for messages of workers, report them, and record which steps have ended."""
    busy = progress.busy()
    ready = wait([worker.link for worker in busy.values()])
    for name, worker in busy.items():
        if worker.link not in ready:
            continue
        try:
            kind, words = worker.link.recv()
        except (EOFError, OSError):
            worker.process.join()
            progress.workers.remove(worker)
            kind, words = "failed", f"its process ended with code {worker.process.exitcode}"
        if kind == "line":
            report(f"{name}: {words}")
            continue
        worker.step = None
        if kind == "failed":
            progress.failed[name] = words
            report(f"{name}: failed: {words}")
        else:
            progress.done.add(name)
            report(f"{name}: done in {time.monotonic() - worker.started:.0f} s")


def _stop(workers: Collection[_Worker]) -> None:
    """Ask steps to save and exit; kill those that do not."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Worker processes started inside share the cores, unless the user has set the variables."""
    names = [name for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS") if name not in os.environ]
    os.environ.update({name: str(count) for name in names})
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


# ------------------------------------------------------------------------------------------ the worker


def _run_worker(out: Path, link: Connection) -> None:
    """The main function of a worker process: run steps until the parent closes the connection."""
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent sends SIGTERM
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    while True:
        try:
            step, overwrite = link.recv()
        except (EOFError, OSError):
            return
        link.send(_run_step(step, out, overwrite, link))


def _run_step(step: Step, out: Path, overwrite: bool, link: Connection) -> tuple[str, str]:
    """Run a step with its output in a log; returns "done" or "failed", and the reason."""
    started, spent = time.time(), time.process_time()
    path = out / LOGS / f"{step.name}.log"
    with path.open("a") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            step.work(report=lambda line: link.send(("line", line)), overwrite=overwrite)
        except InputError as error:
            return "failed", str(error)
        except Exception as error:
            traceback.print_exc()
            words = (str(error).strip() or "no message").splitlines()[0]
            return "failed", f"{type(error).__name__}: {words} (traceback in {path})"
    if missing := [one for one in step.files if not one.exists()]:
        return "failed", f"{missing[0]} was not written"
    now = time.time()
    write_mark(out, step, now, now - started, time.process_time() - spent)
    return "done", ""


def _exit(number: int, frame: object) -> None:
    sys.exit(128 + number)  # an exception, so that computed results are saved on the way out


def _exit_with_parent() -> None:
    """Exit when the parent is killed, instead of running on unnoticed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
