"""YOLO's text files, as Ultralytics, Darknet, CVAT, Roboflow and Label Studio arrange them."""

import shutil
import warnings

import numpy as np
import pytest

from heatbox.data.open import open_data_set, open_split
from heatbox.errors import AssumptionWarning, InputError
from heatbox.labeling.photos import open_photos
from helpers import data_trees as trees

YAML = "names:\n  0: buoy\n  1: kite surfer\n"
TO = 2e-4  # pixels: fractions are written with six digits


@pytest.mark.parametrize(
    ("images", "labels", "yaml"),
    [
        ("images/val", "labels/val", f"path: /data/me/sets/shots\nval: images/val\n{YAML}"),
        ("images/val", "labels/val", f"path: .\nval: ./images/val/\n{YAML}"),
        ("valid/images", "valid/labels", "val: ../valid/images\nnc: 2\nnames: ['buoy', 'kite surfer']\n"),
        ("val", "val", f"path: C:\\sets\\shots\nval: val\n{YAML}"),
        ("images/val", "labels/val", "names: [buoy, kite surfer]\nval: [images/val]\n"),
    ],
)
def test_wherever_the_description_says(tmp_path, images, labels, yaml):
    trees.yolo(tmp_path, images, labels)
    trees.write(tmp_path / "data.yaml", yaml)
    data = open_data_set(tmp_path)
    assert (data.layout, data.splits) == ("YOLO", ("val",))
    trees.same_as_shots(data.load("val"), TO)


def test_archive(tmp_path):
    trees.yolo(tmp_path / "in" / "shots")
    shutil.make_archive(str(tmp_path / "shots"), "zip", tmp_path / "in")
    trees.same_as_shots(open_split(str(tmp_path / "shots.zip")), TO)


@pytest.mark.parametrize("prefix", ["./images/val/", "images/val/", "/data/me/images/val/", "images\\val\\"])
def test_lists_of_files(tmp_path, prefix):
    trees.yolo(tmp_path)
    trees.write(tmp_path / "data.yaml", f"path: x\nval: val.txt\n{YAML}")
    trees.write(tmp_path / "val.txt", "".join(f"{prefix}{name}\n" for name in trees.SHOTS))
    trees.same_as_shots(open_split(str(tmp_path)), TO)
    trees.write(tmp_path / "val.txt", f"{prefix}shot 0.jpg\n{prefix}shot 9.jpg\n")
    with pytest.raises(InputError, match=r"val\.txt, row 2: image '.*shot 9\.jpg' is missing"):
        open_split(str(tmp_path))


def test_as_cvat_exports_it(tmp_path):
    trees.yolo(tmp_path, "obj_train_data", "obj_train_data")
    (tmp_path / "data.yaml").unlink()
    trees.write(tmp_path / "obj.names", "buoy\nkite surfer\n")
    trees.write(
        tmp_path / "obj.data",
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
    )
    trees.write(tmp_path / "train.txt", "".join(f"data/obj_train_data/{name}\n" for name in trees.SHOTS))
    data = open_data_set(tmp_path)
    assert data.splits == ("train",)
    trees.same_as_shots(data.load("train"), TO)


@pytest.mark.parametrize(
    ("images", "labels", "listed"),
    [
        ("images", "labels", "classes.txt"),
        ("images", "labels", "labels/classes.txt"),
        ("", "", "classes.txt"),
    ],
)
def test_as_label_studio_and_labelimg_write_it(tmp_path, images, labels, listed):
    trees.yolo(tmp_path, images, labels)
    (tmp_path / "data.yaml").unlink()
    trees.write(tmp_path / listed, "buoy\nkite surfer\n")
    trees.write(tmp_path / "notes.json", '{"categories": [], "info": {}}')
    trees.same_as_shots(open_split(str(tmp_path)), TO)


def test_without_names(tmp_path):
    trees.yolo(tmp_path, "images", "labels")
    (tmp_path / "data.yaml").unlink()
    split = open_split(str(tmp_path))
    assert split.class_names == ()
    assert split.num_classes == 2


def test_the_same_boxes_as_supervision(tmp_path):
    supervision = pytest.importorskip("supervision")
    trees.yolo(tmp_path)
    theirs = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(tmp_path / "images/val"),
        annotations_directory_path=str(tmp_path / "labels/val"),
        data_yaml_path=str(tmp_path / "data.yaml"),
    )
    split = open_split(str(tmp_path))
    assert list(split.class_names) == theirs.classes
    found = {path.rpartition("/")[2]: detections for path, _, detections in theirs}
    for example in split:
        detections = found[example.id.rpartition("/")[2]]
        assert np.allclose(example.boxes, detections.xyxy, atol=1e-3)


@pytest.mark.parametrize(
    ("row", "box", "score"),
    [
        ("1 0.5 0.5 0.2 0.4", [48, 24, 72, 56], None),
        ("1.0 5e-1 0.5 0.2 0.4", [48, 24, 72, 56], None),
        ("1 0.5 0.5 0.2 0.4 0.875", [48, 24, 72, 56], 0.875),
        ("1 0.5 0.5 0.2 0.4 17", [48, 24, 72, 56], None),  # the number of a track
        ("1 0.25 0.25 0.75 0.5 0.5 0.875", [30, 20, 90, 70], None),
        ("1 0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5", [30, 20, 90, 40], None),
        ("1 0.5 0.5 1.0 1.000001", [0, 0, 120, 80], None),
    ],
)
def test_boxes_confidences_and_polygons(tmp_path, row, box, score):
    trees.yolo(tmp_path)
    trees.write(tmp_path / "labels/val/shot 0.txt", row + "\n")
    example = next(e for e in open_split(str(tmp_path)) if e.id.endswith("shot 0.jpg"))
    assert np.allclose(example.boxes, [box])
    assert example.labels == (1,)
    assert (None if example.box_scores is None else example.box_scores.tolist()) == (
        None if score is None else [score]
    )


def test_keypoints_are_no_polygon(tmp_path):
    trees.yolo(tmp_path)
    trees.write(tmp_path / "labels/val/shot 0.txt", "1 0.5 0.5 0.2 0.4 0.1 0.1 2 0.9 0.9 2\n")
    (tmp_path / "data.yaml").write_text((tmp_path / "data.yaml").read_text() + "kpt_shape: [2, 3]\n")
    example = next(e for e in open_split(str(tmp_path)) if e.id.endswith("shot 0.jpg"))
    assert np.allclose(example.boxes, [[48, 24, 72, 56]])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2 0.5 0.5 0.2 0.4", r"shot 0\.txt, row 2: class 2 is out of range, .*data\.yaml names 0 to 1"),
        ("-1 0.5 0.5 0.2 0.4", r"row 2: class -1 is out of range"),
        ("1 0.5 0.5 0.2", r"row 2: '1 0\.5 0\.5 0\.2' is not of the form class x y width height"),
        ("1 0.5 0.5 0.2 0.4 0.3 0.2 0.1", r"row 2: .* is not of the form class x y width height"),
        ("1 0.5 0.5 nan 0.4", r"row 2: .* not finite"),
        ("1 60 40 12 20", r"row 2: .* has positions that are no fractions of the image"),
        ("1 0.5 0.5 1.2 0.4", r"row 2: box .* lies outside its 120 x 80 image"),
        ("1 0.5 0.5 -0.2 0.4", r"row 2: .* has a negative width or height"),
    ],
)
def test_errors_name_file_and_row(tmp_path, row, message):
    trees.yolo(tmp_path)
    trees.write(tmp_path / "labels/val/shot 0.txt", f"1 0.5 0.5 0.2 0.4\n{row}\n")
    with pytest.raises(InputError, match=message):
        open_split(str(tmp_path))
    problems = []
    split = open_split(str(tmp_path), report=problems.append)
    assert (len(split), len(problems)) == (4, 1)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (f"val: images/other\n{YAML}", r"data\.yaml: val is images/other, where no images are"),
        (f"val: images/val\nnc: 3\n{YAML}", r"data\.yaml: nc is 3, but names lists 2 classes"),
        ("val: images/val\nnames: {0: a, 2: b}\n", r"names has 2 classes that are not numbered 0 to 1"),
        ("val: images/val\nnames: [a, a]\n", r"names has class 'a' twice"),
        ("val: images/val\nnames: 3\n", r"names is no list of class names"),
        ("val: images/val\nnames: [a\n", r"data\.yaml: is not YAML"),
        (
            f"train: old/images\nval: new/images\n{YAML}",
            "val and train are different paths, of which only 'images' is there",
        ),
    ],
)
def test_descriptions_that_do_not_fit(tmp_path, yaml, message):
    trees.yolo(tmp_path, "images", "labels")
    if "images/val" in yaml:
        trees.yolo(tmp_path)
    trees.write(tmp_path / "data.yaml", yaml)
    with pytest.raises(InputError, match=message):
        open_split(str(tmp_path))


def test_a_description_alone_says_what_is_missing(tmp_path):
    trees.write(tmp_path / "data.yaml", "path: .\nval: images/val\nnames: {0: kite surfer}\n")
    with pytest.raises(InputError, match=r"data\.yaml: val is images/val, where no images are"):
        open_split(str(tmp_path))


def test_images_without_any_text_file_are_not_an_empty_set(tmp_path):
    trees.yolo(tmp_path)
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(InputError, match=r"no image of split 'val' has a text file, expected .*labels/val/"):
        open_split(str(tmp_path))


def test_class_names_that_yaml_would_change(tmp_path):
    trees.yolo(tmp_path)
    trees.write(tmp_path / "data.yaml", "val: images/val\nnames: [no, 2026-01-01]\n")
    assert open_split(str(tmp_path)).class_names == ["no", "2026-01-01"]


def test_boxes_beside_images_that_nothing_reads_are_named(tmp_path):
    """Without a list of classes: a folder of another name is a class, and photographs have no labels."""
    trees.shots(tmp_path / "data")
    for name in trees.SHOTS:
        trees.write(tmp_path / "data" / f"{name.rpartition('.')[0]}.txt", "0 0.5 0.5 0.2 0.2\n")
    with pytest.warns(AssumptionWarning, match=r"\.txt: looks like boxes of YOLO"):
        assert open_split(str(tmp_path)).class_names == ["data"]
    (tmp_path / "data").rename(tmp_path / "images")
    with pytest.warns(AssumptionWarning, match="looks like boxes of YOLO"):
        assert not open_photos(str(tmp_path)).examples[0].labels
    for path in (tmp_path / "images").glob("*.txt"):
        path.write_text("a photograph of a boat\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_photos(str(tmp_path))
