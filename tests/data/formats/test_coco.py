"""COCO's JSON as it is found: names of files, several classes, outlines, labels of images."""

import copy
import json
import shutil

import numpy as np
import pytest

from heatbox.data.formats.segments import polygon_mask, rle_counts, rle_mask, segment_box
from heatbox.data.open import open_data_set, open_split
from heatbox.errors import InputError
from helpers import data_trees as trees


def build(root, images="images", prefix="", file="result.json", change=None):
    trees.shots(root / images)
    content = trees.coco_shots(prefix)
    if change:
        change(content)
    trees.write(root / file, json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("images", "prefix", "file"),
    [
        ("images", "", "result.json"),
        ("images", "images/", "result.json"),
        ("images", "images\\", "result.json"),
        ("images", "./images/", "result.json"),
        ("images", "../../label-studio/media/upload/1/", "result.json"),
        ("images", "/data/me/pictures/", "result.json"),
        ("images", "C:\\pictures\\", "result.json"),
        ("images", "/data/upload/1/0123abcd-", "result.json"),
        ("images", "http://localhost:8080/data/upload/1/0123abcd-", "result.json"),
        ("images", "/data/local-files/?d=images/", "result.json"),
        ("train", "", "train/_annotations.coco.json"),
        ("val2017", "", "annotations/instances_val2017.json"),
        ("images/val", "", "annotations/instances_val.json"),
        ("images/default", "", "annotations/instances_default.json"),
        ("data", "", "labels.json"),
        ("data", "data/", "labels.json"),
        ("", "", "labels.json"),
        ("photos", "photos/", "labels.json"),
        ("photos", "", "labels.json"),
        ("images/2026/may", "2026/may/", "labels.json"),
        ("images/2026/may", "", "labels.json"),
    ],
)
def test_names_of_files_as_tools_write_them(tmp_path, images, prefix, file):
    data = open_data_set(build(tmp_path, images, prefix, file))
    assert data.layout == "COCO"
    assert len(data.splits) == 1
    trees.same_as_shots(data.load(data.splits[0]))


def test_escaped_names(tmp_path):
    def change(content):
        for image in content["images"]:
            image["file_name"] = "/data/upload/1/" + image["file_name"].replace(" ", "%20").replace(
                "ö", "%C3%B6"
            )

    trees.same_as_shots(open_split(str(build(tmp_path, change=change))))


def test_archive(tmp_path):
    build(tmp_path / "in", prefix="images/")
    shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "in")
    trees.same_as_shots(open_split(str(tmp_path / "export.zip")))


def test_each_split_has_its_own_file_of_the_same_name(tmp_path):
    build(tmp_path, "train", "", "train/_annotations.coco.json")
    build(tmp_path, "valid", "", "valid/_annotations.coco.json")
    data = open_data_set(tmp_path)
    assert data.splits == ("train", "valid")
    split = data.load("valid")
    trees.same_as_shots(split)
    assert split.open_image.tree.where.endswith("valid")


def test_a_name_of_another_folder_is_not_found_elsewhere(tmp_path):
    """train/a.jpg is missing; val/a.jpg is another image."""
    build(tmp_path, "images/val", "val/")
    trees.write_image(tmp_path / "images/train/b.jpg")
    path = tmp_path / "result.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = "train/shot 0.jpg"
    path.write_text(json.dumps(content))
    split = open_split(str(tmp_path))
    with pytest.raises(InputError, match=r"train/shot 0\.jpg: no such image file"):
        split.open_image(split.examples[0])
    assert split.open_image(split.examples[1]).size == (100, 60)


def test_what_need_not_be_there(tmp_path):
    def change(content):
        for entry in content["annotations"]:
            del entry["iscrowd"], entry["area"]
            entry["image_id"] += 0.0
            entry["category_id"] = str(entry["category_id"])
        for image in content["images"]:
            image["height"] = None

    trees.same_as_shots(open_split(str(build(tmp_path, change=change))))


def test_the_same_objects_as_pycocotools(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    build(tmp_path)
    theirs = coco.COCO(str(tmp_path / "result.json"))
    split = open_split(str(tmp_path))
    names = [theirs.cats[key]["name"] for key in sorted(theirs.cats)]
    assert split.class_names == names
    for image, example in zip(theirs.loadImgs(theirs.getImgIds()), split, strict=True):
        entries = theirs.loadAnns(theirs.getAnnIds(imgIds=image["id"]))
        assert example.id == image["file_name"]
        expected = np.array([entry["bbox"] for entry in entries], dtype=float).reshape(-1, 4)
        assert np.allclose(example.boxes[:, :2], expected[:, :2])
        assert np.allclose(example.boxes[:, 2:] - example.boxes[:, :2], expected[:, 2:])
        kinds = {theirs.cats[entry["category_id"]]["name"] for entry in entries}
        assert {split.class_names[label] for label in example.labels} == kinds


def test_the_same_boxes_as_supervision(tmp_path):
    supervision = pytest.importorskip("supervision")
    build(tmp_path)
    theirs = supervision.DetectionDataset.from_coco(
        images_directory_path=str(tmp_path / "images"), annotations_path=str(tmp_path / "result.json")
    )
    found = {path.rpartition("/")[2]: detections for path, _, detections in theirs}
    for example in open_split(str(tmp_path)):
        assert np.allclose(example.boxes, found[example.id].xyxy)


def test_labels_of_images(tmp_path):
    def change(content):
        for entry in content["annotations"][:3]:
            del entry["bbox"]
        content["annotations"][3]["bbox"] = []

    split = open_split(str(build(tmp_path, change=change)))
    assert [e.labels for e in split] == [(1,), (0, 1), (), (0,)]
    assert [len(e.boxes) for e in split] == [0, 0, 0, 1]


def test_scores_are_kept(tmp_path):
    def change(content):
        for number, entry in enumerate(content["annotations"]):
            entry["score"] = number / 8

    split = open_split(str(build(tmp_path, change=change)))
    found = [None if e.box_scores is None else e.box_scores.tolist() for e in split]
    assert found == [[0], [1 / 8, 2 / 8], None, [3 / 8, 4 / 8]]


STAR = [50.0, 5, 61, 38, 95, 38, 67, 58, 78, 74, 50, 62, 22, 74, 33, 58, 5, 38, 39, 38]


def outlines(content):
    """A star for the first box, run lengths of both kinds for the third image's new object, and a crowd."""
    mask = pytest.importorskip("pycocotools.mask")
    ring = np.zeros((64, 64), np.uint8, order="F")
    ring[10:50, 20:40] = 1
    ring[20:30, 25:35] = 0
    packed = mask.encode(ring)
    flat = ring.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges.tolist(), len(flat)]).tolist()
    plain = {"size": [64, 64], "counts": runs}
    crowd = np.zeros((64, 64), np.uint8, order="F")
    crowd[:15] = 1
    content["annotations"][0]["segmentation"] = [STAR, [0, 0, 4, 0, 4, 4, 0, 4]]
    common = {"image_id": 9, "category_id": 3, "area": 1}
    for number, entry in enumerate(
        (
            {"segmentation": {**packed, "counts": packed["counts"].decode()}, "bbox": [20, 10, 20, 40]},
            {"segmentation": plain},
            {
                "segmentation": {**mask.encode(crowd), "counts": mask.encode(crowd)["counts"].decode()},
                "iscrowd": 1,
            },
        )
    ):
        content["annotations"].append({"id": 90 + number, **common, **entry})


def test_outlines_are_masks_as_pycocotools_has_them(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    build(tmp_path, change=outlines)
    theirs = coco.COCO(str(tmp_path / "result.json"))
    split = open_split(str(tmp_path))
    assert split.open_mask is not None
    entries = theirs.loadAnns(theirs.getAnnIds(imgIds=7))
    star, found = theirs.annToMask(entries[0]), split.open_mask(split.examples[0])
    assert found.shape == (80, 120)
    # The outlines differ by what counts as inside at the border.
    assert (star != found).sum() <= 0.04 * star.sum()
    ring = theirs.annToMask(theirs.loadAnns([90])[0])
    crowd = theirs.annToMask(theirs.loadAnns([92])[0])
    found = split.open_mask(split.examples[2])
    assert np.array_equal(found == 1, ring == 1)
    assert np.array_equal(found == 255, (crowd == 1) & (ring == 0))
    assert split.examples[2].boxes.tolist() == [[20, 10, 40, 50]] * 2  # the second is that of its run lengths
    assert split.open_mask(split.examples[3]).sum() == 19 * 29 + 80 * 40  # without outlines: the boxes


def test_the_pixels_of_a_polygon_are_those_with_their_centre_inside():
    size = (120, 80)
    found = polygon_mask(STAR, size)
    points = np.array(STAR).reshape(-1, 2)
    for y in range(0, 80, 3):
        for x in range(0, 120, 3):
            inside = False
            for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, 0), strict=True):
                if (y1 > y + 0.5) != (y2 > y + 0.5):
                    inside ^= x + 0.5 >= x1 + (y + 0.5 - y1) * (x2 - x1) / (y2 - y1)
            assert found[y, x] == inside, (x, y)
    assert polygon_mask([2, 3, 12, 3, 12, 7, 2, 7], size).sum() == 40
    assert segment_box([[2, 3, 12, 3, 12, 7], [1, 5, 3, 5, 3, 9]], size) == [1, 3, 12, 9]


@pytest.mark.parametrize("seed", range(5))
def test_compressed_run_lengths_are_those_of_pycocotools(seed):
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    wanted = np.asfortranarray(rng.random((37, 53)) < rng.random())
    packed = mask.encode(wanted.astype(np.uint8))
    assert np.array_equal(rle_mask(packed, (53, 37)), wanted)
    assert rle_counts(packed["counts"].decode()).sum() == wanted.size


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ({"size": [10**6, 10**6], "counts": [10**12]}, "1000000 x 1000000 pixels for an image of 64 x 64"),
        ({"size": [64, 64], "counts": [10**12]}, "negative, or longer than the mask"),
        ({"size": [64, 64], "counts": [100, -100, 4096]}, "negative, or longer than the mask"),
        ({"size": [64, 64], "counts": [5]}, "sum to 5, not to 4096"),
        ({"size": [64, 64], "counts": [4095.5, 0.5]}, "sum to 4095"),
        ({"size": [64, 64], "counts": "~~~~"}, "not a compressed string"),
        ({"size": [64, 64], "counts": "oooooooooooooo0"}, "too large"),
        ([[1, 2, 3]], "three or more"),
        ([[1, 2, 3, 4, 5, float("inf")]], "finite"),
    ],
)
def test_hostile_outlines_are_refused(tmp_path, segment, message):
    def change(content):
        entry = {"id": 9, "image_id": 9, "category_id": 3, "bbox": [0, 0, 9, 9], "segmentation": segment}
        content["annotations"].append(entry)

    split = open_split(str(build(tmp_path, change=change)))
    with pytest.raises(InputError, match=rf"annotation 5: its segmentation is invalid \(.*{message}"):
        split.open_mask(split.examples[2])


def test_an_outline_for_an_image_of_hostile_size(tmp_path):
    def change(content):
        content["images"][2] |= {"width": 2**31 - 1, "height": 2**31 - 1}
        content["annotations"][0]["segmentation"] = [STAR]

    split = open_split(str(build(tmp_path, change=change)))
    with pytest.raises(InputError, match=r"image 2: has a mask of 2147483647 x 2147483647 pixels"):
        split.open_mask(split.examples[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][1].update(bbox=[1, 2, 3]), "annotation 1: expected image_id"),
        (
            lambda c: c["annotations"][1].update(bbox=[90, 1, 12, 9]),
            "annotation 1: box .* outside its 100 x 60",
        ),
        (lambda c: c["annotations"][1].update(category_id=77), "annotation 1: its image_id or category_id"),
        (
            lambda c: c["images"][1].update(file_name="../../etc/passwd"),
            "image 1: .* leads out of the image folder",
        ),
        (
            lambda c: c["images"][1].update(file_name="shot 0.jpg"),
            "image 1: image 'shot 0.jpg' .* listed twice",
        ),
        (lambda c: c["images"][1].update(file_name="./shot 0.jpg"), "image 1: .* is another image's file"),
    ],
)
def test_errors_name_the_entry(tmp_path, change, message):
    with pytest.raises(InputError, match=rf"result\.json, {message}"):
        open_split(str(build(tmp_path, change=change)))


def test_an_overshoot_of_a_pixel_is_clipped_and_more_is_not(tmp_path):
    def change(content):
        content["annotations"][4]["bbox"] = [40, 40, 81, 41]

    split = open_split(str(build(tmp_path, change=change)))
    assert split.examples[3].boxes[1].tolist() == [40, 40, 120, 80]


def test_folders_that_are_classes_stay_classes(tmp_path):
    """As before: boxes of one category, such as "object", in folders of classes."""
    trees.classes(tmp_path)
    content = json.loads(trees.coco_json(["cat/cat 0.png"], [(0, 0, [1, 2, 10, 20])], ("object", "unused")))
    trees.write(tmp_path / "boxes.json", json.dumps(content))
    data = open_data_set(tmp_path)
    assert data.layout == "folder of classes"
    assert data.load("all").examples[0].boxes.tolist() == [[1, 2, 11, 22]]


def test_the_json_is_not_changed_by_reading(tmp_path):
    before = copy.deepcopy(trees.coco_shots())
    build(tmp_path)
    open_split(str(tmp_path))
    assert trees.coco_shots() == before


def test_a_category_that_is_listed_twice(tmp_path):
    """As Roboflow writes a project of one class: its parent has the same name."""

    def change(content):
        content["categories"] = [{"id": 0, "name": "bird"}, {"id": 1, "name": "bird"}]
        for annotation in content["annotations"]:
            annotation["category_id"] = 1

    split = open_split(build(tmp_path, change=change))
    assert list(split.class_names) == ["bird"]
    assert {label for example in split for label in example.labels} == {0}


def test_a_number_of_two_categories(tmp_path):
    def change(content):
        content["categories"].append({"id": content["categories"][0]["id"], "name": "other"})

    with pytest.raises(InputError, match=r"category id \d+ is '\w+' and 'other'"):
        open_split(build(tmp_path, change=change))


def test_fractions_in_place_of_pixels(tmp_path):
    def change(content):
        for annotation in content["annotations"]:
            annotation["bbox"] = [0.125, 0.25, 0.5, 0.5]
            annotation.pop("segmentation", None)

    with pytest.raises(InputError, match="are fractions of the image, expected pixels"):
        open_split(build(tmp_path, change=change))
    shutil.move(tmp_path / "images", tmp_path / "cat")  # beside folders of classes
    with pytest.raises(InputError, match="are fractions of the image, expected pixels"):
        open_split(tmp_path)
