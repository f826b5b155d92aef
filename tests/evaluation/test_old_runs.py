"""What heatbox 0.1.0 wrote is read, resumed, scored again, compared, exported and reported."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from heatbox.cli.main import main
from heatbox.data.open import open_split
from heatbox.evaluation.export import RunMaps, write_heatmaps
from heatbox.evaluation.run import Run
from heatbox.inference.boxes import map_to_boxes
from heatbox.visualization.overlay import contact_sheet

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v0.1.0"
MODEL = ["--model", "mine.py:blobs", "--size", "64", "--device", "cpu", "--thresholds", "100"]


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of the folders, as the working directory that their paths are relative to."""
    shutil.copytree(FIXTURES, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def printed(capsys, *arguments, code=0):
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code
    return without_later_keys(json.loads(capsys.readouterr().out))


def without_later_keys(found):
    """JSON without what later versions add to the scores."""
    later = ("breakdown", "warnings", "per_image_thresholds")
    if isinstance(found, dict):
        return {key: without_later_keys(one) for key, one in found.items() if key not in later}
    return [without_later_keys(one) for one in found] if isinstance(found, list) else found


def saved(name):
    return json.loads((Path("json") / name).read_text())


def same_numbers(one, other):
    """Equal JSON, but for the last bits of numbers; integers are equal."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same_numbers(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same_numbers(a, b)
    elif isinstance(one, float) or isinstance(other, float):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9)
    else:
        assert one == other


def records(run):
    return [record for batch in Run(run).records() for record in batch]


@pytest.mark.parametrize("name", ["evaluate", "evaluate-masks"])
def test_scored_again(old, capsys, name):
    found = printed(capsys, "evaluate", "--from-run", name, "--thresholds", "100")
    assert found == saved(f"{name}.json") == Run(name).metrics()


def test_a_finished_run_is_the_same_run(old, capsys):
    arguments = ["--data", "set", "--fullsup", "val", "--method", "cam", "pc1", "--out", "evaluate"]
    assert printed(capsys, "evaluate", *MODEL, *arguments) == saved("evaluate.json")
    assert main(["evaluate", *MODEL, *arguments, "--norm", "ignore"]) == 2
    assert "another norm" in capsys.readouterr().err


def test_an_unfinished_run_is_resumed(old, capsys, monkeypatch):
    kept = {record["id"]: record["map_cam"] for record in records("evaluate-unfinished")}
    assert len(kept) == 9
    made = []
    real = Run.append
    monkeypatch.setattr(Run, "append", lambda run, rows: (made.extend(rows), real(run, rows))[1])
    arguments = ["--data", "set", "--batch-size", "3", "--method", "cam", "pc1"]
    found = printed(capsys, "evaluate", *MODEL, *arguments, "--out", "evaluate-unfinished")
    assert len(made) == 3
    for record in records("evaluate-unfinished"):
        if record["id"] in kept:
            np.testing.assert_array_equal(record["map_cam"], kept[record["id"]])
    whole = saved("evaluate.json")
    for method in ("cam", "pc1"):
        del whole["methods"][method]["transferred"]  # this run has no fullsup
        same_numbers(found["methods"][method], whole["methods"][method])
    assert main(["evaluate", *MODEL, *arguments, "--out", "evaluate-unfinished", "--norm", "ignore"]) == 2


@pytest.mark.parametrize("name", ["score", "score-unfinished"])
def test_a_scoring_is_resumed(old, capsys, name):
    write_heatmaps(RunMaps(Path("evaluate")), Path("maps"))
    for path in Path("maps").rglob("*.npy"):
        os.utime(path, (0, 0))  # older than the records
    parts = sorted(path.name for path in Path(name, "records").glob("*.parquet"))
    assert parts[0] == "part-000000.parquet"
    arguments = ["--thresholds", "100", "--heatmaps", "maps", "--data", "set", "--out", name]
    assert printed(capsys, "score", *arguments) == saved("score.json")
    after = sorted(path.name for path in Path(name, "records").glob("*.parquet"))
    assert after == (parts if name == "score" else ["000002.parquet", *parts])
    assert printed(capsys, "score", *arguments) == saved("score.json")


def test_a_damaged_part_of_an_old_scoring_is_scored_again(old, capsys):
    write_heatmaps(RunMaps(Path("evaluate")), Path("maps"))
    for path in Path("maps").rglob("*.npy"):
        os.utime(path, (0, 0))
    part = Path("score-unfinished/records/part-000000.parquet")
    part.write_bytes(part.read_bytes()[:100])
    arguments = ["--thresholds", "100", "--heatmaps", "maps", "--data", "set", "--out", "score-unfinished"]
    found = printed(capsys, "score", *arguments)
    wanted = saved("score.json")["methods"]["maps"]
    assert found["methods"]["maps"]["largest_contour"] == wanted["largest_contour"]
    assert part.with_suffix(".damaged").exists()


def test_compared(old, capsys):
    assert printed(capsys, "compare", "evaluate", "evaluate-nine") == saved("compare.json")


def kept(new, before):
    """Whether JSON has every key and element that was there before, with equal values."""
    if isinstance(before, dict):
        return all(key in new and kept(new[key], value) for key, value in before.items())
    if isinstance(before, list):
        return len(new) == len(before) and all(map(kept, new, before))
    return new == before


def test_exported(old, capsys):
    assert main(["export", "evaluate", "--coco", "new.json", "--npy", "npy", "--overlays", "png"]) == 0
    # The format has gained keys; those that were there are as they were.
    assert kept(
        json.loads(Path("new-truth.json").read_text()), json.loads(Path("coco-truth.json").read_text())
    )
    same_numbers(json.loads(Path("new.json").read_text()), json.loads(Path("coco.json").read_text()))
    assert len(list(Path("npy").rglob("*.npy"))) == len(list(Path("png").rglob("*.png"))) == 12


def test_located(old, capsys):
    """0.1.0 binarised the float map, which is now the exact protocol."""
    files = ["set/images/0.png", "set/images/1.png"]
    arguments = ["--model", "mine.py:blobs", "--size", "64", "--device", "cpu", "--no-overlays"]
    assert main(["locate", *files, *arguments, "--protocol", "exact"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line in lines:  # what 0.1.0 did not print
        assert line.pop("scores") == "softmax"
        assert len(line.pop("expected_confidence")) == len(line["boxes"])
    same_numbers(lines, [json.loads(line) for line in Path("json/locate.jsonl").read_text().splitlines()])


def test_boxes_are_in_pixels_of_the_image(old):
    """Their columns were in the 224 x 224 frame; what is read is computed from the maps."""
    threshold = Run("evaluate").scores()["methods"]["pc1"]["threshold"]
    columns = pq.read_table("evaluate/predictions.parquet")["box_pc1"].to_pylist()
    for record, column in zip(records("evaluate"), columns, strict=True):
        size = (record["width"], record["height"])
        wanted = map_to_boxes(record["map_pc1"], size, threshold)
        np.testing.assert_array_equal(record["box_pc1"], wanted)
        frame = (wanted[0] * 224 / np.tile(size, 2)).round()
        np.testing.assert_array_equal(np.minimum(frame, [224, 224, 223, 223]), column)
    sheet = contact_sheet({"": Run("evaluate").records()}, open_split("set"), ("cam", "pc1"))
    assert sheet.width > 0


def test_reported(old):
    assert main(["report", "evaluate", "evaluate-masks", "evaluate-nine", "--out", "page.html"]) == 0
    text = Path("page.html").read_text()
    assert 'id="explorer-data"' in text
    for name in ("evaluate", "evaluate-masks"):
        row = Run(name).metrics()["methods"]["cam"]
        assert f"{row.get('MaxBoxAccV2', row.get('PxAP')):.2f}" in text
