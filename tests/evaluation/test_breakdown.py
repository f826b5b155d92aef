"""Groups of images, and sentences about scores that are easily misread."""

import json

import numpy as np
import pytest

from heatbox.cli.main import main
from heatbox.evaluation.breakdown import breakdown, image_groups
from heatbox.evaluation.guard import MapRanges, policy_sentences
from helpers.scenes import write_split


def test_groups_are_those_of_the_largest_box():
    boxes = [
        np.array([[0, 0, 20, 20]]),  # 4% of 100 x 100, square, its centre at .1
        np.array([[40, 20, 60, 80], [0, 0, 5, 5]]),  # 12%, tall, centred, two
        np.array(
            [[0, 0, 100, 50], [1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2]]
        ),  # half, wide, centre at .5 / .25
        np.array([[10, 10, 100, 100]]),  # 81%, square, centre at .55
    ]
    found = image_groups(boxes, [(100, 100)] * 4)
    named = {by: [names[k] for k in index] for by, (names, index) in found.items()}
    assert named == {
        "size": ["below 10%", "10 to 30%", "30 to 60%", "60% and more"],
        "shape": ["about square", "tall", "wide", "about square"],
        "objects": ["one", "two", "three or more", "one"],
        "place": ["side", "centre", "between", "centre"],
    }


def test_scores_of_groups_are_means_of_their_images_and_the_hardest_classes_come_first():
    rng = np.random.default_rng(0)
    hits = {"a": rng.random(60) < 0.5, "b": rng.random(60) < 0.8}
    boxes = [np.sort(rng.integers(0, 60, (1, 2, 2)), axis=1).reshape(1, 4) for _ in range(60)]
    labels = [k % 7 if k < 57 else 9 for k in range(60)]  # class 9 has too few images
    rows = breakdown(hits, boxes, [(60, 60)] * 60, labels)
    index = image_groups(boxes, [(60, 60)] * 60)["size"][1]
    for row, k in zip([one for one in rows if one["by"] == "size"], np.unique(index), strict=True):
        assert row["images"] == (index == k).sum()
        assert row["scores"]["b"]["value"] == pytest.approx(100 * hits["b"][index == k].mean())
    classes = [one for one in rows if one["by"] == "class"]
    assert "9" not in [one["group"] for one in classes]
    means = [np.mean([one["scores"][name]["value"] for name in "ab"]) for one in classes]
    assert means == sorted(means)
    assert len(classes) == 7
    named = breakdown(hits, boxes, [(60, 60)] * 60, labels, ["ant", "bee", "cat", "dog"])
    names = [one["group"] for one in named if one["by"] == "class"]
    expected = [
        {"0": "ant", "1": "bee", "2": "cat", "3": "dog"}.get(name, name)
        for name in [one["group"] for one in classes]
    ]
    assert names == expected  # numbers where there is no name


def test_maps_of_a_wrong_scale_are_told_apart():
    rng = np.random.default_rng(0)
    good, flat = rng.random((224, 224)), np.full((224, 224), 0.3)
    spot = np.zeros((224, 224))
    spot[3, 3] = 0.5  # between the pixels looked at first
    ranges = MapRanges()
    ranges.add([good, flat, (good > 0.5).astype(float), spot])
    constant, binary = ranges.sentences("cam")
    assert "cam: 1 of 4 maps have the same value everywhere" in constant
    assert "cam: 2 of 4 maps have only two values" in binary or "cam: 1 of 4 maps" in binary
    faint = MapRanges()
    faint.add([good / 255])
    assert (
        "the largest value of all 1 maps is 0.00392, as if they had been scaled to [0, 1] twice"
        in (faint.sentences("maps")[0])
    )
    fine = MapRanges()
    fine.add([good])
    assert fine.sentences("cam") == []


def test_what_thresholds_were_chosen_on_is_said():
    table = {"images": 9, "methods": {"cam": {}, "full-image": {}}, "baselines": ["full-image"]}
    (sentence,) = policy_sentences(table)
    assert sentence.startswith("thresholds are the best ones for the scored images (oracle)")
    table["methods"]["cam"]["transferred"] = {}
    assert policy_sentences(table) == []
    (sentence,) = policy_sentences(table, shared=3)
    assert sentence.startswith("3 of the 9 scored images are in the fully supervised split too")


def test_the_command_says_and_saves_it(tmp_path, capsys):
    from heatbox.data.open import open_split

    split = open_split(str(write_split(tmp_path / "set", 6)))
    rng = np.random.default_rng(0)
    for example in split:
        path = tmp_path / "maps" / f"{example.id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, (rng.random((224, 224)) > 0.5).astype(np.float32))
    command = [
        "score",
        "--heatmaps",
        tmp_path / "maps",
        "--data",
        tmp_path / "set",
        "--out",
        tmp_path / "run",
    ]
    assert main([*map(str, command), "--breakdown"]) == 0
    said = capsys.readouterr()
    assert "note: maps: 6 of 6 maps have only two values" in said.err
    assert "note: thresholds are the best ones for the scored images" in said.err
    assert "images by" in said.out
    assert "objects: one" in said.out
    saved = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(saved["warnings"]) == 2
    assert sum(one["images"] for one in saved["breakdown"] if one["by"] == "size") == 6
    scores = saved["methods"]["maps"]
    assert scores["per_image_thresholds"] >= scores["MaxBoxAcc"] - 1e-9
    assert main(list(map(str, command))) == 0  # nothing is scored again
    said = capsys.readouterr()
    assert "images by" not in said.out
    assert "note: maps: 6 of 6 maps have only two values" in said.err
    again = [*command, "--overwrite", "--fullsup", tmp_path / "set", "--fullsup-heatmaps", tmp_path / "maps"]
    assert main(list(map(str, again))) == 0
    said = capsys.readouterr()
    assert "note: 6 of the 6 scored images are in the fully supervised split too" in said.err
    assert "(oracle), chosen" not in said.err
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 0
    assert "objects: one" in (tmp_path / "page.html").read_text()
