"""Exports of Label Studio and CVAT."""

import copy
import json
import shutil
import warnings

import numpy as np
import pytest

from heatbox.data.formats.labelstudio import brush_mask
from heatbox.data.open import open_data_set, open_split
from heatbox.data.write import write_splits
from heatbox.errors import AssumptionWarning, InputError
from helpers import data_trees as trees


def region(kind, box, size, number, **more):
    x1, y1, x2, y2 = box
    width, height = size
    value = {"x": 100 * x1 / width, "y": 100 * y1 / height, "rotation": 0, "rectanglelabels": [kind]}
    value |= {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height}
    common = {"id": f"r{number}", "type": "rectanglelabels", "from_name": "label", "to_name": "image"}
    return {
        **common,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
        **more,
    }


def tasks(prefix="/data/upload/1/0123abcd-", key="annotations"):
    found = []
    for number, (name, (size, objects)) in enumerate(trees.SHOTS.items()):
        result = [region(kind, box, size, k) for k, (kind, box) in enumerate(objects)]
        made = [{"id": number, "was_cancelled": False, "ground_truth": False, "result": result}]
        found.append(
            {"id": number, "data": {"image": prefix + name}, "annotations": [], "predictions": [], key: made}
        )
    return found


def export(root, content, images="images"):
    trees.shots(root / images)
    trees.write(root / "project-1-at-2026.json", json.dumps(content))
    return root


@pytest.mark.parametrize(
    "prefix", ["/data/upload/1/0123abcd-", "", "images/", "s3://bucket/shots/", "http://x:8080/a/"]
)
@pytest.mark.parametrize("key", ["annotations", "predictions"])
@pytest.mark.filterwarnings("ignore::heatbox.errors.AssumptionWarning")
def test_label_studio_json(tmp_path, prefix, key):
    data = open_data_set(export(tmp_path, tasks(prefix, key)))
    assert (data.layout, data.splits) == ("Label Studio", ("project-1-at-2026",))
    trees.same_as_shots(data.load(data.splits[0]))


def test_regions_belong_to_the_image_that_they_are_drawn_on(tmp_path):
    """A task with two images: a region says by to_name on which it is."""
    content = tasks()
    first, second = content[:2]
    second_name = second["data"]["image"]
    first["data"] = {"image": second_name, "before": first["data"]["image"], "after": second_name}
    for task, key in ((first, "before"), (second, "after")):
        for one in task["annotations"][0]["result"]:
            one["to_name"] = key
    first["annotations"][0]["result"] += second["annotations"][0]["result"]
    trees.same_as_shots(open_split(str(export(tmp_path / "both", [first, *content[2:]]))))
    kept = first["annotations"][0]["result"]
    del kept[len(next(iter(trees.SHOTS.values()))[1]) :], content[1]
    split = open_split(str(export(tmp_path / "one", content)))
    assert len(split.examples[0].boxes)  # those of the image "before", not of "image"
    kept.append({**kept[0], "id": "x", "to_name": "elsewhere"})
    with pytest.raises(InputError, match="has regions on before, elsewhere, which its data does not name"):
        open_split(str(export(tmp_path / "none", content)))


def test_label_studio_json_min(tmp_path):
    content = []
    for number, (name, (size, objects)) in enumerate(trees.SHOTS.items()):
        task = {
            "image": f"/data/upload/1/0123abcd-{name}",
            "id": number,
            "annotator": 1,
            "annotation_id": number,
        }
        task |= {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "lead_time": 3.1}
        rows = []
        for kind, box in objects:
            one = region(kind, box, size, 0)
            rows.append({**one["value"], "original_width": size[0], "original_height": size[1]})
        content.append({**task, **({"label": rows} if rows else {})})
    trees.same_as_shots(open_split(str(export(tmp_path, content))))
    content[2] |= {"choice": "buoy"}
    content[3] |= {"kinds": {"choices": ["kite surfer", "buoy"]}}
    split = open_split(str(export(tmp_path, content)))
    assert [e.labels for e in split] == [(1,), (0, 1), (0,), (0, 1)]


def test_choices_are_labels_of_the_image(tmp_path):
    content = tasks()
    choice = {
        "id": "c",
        "type": "choices",
        "from_name": "c",
        "to_name": "image",
        "value": {"choices": ["wreck"]},
    }
    content[2]["annotations"][0]["result"].append(choice)
    content[0]["annotations"][0]["result"].append({**choice, "id": "d"})
    split = open_split(str(export(tmp_path, content)))
    assert split.class_names == ["buoy", "kite surfer", "wreck"]
    assert [e.labels for e in split] == [(1, 2), (0, 1), (2,), (0,)]


def test_scores_of_predictions(tmp_path):
    content = tasks(key="predictions")
    content[1]["predictions"][0]["score"] = 0.25
    content[1]["predictions"][0]["result"][1]["score"] = 0.75
    with pytest.warns(AssumptionWarning, match="4 tasks have predictions only"):
        split = open_split(str(export(tmp_path, content)))
    assert split.examples[1].box_scores.tolist() == [0.25, 0.75]


def test_which_annotation_counts(tmp_path):
    content = tasks()
    first = content[0]["annotations"][0]
    other = {**copy.deepcopy(first), "result": []}
    content[0]["annotations"] = [{**other, "was_cancelled": True}, other, {**first, "ground_truth": True}]
    with pytest.warns(AssumptionWarning, match="1 tasks have several annotations"):
        trees.same_as_shots(open_split(str(export(tmp_path, content))))
    content[0]["annotations"] = [{**other, "was_cancelled": True}]
    with pytest.warns(AssumptionWarning, match="1 tasks have no annotation"):
        assert len(open_split(str(export(tmp_path, content)))) == 3


@pytest.mark.parametrize("degrees", [30, 90, 200, -45, 359])
def test_a_rotated_rectangle_has_the_box_around_it(tmp_path, degrees):
    content = tasks()
    size, box = (120, 80), (50, 30, 70, 40)
    one = region("buoy", box, size, 9)
    one["value"]["rotation"] = degrees
    content[0]["annotations"][0]["result"] = [one]
    split = open_split(str(export(tmp_path, content)))
    angle = np.radians(degrees)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )  # clockwise, y goes down
    corners = np.array([[0, 0], [20, 0], [20, 10], [0, 10]]) @ turn.T + [50, 30]
    expected = np.clip([*corners.min(0), *corners.max(0)], 0, [120, 80, 120, 80])
    assert np.allclose(split.examples[0].boxes, [expected])
    mask = split.open_mask(split.examples[0])
    assert abs(int((mask == 1).sum()) - 200) < 20  # the area stays, but for what lies outside


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_regions_of_a_turned_image_are_not_read(tmp_path, degrees):
    content = tasks()
    content[0]["annotations"][0]["result"][0]["image_rotation"] = 360
    trees.same_as_shots(open_split(str(export(tmp_path, content))))
    content[0]["annotations"][0]["result"][0]["image_rotation"] = degrees
    with pytest.raises(InputError, match=f"turned by {degrees % 360} degrees, expected image_rotation 0"):
        open_split(str(export(tmp_path, content)))


def test_polygons_ellipses_and_split_regions(tmp_path):
    content = tasks()
    size = {"original_width": 120, "original_height": 80}
    ellipse = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 0, "ellipselabels": ["buoy"]}
    polygon = {"points": [[10, 10], [50, 10], [50, 50]], "polygonlabels": ["buoy"]}
    content[0]["annotations"][0]["result"] = [
        {"id": "a", "type": "ellipselabels", **size, "value": ellipse},
        {"id": "b", "type": "polygonlabels", **size, "value": polygon},
        {
            "id": "c",
            "type": "rectangle",
            **size,
            "value": {"x": 0, "y": 0, "width": 10, "height": 10, "rotation": 0},
        },
        {
            "id": "c",
            "type": "labels",
            **size,
            "value": {"x": 0, "y": 0, "width": 10, "height": 10, "labels": ["buoy"]},
        },
        {"id": "d", "type": "keypointlabels", **size, "value": {"x": 1, "y": 1, "keypointlabels": ["buoy"]}},
    ]
    split = open_split(str(export(tmp_path, content)))
    assert np.allclose(split.examples[0].boxes, [[48, 24, 72, 56], [12, 8, 60, 40], [0, 0, 12, 8]])


def packed(values, word=8, lengths=(3, 4, 8, 16)):
    """rle-pack of a row of values: runs of equal values and single ones."""
    bits = f"{len(values):032b}{word - 1:05b}" + "".join(f"{n - 1:04b}" for n in lengths)
    at = 0
    while at < len(values):
        count = 1
        while at + count < len(values) and values[at + count] == values[at] and count < 2 ** lengths[-1]:
            count += 1
        if count == 1:
            while at + count < len(values) and values[at + count] != values[at + count - 1] and count < 8:
                count += 1
            head, body = "0", "".join(f"{value:0{word}b}" for value in values[at : at + count])
        else:
            head, body = "1", f"{values[at]:0{word}b}"
        kind = next(k for k, n in enumerate(lengths) if count - 1 < 2**n)
        bits += f"{head}{kind:02b}{count - 1:0{lengths[kind]}b}{body}"
        at += count
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


def test_brushes(tmp_path):
    rng = np.random.default_rng(0)
    wanted = np.zeros((80, 120), bool)
    wanted[20:50, 30:90] = rng.random((30, 60)) < 0.8
    wanted[20, 30:90], wanted[49, 30:90], wanted[20:50, 30], wanted[20:50, 89] = True, True, True, True
    pixels = np.zeros((80, 120, 4), np.uint8)
    pixels[wanted] = [0, 0, 0, 255]
    rle = packed(pixels.ravel().tolist())
    assert np.array_equal(brush_mask(rle, (120, 80)), wanted)
    content = tasks()
    value = {"format": "rle", "rle": rle, "brushlabels": ["buoy"]}
    one = {"id": "a", "type": "brushlabels", "original_width": 120, "original_height": 80, "value": value}
    content[0]["annotations"][0]["result"] = [one]
    split = open_split(str(export(tmp_path, content)))
    assert split.examples[0].boxes.tolist() == [[30, 20, 90, 50]]
    assert np.array_equal(split.open_mask(split.examples[0]) == 1, wanted)


@pytest.mark.parametrize(
    "rle",
    [[], [1, 2, 3], [255] * 4, [0, 0, 150, 0, 0], [-1] * 20, ["x"], [0, 0, 150, 0, 255, 255, 255, 255, 255]],
)
def test_hostile_brushes(tmp_path, rle):
    content = tasks()
    value = {"format": "rle", "rle": rle, "brushlabels": ["buoy"]}
    one = {"id": "a", "type": "brushlabels", "original_width": 120, "original_height": 80, "value": value}
    content[0]["annotations"][0]["result"] = [one]
    with pytest.raises(InputError, match=r"task 0, region 0: is not a region of Label Studio"):
        open_split(str(export(tmp_path, content)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t["annotations"][0]["result"][1]["value"].update(x=99),
            "task 1, region 1: box .* outside its 100 x 60",
        ),
        (
            lambda t: t["annotations"][0]["result"][1].update(original_width=0),
            "task 1, region 1: its image is 0 x 60",
        ),
        (
            lambda t: t["annotations"][0]["result"][1]["value"].update(rectanglelabels=[]),
            "task 1, region 1: has no label",
        ),
        (
            lambda t: t["annotations"][0]["result"][1]["value"].update(width="w"),
            "task 1, region 1: is not a region",
        ),
        (lambda t: t["data"].update(image="nowhere.jpg"), r"task 1: image 'nowhere\.jpg' is missing"),
        (
            lambda t: t["data"].update(image="/data/upload/1/0123abcd-shot 0.jpg"),
            "task 1: image .* is in another task",
        ),
        (lambda t: t.update(data={"text": 3}), "task 1: its data names no image"),
    ],
)
def test_errors_name_the_task_and_the_region(tmp_path, change, message):
    content = tasks()
    change(content[1])
    with pytest.raises(InputError, match=rf"project-1-at-2026\.json, {message}"):
        open_split(str(export(tmp_path, content)))


@pytest.mark.parametrize("to", ["labelstudio", "cvat", "coco", "yolo", "voc", "csv", "huggingface"])
@pytest.mark.filterwarnings("ignore::heatbox.errors.AssumptionWarning")
def test_what_is_written_is_read_again(tmp_path, to):
    from heatbox.data.formats.options import WriteOptions

    trees.voc(tmp_path / "voc")
    split = open_split(str(tmp_path / "voc"))
    name = {"cvat": "out.zip", "csv": "out/out.csv"}.get(to, "out")
    options = WriteOptions(images="copy") if to != "csv" else WriteOptions()
    (tmp_path / "out").mkdir()
    write_splits([split], tmp_path / name, to, options)
    if to == "csv":
        trees.shots(tmp_path / "out")
    trees.same_as_shots(open_split(str(tmp_path / (name if to == "cvat" else "out"))), 1e-3)


# ---------------------------------------------------------------------------------------------------- CVAT


def cvat_xml(prefix="", subset="", extra=""):
    images = ""
    for number, (name, (size, objects)) in enumerate(trees.SHOTS.items()):
        boxes = "".join(
            f'<box label="{kind}" source="manual" occluded="0" '
            f'xtl="{a}.00" ytl="{b}.00" xbr="{c}.00" ybr="{d}.00" z_order="0"></box>'
            for kind, (a, b, c, d) in objects
        )
        place = f' subset="{subset}"' if subset else ""
        size_of = f'width="{size[0]}" height="{size[1]}"'
        shapes = boxes + (extra if number == 2 else "")
        images += f'<image id="{number}" name="{prefix}{name}"{place} {size_of}>{shapes}</image>\n'
    labels = "".join(f"<label><name>{name}</name><color>#fff</color></label>" for name in trees.SHOT_CLASSES)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task>'
        f"<labels>{labels}</labels></task></meta>\n{images}</annotations>\n"
    )


@pytest.mark.parametrize(
    ("images", "prefix", "subset"),
    [
        ("images", "", ""),
        ("images", "", "train"),
        ("", "", ""),
        ("images/train", "", "train"),
        ("images/a", "a/", "default"),
    ],
)
@pytest.mark.parametrize("archive", [False, True])
def test_cvat_for_images(tmp_path, images, prefix, subset, archive):
    trees.shots(tmp_path / "task" / images)
    trees.write(tmp_path / "task/annotations.xml", cvat_xml(prefix, subset))
    if archive:
        shutil.make_archive(str(tmp_path / "task"), "zip", tmp_path / "task")
    data = open_data_set(tmp_path / ("task.zip" if archive else "task"))
    assert (data.layout, data.splits) == ("CVAT for images", (subset or "all",))
    trees.same_as_shots(data.load(data.splits[0]))


def test_cvat_archive_beside_the_images(tmp_path):
    """Exported without images."""
    trees.shots(tmp_path / "set/images")
    trees.write(tmp_path / "x/annotations.xml", cvat_xml())
    shutil.make_archive(str(tmp_path / "set/task"), "zip", tmp_path / "x")
    trees.same_as_shots(open_split(str(tmp_path / "set")))


SHAPES = """<tag label="wreck" source="manual"></tag>
<polygon label="buoy" occluded="1" points="1.0,2.0;21.0,2.0;21.0,12.0;1.0,12.0"></polygon>
<box label="buoy" xtl="20" ytl="30" xbr="40" ybr="40" rotation="90.0"><attribute name="score">.5</attribute>
</box>
<ellipse label="buoy" cx="32" cy="32" rx="10" ry="5"></ellipse>
<mask label="buoy" rle="2, 3, 1, 2" left="5" top="6" width="4" height="2"></mask>
<points label="buoy" points="1,1"></points><polyline label="buoy" points="1,1;2,2"></polyline>"""


def test_shapes_of_cvat(tmp_path):
    trees.shots(tmp_path / "images")
    trees.write(tmp_path / "annotations.xml", cvat_xml(extra=SHAPES))
    split = open_split(str(tmp_path))
    assert split.class_names == ["buoy", "kite surfer", "wreck"]
    found = split.examples[2]
    assert found.labels == (0, 2)
    assert np.allclose(found.boxes, [[1, 2, 21, 12], [25, 25, 35, 45], [22, 27, 42, 37], [5, 6, 9, 8]])
    assert found.box_flags == (("occluded",), (), (), ())
    assert np.array_equal(found.box_scores, [np.nan, 0.5, np.nan, np.nan], equal_nan=True)
    mask = split.open_mask(found)
    # Rows of the mask: 0011 / 1011 within its box; the polygon covers both rows from column 1 on.
    assert mask[6, 21:].sum() == 0
    assert mask[2:12, 1:21].all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('xbr="110.00"', 'xbr="122.00"', r"image 0, shape 0: box .* outside its 120 x 80"),
        ('xbr="110.00"', 'xbr="wide"', r"image 0, shape 0: box cannot be read"),
        ('xbr="110.00"', "", r"image 0, shape 0: box cannot be read \(no xbr\)"),
        ('width="64"', 'width="-64"', "image 2: expected name, width and height"),
        ('label="kite surfer" source', 'label="" source', "image 0, shape 0: box has no label"),
        ('name="shot 0.jpg"', 'name="shot 9.jpg"', r"image 0: image 'shot 9\.jpg' is missing"),
        ("</annotations>", "<track/></annotations>", "has tracks of a video"),
        ("<version>", "<!DOCTYPE x><version>", "is not CVAT's XML for images"),
    ],
)
def test_errors_name_the_image_and_the_shape(tmp_path, old, new, message):
    trees.shots(tmp_path / "images")
    text = cvat_xml()
    assert old in text
    trees.write(tmp_path / "annotations.xml", text.replace(old, new, 1))
    with warnings.catch_warnings(), pytest.raises(InputError, match=rf"annotations\.xml.*{message}"):
        open_split(str(tmp_path))
