"""Steps of a plan: what each makes, from what, at what cost, and where it stands."""

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


@dataclass(frozen=True)
class Made:
    """One table or figure of the paper.

    Attributes:
        paper: its number there, such as "Fig. 13"; "" where it has none.
        title: what it shows.
        file: the picture.
    """

    paper: str
    title: str
    file: Path


@dataclass(frozen=True)
class Input:
    """Something that the plan does not make itself.

    Attributes:
        what: in words.
        path: file or folder, or None where it was not named.
        where: how to come by it.
    """

    what: str
    path: Path | None
    where: str

    def missing(self) -> str | None:
        """What is missing in a sentence, or None."""
        if self.path is not None and self.path.exists():
            return None
        place = "was not named" if self.path is None else f"is not at {self.path}"
        return f"{self.what} {place}; {self.where}"


@dataclass(frozen=True)
class Cost:
    """What a step is expected to take.

    Attributes:
        seconds: of one core or one device; None where nothing is known.
        basis: where the number comes from.
    """

    seconds: float | None = None
    basis: str = ""


@dataclass(frozen=True)
class Step:
    """One piece of work that can be interrupted and repeated.

    Attributes:
        name: unique in a plan.
        title: what it does.
        work: called with `tell` (a line to the reader) and `anew` (drop what an earlier, different call
            left). A partial of a function of a module, so that a worker process can be given it.
        makes: tables and figures of the paper.
        outputs: further files; the step is done when all are there.
        needs: steps without which it cannot work.
        after: steps whose results it takes where there are any; it waits for them.
        inputs: what has to be there beforehand.
        cost: on a first run.
    """

    name: str
    title: str
    work: partial[None]
    makes: tuple[Made, ...] = ()
    outputs: tuple[Path, ...] = ()
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    inputs: tuple[Input, ...] = ()
    cost: Cost = field(default_factory=Cost)

    @property
    def before(self) -> tuple[str, ...]:
        """All steps that have to be over before this one begins."""
        return self.needs + self.after

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is there when the step is done."""
        return self.outputs + tuple(made.file for made in self.makes)

    def asked(self) -> str:
        """A hash of what is to be done, which tells an old result from a current one."""
        function = self.work.func
        content = to_json(
            [f"{function.__module__}.{function.__qualname__}", self.work.args, self.work.keywords]
        )
        return hashlib.sha256(content.encode()).hexdigest()


State = Literal["done", "ready", "waiting", "blocked"]


@dataclass(frozen=True)
class Status:
    """Where a step stands.

    Attributes:
        state: "done"; "ready" to begin; "waiting" for other steps; "blocked" for want of something.
        why: what is missing, a sentence each.
        stale: whether an earlier result is there that was asked for otherwise, or is older than what it was
            made from.
    """

    state: State
    why: tuple[str, ...] = ()
    stale: bool = False


def mark_path(out: Path, step: str) -> Path:
    """The file that says that a step is finished."""
    return out / MARKS / f"{step}.json"


def write_mark(out: Path, step: Step, finished: float, seconds: float, cpu_seconds: float) -> None:
    """Note that a step is finished: when (seconds since 1970), after how long, on how much processor time."""
    path = mark_path(out, step.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"step": step.name, "asked": step.asked(), "finished": finished}
    content |= {"seconds": seconds, "cpu_seconds": cpu_seconds}
    write_atomically(path, (to_json(content) + "\n").encode())


def read_mark(out: Path, step: str) -> dict[str, Any] | None:
    """What `write_mark` wrote; None where there is nothing that can be read."""
    try:
        content = json.loads(mark_path(out, step).read_text())
    except (OSError, ValueError):
        return None
    known = isinstance(content, dict) and isinstance(content.get("finished"), float)
    return content if known else None


def statuses(plan: Sequence[Step], out: Path) -> dict[str, Status]:
    """Where each step of a plan stands.

    Args:
        plan: steps, each after those it depends on.
        out: folder of the plan's output.
    """
    found: dict[str, Status] = {}
    ended: dict[str, float] = {}
    for step in plan:
        mark = read_mark(out, step.name)
        current = mark is not None and mark.get("asked") == step.asked()
        over = [name for name in step.before if found[name].state == "done"]
        if mark is not None:
            ended[step.name] = mark["finished"]
            current = current and all(ended[name] <= mark["finished"] for name in over)
        why = _why_blocked(step, found)
        still = [name for name in step.before if found[name].state in ("ready", "waiting")]
        if current and not still and all(path.exists() for path in step.files):
            found[step.name] = Status("done")
        elif why:
            found[step.name] = Status("blocked", why)
        else:
            found[step.name] = Status("waiting" if still else "ready", (), mark is not None and not current)
    return found


def _why_blocked(step: Step, found: Mapping[str, Status]) -> tuple[str, ...]:
    """What keeps a step from being ready: an input, a needed step, or all of those it takes results of."""
    why = [words for one in step.inputs if (words := one.missing()) is not None]
    why += [f"it needs {name}, which is blocked" for name in step.needs if found[name].state == "blocked"]
    if step.after and all(found[name].state == "blocked" for name in step.after):
        why.append(f"all {len(step.after)} steps whose results it shows are blocked")
    return tuple(why)


def priorities(plan: Sequence[Step]) -> dict[str, float]:
    """Seconds from the beginning of each step to the end of the plan if nothing else had to be waited for."""
    longest = {step.name: step.cost.seconds or 0.0 for step in plan}
    for step in reversed(plan):
        for name in step.before:
            own = next(one.cost.seconds or 0.0 for one in plan if one.name == name)
            longest[name] = max(longest[name], own + longest[step.name])
    return longest
