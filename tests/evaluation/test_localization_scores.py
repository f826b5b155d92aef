"""`--metrics`: pixel scores, CorLoc and localization AP of runs, folders and masks."""

import json

import numpy as np
import pytest

from heatbox.cli.main import main
from heatbox.data.open import open_split
from heatbox.evaluation.run import Run
from heatbox.inference.boxes import map_to_boxes
from heatbox.maps.baselines import BASELINES
from heatbox.maps.normalize import normalize_heatmap
from heatbox.metrics import functional as F
from heatbox.metrics.localization_scores import SCORES, map_scores
from helpers import data_trees as trees
from helpers.scenes import write_model, write_split


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Ten images of glyphs, and maps of them that are brighter in the object's box."""
    folder = tmp_path_factory.mktemp("scores")
    split = open_split(str(write_split(folder / "set", 10)))
    rng = np.random.default_rng(7)
    for example in split:
        x1, y1, x2, y2 = (example.boxes[0] * 224 / 64).astype(int)
        heatmap = rng.random((224, 224)).astype(np.float32) * 0.5
        heatmap[y1:y2, x1:x2] += 0.3
        path = folder / "maps" / f"{example.id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, heatmap)
    return folder


def score(scene, capsys, out, *more):
    command = ["--heatmaps", scene / "maps", "--data", scene / "set", "--out", scene / out, "--json", *more]
    assert main(["score", *map(str, command)]) == 0
    return json.loads(capsys.readouterr().out)


def test_scores_are_those_of_the_functions(scene, capsys):
    found = score(scene, capsys, "all", "--metrics", "all")
    split = open_split(str(scene / "set"))
    boxes, sizes = [one.boxes for one in split], [one.size for one in split]
    maps = [np.load(scene / "maps" / f"{one.id}.npy") for one in split]
    for name, heatmaps in {"maps": maps, "full-image": [BASELINES["full-image"](224, 224)] * 10}.items():
        entry = found["methods"][name]["localization_scores"]
        expected = map_scores(heatmaps, boxes, sizes)
        for key in SCORES:
            defined = expected[key][~np.isnan(expected[key])]
            assert entry[key]["value"] == pytest.approx(100 * defined.mean()), key
            low, high = entry[key]["interval"]
            assert low <= entry[key]["value"] <= high
        curve = expected.curve.astype(float).mean(0)
        assert entry["iou"]["value"] == pytest.approx(100 * curve.max())
        assert entry["iou"]["threshold"] == curve.argmax() / 100
        hits = F.cor_loc(heatmaps, boxes, sizes, found["methods"][name]["threshold"])
        assert entry["cor_loc"]["value"] == pytest.approx(F.class_mean(hits, [one.label for one in split]))
        third = F.max_box_acc_v3(heatmaps, boxes, sizes).accuracy
        assert entry["max_box_acc_v3"]["value"] == pytest.approx(third)
        assert "localization_ap" not in entry  # the folder has no logits
    minus = found["methods"]["maps"]["minus_baseline"]["localization_scores"]["auc"]["value"]
    each = [
        found["methods"][name]["localization_scores"]["auc"]["value"] for name in ("maps", "centre-gaussian")
    ]
    assert minus == pytest.approx(each[0] - each[1])


def test_the_default_is_as_without_and_only_what_is_asked_for_is_shown(scene, capsys):
    plain, some = score(scene, capsys, "plain"), score(scene, capsys, "some", "--metrics", "auc", "iou")
    assert "localization_scores" not in json.dumps(plain)
    entry = some["methods"]["maps"].pop("localization_scores")
    assert set(entry) == {"auc", "iou", "iou_half", "iou_otsu", "iou_quantile"}
    assert some["methods"]["maps"]["MaxBoxAcc"] == plain["methods"]["maps"]["MaxBoxAcc"]
    assert main(["report", str(scene / "some"), "--out", str(scene / "page.html")]) == 0
    page = (scene / "page.html").read_text()
    assert "mean IoU oracle" in page
    assert "pointing game" not in page
    config = json.loads((scene / "plain" / "config.json").read_text())
    del config["metrics"]  # as versions before wrote it
    (scene / "plain" / "config.json").write_text(json.dumps(config))
    assert score(scene, capsys, "plain")["methods"] == plain["methods"]


def test_an_interrupted_scoring_continues(scene, capsys):
    whole = score(scene, capsys, "whole", "--metrics", "all")
    moved = sorted((scene / "maps").rglob("*.npy"))[:4]
    names = [file.rename(file.with_suffix(".kept")) for file in moved]
    command = [
        "--heatmaps",
        scene / "maps",
        "--data",
        scene / "set",
        "--out",
        scene / "parts",
        "--metrics",
        "all",
    ]
    assert main(["score", *map(str, command)]) == 1
    capsys.readouterr()
    for file in names:
        file.rename(file.with_suffix(".npy"))
    found = score(scene, capsys, "parts", "--metrics", "all")
    entry = found["methods"]["maps"]["localization_scores"]
    for key, one in whole["methods"]["maps"]["localization_scores"].items():
        assert entry[key]["value"] == pytest.approx(one["value"])


def test_a_run_has_transferred_iou_and_localization_ap(scene, capsys):
    command = [
        "--model",
        write_model(scene),
        "--data",
        scene / "set",
        "--fullsup",
        scene / "set",
        "--size",
        64,
    ]
    command += ["--out", scene / "run", "--method", "cam", "pc1", "--metrics", "all"]
    assert main(["evaluate", *map(str, command)]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("energy", "CorLoc"))
    assert main(["evaluate", "--from-run", str(scene / "run"), "--metrics", "all", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["methods"] == json.loads((scene / "run" / "metrics.json").read_text())["methods"]
    records = [record for batch in Run(scene / "run").records() for record in batch]
    maps = [normalize_heatmap(one["map_cam"]) for one in records]
    boxes, sizes = [one["boxes"] for one in records], [(one["width"], one["height"]) for one in records]
    entry = found["methods"]["cam"]
    scores = entry["localization_scores"]
    assert scores["iou_transferred"]["value"] == scores["iou"]["value"]  # the same images
    assert scores["max_box_acc_v3_transferred"]["value"] == scores["max_box_acc_v3"]["value"]
    confidence = [one["score"] for one in records]
    ap = F.localization_ap(maps, boxes, sizes, confidence, threshold=entry["threshold"])
    assert scores["localization_ap"]["value"] == pytest.approx(ap.ap)
    aucs = {name: one["localization_scores"]["auc"]["value"] for name, one in found["methods"].items()}
    (pair,) = found["differences"]
    assert pair["localization_scores"]["auc"]["value"] == pytest.approx(aucs["pc1"] - aucs["cam"])
    ranked = {name: one["localization_scores"]["localization_ap"] for name, one in found["methods"].items()}
    apart = pair["localization_scores"]["localization_ap"]
    assert apart["value"] == pytest.approx(ranked["pc1"]["value"] - ranked["cam"]["value"])
    minus = found["methods"]["cam"]["minus_baseline"]["localization_scores"]["localization_ap"]
    centre = ranked["centre-gaussian"]["value"]
    assert minus["value"] == pytest.approx(ranked["cam"]["value"] - centre)
    for one in (apart, minus):
        assert one["interval"][0] <= one["value"] <= one["interval"][1]


def test_the_third_version_is_of_the_reference_protocol(scene, capsys):
    found = score(scene, capsys, "exact", "--metrics", "all", "--protocol", "exact")
    assert "max_box_acc_v3" not in found["methods"]["maps"]["localization_scores"]
    command = ["--heatmaps", scene / "maps", "--data", scene / "set", "--out", scene / "no"]
    command += ["--metrics", "max_box_acc_v3", "--protocol", "exact"]
    assert main(["score", *map(str, command)]) == 2
    assert "max_box_acc_v3 is defined for the reference protocol" in capsys.readouterr().err


def test_masks_are_scored_alike(tmp_path, capsys):
    trees.openimages(tmp_path / "set")
    split = open_split(str(tmp_path / "set"))
    rng, maps, masks = np.random.default_rng(0), [], []
    for example in split:
        mask = F.resize_mask(split.open_mask(example))
        maps.append((rng.random((224, 224)) * 0.5 + 0.4 * (mask == 1)).astype(np.float32))
        masks.append(mask)
        path = tmp_path / "maps" / f"{example.id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, maps[-1])
    found = score(tmp_path, capsys, "run", "--metrics", "all")["methods"]["maps"]["localization_scores"]
    expected = map_scores(maps, image_sizes=[one.size for one in split], masks=masks)
    assert np.isnan(found["pointing_game_tolerant"]["value"] or np.nan)  # the layout has no sizes of images
    for key in set(SCORES) - {"pointing_game_tolerant"}:
        assert found[key]["value"] == pytest.approx(100 * np.nanmean(expected[key])), key
    assert "cor_loc" not in found


def test_the_normalization_is_part_of_the_protocol(scene, capsys, tmp_path):
    plain = ["--model", write_model(scene), "--data", scene / "set", "--size", 64, "--method", "cam"]
    command = [*plain, "--out", tmp_path / "run", "--normalize", "ivr:0.5"]
    assert main(["evaluate", *map(str, command), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["normalize"] == "ivr:0.5"
    run = Run(tmp_path / "run")
    records = [record for batch in run.records() for record in batch]
    maps = [normalize_heatmap(one["map_cam"], 224, "ivr:0.5") for one in records]
    boxes, sizes = [one["boxes"] for one in records], [(one["width"], one["height"]) for one in records]
    expected = F.max_box_acc_v2(maps, boxes, sizes)
    assert found["methods"]["cam"]["MaxBoxAccV2"] == pytest.approx(expected.accuracy)
    for one in records:  # the boxes of predictions.parquet too
        box = map_to_boxes(
            one["map_cam"],
            (one["width"], one["height"]),
            found["methods"]["cam"]["threshold"],
            normalize="ivr:0.5",
        )
        np.testing.assert_allclose(one["box_cam"], box)
    again = ["evaluate", "--from-run", str(tmp_path / "run"), "--json"]
    assert main(again) == 0
    assert json.loads(capsys.readouterr().out)["methods"] == found["methods"]
    assert main([*again, "--normalize", "min-max"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert "normalize" not in other
    assert other["methods"]["cam"]["threshold"] > found["methods"]["cam"]["threshold"]
    assert main(["evaluate", *map(str, [*plain, "--out", tmp_path / "no", "--normalize", "mean"])]) == 2
    assert not (tmp_path / "no").exists()


def test_maps_of_a_folder_are_normalized_where_they_are_resized(scene, capsys):
    command = ["--heatmaps", scene / "maps", "--data", scene / "set", "--out", scene / "raw"]
    assert main(["score", *map(str, command), "--normalize", "max"]) == 2
    assert "needs --resize" in capsys.readouterr().err
    found = score(scene, capsys, "resized", "--normalize", "max", "--resize")
    split = open_split(str(scene / "set"))
    maps = [normalize_heatmap(np.load(scene / "maps" / f"{one.id}.npy"), 224, "max") for one in split]
    expected = F.max_box_acc(maps, [one.boxes for one in split], [one.size for one in split])
    assert found["methods"]["maps"]["MaxBoxAcc"] == pytest.approx(expected.accuracy)
