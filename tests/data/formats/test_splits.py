"""What holds for every layout: names of splits, and images that no annotation lists."""

import json
import re
import warnings
from pathlib import Path

import pytest
from PIL import Image

from heatbox.data.open import open_data_set, open_split, open_training_split
from heatbox.errors import AssumptionWarning

VOC = """<annotation><filename>{0}.jpg</filename>
<size><width>20</width><height>10</height><depth>3</depth></size>
<object><name>cat</name><bndbox><xmin>2</xmin><ymin>1</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object>
</annotation>"""


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def folder(root: Path, split: str) -> None:
    photo(root / split / "cat" / f"{split}.jpg")
    photo(root / split / "dog" / f"{split}.jpg")


def yolo(root: Path, split: str) -> None:
    photo(root / split / "images" / f"{split}.jpg")
    text(root / split / "labels" / f"{split}.txt", "0 .5 .5 .2 .2\n")


def yolo_inner(root: Path, split: str) -> None:
    photo(root / "images" / split / f"{split}.jpg")
    text(root / "labels" / split / f"{split}.txt", "0 .5 .5 .2 .2\n")


def voc(root: Path, split: str) -> None:
    photo(root / "images" / f"{split}.jpg")
    text(root / "annotations" / split / f"{split}.xml", VOC.format(split))


def table(root: Path, split: str) -> None:
    photo(root / "images" / f"{split}.jpg")
    text(root / f"{split}.csv", f"image,label,x1,y1,x2,y2\n{split}.jpg,cat,2,1,9,8\n")


def metadata(root: Path, split: str) -> None:
    photo(root / split / f"{split}.jpg")
    text(root / split / "metadata.csv", f"file_name,label\n{split}.jpg,cat\n")


@pytest.mark.parametrize("layout", [folder, yolo, yolo_inner, voc, table, metadata])
@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("train", "val"),
        ("Training", "Testing"),
        ("train_set", "test_set"),
        ("Training_Set", "val_set"),
    ],
)
def test_splits_are_known_by_their_names_in_any_layout(layout, train, held_out, tmp_path):
    for split in (train, held_out):
        layout(tmp_path, split)
    assert {*open_data_set(tmp_path).splits} == {train, held_out}
    assert open_split(str(tmp_path)).name == held_out
    assert open_training_split(str(tmp_path)).name == train


def test_a_folder_of_images_is_no_class_of_a_split(tmp_path):
    folder(tmp_path, "train")
    photo(tmp_path / "test" / "images" / "a.jpg")
    assert open_data_set(tmp_path).splits == ("train",)


COCO = {
    "images": [{"id": 1, "file_name": "train.jpg", "width": 20, "height": 10}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 1, 7, 7]}],
    "categories": [{"id": 1, "name": "cat"}],
}


def coco(root: Path) -> Path:
    photo(root / "images" / "train.jpg")
    text(root / "annotations.json", json.dumps(COCO))
    return root / "images"


def one_table(root: Path) -> Path:
    table(root, "train")
    return root / "images"


def one_voc(root: Path) -> Path:
    photo(root / "images" / "train.jpg")
    text(root / "annotations" / "train.xml", VOC.format("train"))
    return root / "images"


def classes(root: Path) -> Path:
    photo(root / "cat" / "a.jpg")
    photo(root / "dog" / "b.jpg")
    return root


@pytest.mark.parametrize("layout", [coco, one_table, one_voc, classes])
def test_images_that_no_annotation_lists_are_counted(layout, tmp_path):
    images = layout(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*in no annotation", AssumptionWarning)
        count = len(open_split(str(tmp_path)))
    photo(images / "x.jpg")
    with pytest.warns(AssumptionWarning, match=re.escape("'x.jpg' is in no annotation, and left out")):
        assert len(open_split(str(tmp_path))) == count
    photo(images / "y.jpg")
    with pytest.warns(AssumptionWarning, match=re.escape("2 images ('x.jpg' ...) are in no annotation, and")):
        open_split(str(tmp_path))


def test_images_with_a_problem_are_not_said_to_be_in_no_annotation(tmp_path):
    photo(one_voc(tmp_path) / "x.jpg")
    text(tmp_path / "annotations" / "x.xml", "<annotation><filename>x.jpg</filename>")
    problems: list[str] = []
    with pytest.warns(AssumptionWarning, match="'x.jpg' is in no annotation without a problem, and left out"):
        assert len(open_split(str(tmp_path), report=problems.append)) == 1
    assert len(problems) == 1
