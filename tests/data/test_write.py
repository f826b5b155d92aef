"""Writers against independent readers: pycocotools, supervision, PyYAML, the standard library's parsers."""

import csv
import dataclasses
import json
import shutil
import sys
import zipfile
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

from heatbox.cli.main import main
from heatbox.data import Example, Split, glyphs, to_detections, to_fiftyone, write_splits
from heatbox.data.files.images import TreeImages
from heatbox.data.files.trees import FolderTree
from heatbox.data.formats.options import AnnotationFiles, CvatFormat, WriteOptions, WrittenFormat
from heatbox.data.formats.output import LABELS
from heatbox.data.open import open_splits
from heatbox.data.write import WRITERS
from heatbox.errors import InputError
from helpers.written import CONTENT, HEIGHT, NAMES, WIDTH, expected, plain, plain_split

SCALE = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
TREES = ("coco", "huggingface", "labelstudio", "voc", "yolo")


@pytest.fixture
def split(tmp_path):
    return plain_split(tmp_path / "in")


def written(split, out, to, **options):
    return write_splits([split], out, to, WriteOptions(**options))


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def row(name, box, score):
    return (str(name), *np.round(np.array(box, dtype=float), 6).tolist(), score)


def by_text(rows):
    return sorted(rows, key=str)


def test_the_command_line_offers_every_writer():
    assert set(WrittenFormat.__args__) == set(WRITERS)
    assert {"coco", "coco-results"} | {f.name for f in dataclasses.fields(AnnotationFiles)} == set(WRITERS)


# --------------------------------------------------------------------------------------------------- COCO


def test_coco_is_read_by_pycocotools(split, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    written(split, tmp_path / "out", "coco")
    found = coco.COCO(str(tmp_path / "out/annotations/instances_val.json"))
    names = {category["id"]: category["name"] for category in found.loadCats(found.getCatIds())}
    assert names == dict(enumerate(NAMES, 1))
    read = {}
    for image in found.loadImgs(found.getImgIds()):
        path = tmp_path / "out/images/val" / image["file_name"]
        assert Image.open(path).size == (image["width"], image["height"])
        annotations = found.loadAnns(found.getAnnIds(imgIds=image["id"]))
        for one in annotations:
            assert one["area"] == one["bbox"][2] * one["bbox"][3]
        read[image["file_name"]] = by_text(
            row(names[a["category_id"]], [x, y, x + w, y + h], a["score"])
            for a in annotations
            for x, y, w, h in [a["bbox"]]
        )
    assert read == expected()
    only = {i["file_name"]: i.get("category_ids") for i in found.dataset["images"]}
    assert only["label only.png"] == [3]
    assert only["one.png"] is only["empty.png"] is None


def test_coco_results_are_read_by_pycocotools(split, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    done = written(split, tmp_path / "found.json", "coco-results")
    found = coco.COCO(str(tmp_path / "found-images.json")).loadRes(str(tmp_path / "found.json"))
    read = {image["file_name"]: [] for image in found.dataset["images"]}
    for one in found.dataset["annotations"]:
        x, y, w, h = one["bbox"]
        name = found.imgs[one["image_id"]]["file_name"]
        read[name].append(row(found.cats[one["category_id"]]["name"], [x, y, x + w, y + h], one["score"]))
    assert {name: by_text(rows) for name, rows in read.items()} == expected()
    assert any("does not hold labels of images without boxes: those of 1 images" in n for n in done.notes)


def test_ground_truth_is_no_coco_result(tmp_path):
    with pytest.raises(InputError, match=r"a box of image 'one.png' has no score"):
        written(plain_split(tmp_path / "in", scored=False), tmp_path / "found.json", "coco-results")
    assert not (tmp_path / "found.json").exists()


def test_supervision_reads_coco(split, tmp_path):
    sv = pytest.importorskip("supervision")
    written(split, tmp_path / "out", "coco")
    folder = tmp_path / "out/images/val"
    data = sv.DetectionDataset.from_coco(str(folder), str(tmp_path / "out/annotations/instances_val.json"))
    assert of_supervision(data) == expected(scores=False)


def of_supervision(data):
    return {
        Path(path).name: by_text(
            row(data.classes[k], box, None)
            for box, k in zip(found.xyxy.astype(np.float64), found.class_id, strict=True)
        )
        for path, _, found in data
    }


def rounded(content, digits):
    return {
        name: by_text((k, *(round(value, digits) for value in box), score) for k, *box, score in rows)
        for name, rows in content.items()
    }


# --------------------------------------------------------------------------------------------------- YOLO


def yolo_boxes(text):
    for line in text.splitlines():
        label, cx, cy, w, h, *rest = line.split()
        centre, half = np.array([float(cx), float(cy)]), np.array([float(w), float(h)]) / 2
        box = np.concatenate([centre - half, centre + half]) * SCALE
        yield row(NAMES[int(label)], box, float(rest[0]) if rest else None)


@pytest.mark.parametrize("confidence", [False, True])
def test_yolo(split, tmp_path, confidence):
    done = written(split, tmp_path / "out", "yolo", confidence=confidence)
    data = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert data == {"train": None, "val": "images/val", "test": None, "names": dict(enumerate(NAMES))}
    read = {
        name: by_text(yolo_boxes((tmp_path / "out/labels/val" / name).with_suffix(".txt").read_text()))
        for name in CONTENT
    }
    assert read == expected(scores=confidence)
    assert any("--confidence" in note for note in done.notes) != confidence
    assert files(tmp_path / "out/images/val") == sorted(CONTENT)


def test_supervision_reads_yolo(split, tmp_path):
    sv = pytest.importorskip("supervision")
    out = tmp_path / "out"
    written(split, out, "yolo")
    data = sv.DetectionDataset.from_yolo(
        str(out / "images/val"), str(out / "labels/val"), str(out / "data.yaml")
    )
    assert rounded(of_supervision(data), 3) == rounded(expected(scores=False), 3)


def test_names_that_yaml_might_misread(tmp_path):
    names = [
        "yes",
        "null",
        "1.5",
        "a: b",
        "#x",
        'q"\\q',
        "tab\there",
        "z\x85\u2028\x7f😀\ufeff",
        "- a",
        "{a}",
    ]
    split = plain_split(tmp_path / "in", content={"a.png": ([], [9])})
    written(dataclasses.replace(split, class_names=names), tmp_path / "out", "yolo")
    data = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert list(data["names"].values()) == names
    assert list(data["names"]) == list(range(10))


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["all"], {"train": "images/all"}),
        (["result"], {"train": "images/result"}),
        (["train", "valid", "test"], {"train": "images/train", "val": "images/valid", "test": "images/test"}),
        (["val", "fullsup"], {"val": "images/val", "fullsup": "images/fullsup"}),
        (["val", "validation"], {"val": ["images/val", "images/validation"]}),
    ],
)
def test_splits_have_the_keys_that_ultralytics_knows(tmp_path, names, keys):
    splits = [plain_split(tmp_path / name, name=name) for name in names]
    write_splits(splits, tmp_path / "out", "yolo")
    data = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert {key: value for key, value in data.items() if key != "names" and value} == keys
    assert {"train", "val"} <= set(data)


# ---------------------------------------------------------------------------------------------------- VOC


def voc_objects(path, first=1, score="confidence"):
    root = ElementTree.parse(path).getroot()
    assert [root.findtext(f"size/{key}") for key in ("width", "height", "depth")] == ["40", "30", "3"]
    for one in root.findall("object"):
        box = [float(one.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
        found = one.findtext(score)
        yield row(
            one.findtext("name"),
            [box[0] - first, box[1] - first, *box[2:]],
            None if found is None else float(found),
        )


def test_voc(split, tmp_path):
    written(split, tmp_path / "out", "voc")
    out = tmp_path / "out"
    listed = (out / "ImageSets/Main/val.txt").read_text().splitlines()
    assert listed == [Path(name).stem for name in CONTENT]
    read = {name: by_text(voc_objects(out / f"Annotations/{Path(name).stem}.xml")) for name in CONTENT}
    assert read == expected()
    for name in CONTENT:
        assert ElementTree.parse(out / f"Annotations/{Path(name).stem}.xml").findtext("filename") == name
        assert (out / "JPEGImages" / name).is_file()


def test_supervision_reads_voc(split, tmp_path):
    sv = pytest.importorskip("supervision")
    written(split, tmp_path / "out", "voc")
    data = sv.DetectionDataset.from_pascal_voc(
        str(tmp_path / "out/JPEGImages"), str(tmp_path / "out/Annotations")
    )
    assert of_supervision(data) == expected(scores=False)


def test_flags_are_kept(tmp_path):
    split = plain_split(tmp_path / "in")
    first = dataclasses.replace(split.examples[0], box_flags=(("difficult", "occluded"),))
    split = dataclasses.replace(split, examples=[first])
    written(split, tmp_path / "voc", "voc")
    one = ElementTree.parse(tmp_path / "voc/Annotations/one.xml").find("object")
    flags = {key: one.findtext(key) for key in ("difficult", "occluded", "truncated")}
    assert flags == {"difficult": "1", "occluded": "1", "truncated": "0"}
    written(split, tmp_path / "cvat.zip", "cvat")
    with zipfile.ZipFile(tmp_path / "cvat.zip") as archive:
        assert ElementTree.fromstring(archive.read("annotations.xml")).find(".//box").get("occluded") == "1"


# -------------------------------------------------------------------------------------------- Label Studio


def test_label_studio(split, tmp_path):
    done = written(split, tmp_path / "out", "labelstudio", model_version="first")
    assert f"the images are for local storage whose document root is {tmp_path / 'out'}" in done.notes
    tasks = json.loads((tmp_path / "out/tasks.json").read_text())
    read = {}
    for task in tasks:
        prefix, _, path = task["data"]["image"].partition("?d=")
        assert prefix == "/data/local-files/"
        assert (tmp_path / "out" / unquote(path)).is_file()
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "first"
        rows, scores = [], []
        for region in prediction["result"]:
            assert (region["original_width"], region["original_height"]) == (WIDTH, HEIGHT)
            assert region["to_name"] == "image"
            if region["type"] == "choices":
                assert region["value"] == {"choices": [NAMES[2]]}
                assert unquote(path).endswith("label only.png")
                continue
            assert (region["type"], region["from_name"]) == ("rectanglelabels", "label")
            value = region["value"]
            corner = np.array([value["x"], value["y"]])
            size = np.array([value["width"], value["height"]])
            box = np.concatenate([corner, corner + size]) * SCALE / 100
            rows.append(row(value["rectanglelabels"][0], box, region["score"]))
            scores.append(region["score"])
        assert prediction.get("score") == (pytest.approx(np.mean(scores)) if scores else None)
        read[Path(unquote(path)).name] = by_text(rows)
    assert read == expected()
    config = ElementTree.parse(tmp_path / "out/labeling-config.xml").getroot()
    assert [one.get("value") for one in config.iter("Label")] == NAMES
    assert [one.get("value") for one in config.iter("Choice")] == NAMES
    assert config.find("RectangleLabels").get("name") == "label"


def test_label_studio_in_one_file_with_other_names(split, tmp_path):
    options = {"from_name": "box", "to_name": "photo", "image_url": "s3://mine/", "annotations": True}
    done = written(split, tmp_path / "tasks.json", "labelstudio", **options)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [unquote(task["data"]["photo"]) for task in tasks] == [f"s3://mine/{name}" for name in CONTENT]
    assert "predictions" not in tasks[0]
    (region,) = tasks[0]["annotations"][0]["result"]
    assert (region["from_name"], region["to_name"]) == ("box", "photo")
    assert "score" not in region
    assert any("does not hold scores" in note for note in done.notes)
    assert f"names of images are relative to {tmp_path / 'in'}" in done.notes


# --------------------------------------------------------------------------------------------------- CVAT


def test_cvat_xml(split, tmp_path):
    written(split, tmp_path / "out.zip", "cvat")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist() == ["annotations.xml"]
        root = ElementTree.fromstring(archive.read("annotations.xml"))
    assert root.findtext("version") == "1.1"
    assert [one.findtext("name") for one in root.iter("label")] == NAMES
    read = {}
    for number, image in enumerate(root.findall("image")):
        assert (image.get("id"), image.get("width"), image.get("height")) == (str(number), "40", "30")
        read[image.get("name")] = by_text(
            row(
                one.get("label"),
                [one.get(key) for key in ("xtl", "ytl", "xbr", "ybr")],
                float(one.findtext("attribute[@name='score']")),
            )
            for one in image.findall("box")
        )
        tags = [tag.get("label") for tag in image.findall("tag")]
        assert tags == ([NAMES[2]] if image.get("name") == "label only.png" else [])
    assert read == expected()


def test_cvat_yolo(split, tmp_path):
    done = written(split, tmp_path / "out.zip", "cvat", cvat_format="YOLO 1.1", images="copy")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        lines = archive.read("valid.txt").decode().splitlines()
        assert lines == [f"data/obj_valid_data/{name}" for name in CONTENT]
        assert archive.read("obj.names").decode().splitlines() == NAMES
        config = dict(line.split(" = ") for line in archive.read("obj.data").decode().splitlines())
        assert (config["classes"], config["valid"]) == ("3", "data/valid.txt")
        read = {}
        for name in CONTENT:
            path = f"obj_valid_data/{name}"
            source = (tmp_path / "in" / name).read_bytes()
            assert archive.read(path) == source
            read[name] = by_text(yolo_boxes(archive.read(path.rpartition(".")[0] + ".txt").decode()))
    assert read == expected(scores=False)
    assert any("does not hold scores" in note for note in done.notes)


@pytest.mark.parametrize(("name", "wanted"), [("predictions", "train"), ("all", "train"), ("val", "valid")])
def test_the_only_split_has_a_name_that_cvat_knows(tmp_path, name, wanted):
    split = plain_split(tmp_path / "in", name=name)
    write_splits(split, tmp_path / "o.zip", "cvat", WriteOptions(cvat_format="YOLO 1.1", images="copy"))
    with zipfile.ZipFile(tmp_path / "o.zip") as archive:
        names = archive.namelist()
    assert f"{wanted}.txt" in names
    assert f"obj_{wanted}_data/one.png" in names


def test_cvat_coco(split, tmp_path):
    written(split, tmp_path / "out.zip", "cvat", cvat_format="COCO 1.0")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        content = json.loads(archive.read("annotations/instances_val.json"))
    assert [image["file_name"] for image in content["images"]] == list(CONTENT)
    assert len(content["annotations"]) == 5


def test_cvat_voc(tmp_path):
    split = plain_split(tmp_path / "in", nested=True)
    split = dataclasses.replace(split, class_names=["a", "b", "c"])
    written(split, tmp_path / "out.zip", "cvat", cvat_format="PASCAL VOC 1.1", images="copy")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        archive.extractall(tmp_path / "x")
        assert archive.read("labelmap.txt").decode().splitlines()[1:] == ["a:::", "b:::", "c:::"]
    read = [
        one
        for example in split
        for one in voc_objects(
            (tmp_path / "x/Annotations" / example.id).with_suffix(".xml"), 0, "attributes/attribute/value"
        )
    ]
    renamed = dict(zip(NAMES, "abc", strict=True))
    assert by_text(read) == by_text((renamed[k], *rest) for rows in expected().values() for k, *rest in rows)
    assert (tmp_path / "x/JPEGImages/folder 0/one.png").is_file()


def test_archives_of_equal_data_are_equal(split, tmp_path):
    for name in ("a.zip", "b.zip"):
        written(split, tmp_path / name, "cvat", images="copy")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


# ------------------------------------------------------------------------------- Hugging Face, CSV, objects


def test_huggingface(split, tmp_path):
    written(split, tmp_path / "out", "huggingface")
    lines = (tmp_path / "out/val/metadata.jsonl").read_text().splitlines()
    read = {}
    for line in map(json.loads, lines):
        assert (tmp_path / "out/val" / line["file_name"]).is_file()
        assert line["labels"] == [NAMES[k] for k in CONTENT[line["file_name"]][1]]
        objects = line["objects"]
        read[line["file_name"]] = by_text(
            row(k, [x, y, x + w, y + h], score)
            for (x, y, w, h), k, score in zip(
                objects["bbox"], objects["categories"], objects["score"], strict=True
            )
        )
    assert read == expected()


def test_csv(split, tmp_path):
    written(split, tmp_path / "out.csv", "csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    read = {name: [] for name in CONTENT}
    for one in rows:
        assert (one["image_width"], one["image_height"]) == ("40", "30")
        if one["x1"]:
            box = [one[key] for key in ("x1", "y1", "x2", "y2")]
            read[one["image"]].append(row(one["label"], box, float(one["score"])))
    assert {name: by_text(rows) for name, rows in read.items()} == expected()
    empty = {one["image"]: one["label"] for one in rows if not one["x1"]}
    assert empty == {"empty.png": "", "label only.png": NAMES[2]}


def test_supervision_objects(split):
    pytest.importorskip("supervision")
    found = to_detections(split)
    assert [len(one) for one in found] == [1, 2, 0, 0, 2]
    assert found[1].xyxy.tolist() == [[0, 0, 40, 30], [1.125, 2, 10, 12]]
    assert found[1].confidence.tolist() == [0.5, 0.25]
    assert found[1].class_id.tolist() == [1, 2]
    assert found[1].data["class_name"].tolist() == NAMES[1:]


def test_ground_truth_has_no_confidence(tmp_path):
    pytest.importorskip("supervision")
    assert to_detections(plain_split(tmp_path, scored=False))[0].confidence is None


# -------------------------------------------------------------------------------- images, sizes, names


@pytest.mark.parametrize("to", TREES)
def test_images_are_linked_copied_or_left_alone(split, tmp_path, to):
    source = (tmp_path / "in/one.png").stat().st_ino
    for choice in ("link", "copy", "none"):
        out = tmp_path / choice
        written(split, out, to, images=None if choice == "link" else choice)
        found = list(out.rglob("one.png"))
        assert len(found) == (choice != "none")
        assert all((path.stat().st_ino == source) == (choice == "link") for path in found)
        assert not any(path.is_symlink() for path in out.rglob("*"))


def test_yolo_labels_alone_are_those_of_images_that_are_put_beside_them(split, tmp_path):
    done = written(split, tmp_path / "out", "yolo", images="none")
    assert f"put them into images/val in {tmp_path / 'out'}" in done.notes[-1]
    assert all(name == "data.yaml" or name.startswith("labels/val/") for name in files(tmp_path / "out"))
    shutil.copytree(tmp_path / "in", tmp_path / "out/images/val")
    found = open_splits(str(tmp_path / "out"))[0]
    assert list(found.class_names) == list(split.class_names)
    given = {example.id: example for example in split}
    assert {example.id for example in found} == set(given)
    for example in found:
        np.testing.assert_allclose(example.boxes, given[example.id].boxes, atol=1e-3)
        assert (example.box_labels is None) or len(example.boxes) == len(given[example.id].boxes)


def test_images_that_cannot_be_linked_are_copied_with_a_note(split, tmp_path, monkeypatch):
    def refuse(*names, **options):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    done = written(split, tmp_path / "out", "coco")
    assert len(files(tmp_path / "out/images")) == 5
    assert any("5 images (0.0 MB) were copied" in note for note in done.notes)


def test_images_of_an_archive_are_copied(split, tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in ("cat/a.png", "dog/b.png"):
            archive.write(tmp_path / "in/one.png", name)
    assert main(["data", "convert", str(tmp_path / "in.zip"), str(tmp_path / "out"), "--to", "coco"]) == 0
    copy = tmp_path / "out/images/all/dog/b.png"
    assert copy.read_bytes() == (tmp_path / "in/one.png").read_bytes()


def test_images_that_are_no_files_become_png(tmp_path):
    split = glyphs("test", 3)
    written(split, tmp_path / "out", "coco")
    content = json.loads((tmp_path / f"out/annotations/instances_{split.name}.json").read_text())
    for image, example in zip(content["images"], split, strict=True):
        path = tmp_path / f"out/images/{split.name}" / image["file_name"]
        assert path.suffix == ".png"
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(split.open_image(example)))


@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_flat_layouts_have_unique_names(tmp_path, to):
    content = dict.fromkeys(("a/x.png", "a_x.png", "a/x.jpg", "b/y.png"), CONTENT["one.png"])
    split = plain_split(tmp_path / "in", content=content)
    done = written(split, tmp_path / "out", to)
    folder = tmp_path / ("out/images/val" if to == "yolo" else "out/JPEGImages")
    names = files(folder)
    assert len(names) == 4 == len({Path(name).stem for name in names})
    assert {"a_x.png", "b_y.png"} <= set(names)
    assert any("other names in this format: a/x.png is a_x.png" in note for note in done.notes)
    labels = files(tmp_path / ("out/labels/val" if to == "yolo" else "out/Annotations"))
    assert sorted(Path(name).stem for name in labels) == sorted(Path(name).stem for name in names)


def test_an_image_without_ending_gets_one(tmp_path):
    split = plain_split(tmp_path / "in", content={"a.png": CONTENT["one.png"]})
    (tmp_path / "in/a.png").rename(tmp_path / "in/scan.17")
    split = dataclasses.replace(split, examples=[dataclasses.replace(split.examples[0], id="scan.17")])
    written(split, tmp_path / "out", "yolo")
    assert files(tmp_path / "out") == ["data.yaml", "images/val/scan.17.png", "labels/val/scan.17.txt"]


@pytest.mark.parametrize("to", TREES)
def test_names_with_characters_that_readers_do_not_keep(tmp_path, to):
    names = ("back\\slash.png", "line\nbreak.png", "line_break.png")
    split = plain_split(tmp_path / "in", content=dict.fromkeys(names, CONTENT["one.png"]))
    done = written(split, tmp_path / "out", to)
    assert (done.images, done.problems) == (3, [])
    (again,) = open_splits(str(tmp_path / "out"))
    assert {example.id.rpartition("/")[2] for example in again} == {
        "back_slash.png", "line_break.png", "line_break-2.png",
    }  # fmt: skip
    assert all(len(example.boxes) for example in again)


@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_long_names_of_flat_layouts_are_shortened(tmp_path, to):
    names = ("a folder/" + "x" * 250 + ".png", "a folder/" + "x" * 249 + "y.png", "ä/" + "ü" * 124 + ".png")
    split = plain_split(tmp_path / "in", content=dict.fromkeys(names, CONTENT["one.png"]))
    done = written(split, tmp_path / "out", to)
    assert (done.images, done.problems) == (3, [])
    (again,) = open_splits(str(tmp_path / "out"))
    assert len(again) == 3
    assert all(len(example.boxes) for example in again)


def test_a_backslash_where_images_keep_their_names(tmp_path):
    content = dict.fromkeys(("back\\slash.png", "b.png"), CONTENT["one.png"])
    done = written(plain_split(tmp_path / "in", content=content), tmp_path / "o.csv", "csv")
    assert done.images == 1
    (problem,) = done.problems
    assert (
        problem
        == "back\\slash.png: its name has a backslash, which annotation files have between folders; rename it"
    )


@pytest.mark.parametrize("name", ["a.jfif", "a.JPE"])
def test_unusual_endings_become_usual(tmp_path, name):
    split = plain_split(tmp_path / "in", content={"a.png": CONTENT["one.png"]})
    Image.open(tmp_path / "in/a.png").convert("RGB").save(tmp_path / "in" / name, "JPEG")
    split = dataclasses.replace(split, examples=[dataclasses.replace(split.examples[0], id=name)])
    written(split, tmp_path / "out", "yolo")
    assert files(tmp_path / "out") == ["data.yaml", "images/val/a.jpg", "labels/val/a.txt"]


def turned_photograph(path):
    """A file of 30 x 40 pixels whose EXIF turns it to 40 x 30."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path.parent.mkdir(parents=True)
    Image.new("RGB", (30, 40)).save(path, exif=exif)


def test_sizes_are_those_of_the_upright_file(tmp_path):
    turned_photograph(tmp_path / "in/a.jpg")
    images = TreeImages(FolderTree(tmp_path / "in"))
    for size, box in (((40, 30), [4, 3, 20, 15]), ((80, 60), [8, 6, 40, 30]), ((0, 0), [4, 3, 20, 15])):
        split = Split("s", [Example("a.jpg", 0, size, np.array([box], float))], ["x"], images)
        done = written(split, tmp_path / f"{size[0]}.json", "coco")
        content = json.loads((tmp_path / f"{size[0]}.json").read_text())
        assert (content["images"][0]["width"], content["images"][0]["height"]) == (40, 30)
        assert content["annotations"][0]["bbox"] == [4, 3, 16, 12]
        assert any("scaled" in note for note in done.notes) == (size == (80, 60))


def test_listed_sizes_do_where_images_are_neither_there_nor_needed(split, tmp_path):
    (tmp_path / "in/one.png").unlink()
    (tmp_path / "in/empty.png").write_bytes(b"damaged")
    assert written(split, tmp_path / "out.json", "coco").images == 5
    done = written(split, tmp_path / "out", "coco")
    assert done.images == 3
    assert [("one.png" in p, "empty.png" in p) for p in done.problems] == [(True, False), (False, True)]
    content = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())
    assert len(content["images"]) == 3


# --------------------------------------------------------------------------------------------- class names


def test_splits_get_one_list_of_classes(tmp_path):
    a, b = plain_split(tmp_path / "a", name="train"), plain_split(tmp_path / "b", name="val")
    b = dataclasses.replace(
        b, class_names=[NAMES[2], "bird", NAMES[0]]
    )  # so box classes 0, 1, 2 are other ones
    write_splits([a, b], tmp_path / "out", "coco")
    read = {}
    for name in ("train", "val"):
        content = json.loads((tmp_path / f"out/annotations/instances_{name}.json").read_text())
        names = {one["id"]: one["name"] for one in content["categories"]}
        assert list(names.values()) == [*NAMES, "bird"]
        read[name] = [names[one["category_id"]] for one in content["annotations"]]
        ids = next(one["category_ids"] for one in content["images"] if "category_ids" in one)
        read[f"{name} labels"] = [names[one] for one in ids]
    classes = [box[0] for boxes, _ in CONTENT.values() for box in boxes]
    assert read["train"] == [NAMES[k] for k in classes]
    assert read["val"] == [b.class_names[k] for k in classes]
    assert (read["train labels"], read["val labels"]) == ([NAMES[2]], [NAMES[0]])


def test_equal_and_missing_names_become_unique(tmp_path):
    split = plain_split(tmp_path / "in")
    done = written(dataclasses.replace(split, class_names=["crane", " crane "]), tmp_path / "a.json", "coco")
    content = json.loads((tmp_path / "a.json").read_text())
    assert [one["name"] for one in content["categories"]] == ["crane (0)", "crane (1)", "2"]
    assert any("several classes are named 'crane'" in note for note in done.notes)
    assert any("1 classes have no name" in note for note in done.notes)


# ----------------------------------------------------------------------------------- outputs, bad requests


@pytest.mark.parametrize(
    ("to", "name"), [(to, "out") for to in TREES] + [("cvat", "out.zip"), ("csv", "o.csv")]
)
def test_an_existing_output_is_kept_unless_told(split, tmp_path, to, name):
    out = tmp_path / name
    written(split, out, to)
    before = {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]}
    with pytest.raises(InputError, match="exists; choose another output or pass --overwrite"):
        written(split, out, to)
    assert before == {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]}
    if out.is_dir():
        (out / "thesis.txt").write_text("mine")
    done = written(split, out, to, overwrite=True)
    assert any("also contains 1 other files, such as thesis.txt" in n for n in done.notes) == out.is_dir()
    assert not list(tmp_path.glob(".*.tmp"))
    assert not list(out.rglob(".*.tmp"))


def test_the_data_set_itself_is_not_written_into(split, tmp_path):
    for out in (tmp_path / "in", tmp_path):
        with pytest.raises(InputError, match="contains the data set that is to be written"):
            written(split, out, "huggingface", overwrite=True)
    assert files(tmp_path / "in") == sorted(CONTENT)


def test_overwriting_links_leaves_the_originals_alone(split, tmp_path):
    before = (tmp_path / "in/one.png").read_bytes()
    written(split, tmp_path / "out", "coco")
    other = plain_split(tmp_path / "other", content={"one.png": CONTENT["one.png"]})
    Image.new("RGB", (40, 30)).save(tmp_path / "other/one.png")
    for images in ("copy", "link"):
        written(other, tmp_path / "out", "coco", overwrite=True, images=images)
        assert (tmp_path / "out/images/val/one.png").read_bytes() != before
    assert (tmp_path / "in/one.png").read_bytes() == before


@pytest.mark.parametrize("to", [*TREES, "cvat"])
def test_a_failure_leaves_nothing(split, tmp_path, to, monkeypatch):
    before = files(tmp_path)
    failing = dataclasses.replace(WRITERS[to], write=_failing)
    monkeypatch.setattr("heatbox.data.write.WRITERS", {**WRITERS, to: failing})
    with pytest.raises(InputError, match="No space left"):
        written(split, tmp_path / "out.zip", to)
    assert files(tmp_path) == before
    assert not (tmp_path / "out.zip").exists()


def _failing(splits, output, options):
    output.write("a.txt", "x")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("key", ["../x.png", "/x.png", "a/../../x.png", "a\\..\\x.png", "x\0.png"])
@pytest.mark.parametrize("to", [*TREES, "cvat", "csv"])
def test_ids_do_not_lead_out(tmp_path, key, to):
    split = Split("s", [Example(key, 0, (4, 4))], ["x"], glyphs("test", 1).open_image)
    out = tmp_path / {"cvat": "o.zip", "csv": "o.csv"}.get(to, "o")
    with pytest.raises(InputError, match="leads out of the folder"):
        written(split, out, to)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../up", "a/b", "..", ".", "", "c:d", "n\0"])
def test_names_of_splits_are_names_of_folders(tmp_path, name):
    split = plain_split(tmp_path / "in", name=name)
    write_splits([split, dataclasses.replace(split)], tmp_path / "out", "coco")
    assert len(files(tmp_path / "out/annotations")) == 2
    assert all(path.startswith("out/") or path.startswith("in/") for path in files(tmp_path))


@pytest.mark.parametrize(
    ("to", "name", "cvat_format", "message"),
    [
        ("voc", "out", None, "which XML cannot hold"),
        ("cvat", "o.zip", "CVAT 1.1", "which XML cannot hold"),
        ("cvat", "o.zip", "YOLO 1.1", "a line break, which obj.names cannot hold"),
        ("cvat", "o.zip", "PASCAL VOC 1.1", "XML cannot hold"),
    ],
)
def test_names_that_a_format_cannot_hold(tmp_path, to, name, cvat_format, message):
    bad = "a\nb" if cvat_format == "YOLO 1.1" else "a\x00b"
    split = dataclasses.replace(plain_split(tmp_path / "in"), class_names=[bad, bad + "1", bad + "2"])
    options = {"cvat_format": cvat_format} if cvat_format else {}
    with pytest.raises(InputError, match=message):
        written(split, tmp_path / name, to, **options)
    assert not (tmp_path / name).exists()


def test_labelmap_cannot_hold_a_colon(split, tmp_path):
    with pytest.raises(InputError, match=r"'Käfer: 3\\'5'|Käfer.* contains a sign"):
        written(split, tmp_path / "o.zip", "cvat", cvat_format="PASCAL VOC 1.1")


@pytest.mark.parametrize(
    ("to", "name", "options", "message"),
    [
        ("csv", "out", {}, r"out: csv is written to a file, expected a name that ends in \.csv"),
        ("cvat", "out", {}, r"expected a name that ends in \.zip"),
        ("coco-results", "out", {}, r"expected a name that ends in \.json"),
        ("cvat", "o.zip", {"images": "link"}, "an archive cannot link images, expected copy or none"),
        ("coco", "o.json", {"images": "copy"}, r"a \.json file holds no images, expected none"),
        ("xml", "out", {}, "format is 'xml', expected one of coco, "),
    ],
)
def test_requests_that_cannot_be_met(split, tmp_path, to, name, options, message):
    with pytest.raises(InputError, match=message):
        written(split, tmp_path / name, to, **options)
    assert files(tmp_path) == [f"in/{name}" for name in sorted(CONTENT)]


def test_a_file_for_a_folder_and_the_other_way_round(split, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        written(split, tmp_path / "out", "voc", overwrite=True)
    (tmp_path / "o.csv").mkdir()
    with pytest.raises(InputError, match="is a folder, expected a file"):
        written(split, tmp_path / "o.csv", "csv", overwrite=True)


def test_one_file_holds_one_split(tmp_path):
    splits = [plain_split(tmp_path / name, name=name) for name in ("train", "val")]
    with pytest.raises(InputError, match="a file holds one split, not train, val; name one as PATH:SPLIT"):
        write_splits(splits, tmp_path / "o.json", "coco")


def test_boxes_of_no_class_are_refused(tmp_path):
    split = plain_split(tmp_path / "in", content={"one.png": CONTENT["one.png"]})
    nameless = dataclasses.replace(split.examples[0], label=-1, labels=(), box_labels=None)
    with pytest.raises(InputError, match=r"'one\.png' has boxes of no class"):
        written(dataclasses.replace(split, examples=[nameless]), tmp_path / "o.json", "coco")


def test_a_split_without_images(tmp_path):
    split = plain_split(tmp_path / "in")
    with pytest.raises(InputError, match="val: has no image"):
        written(dataclasses.replace(split, examples=[]), tmp_path / "out", "yolo")


# -------------------------------------------------------------------------------------------- the command


def test_the_command_writes_and_tells(tmp_path, capsys):
    plain_split(tmp_path / "in/train/cat", content={"a.png": CONTENT["empty.png"]})
    plain_split(tmp_path / "in/val/cat", content={"b.png": CONTENT["empty.png"]})
    plain_split(tmp_path / "in/val/dog", content={"c.png": CONTENT["empty.png"]})
    plain_split(tmp_path / "in/train/dog", content={"d.png": CONTENT["empty.png"]})
    (tmp_path / "in/val/dog/c.png").write_bytes(b"damaged")
    arguments = ["data", "convert", str(tmp_path / "in"), str(tmp_path / "out"), "--to", "huggingface"]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert "left out: " in said
    assert "c.png: not an image in a supported format" in said
    assert f"3 images: {tmp_path / 'out'}" in said
    assert files(tmp_path / "out/val") == ["cat/b.png", "metadata.jsonl"]
    assert main(arguments) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 1
    one = ["data", "convert", f"{tmp_path / 'in'}:train", str(tmp_path / "t.csv"), "--to", "csv"]
    assert main(one) == 0
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("cvat_format", CvatFormat.__args__)
def test_every_format_of_cvat_by_its_name(tmp_path, cvat_format):
    arguments = ["data", "convert", "glyphs:test", str(tmp_path / "g.zip"), "--to", "cvat"]
    assert main([*arguments, "--cvat-format", cvat_format]) == 0
    assert zipfile.ZipFile(tmp_path / "g.zip").testzip() is None


def test_fiftyone_is_named_where_it_is_missing(split, monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(InputError, match=r"to_fiftyone\(\) needs fiftyone: pip install fiftyone"):
        to_fiftyone(split)


# --------------------------------------------------------------------------------- read again by heatbox


@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize(
    ("to", "options", "holds_scores"),
    [
        ("coco", {}, True),
        ("yolo", {"confidence": True}, True),
        ("yolo", {}, False),
        ("voc", {}, True),
        ("cvat", {"images": "copy", "cvat_format": "CVAT 1.1"}, True),
        ("cvat", {"images": "copy", "cvat_format": "COCO 1.0"}, True),
        ("cvat", {"images": "copy", "cvat_format": "YOLO 1.1"}, False),
        ("cvat", {"images": "copy", "cvat_format": "PASCAL VOC 1.1"}, True),
        ("huggingface", {}, True),
        ("labelstudio", {}, True),
    ],
)
def test_what_is_written_is_read_again(tmp_path, to, options, holds_scores, scored):
    split = plain_split(tmp_path / "in", scored=scored)
    out = tmp_path / ("out.zip" if to == "cvat" else "out")
    cvat_format = options.get("cvat_format", "")
    names = dict(zip(NAMES, NAMES, strict=True))
    if cvat_format == "PASCAL VOC 1.1":  # labelmap.txt cannot hold a colon
        names = {name: name.replace(":", "") for name in NAMES}
        split = dataclasses.replace(split, class_names=list(names.values()))
    written(split, out, to, **options)
    (again,) = open_splits(str(out))
    folder = "images/val/" if to == "labelstudio" else ""  # it has one file of tasks for all splits
    assert again.name == {"labelstudio": "tasks", "CVAT 1.1": "all"}.get(cvat_format or to, "val")
    wanted = expected(scored and holds_scores).items()
    assert plain(again) == {
        folder + key: by_text((names[label], *rest) for label, *rest in rows) for key, rows in wanted
    }
    if LABELS not in WRITERS[to].loses(WriteOptions(**options)):
        for example in again:
            labels = CONTENT[example.id.removeprefix(folder)][1]
            assert {again.class_names[k] for k in example.labels} == {NAMES[k] for k in labels}
    opened = {example.id.removeprefix(folder): again.open_image(example) for example in again}
    for example in split:
        assert np.array_equal(np.asarray(split.open_image(example)), np.asarray(opened[example.id]))


def test_a_chain_of_formats_changes_nothing(tmp_path):
    write_splits([plain_split(tmp_path / "in")], tmp_path / "0", "voc")
    for step, to in enumerate(("yolo", "coco", "huggingface", "voc", "yolo"), 1):
        options = ["--confidence"] if to == "yolo" else []
        arguments = ["data", "convert", str(tmp_path / str(step - 1)), str(tmp_path / str(step)), "--to", to]
        assert main([*arguments, *options]) == 0
    (last,) = open_splits(str(tmp_path / "5"))
    assert rounded(plain(last), 5) == rounded(expected(), 5)


def test_an_image_with_a_bad_box_is_left_out_as_a_whole(split, tmp_path, capsys):
    written(split, tmp_path / "a", "coco")
    table = tmp_path / "a/annotations/instances_val.json"
    content = json.loads(table.read_text())
    content["annotations"][1]["bbox"][2] = 400  # of two boxes of an image
    table.write_text(json.dumps(content))
    assert main(["data", "convert", str(tmp_path / "a"), str(tmp_path / "b.csv"), "--to", "csv"]) == 1
    assert "left out: " in capsys.readouterr().err
    assert "two" not in (tmp_path / "b.csv").read_text()


def test_a_table_beside_the_images_is_read_again(split, tmp_path):
    written(split, tmp_path / "in/boxes.csv", "csv")
    (again,) = open_splits(str(tmp_path / "in"))
    assert plain(again) == expected()
    for example in again:
        assert {again.class_names[k] for k in example.labels} == {NAMES[k] for k in CONTENT[example.id][1]}


LETTERS = "ab01 .-_#&<>\"'?=;[]{}!|@~,%ß漢😀"


@pytest.mark.parametrize("seed", range(6))
def test_any_names_that_files_and_classes_can_have(tmp_path, seed):
    """Ids and class names of random characters, read again from each layout that is a folder."""
    rng = np.random.default_rng(seed)

    def word(letters=LETTERS):
        return "".join(rng.choice(list(letters), rng.integers(1, 7))).strip(" .") or "x"

    names = list(dict.fromkeys(word(LETTERS + "\\:/") for _ in range(3)))
    files = {f"{word()}/{word()}.png" if seed % 2 else f"{word()}.png" for _ in range(4)}
    content = {}
    for file in sorted(files):
        x, y = rng.uniform(0, 15, (2, 2)).round(3).tolist()
        box = (min(x), min(y), max(x) + 1, max(y) + 1)
        content[file] = ([(int(rng.integers(len(names))), *box, 0.5)], [])
    for value in content.values():
        value[1].append(value[0][0][0])
    split = dataclasses.replace(plain_split(tmp_path / "in", content=content), class_names=names)
    wanted = sorted(rows for one in plain(split).values() for rows in one)
    for to in TREES:
        written(split, tmp_path / to, to, confidence=True)
        (again,) = open_splits(str(tmp_path / to))
        found = [rows for one in plain(again).values() for rows in one]
        assert rounded({"": found}, 4) == rounded({"": wanted}, 4), to
