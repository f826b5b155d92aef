"""Every layout knows the same names of splits."""

from pathlib import Path

import pytest
from PIL import Image

from heatbox.data.open import open_data_set, open_split, open_training_split

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
