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
    scripts = tmp_path / "slurm"
    assert calls() == [
        ["--parsable", str(scripts / "1-evaluate.sh")],
        ["--parsable", str(scripts / "2-train.sh")],
        ["--parsable", "--dependency=afterany:4001", str(scripts / "3-evaluate.sh")],
        ["--parsable", "--dependency=afterany:4000:4002", str(scripts / "4-figure.sh")],
    ]
    assert json.loads((scripts / "jobs.json").read_text()) == numbers
    text = (scripts / "2-train.sh").read_text()
    assert "#SBATCH --array=0-0%3\n" in text
    assert "#SBATCH --qos=a b\n#SBATCH --mem=1G\n#SBATCH --gpus=1\n" in text
    assert "'run it' --steps" in text
    assert "--gpus" not in (scripts / "4-figure.sh").read_text()


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
    assert re.fullmatch(r"--dependency=afterany:4\d{3}(:4\d{3})+", later)
    text = Path("small/slurm/1-train.sh").read_text()
    assert "#SBATCH --mem=8G\n#SBATCH --gpus=2\n" in text
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
