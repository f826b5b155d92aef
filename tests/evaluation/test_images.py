"""Images that cannot be scored, of several classes, or turned by EXIF: in whole evaluations."""

import json

import numpy as np
import pytest
from PIL import Image

from heatbox.cli.main import main
from heatbox.config import EvaluateConfig
from heatbox.data import Example, Split
from heatbox.data.formats.frames import turned, turned_mask
from heatbox.data.open import open_split
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import Run

# The classes of the network are red and blue, and its map of a class is where the picture has that colour.
MODEL = """
import torch
from torch import nn

def colours(num_classes=2):
    conv = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        conv.weight[:] = torch.tensor([[1.0, -1, -1], [-1, -1, 1]])[:, :, None, None]
        conv.bias[:] = -0.5
    head = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        head.weight[:] = torch.eye(2)
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
"""
RED, BLUE = (240, 10, 10), (10, 10, 240)
COLOURS = {"red": RED, "blue": BLUE}
SIZE = (120, 80)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "net.py"
    path.write_text(MODEL)
    return f"{path}:colours"


def draw(path, objects, size=SIZE, orientation=1, quality=95):
    """Rectangles on grey; with an orientation the file is stored as a camera does that notes it in EXIF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), 90, np.uint8)
    for kind, (x1, y1, x2, y2) in objects:
        pixels[y1:y2, x1:x2] = COLOURS[kind]
    image = Image.fromarray(pixels)
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    if orientation > 1:
        exif[0x0112] = orientation
        image = image.transpose(back[orientation])
    image.save(path, quality=quality, exif=exif.tobytes())
    return image.size


def coco(root, images):
    """`images` are (name, listed size, [(class, xyxy)])."""
    names = list(COLOURS)
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k, "name": n} for k, n in enumerate(names)],
    }
    for number, (name, size, objects) in enumerate(images):
        content["images"].append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        for kind, (x1, y1, x2, y2) in objects:
            entry = {"image_id": number, "category_id": names.index(kind), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            content["annotations"].append(entry)
    (root / "result.json").write_text(json.dumps(content))


GOOD = [("red", (70, 10, 110, 40))], [("blue", (10, 20, 50, 60))], [("red", (20, 20, 60, 70))]


def build(root, more=()):
    """Three good images and others."""
    images = [(f"good {k}.png", SIZE, objects) for k, objects in enumerate(GOOD)]
    for name, _, objects in images:
        draw(root / "images" / name, objects)
    for name, objects, damage in more:
        draw(root / "images" / name, [one for one in objects if one[0] in COLOURS])
        if damage:
            (root / "images" / name).write_bytes(b"no image")
        images.append((name, SIZE, objects))
    coco(root, images)
    return root


def run_of(model, root, folder, *more):
    arguments = ["evaluate", "--model", model, "--data", str(root), "--out", str(folder), "--size", "128"]
    arguments += ["--mean", "0", "0", "0", "--std", "1", "1", "1", "--method", "cam"]
    return main([*arguments, *more])


def test_the_good_images_alone(model, tmp_path):
    assert run_of(model, build(tmp_path / "set"), tmp_path / "run") == 0
    metrics = Run(tmp_path / "run").metrics()
    assert metrics["images"] == 3
    assert "left_out" not in metrics
    assert metrics["top1"] == 100
    assert metrics["methods"]["cam"]["MaxBoxAcc"] == 100


BAD = {
    "empty": ([], False, "no object"),
    "damaged": (GOOD[0], True, "unreadable"),
    "outside": ([("red", (70, 10, 122, 40))], False, "box outside the image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_stops_or_is_left_out_and_counted(model, tmp_path, capsys, kind):
    objects, damage, reason = BAD[kind]
    root = build(tmp_path / "set", [("bad.png", objects, damage)])
    assert run_of(model, root, tmp_path / "stopped") == 2
    assert "bad.png" in capsys.readouterr().err or kind == "outside"
    for again in (False, True):
        assert run_of(model, root, tmp_path / "run", "--on-bad", "skip") == 1
        out = capsys.readouterr().out
        assert f"Left out of 4: 1 ({reason})." in " ".join(out.replace("│", " ").split())
        metrics = Run(tmp_path / "run").metrics()
        assert metrics["left_out"] == {reason: 1}, again
        assert metrics["images"] == 3
    left_out = json.loads((tmp_path / "run/left-out.json").read_text())
    assert left_out["images"] == {"bad.png": reason}
    assert len(left_out["problems"]) == 1
    assert main(["evaluate", "--from-run", str(tmp_path / "run"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["left_out"] == {reason: 1}
    # The scores are those of the good images alone.
    assert run_of(model, build(tmp_path / "good"), tmp_path / "plain") == 0
    assert Run(tmp_path / "plain").metrics()["methods"] == metrics["methods"]
    assert main(["export", str(tmp_path / "run"), "--coco", str(tmp_path / "c.json")]) == 0


def test_an_overshoot_of_a_pixel_is_no_problem(model, tmp_path):
    root = build(tmp_path / "set", [("bad.png", [("red", (70, 10, 121, 40))], False)])
    assert run_of(model, root, tmp_path / "run") == 0
    assert Run(tmp_path / "run").metrics()["images"] == 4


def test_all_bad_is_refused(model, tmp_path, capsys):
    root = tmp_path / "set"
    draw(root / "images/a.png", [])
    coco(root, [("a.png", SIZE, [])])
    assert run_of(model, root, tmp_path / "run", "--on-bad", "skip") == 2
    assert "no image is left to use; the first problem: " in capsys.readouterr().err


TWO = [("red", (70, 10, 110, 40)), ("blue", (5, 50, 45, 75))]


def test_each_class_of_an_image_is_evaluated_with_its_own_boxes(model, tmp_path, capsys):
    root = build(tmp_path / "set", [("two.png", TWO, False)])
    assert run_of(model, root, tmp_path / "run") == 0
    assert "once for each class: 5 pairs of 4 images" in capsys.readouterr().err
    run = Run(tmp_path / "run")
    records = {record["id"]: record for batch in run.records() for record in batch}
    assert sorted(records)[-2:] == ["two.png#0", "two.png#1"]
    assert [records[f"two.png#{label}"]["boxes"].tolist() for label in (0, 1)] == [
        [list(map(float, box))] for _, box in TWO
    ]
    assert run.metrics()["methods"]["cam"]["MaxBoxAcc"] == 100  # of all five pairs
    assert main(["export", str(run.folder), "--coco", str(tmp_path / "c.json")]) == 0
    truth = json.loads((tmp_path / "c-truth.json").read_text())
    assert [image["file_name"] for image in truth["images"]].count("two.png") == 1
    assert len(truth["annotations"]) == 5
    assert [c["name"] for c in truth["categories"]] == ["red", "blue"]
    assert main(["export", str(run.folder), "--overlays", str(tmp_path / "overlays")]) == 0
    assert main(["report", str(run.folder), "--out", str(tmp_path / "page.html")]) == 0


def test_predicted_classes_need_images_of_one_class(model, tmp_path, capsys):
    root = build(tmp_path / "set", [("two.png", TWO, False)])
    assert run_of(model, root, tmp_path / "run", "--target", "predicted") == 2
    assert "'two.png' is of 2 classes, expected one; --on-bad skip" in capsys.readouterr().err
    assert run_of(model, root, tmp_path / "run", "--target", "predicted", "--on-bad", "skip") == 1
    assert Run(tmp_path / "run").metrics()["left_out"] == {"several classes": 1}


def test_heatmaps_are_scored_without_the_bad_images(tmp_path, capsys):
    root = build(tmp_path / "set", [("bad.png", [], False)])
    for name in ("good 0", "good 1", "good 2", "bad"):
        path = tmp_path / f"maps/{name}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.random.default_rng(0).random((224, 224)).astype(np.float32))
    command = [
        "score",
        "--heatmaps",
        str(tmp_path / "maps"),
        "--data",
        str(root),
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(command) == 2
    assert "'bad.png' has no box to be scored against; --on-bad skip" in capsys.readouterr().err
    assert main([*command, "--on-bad", "skip"]) == 1
    assert Run(tmp_path / "run").metrics()["left_out"] == {"no object": 1}


# ---------------------------------------------------------------------------------------------------- EXIF


def stored_box(box, size, orientation):
    """A box of the upright picture in the stored one: by moving the pixels of a mask."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    turns = {5: (5,), 6: (8,), 7: (7,), 8: (6,), 2: (2,), 3: (3,), 4: (4,)}
    for one in turns[orientation]:
        mask = turned_mask(mask, one)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_and_masks_turn_as_pillow_turns_pictures(orientation):
    from PIL import ImageOps

    rng = np.random.default_rng(orientation)
    for _ in range(5):
        width, height = rng.integers(20, 60, 2).tolist()
        x1, y1 = rng.integers(0, 10, 2).tolist()
        x2, y2 = x1 + int(rng.integers(1, 10)), y1 + int(rng.integers(1, 10))
        pixels = np.zeros((height, width), np.uint8)
        pixels[y1:y2, x1:x2] = 255
        image = Image.fromarray(pixels)
        image.getexif()[0x0112] = orientation
        upright = np.asarray(ImageOps.exif_transpose(image)) > 0
        assert np.array_equal(turned_mask(pixels, orientation) > 0, upright)
        boxes, size = turned(np.array([[x1, y1, x2, y2]]), (width, height), orientation)
        assert size == upright.shape[::-1]
        rows, columns = np.flatnonzero(upright.any(1)), np.flatnonzero(upright.any(0))
        assert boxes.tolist() == [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("frame", ["upright", "stored", "half"])
def test_boxes_of_turned_pictures(model, tmp_path, orientation, frame):
    root, images = tmp_path / "set", []
    for number in range(3):
        box = (8 + 4 * number, 70, 38 + 4 * number, 110)
        size = draw(root / f"images/{number}.jpg", [("red", box)], (80, 120), orientation)
        assert size == (120, 80)
        stored = stored_box(box, (80, 120), orientation)
        if frame == "upright":
            images.append((f"{number}.jpg", (80, 120), [("red", box)]))
        elif frame == "stored":
            images.append((f"{number}.jpg", (120, 80), [("red", stored)]))
        else:  # a table of copies of half the size
            images.append((f"{number}.jpg", (60, 40), [("red", [side / 2 for side in stored])]))
    coco(root, images)
    assert run_of(model, root, tmp_path / "run") == 0
    assert Run(tmp_path / "run").metrics()["methods"]["cam"]["MaxBoxAcc"] == 100
    assert main(["data", "check", str(root), "--out", str(tmp_path / "check")]) in (0, 1)
    if frame != "half":
        assert json.loads((tmp_path / "check/report.json").read_text())["problems"] == []


def test_a_mixture_is_refused_by_name(tmp_path):
    root, images = tmp_path / "set", []
    for number, size in enumerate([(80, 120), (120, 80), (120, 80)]):
        draw(root / f"images/{number}.jpg", [("red", (8, 70, 38, 110))], (80, 120), 6)
        images.append((f"{number}.jpg", size, [("red", (8, 20, 38, 50))]))
    coco(root, images)
    with pytest.raises(
        InputError, match=r"image 1: EXIF turns both, but '1\.jpg' is listed with its stored size, '0"
    ):
        open_split(str(root))
    problems = []
    open_split(str(root), report=problems.append)
    assert [problem.image for problem in problems] == ["1.jpg", "2.jpg"]


def test_what_sizes_cannot_tell_follows_the_others_or_is_said(tmp_path):
    square = [("square.jpg", (100, 100), [("red", (10, 20, 30, 60))])]
    draw(tmp_path / "a/images/square.jpg", [("red", (10, 20, 30, 60))], (100, 100), 6)
    coco(tmp_path / "a", square)
    with pytest.warns(AssumptionWarning, match="upright is assumed"):
        assert open_split(str(tmp_path / "a")).examples[0].boxes.tolist() == [[10, 20, 30, 60]]
    draw(tmp_path / "b/images/square.jpg", [("red", (40, 10, 80, 30))], (100, 100), 6)
    draw(tmp_path / "b/images/tall.jpg", [("red", (8, 70, 38, 110))], (80, 120), 6)
    coco(tmp_path / "b", [*square, ("tall.jpg", (120, 80), [("red", (70, 42, 110, 72))])])
    split = open_split(str(tmp_path / "b"))
    assert split.examples[1].boxes.tolist() == [[8, 70, 38, 110]]
    assert split.examples[0].boxes.tolist() == [[40, 10, 80, 30]]


def test_a_table_without_sizes_whose_boxes_fit_the_stored_picture_only(tmp_path):
    draw(tmp_path / "images/a.jpg", [("red", (8, 70, 38, 110))], (80, 120), 6)
    (tmp_path / "labels.csv").write_text("image,label,x1,y1,x2,y2\na.jpg,red,70,42,110,72\n")
    example = open_split(str(tmp_path)).examples[0]
    assert (example.size, example.boxes.tolist()) == ((80, 120), [[8, 70, 38, 110]])


# ------------------------------------------------------------------------------------------------ the API


def test_a_split_of_ones_own(model, tmp_path):
    boxes = np.array([[70.0, 10, 110, 40], [5, 50, 45, 75]])
    pixels = np.full((80, 120, 3), 90, np.uint8)
    pixels[10:40, 70:110], pixels[50:75, 5:45] = RED, BLUE
    examples = [
        Example("two", 0, SIZE, boxes, (0, 1), np.array([0, 1])),
        Example("none", -1, SIZE),
    ]
    split = Split("own", examples, ("red", "blue"), lambda example: Image.fromarray(pixels))
    settings = {"size": 128, "mean": (0, 0, 0), "std": (1, 1, 1), "method": ("cam",)}
    with pytest.raises(InputError, match="'none' has no box"):
        evaluate(EvaluateConfig(model, "own", **settings), Run(tmp_path / "a"), split=split)
    config = EvaluateConfig(model, "own", **settings, on_bad="skip")
    metrics = evaluate(config, Run(tmp_path / "b"), split=split)
    assert (metrics["images"], metrics["left_out"]) == (2, {"no object": 1})
    assert metrics["methods"]["cam"]["MaxBoxAcc"] == 100
