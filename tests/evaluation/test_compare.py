"""Two runs side by side, against what their records say."""

import json
import shutil

import numpy as np
import pytest

from heatbox.cli.main import main
from heatbox.config import EvaluateConfig
from heatbox.errors import InputError
from heatbox.evaluation.compare import compare_runs, comparison_lines, config_differences
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import Run
from helpers.scenes import write_model, write_split


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    model, data = write_model(folder), str(write_split(folder / "set", 20))
    evaluate(EvaluateConfig(model, data, size=64), Run(folder / "small"))
    evaluate(EvaluateConfig(model, data, size=96, method=("cam",), limit=15), Run(folder / "large"))
    return folder / "small", folder / "large"


def records(folder):
    return {record["id"]: record for batch in Run(folder).records() for record in batch}


def test_scores_and_flips_are_those_of_the_records(runs):
    found = compare_runs(*runs)
    small, large = (records(run) for run in runs)
    first = np.array([small[name]["iou_cam"] >= 0.5 for name in large])
    second = np.array([large[name]["iou_cam"] >= 0.5 for name in large])
    score = found["scores"]["cam"]["MaxBoxAcc"]
    assert (score["first"], score["second"]) == pytest.approx((100 * first.mean(), 100 * second.mean()))
    assert score["difference"] == pytest.approx(score["second"] - score["first"])
    assert score["interval"][0] <= score["difference"] <= score["interval"][1]
    flipped = found["flipped"]["cam"]
    assert flipped["gained"] == [name for name, a, b in zip(large, first, second, strict=True) if b and not a]
    assert flipped["lost"] == [name for name, a, b in zip(large, first, second, strict=True) if a and not b]
    assert flipped["gained"] or flipped["lost"]
    assert found["images"] == 15
    assert list(found["only_in"].values()) == [5, 0]
    assert found["methods_only_in"]["small"] == ["pc1"]
    assert found["config"] == {"method": [["cam", "pc1"], ["cam"]], "size": [64, 96], "limit": [None, 15]}


def test_a_run_with_itself(runs):
    found = compare_runs(runs[0], runs[0])
    assert found["config"] == {}
    assert found["flipped"]["pc1"] == {"gained": [], "lost": []}
    assert found["scores"]["cam"]["MaxBoxAccV2"]["interval"] == [0, 0]


def test_text_and_json(runs, capsys):
    assert main(["compare", str(runs[0]), str(runs[1]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == compare_runs(*runs)
    assert main(["compare", *map(str, runs)]) == 0
    text = capsys.readouterr().out
    assert "size: 64 -> 96" in text
    assert "5 images are only in small" in text
    many = found | {"flipped": {"cam": {"gained": [f"i{n}" for n in range(12)], "lost": []}}}
    assert "(2 more: --json)" in "\n".join(comparison_lines(many))


def test_runs_that_cannot_be_compared(runs, tmp_path):
    with pytest.raises(InputError, match="missing; expected the folder of a run"):
        compare_runs(runs[0], tmp_path)
    shutil.copytree(runs[1], tmp_path / "other")
    metrics = json.loads((tmp_path / "other/metrics.json").read_text())
    metrics["methods"]["mine"] = metrics["methods"].pop("cam")
    (tmp_path / "other/metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match="share no map: cam, pc1; mine"):
        compare_runs(runs[0], tmp_path / "other")


def test_differences_of_settings():
    assert config_differences({"a": 1, "b": 2}, {"b": 2, "c": None, "d": 0}) == {
        "a": [1, None],
        "d": [None, 0],
    }
