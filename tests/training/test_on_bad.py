"""`heatbox train --on-bad skip`: what is left out is counted, and the rest trains as if it were all."""

import json
import os
import shutil
import signal

import pytest
import torch

from heatbox.cli.main import main
from heatbox.data.problems import LeftOut, Problem
from heatbox.training import trainer
from heatbox.training.state import STATE
from helpers.training import RECIPE, history_of, weights_of

BROKEN = {"train": "7.png", "test": "3.png"}
FEWER = ("--epochs", "2", "--checkpoint-every", "1", "--method", "cam")


def run(data, out, *options):
    return main(["train", *RECIPE, *FEWER, "--data", str(data), "--out", str(out), *options])


@pytest.fixture
def damaged(small_data, tmp_path):
    """The small data with a truncated image in each split."""
    root = shutil.copytree(small_data, tmp_path / "damaged")
    for name, image in BROKEN.items():
        path = root / name / "images" / image
        path.write_bytes(path.read_bytes()[:150])
    return root


@pytest.fixture
def without(small_data, tmp_path):
    """The small data without these images."""
    root = shutil.copytree(small_data, tmp_path / "without")
    for name, image in BROKEN.items():
        for table in (root / name).glob("*.txt"):
            rows = [row for row in table.read_text().splitlines() if row.partition(",")[0] != image]
            table.write_text("\n".join(rows) + "\n")
    return root


def test_the_rest_is_all_that_is_trained_on(damaged, without, small_data, tmp_path, capsys, monkeypatch):
    assert run(damaged, tmp_path / "stopped") == 2
    assert "7.png" in capsys.readouterr().err
    assert run(without, tmp_path / "oracle") == 0
    assert "left_out" not in json.loads((tmp_path / "oracle/training.json").read_text())

    # Interrupted after some steps, with the files mended meanwhile: the list in the folder counts.
    out, check = tmp_path / "run", trainer._check_finite
    with monkeypatch.context() as patched:

        def stop_at_the_third(mean_loss, own, seen, split, step):
            check(mean_loss, own, seen, split, step)
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        patched.setattr(trainer, "_check_finite", stop_at_the_third)
        assert run(damaged, out, "--on-bad", "skip") == 128 + signal.SIGTERM
    assert torch.load(out / STATE, weights_only=True)["step"] == 4
    shutil.copytree(small_data, damaged, dirs_exist_ok=True)
    capsys.readouterr()
    assert run(damaged, out, "--on-bad", "skip") == 1
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Left out of train: 1 (unreadable). Left out of test: 1 (unreadable)" in printed
    found = json.loads((out / "training.json").read_text())
    assert found["left_out"] == {"train": {"unreadable": 1}, "test": {"unreadable": 1}}
    listed = json.loads((out / "left-out.json").read_text())
    assert {name: list(listed[name]["images"]) for name in BROKEN} == {n: [i] for n, i in BROKEN.items()}
    assert "7.png" in listed["train"]["problems"][0]

    assert weights_of(out) == weights_of(tmp_path / "oracle")
    assert history_of(out) == history_of(tmp_path / "oracle")

    (out / "left-out.json").write_text(json.dumps(listed).replace('"unreadable"', '"no reason"'))
    assert run(damaged, out, "--on-bad", "skip") == 2
    assert "left-out.json" in capsys.readouterr().err

    # Started again, the mended images count.
    assert run(damaged, out, "--on-bad", "skip", "--epochs", "1", "--overwrite") == 0
    assert "left_out" not in json.loads((out / "training.json").read_text())


def test_rows_that_cannot_be_used(small_data, tmp_path, capsys):
    root = shutil.copytree(small_data, tmp_path / "data")
    table = root / "test" / "localization.txt"
    table.write_text(table.read_text() + "4.png,0,0,900,9\n")
    assert run(root, tmp_path / "stopped") == 2
    assert "lies outside its" in capsys.readouterr().err
    assert run(root, tmp_path / "run", "--on-bad", "skip", "--epochs", "1", "--json") == 1
    assert json.loads(capsys.readouterr().out)["left_out"] == {"test": {"box outside the image": 1}}


def test_what_was_left_out_is_restored():
    left_out = LeftOut()
    left_out(Problem("a is bad", "a", "unreadable"))
    left_out("row 3 is bad")
    again = LeftOut.restored(json.loads(json.dumps(left_out.as_dict())))
    assert again.as_dict() == left_out.as_dict()
    assert again.counts() == {"unreadable": 1, "malformed entry": 1}
