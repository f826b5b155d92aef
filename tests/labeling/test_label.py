"""`heatbox label`: photographs with labels become boxes in the formats of other tools."""

import dataclasses
import hashlib
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from heatbox import open_split
from heatbox.cli.main import main
from heatbox.data.glyphs import glyphs
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation import predict
from heatbox.inference.boxes import map_to_boxes
from heatbox.labeling import pipeline as labeling
from heatbox.labeling.photos import own_classes
from heatbox.maps.foreground import load_foreground
from helpers.scenes import write_model

COUNT, TURNED = 20, 0x0112


def write_photos(folder, split=None):
    """glyphs in class folders, of two sizes, one of them turned by its EXIF."""
    split = split or glyphs("test", COUNT)
    for number, example in enumerate(split):
        path = folder / split.class_names[example.label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        split.open_image(example).resize((96 if number % 2 else 64, 64)).save(path)
    exif = Image.Exif()
    exif[TURNED] = 6
    Image.open(folder / "disc" / "0.png").save(folder / "disc" / "turned.jpg", exif=exif)
    Image.new("RGB", (80, 40)).save(folder / "ring" / "wide.jpg", exif=exif)
    (folder / "ring" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    return folder


def digest(folder):
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def command(root, *more, photos="photos", out="boxes"):
    model = ["--model", f"{root / 'mine.py'}:blobs", "--size", "64", "--batch-size", "4", "--device", "cpu"]
    return ["label", str(root / photos), *model, "--run", str(root / "run"), "--out", str(root / out), *more]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Photographs that were labelled once, in every format."""
    root = tmp_path_factory.mktemp("label")
    write_model(root)
    write_photos(root / "photos")
    before = digest(root / "photos")
    formats = ["coco", "csv", "cvat", "label-studio", "voc", "yolo", "coco-results", "huggingface"]
    code = main(command(root, "--to", *formats, "--confidence"))
    return root, code, before


def test_all_formats_hold_the_same_boxes(done):
    root, code, _ = done
    out = root / "boxes"
    assert code == 1  # one image could not be read
    coco = json.loads((out / "coco.json").read_text())
    names = {one["id"]: one["file_name"] for one in coco["images"]}
    wanted = {name: [] for name in names.values()}
    for one in coco["annotations"]:
        wanted[names[one["image_id"]]].append(one["bbox"])
        assert 0 <= one["score"] <= 1
    assert len(wanted) == COUNT + 2
    flat = {name.replace("/", "_").rpartition(".")[0]: boxes for name, boxes in wanted.items()}
    for folder in ("yolo", "voc"):
        split = open_split(out / folder)
        assert len(split) == COUNT + 2
        for example in split:
            key = example.id.rpartition("/")[2].rpartition(".")[0]
            corners = np.array(flat[key]).reshape(-1, 4)
            corners[:, 2:] += corners[:, :2]
            assert np.allclose(example.boxes, corners, atol=1.01)
    tasks = json.loads((out / "label-studio.json").read_text())
    assert sum(len(task["predictions"][0]["result"]) for task in tasks) == len(coco["annotations"])
    assert "<RectangleLabels" in (out / "label-studio.xml").read_text()
    assert (out / "cvat.zip").is_file()
    assert len(json.loads((out / "coco-results.json").read_text())) == len(coco["annotations"])


def test_exif_is_obeyed_and_class_names_are_kept(done):
    coco = json.loads((done[0] / "boxes" / "coco.json").read_text())
    sizes = {one["file_name"]: (one["width"], one["height"]) for one in coco["images"]}
    assert sizes["ring/wide.jpg"] == (40, 80)
    assert [one["name"] for one in coco["categories"]] == sorted(glyphs("test", 1).class_names)
    assert all(min(one["bbox"]) >= 0 for one in coco["annotations"])


def test_boxes_are_those_of_the_saved_maps(done):
    """With one object in an image its box is among those that `map_to_boxes` finds."""
    root = done[0]
    labelled = labeling.make_maps(
        str(root / "photos"), config_of(root, objects="one"), labeling.Run(root / "run")
    )
    maps = {record["id"]: record["map_walk"] for batch in labelled.run.records() for record in batch}
    for example in labelled.boxes():
        every = map_to_boxes(maps[example.id], example.size, labelled.settings.threshold, "all", "exact")
        assert len(example.boxes) == (1 if len(every) else 0)
        if len(every):
            assert np.abs(every - example.boxes).max(1).min() < 1e-9


def test_a_collection_has_a_foreground_head(done, tmp_path, monkeypatch):
    """The default map learns from all images; another run may be given its head."""
    root = done[0]
    photos = str(root / "photos")
    with pytest.warns(AssumptionWarning, match="fewer than 30 maps .* so the map is walk"):
        assert labeling.make_maps(photos, config_of(root), labeling.Run(root / "run")).config.method == "walk"
    monkeypatch.setattr(labeling, "FEW_IMAGES", 10)
    first = labeling.make_maps(photos, config_of(root), labeling.Run(tmp_path / "a"))
    assert first.config.method == "foreground-walk"
    head = tmp_path / "a" / "foreground.safetensors"
    assert load_foreground(head).fitted_on["images"] == str(COUNT + 2)
    before = {one["id"]: one["map_foreground-walk"] for batch in first.run.records() for one in batch}
    assert np.ptp(np.stack(list(before.values()))) > 0.1
    given = config_of(root, foreground=head, method="foreground-walk")
    second = labeling.make_maps(photos, given, labeling.Run(tmp_path / "b"))
    assert not (tmp_path / "b" / "foreground.safetensors").exists()
    for batch in second.run.records():
        for one in batch:
            assert np.allclose(one["map_foreground-walk"], before[one["id"]], atol=1e-3)
    wrong = config_of(root, foreground=head, method="walk")
    with pytest.raises(InputError, match="none of walk is a map of a foreground head"):
        labeling.make_maps(photos, wrong, labeling.Run(tmp_path / "c"))


def test_a_network_of_one_size_has_another_map(done, tmp_path):
    """Its inputs cannot be enlarged; what was asked for is refused, not replaced."""
    flat = """
from torch import nn

def flat():
    head = [nn.Flatten(), nn.Linear(16 * 8 * 8, 10)]
    return nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), *head)
"""
    (tmp_path / "flat.py").write_text(flat)
    photos = str(done[0] / "photos")
    config = dataclasses.replace(config_of(done[0]), model=f"{tmp_path / 'flat.py'}:flat")
    with pytest.warns(AssumptionWarning, match="only runs on images of its own size.*so the map is"):
        found = labeling.make_maps(photos, config, labeling.Run(tmp_path / "run"))
    assert found.config.method in ("walk-one-pass", "cam")
    with pytest.raises(InputError, match="only runs on images of its own size"):
        labeling.make_maps(
            photos, dataclasses.replace(config, method="walk"), labeling.Run(tmp_path / "walk")
        )


def config_of(root, **more):
    model = f"{root / 'mine.py'}:blobs"
    return labeling.LabelConfig(model=model, size=64, batch_size=4, device="cpu", **more)


def test_the_summary_says_what_was_left_out(done, capsys):
    summary = json.loads((done[0] / "boxes" / "summary.json").read_text())
    assert summary["images"] == COUNT + 2
    assert summary["left_out"]["counts"] == {"unreadable": 1}
    assert "ring/broken.jpg" in summary["left_out"]["problems"][0]
    assert sum(one["boxes"] for one in summary["classes"]) == summary["boxes"]


def test_originals_are_not_written_to(done):
    root, _, before = done
    assert digest(root / "photos") == before
    for place in ("photos/boxes", ""):
        with pytest.raises(InputError, match="must not lie in each other"):
            labeling.check_outputs(
                root / place, ["coco"], labeling.WriteOptions(overwrite=True), str(root / "photos")
            )


def test_bad_arguments_are_refused_before_anything_is_computed(done, capsys):
    root = done[0]
    assert main(command(root, "--method", "wolk", out="other")) == 2
    assert "there is no map method 'wolk'" in capsys.readouterr().err
    assert main(command(root)) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert main(["label", str(root / "photos"), "--out", str(root / "other")]) == 2
    assert not (root / "other").exists()


def test_an_interrupted_command_is_resumed_with_the_same_output(tmp_path, monkeypatch):
    write_model(tmp_path)
    write_photos(tmp_path / "photos", glyphs("test", 12))
    monkeypatch.setattr(predict, "RECORDS_A_SHARD", 4)
    assert main(command(tmp_path, "--to", "coco", "csv")) == 1
    shutil.move(tmp_path / "run", tmp_path / "whole-run")
    records, calls = predict._records, []

    def stop(*arguments, **more):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return records(*arguments, **more)

    monkeypatch.setattr(predict, "_records", stop)
    assert main(command(tmp_path, "--to", "coco", "csv", out="again")) == 130
    assert not (tmp_path / "again").exists()
    assert main(command(tmp_path, "--to", "coco", "csv", out="again")) == 1
    assert len(calls) == 5  # of four batches, one was interrupted
    assert digest(tmp_path / "again") == digest(tmp_path / "boxes")


def test_images_without_labels_get_the_classifiers(tmp_path, capsys):
    write_model(tmp_path)
    split = glyphs("test", 6)
    (tmp_path / "photos").mkdir()
    for number, example in enumerate(split):
        split.open_image(example).save(tmp_path / "photos" / f"{number}.png")
    assert main(command(tmp_path, "--min-score", "0.1")) == 0
    said = capsys.readouterr().err
    assert "no image has a label, so those that the classifier predicts are used" in said
    coco = json.loads((tmp_path / "boxes" / "coco.json").read_text())
    assert len(coco["images"]) == 6
    assert {one["image_id"] for one in coco["annotations"]} == {1, 2, 3, 4, 5, 6}
    assert main(command(tmp_path, "--min-score", "1", "--run", str(tmp_path / "none"), out="none")) == 0
    empty = json.loads((tmp_path / "none" / "coco.json").read_text())
    assert len(empty["images"]) == 6
    assert not empty["annotations"]  # nothing found is an answer


def test_every_label_of_an_image_is_searched(tmp_path):
    write_model(tmp_path)
    split = glyphs("several", 10)
    (tmp_path / "photos").mkdir()
    rows = ["image,label"]
    for example in split:
        name = example.id.rpartition("/")[2]
        split.open_image(example).save(tmp_path / "photos" / name)
        rows += [f"{name},{split.class_names[label]}" for label in example.labels] or [f"{name},"]
    (tmp_path / "photos" / "labels.csv").write_text("\n".join(rows) + "\n")
    assert main(command(tmp_path, "--to", "csv", "--num-classes", "6")) == 0
    labels = {}
    for row in (tmp_path / "boxes" / "boxes.csv").read_text().splitlines()[1:]:
        labels.setdefault(row.split(",")[0], set()).add(row.split(",")[1])
    for example in split:
        name = example.id.rpartition("/")[2]
        assert labels[name] == {split.class_names[label] for label in example.labels} or not example.labels


def test_files_have_the_classes_of_the_photographs():
    split = dataclasses.replace(glyphs("test", 4), class_names=["star", "disc"], examples=[])
    names, places = own_classes(split, 3, ["disc", "ring", "star"], "photos")
    assert (names, places) == (("star", "disc"), (2, 0))


def test_the_review_page_shows_the_most_doubtful_first(done):
    root = done[0]
    page = (root / "boxes" / "review.html").read_text()
    assert "<h1>Review of photos</h1>" in page
    data = json.loads(re.search('id="review-data">(.*?)</script>', page, re.DOTALL)[1])
    assert len(data["images"]) == COUNT + 2
    least = [min(one["scores"], default=-1) for one in data["images"]]
    assert least == sorted(least)
    coco = json.loads((root / "boxes" / "coco.json").read_text())
    assert sum(len(one["boxes"]) for one in data["images"]) == len(coco["annotations"])
