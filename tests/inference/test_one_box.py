"""One image, one map, one threshold: every command finds the same box."""

import base64
import json
import zlib

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from heatbox.boxes.contours import heatmap_to_boxes
from heatbox.cli.main import main
from heatbox.config import EvaluateConfig, LocateConfig
from heatbox.data.open import open_split
from heatbox.errors import InputError
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import Run
from heatbox.inference.localizer import Localizer, map_to_boxes
from heatbox.inference.locate import locate_files
from heatbox.maps.normalize import normalize_heatmap
from heatbox.models.factory import create_model
from heatbox.visualization.report.explorer import explorer_data, open_source
from heatbox.visualization.report.folders import read_folders
from helpers.scenes import write_model, write_split

COUNT = 6


@pytest.fixture(scope="module", params=["reference", "exact"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model, data = write_model(folder), str(write_split(folder / "set", COUNT))
    config = EvaluateConfig(
        model, data, size=64, method=("cam", "pc1"), target="predicted", protocol=request.param
    )
    evaluate(config, Run(folder / "run"))
    return Run(folder / "run")


def records(run):
    return [record for batch in run.records() for record in batch]


def threshold_of(run, method):
    return run.scores()["methods"][method]["threshold"]


def wanted(run, method):
    """Id → (1, 4) box, from the definition."""
    boxes = {}
    for record in records(run):
        size = (record["width"], record["height"])
        boxes[record["id"]] = map_to_boxes(
            record[f"map_{method}"], size, threshold_of(run, method), protocol=run.settings()["protocol"]
        )
    assert all(box.shape == (1, 4) for box in boxes.values())
    return boxes


@pytest.mark.parametrize("method", ["cam", "pc1"])
def test_evaluate_saves_the_box(run, method):
    boxes = wanted(run, method)
    for record in records(run):
        np.testing.assert_array_equal(record[f"box_{method}"], boxes[record["id"]])
    table = pq.read_table(run.folder / "predictions.parquet")
    for index, name in enumerate(table["id"].to_pylist()):
        np.testing.assert_array_equal(table[f"box_{method}"][index].as_py(), boxes[name].ravel())


def test_the_saved_box_is_the_scored_one(run):
    """In the frame it is the box of `heatmap_to_boxes`, but for the border, where the evaluator clamps."""
    protocol = run.settings()["protocol"]
    limit = [224, 224, 223, 223] if protocol == "reference" else 224
    for record in records(run):
        frame = normalize_heatmap(record["map_cam"], 224)
        scored = heatmap_to_boxes(frame, [threshold_of(run, "cam")], protocol=protocol)[0]
        scale = 224 / np.tile([record["width"], record["height"]], 2)
        np.testing.assert_array_equal(np.minimum((record["box_cam"] * scale).round(), limit), scored)


@pytest.mark.parametrize("method", ["cam", "pc1"])
def test_localizer_and_locate(run, method):
    config, protocol, threshold = run.config(), run.settings()["protocol"], threshold_of(run, method)
    split, boxes = open_split(config["data"]), wanted(run, method)
    model = create_model(config["model"])
    spec = LocateConfig(config["model"], size=64, method=method, threshold=threshold, protocol=protocol)
    localizer = Localizer(model, method, threshold, preprocess=spec.preprocess(model), protocol=protocol)
    found = localizer([split.open_image(example) for example in split])
    for example, box in zip(split, found.boxes, strict=True):
        np.testing.assert_allclose(box, boxes[example.id], atol=1e-9)
    files = {name: next(run.folder.parent.glob(f"set/**/{name}")) for name in boxes}
    for name, line in zip(boxes, locate_files(list(files.values()), spec), strict=True):
        np.testing.assert_allclose(line["boxes"], boxes[name], atol=0.005)  # printed with two decimals


@pytest.mark.parametrize("method", ["cam", "pc1"])
def test_export(run, method, tmp_path):
    assert main(["export", str(run.folder), "--coco", str(tmp_path / "c.json"), "--method", method]) == 0
    boxes = list(wanted(run, method).values())
    for found in json.loads((tmp_path / "c.json").read_text()):
        x, y, width, height = found["bbox"]
        np.testing.assert_allclose([[x, y, x + width, y + height]], boxes[found["image_id"] - 1])


def test_the_page(run):
    """The page stores rows (first threshold, box) in the frame; the reference's are clamped to 223."""
    protocol = run.settings()["protocol"]
    source = open_source(read_folders([run.folder])[0], [])
    data = explorer_data([source])
    for one in data["maps"]:
        boxes = wanted(run, one["method"])
        at = round(threshold_of(run, one["method"]) * one["thresholds"])
        if protocol == "exact":  # the best threshold may lie between two of the page's grid
            grid = at / one["thresholds"]
            boxes = {
                record["id"]: map_to_boxes(
                    record[f"map_{one['method']}"],
                    (record["width"], record["height"]),
                    grid,
                    protocol="exact",
                )
                for record in records(run)
            }
        content = zlib.decompress(base64.b64decode(one["boxes"]))
        counts = np.frombuffer(content, "<u4", 2 * COUNT).reshape(COUNT, 2)
        total, every = map(int, counts.sum(0))
        firsts = np.frombuffer(content, "<u2", total, 8 * COUNT)
        sides = np.frombuffer(content, np.uint8, 4 * total, 8 * COUNT + 2 * total + 4 * every)
        rows = sides.reshape(4, total).T
        for index, image in enumerate(data["images"]):
            own = slice(counts[:index, 0].sum(), counts[: index + 1, 0].sum())
            shown = rows[own][np.searchsorted(firsts[own], at, side="right") - 1]
            frame = (boxes[image["id"]][0] * 224 / np.tile(image["size"], 2)).round()
            if protocol == "reference":
                frame = np.minimum(frame, [224, 224, 223, 223])
            np.testing.assert_array_equal(shown, frame)


@pytest.mark.parametrize("protocol", ["reference", "exact"])
def test_a_map_without_contrast_has_no_box(protocol):
    for flat in (np.ones((7, 7)), np.zeros((7, 7)), np.full((7, 7), np.nan)):
        assert map_to_boxes(flat, (50, 40), 0.5, protocol=protocol).shape == (0, 4)


@pytest.mark.parametrize("protocol", ["reference", "exact"])
def test_boxes_are_half_open_and_end_at_the_border(protocol):
    heatmap = np.zeros((224, 224), np.float32)
    heatmap[100:, 50:100] = 1
    heatmap[10:20, 200:] = 0.9
    found = map_to_boxes(heatmap, (448, 112), 0.5, protocol=protocol)
    assert found.tolist() == [[100, 50, 200, 112]]
    assert found.dtype == np.float64
    every = map_to_boxes(heatmap, (448, 112), 0.5, "all", protocol)
    assert sorted(every.tolist()) == [[100, 50, 200, 112], [400, 5, 448, 10]]
    tensor = map_to_boxes(torch.from_numpy(heatmap), (448, 112), 0.5, "all", protocol)
    np.testing.assert_array_equal(tensor, every)


def test_the_protocol_decides_how_a_map_is_binarised():
    heatmap = np.zeros((224, 224))
    heatmap[:10, :10], heatmap[:5, :5] = 0.3515, 1.0  # .3515 * 255 = 89.6, truncated to 89 = int(.351 * 255)
    assert map_to_boxes(heatmap, (224, 224), 0.351).tolist() == [[0, 0, 5, 5]]
    assert map_to_boxes(heatmap, (224, 224), 0.351, protocol="exact").tolist() == [[0, 0, 10, 10]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((1.0,), "threshold is 1.0"),
        ((0.5, "some"), "contours"),
        ((0.5, "all", "other"), "protocol"),
    ],
)
def test_bad_arguments(arguments, says):
    with pytest.raises(InputError, match=says):
        map_to_boxes(np.eye(5), (9, 9), *arguments)


def test_detections(run):
    pytest.importorskip("supervision")
    config = run.config()
    split, model = open_split(config["data"]), create_model(config["model"])
    found = Localizer(model)([split.open_image(example) for example in split])
    detections = found.to_detections()
    assert len(detections) == COUNT
    for index, one in enumerate(detections):
        np.testing.assert_allclose(one.xyxy, found.boxes[index])
        assert one.class_id.tolist() == [int(found.targets[index])]
        wanted_score = float(found.logits[index].softmax(0)[found.targets[index]])
        assert one.confidence.tolist() == pytest.approx([wanted_score])
