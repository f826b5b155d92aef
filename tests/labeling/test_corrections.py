"""Corrected boxes come back in any format: matched, measured, learned from, kept."""

import dataclasses
import json
import warnings

import numpy as np
import pytest

from heatbox.cli.main import main
from heatbox.data.annotations import open_annotations
from heatbox.data.glyphs import glyphs
from heatbox.data.types import Example, Split
from heatbox.data.write import WriteOptions, write_splits
from heatbox.errors import AssumptionWarning, InputError
from heatbox.labeling.corrections import (
    box_accuracy,
    expected_errors,
    match_corrections,
)
from helpers.scenes import write_model

FORMATS = {
    "coco": "c.json", "csv": "c.csv", "cvat": "c.zip", "labelstudio": "l.json", "voc": "voc", "yolo": "yolo",
}  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Photographs in class folders, the same with true boxes, and the command that labels them."""
    root = tmp_path_factory.mktemp("corrected")
    write_model(root)
    truth = glyphs("test", 24)
    names = sorted(truth.class_names)
    examples = []
    for number, example in enumerate(truth):
        kind = truth.class_names[example.label]
        path = root / "photos" / kind / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        truth.open_image(example).save(path)
        label = names.index(kind)
        examples.append(Example(f"{kind}/{number}.png", label, example.size, example.boxes))
    by_id = dict(zip((e.id for e in examples), truth, strict=True))
    split = Split("corrected", examples, names, lambda e: truth.open_image(by_id[e.id]))
    model = ["--model", f"{root / 'mine.py'}:blobs", "--size", "64", "--device", "cpu", "--review", "0"]
    return root, split, ["label", str(root / "photos"), *model, "--run", str(root / "run")]


@pytest.mark.parametrize("to", FORMATS)
def test_corrections_are_read_in_every_format(scene, tmp_path, to):
    root, split, _ = scene
    path = tmp_path / FORMATS[to]
    some = dataclasses.replace(split, examples=split.examples[:7])
    single = path.suffix == ".json" or to in ("csv", "cvat")
    write_splits(some, path, to, WriteOptions(images=None if not single else "none", annotations=True))
    photos = dataclasses.replace(
        split, examples=[dataclasses.replace(e, boxes=np.zeros((0, 4))) for e in split]
    )
    from heatbox.data.files.trees import FolderTree

    found = match_corrections(photos, open_annotations(path, FolderTree(root / "photos")))
    assert set(found) == {example.id for example in some}
    for example in some:
        assert found[example.id].labels == example.labels
        assert np.allclose(found[example.id].boxes, example.boxes, atol=1e-3)


def test_a_corrected_round(scene, tmp_path, capsys):
    _root, split, command = scene
    some = dataclasses.replace(split, examples=split.examples[::3])
    write_splits(some, tmp_path / "mine.json", "coco")
    assert main([*command, "--out", str(tmp_path / "first")]) == 0
    capsys.readouterr()
    corrected = ["--corrected", str(tmp_path / "mine.json")]
    assert main([*command, *corrected, "--out", str(tmp_path / "second")]) == 0
    printed = capsys.readouterr()
    assert "boxes proposed on 8 corrected images" in printed.out
    assert "maps of all (0 to do)" in printed.err  # no network is run again
    coco = json.loads((tmp_path / "second" / "coco.json").read_text())
    names = {one["id"]: one["file_name"] for one in coco["images"]}
    for example in some:  # kept as they are
        (box,) = [one for one in coco["annotations"] if names[one["image_id"]] == example.id]
        x1, y1, x2, y2 = example.boxes[0]
        assert box["bbox"] == [x1, y1, x2 - x1, y2 - y1]
        assert box["score"] == 1
    summary = json.loads((tmp_path / "second" / "summary.json").read_text())
    assert summary["calibrated"]
    assert summary["boxes_of_a_person"] == len(some)
    proposals = json.loads((tmp_path / "first" / "coco.json").read_text())
    by_name = {one["file_name"]: one["id"] for one in proposals["images"]}
    right = total = 0
    for example in some:
        for one in proposals["annotations"]:
            if one["image_id"] == by_name[example.id]:
                x, y, w, h = one["bbox"]
                a, b = example.boxes[0], (x, y, x + w, y + h)
                shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
                union = w * h + (a[2] - a[0]) * (a[3] - a[1]) - shared
                right, total = right + (shared / union >= 0.5), total + 1
    assert summary["corrected"]["before"]["accuracy"] == pytest.approx(right / total)


def test_proposals_and_unknown_images_are_no_corrections(scene, tmp_path):
    _, split, _ = scene
    scored = [dataclasses.replace(e, box_scores=np.full(1, 0.5)) for e in split.examples[:3]]
    some = dataclasses.replace(split, examples=[*scored, split.examples[5]])
    with pytest.warns(AssumptionWarning, match="3 images have proposals alone"):
        assert set(match_corrections(split, some)) == {split.examples[5].id}
    other = [dataclasses.replace(split.examples[0], id="elsewhere/x.png")]
    with pytest.raises(InputError, match="no corrected image is among the photographs"):
        match_corrections(split, dataclasses.replace(split, examples=other))
    with pytest.raises(InputError, match="not among the classes of the photographs"):
        match_corrections(split, dataclasses.replace(split, examples=split.examples[:1], class_names=["x"]))


def test_two_corrected_images_are_not_one_photograph(scene):
    _, split, _ = scene
    photo = split.examples[0]
    exact = dataclasses.replace(photo, boxes=np.array([[1.0, 2.0, 30.0, 40.0]]), box_scores=None)
    other = dataclasses.replace(exact, id=f"other/{photo.id}", boxes=np.array([[5.0, 5.0, 9.0, 9.0]]))
    for order in ([exact, other], [other, exact]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = match_corrections(split, dataclasses.replace(split, examples=order))
        assert found[photo.id].boxes.tolist() == exact.boxes.tolist()
    third = dataclasses.replace(other, id=f"third/{photo.id}")
    with pytest.raises(InputError, match="may both be the photograph"):
        match_corrections(split, dataclasses.replace(split, examples=[other, third]))


def test_accuracy_counts_boxes_of_the_right_class():
    truth = Example(
        "a", 0, (100, 100), np.array([[0.0, 0, 10, 10], [50, 50, 60, 60]]), (0, 1), np.array([0, 1])
    )
    boxes = np.array([[0.0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 5, 5]])
    found = Example("a", 0, (100, 100), boxes, (0,), np.array([0, 0, 0]), np.array([0.9, 0.8, 0.7]))
    measured = box_accuracy([found], [truth])
    assert measured["accuracy"] == pytest.approx(1 / 3)
    assert measured["found"] == 0.5
    assert measured["AP50"] == pytest.approx(0.5)


def test_images_of_more_doubt_come_first():
    sure = Example("a", 0, (9, 9), np.zeros((1, 4)), box_scores=np.array([0.9]))
    unsure = dataclasses.replace(sure, id="b", box_scores=np.array([0.4]))
    nothing = dataclasses.replace(sure, id="c", boxes=np.zeros((0, 4)), box_scores=np.zeros(0))
    assert expected_errors(sure) < expected_errors(unsure) < expected_errors(nothing)
