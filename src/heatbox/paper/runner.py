"""Run a plan: steps that do not depend on each other side by side, in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from heatbox._utils.devices import available_cores, number_of_jobs
from heatbox.errors import InputError
from heatbox.paper.steps import Step, priorities, statuses, write_mark

LOGS = "logs"
PATIENCE = 60.0
"""Seconds that an interrupted step has to save what it can."""
Tell = Callable[[str], None]
_WAITING = ("ready", "waiting")


@dataclass
class _Worker:
    """A process that does one step after the other: what it has loaded and compiled serves the next one."""

    process: Any
    link: Connection
    step: Step | None = None
    begun: float = 0.0


@dataclass
class _Progress:
    """What has become of the steps so far."""

    failed: dict[str, str] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    workers: list[_Worker] = field(default_factory=list)

    def busy(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.step is not None]

    def over(self) -> set[str]:
        """Steps that are not to be begun: done in this run, failed, or under way."""
        return {*self.failed, *self.made, *(worker.step.name for worker in self.workers if worker.step)}


def run_plan(
    plan: Sequence[Step], out: Path, jobs: int = 1, tell: Tell = lambda words: None
) -> dict[str, str]:
    """Do what is not done yet.

    Args:
        plan: steps, each after those it depends on.
        out: folder of the output; logs and finished steps are noted in it.
        jobs: processes at a time.
        tell: is told what begins, ends and fails, a line each.

    Returns:
        name → why it could not be made, of every step that is not done at the end.

    Raises:
        InputError: fewer than one process was asked for, or the folder cannot be written to.
        KeyboardInterrupt: after the steps under way have had time to save.
    """
    jobs = number_of_jobs(jobs)
    try:
        (out / LOGS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: could not be made the folder of a plan ({error})") from error
    progress = _Progress()
    with _threads(max(1, available_cores() // jobs)):
        try:
            while True:
                _begin_some(plan, out, jobs, progress, tell)
                if not progress.busy():
                    break
                _hear(progress, tell)
        except BaseException:
            _stop(progress.busy())
            raise
        finally:
            for worker in progress.workers:
                worker.link.close()  # which ends its process
    left = _left(plan, out, progress.failed)
    return {name: why for name, why in left.items() if name not in progress.made}


def _begin_some(plan: Sequence[Step], out: Path, jobs: int, progress: _Progress, tell: Tell) -> None:
    """Give idle workers the steps with the longest way to the end."""
    weights, over = priorities(plan), progress.over()
    able = [step for step in _able(plan, out, progress.failed) if step.name not in over]
    able.sort(key=lambda step: -weights[step.name])
    found = statuses(plan, out) if able else {}
    for step in able[: jobs - len(progress.busy())]:
        worker = next((one for one in progress.workers if one.step is None), None)
        if worker is None:
            worker = _new_worker(out)
            progress.workers.append(worker)
        worker.step, worker.begun = step, time.monotonic()
        worker.link.send((step, found[step.name].stale))
        tell(f"{step.name}: begins ({step.title})")


def _able(plan: Sequence[Step], out: Path, failed: dict[str, str]) -> list[Step]:
    """Steps that can begin: ready, or waiting only for what has failed and can be done without."""
    found = statuses(plan, out)
    lost = _lost(plan, failed)

    def is_free(step: Step) -> bool:
        return all(found[name].state not in _WAITING or name in lost for name in step.before)

    return [s for s in plan if s.name not in lost and found[s.name].state in _WAITING and is_free(s)]


def _lost(plan: Sequence[Step], failed: dict[str, str]) -> dict[str, str]:
    """Steps that have failed, or cannot be made because one has: name → why."""
    lost = dict(failed)
    for step in plan:
        gone = [name for name in step.needs if name in lost]
        if step.name not in lost and gone:
            lost[step.name] = f"it needs {gone[0]}, which was not made"
        elif step.name not in lost and step.after and all(name in lost for name in step.after):
            lost[step.name] = "none of the steps whose results it shows was made"
    return lost


def _left(plan: Sequence[Step], out: Path, failed: dict[str, str]) -> dict[str, str]:
    """Why each step that is not done is not."""
    lost = _lost(plan, failed)
    return {
        name: lost.get(name) or "; ".join(status.why) or "it was not reached"
        for name, status in statuses(plan, out).items()
        if status.state != "done"
    }


# ------------------------------------------------------------------------------------------ the parent


def _new_worker(out: Path) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads broken
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(out, there), name="heatbox paper")
    process.start()
    there.close()
    return _Worker(process, here)


def _hear(progress: _Progress, tell: Tell) -> None:
    """Wait for messages of workers, pass them on, and note what is over."""
    ready = wait([worker.link for worker in progress.busy()])
    for worker in [one for one in progress.busy() if one.link in ready]:
        assert worker.step is not None
        name = worker.step.name
        try:
            kind, words = worker.link.recv()
        except (EOFError, OSError):
            worker.process.join()
            progress.workers.remove(worker)
            kind, words = "failed", f"its process ended with code {worker.process.exitcode}"
        if kind == "line":
            tell(f"{name}: {words}")
            continue
        worker.step = None
        if kind == "failed":
            progress.failed[name] = words
            tell(f"{name}: failed: {words}")
        else:
            progress.made.add(name)
            tell(f"{name}: done in {time.monotonic() - worker.begun:.0f} s")


def _stop(workers: Sequence[_Worker]) -> None:
    """Ask steps to save and end; end those that do not."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Worker processes that begin inside share the cores between them, unless the user has settled it."""
    names = [name for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS") if name not in os.environ]
    os.environ.update({name: str(count) for name in names})
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


# ------------------------------------------------------------------------------------------ the worker


def _serve(out: Path, link: Connection) -> None:
    """What a worker process does: steps as they come, until the parent hangs up."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent asks to end
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            step, anew = link.recv()
        except (EOFError, OSError):
            return
        link.send(_work(step, out, anew, link))


def _work(step: Step, out: Path, anew: bool, link: Connection) -> tuple[str, str]:
    """Do a step, with what it prints in a log; returns how it ended."""
    begun, spent = time.time(), time.process_time()
    path = out / LOGS / f"{step.name}.log"
    with path.open("a") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            step.work(tell=lambda words: link.send(("line", words)), anew=anew)
        except InputError as error:
            return "failed", str(error)
        except Exception as error:
            traceback.print_exc()
            words = (str(error).strip() or "no message").splitlines()[0]
            return "failed", f"{type(error).__name__}: {words} (traceback in {path})"
    if missing := [one for one in step.files if not one.exists()]:
        return "failed", f"{missing[0]} was not written"
    now = time.time()
    write_mark(out, step, now, now - begun, time.process_time() - spent)
    return "done", ""


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)  # as an exception, so that what is computed is saved on the way out


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on unseen."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
