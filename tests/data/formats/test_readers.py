"""Every layout, as published, is recognized and read; real data sets are read completely."""

import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from heatbox.data.formats import cue_conflict
from heatbox.data.open import open_data_set, open_split
from heatbox.errors import AssumptionWarning, InputError
from helpers import data_trees as trees


def boxes(split):
    return {example.id: example.boxes.tolist() for example in split}


def test_rows_of_the_published_files(tmp_path):
    """The first image of CUB-200-2011 and of ILSVRC2012's validation images, as their makers describe them
    and with the boxes that the reference evaluator's metadata has for them."""
    name = "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"
    trees.write_image(tmp_path / "cub/images" / name, (500, 335))
    trees.write(tmp_path / "cub/images.txt", f"1 {name}\n")
    trees.write(tmp_path / "cub/image_class_labels.txt", "1 1\n")
    trees.write(tmp_path / "cub/train_test_split.txt", "1 0\n")
    trees.write(tmp_path / "cub/bounding_boxes.txt", "1 60.0 27.0 325.0 304.0\n")
    trees.write(tmp_path / "cub/classes.txt", "1 001.Black_footed_Albatross\n")
    assert boxes(open_split(str(tmp_path / "cub"))) == {name: [[60, 27, 385, 331]]}
    name = "ILSVRC2012_val_00000001"
    trees.write_image(tmp_path / "ilsvrc/val" / f"{name}.JPEG", (500, 375))
    trees.write(
        tmp_path / "ilsvrc/bbox" / f"{name}.xml",
        trees.xml(name, "n01751748", (500, 375), [(111, 108, 441, 193)]),
    )
    assert boxes(open_split(str(tmp_path / "ilsvrc"))) == {f"{name}.JPEG": [[111, 108, 441, 193]]}


def test_cub(tmp_path):
    trees.cub(tmp_path / "CUB_200_2011")
    data = open_data_set(tmp_path)
    assert (data.layout, data.splits) == ("CUB-200-2011", ("train", "test"))
    test = data.load("test")
    assert boxes(test) == {trees.CUB_NAMES[0]: [[6, 2, 38, 22]], trees.CUB_NAMES[3]: [[5.5, 6.5, 15.5, 16.5]]}
    assert [(e.label, e.size) for e in test] == [(0, (40, 30)), (1, (40, 30))]
    assert test.class_names == ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    assert test.open_image(test.examples[0]).size == (40, 30)
    assert test.open_mask is None
    assert [e.id for e in data.load("train")] == list(trees.CUB_NAMES[1:3])


def test_cub_has_an_image_once(tmp_path):
    first, again = trees.CUB_NAMES[0], trees.CUB_NAMES[1]
    table = trees.cub(tmp_path) / "images.txt"
    table.write_text(table.read_text().replace(again, first))
    with pytest.raises(InputError, match=rf"images.txt, row 2: image '{first}' is already image 1"):
        open_split(f"{tmp_path}:test")
    problems = []
    assert [e.id for e in open_data_set(tmp_path).load("train", problems.append)] == [trees.CUB_NAMES[2]]
    assert len(problems) == 1


def test_cub_masks_are_what_most_annotators_saw(tmp_path):
    trees.cub(tmp_path)
    trees.cub_segmentations(tmp_path)
    split = open_split(f"{tmp_path}:test")
    mask = split.open_mask(split.examples[0])
    assert mask.shape == (30, 40)
    assert mask.sum() == mask[8:20, 6:30].sum() == 12 * 24


def test_cub_as_downloaded(tmp_path):
    trees.cub(tmp_path / "unpacked" / "CUB_200_2011")
    trees.cub_segmentations(tmp_path / "unpacked")
    (tmp_path / "downloads").mkdir()
    for archive, folder in (("CUB_200_2011.tgz", "CUB_200_2011"), ("segmentations.tgz", "segmentations")):
        with tarfile.open(tmp_path / "downloads" / archive, "w:gz") as tar:
            tar.add(tmp_path / "unpacked" / folder, arcname=folder)
    for path in (tmp_path / "downloads", tmp_path / "downloads" / "CUB_200_2011.tgz"):
        data = open_data_set(path)
        assert (data.layout, len(data.load("train")), len(data.load("test"))) == ("CUB-200-2011", 2, 2)


def test_cubv2_alone_and_within_cub(tmp_path):
    trees.cubv2(trees.cub(tmp_path / "CUB_200_2011") / "CUBV2")
    inside = open_data_set(tmp_path).load("fullsup")
    alone = open_split(str(tmp_path / "CUB_200_2011" / "CUBV2"))
    assert boxes(inside) == boxes(alone)
    assert inside.examples[1].boxes.tolist() == [[10, 10, 50, 20]]
    assert inside.open_image(inside.examples[1]).size == (50, 40)


@pytest.mark.parametrize("labels_from", ["xml", "devkit", "map_clsloc", "folders"])
def test_ilsvrc_val(tmp_path, labels_from):
    trees.ilsvrc_val(tmp_path / "val", folders=labels_from == "folders")
    if labels_from == "xml":
        trees.ilsvrc_xml(tmp_path / "bbox_val")
    if labels_from in ("devkit", "map_clsloc"):
        trees.devkit(tmp_path / "ILSVRC2012_devkit_t12")
    if labels_from == "map_clsloc":
        (tmp_path / "ILSVRC2012_devkit_t12/data/meta.mat").unlink()
        lines = [f"{wnid} {i} a_thing\n" for i, wnid in enumerate(trees.DEVKIT_ORDER, 1)]
        trees.write(tmp_path / "ILSVRC2012_devkit_t12/data/map_clsloc.txt", "".join(lines))
    data = open_data_set(tmp_path)
    assert (data.layout, data.splits) == ("ILSVRC2012", ("val",))
    split = data.load("val")
    by_name = {example.id.rpartition("/")[2]: example for example in split}
    assert [by_name[name].label for name in sorted(by_name)] == list(trees.ILSVRC_CLASSES)
    assert all(split.open_image(example).size == (40, 30) for example in split)
    second = by_name["ILSVRC2012_val_00000002.JPEG"]
    if labels_from == "xml":
        assert second.boxes.tolist() == [[3, 4, 20, 25], [0, 0, 40, 30]]  # one pixel over the edge: clipped
        assert second.size == (40, 30)
    else:
        assert second.boxes.shape == (0, 4)


def test_ilsvrc_as_kaggle_has_it(tmp_path):
    root = tmp_path / "ILSVRC"
    trees.ilsvrc_val(root / "Data/CLS-LOC/val")
    trees.ilsvrc_train(root / "Data/CLS-LOC/train")
    trees.ilsvrc_xml(root / "Annotations/CLS-LOC/val")
    name = f"{trees.WNIDS[0]}_1"
    trees.write(
        root / "Annotations/CLS-LOC/train" / trees.WNIDS[0] / f"{name}.xml", trees.xml(name, trees.WNIDS[0])
    )
    words = "".join(f"{w} name of {w}, other name\n" for w in trees.WNIDS)
    trees.write(tmp_path / "LOC_synset_mapping.txt", words)
    data = open_data_set(tmp_path)
    assert data.splits == ("train", "val")
    train = data.load("train")
    assert [e.label for e in train] == [0, 0, 1, 1, 2, 2]
    assert [len(e.boxes) for e in train] == [1, 0, 0, 0, 0, 0]
    assert train.class_names[1] == f"name of {trees.WNIDS[1]}, other name"
    assert [e.label for e in data.load("val")] == list(trees.ILSVRC_CLASSES)
    assert open_split(str(tmp_path)).name == "val"


def test_ilsvrc_as_downloaded(tmp_path):
    trees.ilsvrc_val(tmp_path / "images")
    trees.ilsvrc_xml(tmp_path / "xml" / "val")
    trees.devkit(tmp_path / "kit" / "ILSVRC2012_devkit_t12")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for archive, mode, folder in (
        ("ILSVRC2012_img_val.tar", "w", "images"),
        ("ILSVRC2012_bbox_val_v3.tgz", "w:gz", "xml"),
        ("ILSVRC2012_devkit_t12.tar.gz", "w:gz", "kit"),
    ):
        with tarfile.open(downloads / archive, mode) as tar:
            for path in sorted((tmp_path / folder).iterdir()):
                tar.add(path, arcname=path.name)
    split = open_split(str(downloads))
    assert [e.label for e in split] == list(trees.ILSVRC_CLASSES)
    assert [len(e.boxes) for e in split] == [1, 2, 1]


def test_ilsvrc_contradictions(tmp_path):
    trees.ilsvrc_val(tmp_path / "val")
    trees.ilsvrc_xml(tmp_path / "bbox_val")
    trees.devkit(tmp_path / "devkit")
    other = trees.xml("ILSVRC2012_val_00000001", trees.WNIDS[0])
    trees.write(tmp_path / "bbox_val" / "ILSVRC2012_val_00000001.xml", other)
    problems = []
    split = open_data_set(tmp_path).load("val", problems.append)
    assert len(split) == 2
    assert len(problems) == 1
    assert "its XML has 'n01440764', the devkit has 'n02084071'" in problems[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<annotation>",
        "<annotation/>",
        '<!DOCTYPE a [<!ENTITY b "c">]><annotation/>',
        trees.xml("a", "n", (0, "x")),
    ],
)
def test_ilsvrc_broken_xml(tmp_path, text):
    trees.ilsvrc_val(tmp_path / "val", folders=True)
    trees.write(tmp_path / "bbox_val" / "ILSVRC2012_val_00000001.xml", text)
    with pytest.raises(InputError, match=r"val_00000001\.xml: is not an annotation"):
        open_split(str(tmp_path))


def test_openimages_masks_with_ignore_regions(tmp_path):
    trees.openimages(tmp_path)
    data = open_data_set(tmp_path)
    assert (data.layout, data.splits) == ("OpenImages30k (masks)", ("test",))
    split = data.load("test")
    assert [e.label for e in split] == [0, 5]
    assert split.open_image(split.examples[0]).size == (40, 30)
    mask = split.open_mask(split.examples[0])
    expected = np.zeros((30, 40), np.uint8)
    expected[:, 15:25] = 255
    expected[5:10, 10:20] = expected[15:20, 10:20] = 1  # an object counts also where it is to be ignored
    assert np.array_equal(mask, expected)
    assert (split.open_mask(split.examples[1]) == 1).sum() == 50


def test_openimages_missing_mask(tmp_path):
    trees.openimages(tmp_path)
    next((tmp_path / "dataset").rglob("*_ignore.png")).unlink()
    split = open_split(str(tmp_path))
    with pytest.raises(InputError, match=r"_ignore\.png: no such mask file"):
        split.open_mask(split.examples[0])


def test_tiny_imagenet(tmp_path):
    trees.tiny(tmp_path / "tiny-imagenet-200")
    data = open_data_set(tmp_path)
    assert (data.layout, data.splits) == ("Tiny-ImageNet", ("train", "val"))
    train, val = data.load("train"), data.load("val")
    assert [e.label for e in train] == [0, 0, 1, 1, 2, 2]
    assert train.examples[0].boxes.tolist() == [[0, 10, 63, 58]]
    assert train.class_names == ["tench, Tinca tinca", "goldfish", trees.WNIDS[2]]
    assert [(e.label, e.boxes.tolist()) for e in val] == [(1, [[0, 32, 44, 62]]), (0, [[52, 55, 57, 59]])]
    assert val.open_image(val.examples[0]).size == (64, 64)


def test_a_turned_photograph_of_ilsvrc(tmp_path):
    trees.ilsvrc_val(tmp_path / "val")
    trees.ilsvrc_xml(tmp_path / "bbox_val")  # of 40 x 30 pixels
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "val/ILSVRC2012_val_00000001.JPEG", exif=exif)
    with pytest.warns(AssumptionWarning, match="EXIF turns 1 images"):
        first, second, _ = open_split(str(tmp_path)).examples
    assert (first.size, first.boxes.tolist()) == ((30, 40), [[5, 3, 26, 20]])
    assert (second.size, second.boxes.tolist()) == ((40, 30), [[3, 4, 20, 25], [0, 0, 40, 30]])


def test_tiny_imagenet_with_a_box_that_overshoots_by_a_pixel(tmp_path):
    trees.tiny(tmp_path)
    table = tmp_path / "val/val_annotations.txt"
    text = table.read_text()
    table.write_text(text.replace("44\t62", "65\t62"))
    assert open_split(f"{tmp_path}:val").examples[0].boxes.tolist() == [[0, 32, 64, 62]]
    table.write_text(text.replace("44\t62", "66\t62"))
    with pytest.raises(InputError, match=r"lies outside its 64 x 64 image"):
        open_split(f"{tmp_path}:val")


def test_tiny_imagenet_zip(tmp_path):
    trees.tiny(tmp_path / "in" / "tiny-imagenet-200")
    shutil.make_archive(str(tmp_path / "tiny"), "zip", tmp_path / "in")
    split = open_split(f"{tmp_path / 'tiny.zip'}:train")
    assert len(split) == 6
    assert split.open_image(split.examples[5]).size == (64, 64)


def test_cue_conflict(tmp_path):
    data = open_data_set(trees.cue_conflict(tmp_path))
    split = data.load("test")
    assert data.layout == "cue-conflict stimuli"
    assert [(e.id, e.label) for e in split] == [
        ("cat/cat1-cat3.png", 0),
        ("cat/cat1-dog2.png", 0),
        ("dog/dog7-cat10.png", 1),
    ]
    assert cue_conflict.shape_and_texture("dog/dog7-cat10.png") == ("dog", "cat")
    with pytest.raises(InputError, match="not of the form SHAPEn-TEXTUREm"):
        cue_conflict.shape_and_texture("dog.png")


@pytest.mark.parametrize("name", ["cat/dog1-cat1.png", "cat/cat1.png", "cat/cat1-sofa2.png"])
def test_cue_conflict_bad_names(tmp_path, name):
    trees.cue_conflict(tmp_path)
    trees.write_image(tmp_path / name)
    problems = []
    assert len(cue_conflict.load_split(open_data_set(tmp_path).tree, "test", problems.append)) == 3
    assert len(problems) == 1


def test_folder_without_boxes(tmp_path):
    trees.classes(tmp_path / "train")
    trees.classes(tmp_path / "test", count=1)
    data = open_data_set(tmp_path)
    assert (data.layout, data.splits) == ("folder of classes", ("train", "test"))
    assert [(e.id, e.label, e.boxes.shape) for e in data.load("test")] == [
        ("cat/cat 0.png", 0, (0, 4)),
        ("dog/dog 0.png", 1, (0, 4)),
    ]


@pytest.mark.parametrize(
    "table",
    [
        "image,x1,y1,x2,y2\ncat/cat 0.png,1,2.5,10,20\ncat/cat 0.png,3,3,4,4\n",
        "\ufefffile;x;y;width;height\r\ncat 0.png;1;2.5;9;17.5\r\ncat 0.png;3;3;1;1\r\n\r\n",
        'Filename\tXMin\tYMin\tXMax\tYMax\n"cat/cat 0.png"\t1\t2.5\t10\t20\n./cat/cat 0.png\t3\t3\t4\t4\n',
    ],
    ids=["commas", "semicolons", "tabs"],
)
def test_folder_with_csv_boxes(tmp_path, table):
    trees.classes(tmp_path)
    trees.write(tmp_path / "boxes.csv", table)
    split = open_split(str(tmp_path))
    assert split.examples[0].boxes.tolist() == [[1, 2.5, 10, 20], [3, 3, 4, 4]]
    assert split.examples[0].size == (40, 30)
    assert len(split.examples[1].boxes) == 0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,left\na,1\n", r"boxes\.csv, row 1: .* does not name an image column"),
        ("image,x1,y1,x2,y2\ncat/cat 0.png,1,2,3\n", r"boxes\.csv, row 2: .* has 4 fields, the header 5"),
        ("image,x1,y1,x2,y2\ncat/cat 0.png,1,2,3,x\n", r"row 2: .* not of the form"),
        (
            "image,x1,y1,x2,y2\n\ncat/cat 0.png,1,2,41.5,9\n",
            r"row 3: box \(1, 2, 41.5, 9\) lies outside its 40 x 30",
        ),
        ("image,x1,y1,x2,y2\ncat/no.png,1,2,4,9\n", r"row 2: image 'cat/no.png' is missing"),
        ("image,x1,y1,x2,y2\n../no.png,1,2,4,9\n", r"row 2: image '\.\./no.png' leads out"),
    ],
)
def test_folder_with_bad_csv(tmp_path, table, message):
    trees.classes(tmp_path)
    trees.write(tmp_path / "boxes.csv", table)
    with pytest.raises(InputError, match=message):
        open_split(str(tmp_path))


def test_folder_with_coco_boxes(tmp_path):
    trees.classes(tmp_path)
    files = ["cat/cat 0.png", "dog/dog 1.png"]
    trees.write(
        tmp_path / "annotations.json",
        trees.coco_json(files, [(0, 0, [1, 2, 10, 20]), (0, 1, [0, 0, 5, 5]), (1, 1, [3, 3, 37, 27])]),
    )
    split = open_split(str(tmp_path))
    assert boxes(split) == {
        "cat/cat 0.png": [[1, 2, 11, 22]],  # the dog in the cat's image does not count
        "cat/cat 1.png": [],
        "dog/dog 0.png": [],
        "dog/dog 1.png": [[3, 3, 40, 30]],
    }


def test_coco_alone(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        trees.write_image(tmp_path / "val2017" / name)
    found = [
        (0, 1, [1, 2, 10, 20]),
        (0, 1, [0, 0, 5, 5]),
        (1, 0, [3, 3, 37, 27]),
        (2, 0, [1, 1, 1, 1]),
        (2, 1, [1, 1, 1, 1]),
    ]
    text = trees.coco_json(["a.jpg", "b.jpg", "c.jpg"], found)
    trees.write(tmp_path / "annotations" / "instances_val2017.json", text)
    data = open_data_set(tmp_path)
    assert (data.layout, data.splits) == ("COCO", ("val2017",))
    split = data.load("val2017")
    assert [(e.id, e.labels, len(e.boxes)) for e in split] == [
        ("a.jpg", (1,), 2),
        ("b.jpg", (0,), 1),
        ("c.jpg", (0, 1), 2),
    ]
    assert split.examples[0].box_labels is None
    assert split.examples[2].box_labels.tolist() == [0, 1]


def test_what_is_nothing(tmp_path):
    trees.write(tmp_path / "notes.txt", "hello")
    with pytest.raises(InputError, match="no data set is recognized"):
        open_data_set(tmp_path)
    with pytest.raises(InputError, match=r"expected a folder or a \.tar archive"):
        open_data_set(tmp_path / "nowhere")


def test_unknown_split_and_too_many_classes(tmp_path):
    trees.tiny(tmp_path)
    with pytest.raises(InputError, match="has no split 'test', expected one of train, val"):
        open_split(f"{tmp_path}:test")
    with pytest.raises(InputError, match=r"has \d+ classes .*, the network 1; a single output is"):
        open_split(str(tmp_path), num_classes=1)


# ---------------------------------------------------------------------------------------------- real sets


def test_real_tiny_imagenet(shared, tmp_path):
    for number in range(4):
        name = f"tiny-imagenet-100.part{number}.tar"
        (tmp_path / name).symlink_to(shared / "data" / name)
    data = open_data_set(tmp_path)
    assert data.layout == "Tiny-ImageNet"
    for name, count in (("train", 50_000), ("val", 5_000)):
        split = data.load(name)
        assert (len(split), split.num_classes) == (count, 100)
        assert all(len(example.boxes) == 1 for example in split)
        assert split.open_image(split.examples[-1]).size == (64, 64)


def test_real_cue_conflict(shared):
    split = open_split(str(shared / "data" / "cue-conflict-256.tar"))
    assert (len(split), split.num_classes) == (1280, 16)
    pairs = [cue_conflict.shape_and_texture(example.id) for example in split]
    assert sum(shape == texture for shape, texture in pairs) == 80
    assert all(split.class_names[e.label] == shape for e, (shape, _) in zip(split, pairs, strict=True))


@pytest.mark.parametrize(("name", "images", "boxes"), [("ilsvrc-900", 900, 1350), ("cubv2-20", 20, 20)])
def test_real_metadata_layout(shared, name, images, boxes):
    data = open_data_set(shared / "data" / f"{name}.tar")
    split = data.load(data.splits[0])
    assert (data.layout, len(split), sum(len(e.boxes) for e in split)) == ("metadata layout", images, boxes)
    assert split.open_image(split.examples[-1]).mode == "RGB"
