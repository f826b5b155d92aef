"""The plans of both scales: they make the whole paper, and say what is missing and what it would cost."""

import json
import re

import pytest

from heatbox.cli.main import main
from heatbox.errors import InputError
from heatbox.models.zoo import count
from heatbox.paper.full import MAIN, OTHERS, TFLOPS, cost, full
from heatbox.paper.mini import FAMILIES, mini
from heatbox.paper.plan import Network, make_plan
from heatbox.paper.steps import statuses
from heatbox.training.recipes import RECIPES, get_recipe
from heatbox.training.weights import best_checkpoint

# Every figure and table that the supplement shows or names: 2, 3, 5, 7, 8, 10, 12 are the main text's.
PAPER = {
    "Fig. 2", "Fig. 3", "Fig. 5", "Fig. 7", "Fig. 8", "Fig. 10a", "Fig. 10b", "Fig. 12", "Fig. 13 left",
    "Fig. 13 right", "Fig. 14", "Fig. 15", "Fig. 16", "Fig. 17", "Fig. 18", "Fig. 19", "Fig. 20", "Table 3",
}  # fmt: skip
# What it describes without a number known here: receptive fields as pictures, CAM by sign, thresholds.
UNNUMBERED = {"erf-heatmaps", "signed-cam-scores", "signed-cam-areas", "thresholds", "all-scores"}


def numbers(plan):
    """The paper's numbers that a plan makes: "Fig. 3 and 7" are two."""
    found = set()
    for made in (one for step in plan for one in step.artifacts):
        kind = made.paper.partition(" ")[0]
        for part in filter(None, made.paper.removeprefix(kind).split(" and ")):
            found.add(f"{kind} {part.strip()}")
    return found


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("heatbox.paper.full.macs", lambda *_: 10**9)  # counting takes seconds
        whole = make_plan(full(out / "full"), out / "full")
    return {"mini": make_plan(mini("cpu"), out / "mini"), "full": whole}


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_a_plan_makes_every_figure_and_table_of_the_paper(plans, scale):
    plan = plans[scale]
    assert numbers(plan) == PAPER
    files = [made.file for step in plan for made in step.artifacts]
    assert {file.stem for file in files} >= UNNUMBERED
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_steps_follow_what_they_depend_on(plans, scale):
    seen = set()
    for step in plans[scale]:
        assert set(step.before) <= seen, step.name
        assert step.files, step.name
        seen.add(step.name)
    assert len(seen) == len(plans[scale])
    page = plans[scale][-1]
    assert page.name == "page"
    assert {step.name for step in plans[scale] if step.artifacts} <= set(page.after)


def test_both_scales_are_made_by_the_same_code(plans):
    kinds = {}
    for scale, plan in plans.items():
        kinds[scale] = {step.work.func for step in plan}
        named = {re.sub("(train|evaluate|second)-.*", r"\1", step.name) for step in plan}
        kinds[scale, "steps"] = named - {"prepare-cub"}
    assert {function.__name__ for function in kinds["full"] - kinds["mini"]} == {"prepare"}
    assert kinds["mini", "steps"] == kinds["full", "steps"]


def test_mini_needs_nothing_and_has_its_arrows(plans, tmp_path):
    from dataclasses import asdict

    from heatbox.visualization.figures.scores import ModelScore, arrows_between
    from heatbox.visualization.report.models import describe

    assert {status.state for status in statuses(plans["mini"], tmp_path).values()} == {"ready", "waiting"}
    models = []
    for network in mini("cpu").networks:
        training = asdict(network.config) | {"pretrained": f"{network.start or 'scratch'}"}
        models.append(ModelScore(network.name, {}, **describe(network.config.model, training)))
    arrows = arrows_between(models)
    assert {models[start].family for start, _, kind in arrows if kind == "resolution"} == set(FAMILIES)
    assert [(models[a].name, models[b].name) for a, b, kind in arrows if kind == "pretraining"] == [
        ("glyphs_replknet_scratch", "glyphs_replknet")
    ]
    assert {model.family for model in models if model.augmented} == {"convnext", "replknet"}


def test_full_is_the_papers_36_models(plans, tmp_path):
    scale = full(tmp_path)
    assert len(scale.networks) == 36
    assert len(scale.support) == 6 + 7 + 5
    assert {*MAIN, *OTHERS} <= {network.name for network in scale.networks}
    trained = [step for step in plans["full"] if step.name.startswith("train-")]
    assert len(trained) == 36
    by_name = {step.name: step for step in trained}
    config = by_name["train-replknet_31b_in1k_384"].work.args[0]
    wanted = get_recipe("replknet_31b_in1k_384")
    assert (config.epochs, config.size, config.auto) == (400, 384, wanted.auto)
    assert config.data.endswith("cub/train")


def test_without_data_and_weights_everything_is_blocked_and_says_where_to_get_it(plans, tmp_path):
    found = statuses(plans["full"], tmp_path)
    assert {status.state for status in found.values()} == {"blocked"}
    assert "give it with --data" in found["prepare-cub"].why[0]
    assert "data.caltech.edu" in found["prepare-cub"].why[0]
    why = " ".join(found["train-replknet_31b_in1k_384"].why)
    assert "RepLKNet-31B_ImageNet-1K_384.pth was not given" in why
    assert "DingXiaoH/RepLKNet-pytorch" in why
    assert "convnext_tiny.fb_in1k" in " ".join(found["train-convnext_tiny"].why)
    assert "--imagenet" in " ".join(found["second-slak_tiny_k31_224-pretrained"].why)
    assert "--stimuli" in " ".join(found["shape-bias"].why)


def test_with_some_weights_their_models_can_be_made(tmp_path):
    (tmp_path / "birds").mkdir()
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "RepLKNet-31B_ImageNet-1K_384.pth").touch()
    (weights / "convnext_tiny.fb_in1k.safetensors").touch()
    scale = full(tmp_path / "out", tmp_path / "birds", weights)
    found = statuses(make_plan(scale, tmp_path / "out"), tmp_path / "out")
    assert found["prepare-cub"].state == "ready"
    assert found["train-replknet_31b_in1k_384"].state == "waiting"
    assert found["train-replknet_31b_in1k_384_aug"].state == "waiting"
    assert found["train-convnext_tiny"].state == "waiting"
    assert scale.network("convnext_tiny").config.pretrained == str(
        weights / "convnext_tiny.fb_in1k.safetensors"
    )
    assert (
        found["train-slak_tiny_k31_224"]
        .why[0]
        .startswith(f"the file of weights SLaK_tiny31.pth is not at {weights / 'SLaK_tiny31.pth'}")
    )
    assert found["figure-scores-cam"].state == "waiting"  # of the models that there are
    assert found["channels"].state == "blocked"  # SLaK is missing


def test_timm_may_fetch_what_it_publishes(tmp_path):
    (tmp_path / "birds").mkdir()
    plan = make_plan(full(tmp_path / "out", tmp_path / "birds", download=True), tmp_path / "out")
    found = statuses(plan, tmp_path / "out")
    waiting = {
        name for name, status in found.items() if name.startswith("train-") and status.state == "waiting"
    }
    assert waiting == {f"train-{name}" for name in RECIPES if get_recipe(name).pretrained == "published"}


def test_cost_of_a_training_is_its_operations_at_the_peak():
    import timm
    import torch

    network = Network(get_recipe("convnext_tiny"))
    with torch.device("meta"):
        macs = count(timm.create_model("convnext_tiny", num_classes=200), 224).macs
    assert macs == pytest.approx(4.46e9, rel=0.01)  # the model's paper: 4.5 G
    seconds = 400 * 5994 * 3 * 2 * macs / (TFLOPS * 1e12)
    assert cost(network, "train").seconds == pytest.approx(seconds)
    assert cost(network, "train", 2 * TFLOPS).seconds == pytest.approx(seconds / 2)
    assert "lower bound" in cost(network, "train").basis


def test_list_prints_the_plan_and_makes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("heatbox.paper.full.macs", lambda *_: 10**9)
    assert main(["paper", "--scale", "full", "--list", "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)
    assert {step["state"] for step in steps} == {"blocked"}
    assert steps[0]["step"] == "prepare-cub"
    assert main(["paper", "--scale", "full", "--list"]) == 0
    printed = capsys.readouterr()
    assert "prepare-cub" in printed.out
    assert "steps, 0 done" in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_full_run_without_anything_says_so_and_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("heatbox.paper.full.macs", lambda *_: 10**9)
    assert main(["paper", "--scale", "full"]) == 1
    said = capsys.readouterr().err
    assert "not made: prepare-cub: CUB-200-2011 was not given; give it with --data" in said
    assert "0 of" in said
    assert main(["paper", "--tflops", "0"]) == 2
    assert "tflops is 0.0, expected more than 0" in capsys.readouterr().err


def test_the_checkpoint_of_the_best_cam_is_taken(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch-0050-ema.safetensors").touch()
    best = {"cam": {"epoch": 50, "weights": "ema"}, "pc1": {"epoch": 100, "weights": "weights"}}
    (tmp_path / "training.json").write_text(json.dumps({"best": best, "last": {"epoch": 100}}))
    assert best_checkpoint(tmp_path).name == "epoch-0050-ema.safetensors"
    (tmp_path / "training.json").write_text(json.dumps({"best": {}, "last": {"epoch": 7, "weights": {}}}))
    with pytest.raises(InputError, match=r"epoch-0007.*: is missing"):
        best_checkpoint(tmp_path)
    with pytest.raises(InputError, match="contains no finished training"):
        best_checkpoint(tmp_path / "nowhere")
