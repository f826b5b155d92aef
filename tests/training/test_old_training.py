"""Trainings of 0.1.0: they are resumed, and their checkpoints are read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import heatbox
from heatbox.cli.main import main
from heatbox.config import ModelSpec
from heatbox.training.state import STATE
from heatbox.training.weights import best_checkpoint, spec_of_run
from helpers.training import history_of, weights_of

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "v0.1.0"
# fmt: off
COMMAND = (
    "train", "glyphs_resnet", "--model", "mine.py:blobs", "--data", "set", "--test", "val", "--size", "64",
    "--batch-size", "4", "--per-device", "2", "--epochs", "4", "--checkpoint-every", "2", "--ema", "0.9",
    "--sparsity", "0.4", "--mask-every", "2", "--lr", "1e-3", "--lr-head", "1e-3", "--device", "cpu",
    "--no-tensorboard",
)
# fmt: on
UNDETERMINED = {"2.bias", "3.running_mean", "3.num_batches_tracked"}
"""BatchNorm cancels the bias before it: its gradient is rounding, which Adam scales up, and which depends
on the machine and the number of threads. The learning rate of 1e-3 makes the tolerance a fifth of a step."""


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of what 0.1.0 wrote, as the working folder: the paths in its configurations are relative."""
    shutil.copytree(FIXTURES, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def without_setting(folder, name):
    """Remove a setting from config.json, as if the version that wrote it had not known it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config[name]
    path.write_text(json.dumps(config))


def test_an_unfinished_training_resumes_to_the_end(old):
    resumed, finished = old / "training-unfinished", old / "training"
    assert torch.load(resumed / STATE, weights_only=True)["step"] == 8
    without_setting(resumed, "lr_floor")  # its default is used
    assert main([*COMMAND, "--out", str(resumed)]) == 0
    rows = history_of(resumed)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    for row, expected in zip(rows, history_of(finished), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    weights, expected = weights_of(resumed), weights_of(finished)
    assert weights.keys() == expected.keys()
    for file, tensors in expected.items():
        for name, content in tensors.items():
            if name not in UNDETERMINED:
                found, wanted = (np.frombuffer(part, np.float32) for part in (weights[file][name], content))
                np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=2e-4)
    assert json.loads((resumed / "training.json").read_text())["pretraining"] == "scratch"


def test_a_setting_that_is_missing_and_not_at_its_default_is_a_difference(old, capsys):
    without_setting(old / "training-unfinished", "sparsity")
    assert main([*COMMAND, "--out", "training-unfinished"]) == 2
    assert "another configuration (sparsity 0.0 → 0.4)" in capsys.readouterr().err


def test_a_finished_training_stays_as_it_is(old):
    before = weights_of(old / "training")
    assert main([*COMMAND, "--out", "training"]) == 0
    assert weights_of(old / "training") == before


def test_checkpoints_are_read(old):
    spec = spec_of_run("training", device="cpu")
    last = Path("training/checkpoints/epoch-0004-ema.safetensors")
    assert spec == ModelSpec(
        "mine.py:blobs", checkpoint=str(last), size=64, mean=(0.5,) * 3, std=(0.25,) * 3, device="cpu"
    )
    best = json.loads(Path("training/training.json").read_text())["best"]["cam"]
    average = "-ema" if best["weights"] == "ema" else ""
    assert best_checkpoint(Path("training")).stem == f"epoch-{best['epoch']:04d}{average}"
    model = heatbox.create_model(spec.model, checkpoint=spec.checkpoint)
    for name, tensor in model.state_dict().items():
        assert tensor.numpy().tobytes() == weights_of(Path("training"))[last.name][name]
    command = [
        "evaluate",
        "--model",
        "mine.py:blobs",
        "--checkpoint",
        str(last),
        "--data",
        "val",
        "--size",
        "64",
    ]
    assert main([*command, "--device", "cpu", "--method", "cam", "--thresholds", "50"]) == 0
