"""Run a plan: steps that do not depend on each other side by side, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from heatbox.errors import InputError
from heatbox.paper.steps import Step, priorities, statuses, write_mark

LOGS = "logs"
PATIENCE = 60.0
"""Seconds that an interrupted step has to save what it can."""
Tell = Callable[[str], None]


@dataclass
class _Worker:
    """A step that is under way."""

    step: Step
    process: Any
    messages: Connection
    begun: float


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
        InputError: fewer than one process was asked for.
        KeyboardInterrupt: after the steps under way have had time to save.
    """
    if jobs < 1:
        raise InputError(f"jobs is {jobs}, expected 1 or more")
    weights = priorities(plan)
    failed: dict[str, str] = {}
    made: set[str] = set()
    running: dict[str, _Worker] = {}
    (out / LOGS).mkdir(parents=True, exist_ok=True)
    with _threads(max(1, (os.cpu_count() or 1) // jobs)):
        try:
            while True:
                able = [step for step in _able(plan, out, failed) if step.name not in {*running, *made}]
                able.sort(key=lambda step: -weights[step.name])
                for step in able[: jobs - len(running)]:
                    running[step.name] = _begin(step, out, statuses(plan, out)[step.name].stale)
                    tell(f"{step.name}: begins ({step.title})")
                if not running:
                    return {name: why for name, why in _left(plan, out, failed).items() if name not in made}
                for name in _heard(running, tell, failed):
                    del running[name]
                    made |= {name} - set(failed)
        finally:
            _stop(list(running.values()))


def _able(plan: Sequence[Step], out: Path, failed: dict[str, str]) -> list[Step]:
    """Steps that can begin: ready, or waiting only for what has failed and can be done without."""
    found = statuses(plan, out)
    lost = _lost(plan, failed)
    able = []
    for step in plan:
        if step.name in lost or found[step.name].state not in ("ready", "waiting"):
            continue
        waits = [
            name for name in step.before if found[name].state in ("ready", "waiting") and name not in lost
        ]
        if not waits:
            able.append(step)
    return able


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
        name: lost.get(name) or "; ".join(status.why)
        for name, status in statuses(plan, out).items()
        if status.state != "done"
    }


def _begin(step: Step, out: Path, anew: bool) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads broken
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(step, out, anew, sender), name=f"heatbox {step.name}")
    process.start()
    sender.close()
    return _Worker(step, process, receiver, time.monotonic())


def _heard(running: dict[str, _Worker], tell: Tell, failed: dict[str, str]) -> list[str]:
    """Wait for a message; pass it on. Returns the steps that are over."""
    over = []
    for ready in wait([worker.messages for worker in running.values()]):
        name, worker = next((n, w) for n, w in running.items() if w.messages is ready)
        try:
            kind, words = worker.messages.recv()
        except EOFError:
            worker.process.join()
            kind, words = "failed", f"its process ended with code {worker.process.exitcode}"
        if kind == "line":
            tell(f"{name}: {words}")
            continue
        worker.process.join()
        over.append(name)
        if kind == "failed":
            failed[name] = words
            tell(f"{name}: failed: {words}")
        else:
            tell(f"{name}: done in {time.monotonic() - worker.begun:.0f} s")
    return over


def _stop(workers: Sequence[_Worker]) -> None:
    """Ask steps to save and end; end those that do not."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(step: Step, out: Path, anew: bool, messages: Connection) -> None:
    """What a worker process does: the step, its log, and a last message of how it ended."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent asks to end
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begun, spent = time.time(), time.process_time()
    with (out / LOGS / f"{step.name}.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            step.work(tell=lambda words: messages.send(("line", words)), anew=anew)
            if missing := [path for path in step.files if not path.exists()]:
                raise FileNotFoundError(f"{missing[0]} was not written")
        except InputError as error:
            messages.send(("failed", str(error)))
            sys.exit(1)
        except Exception as error:
            traceback.print_exc()
            words = (str(error).strip() or "no message").splitlines()[0]
            messages.send(("failed", f"{type(error).__name__}: {words} (traceback in {log.name})"))
            sys.exit(1)
        now = time.time()
        write_mark(out, step, now, now - begun, time.process_time() - spent)
        messages.send(("done", ""))


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)  # as an exception, so that what is computed is saved on the way out


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on unseen."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _threads(count: int) -> Any:
    """Worker processes that begin inside share the cores between them, unless the user has settled it."""
    names = [name for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS") if name not in os.environ]
    os.environ.update({name: str(count) for name in names})
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
