"""Nothing is lost: killed, stopped or out of disk space, a training resumes to the very same weights."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from heatbox.cli.main import main
from heatbox.models.factory import create_model
from heatbox.training.sparse import maskable
from heatbox.training.state import STATE, TrainState
from helpers.training import RECIPE, Training, history_of, weights_of

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def step_in(out):
    return torch.load(out / STATE, weights_only=True)["step"]


def finished_like(out, uninterrupted):
    assert weights_of(out) == weights_of(uninterrupted)
    assert history_of(out) == history_of(uninterrupted)
    assert not list(out.glob(".*.tmp"))


def test_what_a_training_leaves(uninterrupted):
    names = ["epoch-0002-ema", "epoch-0002", "epoch-0004-ema", "epoch-0004"]
    assert list(weights_of(uninterrupted)) == [f"{name}.safetensors" for name in names]
    rows = history_of(uninterrupted)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert all(0 < row["loss"] < 10 for row in rows)
    assert "MaxBoxAcc" not in rows[0]["weights"].get("cam", {})
    found = json.loads((uninterrupted / "training.json").read_text())
    for method in ("cam", "pc1"):
        scored = [
            (row["epoch"], name, row[name][method]) for row in rows[1::2] for name in ("weights", "ema")
        ]
        best = max(one["MaxBoxAcc"] for _, _, one in scored)
        assert found["best"][method]["MaxBoxAcc"] == best
        assert (found["best"][method]["epoch"], found["best"][method]["weights"]) in [
            (epoch, name) for epoch, name, one in scored if one["MaxBoxAcc"] == best
        ]
    assert found["last"]["epoch"] == 4
    assert (uninterrupted / "log.csv").read_text().count("\n") == 5
    model = create_model("test_slak", checkpoint=uninterrupted / "checkpoints" / "epoch-0004.safetensors")
    weights, masks = maskable(model), torch.load(uninterrupted / STATE, weights_only=True)["masks"]
    total = sum(weight.numel() for weight in weights.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.6 * total)
    assert not any(weight.detach()[~masks[name]].any() for name, weight in weights.items())
    assert model.pretrained_cfg["input_size"] == (3, 64, 64)


def started(data, out, *options):
    """A training that saves its state after every step, and has just saved it."""
    before = step_in(out) if (out / STATE).exists() else 0
    training = Training(data, out, "--save-minutes", "0", *options)
    assert training.wait_for(lambda: (out / STATE).exists() and step_in(out) > before)
    return training


def test_one_training_through_everything(small_data, uninterrupted, tmp_path):
    """Killed, killed while writing, out of disk space, stopped by a signal: the weights are the same."""
    out = tmp_path / "run"
    training = started(small_data, out)
    time.sleep(random.Random(0).random() * 0.3)
    training.kill()
    assert training.finish()[0] == -signal.SIGKILL

    training = started(small_data, out, "--workers", "1")
    assert training.wait_for(lambda: any(out.glob(f".{STATE}.*.tmp")))
    training.kill()
    assert training.finish()[0] == -signal.SIGKILL
    assert step_in(out) > 0  # the state of an earlier step is whole

    kept = (out / STATE).read_bytes()
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    code, output = Training(small_data, out, "--save-minutes", "0", before=full).finish()
    assert code == 2, output
    assert f"{out / STATE}: could not be written" in output
    assert "Traceback" not in output
    assert (out / STATE).read_bytes() == kept

    training = started(small_data, out)
    training.kill(signal.SIGTERM)
    code, output = training.finish()
    assert code == 128 + signal.SIGTERM, output
    assert "rerun the command to resume" in output
    assert "Traceback" not in output

    code, output = Training(small_data, out).finish()
    assert code == 0, output
    finished_like(out, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_kills_at_random_moments_change_nothing(seed, small_data, uninterrupted, tmp_path):
    out, chance = tmp_path / "run", random.Random(seed)
    for kill in range(3):
        training = started(small_data, out, "--workers", str(kill % 2))
        time.sleep(chance.random() * 0.8)
        training.kill()
        training.finish()
    code, output = Training(small_data, out).finish()
    assert code == 0, output
    finished_like(out, uninterrupted)


@pytest.mark.slow
def test_ctrl_c(small_data, uninterrupted, tmp_path):
    out = tmp_path / "run"
    training = started(small_data, out)
    training.kill(signal.SIGINT)
    code, output = training.finish()
    assert code == 130, output
    assert "Traceback" not in output
    assert Training(small_data, out).finish()[0] == 0
    finished_like(out, uninterrupted)


def test_a_changed_configuration_is_refused_by_default(small_data, uninterrupted, tmp_path, capsys):
    command = ["train", *RECIPE, "--data", str(small_data), "--out", str(uninterrupted)]
    before = weights_of(uninterrupted)
    assert main([*command, "--epochs", "6", "--lr", "0.5"]) == 2
    output = capsys.readouterr().err
    assert "epochs 4 → 6" in output
    assert "lr 0.001 → 0.5" in output
    assert weights_of(uninterrupted) == before


def test_a_damaged_state_is_reported(small_data, uninterrupted, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    for name in ("config.json", "environment.json"):
        (out / name).write_bytes((uninterrupted / name).read_bytes())
    (out / STATE).write_bytes((uninterrupted / STATE).read_bytes()[:20_000])
    assert main(["train", *RECIPE, "--data", str(small_data), "--out", str(out)]) == 2
    assert f"{out / STATE}: cannot be resumed from" in capsys.readouterr().err


def test_a_finished_training_is_not_repeated(small_data, uninterrupted):
    before = {path: path.stat().st_mtime_ns for path in (uninterrupted / "checkpoints").iterdir()}
    assert main(["train", *RECIPE, "--data", str(small_data), "--out", str(uninterrupted)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (uninterrupted / "checkpoints").iterdir()} == before


def test_a_loss_that_is_not_finite_names_the_images(small_data, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--lr", "1e30", "--lr-head", "1e30", "--clip", "None", "--warmup-epochs", "0"]
    assert main(["train", *RECIPE, "--data", str(small_data), "--out", str(out), *options]) == 2
    output = capsys.readouterr().err
    assert "at step" in output
    assert ".png" in output


def test_a_resume_spares_the_temporary_file_of_a_live_writer(tmp_path):
    """One rank resumes while another is writing: only what killed processes left is removed."""
    model = torch.nn.Linear(2, 3)
    state = TrainState(model, torch.optim.AdamW(model.parameters()))
    state.save(tmp_path)
    writer = "from heatbox._utils.io import temporary_beside; from pathlib import Path; import sys; " + (
        "temporary_beside(Path(sys.argv[1])).write_text('half'); print(flush=True); sys.stdin.read()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", writer, str(tmp_path / STATE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    live, killed = processes
    try:
        for process in processes:
            process.stdout.readline()
        killed.kill()
        killed.wait()
        assert len(list(tmp_path.glob(".*.tmp"))) == 2
        resumed = "; ".join(
            (
                "import sys, torch",
                "from pathlib import Path",
                "from heatbox.training.state import TrainState",
                "model = torch.nn.Linear(2, 3)",
                "state = TrainState(model, torch.optim.AdamW(model.parameters()))",
                "assert state.load(Path(sys.argv[1]))",
                "state.save(Path(sys.argv[1]))",
            )
        )
        subprocess.run([sys.executable, "-c", resumed, str(tmp_path)], check=True)
        (left,) = tmp_path.glob(".*.tmp")
        assert f"-{live.pid}.tmp" in left.name
        assert left.read_text() == "half"
    finally:
        for process in processes:
            process.kill()
            process.communicate()
