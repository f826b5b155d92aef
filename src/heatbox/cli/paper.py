"""The command `heatbox paper`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from heatbox.cli.terminal import SOME_FAILED, AsJson, print_json, print_table, say
from heatbox.errors import InputError

if TYPE_CHECKING:
    from heatbox.paper.plan import Scale
    from heatbox.paper.steps import Status, Step


def paper(
    scale: Literal["mini", "full"] = "mini",
    out: Path | None = None,
    jobs: int | None = None,
    steps: tuple[str, ...] = (),
    submit: Literal["slurm"] | None = None,
    sbatch: tuple[str, ...] = (),
    sbatch_device: tuple[str, ...] = ("gpus=1",),
    plan_only: Annotated[bool, tyro.conf.arg(name="list")] = False,
    data: Annotated[Path | None, tyro.conf.arg(aliases=["-d"])] = None,
    pretrained: Path | None = None,
    imagenet: Path | None = None,
    stimuli: Path | None = None,
    download: bool = False,
    device: str = "auto",
    tflops: float | None = None,
    as_json: AsJson = False,
) -> int:
    """Reproduce every table and figure of the paper.

    mini trains small networks of the three families on the embedded data set, on a CPU; full is the paper's
    36 models on CUB-200-2011. Finished steps are skipped; rerun the command to resume after an interruption.
    Steps that cannot run are listed with the missing inputs, and the exit code is then 1.

    Args:
        scale: mini or full.
        out: The folder of all output; by default runs/paper-SCALE.
        jobs: Number of steps that run at a time, by default 2 worker processes; with --submit tasks of an
            array, by default not limited.
        steps: Names of the steps to run; by default all.
        submit: slurm to submit the steps as job arrays instead of running them; scripts are in OUT/slurm.
        sbatch: Options of sbatch for all jobs, such as partition=long time=24:00:00.
        sbatch_device: Further ones for jobs that run networks.
        plan_only: Print every step with its state, missing inputs and cost; run nothing.
        data: CUB-200-2011, as downloaded or extracted, for full.
        pretrained: Folder of the pre-trained files, for full.
        imagenet: ILSVRC2012 with its validation images and boxes, for full's Fig. 13 right.
        stimuli: Cue-conflict images, for full's Fig. 16 and 17.
        download: Let timm download the weights that it publishes.
        device: cpu, cuda, mps, or auto for the best available.
        tflops: Sustained TFLOP/s of one device, for the estimates of full; by default the peak of the paper's
            device, so that the estimates are lower bounds.
        as_json: Print the plan as JSON.

    Examples:
        heatbox paper
        heatbox paper --scale full --list
        heatbox paper --scale full --data CUB_200_2011 --pretrained weights --download --jobs 1
        heatbox paper --scale full --data CUB_200_2011 --submit slurm --sbatch time=24:00:00
    """
    from heatbox.paper.full import TFLOPS, full
    from heatbox.paper.mini import mini
    from heatbox.paper.plan import make_plan
    from heatbox.paper.runner import run_plan
    from heatbox.paper.steps import statuses

    if tflops is not None and not tflops > 0:
        raise InputError(f"tflops is {tflops}, expected more than 0")
    if submit is not None and steps:
        raise InputError(
            "--submit sends all steps that are left, and --steps runs some here; give one of them"
        )
    if submit is None and sbatch:
        raise InputError("--sbatch is an option of --submit slurm")
    out = out or Path("runs") / f"paper-{scale}"
    found: Scale
    if scale == "full":
        found = full(out, data, pretrained, imagenet, stimuli, download, device, tflops=tflops or TFLOPS)
    else:
        found = mini(device)
    plan = make_plan(found, out)
    if plan_only:
        _print_plan(plan, statuses(plan, out), as_json)
        return 0
    _print_remaining(plan, statuses(plan, out))
    if submit is not None:
        paths = {"data": data, "pretrained": pretrained, "imagenet": imagenet, "stimuli": stimuli, "out": out}
        words = [word for name, path in paths.items() if path for word in (f"--{name}", str(path))]
        words += ["--device", device, *(["--download"] if download else [])]
        command = [sys.executable, "-m", "heatbox", "paper", "--scale", scale, "--jobs", "1", *words]
        return _submit(plan, statuses(plan, out), out, command, sbatch, sbatch_device, jobs)
    with _terminated_as_interrupted():
        left = run_plan(plan, out, 2 if jobs is None else jobs, say, steps or None)
    artifacts = [artifact for step in plan for artifact in step.artifacts]
    made = [artifact for artifact in artifacts if artifact.file.exists()]
    say(f"{len(made)} of {len(artifacts)} tables and figures are in {out}")
    page = out / "paper.html"
    if page.exists():
        say(f"page: {page} ({page.stat().st_size / 1e6:.1f} MB)")
    for name, why in left.items():
        say(f"not made: {name}: {why}")
    return SOME_FAILED if left else 0


def _submit(
    plan: Sequence[Step],
    found: Mapping[str, Status],
    out: Path,
    command: Sequence[str],
    options: Sequence[str],
    device_options: Sequence[str],
    jobs: int | None,
) -> int:
    """Submit the steps of a plan that are not done; the exit code is 1 if some cannot run."""
    from heatbox.paper.slurm import submit

    say(f"scripts: {out / 'slurm'}")
    submit(plan, found, out, command, options, device_options, jobs, say)
    blocked = {name: status.why for name, status in found.items() if status.state == "blocked"}
    for name, why in blocked.items():
        say(f"not submitted: {name}: {'; '.join(why)}")
    return SOME_FAILED if blocked else 0


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does: running steps save their work."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_plan(plan: Sequence[Step], found: Mapping[str, Status], as_json: bool) -> None:
    from heatbox.visualization.tables import plan_table

    if as_json:
        print_json([_described(step, found[step.name]) for step in plan])
        return
    print_table(plan_table([_described(step, found[step.name]) for step in plan]))
    _print_remaining(plan, found)


def _described(step: Step, status: Status) -> dict[str, Any]:
    """A step and its status for JSON."""
    return {
        "step": step.name,
        "title": step.title,
        "makes": [{"paper": one.paper, "title": one.title, "file": one.file} for one in step.artifacts],
        "needs": step.needs,
        "after": step.after,
        "outputs": step.files,
        "state": status.state,
        "why": status.why,
        "seconds": step.cost.seconds,
        "basis": step.cost.basis,
    }


def _print_remaining(plan: Sequence[Step], found: Mapping[str, Status]) -> None:
    """Print the number of remaining steps, and the expected time of those for which one is known."""
    todo = [step for step in plan if found[step.name].state != "done"]
    blocked = [step for step in todo if found[step.name].state == "blocked"]
    hours = sum(step.cost.seconds or 0 for step in todo) / 3600
    bases = ", ".join(dict.fromkeys(step.cost.basis for step in todo if step.cost.seconds))
    time = f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    say(
        f"{len(plan)} steps, {len(plan) - len(todo)} done, {len(blocked)} blocked"
        + (f"; the rest takes about {time} of one core or device ({bases})" if bases else "")
    )
