"""Scores of classes: by softmax or sigmoid, in every place that reports them."""

import json
import math
import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from heatbox.cli.main import main
from heatbox.config import EvaluateConfig, LocateConfig
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.export import RunMaps, write_coco
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import METRICS, Run
from heatbox.inference.localizer import Localizer
from heatbox.inference.locate import locate_files
from heatbox.inference.scores import class_scores, score_function, trained_function
from heatbox.models.factory import create_model
from heatbox.models.outputs import trained_scores
from helpers.scenes import MODEL_FILE, write_model, write_split

SIXTH = 1 / (1 + math.exp(6))  # 0.0025
FIFTH = 1 / (1 + math.exp(-5))  # 0.9933

NETWORKS = """
import timm, torch
from torch import nn

def with_bias(values):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=len(values))
    nn.init.zeros_(model.get_classifier().weight)
    model.get_classifier().bias.data = torch.tensor(values)
    return model

def one_output():
    return with_bias([-6.0])

def many_labels():
    return with_bias([5.0, 5.0, -5.0])

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = many_labels()
    def forward(self, images):
        found = self.body(images)
        return {"first": found, "second": -found}

def two():
    return Two()
"""


def with_bias(values):
    space = {}
    exec(NETWORKS, space)
    return space["with_bias"](values)


@pytest.fixture
def networks(tmp_path):
    (tmp_path / "nets.py").write_text(NETWORKS)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    return tmp_path


def test_softmax_and_sigmoid():
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, -1000.0]])
    expected = torch.tensor(logits).softmax(1).numpy()
    np.testing.assert_allclose(class_scores(logits, "softmax"), expected, atol=1e-15)
    expected = torch.tensor(logits).sigmoid().numpy()
    np.testing.assert_allclose(class_scores(logits, "sigmoid"), expected, rtol=1e-12, atol=1e-300)
    assert class_scores(np.float32([-6.0]), "sigmoid") == pytest.approx(SIXTH)
    assert np.isnan(class_scores([np.nan, 1.0], "sigmoid")).tolist() == [True, False]
    with pytest.raises(InputError, match="scores is 'relu', expected 'softmax' or 'sigmoid'"):
        class_scores(logits, "relu")


def test_the_function_is_known_where_it_can_be():
    assert score_function(None, 1) == "sigmoid"
    assert score_function(None, 1, "softmax") == "sigmoid"
    assert score_function("softmax", 1) == "softmax"
    with pytest.warns(AssumptionWarning, match="assumed: softmax scores"):
        assert score_function(None, 3) == "softmax"
    assert score_function(None, 3, "sigmoid") == "sigmoid"
    with pytest.raises(InputError, match="expected 'softmax' or 'sigmoid'"):
        score_function("none", 3)


def test_how_a_network_was_trained():
    plain = with_bias([1.0, 2.0])
    assert trained_scores(plain) is None
    plain.pretrained_cfg = {"problem_type": "multi_label_classification"}
    assert trained_scores(plain) == "sigmoid"
    assert trained_scores(nn.Sequential(nn.Identity(), plain)) == "sigmoid"
    plain.pretrained_cfg = {"scores": "softmax"}
    assert trained_function(plain) == "softmax"
    plain.pretrained_cfg = {"scores": "unknown"}
    assert trained_function(plain) is None
    assert trained_scores(timm.create_model("test_resnet")) == "softmax"  # published with 1000 classes
    assert trained_scores(nn.Linear(2, 2)) is None
    assert trained_scores(create_model("resnet10_small", checkpoint="pretrained")) == "softmax"


@pytest.mark.parametrize(
    ("values", "scores", "expected", "function"),
    [
        ([-6.0], None, SIXTH, "sigmoid"),
        ([5.0, 5.0, -5.0], "sigmoid", FIFTH, "sigmoid"),
        ([5.0, 5.0, -5.0], "softmax", 0.5, "softmax"),
    ],
)
def test_localizer(values, scores, expected, function):
    localizer = Localizer(with_bias(values), scores=scores)
    found = localizer(torch.randn(2, 3, 64, 64))
    assert found.score_function == function
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found.scores() == pytest.approx([expected] * 2, rel=1e-4)
    assert found.labels.tolist() == [0, 0]


def test_what_is_assumed_is_said():
    found = Localizer(with_bias([5.0, 5.0, -5.0]))(torch.randn(1, 3, 64, 64))
    assert found.score_function is None
    with pytest.warns(AssumptionWarning, match="assumed: softmax scores, for one class .*; --scores sigmoid"):
        assert found.scores() == pytest.approx([0.5], rel=1e-4)
    with pytest.raises(InputError, match="scores is 'logits', expected 'softmax' or 'sigmoid'"):
        Localizer(with_bias([5.0, 5.0, -5.0]), scores="logits")


@pytest.mark.parametrize(("end", "expected"), [(nn.Sigmoid(), FIFTH), (nn.Softmax(1), 0.5)])
def test_the_last_activation_of_a_network_is_followed(end, expected):
    found = Localizer(nn.Sequential(with_bias([5.0, 5.0, -5.0]), end))(torch.randn(1, 3, 64, 64))
    assert found.scores() == pytest.approx([expected], rel=1e-3)


def located(networks, name, **options):
    config = LocateConfig(model=f"{networks}/nets.py:{name}", size=64, device="cpu", **options)
    return next(iter(locate_files([networks / "image.png"], config)))


def test_locate(networks):
    one = located(networks, "one_output")
    assert (one["label"], one["score"], one["scores"]) == (0, pytest.approx(0.002473, abs=1e-6), "sigmoid")
    many = located(networks, "many_labels", scores="sigmoid", target=2)
    assert (many["score"], many["scores"]) == (pytest.approx(1 - FIFTH, abs=1e-6), "sigmoid")
    assert located(networks, "many_labels")["score"] == pytest.approx(0.5, abs=1e-4)


def test_an_output_is_chosen_by_name_or_position(networks):
    assert located(networks, "two", output="first", scores="sigmoid")["label"] == 0
    for which in ("second", "1"):
        assert located(networks, "two", output=which, scores="sigmoid")["label"] == 2
    with pytest.raises(
        InputError, match=r"first: \(\d, 3\), second: \(\d, 3\); choose one of them with --output"
    ):
        located(networks, "two")


def test_locate_command(networks, capsys):
    args = ["locate", str(networks / "image.png"), "--no-overlays", "--size", "64", "--device", "cpu"]
    args += ["--model", f"{networks}/nets.py:two", "--output", "second", "--scores", "sigmoid"]
    assert main(args) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["label"], line["scores"]) == (2, "sigmoid")
    assert line["score"] == pytest.approx(FIFTH, abs=1e-6)


def test_a_flat_map_has_no_box(networks):
    assert located(networks, "many_labels")["boxes"] == []  # all class weights are 0
    for protocol in ("reference", "exact"):
        found = Localizer(with_bias([1.0, 2.0]), protocol=protocol)(torch.randn(2, 3, 64, 64))
        assert [box.shape for box in found.boxes] == [(0, 4), (0, 4)]


# ------------------------------------------------------------------------------------- runs and exports


FLAT = """
def flat():
    model = blobs()
    nn.init.zeros_(model[-1].weight)
    return model

def nan_map(model, images, targets):
    return torch.full((len(images), 7, 7), float("nan"))
"""


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A data set, and networks of as many classes."""
    folder = tmp_path_factory.mktemp("runs")
    write_split(folder / "set", 8)
    write_model(folder)
    (folder / "mine.py").write_text(MODEL_FILE + FLAT)
    return folder


def evaluated(scene, name, out, method="cam", **options):
    config = EvaluateConfig(f"{scene}/{name}", str(scene / "set"), size=64, method=(method,), **options)
    run = Run(scene / out)
    return evaluate(config, run), run


def test_a_run_says_which_function_made_its_scores(scene, tmp_path):
    metrics, run = evaluated(scene, "mine.py:blobs", "sigmoid", scores="sigmoid", target="predicted")
    assert "scores" not in metrics  # what is printed has the keys of 0.1.0
    assert run.metrics()["scores"] == "sigmoid"
    records = [record for batch in run.records() for record in batch]
    targets = [int(record["target"]) for record in records]
    logits = torch.tensor(np.stack([record["logits"] for record in records]))
    each = logits.double().sigmoid().numpy()[range(len(records)), targets]
    assert [record["score"] for record in records] == pytest.approx(each, rel=1e-6)
    assert pq.read_table(run.folder / "predictions.parquet")["score"].to_pylist() == pytest.approx(each)
    write_coco(RunMaps(run.folder), tmp_path / "own.json")
    own = {one["image_id"]: one["score"] for one in json.loads((tmp_path / "own.json").read_text())}
    assert own == pytest.approx({number: each[number - 1] for number in own}, rel=1e-6)
    write_coco(RunMaps(run.folder, scores="softmax"), tmp_path / "other.json")
    one = logits.double().softmax(1).numpy()[range(len(records)), targets]
    other = {found["image_id"]: found["score"] for found in json.loads((tmp_path / "other.json").read_text())}
    assert other == pytest.approx({number: one[number - 1] for number in other}, rel=1e-6)
    assert own


def test_scores_of_a_run_of_an_earlier_version(scene, tmp_path):
    _, run = evaluated(scene, "mine.py:blobs", "earlier")
    for name in (METRICS, "config.json"):
        content = json.loads((run.folder / name).read_text())
        content.pop("scores")
        (run.folder / name).write_text(json.dumps(content))
    assert RunMaps(run.folder).scores == "softmax"
    assert main(["export", str(run.folder), "--coco", str(tmp_path / "c.json"), "--scores", "sigmoid"]) == 0


@pytest.mark.parametrize("protocol", ["reference", "exact"])
@pytest.mark.parametrize("kind", ["flat", "nan"])
def test_a_map_without_contrast_has_no_box_anywhere(scene, kind, protocol, tmp_path):
    name, method = ("flat", "cam") if kind == "flat" else ("blobs", f"{scene}/mine.py:nan_map")
    metrics, run = evaluated(scene, f"mine.py:{name}", f"{kind}-{protocol}", method, protocol=protocol)
    # The reference evaluator scores an empty mask as the box [0, 0, 0, 0], which overlaps no object.
    assert metrics["methods"][method]["MaxBoxAcc"] == 0
    for batch in run.records():
        for record in batch:
            assert record[f"box_{method}"].shape == (0, 4)
    assert main(["export", str(run.folder), "--coco", str(tmp_path / "boxes.json")]) == 0
    assert json.loads((tmp_path / "boxes.json").read_text()) == []
