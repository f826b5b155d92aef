"""Written data sets, read by the tools that they are for.

The tools are large and are not installed with the tests; each test is skipped where its tool is missing. To
run them: install heatbox, pytest and one of datumaro, ultralytics, label-studio-sdk, fiftyone and datasets
into an environment of their own, then ``python -m pytest tests/integration``.
"""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from heatbox.data import to_fiftyone, write_splits
from heatbox.data.formats.options import WriteOptions
from helpers.written import CONTENT, HEIGHT, NAMES, WIDTH, expected, plain_split


def by_text(rows):
    return sorted(rows, key=str)


def rounded(content, digits=3):
    return {
        name: by_text((k, *(round(float(value), digits) for value in box), score) for k, *box, score in rows)
        for name, rows in content.items()
    }


@pytest.fixture
def split(tmp_path):
    return plain_split(tmp_path / "in")


# ------------------------------------------------------------------------------------------------ datumaro


HUNDREDTHS = 2  # to which datumaro rounds


def of_datumaro(path, form, with_scores):
    datumaro = pytest.importorskip("datumaro")
    data = datumaro.Dataset.import_from(str(path), form)
    names = [label.name for label in data.categories()[datumaro.AnnotationType.label]]
    read, tags = {}, {}
    for item in data:
        boxes = [one for one in item.annotations if one.type == datumaro.AnnotationType.bbox]
        rows = []
        for one in boxes:
            x, y, w, h = one.get_bbox()
            score = float(one.attributes["score"]) if with_scores else None
            rows.append((names[one.label], x, y, x + w, y + h, score))
        read[item.id] = rows
        tags[item.id] = [
            names[one.label] for one in item.annotations if one.type == datumaro.AnnotationType.label
        ]
    return rounded(read, HUNDREDTHS), tags


def by_stem(content):
    return {name.rpartition(".")[0]: rows for name, rows in content.items()}


def test_datumaro_reads_coco(split, tmp_path):
    write_splits([split], tmp_path / "out", "coco")
    assert of_datumaro(tmp_path / "out", "coco_instances", True)[0] == by_stem(
        rounded(expected(), HUNDREDTHS)
    )


@pytest.mark.parametrize(
    ("cvat_format", "form", "with_scores"),
    [
        ("CVAT 1.1", "cvat", True),
        ("COCO 1.0", "coco_instances", True),
        ("YOLO 1.1", "yolo", False),
        ("PASCAL VOC 1.1", "voc_detection", True),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_datumaro_reads_the_archives_for_cvat(tmp_path, cvat_format, form, with_scores, nested):
    split = plain_split(tmp_path / "in", nested=nested)
    names = dict(zip(NAMES, ("cat", "dog", "bug") if "VOC" in cvat_format else NAMES, strict=True))
    split = dataclasses.replace(split, class_names=list(names.values()))
    options = WriteOptions(cvat_format=cvat_format, images="copy")
    write_splits([split], tmp_path / "out.zip", "cvat", options)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        archive.extractall(tmp_path / "out")
    read, tags = of_datumaro(tmp_path / "out", form, with_scores)
    wanted = {
        name: by_text((names[k], *rest) for k, *rest in rows)
        for name, rows in expected(scores=with_scores).items()
    }
    key = {Path(example.id).name: example.id.rpartition(".")[0] for example in split}
    assert read == {key[name]: rows for name, rows in rounded(wanted, HUNDREDTHS).items()}
    if form == "cvat":
        assert tags[key["label only.png"]] == [NAMES[2]]


# --------------------------------------------------------------------------------------------- Ultralytics


def test_ultralytics_reads_yolo(tmp_path):
    utils = pytest.importorskip("ultralytics.data.utils")
    from ultralytics.data.dataset import YOLODataset

    splits = [plain_split(tmp_path / name, name=name) for name in ("train", "val")]
    write_splits(splits, tmp_path / "out", "yolo")
    data = utils.check_det_dataset(str(tmp_path / "out/data.yaml"))
    assert list(data["names"].values()) == NAMES
    for name in ("train", "val"):
        found = YOLODataset(img_path=data[name], data=data, task="detect", augment=False)
        assert len(found.labels) == len(CONTENT)
        read = {}
        for one in found.labels:
            assert one["shape"] == (HEIGHT, WIDTH)
            centre, half = one["bboxes"][:, :2], one["bboxes"][:, 2:] / 2
            boxes = np.concatenate([centre - half, centre + half], axis=1) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
            classes = one["cls"][:, 0].astype(int)
            read[Path(one["im_file"]).name] = [
                (NAMES[k], *box, None) for k, box in zip(classes, boxes.tolist(), strict=True)
            ]
        assert rounded(read) == rounded(expected(scores=False))


def test_ultralytics_accepts_a_single_split(tmp_path):
    utils = pytest.importorskip("ultralytics.data.utils")
    write_splits([plain_split(tmp_path / "in", name="all")], tmp_path / "out", "yolo")
    data = utils.check_det_dataset(str(tmp_path / "out/data.yaml"))
    assert data["train"] == str(tmp_path / "out/images/all")
    assert data["val"] is None


# -------------------------------------------------------------------------------------------- Label Studio


def test_label_studio_accepts_the_predictions(split, tmp_path):
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    write_splits([split], tmp_path / "out", "labelstudio")
    config = interface.LabelInterface((tmp_path / "out/labeling-config.xml").read_text())
    config.validate()
    assert config.get_tag("label").labels == NAMES
    for task in json.loads((tmp_path / "out/tasks.json").read_text()):
        assert config.validate_task({"data": task["data"]})
        assert not config.validate_prediction(task["predictions"][0], return_errors=True)


def test_the_converter_of_label_studio_reads_the_boxes(split, tmp_path):
    converter = pytest.importorskip("label_studio_sdk.converter")
    options = WriteOptions(annotations=True, image_url="", images="none")
    write_splits([split], tmp_path / "out", "labelstudio", options)
    tasks = json.loads((tmp_path / "out/tasks.json").read_text())
    for number, task in enumerate(tasks):  # which a server adds when it imports them
        task["id"] = number
        task["annotations"][0] |= {"id": number, "completed_by": {"id": 1}}
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    made = converter.Converter(
        str(tmp_path / "out/labeling-config.xml"), str(tmp_path), download_resources=False
    )
    made.convert_to_coco(str(tmp_path / "tasks.json"), str(tmp_path / "coco"), is_dir=False)
    content = json.loads((tmp_path / "coco/result.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    boxes = [
        (names[one["category_id"]], x, y, x + w, y + h, None)
        for one in content["annotations"]
        for x, y, w, h in [one["bbox"]]
    ]
    wanted = [one for rows in rounded(expected(scores=False)).values() for one in rows]
    assert rounded({"": boxes})[""] == by_text(wanted)


# ---------------------------------------------------------------------------------- FiftyOne, Hugging Face


def test_fiftyone_samples(split, tmp_path):
    pytest.importorskip("fiftyone")
    read = {}
    for sample in to_fiftyone(split):
        assert Path(sample.filepath).is_file()
        assert sample.tags == ["val"]
        rows = []
        for one in sample.predictions.detections:
            x, y, w, h = one.bounding_box
            box = np.array([x, y, x + w, y + h]) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
            rows.append((one.label, *box.tolist(), one.confidence))
        read[Path(sample.filepath).name] = rows
        if Path(sample.filepath).name == "label only.png":
            (label,) = sample.predictions_labels.classifications
            assert label.label == NAMES[2]
    assert rounded(read) == rounded(expected())


def test_datasets_reads_the_folder(split, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    write_splits([split], tmp_path / "out", "huggingface")
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "c")
    )
    assert list(found) == ["validation"]
    found = found["validation"].cast_column("image", datasets.Image(decode=False))
    read = {}
    for one in found:
        objects = one["objects"]
        read[Path(one["image"]["path"]).name] = [
            (k, x, y, x + w, y + h, score)
            for (x, y, w, h), k, score in zip(
                objects["bbox"], objects["categories"], objects["score"], strict=True
            )
        ]
    assert rounded(read) == rounded(expected())
