"""The paper on a cluster, with a sbatch that records what it is asked for, or runs it."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from heatbox.cli.main import main
from heatbox.errors import InputError
from heatbox.paper.runner import run_plan
from heatbox.paper.slurm import submit, waves_of
from heatbox.paper.steps import Input, statuses
from helpers import paper_steps as quick
from helpers.paper_steps import step

SBATCH = """#!{python}
import json, os, re, subprocess, sys
from pathlib import Path

home = Path({home!r})
calls = json.loads((home / "calls.json").read_text()) if (home / "calls.json").exists() else []
if len(calls) == {refused}:
    sys.exit("sbatch: error: invalid partition specified")
number = 4000 + len(calls)
calls.append(sys.argv[1:])
(home / "calls.json").write_text(json.dumps(calls))
script = sys.argv[-1]
tasks = int(re.search("--array=0-([0-9]+)", Path(script).read_text())[1])
for task in range(tasks + 1) if {runs} else ():
    environ = dict(os.environ, SLURM_ARRAY_TASK_ID=str(task))
    subprocess.run(["bash", script], env=environ, check=False, stdout=subprocess.DEVNULL)
print(f"{{number}};cluster")
"""

RUN = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from heatbox.paper.runner import run_plan
from paper.test_slurm import plan_of

if __name__ == "__main__":
    left = run_plan(plan_of(Path({folder!r}), {works!r}), Path({folder!r}), only=sys.argv[2:])
    sys.exit(bool(left))
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Puts a command sbatch on PATH; returns a function that makes one, and one that reads its calls."""

    def make(runs: bool = False, refused: int = -1) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        text = SBATCH.format(python=sys.executable, home=str(tmp_path), runs=runs, refused=refused)
        (folder / "sbatch").write_text(text)
        (folder / "sbatch").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return make, lambda: json.loads((tmp_path / "calls.json").read_text())


def plan_of(folder: Path, works: bool = True):
    """prepare → two trainings → an evaluation of each → a table of both."""
    training = quick.write if works else quick.refuse
    return [
        step("prepare", folder),
        step("train-a", folder, training, seconds=5, needs=("prepare",)),
        step("train-b", folder, seconds=9, needs=("prepare",)),
        step("evaluate-a", folder, seconds=1, needs=("train-a",)),
        step("evaluate-b", folder, seconds=1, needs=("train-b",)),
        step("figure-all", folder, after=("evaluate-a", "evaluate-b")),
    ]


def test_steps_are_arrays_by_what_they_wait_for(tmp_path):
    plan = plan_of(tmp_path)
    found = [
        ([one.name for one in wave.steps], wave.name, wave.after, wave.on_device)
        for wave in waves_of(plan, statuses(plan, tmp_path))
    ]
    assert found == [
        (["prepare"], "1-prepare", (), False),
        (["train-b", "train-a"], "2-train", ("1-prepare",), True),  # the longest first
        (["evaluate-a", "evaluate-b"], "3-evaluate", ("2-train",), True),
        (["figure-all"], "4-figure", ("3-evaluate",), False),
    ]


def test_what_is_done_or_lacks_its_input_is_not_submitted(tmp_path, cluster):
    make, calls = cluster
    make()
    missing = Input("the images", tmp_path / "none", "they are published")
    plan = [*plan_of(tmp_path), step("second", tmp_path, inputs=(missing,), seconds=3)]
    assert run_plan(plan, tmp_path, only=["prepare", "train-a"]) == {}
    numbers = submit(
        plan, statuses(plan, tmp_path), tmp_path, ["run it"], ["--qos=a b", "mem=1G"], ["gpus=1"], 3
    )
    assert numbers == {"1-evaluate": "4000", "2-train": "4001", "3-evaluate": "4002", "4-figure": "4003"}
    scripts, logs = tmp_path / "slurm", tmp_path / "logs"
    after = ([], [], ["--dependency=afterany:4001"], ["--dependency=afterany:4000:4002"])
    assert calls() == [
        [
            *("--parsable", *waits, f"--output={logs}/{name}-%a.log", "--qos=a b", "--mem=1G"),
            *(() if name == "4-figure" else ("--gpus=1",)),
            str(scripts / f"{name}.sh"),
        ]
        for name, waits in zip(numbers, after, strict=True)
    ]
    assert json.loads((scripts / "jobs.json").read_text()) == numbers
    text = (scripts / "2-train.sh").read_text()
    assert "#SBATCH --array=0-0%3\n" in text
    assert "'run it' --steps" in text


def test_what_sbatch_or_the_plan_cannot_take_is_said_before(tmp_path, cluster, monkeypatch):
    make, calls = cluster
    make()
    plan = plan_of(tmp_path)
    found = statuses(plan, tmp_path)
    with pytest.raises(InputError, match="line break"):
        submit(plan, found, tmp_path, ["run"], ["comment=a\nrm -r ."])
    with pytest.raises(InputError, match="expected"):
        submit(plan, found, tmp_path, ["run"], jobs=0)
    assert not (tmp_path / "calls.json").exists()
    odd = tmp_path / "50% of it"
    assert submit(plan_of(odd), found, odd, ["run"])
    assert f"--output={tmp_path}/50%% of it/logs/1-prepare-%a.log" in calls()[0]


def test_jobs_that_have_not_ended_are_not_submitted_twice(tmp_path, cluster):
    make, calls = cluster
    make()
    plan = plan_of(tmp_path)
    found = statuses(plan, tmp_path)
    submit(plan, found, tmp_path, ["run"])
    squeue = tmp_path / "bin/squeue"
    squeue.write_text("#!/bin/sh\nprintf '4001\\n4001\\n'\n")
    squeue.chmod(0o755)
    with pytest.raises(InputError, match="jobs 4001 have not ended"):
        submit(plan, found, tmp_path, ["run"])
    squeue.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    with pytest.raises(InputError, match=r"squeue failed \(Unable to contact slurm controller\)"):
        submit(plan, found, tmp_path, ["run"])
    assert len(calls()) == 4
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n")
    assert len(submit(plan, found, tmp_path, ["run"])) == 4


def test_the_arrays_make_the_plan_and_go_on_after_a_failure(tmp_path, cluster):
    make, calls = cluster
    make(runs=True)
    folder, driver = tmp_path / "out", tmp_path / "run.py"
    for works, left, jobs in ((False, {"train-a", "evaluate-a"}, 4), (True, set(), 3)):
        text = RUN.format(tests=str(Path(__file__).parents[1]), folder=str(folder), works=works)
        driver.write_text(text)
        plan = plan_of(folder, works)
        numbers = submit(plan, statuses(plan, folder), folder, [sys.executable, str(driver)])
        assert len(numbers) == jobs
        found = statuses(plan, folder)
        assert {name for name, status in found.items() if status.state != "done"} - {"figure-all"} == left
        assert (folder / "evaluate-b.txt").exists()
    assert {status.state for status in found.values()} == {"done"}
    assert (folder / "evaluate-b.txt").read_text() == "\n"  # not done twice
    assert len(calls()) == 7


def test_the_command_submits_the_small_scale(tmp_path, cluster, capsys, monkeypatch):
    make, calls = cluster
    make()
    monkeypatch.chdir(tmp_path)
    words = ["paper", "--submit", "slurm", "--out", "small", "--device", "cpu", "--sbatch", "mem=8G"]
    assert main([*words, "--sbatch-device", "gpus=2"]) == 0
    names = [Path(call[-1]).stem for call in calls()]
    assert names[0] == "1-train"
    assert names[-1].endswith("page")
    later = calls()[-1][1]
    assert {"--mem=8G", "--gpus=2"} < set(calls()[0])
    assert re.fullmatch(r"--dependency=afterany:4\d{3}(:4\d{3})+", later)
    text = Path("small/slurm/1-train.sh").read_text()
    assert "-m heatbox paper --scale mini --jobs 1 --out small --device cpu --steps" in text
    assert "job 4000" in capsys.readouterr().err


def test_one_step_of_the_command(tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    assert main(["paper", *out, "--steps", "figure-scores-cam"]) == 1
    assert (
        "not made: figure-scores-cam: none of the steps whose results it shows was made"
        in capsys.readouterr().err
    )
    assert main(["paper", *out, "--steps", "figure-scores-can"]) == 2
    assert "there is no step 'figure-scores-can'; did you mean figure-scores-cam" in capsys.readouterr().err


def test_a_cluster_that_refuses(tmp_path, cluster, monkeypatch):
    make, _ = cluster
    make(refused=2)
    plan = plan_of(tmp_path)
    with pytest.raises(InputError, match=r"invalid partition.*submitted before it: jobs 4000, 4001"):
        submit(plan, statuses(plan, tmp_path), tmp_path, ["run"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="the command sbatch cannot be run"):
        submit(plan, statuses(plan, tmp_path), tmp_path, ["run"])


def test_options_that_exclude_each_other(tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    assert main(["paper", *out, "--submit", "slurm", "--steps", "figure-scores-cam"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert main(["paper", *out, "--sbatch", "mem=8G"]) == 2
    assert "is an option of --submit slurm" in capsys.readouterr().err
