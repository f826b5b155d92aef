"""The demonstration, cut short: every step of it runs and leaves what it says."""

import json

import numpy as np
import pytest
from PIL import Image

from heatbox.config import TrainConfig
from heatbox.demo import run_demo
from heatbox.errors import InputError
from heatbox.models.build import build_model
from heatbox.store import Run


def test_a_short_demo(tmp_path):
    out = tmp_path / "demo"
    config = TrainConfig(model="resnet10_small", epochs=1, batch_size=20)
    metrics = run_demo(config, out, train_images=60, test_images=30)
    assert metrics["images"] == 30
    assert set(metrics["methods"]) == {"cam", "pc1", "centre-gaussian", "full-image"}
    model = build_model("resnet10_small", num_classes=10, checkpoint=out / "weights.safetensors")
    assert model.num_classes == 10
    sheet = np.asarray(Image.open(out / "contact-sheet.png"))
    assert sheet.ndim == 3
    assert sheet.std() > 20
    assert Run(out).metrics()["images"] == 30
    assert json.loads((out / "environment.json").read_text())["seed"] == config.seed
    again = run_demo(config, out, train_images=60, test_images=30)
    assert again == metrics  # the same seed, the same scores, and the old run replaced


def test_a_demo_does_not_take_the_place_of_another_run(tmp_path):
    run = Run(tmp_path / "run")
    run.start({"model": "days of work"})
    with pytest.raises(InputError, match="holds a run that is no demo"):
        run_demo(TrainConfig(model="resnet10_small"), run.folder, train_images=20, test_images=10)
    assert run.config() == {"model": "days of work"}
