"""Exports, read by the tools they are for."""

import csv
import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from heatbox.boxes.contours import heatmap_to_boxes
from heatbox.cli.main import main
from heatbox.config import EvaluateConfig
from heatbox.data.open import open_splits
from heatbox.errors import InputError
from heatbox.evaluation.export import RunMaps, write_heatmaps
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import Run
from helpers.scenes import write_model, write_split

COUNT = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    evaluate(
        EvaluateConfig(write_model(folder), str(write_split(folder / "set", COUNT)), size=64),
        Run(folder / "run"),
    )
    return Run(folder / "run")


def records(run):
    return [record for batch in run.records() for record in batch]


def test_coco_detections_are_read_by_pycocotools(run, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    assert main(["export", str(run.folder), "--coco", str(tmp_path / "found.json")]) == 0
    truth = coco.COCO(str(tmp_path / "found-truth.json"))
    found = truth.loadRes(str(tmp_path / "found.json"))
    assert len(found.anns) == COUNT
    scoring = COCOeval(truth, found, "bbox")
    scoring.params.useCats = 0
    scoring.params.iouThrs = np.array([0.5])
    scoring.params.maxDets = [1]
    scoring.params.areaRng, scoring.params.areaRngLbl = [[0, 1e10]], ["all"]
    scoring.evaluate()
    hits = [int((image["dtMatches"] > 0).any()) for image in scoring.evalImgs if image]
    # Half-open boxes in image pixels against the evaluator's rounded ones: IoUs agree to a few hundredths.
    ious = np.array([record["iou_cam"] for record in records(run)])
    clear = abs(ious - 0.5) > 0.05
    assert np.array(hits)[clear].tolist() == (ious >= 0.5)[clear].astype(int).tolist()


def test_annotation_files_have_the_boxes_of_the_run(run, tmp_path):
    arguments = ["--csv", str(tmp_path / "b.csv"), "--yolo", str(tmp_path / "y"), "--confidence"]
    assert main(["export", str(run.folder), *arguments, "--threshold", "0.4"]) == 0
    maps = RunMaps(run.folder, threshold=0.4)
    with (tmp_path / "b.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert list(rows) == [record["id"] for record in records(run)]
    for record in records(run):
        row = rows[record["id"]]
        assert [float(row[key]) for key in ("x1", "y1", "x2", "y2")] == pytest.approx(maps.boxes(record)[0])
        logits = np.exp(record["logits"].astype(float))
        assert float(row["score"]) == pytest.approx(logits[record["target"]] / logits.sum(), rel=1e-5)
        assert row["label"] == str(record["target"])
    (split,) = open_splits(str(tmp_path / "y"))
    assert [len(example.boxes) for example in split] == [1] * COUNT
    assert main(["export", str(run.folder), *arguments]) == 2


def test_annotation_files_without_the_data_set(run, tmp_path, capsys):
    config = json.loads((run.folder / "config.json").read_text())
    moved = tmp_path / "run"
    shutil.copytree(run.folder, moved)
    (moved / "config.json").write_text(json.dumps({**config, "data": str(tmp_path / "gone")}))
    assert main(["export", str(moved), "--cvat", str(tmp_path / "c.zip")]) == 0
    assert "the data set was not found" in capsys.readouterr().err
    with zipfile.ZipFile(tmp_path / "c.zip") as archive:
        assert archive.read("annotations.xml").count(b"<box ") == COUNT
    assert main(["export", str(moved), "--yolo", str(tmp_path / "y")]) == 2
    assert not (tmp_path / "y").exists()


def test_boxes_in_pixels_are_the_scored_ones(run):
    found = RunMaps(run.folder, "pc1")
    for record in records(run):
        wanted = heatmap_to_boxes(found.heatmap(record), [found.threshold])[0][0]
        box = found.boxes(record)[0] * 224 / np.tile([record["width"], record["height"]], 2)
        assert np.array_equal(np.minimum(box.round().astype(int), [224, 224, 223, 223]), wanted)
    assert json.loads((run.folder / "metrics.json").read_text())["methods"]["pc1"]["threshold"] == (
        found.threshold
    )


def test_heatmaps_score_as_the_run_does(run, tmp_path):
    assert main(["export", str(run.folder), "--npy", str(tmp_path / "cam"), "--method", "cam"]) == 0
    data = run.config()["data"]
    assert (
        main(
            ["score", "--heatmaps", str(tmp_path / "cam"), "--data", data, "--out", str(tmp_path / "scored")]
        )
        == 0
    )
    ours, theirs = run.metrics()["methods"], Run(tmp_path / "scored").metrics()["methods"]
    for key in ("MaxBoxAcc", "MaxBoxAccV2", "threshold", "largest_contour", "all_contours"):
        assert ours["cam"][key] == theirs["cam"][key]


def test_overlays(run, tmp_path):
    assert main(["export", str(run.folder), "--overlays", str(tmp_path / "out"), "--limit", "2"]) == 0
    files = sorted((tmp_path / "out").rglob("*.png"))
    assert len(files) == 2
    picture = np.asarray(Image.open(files[0]).convert("RGB")).reshape(-1, 3)
    assert (picture == (255, 176, 0)).all(1).any()
    assert (picture == (255, 255, 255)).all(1).any()


def test_ids_do_not_lead_out(run, tmp_path, monkeypatch):
    found = RunMaps(run.folder)
    monkeypatch.setattr(type(found), "records", lambda self: iter([{**records(run)[0], "id": "../../out"}]))
    with pytest.raises(InputError, match="leads out of"):
        write_heatmaps(found, tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("out*"))


def test_bad_requests(run, capsys):
    assert main(["export", str(run.folder)]) == 2
    assert "nothing to export" in capsys.readouterr().err
    with pytest.raises(InputError, match="contains no maps of 'walk', only of cam, pc1"):
        RunMaps(run.folder, "walk")
    with pytest.raises(InputError, match=r"threshold is 1\.5"):
        RunMaps(run.folder, threshold=1.5)


def test_the_run_folder_is_read_by_pandas_and_duckdb(run):
    """The examples of docs/report.md."""
    pandas, duckdb = pytest.importorskip("pandas"), pytest.importorskip("duckdb")
    table = pandas.read_parquet(run.folder / "predictions.parquet")
    by_label = table.groupby("label")["iou_cam"].mean()
    rows = duckdb.sql(
        f"select label, avg(iou_cam) from '{run.folder / 'predictions.parquet'}' group by label"
    ).fetchall()
    assert dict(rows) == pytest.approx(by_label.to_dict())
    heatmap = table["map_cam"][0].reshape(table["map_cam_shape"][0])
    assert np.array_equal(heatmap, records(run)[0]["map_cam"])
