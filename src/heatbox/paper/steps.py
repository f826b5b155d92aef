"""Steps of a plan: their inputs, outputs, cost and status."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from heatbox._utils.io import to_json, write_atomically

MARKS = "steps"
"""Folder of a plan's output with a file for each finished step."""

MARK_VERSION = 2
"""Version of those files. Marks of 0.1.0 have none; their hash differs where classes have changed since."""


@dataclass(frozen=True)
class Artifact:
    """One table or figure of the paper.

    Attributes:
        paper: its number there, such as "Fig. 13"; "" if it has none.
        title: its title.
        file: the image.
    """

    paper: str
    title: str
    file: Path


@dataclass(frozen=True)
class Input:
    """A file or folder that the plan does not make itself.

    Attributes:
        what: its name in messages.
        path: its path, or None if none was given.
        where: how to obtain it.
    """

    what: str
    path: Path | None
    where: str

    def missing(self) -> str | None:
        """A sentence that names it if it is missing, or None."""
        if self.path is not None and self.path.exists():
            return None
        place = "was not given" if self.path is None else f"is not at {self.path}"
        return f"{self.what} {place}; {self.where}"


@dataclass(frozen=True)
class Cost:
    """The expected time of a step.

    Attributes:
        seconds: on one core or one device; None if unknown.
        basis: source of the number.
    """

    seconds: float | None = None
    basis: str = ""


@dataclass(frozen=True)
class Step:
    """One piece of work that can be interrupted and repeated.

    Attributes:
        name: unique in a plan.
        title: what it does.
        work: called with `report` (a function that prints a line) and `overwrite` (drop the output of an
            earlier call with other settings). A partial of a function of a module, so that it can be sent to
            a worker process.
        artifacts: tables and figures of the paper that it makes.
        outputs: further files; the step is done when all exist.
        needs: steps that it requires.
        after: steps whose results it uses if they exist; it waits for them.
        inputs: files that have to exist beforehand.
        cost: of a first run.
    """

    name: str
    title: str
    work: partial[None]
    artifacts: tuple[Artifact, ...] = ()
    outputs: tuple[Path, ...] = ()
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    inputs: tuple[Input, ...] = ()
    cost: Cost = field(default_factory=Cost)

    @property
    def before(self) -> tuple[str, ...]:
        """All steps that have to end before this one starts."""
        return self.needs + self.after

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that exist when the step is done."""
        return self.outputs + tuple(artifact.file for artifact in self.artifacts)

    def settings_hash(self) -> str:
        """A hash of the function and its arguments, by which an outdated result is recognized."""
        function = self.work.func
        content = to_json(
            [f"{function.__module__}.{function.__qualname__}", self.work.args, self.work.keywords]
        )
        return hashlib.sha256(content.encode()).hexdigest()


State = Literal["done", "ready", "waiting", "blocked"]


@dataclass(frozen=True)
class Status:
    """The status of a step.

    Attributes:
        state: "done"; "ready" to start; "waiting" for other steps; "blocked" by missing inputs.
        why: a sentence for each missing input.
        stale: whether there is a result of other settings, or one older than the results it depends on.
    """

    state: State
    why: tuple[str, ...] = ()
    stale: bool = False


def mark_path(out: Path, step: str) -> Path:
    """The file that marks a step as finished."""
    return out / MARKS / f"{step}.json"


def write_mark(out: Path, step: Step, finished: float, seconds: float, cpu_seconds: float) -> None:
    """Mark a step as finished, with the time (seconds since 1970), the duration and the processor time."""
    path = mark_path(out, step.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "version": MARK_VERSION,
        "step": step.name,
        "asked": step.settings_hash(),
        "finished": finished,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }
    write_atomically(path, (to_json(content) + "\n").encode())


def read_mark(out: Path, step: str) -> dict[str, Any] | None:
    """The content of a mark; None if there is none that can be read."""
    try:
        content = json.loads(mark_path(out, step).read_text())
    except (OSError, ValueError):
        return None
    known = isinstance(content, dict) and isinstance(content.get("finished"), float)
    return content if known else None


def statuses(plan: Sequence[Step], out: Path) -> dict[str, Status]:
    """The status of each step of a plan.

    Args:
        plan: steps, each after those it depends on.
        out: folder of the plan's output.
    """
    found: dict[str, Status] = {}
    ended: dict[str, float] = {}
    for step in plan:
        mark = read_mark(out, step.name)
        same = mark is not None and mark.get("asked") == step.settings_hash()
        over = [name for name in step.before if found[name].state == "done"]
        current = same and mark is not None and all(ended[name] <= mark["finished"] for name in over)
        # A result of version 0.1.0 is not dropped: the step runs again on its output and checks the settings.
        stale = mark is not None and not current and (same or mark.get("version") == MARK_VERSION)
        if mark is not None:
            ended[step.name] = mark["finished"]
        why = _why_blocked(step, found)
        still = [name for name in step.before if found[name].state in ("ready", "waiting")]
        if current and not still and all(path.exists() for path in step.files):
            found[step.name] = Status("done")
        elif why:
            found[step.name] = Status("blocked", why)
        else:
            found[step.name] = Status("waiting" if still else "ready", (), stale)
    return found


def _why_blocked(step: Step, found: Mapping[str, Status]) -> tuple[str, ...]:
    """What blocks a step: an input, a required step, or all of the steps whose results it uses."""
    why = [words for one in step.inputs if (words := one.missing()) is not None]
    why += [f"it needs {name}, which is blocked" for name in step.needs if found[name].state == "blocked"]
    if step.after and all(found[name].state == "blocked" for name in step.after):
        why.append(f"all {len(step.after)} steps whose results it shows are blocked")
    return tuple(why)


def priorities(plan: Sequence[Step]) -> dict[str, float]:
    """Seconds from the start of each step to the end of the plan, along the longest chain of steps."""
    own = {step.name: step.cost.seconds or 0.0 for step in plan}
    longest = dict(own)
    for step in reversed(plan):
        for name in step.before:
            longest[name] = max(longest[name], own[name] + longest[step.name])
    return longest
