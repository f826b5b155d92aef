"""Calibration of runs whose maps are known, and whole commands."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from heatbox.boxes.ops import box_iou, scale_boxes
from heatbox.cli.main import main
from heatbox.data.open import open_split
from heatbox.data.types import Example, Split
from heatbox.data.write import WriteOptions, write_splits
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.calibrate import (
    calibrate_map,
    calibrate_run,
    calibration_lines,
    match_images,
    notes_on_number,
)
from heatbox.evaluation.export import RunMaps, predicted_split
from heatbox.evaluation.run import Run
from heatbox.evaluation.score import score_run
from heatbox.inference.boxes import map_to_boxes
from heatbox.inference.calibration import load_calibration, outer_boxes
from heatbox.inference.confidence import box_confidence
from heatbox.visualization.tables import score_table
from helpers.scenes import write_model, write_split

SIZE = (112, 168)  # width, height: not square, so that a mistaken side shows


def record(index, rng):
    """A map of three plateaus: the middle one is the object, up to a shift and scale of the object."""
    heat = np.zeros((56, 56), np.float32)
    x, y = rng.integers(8, 24, 2)
    w, h = rng.integers(12, 22, 2)
    heat[max(0, y - 6) : y + h + 6, max(0, x - 6) : x + w + 6] = 0.3
    heat[y : y + h, x : x + w] = 0.6
    heat[y + 3 : y + h // 2, x + 3 : x + w // 2] = 1
    box = np.array([x, y, x + w, y + h]) + rng.normal(0, 1.5, 4)
    box = np.clip(box, 0, 56) / 56 * np.tile(SIZE, 2)
    logits = np.zeros(3, np.float32)
    return {
        "id": f"test/{index:03d}.png", "label": 0, "target": 0, "logits": logits, "width": SIZE[0],
        "height": SIZE[1], "boxes": box[None], "map_cam": heat, "map_flat": np.zeros((2, 2), np.float32),
    }  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    records = [record(index, rng) for index in range(160)]
    run = Run(folder / "run")
    run.start({"model": "net", "data": "x", "protocol": "reference"})
    run.append(records)
    run.finish()
    return run, records


def split_of(records, name="few", **changes):
    examples = [
        Example(**{"id": one["id"], "label": 0, "size": SIZE, "boxes": one["boxes"]} | changes)
        for one in records
    ]
    return Split(name, examples, ["thing"], lambda example: None)


def test_what_is_calibrated_holds_on_other_images(made):
    run, records = made
    found = calibrate_run(run, split_of(records[:60]), ["cam"])
    cam = found.of("cam")
    assert 0.3 <= cam.threshold < 0.62
    assert cam.interval[0] <= cam.threshold <= cam.interval[1]
    assert found.ids == tuple(one["id"] for one in records[:60])
    hits, inside = [], []
    for one in records[60:]:
        boxes = map_to_boxes(one["map_cam"], SIZE, cam.threshold)
        hits.append(box_iou(boxes, one["boxes"], False)[0, 0] >= 0.5)
        (outer,) = outer_boxes(boxes, SIZE, cam.margin)
        inside.append((outer[:2] <= one["boxes"][0, :2]).all() and (outer[2:] >= one["boxes"][0, 2:]).all())
    assert cam.accuracy == pytest.approx(np.mean(hits), abs=0.05)
    assert 0.8 < np.mean(inside) < 1  # 28 of 31 with 30 images: .9 to .93, and the error of 100
    assert cam.margin < 0.5
    confident = calibration_lines(found)
    assert "60 images with boxes" in confident[0]


def test_a_map_without_boxes_has_the_whole_image_as_outer_box(made):
    run, records = made
    found = calibrate_run(run, split_of(records[:60]), ["flat"])
    assert found.of("flat").margin == np.inf
    assert found.of("flat").accuracy == 0
    assert any("it is the whole image" in note for note in notes_on_number(found))


def test_few_images_are_said_and_enough_are_not(made):
    run, records = made
    few = notes_on_number(calibrate_run(run, split_of(records[:12]), ["cam"]))
    assert few[0].startswith("12 images with boxes are too few to rely on: the 95% interval")
    assert "needs 9 images that took no part in choosing the threshold (there are 6)" in few[1]
    for boxes, says in ((records[:1], "1 image of the run has a box"), ([], "no image with a box")):
        with pytest.raises(InputError, match=says):
            calibrate_run(run, split_of(boxes))
    with pytest.raises(InputError, match="coverage is 1"):
        calibrate_run(run, split_of(records[:12]), coverage=1.0)
    with pytest.raises(InputError, match="no maps of 'walk', only of cam, flat"):
        calibrate_run(run, split_of(records[:12]), ["walk"])


def test_a_run_on_masks_is_refused(tmp_path, made):
    run = Run(tmp_path / "run")
    run.start({"model": "net"})
    run.append([{**made[1][0], "mask": np.zeros((224, 224), np.uint8)}])
    run.finish()
    with pytest.raises(InputError, match="was scored against masks"):
        calibrate_run(run, split_of(made[1][:1]))


def test_the_seed_decides(made):
    run, records = made
    split = split_of(records[:40])
    first, again, other = (calibrate_run(run, split, ["cam"], seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.of("cam") != other.of("cam")


@pytest.mark.parametrize("change", ["test/{:03d}.png", "{:03d}.png", "other/test/{:03d}.png", "{:03d}.jpg"])
def test_images_are_matched_by_path_and_name(made, change):
    run, records = made
    split = split_of(records[:5])
    examples = [Example(change.format(i), 0, SIZE, one.boxes) for i, one in enumerate(split)]
    found = match_images(run, Split("few", examples, [], split.open_image))
    assert list(found) == [one["id"] for one in records[:5]]


def test_boxes_of_another_size_are_scaled(made):
    run, records = made
    double = split_of(records[:1], size=(2 * SIZE[0], 3 * SIZE[1]), boxes=records[0]["boxes"] * [2, 3, 2, 3])
    np.testing.assert_allclose(match_images(run, double)[records[0]["id"]], records[0]["boxes"])


def test_strangers_are_said_and_twins_refused(made):
    run, records = made
    stranger = Example("cat.png", 0, SIZE, np.array([[0, 0, 5.0, 5]]))
    split = split_of(records[:3])
    with pytest.warns(AssumptionWarning, match="1 of 4 images with boxes are not in"):
        assert len(match_images(run, Split("few", [*split, stranger], [], split.open_image))) == 3
    with pytest.raises(InputError, match=r"the first are 'test/000.png' and 'cat.png'"):
        match_images(run, Split("few", [stranger], [], split.open_image))
    twins = [Example(f"{folder}/000.png", 0, SIZE, records[0]["boxes"]) for folder in ("test", "a/test")]
    assert len(match_images(run, Split("few", twins[:1], [], split.open_image))) == 1
    twins = [Example(f"{folder}/test/000.png", 0, SIZE, records[0]["boxes"]) for folder in "ab"]
    with pytest.raises(InputError, match=r"'b/test/000.png' is not told apart"):
        match_images(run, Split("few", twins, [], split.open_image))


def test_classes_of_an_image_are_matched_by_name(tmp_path, made):
    _, records = made
    run = Run(tmp_path / "run")
    run.start({"model": "net"})
    pairs = [{**records[0], "id": f"0.png#{label}", "label": label, "image": "0.png"} for label in (0, 1)]
    run.append(pairs)
    run.finish()
    run.write_json("classes.json", {"class_names": ["cat", "dog"]})
    boxes = np.array([[0, 0, 5.0, 5], [3, 3, 9, 9]])
    example = Example("0.png", 0, SIZE, boxes, (0, 1), np.array([0, 1]))
    found = match_images(run, Split("few", [example], ["dog", "cat"], SimpleNamespace()))
    assert {name: box.tolist() for name, box in found.items()} == {
        "0.png#0": [[3, 3, 9, 9]], "0.png#1": [[0, 0, 5, 5]]
    }  # fmt: skip
    with pytest.raises(InputError, match="of several classes, whose names are not known"):
        match_images(run, Split("few", [example], [], SimpleNamespace()))


# ------------------------------------------------------------------------------------------ whole commands


def test_calibrate_then_evaluate_and_locate(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_split(tmp_path / "set", 24)
    write_split(tmp_path / "few", 10)
    network = ["--model", write_model(tmp_path), "--size", "64"]
    assert main(["evaluate", *network, "--data", "set", "--method", "cam", "--out", "run"]) == 0
    assert main(["calibrate", "run", "--boxes", "few", "--out", "c.json"]) == 0
    said = capsys.readouterr()
    assert "cam: threshold" in said.out
    assert "10 images with boxes are too few to rely on" in said.err
    known = load_calibration(tmp_path / "c.json").of("cam")

    assert main(["evaluate", "--from-run", "run", "--calibration", "c.json", "--json"]) == 0
    said = capsys.readouterr()
    assert "10 of 24 images took part in it" in said.err
    entry = json.loads(said.out)["methods"]["cam"]
    assert entry["calibrated"]["threshold"] == known.threshold
    assert entry["calibrated"]["images"] == entry["fixed"]["images"] == 14
    part = {f"test/{name}" for name in (path.name for path in (tmp_path / "few/images/test").iterdir())}
    hits = []
    for record in (one for batch in Run(tmp_path / "run").records() for one in batch):
        if record["id"] not in part:
            size = (record["width"], record["height"])
            boxes = map_to_boxes(record["map_cam"], size, known.threshold)
            hits.append(len(boxes) > 0 and box_iou(boxes, record["boxes"], False).max() >= 0.5)
    assert entry["calibrated"]["MaxBoxAcc"]["value"] == pytest.approx(100 * np.mean(hits), abs=8)
    assert main(["evaluate", "--from-run", "run", "--calibration", "c.json"]) == 0
    assert "calibrated" in capsys.readouterr().out

    photo = "set/images/test/000003.png"
    locate = ["locate", photo, *network, "--no-overlays"]
    assert main([*locate, "--calibration", "c.json", "--csv", "boxes.csv"]) == 0
    said = capsys.readouterr()
    line = json.loads(said.out)
    assert line["threshold"] == known.threshold
    assert line["coverage"] == 0.9
    assert len(line["confidence"]) == len(line["boxes"]) == len(line["outer_boxes"]) == 1
    assert 0 < line["confidence"][0] < 1
    assert f"{line['confidence'][0]:g}" in (tmp_path / "boxes.csv").read_text()
    assert "was made with" not in said.err
    assert main(locate) == 0
    plain = json.loads(capsys.readouterr().out)
    assert "confidence" not in plain
    assert len(plain["expected_confidence"]) == 1
    assert plain["threshold"] == 0.35

    for more, says in (
        (["--method", "pc1"], "is a calibration of cam, not of pc1"),
        (["--threshold", "0.4"], "expected only one of them"),
    ):
        assert main([*locate, "--calibration", "c.json", *more]) == 2
        assert says in capsys.readouterr().err
    assert main([*locate, "--calibration", "c.json", "--size", "32"]) == 0
    assert "size 64, not 32" in capsys.readouterr().err
    (tmp_path / "c.json").write_text("{}")
    assert main([*locate, "--calibration", "c.json"]) == 2
    assert "is not a calibration" in capsys.readouterr().err


def test_quality_of_the_confidence_and_coverage_on_other_images(made, tmp_path):
    """The table of `evaluate --calibration` against a computation from the records alone."""
    records = [
        {**one, "boxes": one["boxes"] * (1 if index % 3 else 0.6)} for index, one in enumerate(made[1])
    ]
    run = Run(tmp_path / "run")
    run.start({"model": "net", "data": "x", "protocol": "reference"})
    run.append(records)
    run.finish()
    found = calibrate_run(run, split_of(records[:60]), ["cam"], resamples=50)
    entry = score_run(run, ["cam"], 200, calibration=found)["methods"]["cam"]["calibrated"]["confidence"]
    known, right, chance, inside = found.of("cam"), [], [], []
    for one in records[60:]:
        box = map_to_boxes(one["map_cam"], SIZE, known.threshold)
        framed = scale_boxes(one["boxes"], SIZE, (224, 224), truncate=True)
        pixels = scale_boxes(box, SIZE, (224, 224), truncate=False) - [0, 0, 1, 1]
        right.append(box_iou(pixels, framed, True).max() >= 0.5)
        chance.append(box_confidence({"cam": one["map_cam"]}, box, SIZE, known.confidence)[0])
        outer = outer_boxes(box, SIZE, known.margin)[0]
        truth = np.clip(one["boxes"][0], 0, np.tile(SIZE, 2))
        inside.append((outer[:2] <= truth[:2] + 1e-9).all() and (outer[2:] >= truth[2:] - 1e-9).all())
    right, chance = np.array(right), np.array(chance)
    pairs = np.subtract.outer(chance[right], chance[~right])
    ties = abs(pairs) < 1e-9  # which of them is larger by the last digit is chance
    assert entry["auroc"] == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean(), abs=1e-9 + ties.mean())
    order = np.argsort(-chance, kind="stable")
    assert entry["confident_half"] == pytest.approx(100 * right[order[:50]].mean(), abs=2)
    parts = [order[start : start + 10] for start in range(0, 100, 10)]
    error = np.mean([abs(chance[part].mean() - right[part].mean()) for part in parts])
    assert entry["calibration_error"] == pytest.approx(error, abs=0.02)
    assert entry["coverage"]["value"] == pytest.approx(100 * np.mean(inside))
    assert entry["coverage_asked"] == 90
    low, high = entry["coverage"]["interval"]
    assert low <= entry["coverage"]["value"] <= high
    table = score_table(score_run(run, ["cam"], 200, calibration=found))
    assert f"AUROC {entry['auroc']:.3f}" in table.caption
    assert "of outer boxes contain the object, 90% were asked for" in table.caption


def test_the_normalization_of_a_run_is_calibrated_and_no_other_taken(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_split(tmp_path / "set", 8)
    network = ["--model", write_model(tmp_path), "--size", "64"]
    ivr = ["--normalize", "ivr:0.6"]
    assert main(["evaluate", *network, "--data", "set", "--method", "cam", "--out", "run", *ivr]) == 0
    assert main(["calibrate", "run", "--boxes", "set", "--out", "c.json"]) == 0
    found = load_calibration(tmp_path / "c.json")
    assert found.normalize == "ivr:0.6"
    records = [one for batch in Run(tmp_path / "run").records() for one in batch]
    assert found.of("cam") == calibrate_map(records, "cam", normalize="ivr:0.6")
    assert found.of("cam") != calibrate_map(records, "cam")
    capsys.readouterr()

    photo = "set/images/test/000003.png"
    label = next(one["label"] for one in records if one["id"] == "test/000003.png")
    locate = ["locate", photo, *network, "--no-overlays", "--calibration", "c.json", "--target", str(label)]
    assert main(locate) == 0
    line = json.loads(capsys.readouterr().out)
    raw = next(one for one in records if one["id"] == "test/000003.png")["map_cam"]
    wanted = map_to_boxes(raw, (64, 64), found.of("cam").threshold, normalize="ivr:0.6")
    np.testing.assert_allclose(line["boxes"], wanted, atol=0.01)
    label = ["label", "set", *network, "--method", "cam", "--review", "0", "--calibration", "c.json"]
    assert main([*label, "--run", "maps", "--out", "boxes", "--objects", "one"]) == 0
    summary = json.loads((tmp_path / "boxes" / "summary.json").read_text())
    settings = summary["settings"]
    assert (settings["normalize"], settings["threshold"]) == ("ivr:0.6", found.of("cam").threshold)
    proposed = json.loads((tmp_path / "boxes" / "coco.json").read_text())["annotations"][3]["bbox"]
    np.testing.assert_allclose(np.add(proposed, [0, 0, *proposed[:2]]), wanted[0], atol=0.4)
    capsys.readouterr()

    says = "was made on maps normalized by ivr:0.6, not min-max"
    again = ["evaluate", *network, "--data", "set", "--method", "cam", "--out", "other"]
    for arguments in (
        [*locate, "--normalize", "min-max"],
        [*label, "--run", "maps", "--out", "b", "--normalize", "min-max"],
        [*again, "--calibration", "c.json"],
        ["evaluate", "--from-run", "run", "--calibration", "c.json", "--normalize", "min-max"],
    ):
        assert main(arguments) == 2
        assert says in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "other").exists()
    assert main([*label, "--run", "maps", "--out", "b", "--threshold", "0.4"]) == 2
    assert "threshold is 0.4, but c.json has one" in capsys.readouterr().err
    small = ["label", "set", *network[:2], "--size", "32", *label[6:]]
    assert main([*small, "--run", "small", "--out", "b"]) == 0
    assert "size 64, not 32; assumed: it holds here too" in capsys.readouterr().err.replace("\n", " ")


def test_exported_scores_are_the_calibrated_confidence(made, tmp_path):
    run, records = made
    found = calibrate_run(run, split_of(records[:60]), ["cam"], resamples=50)
    run.write_json("metrics.json", score_run(run, ["cam"], 100))
    maps = RunMaps(run.folder, "cam", calibration=found)
    assert maps.threshold == found.of("cam").threshold
    for example, one in zip(predicted_split(maps).examples[:5], records, strict=False):
        boxes = map_to_boxes(one["map_cam"], SIZE, maps.threshold)
        wanted = box_confidence({"cam": one["map_cam"]}, boxes, SIZE, found.of("cam").confidence)
        np.testing.assert_allclose(example.box_scores, wanted)
        assert 0 < example.box_scores[0] != pytest.approx(1 / 3)
    plain = predicted_split(RunMaps(run.folder, "cam")).examples[0]
    assert plain.box_scores.tolist() == pytest.approx([1 / 3])
    with pytest.raises(InputError, match=r"threshold is 0\.5, but .* has its own"):
        RunMaps(run.folder, "cam", 0.5, calibration=found)
    path = found.save(tmp_path / "c.json")
    command = ["export", str(run.folder), "--method", "cam", "--coco", str(tmp_path / "d.json")]
    assert main([*command, "--calibration", str(path)]) == 0
    scores = [one["score"] for one in json.loads((tmp_path / "d.json").read_text())]
    assert scores[0] == pytest.approx(predicted_split(maps).examples[0].box_scores[0], abs=1e-4)


@pytest.mark.parametrize("name", ["boxes.json", "boxes.csv"])
def test_one_file_of_annotations_is_enough(tmp_path, capsys, name):
    """The same boxes from the data set, and from one file that names the images."""
    split = open_split(write_split(tmp_path / "set", 24))
    evaluate = ["evaluate", "--model", write_model(tmp_path), "--data", str(tmp_path / "set"), "--size", "64"]
    assert main([*evaluate, "--method", "cam", "--out", str(tmp_path / "run"), "--json"]) == 0
    write_splits(
        [split], tmp_path / name, name.rpartition(".")[2].replace("json", "coco"), WriteOptions(images="none")
    )
    found = []
    for boxes in (tmp_path / "set", tmp_path / name):
        capsys.readouterr()
        assert main(["calibrate", str(tmp_path / "run"), "--boxes", str(boxes), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    for one in found:
        del one["boxes"]
    assert found[0] == found[1]
    (tmp_path / "bad.csv").write_text("image,x1,y1,x2,y2\ntest/000000.png,1,2,3,4\n")
    assert main(["calibrate", str(tmp_path / "run"), "--boxes", str(tmp_path / "bad.csv")]) == 2
    assert "expected columns for the image, its class, and x1, y1, x2, y2" in capsys.readouterr().err
