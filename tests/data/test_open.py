"""Which layout, folder and split of a data set is opened."""

import shutil
import warnings

import pytest

from heatbox.data.open import open_data_set, open_split, open_training
from heatbox.errors import AssumptionWarning, InputError
from heatbox.labeling.photos import open_photos
from helpers import data_trees as trees

CLASSES = ("cat/a.png", "cat/b.png", "dog/a.png")


def photos(root, *names):
    for name in names:
        trees.write_image(root / name, (8, 8))
    return root


@pytest.mark.parametrize("above", ["birds", "data/birds", "images", "data/images"])
@pytest.mark.parametrize("form", ["folder", "tar", "zip"])
def test_a_folder_alone_is_the_data_set_and_no_class(tmp_path, above, form):
    photos(tmp_path / "in" / above, *CLASSES)
    trees.write(tmp_path / "in/README.txt", "photographs")
    where = tmp_path / "in"
    if form != "folder":
        where = shutil.make_archive(str(tmp_path / "birds"), form, where)
    if above == "images":
        found = open_split(where)
    else:
        with pytest.warns(AssumptionWarning, match=f"folders of '{above}', which is alone: cat, dog"):
            found = open_split(where)
    assert list(found.class_names) == ["cat", "dog"]
    assert [(example.id, example.label) for example in found] == [(n, n.startswith("dog")) for n in CLASSES]
    assert found.open_image(found.examples[0]).size == (8, 8)


@pytest.mark.parametrize("above", ["birds", "data/birds"])
def test_splits_in_a_folder_alone(tmp_path, above):
    for split in ("train", "val"):
        photos(tmp_path / above / split, *CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = open_split(tmp_path)
    assert (found.name, list(found.class_names)) == ("val", ["cat", "dog"])


def test_other_layouts_in_folders_alone(tmp_path):
    inner = tmp_path / "download/version-2"
    photos(inner / "images", "a.png", "b.png")
    trees.write(inner / "labels.csv", "image,label\na.png,cat\nb.png,dog\n")
    assert [example.label for example in open_split(tmp_path)] == [0, 1]
    shutil.rmtree(inner)
    photos(inner / "images", "a.png", "b.png")
    trees.write(inner / "labels/a.txt", "0 .5 .5 .5 .5\n")
    trees.write(inner / "labels/b.txt", "1 .5 .5 .5 .5\n")
    assert open_data_set(tmp_path).layout == "YOLO"


def test_one_class_stays_a_class(tmp_path):
    photos(tmp_path / "one", "cat/a.png", "cat/b.png")
    photos(tmp_path / "deep", "cat/2026/a.png")
    for name in ("one", "deep"):
        assert list(open_split(tmp_path / name).class_names) == ["cat"]


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Test"), ("training_set", "test_set"), ("TRAIN", "VAL"), ("train", "testing")],
)
def test_names_of_splits_in_any_case(tmp_path, train, test):
    for split in (train, test):
        photos(tmp_path / split, *CLASSES)
    assert open_split(tmp_path).name == test
    splits = open_training(str(tmp_path))
    assert (splits.train.name, splits.test.name) == (train, test)


def test_a_split_of_no_known_name_is_named(tmp_path):
    photos(tmp_path / "images", "a.png")
    one = '{"images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}], "annotations": '
    one += '[{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}], "categories": '
    one += '[{"id": 1, "name": "cat"}]}'
    for name in ("first", "second"):
        trees.write(tmp_path / f"{name}.json", one)
    with pytest.warns(AssumptionWarning, match="of its splits first, second, 'first' is read"):
        assert open_split(tmp_path).name == "first"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_split(f"{tmp_path}:second").name == "second"


def test_photographs_of_one_split_of_several(tmp_path):
    for split in ("train", "val"):
        photos(tmp_path / split, *CLASSES)
    with pytest.warns(AssumptionWarning, match=r"of its splits train, val, 'val' is labelled; name another"):
        assert open_photos(str(tmp_path)).name == "val"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_photos(f"{tmp_path}:train").name == "train"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("boxes.csv", b"photo,what\na.png,cat\n", "row 1: 'photo,what' does not name an image column"),
        ("labels.csv", b"image,label\na.png,\xc4pfel\n", "row 2: is not UTF-8 text"),
        ("labels.xlsx", b"PK\x03\x04", "is a spreadsheet, expected it saved as CSV"),
    ],
)
def test_why_a_table_is_not_read(tmp_path, file, content, reason):
    photos(tmp_path, "a.png")
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=f"no data set is recognized, .*{file}.*{reason}"):
        open_split(tmp_path)
    with pytest.raises(InputError, match=reason):  # rather than labels that a network predicts
        open_photos(str(tmp_path))
