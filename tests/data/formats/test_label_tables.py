"""Tables of labels and boxes, beside images in any folders and beside class folders."""

import csv
import io
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from heatbox.data.open import open_data_set, open_split
from heatbox.errors import AssumptionWarning, InputError
from helpers import data_trees as trees

SHOTS = {name: (size, objects) for name, (size, objects) in trees.SHOTS.items()}


def rows_of(header, prefix="", size=True):
    """One row per object; an image without object has an empty row."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(header)
    for name, ((width, height), objects) in trees.SHOTS.items():
        for kind, (x1, y1, x2, y2) in objects or [("", ("", "", "", ""))]:
            cells = {"image": prefix + name, "label": kind, "x1": x1, "y1": y1, "x2": x2, "y2": y2}
            cells |= {
                "image_width": width,
                "image_height": height,
                "xmin": x1,
                "ymin": y1,
                "xmax": x2,
                "ymax": y2,
            }
            cells |= {"filename": prefix + name, "class": kind, "width": width, "height": height}
            if kind:
                cells |= {"x": x1, "y": y1, "w": x2 - x1, "h": y2 - y1}
            table.writerow([cells.get(key, "") for key in header])
    return text.getvalue()


HEADERS = {
    "corners": ["image", "label", "x1", "y1", "x2", "y2", "image_width", "image_height"],
    "no sizes": ["image", "label", "x1", "y1", "x2", "y2"],
    "extents": ["image", "label", "x", "y", "w", "h"],
    "tensorflow": ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"],
    "pandas": ["", "image", "label", "x1", "y1", "x2", "y2"],
}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(
    ("images", "prefix"), [("images", ""), ("", ""), ("pictures", "pictures/"), ("img/a", "C:\\x\\")]
)
def test_boxes_and_labels(tmp_path, header, images, prefix):
    trees.shots(tmp_path / images)
    trees.write(tmp_path / "labels.csv", rows_of(HEADERS[header], prefix))
    data = open_data_set(tmp_path)
    assert (data.layout, data.splits) == ("table of labels", ("all",))
    trees.same_as_shots(data.load("all"))


def test_tabs_and_archives(tmp_path):
    trees.shots(tmp_path / "in/images")
    trees.write(tmp_path / "in/labels.tsv", rows_of(HEADERS["pandas"]).replace(",", "\t"))
    shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "in")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(tmp_path / "in", "around")
    for name in ("in", "set.zip", "set.tar"):
        trees.same_as_shots(open_split(str(tmp_path / name)))


def test_numbers_of_rows_in_a_table_of_tabs(tmp_path):
    trees.write_image(tmp_path / "images/a.jpg")
    trees.write(tmp_path / "labels.tsv", "\timage\tlabel\n0\ta.jpg\tcat\n")
    assert open_split(str(tmp_path)).class_names == ["cat"]


@pytest.mark.parametrize(
    ("table", "labels"),
    [
        ("image,label\na.jpg,cat\nb.jpg,dog\nc.jpg,cat\n", [(0,), (1,), (0,)]),
        ("image,label\na.jpg,cat\na.jpg,dog\nb.jpg,dog\nc.jpg,\n", [(0, 1), (1,), ()]),
        ("image,labels\na.jpg,cat|dog\nb.jpg,dog\nc.jpg,\n", [(0, 1), (1,), ()]),
        ('image,tags\na.jpg,"cat, dog"\nb.jpg,dog\nc.jpg,\n', [(0, 1), (1,), ()]),
        ("file_name;labels\na.jpg;cat,dog\nb.jpg;dog\nc.jpg;\n", [(0, 1), (1,), ()]),
        ("image,cat,dog\na.jpg,1,1\nb.jpg,0,1\nc.jpg,0,0\n", [(0, 1), (1,), ()]),
        ("id,class\na,cat\nb,dog\nc,dog\n", [(0,), (1,), (1,)]),
    ],
)
def test_labels_without_boxes(tmp_path, table, labels):
    for name in "abc":
        trees.write_image(tmp_path / f"images/{name}.jpg")
    trees.write(tmp_path / "train.csv", table)
    split = open_split(str(tmp_path))
    assert split.name == "train"
    assert split.class_names == ["cat", "dog"]
    assert [e.labels for e in split] == labels
    assert [e.label for e in split] == [min(found, default=-1) for found in labels]
    assert all(split.open_image(e).size == (40, 30) for e in split)


def test_integers_are_class_numbers(tmp_path):
    for name in "ab":
        trees.write_image(tmp_path / f"{name}.jpg")
    trees.write(tmp_path / "labels.csv", "image,label\na.jpg,571\nb.jpg,0\n")
    split = open_split(str(tmp_path), num_classes=1000)
    assert [e.label for e in split] == [571, 0]
    assert split.class_names == ()


def test_a_column_of_splits_and_classes_over_all(tmp_path):
    for name in "abc":
        trees.write_image(tmp_path / f"{name}.jpg")
    table = "image,label,split\na.jpg,cat,train\nb.jpg,dog,val\nc.jpg,cat,train\n"
    trees.write(tmp_path / "labels.csv", table)
    data = open_data_set(tmp_path)
    assert data.splits == ("train", "val")
    assert [(e.id, e.label) for e in data.load("val")] == [("b.jpg", 1)]
    trees.write(tmp_path / "labels.csv", table + "a.jpg,dog,val\n")
    with pytest.raises(
        InputError, match=r"row 5: image 'a\.jpg' is in split 'val' here and in 'train' above"
    ):
        data.load("val")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,label\nz.jpg,cat\n", r"labels\.csv, row 2: image 'z\.jpg' is missing"),
        ("image,label\n../z.jpg,cat\n", r"row 2: image '\.\./z\.jpg' leads out"),
        ("image,label,x1,y1,x2,y2\na.jpg,cat,1,2,42,9\n", r"row 2: box .* lies outside its 40 x 30"),
        ("image,label,x1,y1,x2,y2\na.jpg,cat,1,2,,9\n", r"row 2: .* not of the form"),
        (
            "image,label,x1,y1,x2,y2\na.jpg,cat,.1,.2,.3,1\n",
            r"labels\.csv: all values of x1,y1,x2,y2 are fractions",
        ),
        (
            "image,label,x1,y1,x2,y2\na.jpg,,1,2,3,4\na.jpg,cat,,,,\na.jpg,dog,,,,\n",
            "a box without label in an image of 2",
        ),
        ("image,cat,dog\na.jpg,1,0\na.jpg,2,0\n", r"row 3: .* neither 0 nor 1"),
        (
            "image,label\na.jpg,cat\n./a.jpg,cat\nimages/a.jpg,cat\n",
            "row 4: image 'images/a.jpg' is missing|listed under two",
        ),
    ],
)
def test_errors_name_file_and_row(tmp_path, table, message):
    trees.write_image(tmp_path / "images/a.jpg")
    trees.write(tmp_path / "labels.csv", table)
    with pytest.raises(InputError, match=message):
        open_split(str(tmp_path))


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_quoted_cells_with_line_breaks(tmp_path, ends):
    rows = [
        ("image", "the caption,\nof two lines", "label", "x1", "y1", "x2", "y2"),
        ("a.jpg", 'a "cat",\n\n on, a "mat\n"', "cat", "1", "2", "30", "20"),
        ("b.jpg", '5" long, said "\n" nobody', "dog", "3", "4", "9", "8"),
        ("c.jpg", "", "dog", "", "", "", ""),
    ]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=ends).writerows(rows)
    (tmp_path / "labels.csv").write_bytes(text.getvalue().encode())
    for name in "abc":
        trees.write_image(tmp_path / f"{name}.jpg")
    split = open_split(str(tmp_path))
    assert [(e.id, split.class_names[e.label], e.boxes.tolist()) for e in split] == [
        ("a.jpg", "cat", [[1, 2, 30, 20]]), ("b.jpg", "dog", [[3, 4, 9, 8]]), ("c.jpg", "dog", []),
    ]  # fmt: skip


def test_a_quoted_cell_without_an_end(tmp_path):
    for name in "ab":
        trees.write_image(tmp_path / f"{name}.jpg")
    trees.write(tmp_path / "labels.csv", 'image,label\n5" a.jpg,cat\nb.jpg,"dog\na.jpg,cat\n')
    with pytest.raises(InputError, match=r"labels\.csv, row 3: a quoted cell begins here and has no closing"):
        open_split(str(tmp_path))


@pytest.mark.parametrize("around", ["", "val/"])
@pytest.mark.parametrize("table", ["boxes.csv", "boxes.tsv"])
def test_names_as_in_imagenet_do_not_hide_a_table(tmp_path, around, table):
    wnids = ("n01440764", "n03425413")
    for wnid in wnids:
        trees.write_image(tmp_path / around / wnid / f"{wnid}_7.JPEG")
    text = "image,x1,y1,x2,y2\n" + "".join(f"{around}{wnid}/{wnid}_7.JPEG,1,2,30,20\n" for wnid in wnids)
    trees.write(tmp_path / table, text.replace(",", "\t") if table.endswith("tsv") else text)
    data = open_data_set(tmp_path)
    assert (data.layout, data.splits) == ("folder of classes", ("val",) if around else ("all",))
    split = open_split(str(tmp_path))
    assert split.class_names == list(wnids)
    assert [e.boxes.tolist() for e in split] == [[[1, 2, 30, 20]]] * 2


def test_tables_of_the_published_imagenet_change_nothing(tmp_path):
    """Kaggle's archive has CSV files whose columns are others."""
    trees.ilsvrc_train(tmp_path / "ILSVRC/Data/CLS-LOC/train")
    trees.write(
        tmp_path / "LOC_train_solution.csv", "ImageId,PredictionString\nn01440764_1,n01440764 1 2 3 4\n"
    )
    assert open_data_set(tmp_path).layout == "ILSVRC2012"


def test_images_from_training_in_a_folder_for_validation(tmp_path):
    trees.ilsvrc_train(tmp_path / "val")
    data = open_data_set(tmp_path)
    assert (data.layout, data.splits) == ("ILSVRC2012", ("val",))


def test_more_labels_for_images_in_class_folders(tmp_path):
    trees.classes(tmp_path)
    table = "image,label,x1,y1,x2,y2\n" + "".join(
        f"cat/cat 0.png,{rest}\n" for rest in ("cat,1,1,9,9", "dog,,,,", "dog,2,2,9,9")
    )
    trees.write(tmp_path / "labels.csv", table)
    split = open_split(str(tmp_path))
    first = split.examples[0]
    assert (first.label, first.labels, first.box_labels.tolist()) == (0, (0, 1), [0, 1])
    assert [e.labels for e in split] == [(0, 1), (0,), (1,), (1,)]
    trees.write(tmp_path / "labels.csv", "image,label\ncat/cat 0.png,dog\n")
    with pytest.raises(InputError, match=r"row 2: 'cat/cat 0\.png' lies in class 'cat', its labels are dog"):
        open_split(str(tmp_path))


def test_a_name_that_two_folders_have_is_not_guessed(tmp_path):
    for name in ("cat", "dog"):
        trees.write_image(tmp_path / name / "0.png")
    trees.write(tmp_path / "boxes.csv", "image,x1,y1,x2,y2\n0.png,1,2,3,4\n")
    with pytest.raises(InputError, match=r"row 2: image '0\.png' may be 'cat/0\.png' or 'dog/0\.png'"):
        open_split(str(tmp_path))


def test_scores_of_predictions(tmp_path):
    trees.write_image(tmp_path / "a.jpg")
    trees.write(
        tmp_path / "labels.csv",
        "image,label,x1,y1,x2,y2,score\na.jpg,cat,1,2,3,4,0.5\na.jpg,cat,1,2,3,9,0.25\n",
    )
    assert np.array_equal(open_split(str(tmp_path)).examples[0].box_scores, [0.5, 0.25])


@pytest.mark.parametrize("place", ["", "images/", "val/"])
def test_class_folders_of_validation_images_of_imagenet(tmp_path, place):
    """Their names do not make them the published set, whose images lie in one folder."""
    for number, name in enumerate(["bee", "ant", "bee"]):
        path = tmp_path / place / name / f"ILSVRC2012_val_{number + 1:08d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(path)
    data = open_data_set(tmp_path)
    assert data.layout == "folder of classes"
    split = data.load(data.splits[0])
    assert split.class_names == ["ant", "bee"]
    assert [example.label for example in split] == [0, 1, 1]


def test_validation_images_beside_test_images_are_not_sorted_by_class(tmp_path):
    for name in ("val", "test"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 6)).save(tmp_path / name / "ILSVRC2012_val_00000001.JPEG")
    data = open_data_set(tmp_path)
    assert data.layout == "ILSVRC2012"
    with pytest.raises(InputError, match="no class folder, XML or devkit lists the class"):
        data.load("val")


@pytest.mark.parametrize(
    "header",
    [
        "Image Name,Class,x_min,y_min,x_max,y_max",
        "image_path,label,left,top,right,bottom",
        "filepath,category,XMin,YMin,XMax,YMax",
    ],
)
def test_other_names_of_columns(tmp_path, header):
    trees.write_image(tmp_path / "a.png", (8, 8))
    trees.write(tmp_path / "boxes.csv", f"{header}\na.png,cat,1,2,5,6\n")
    assert open_split(tmp_path).examples[0].boxes.tolist() == [[1, 2, 5, 6]]


def test_extents_of_other_names(tmp_path):
    trees.write_image(tmp_path / "a.png", (8, 8))
    for names in ("left,top,width,height", "bbox_x,bbox_y,bbox_width,bbox_height"):
        trees.write(tmp_path / "boxes.csv", f"image,label,{names}\na.png,cat,1,2,4,4\n")
        assert open_split(tmp_path).examples[0].boxes.tolist() == [[1, 2, 5, 6]]


@pytest.mark.parametrize("folder", ["", "cat"])
def test_columns_that_are_not_read_are_named(tmp_path, folder):
    trees.write_image(tmp_path / folder / "a.png", (8, 8))
    trees.write(
        tmp_path / "boxes.csv", "id,image,label,x_center,y_center,width,height\n0,a.png,cat,4,4,2,2\n"
    )
    with pytest.warns(AssumptionWarning, match="not read: x_center, y_center, width, height"):
        assert not len(open_split(tmp_path).examples[0].boxes)


def test_a_table_saved_for_excel(tmp_path):
    trees.write_image(tmp_path / "a.png", (8, 8))
    (tmp_path / "BOXES.CSV").write_bytes(
        "sep=;\r\nimage;label;x1;y1;x2;y2\r\na.png;cat;1;2;5;6\r\n".encode("utf-8-sig")
    )
    assert open_split(tmp_path).examples[0].boxes.tolist() == [[1, 2, 5, 6]]


def test_class_numbers_that_pandas_wrote_as_floats(tmp_path):
    for name in "abc":
        trees.write_image(tmp_path / f"{name}.png", (8, 8))
    trees.write(tmp_path / "labels.csv", "image,label\na.png,10.0\nb.png,2.0\nc.png,\n")
    split = open_split(tmp_path)
    assert [example.labels for example in split] == [(10,), (2,), ()]
    assert not split.class_names
    trees.write(tmp_path / "labels.csv", "image,label\na.png,1.0\nb.png,1.5\nc.png,2.0\n")
    assert list(open_split(tmp_path).class_names) == ["1.0", "1.5", "2.0"]  # no numbers of classes


def test_indicators_that_pandas_wrote(tmp_path):
    for name in "ab":
        trees.write_image(tmp_path / f"{name}.png", (8, 8))
    trees.write(tmp_path / "labels.csv", "image,cat,dog\na.png,True,False\nb.png,True,True\n")
    assert [example.labels for example in open_split(tmp_path)] == [(0,), (0, 1)]
