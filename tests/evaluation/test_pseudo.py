"""Thresholds and maps chosen without ground truth, against the boxes that they are chosen by."""

import json

import numpy as np
import pytest

from heatbox.cli.main import main
from heatbox.config import EvaluateConfig
from heatbox.data.open import open_split
from heatbox.errors import InputError
from heatbox.evaluation.compare import compare_runs, comparison_lines
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.pseudo import agreement, pseudo_source
from heatbox.evaluation.run import Run
from heatbox.evaluation.score import score_run
from heatbox.evaluation.summary import Images, values_of_part
from heatbox.inference.boxes import map_to_boxes
from heatbox.maps.normalize import normalize_heatmap
from heatbox.metrics.detection import class_mean, class_weights
from heatbox.metrics.functional import max_box_acc, max_box_acc_v2
from heatbox.visualization.tables import score_tables
from helpers.scenes import write_model, write_split


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pseudo")
    model, data = write_model(folder), str(write_split(folder / "set", 16))
    for name, size, methods in (("small", 64, ("cam", "walk", "pc1")), ("large", 96, ("walk",))):
        config = EvaluateConfig(
            model, data, size=size, method=methods, metrics=("pseudo_boxes", "cor_loc", "localization_ap")
        )
        evaluate(config, Run(folder / name))
    return folder


def test_thresholds_are_the_best_for_the_mean_boxes_of_the_walk(runs):
    run = Run(runs / "small")
    records = [record for batch in run.records() for record in batch]
    found = run.scores()
    boxes = [map_to_boxes(one["map_walk"], (one["width"], one["height"]), "mean") for one in records]
    sizes = [(one["width"], one["height"]) for one in records]
    truths = [one["boxes"] for one in records]
    for name in ("cam", "walk", "pc1"):
        maps = np.stack([normalize_heatmap(one[f"map_{name}"], 224) for one in records])
        entry = found["methods"][name]
        against, truth = max_box_acc(maps, boxes, sizes), max_box_acc(maps, truths, sizes)
        assert entry["pseudo"]["threshold"] == against.threshold[0]
        assert entry["pseudo"]["MaxBoxAcc"]["value"] == pytest.approx(truth.at(against.threshold)[0])
        lost = entry["pseudo"]["minus_oracle"]["MaxBoxAcc"]["value"]
        assert lost == pytest.approx(truth.at(against.threshold)[0] - truth.accuracy)
        v2, v2_truth = max_box_acc_v2(maps, boxes, sizes), max_box_acc_v2(maps, truths, sizes)
        assert entry["pseudo"]["MaxBoxAccV2"]["value"] == pytest.approx(v2_truth.at(v2.threshold).mean())
        assert entry["fixed"]["MaxBoxAcc"]["value"] == pytest.approx(truth.at(0.35)[0])
    about = found["pseudo_boxes"]
    assert (about["map"], about["images"]) == ("walk", 16)
    assert about["chosen"] == max(about["agreement"], key=about["agreement"].get)
    assert set(about["agreement"]) == {"cam", "walk", "pc1"}
    text = score_tables(found)[0]
    assert "MaxBoxAcc pseudo" in text.headings
    assert "mean boxes of walk" in text.caption
    assert f"others: {about['chosen']}" in text.caption
    assert not any("oracle" in one for one in found["warnings"])


def test_only_where_there_is_a_walk(runs):
    run = Run(runs / "small")
    with pytest.raises(InputError, match=r"mean boxes of a random walk.*add walk to --method"):
        score_run(run, ["cam"], metrics=("pseudo_boxes",))
    assert "pseudo_boxes" not in score_run(run, ["cam"], metrics=("all",))
    assert "pseudo_boxes" not in score_run(run, ["walk"])
    assert pseudo_source(["cam", "foreground-walk", "walk"], ("all",), "") == "foreground-walk"


def test_agreement_is_kappa_like():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 100, (400, 2))
    seen = np.concatenate([corner, corner + 60], 1)
    noise = rng.uniform(0, 100, (400, 2))
    blind = np.concatenate([noise, noise + 60], 1)
    found = agreement({"a": seen, "b": seen, "c": seen, "blind": blind, "whole": seen * 0 + [0, 0, 224, 224]})
    assert abs(found["blind"]) < 0.03
    assert found["whole"] == pytest.approx(0, abs=1e-12)  # a box that is the same in all images
    near = agreement({"a": seen, "b": seen + 0.01, "c": seen + 0.02})
    assert all(value == pytest.approx(1, abs=0.01) for value in near.values())
    twice = agreement({"a": seen, "same": seen, "b": seen + 5, "blind": blind})
    assert twice["same"] == twice["a"] == agreement({"a": seen, "b": seen + 5, "blind": blind})["a"]
    assert agreement({"a": seen, "b": seen, "c": seen}) == {}
    assert agreement({"a": seen, "b": seen + 1}) == {}
    assert agreement({}) == {}


def test_compare_chooses_among_the_maps_of_both_runs(runs, capsys):
    found = compare_runs(runs / "small", runs / "large")
    chosen = found["without_boxes"]["maps"]
    assert {(one["run"], one["map"]) for one in chosen} == {
        ("small", "cam"),
        ("small", "walk"),
        ("small", "pc1"),
        ("large", "walk"),
    }
    assert [one["agreement"] for one in chosen] == sorted((one["agreement"] for one in chosen), reverse=True)
    best = max(one["MaxBoxAcc"] for one in chosen)
    assert found["without_boxes"]["loses"] == pytest.approx(best - chosen[0]["MaxBoxAcc"])
    tables = {name: Run(runs / name).scores()["methods"] for name in ("small", "large")}
    for one in chosen:
        same = tables[one["run"]][one["map"]]["pseudo"]
        assert one["threshold"] == same["threshold"]
        assert one["MaxBoxAcc"] == pytest.approx(same["MaxBoxAcc"]["value"])
    for name in ("cor_loc", "localization_ap"):  # what the runs were scored with
        score = found["scores"]["walk"][name]
        for key, run in (("first", "small"), ("second", "large")):
            expected = tables[run]["walk"]["localization_scores"][name]["value"]
            assert score[key] == pytest.approx(expected)
        assert score["interval"][0] <= score["difference"] <= score["interval"][1]
    assert main(["compare", str(runs / "small"), str(runs / "large")]) == 0
    printed = capsys.readouterr().out
    assert "chosen without ground truth" in printed
    assert "localization_ap" in printed
    lines = comparison_lines(compare_runs(runs / "large", runs / "large", metrics=("pseudo_boxes",)))
    assert any("no map is chosen" in line for line in lines)


def test_scores_of_shared_images_weight_classes_and_objects_anew():
    rng = np.random.default_rng(0)
    images = Images()
    images.labels = rng.integers(0, 3, 40).tolist()
    images.boxes = [np.zeros((int(n), 4)) for n in rng.integers(1, 4, 40)]
    hits, index = rng.random(40) < 0.5, rng.permutation(40)[:15]
    objects = np.array([len(one) for one in images.boxes])
    matched = rng.integers(0, objects + 1)
    values = {
        "cor_loc": hits * class_weights(images.labels),
        "max_box_acc_v3": matched * 40 / objects.sum(),
        "auc": hits * 1.0,
    }
    part = values_of_part(values, images, index)
    expected = class_mean(hits[index], np.array(images.labels)[index])
    assert 100 * part["cor_loc"].mean() == pytest.approx(expected)
    assert part["max_box_acc_v3"].mean() == pytest.approx(matched[index].sum() / objects[index].sum())
    assert part["auc"].mean() == hits[index].mean()


def test_pseudo_heatmaps_of_score(runs, tmp_path, capsys):
    split = open_split(str(runs / "set"))
    run = Run(runs / "small")
    for batch in run.records():
        for record in batch:
            for name in ("cam", "walk"):
                path = tmp_path / name / f"{record['id']}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, normalize_heatmap(record[f"map_{name}"], 224))
    command = ["score", "--heatmaps", str(tmp_path / "cam"), "--data", str(runs / "set")]
    command += ["--pseudo-heatmaps", str(tmp_path / "walk"), "--out", str(tmp_path / "out"), "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    expected = run.scores()["methods"]["cam"]["pseudo"]
    entry = found["methods"]["cam"]["pseudo"]
    assert entry["threshold"] == expected["threshold"]
    assert entry["MaxBoxAcc"]["value"] == pytest.approx(expected["MaxBoxAcc"]["value"])
    assert found["pseudo_boxes"]["map"] == "walk"
    assert "agreement" not in found["pseudo_boxes"]
    assert main(command) == 0  # from its records
    assert json.loads(capsys.readouterr().out)["methods"] == found["methods"]
    (tmp_path / "walk" / f"{split.examples[3].id}.npy").unlink()
    assert main([*command, "--overwrite"]) == 2
    assert f"no heatmap of image '{split.examples[3].id}'" in capsys.readouterr().err
    plain = [one for one in command if one not in ("--pseudo-heatmaps", str(tmp_path / "walk"))]
    assert main([*plain, "--overwrite", "--metrics", "pseudo_boxes"]) == 2
    assert "--pseudo-heatmaps" in capsys.readouterr().err
