"""Tables as users have them: read if their meaning is certain, else refused in one sentence."""

import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from heatbox.data.files.trees import FolderTree
from heatbox.data.formats import cub, ilsvrc
from heatbox.data.formats.coco import read_coco
from heatbox.data.open import open_data_set, open_split
from heatbox.errors import InputError
from helpers import data_trees as trees

VARIANTS = {
    "windows": lambda text: text.replace("\n", "\r\n").encode(),
    "old mac": lambda text: text.replace("\n", "\r").encode(),
    "mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "blank lines": lambda text: ("\n" + text + "\n \n\t\n").encode(),
    "no last end": lambda text: text.rstrip("\n").encode(),
    "trailing spaces": lambda text: text.replace("\n", "  \n").encode(),
    "tabs": lambda text: text.replace(" ", "\t").encode(),
    "wide": lambda text: text.replace(" ", "   ").encode(),
    "row twice": lambda text: (text + text.splitlines()[0] + "\n").encode(),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_cub_tables_in_every_variant(tmp_path, variant):
    plain, varied = trees.cub(tmp_path / "plain"), trees.cub(tmp_path / "varied")
    for table in varied.glob("*.txt"):
        table.write_bytes(VARIANTS[variant](table.read_text()))
    for name in ("train", "test"):
        expected, found = open_split(f"{plain}:{name}"), open_split(f"{varied}:{name}")
        assert [(e.id, e.label, e.boxes.tolist()) for e in found] == [
            (e.id, e.label, e.boxes.tolist()) for e in expected
        ]
        assert found.class_names == expected.class_names


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in ("tabs", "wide")])
def test_tiny_tables_in_every_variant(tmp_path, variant):
    plain, varied = trees.tiny(tmp_path / "plain"), trees.tiny(tmp_path / "varied")
    for table in varied.rglob("*.txt"):
        table.write_bytes(VARIANTS[variant](table.read_text()))
    for name in ("train", "val"):
        expected, found = open_split(f"{plain}:{name}"), open_split(f"{varied}:{name}")
        assert [(e.id, e.label, e.boxes.tolist()) for e in found] == [
            (e.id, e.label, e.boxes.tolist()) for e in expected
        ]


def content(root):
    """Everything that the tables of a data set list."""
    data_set = open_data_set(root)
    splits = [data_set.load(name) for name in data_set.splits]
    masks = [s.open_mask(e).tolist() if s.open_mask else None for s in splits for e in s]
    return [(s.name, e.id, e.label, e.size, e.boxes.tolist()) for s in splits for e in s], masks


@pytest.mark.parametrize("kind", ["metadata", "openimages", "ilsvrc", "csv", "coco", "cubv2"])
@pytest.mark.parametrize("variant", [d for d in VARIANTS if d not in ("tabs", "wide", "row twice")])
def test_other_tables_in_every_variant(tmp_path, kind, variant):
    plain, varied = build(kind, tmp_path / "plain"), build(kind, tmp_path / "varied")
    tables = [path for path in varied.rglob("*") if path.suffix in (".txt", ".csv", ".json", ".xml")]
    assert tables
    for table in tables:
        if table.stat().st_size:
            table.write_bytes(VARIANTS[variant](table.read_text()))
    assert content(varied) == content(plain)


@pytest.mark.parametrize("kind", ["metadata", "openimages", "cubv2"])
def test_an_id_twice_is_reported(tmp_path, kind):
    root = build(kind, tmp_path)
    (table,) = root.rglob("image_ids.txt")
    table.write_bytes(VARIANTS["row twice"](table.read_text()))
    with pytest.raises(
        InputError, match=r"image_ids\.txt, row 3: image id .* is listed twice, first in .* row 1"
    ):
        content(root)


@pytest.mark.parametrize("kind", ["metadata", "tiny", "ilsvrc", "csv", "coco"])
def test_boxes_as_floats(tmp_path, kind):
    plain, varied = build(kind, tmp_path / "plain"), build(kind, tmp_path / "varied")
    for path in varied.rglob("*"):
        if path.suffix in (".xml", ".csv", ".json") or path.name in (
            "localization.txt",
            "val_annotations.txt",
        ):
            path.write_text(re.sub(r"(?<=[,>\[\t ])(\d+)(?=[,<\]\t\n])", r"\1.0", path.read_text()))
    assert content(varied) == content(plain)


@pytest.mark.parametrize("kind", ["cub", "ilsvrc"])
def test_boxes_counted_from_one(tmp_path, kind):
    """A box that ends one pixel outside is clipped, as published by some; at two pixels it is reported."""
    root = build(kind, tmp_path)
    file = root / FUZZED[kind][3 if kind == "cub" else 0]
    text = file.read_text()
    one, two = (
        text.replace("6.0 2.0 32.0 20.0", f"6.0 2.0 {34 + k}.0 {28 + k}.0")
        if kind == "cub"
        else text.replace(">20<", f">{40 + k}<").replace(">25<", f">{30 + k}<")
        for k in (1, 2)
    )
    file.write_text(one)
    assert open_split(str(root)).examples[0].boxes[0, 2:].tolist() == [40, 30]
    file.write_text(two)
    with pytest.raises(InputError, match=r"lies outside its 40 x 30 image"):
        open_split(str(root))


def test_a_decompression_bomb_whose_size_is_read(tmp_path, monkeypatch):
    trees.cub(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(InputError, match=r"_0046_18\.jpg: the image is too large to decode safely .*bomb"):
        open_split(str(tmp_path))


def test_ids_with_spaces_and_unicode(tmp_path):
    name = "001.Black_footed_Albatross/größe – 鳥 \u2028 1.jpg"
    trees.cub(tmp_path)
    trees.write_image(tmp_path / "images" / name)
    text = (tmp_path / "images.txt").read_text().replace(trees.CUB_NAMES[0], name)
    trees.write(tmp_path / "images.txt", text)
    split = open_split(str(tmp_path))
    assert split.examples[0].id == name
    assert split.open_image(split.examples[0]).size == (40, 30)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("images.txt", "1 a\xffb\n", r"images\.txt: has no usable row|no such image file"),
        ("images.txt", "1 ../../etc/passwd\n", r"images\.txt, row 1: image '\.\./\.\./etc/passwd' leads out"),
        (
            "images.txt",
            "one a.jpg\n",
            r"images\.txt, row 1: 'one a.jpg' is not of the form image_id image_name",
        ),
        ("images.txt", "1\n", r"images\.txt, row 1: '1' is not of the form"),
        ("images.txt", "1 a.jpg\n1 b.jpg\n", r"images\.txt, row 2: id 1 has another row"),
        ("image_class_labels.txt", "1 1\n2 1\n3 x\n", r"image_class_labels\.txt, row 3: 'x|'3 x' is not"),
        ("image_class_labels.txt", "1 3\n2 1\n3 2\n4 2\n", r"image 1 has class 3, not 1 to 2"),
        ("train_test_split.txt", "1 2\n2 1\n3 1\n4 0\n", r"image 1 has 2, expected 0 or 1"),
        ("train_test_split.txt", "2 1\n3 1\n4 0\n", r"train_test_split\.txt: has no usable row for image 1"),
        ("bounding_boxes.txt", "1 6 2 32\n2 1 1 1 1\n3 1 1 1 1\n4 1 1 1 1\n", r"bounding_boxes\.txt, row 1"),
        (
            "bounding_boxes.txt",
            "1 6 2 36 3\n2 1 1 1 1\n3 1 1 1 1\n4 1 1 1 1\n",
            r"row 1: box .* lies outside",
        ),
        ("bounding_boxes.txt", "1 6 2 nan 3\n2 1 1 1 1\n3 1 1 1 1\n4 1 1 1 1\n", r"row 1: .* not finite"),
        ("bounding_boxes.txt", None, r"bounding_boxes\.txt: missing"),
    ],
)
def test_broken_cub_tables_name_file_and_row(tmp_path, file, text, message):
    trees.cub(tmp_path)
    (tmp_path / file).unlink()
    if text is not None:
        trees.write(tmp_path / file, text)
    with pytest.raises(InputError, match=message):
        open_split(str(tmp_path))


def test_latin_1_is_refused_with_its_row(tmp_path):
    trees.cub(tmp_path)
    (tmp_path / "classes.txt").write_bytes("1 ok\n2 Gr\xfcn\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"classes\.txt, row 2: is not UTF-8 text"):
        open_split(str(tmp_path))


def mutated(text, data):
    """A text with a few pieces replaced by noise."""
    awkward = ["-1", "1e999", "nan", "\0", "\t", "\n\n", ",", '"', "../", "9" * 30]
    noise = st.one_of(st.text(max_size=8), st.sampled_from(awkward))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        stop = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(noise) + text[stop:]
    return text.encode("utf-8", "surrogatepass")


def sane(split):
    for example in split:
        if len(example.boxes):
            assert np.isfinite(example.boxes).all()
            assert (example.boxes >= 0).all()
            assert (example.boxes <= np.tile(example.size, 2)).all()
            assert (example.boxes[:, 2:] >= example.boxes[:, :2]).all()


BOXES = f"train/{trees.WNIDS[0]}/{trees.WNIDS[0]}_boxes.txt"
DEVKIT = "ILSVRC2012_devkit"
FUZZED = {
    "cub": (*cub.FILES, "classes.txt"),
    "tiny": ("wnids.txt", "words.txt", "val/val_annotations.txt", BOXES),
    "ilsvrc": (
        "bbox_val/ILSVRC2012_val_00000001.xml",
        f"{DEVKIT}/map_clsloc.txt",
        f"{DEVKIT}/ILSVRC2012_validation_ground_truth.txt",
    ),
    "openimages": tuple(
        f"metadata/OpenImages/test/{n}.txt" for n in ("image_ids", "class_labels", "localization")
    ),
    "csv": ("boxes.csv",),
    "coco": ("boxes.json",),
}


def build(kind, root):
    if kind in ("cub", "tiny", "openimages", "cubv2"):
        return getattr(trees, kind)(root)
    if kind == "metadata":
        ids = ["a b.png", "größe, 鳥.png"]
        for name in ids:
            trees.write_image(root / "images" / name)
        trees.metadata(root, ids, [0, 1], [(40, 30)] * 2, ["1,2,30,29", "0,0,40,30"])
        return root
    if kind == "ilsvrc":
        trees.ilsvrc_val(root / "val")
        trees.ilsvrc_xml(root / "bbox_val")
        rows = "".join(f"{wnid} {i} a\n" for i, wnid in enumerate(trees.DEVKIT_ORDER, 1))
        trees.write(root / FUZZED["ilsvrc"][1], rows)
        trees.write(root / FUZZED["ilsvrc"][2], "2\n3\n1\n")
        return root
    trees.classes(root)
    files = ["cat/cat 0.png", "dog/dog 1.png"]
    trees.write(root / "boxes.csv", "image,x1,y1,x2,y2\ncat/cat 0.png,1,2.5,10,20\ndog/dog 1.png,3,3,4,4\n")
    if kind == "coco":
        (root / "boxes.csv").unlink()
        trees.write(
            root / "boxes.json", trees.coco_json(files, [(0, 0, [1, 2, 10, 20]), (1, 1, [3, 3, 37, 27])])
        )
    return root


@pytest.mark.parametrize("kind", FUZZED)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_read_or_refused_in_one_sentence(tmp_path_factory, kind, data):
    root = tmp_path_factory.getbasetemp() / f"wild-{kind}"
    if not root.exists():
        build(kind, root)
    file = root / data.draw(st.sampled_from(FUZZED[kind]))
    whole = file.read_bytes()
    try:
        file.write_bytes(mutated(whole.decode(), data))
        problems = []
        data_set = open_data_set(root)
        for name in data_set.splits:
            for report in (None, problems.append):
                try:
                    sane(data_set.load(name, report) if report else data_set.load(name))
                except InputError as error:
                    problems.append(str(error))
        assert all(problem and "\n" not in problem for problem in problems), problems
    except InputError:
        pass
    finally:
        file.write_bytes(whole)


KEYS = ["images", "annotations", "categories", "id", "bbox", "file_name", "image_id", "category_id", "name"]
scalars = st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*KEYS, "width"]), inner, max_size=6)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(values)
def test_any_json_is_read_or_refused(tmp_path_factory, value):
    from heatbox.data.formats.coco import read_coco

    root = tmp_path_factory.getbasetemp()
    if isinstance(value, dict):
        value = {"images": [], "annotations": [], "categories": []} | value
    (root / "any.json").write_text(json.dumps(value))
    message = "any.json"
    try:
        read_coco(FolderTree(root), "any.json", lambda problem: None)
    except InputError as error:
        message = str(error)
    assert "any.json" in message


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40), st.data())
def test_any_xml_is_read_or_refused(tmp_path_factory, text, data):
    root = tmp_path_factory.getbasetemp()
    good = trees.xml("a", "n01440764")
    (root / "any.xml").write_bytes(
        data.draw(st.sampled_from([text.encode("utf-8", "surrogatepass"), mutated(good, data)]))
    )
    message = "any.xml"
    try:
        ilsvrc.read_voc(FolderTree(root), "any.xml")
    except InputError as error:
        message = str(error)
    assert "any.xml" in message


@pytest.mark.parametrize("number", ["¹4", "9" * 5000])
def test_a_digit_that_is_no_number(tmp_path, number):
    build("ilsvrc", tmp_path)
    table = tmp_path / FUZZED["ilsvrc"][1]
    table.write_text(table.read_text() + f"n09999999 {number} found by fuzzing\n")
    assert [e.label for e in open_split(str(tmp_path))] == list(trees.ILSVRC_CLASSES)


def test_an_infinite_category_number_is_reported(tmp_path):
    (tmp_path / "a.json").write_text(
        '{"images": [], "annotations": [], "categories": [{"id": 1e999, "name": "a"}]}'
    )
    with pytest.raises(InputError, match=r"a\.json: is not COCO's JSON"):
        read_coco(FolderTree(tmp_path), "a.json")
