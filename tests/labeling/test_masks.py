"""`--masks`: the outlines of objects in the formats that have polygons, and what a single box cannot be."""

import dataclasses
import json
import xml.etree.ElementTree as ET
import zipfile

import numpy as np
import pytest

from heatbox import open_split
from heatbox.boxes.ops import box_iou
from heatbox.cli.main import main
from heatbox.data.formats.labelstudio import brush_mask, pack_brush
from heatbox.data.formats.segments import mask_rle, outline_mask, polygon_mask, rle_mask
from heatbox.data.glyphs import glyphs
from heatbox.data.types import Example, Split
from heatbox.data.write import write_splits
from heatbox.labeling.propose import ONE, BoxSettings, find_objects, propose
from helpers.scenes import write_model

SIDE = 64


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Rings and other shapes that were labelled with masks, in every format."""
    root = tmp_path_factory.mktemp("masks")
    write_model(root)
    truth = glyphs("test", 10)
    for number, example in enumerate(truth):
        path = root / "photos" / truth.class_names[example.label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        truth.open_image(example).resize((SIDE + 32, SIDE)).save(path)
    formats = ("coco", "yolo", "label-studio", "cvat", "voc", "csv")
    command = ["label", str(root / "photos"), "--model", f"{root / 'mine.py'}:blobs", "--size", "64"]
    command += ["--device", "cpu", "--run", str(root / "run"), "--review", "0", "--masks"]
    assert main([*command, "--to", *formats, "--out", str(root / "boxes")]) == 0
    return root / "boxes", command


def coco_of(out):
    """File name → the annotations of COCO's file."""
    content = json.loads((out / "coco.json").read_text())
    names = {one["id"]: one["file_name"] for one in content["images"]}
    found = {name: [] for name in names.values()}
    for one in content["annotations"]:
        found[names[one["image_id"]]].append(one)
    return found


def test_pycocotools_reads_the_masks(written):
    tools = pytest.importorskip("pycocotools.mask")
    for annotations in coco_of(written[0]).values():
        for one in annotations:
            (points,) = one["segmentation"]
            encoded = tools.frPyObjects(one["segmentation"], SIDE, SIDE + 32)
            theirs = tools.decode(encoded)[..., 0] > 0
            ours = polygon_mask(points, (SIDE + 32, SIDE))
            assert (theirs & ours).sum() > 0.8 * (theirs | ours).sum()
            assert one["area"] == pytest.approx(ours.sum(), rel=0.1, abs=8)
            corners = np.reshape(points, (-1, 2))
            x, y, w, h = one["bbox"]
            assert np.allclose([*corners.min(0), *corners.max(0)], [x, y, x + w, y + h])


def test_all_formats_have_the_same_polygons(written):
    out, size = written[0], np.array([SIDE + 32, SIDE])
    wanted = {
        name.replace("/", "_").rpartition(".")[0]: [np.reshape(one["segmentation"], (-1, 2)) for one in found]
        for name, found in coco_of(out).items()
    }
    yolo = {path.stem: path.read_text().splitlines() for path in (out / "yolo").rglob("labels/*/*.txt")}
    tasks = json.loads((out / "label-studio.json").read_text())
    studio = {task["data"]["image"].rpartition("?d=")[2]: task["predictions"][0]["result"] for task in tasks}
    with zipfile.ZipFile(out / "cvat.zip") as archive:
        root = ET.fromstring(archive.read("annotations.xml"))
    cvat = {image.get("name"): image.findall("polygon") for image in root.findall("image")}
    assert not root.findall("image/box")
    assert "<PolygonLabels" in (out / "label-studio.xml").read_text()
    for name, polygons in wanted.items():
        image = name.replace("_", "/", 1) + ".png"
        rows = [np.reshape(list(map(float, line.split()[1:])), (-1, 2)) * size for line in yolo[name]]
        regions = [np.array(one["value"]["points"]) * size / 100 for one in studio[image]]
        shapes = [
            np.array([pair.split(",") for pair in one.get("points").split(";")], float) for one in cvat[image]
        ]
        for found in (rows, regions, shapes):
            assert len(found) == len(polygons) > 0
            assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(found, polygons, strict=True))


def test_polygons_are_read_as_masks_and_boxes(written):
    out, found = written[0], coco_of(written[0])
    split = open_split(out / "yolo")
    for example in split:
        kind, _, rest = example.id.rpartition("/")[2].partition("_")
        wanted = found[f"{kind}/{rest}"]
        boxes = np.array([one["bbox"] for one in wanted])
        boxes[:, 2:] += boxes[:, :2]
        assert np.allclose(example.boxes, boxes, atol=1e-4)


def some_masks():
    """Masks of many kinds: empty, full, one pixel, the first pixel, columns, noise; and a large one."""
    random = np.random.default_rng(0)
    yield from (np.zeros((5, 7), bool), np.ones((5, 7), bool), np.ones((1, 1), bool))
    for place in ((0, 0), (4, 6), (0, 6)):
        mask = np.zeros((5, 7), bool)
        mask[place] = True
        yield mask
    for _ in range(40):
        yield random.random(random.integers(1, 90, 2)) < random.random()
    large = np.zeros((700, 900), bool)
    large[100:650, 30:800] = True
    yield large


def test_run_lengths_are_those_of_pycocotools_and_come_back():
    tools = pytest.importorskip("pycocotools.mask")
    for mask in some_masks():
        found = mask_rle(mask)
        wanted = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert found == {"size": wanted["size"], "counts": wanted["counts"].decode()}
        assert np.array_equal(rle_mask(found, mask.shape[::-1]), mask)


def test_a_brush_is_that_of_label_studio_and_comes_back():
    for mask in some_masks():
        assert np.array_equal(brush_mask(pack_brush(mask), mask.shape[::-1]), mask)
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    for mask in some_masks():
        pixels = brush.decode_rle(pack_brush(mask)).reshape(*mask.shape, 4)
        assert np.array_equal(pixels > 0, np.repeat(mask[..., None], 4, axis=2))


def test_all_formats_hold_the_same_run_lengths(written):
    out, command = written
    size = (SIDE + 32, SIDE)
    rle = out.parent / "rle"
    more = ["--to", "coco", "label-studio", "cvat", "--mask-format", "rle", "--out", str(rle)]
    assert main([*command, *more]) == 0
    tasks = json.loads((rle / "label-studio.json").read_text())
    studio = {task["data"]["image"].rpartition("?d=")[2]: task["predictions"][0]["result"] for task in tasks}
    assert "<BrushLabels" in (rle / "label-studio.xml").read_text()
    with zipfile.ZipFile(rle / "cvat.zip") as archive:
        root = ET.fromstring(archive.read("annotations.xml"))
    cvat = {image.get("name"): image.findall("mask") for image in root.findall("image")}
    found, polygons = coco_of(rle), coco_of(out)
    for name, wanted in polygons.items():
        masks = [polygon_mask(one["segmentation"][0], size) for one in wanted]
        assert len(masks) == len(found[name]) == len(studio[name]) == len(cvat[name]) > 0
        for mask, one, region, shape in zip(masks, found[name], studio[name], cvat[name], strict=True):
            assert np.array_equal(rle_mask(one["segmentation"], size), mask)
            assert one["area"] == mask.sum()
            assert np.array_equal(brush_mask(region["value"]["rle"], size), mask)
            left, top, width, height = (int(shape.get(key)) for key in ("left", "top", "width", "height"))
            runs = [int(run) for run in shape.get("rle").split(",")]
            inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
            assert np.array_equal(mask[top : top + height, left : left + width], inside)
            assert inside.sum() == mask.sum()


def test_run_lengths_are_for_outlines(written, capsys):
    out, command = written
    without = [word for word in command if word != "--masks"]
    assert main([*without, "--mask-format", "rle", "--out", str(out.parent / "fourth")]) == 2
    assert "--mask-format rle is for outlines, which --masks makes" in capsys.readouterr().err


def test_an_outline_between_the_centres_of_pixels_has_one_pixel():
    thin = np.array([[2.6, 1.0], [2.8, 1.0], [2.7, 3.0]])
    assert np.argwhere(outline_mask(thin, (9, 5))).tolist() == [[2, 2]]


def test_what_cannot_hold_outlines_says_so(written, capsys):
    out, command = written
    assert main([*command, "--to", "voc", "csv", "--out", str(out.parent / "other")]) == 0
    said = capsys.readouterr().err
    assert "voc does not hold outlines" in said
    assert "csv does not hold outlines" in said
    assert main([*command, "--to", "yolo", "--confidence", "--out", str(out.parent / "third")]) == 2
    assert "rows of polygons have no column for scores" in capsys.readouterr().err


def test_boxes_without_outlines_are_rectangles_and_outlines_scale_with_the_image(tmp_path):
    split = glyphs("test", 1)
    first = split.examples[0]
    boxes = np.array([[2.0, 4, 10, 20], [0, 0, 8, 8]])
    shape = np.array([[0.0, 0], [8, 0], [0, 8]])
    half = Example(first.id, 0, (32, 32), boxes, outlines=(None, shape))
    write_splits(dataclasses.replace(split, examples=[half]), tmp_path / "yolo", "yolo")
    (file,) = (tmp_path / "yolo").glob("labels/*/*.txt")
    lines = [[float(value) * 32 for value in line.split()[1:]] for line in file.read_text().splitlines()]
    assert lines == [[2, 4, 10, 4, 10, 20, 2, 20], shape.ravel().tolist()]


# --------------------------------------------------------------------------------------- several objects


def perfect_map(boxes):
    """A map that is high on each of some boxes (in a frame of 128), as a good network's would be."""
    y, x = np.mgrid[:56, :56] * 128 / 56
    found = np.zeros((56, 56))
    for x1, y1, x2, y2 in boxes:
        inside = 4 * np.minimum((x - x1) * (x2 - x), (x2 - x1) ** 2 / 4) / (x2 - x1) ** 2
        other = 4 * np.minimum((y - y1) * (y2 - y), (y2 - y1) ** 2 / 4) / (y2 - y1) ** 2
        found = np.maximum(found, np.sqrt(np.clip(inside, 0, 1) * np.clip(other, 0, 1)))
    return found


def test_several_objects_are_found_where_a_single_box_fails():
    """With maps that show every object, one box for each class finds less than half of them."""
    reached = dict.fromkeys(("one", "several"), 0)
    total = 0
    for example in glyphs("several", 20):
        labels = example.labels
        maps = [perfect_map(example.boxes[example.is_of(label)]) for label in labels]
        if not labels:
            continue
        total += len(example.boxes)
        for name, rules in (("one", ONE), ("several", BoxSettings("cam").rules)):
            found = find_objects(maps, example.size, BoxSettings("cam", 0.35, rules))
            for label, one in zip(labels, found, strict=True):
                iou = box_iou(one.boxes, example.boxes[example.is_of(label)], inclusive=False)
                reached[name] += int((iou >= 0.5).any(0).sum())
    assert reached["one"] < 0.65 * total
    assert reached["several"] > 0.85 * total


def test_an_image_without_an_object_has_no_box():
    empty = next(example for example in glyphs("several", 5) if not example.labels)

    class Nothing:
        def records(self):
            return iter(())

        def __len__(self):
            return 0

    split = Split("one", [empty], glyphs("several", 1).class_names, lambda example: None)
    assert list(propose(Nothing(), split, BoxSettings("cam"))) == []
    assert find_objects([np.zeros((7, 7))], empty.size, BoxSettings("cam"))[0].boxes.shape == (0, 4)
