"""Pascal VOC's XML as data sets, as the devkit and as tools write them."""

import shutil
import warnings

import numpy as np
import pytest

from heatbox.data.formats.xml import parse_xml
from heatbox.data.open import open_data_set, open_split
from heatbox.errors import InputError
from helpers import data_trees as trees

NAMES = {name.rpartition(".")[0]: name for name in trees.SHOTS}


@pytest.mark.parametrize(
    ("images", "xml"),
    [
        ("JPEGImages", "Annotations"),
        ("images", "annotations/xmls"),
        ("", "Annotations"),
        ("", ""),
        ("train", "train"),
        ("valid/images", "valid/Annotations"),
        ("pictures", "Annotations"),
    ],
)
def test_wherever_tools_put_images_and_xml(tmp_path, images, xml):
    data = open_data_set(trees.voc(tmp_path / "data", images, xml))
    assert data.layout == "Pascal VOC"
    assert len(data.splits) == 1
    trees.same_as_shots(data.load(data.splits[0]))


def test_archive_with_a_folder_around_it(tmp_path):
    trees.voc(tmp_path / "in" / "VOCdevkit" / "VOC2012")
    shutil.make_archive(str(tmp_path / "voc"), "zip", tmp_path / "in")
    trees.same_as_shots(open_split(str(tmp_path / "voc.zip")))


def test_the_same_boxes_as_supervision(tmp_path):
    supervision = pytest.importorskip("supervision")
    trees.voc(tmp_path)
    theirs = supervision.DetectionDataset.from_pascal_voc(
        images_directory_path=str(tmp_path / "JPEGImages"),
        annotations_directory_path=str(tmp_path / "Annotations"),
    )
    split = open_split(str(tmp_path))
    assert len(theirs) == len(split) == 4
    found = {path.rpartition("/")[2]: detections for path, _, detections in theirs}
    for example in split:
        detections = found[example.id]
        assert np.allclose(example.boxes, detections.xyxy)
        kinds = [theirs.classes[number] for number in detections.class_id]
        labels = (
            np.full(len(example.boxes), example.label) if example.box_labels is None else example.box_labels
        )
        assert [split.class_names[label] for label in labels] == kinds


def test_splits_are_the_lists(tmp_path):
    trees.voc(tmp_path)
    sets = tmp_path / "ImageSets/Main"
    trees.write(sets / "train.txt", "shot 0\nshot 3\n")
    trees.write(sets / "val.txt", "größe 1\r\nshot 2\r\n")
    trees.write(sets / "buoy_val.txt", "größe 1  1\nshot 2 -1\n")
    trees.write(sets / "test.txt", "")
    data = open_data_set(tmp_path)
    assert data.splits == ("train", "val")
    assert [e.id for e in data.load("val")] == ["größe 1.jpg", "shot 2.png"]
    assert [e.id for e in data.load("train")] == ["shot 0.jpg", "shot 3.jpg"]
    assert data.load("train").class_names == ["buoy", "kite surfer"]
    trees.write(sets / "val.txt", "größe 1\nnothing\n")
    with pytest.raises(InputError, match=r"val\.txt, row 2: 'nothing' has no .*Annotations/nothing\.xml"):
        data.load("val")
    problems = []
    assert len(data.load("val", problems.append)) == 1
    assert len(problems) == 1


def test_folders_of_splits_and_the_class_order_over_all(tmp_path):
    for split, name in (("train", "shot 3.jpg"), ("valid", "shot 0.jpg")):
        size, objects = trees.SHOTS[name]
        trees.write_image(tmp_path / split / name, size)
        trees.write(tmp_path / split / f"{name[:-4]}.xml", trees.voc_xml(name, size, objects))
    data = open_data_set(tmp_path)
    assert data.splits == ("train", "valid")
    assert [(e.label, len(e.boxes)) for e in data.load("valid")] == [(1, 1)]
    assert data.load("valid").class_names == ["buoy", "kite surfer"]


def test_flags_of_objects_are_kept(tmp_path):
    extra = "<difficult>1</difficult><truncated>0</truncated><occluded>1</occluded>"
    trees.write_image(tmp_path / "JPEGImages/a.jpg")
    trees.write(
        tmp_path / "Annotations/a.xml", trees.voc_xml("a.jpg", (40, 30), [("x", (1, 2, 3, 4))], extra)
    )
    assert open_split(str(tmp_path)).examples[0].box_flags == (("difficult", "occluded"),)


@pytest.mark.parametrize(
    ("boxes", "labelmap", "first", "words"),
    [
        ([(0, 0, 10, 10), (5, 5, 9, 9)], False, [0, 0, 10, 10], "from 0"),
        ([(4, 4, 10, 10), (5, 5, 9, 9)], False, [3, 3, 10, 10], "from 1"),
        ([(4, 4, 10, 10), (5, 5, 9, 9)], True, [4, 4, 10, 10], ""),
    ],
)
def test_where_counting_begins_is_seen_and_said(tmp_path, boxes, labelmap, first, words):
    for index, box in enumerate(boxes):
        trees.write_image(tmp_path / f"JPEGImages/{index}.jpg")
        plain = tuple(box[side] - (side < 2) for side in range(4))
        trees.write(tmp_path / f"Annotations/{index}.xml", trees.voc_xml("", (40, 30), [("x", plain)]))
    if labelmap:
        trees.write(
            tmp_path / "labelmap.txt",
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\nz:1,2,3::\nx:4,5,6::\n",
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        split = open_split(str(tmp_path))
    assert split.examples[0].boxes.tolist() == [first]
    assert [words in str(one.message) for one in caught] == ([True] if words else [])
    assert split.class_names == (["z", "x"] if labelmap else ["x"])


def test_names_in_the_xml_count_where_files_have_others(tmp_path):
    trees.write_image(tmp_path / "JPEGImages/real.png")
    xml = trees.voc_xml("C:\\work\\real.png", (40, 30), [("x", (1, 2, 3, 4))])
    trees.write(tmp_path / "Annotations/0001.xml", xml)
    assert [e.id for e in open_split(str(tmp_path))] == ["real.png"]
    trees.write(tmp_path / "Annotations/0001.xml", xml.replace("C:\\work\\", "../"))
    with pytest.raises(InputError, match=r"0001\.xml: its image '' is missing"):
        open_split(str(tmp_path))


def test_an_image_without_listed_size(tmp_path):
    trees.write_image(tmp_path / "JPEGImages/a.jpg", (50, 20))
    trees.write(tmp_path / "Annotations/a.xml", trees.voc_xml("a.jpg", (0, 0), [("x", (1, 2, 50, 20))]))
    assert open_split(str(tmp_path)).examples[0].size == (50, 20)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<name>buoy</name>", "", r"shot 3\.xml: .*object 1 has no name"),
        ("<ymax>80</ymax>", "<ymax>82</ymax>", r"shot 3\.xml, object 2: box .* lies outside its 120 x 80"),
        ("<ymax>80</ymax>", "", r"shot 3\.xml: .*no bndbox/ymax"),
        ("<ymax>80</ymax>", "<ymax>eighty</ymax>", r"shot 3\.xml: is not an annotation in PASCAL VOC"),
        ("<annotation>", "<!DOCTYPE a><annotation>", r"shot 3\.xml: .* document type declaration"),
        ("</annotation>", "", r"shot 3\.xml: is not an annotation in PASCAL VOC's XML \(no element"),
    ],
)
def test_errors_name_the_file_and_the_object(tmp_path, old, new, message):
    file = trees.voc(tmp_path) / "Annotations/shot 3.xml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        open_split(str(tmp_path))
    problems = []
    split = open_split(str(tmp_path), report=problems.append)
    assert len(problems) == 1
    assert len(split) >= 3


def test_an_overshoot_of_a_pixel_is_clipped(tmp_path):
    file = trees.voc(tmp_path) / "Annotations/shot 3.xml"
    file.write_text(file.read_text().replace("<ymax>80</ymax>", "<ymax>81</ymax>"))
    assert [e.boxes[1].tolist() for e in open_split(str(tmp_path)) if e.id == "shot 3.jpg"] == [
        [40, 40, 120, 80]
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
def test_entities_are_refused_in_every_encoding(encoding):
    bomb = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'
    with pytest.raises(InputError, match="document type declaration"):
        parse_xml(bomb.encode(encoding), "a.xml", "XML")


def test_utf_16_is_read():
    assert (
        parse_xml('<?xml version="1.0" encoding="utf-16"?><a>ü</a>'.encode("utf-16"), "a", "XML").text == "ü"
    )
