"""A plan on a cluster: job arrays of SLURM, each after those that it depends on.

The scripts are plain ones for sbatch, to be read and changed. submitit, which writes such scripts too,
submits pickled functions, which run only under the versions that made them.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from heatbox._utils.devices import number_of_jobs
from heatbox._utils.io import made_folder, write_atomically
from heatbox.errors import InputError
from heatbox.paper.runner import LOGS, Report
from heatbox.paper.steps import Status, Step

FOLDER, JOBS = "slurm", "jobs.json"
SCRIPT = """#!/bin/bash
#SBATCH --job-name=heatbox-{name}
#SBATCH --array=0-{last}{limit}
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
# A task is a step. Two minutes before the time limit it gets a signal and saves; submit again to resume.
steps=(
{steps}
)
cd {folder} && exec {command} --steps "${{steps[$SLURM_ARRAY_TASK_ID]}}"
"""


@dataclass(frozen=True)
class Wave:
    """Steps that a job array runs, a task for each.

    Attributes:
        name: of its script.
        steps: the steps; none depends on another one.
        after: names of the waves that have steps on which they depend.
        on_device: whether they run networks.
    """

    name: str
    steps: tuple[Step, ...]
    after: tuple[str, ...]
    on_device: bool


def waves_of(plan: Sequence[Step], found: Mapping[str, Status]) -> list[Wave]:
    """The steps of a plan that can be done, in arrays of one kind that do not depend on each other.

    Args:
        plan: steps, each after those it depends on.
        found: their states, of `heatbox.paper.steps.statuses`.

    Returns:
        the arrays, each after those that it depends on.
    """
    level: dict[str, int] = {}
    arrays: dict[tuple[int, str], list[Step]] = {}
    for step in plan:
        if found[step.name].state in ("ready", "waiting"):
            level[step.name] = 1 + max((level.get(name, 0) for name in step.before), default=0)
            arrays.setdefault((level[step.name], step.name.partition("-")[0]), []).append(step)
    names = {key: f"{number}-{key[1]}" for number, key in enumerate(sorted(arrays), 1)}
    home = {step.name: names[key] for key, steps in arrays.items() for step in steps}
    return [
        Wave(
            name,
            tuple(sorted(arrays[key], key=lambda step: -(step.cost.seconds or 0))),  # the longest first
            tuple(sorted({home[one] for step in arrays[key] for one in step.before if one in home})),
            any(step.cost.seconds for step in arrays[key]),
        )
        for key, name in names.items()
    ]


def submit(
    plan: Sequence[Step],
    found: Mapping[str, Status],
    out: Path,
    command: Sequence[str],
    options: Sequence[str] = (),
    device_options: Sequence[str] = (),
    jobs: int | None = None,
    report: Report = lambda line: None,
    sbatch: Callable[[Sequence[str]], str] | None = None,
) -> dict[str, str]:
    """Write a script for each array of steps and submit them.

    Args:
        plan: steps, each after those it depends on.
        found: their states.
        out: folder of the plan's output; scripts and numbers of jobs are written into its folder "slurm".
        command: words that run the plan; the step is added with --steps.
        options: options of sbatch for all arrays, such as "time=24:00:00".
        device_options: further ones for arrays that run networks.
        jobs: number of tasks of an array that run at a time; None for no limit.
        report: called with a line for each array.
        sbatch: arguments → number of the job; by default the command sbatch.

    Returns:
        name of an array → number of its job.

    Raises:
        InputError: sbatch is missing or refuses; arrays that were submitted before are named. Jobs of an
            earlier submission have not ended, or a path or an option has a line break, or jobs is below 1.
    """
    if broken := [text for text in (str(out.resolve()), *options, *device_options) if "\n" in text]:
        raise InputError(
            f"{broken[0]!r}: has a line break, which neither a path nor an option of sbatch can have"
        )
    if jobs is not None:
        number_of_jobs(jobs)
    require_ended(out / FOLDER / JOBS)
    folder, sbatch = made_folder(out / FOLDER), sbatch or _sbatch
    made_folder(out / LOGS)
    waves = waves_of(plan, found)
    for wave in waves:
        write_atomically(folder / f"{wave.name}.sh", _script(wave, command, jobs))
    numbers: dict[str, str] = {}
    for wave in waves:
        after = (
            [f"--dependency=afterany:{':'.join(numbers[name] for name in wave.after)}"] if wave.after else []
        )
        path = folder / f"{wave.name}.sh"
        # As arguments, which unlike lines of the script may have spaces; a percent sign is a pattern of logs.
        log = f"--output={str(out.resolve() / LOGS).replace('%', '%%')}/{wave.name}-%a.log"
        words = [*options, *(device_options if wave.on_device else ())]
        further = [log, *(f"--{word.removeprefix('--')}" for word in words)]
        try:
            numbers[wave.name] = sbatch(["--parsable", *after, *further, str(path)])
        except InputError as error:
            gone = f"; submitted before it: jobs {', '.join(numbers.values())}" if numbers else ""
            raise InputError(f"{path}: could not be submitted: {error}{gone}") from error
        write_atomically(folder / JOBS, (json.dumps(numbers, indent=2) + "\n").encode())
        report(
            f"{wave.name}: job {numbers[wave.name]}, {len(wave.steps)} steps" + f" {' '.join(after)}".rstrip()
        )
    return numbers


def require_ended(path: Path) -> None:
    """Raise if jobs of an earlier submission are queued or running: two would write the same files.

    Args:
        path: the file with their numbers; where there is none, or no squeue, nothing is asked.

    Raises:
        InputError: some are, or squeue fails.
    """
    if not path.exists() or not shutil.which("squeue"):
        return
    numbers = json.loads(path.read_text()).values()
    asked = ["squeue", "--noheader", "--format=%A", f"--jobs={','.join(numbers)}"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode and "invalid job id" not in done.stderr.lower():  # so it says if it knows none of them
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise InputError(
            f"squeue failed ({said}), so it is not known whether the jobs of {path} have ended; "
            "submit again when it answers"
        )
    if alive := sorted(set(done.stdout.split())):
        raise InputError(
            f"{path}: jobs {', '.join(alive)} have not ended; submit again when they have, or scancel them"
        )


def _script(wave: Wave, command: Sequence[str], jobs: int | None) -> bytes:
    text = SCRIPT.format(
        name=wave.name,
        last=len(wave.steps) - 1,
        limit=f"%{jobs}" if jobs else "",
        steps="\n".join(f"  {shlex.quote(step.name)}" for step in wave.steps),
        folder=shlex.quote(str(Path.cwd())),
        command=shlex.join(command),
    )
    return text.encode()


def _sbatch(arguments: Sequence[str]) -> str:
    try:
        done = subprocess.run(["sbatch", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(f"the command sbatch cannot be run ({error.strerror})") from error
    number = done.stdout.strip().partition(";")[0]  # "number;cluster" on several clusters
    if done.returncode or not number.isdecimal():
        raise InputError(
            f"sbatch ended with code {done.returncode} ({(done.stderr or done.stdout).strip()[:300]})"
        )
    return number
