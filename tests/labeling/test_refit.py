"""Corrected boxes teach the foreground head of a run."""

import dataclasses
import json
import shutil
from functools import partial

import numpy as np
import pytest

from heatbox.cli.main import main
from heatbox.data.glyphs import glyphs
from heatbox.data.types import Example
from heatbox.data.write import WriteOptions, write_splits
from heatbox.evaluation.collection import EXTENT, SEEDS
from heatbox.evaluation.run import Run
from heatbox.inference.boxes import map_to_boxes
from heatbox.labeling import corrections as learning
from heatbox.labeling import refit as refitting
from heatbox.labeling.pipeline import LabelConfig, make_maps
from heatbox.labeling.refit import Refit, box_target, can_refit, refit
from heatbox.maps.foreground import fit_foreground, load_foreground
from helpers.scenes import write_model

COUNT, METHOD = 32, "foreground-walk"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small heads, few parts."""
    monkeypatch.setattr(refitting, "FOLDS", 2)
    monkeypatch.setattr(refitting, "fit_foreground", partial(fit_foreground, members=1, steps=25))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Photographs with the maps of a foreground head, and their true boxes."""
    root = tmp_path_factory.mktemp("refit")
    write_model(root)
    truth = glyphs("test", COUNT)
    boxes = {}
    for number, example in enumerate(truth):
        name = f"{truth.class_names[example.label]}/{number}.png"
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        truth.open_image(example).save(root / "photos" / name)
        boxes[name] = example.boxes
    config = LabelConfig(
        model=f"{root / 'mine.py'}:blobs", size=64, batch_size=16, device="cpu", method=METHOD
    )
    labelled = make_maps(str(root / "photos"), config, Run(root / "run"))
    drawn = {one.id: dataclasses.replace(one, boxes=boxes[one.id]) for one in labelled.split}
    return root, labelled, drawn


def maps_of(run):
    return {record["id"]: record[f"map_{METHOD}"] for batch in run.records() for record in batch}


def copied(scene, tmp_path):
    root, labelled, drawn = scene
    shutil.copytree(root / "run", tmp_path / "run")
    return Run(tmp_path / "run"), labelled.split.by_class(), dict(list(drawn.items())[:12])


def left_half(example, left=True):
    return dataclasses.replace(example, boxes=np.array([[0.0, 0, 32, 64] if left else [32.0, 0, 64, 64]]))


def test_the_head_learns_where_objects_are(scene, tmp_path):
    """A person who draws one half of every image is followed on images that nobody corrected."""
    run, pairs, some = copied(scene, tmp_path)
    fractions = []
    for left in (True, False):
        found = maps_of(refit(run, pairs, {name: left_half(one, left) for name, one in some.items()}).run)
        assert set(found) == set(maps_of(run))
        others = [one for name, one in found.items() if name not in some]
        fractions.append(np.mean([one[:, : one.shape[1] // 2].sum() / one.sum() for one in others]))
    assert fractions[0] > fractions[1] + 0.005


def test_a_corrected_image_is_judged_by_a_head_that_did_not_see_it(scene, tmp_path):
    """Another box of one image changes the held-out maps of others, not its own."""
    run, pairs, some = copied(scene, tmp_path)
    first = {record["id"]: record[f"map_{METHOD}"] for record in refit(run, pairs, some).held_out}
    assert set(first) == set(some)
    name = next(iter(some))
    other = {**some, name: left_half(some[name])}
    second = {record["id"]: record[f"map_{METHOD}"] for record in refit(run, pairs, other).held_out}
    assert np.array_equal(first[name], second[name])
    assert any(not np.array_equal(first[one], second[one]) for one in some if one != name)


def test_the_same_corrections_are_not_computed_again(scene, tmp_path):
    run, pairs, some = copied(scene, tmp_path)
    found = refit(run, pairs, some)
    head = found.run.folder / "foreground.safetensors"
    made = head.stat().st_mtime_ns, maps_of(found.run)
    again = refit(run, pairs, some)
    assert head.stat().st_mtime_ns == made[0]
    assert all(np.array_equal(maps_of(again.run)[name], one) for name, one in made[1].items())
    first = load_foreground(run.folder / "foreground.safetensors")  # the same weights in another file
    first.save(run.folder / "foreground.safetensors", **first.fitted_on, note="saved again")
    refit(run, pairs, some)
    assert head.stat().st_mtime_ns == made[0]
    refit(run, pairs, {name: left_half(one) for name, one in some.items()})
    assert head.stat().st_mtime_ns != made[0]


def test_the_target_is_what_the_map_shows_in_a_box():
    seed = np.ones((4, 8))
    seed[:, 3] = 3
    seed[0, 0] = 0
    one = Example("a", 0, (80, 40), np.array([[10.0, 10, 34, 30], [60, 30, 76, 40]]))
    expected = np.zeros((4, 8))
    expected[1:3, 1:4] = [0, 0, 1]  # of the fourth column 0.4 x 3 is in the box, of the others 1
    expected[1:3, 1:3] = 1
    expected[3, 6:8] = 1
    assert np.array_equal(box_target({SEEDS: seed}, one), expected)
    half = {SEEDS: seed[:, :4], EXTENT: np.array([0.0, 0.0, 0.5, 1.0])}  # the map shows the left half
    expected[3, 6:] = 0
    assert np.array_equal(box_target(half, dataclasses.replace(one, boxes=one.boxes[:1])), expected[:, :4])
    nothing = box_target({SEEDS: np.zeros((4, 8))}, dataclasses.replace(one, boxes=one.boxes[1:]))
    assert nothing.sum() == nothing[3, 6:].sum() == 2


def test_a_run_without_features_says_so(scene, tmp_path):
    run, _, _ = copied(scene, tmp_path)
    assert can_refit(run, METHOD) == ""
    assert "walk has no foreground head" in can_refit(run, "walk")
    shutil.rmtree(run.folder / "collection")
    assert "has not kept the features" in can_refit(run, METHOD)


def exact(record, example, right):
    """A record whose map is its box, or one that lies elsewhere."""
    y, x = np.mgrid[:64, :64] + 0.5
    x1, y1, x2, y2 = example.boxes[0]
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    return {**record, f"map_{METHOD}": (inside if right else ~inside).astype(np.float32)}


@pytest.mark.parametrize("right", [True, False])
def test_a_head_is_used_only_if_it_is_better_on_what_it_did_not_see(scene, tmp_path, monkeypatch, right):
    run, _, some = copied(scene, tmp_path)
    _, labelled, _ = scene
    records = [
        exact(record, some[record["id"]], right)
        for batch in run.records()
        for record in batch
        if record["id"] in some
    ]
    other = Run(tmp_path / "other")
    monkeypatch.setattr(learning, "refit", lambda *more: Refit(other, records))
    assert "12 corrected images are too few" in " ".join(
        learning.learn(run, labelled.split, labelled.settings, some).notes
    )
    monkeypatch.setattr(learning, "FEWEST", 8)
    learned = learning.learn(run, labelled.split, labelled.settings, some)
    said = " ".join(learned.notes)
    assert learned.run is (other if right else run)
    assert ("the foreground head learned from the corrected boxes" in said) == right
    assert ("so it stays as it is" in said) != right
    assert (learned.after["accuracy"] == 1) == right


def test_the_command_writes_the_boxes_of_the_new_head(scene, tmp_path, monkeypatch, capsys):
    root, labelled, _ = scene
    run, pairs, some = copied(scene, tmp_path)
    new = maps_of(refit(run, pairs, some).run)
    monkeypatch.setattr(learning, "FEWEST", 8)
    monkeypatch.setattr(learning, "box_accuracy", lambda found, truth: next(scores))
    scores = iter(
        [{"accuracy": a, "found": a, "images": 1, "boxes": 1, "AP50": 0, "AP": 0} for a in (0, 0, 1)]
    )
    split = dataclasses.replace(labelled.own_split(labelled.split), examples=list(some.values()))
    write_splits(split, tmp_path / "some.json", "coco", WriteOptions(images="none"))
    command = ["label", str(root / "photos"), "--model", f"{root / 'mine.py'}:blobs", "--size", "64"]
    command += ["--batch-size", "16", "--device", "cpu", "--review", "0", "--run", str(tmp_path / "run")]
    command += ["--method", METHOD, "--corrected", str(tmp_path / "some.json"), "--objects", "one"]
    assert main([*command, "--out", str(tmp_path / "boxes")]) == 0
    assert "the foreground head learned" in capsys.readouterr().out
    summary = json.loads((tmp_path / "boxes" / "summary.json").read_text())
    coco = json.loads((tmp_path / "boxes" / "coco.json").read_text())
    ids = {one["file_name"]: one["id"] for one in coco["images"]}
    threshold = summary["settings"]["threshold"]
    for name in sorted({*new} - {*some}):
        every = map_to_boxes(new[name], (64, 64), threshold, "all", "exact")
        (x, y, w, h) = next(one["bbox"] for one in coco["annotations"] if one["image_id"] == ids[name])
        assert np.abs(every - [x, y, x + w, y + h]).max(1).min() < 1e-6
