"""The recipes of CONTRIBUTING: one file and one registration each, executed with a small example."""

import json
import sys
import types

import numpy as np
import pytest
import timm
import torch

import heatbox as hb
from heatbox.analysis.config import INSTRUMENTS, DataConfig, Instrument
from heatbox.cli import analyze as cli_analyze
from heatbox.cli.main import main
from heatbox.data import open as opening
from heatbox.data.types import Example, Split
from heatbox.maps.registry import METHODS
from helpers.scenes import write_model

BACKBONE = """
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

default_cfgs = generate_default_cfgs({"contributed_net": {"num_classes": 10, "input_size": (3, 32, 32)}})


class Net(nn.Module):
    def __init__(self, num_classes=10, **_):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, num_classes)

    def forward(self, x):
        return self.fc(self.pool(self.body(x)).flatten(1))


@register_model
def contributed_net(pretrained=False, **options):
    return build_model_with_cfg(Net, "contributed_net", pretrained, **options)
"""


def test_a_backbone(monkeypatch):
    module = types.ModuleType("heatbox.models.contributed")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # as if zoo imported it
    exec(BACKBONE, module.__dict__)
    model = hb.create_model("contributed_net", num_classes=7)
    images = torch.rand(2, 3, 32, 32)
    features, logits = hb.ClassifierView(model)(images)
    assert logits.shape == (2, 7)
    weights, bias = hb.ClassifierView(model).class_weights(features, torch.tensor([3, 6]))
    mean = hb.cam(features, weights).mean((1, 2)) + bias
    torch.testing.assert_close(mean, logits[[0, 1], [3, 6]], rtol=1e-4, atol=1e-5)  # the exact map, unasked
    assert timm.is_model("contributed_net")


def test_a_data_set(monkeypatch, tmp_path):
    reader = types.ModuleType("heatbox.data.contributed")
    reader.LAYOUT, reader.DEPTH = "one line of boxes", 0
    reader.split_names = lambda tree: ("test",) if "boxes.line" in tree.files("") else ()

    def load_split(tree, name, report=None):
        box = np.array([[1.0, 2.0, 9.0, 8.0]])
        return Split(name, [Example("a.png", 0, (10, 10), box)], ("thing",), lambda example: None)

    reader.load_split = load_split
    monkeypatch.setattr(opening, "FORMATS", (reader, *opening.FORMATS))
    (tmp_path / "boxes.line").write_text("a.png 1 2 9 8\n")
    assert opening.open_data_set(tmp_path).layout == "one line of boxes"
    (only,) = opening.open_split(str(tmp_path))
    np.testing.assert_array_equal(only.boxes, [[1, 2, 9, 8]])


def test_a_map(monkeypatch):
    monkeypatch.setitem(METHODS, "brightest", lambda scene: scene.features.amax(1))
    model = hb.create_model("resnet10_small")
    images = torch.rand(2, 3, 64, 64)
    found = hb.Localizer(model, "brightest")(images)
    with torch.inference_mode():
        expected = hb.ClassifierView(model).features(images).amax(1)
    torch.testing.assert_close(found.maps, expected)
    assert hb.Localizer(model, "walk:brightest+centre")(images).maps.shape[0] == 2


def test_an_instrument(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")

    topic = types.ModuleType("heatbox.analysis.contributed")
    topic.measure = lambda analysis, model, config: [model.num_classes, len(analysis.images)]
    topic.headline = lambda numbers: {"parameters_and_images": numbers}
    topic.draw = lambda analysis, found, config: []
    monkeypatch.setitem(sys.modules, topic.__name__, topic)
    instrument = Instrument(DataConfig, "contributed", "draw", "Counts classes and images.")
    monkeypatch.setitem(INSTRUMENTS, "count", instrument)
    command = cli_analyze._command("count", DataConfig, instrument.summary, instrument.example)
    monkeypatch.setitem(cli_analyze.ANALYZE_COMMANDS, "count", command)  # made of INSTRUMENTS at import
    model = write_model(tmp_path)
    out = ["--out", str(tmp_path / "out"), "--json"]
    assert main(["analyze", "count", "--model", model, "--data", "glyphs:test", "--limit", "5", *out]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["parameters_and_images"] == [10, 5]
