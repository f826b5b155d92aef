"""`heatbox.label`: boxes of images in memory, of paths, and of data sets."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import heatbox
from heatbox.data.glyphs import glyphs
from heatbox.errors import AssumptionWarning, InputError
from heatbox.labeling.photos import listed_photos
from heatbox.models.factory import create_model

SETTINGS = {"size": 64, "device": "cpu", "mean": (0.5,), "std": (0.25,), "interpolation": "bilinear"}


@pytest.fixture(scope="module")
def model():
    return create_model("resnet10_small", checkpoint="pretrained")


@pytest.fixture(scope="module")
def split():
    return glyphs("test", 6)


@pytest.fixture(scope="module")
def expected(model, split):
    """Boxes of a split, the classes of which are its labels."""
    return list(heatbox.label(split, model, **SETTINGS))


def same(found, expected):
    assert [one.size for one in found] == [one.size for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.classes, other.classes)
        assert np.array_equal(one.confidences, other.confidences)


def test_a_split_and_its_results(expected, split):
    for one, example in zip(expected, split, strict=True):
        assert one.labels == example.labels
        assert len(one.boxes) == len(one.classes) == len(one.confidences) == len(one.masks) > 0
        assert (np.diff(one.confidences) <= 0).all()
        rows, columns = (np.flatnonzero(one.masks[0].any(axis)) for axis in (1, 0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * 64 / 224
        assert np.allclose(one.boxes[0], box)


def test_lists_of_images_arrays_and_paths(expected, split, model, tmp_path):
    images = [split.open_image(example) for example in split]
    labels = [example.label for example in split]
    same(list(heatbox.label(images, model, labels=labels, **SETTINGS)), expected)
    same(list(heatbox.label([np.asarray(i) for i in images], model, labels=labels, **SETTINGS)), expected)
    paths = []
    for number, image in enumerate(images):
        paths.append(tmp_path / f"{number}.png")
        image.save(paths[-1])
    same(list(heatbox.label(paths, model, labels=labels, **SETTINGS)), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)


def test_a_dataset(expected, split, model):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [split.open_image(e) for e in split], "label": [e.label for e in split]}
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(split.class_names))}
    data = datasets.Dataset.from_dict(rows, datasets.Features(kinds))
    found = list(heatbox.label(data, model, masks=True, **SETTINGS))
    same(found, expected)
    for one, example in zip(found, split, strict=True):
        detections, coco = one.to_detections(), one.to_coco()
        name = split.class_names[example.label]
        assert set(detections.data["class_name"].tolist()) == {name}
        assert detections.mask.shape == (len(one.boxes), 64, 64)
        kinds = {kind["id"]: kind["name"] for kind in coco["categories"]}
        assert {kinds[row["category_id"]] for row in coco["annotations"]} == {name}
        assert {row.split()[0] for row in one.to_yolo().splitlines()} == {str(example.label)}


def test_a_dataset_without_labels(split, model):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [split.open_image(e) for e in split]}
    data = datasets.Dataset.from_dict(rows, datasets.Features({"image": datasets.Image()}))
    with pytest.warns(AssumptionWarning, match="those that the classifier predicts are used"):
        found = list(heatbox.label(data, model, min_score=0, **SETTINGS))
    images = [split.open_image(e) for e in split]
    with pytest.warns(AssumptionWarning, match="those that the classifier predicts are used"):
        same(found, list(heatbox.label(images, model, min_score=0, **SETTINGS)))


class Rows:
    """The part of `datasets.Dataset` that is used."""

    num_rows, column_names, split = 6, ["image", "label"], None

    def __init__(self, split):
        self.images = [split.open_image(example) for example in split]
        self.labels = [example.label for example in split]
        names = type("ClassLabel", (), {"names": list(split.class_names)})()
        self.features = {"image": None, "label": names}

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        if isinstance(key, str):
            return {"image": self.images, "label": self.labels}[key]
        return {"image": self.images[key], "label": self.labels[key]}


def test_the_interface_of_a_dataset(expected, split, model):
    same(list(heatbox.label(Rows(split), model, **SETTINGS)), expected)


def test_predicted_labels_are_said(split, model):
    images = [split.open_image(example) for example in split]
    with torch.inference_mode():
        pixels = torch.stack([torch.tensor(np.asarray(i)).permute(2, 0, 1) / 255 for i in images])
        predicted = model((pixels - 0.5) / 0.25).argmax(1).tolist()
    with pytest.warns(AssumptionWarning, match="those that the classifier predicts are used"):
        found = list(heatbox.label(images, model, min_score=0, **SETTINGS))
    assert [one.labels for one in found] == [(label,) for label in predicted]


def test_other_forms(expected):
    one = expected[0]
    detections = one.to_detections()
    assert np.allclose(detections.xyxy, one.boxes)
    assert detections.data["class_name"].tolist() == ["disc"] * len(one.boxes)
    coco = one.to_coco()
    assert len(coco["annotations"]) == len(one.boxes)
    assert json.dumps(coco)
    kind, x, y, w, h = map(float, one.to_yolo().splitlines()[0].split())
    x1, y1, x2, y2 = one.boxes[0] / 64
    assert (kind, x, y) == (0, pytest.approx((x1 + x2) / 2), pytest.approx((y1 + y2) / 2))
    assert (w, h) == (pytest.approx(x2 - x1), pytest.approx(y2 - y1))


def test_bad_arguments(model):
    with pytest.raises(InputError, match="there is no setting 'treshold'"):
        next(heatbox.label([Image.new("RGB", (8, 8))], model, treshold=0.3))
    with pytest.raises(InputError, match="there are 1 images, but labels of 2"):
        next(heatbox.label([Image.new("RGB", (8, 8))], model, labels=[1, 2]))
    with pytest.raises(TypeError, match="a list of int"):
        next(heatbox.label([1, 2], model))
    with pytest.raises(InputError, match="no image to label"):
        next(heatbox.label([], model))


def test_labels_as_pandas_has_them():
    images = [Image.new("RGB", (8, 8))] * 4
    split = listed_photos(images, [np.float64(2), np.nan, None, np.array([1, 0])])
    assert [example.labels for example in split] == [(2,), (), (), (0, 1)]
    for wrong in (-1, 1.5, b"cat", ["cat", None]):
        with pytest.raises(
            InputError, match=r"label of image 1 is .*, expected the name or the index of a class"
        ):
            listed_photos(images[:2], [0, wrong])
