"""Several analyses and runs on one page: runs and analyses are matched by their weights."""

import json

import pytest

from heatbox.cli.main import main
from heatbox.evaluation.run import Run
from heatbox.models.factory import create_model
from heatbox.visualization.report.figures import gather, instrument_figures
from heatbox.visualization.report.folders import read_folders
from heatbox.visualization.report.models import describe, model_scores, training_of
from helpers.scenes import write_checkpoint, write_model, write_split

SMALL = ["--size", "64", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two networks, each scored in a run and analysed in a folder of its own."""
    top = tmp_path_factory.mktemp("several")
    model, data = write_model(top), str(write_split(top / "set", 12))
    field = ["--erf-size", "48", "--erf-images", "2", "--erf-grid", "0"]
    options = ["--atoms", "2", "4", "--grid", "4", "--channels-an-image", "4", "--nonzero", "2"]
    for number, name in enumerate(("first", "second"), 1):
        network = create_model(model)
        for parameter in network.parameters():
            parameter.data.mul_(number)
        Run(top / name).start({"model": model, "size": 64})
        weights = str(write_checkpoint(network, top / name / "weights.safetensors"))
        scored = [
            "--model",
            model,
            "--checkpoint",
            weights,
            "--data",
            data,
            "--out",
            str(top / f"run-{name}"),
        ]
        assert main(["evaluate", *scored, *SMALL]) == 0
        asked = ["--model", str(top / name), "--data", data, *SMALL]
        out = str(top / f"analysis-{name}")
        assert main(["analyze", "erf", *asked, *field, "--out", f"{out}/erf"]) == 0
        assert main(["analyze", "complexity", *asked, *options, "--out", f"{out}/complexity"]) == 0
    return top


def all_of(top, *names):
    return [top / f"{kind}-{name}" for name in names for kind in ("run", "analysis")]


def test_a_run_is_joined_to_the_receptive_field_of_its_weights(folders):
    models = model_scores(read_folders(all_of(folders, "first", "second")))
    areas = []
    for name in ("first", "second"):
        file = folders / f"analysis-{name}" / "erf" / "models" / name / "erf" / "metrics.json"
        areas.append(json.loads(file.read_text())["log"]["auc"])
    assert [model.auc for model in models] == areas
    assert model_scores(read_folders([folders / "run-first"]))[0].auc is None
    apart = read_folders([folders / "run-first", folders / "analysis-second"])
    assert model_scores(apart)[0].auc is None


def test_instruments_of_several_analyses_are_drawn_together(folders, tmp_path):
    notes = []
    drawn = instrument_figures(read_folders(all_of(folders, "first", "second")), notes)
    assert [one["title"] for one in drawn] == [
        "Receptive fields, r(t), all runs",
        "Explained variance, all runs",
        "Reconstruction error of 4 x 4 maps, all runs",
    ]
    assert notes == []
    assert instrument_figures(read_folders(all_of(folders, "first")), notes) == []
    page = tmp_path / "page.html"
    command = ["report", *map(str, all_of(folders, "first", "second")), "--out", str(page)]
    assert main(command) == 0
    text = page.read_text()
    for one in drawn:
        assert one["title"] in text
    assert "Score against receptive field, cam" in text


def test_networks_of_the_same_name_get_distinct_labels(folders):
    folder = read_folders([folders / "analysis-first", folders / "analysis-first"])
    found, sources = gather(folder, "erf", "metrics.json")
    assert sources == 2
    assert list(found) == ["first", f"first ({folder[1].name})"]


def test_more_networks_than_can_be_distinguished_are_left_out_with_a_note(folders, monkeypatch):
    monkeypatch.setattr("heatbox.visualization.report.figures.MAX_MODELS", 1)
    notes = []
    assert instrument_figures(read_folders(all_of(folders, "first", "second")), notes) == []
    assert notes[0] == "erf: 2 models were measured; figures across runs show at most 1"


def test_where_a_network_starts_from(tmp_path):
    def start(weights, model="slak_tiny", **more):
        return describe(model, {"pretrained": weights, "size": 64, **more})["pretraining"]

    assert start("scratch") == "scratch"
    assert start("published", "convnext_base.fb_in22k_ft_in1k") == "in22k"
    assert start("/x/RepLKNet-31B_ImageNet-1K_384.pth") == "in1k"
    assert start("/x/SLaK_tiny31.pth") == "SLaK_tiny31"
    Run(tmp_path / "before").start({"recipe": "before", "size": 48})
    assert start(str(tmp_path / "before" / "checkpoints" / "epoch-0001.safetensors")) == "before"
    assert describe("slak_tiny", {})["pretraining"] == ""
    kernels = [describe("slak_tiny", {"model_options": {"kernel_size": k}})["variant"] for k in (31, 51)]
    assert kernels == ["slak_tiny 31", "slak_tiny 51"]


def test_recorded_pretraining_is_preferred_to_the_names(tmp_path):
    run = Run(tmp_path)
    run.start({"recipe": "mine", "pretrained": "published", "size": 48})
    config = {"checkpoint": str(tmp_path / "checkpoints" / "epoch-0001.safetensors")}
    assert describe("net_in1k", training_of(config))["pretraining"] == "in1k"  # of 0.1.0: not recorded
    run.write_json("training.json", {"pretraining": "in22k"})
    assert describe("net_in1k", training_of(config))["pretraining"] == "in22k"
    assert training_of({"checkpoint": str(tmp_path / "elsewhere.safetensors")}) == {}
