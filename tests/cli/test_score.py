"""`heatbox score`: maps that other tools made, in the reference layout."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from heatbox.cli.main import main
from heatbox.data.formats.wsol import load_wsol
from heatbox.evaluation import score as scoring
from heatbox.maps.baselines import centre_gaussian
from heatbox.metrics.max_box_acc import MaxBoxAcc
from helpers.scenes import write_split


@pytest.fixture
def scene(tmp_path):
    """Twelve images of glyphs, with two folders of noisy maps that are brighter in the object's box."""
    split = load_wsol(write_split(tmp_path / "set", 12))
    for name, noise, inside in (("maps", 0.5, 0.3), ("other", 0.1, 0.15)):
        rng = np.random.default_rng(7)
        for example in split:
            x1, y1, x2, y2 = (example.boxes[0] * 224 / 64).astype(int)
            heatmap = rng.random((224, 224)).astype(np.float32) * noise
            heatmap[y1:y2, x1:x2] += inside
            if name == "other":
                heatmap[0, 0] = 1  # one bright pixel, so that the best threshold is low
            path = tmp_path / name / f"{example.id}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.clip(heatmap, 0, 1))
    return tmp_path


def command(scene, *more, maps="maps"):
    return [
        "score",
        "--heatmaps",
        str(scene / maps),
        "--data",
        str(scene / "set"),
        "--out",
        str(scene / "run"),
        *more,
    ]


def scores(scene, capsys, *more, maps="maps"):
    assert main(command(scene, "--json", *more, maps=maps)) == 0
    return json.loads(capsys.readouterr().out)


def test_counts_are_those_of_the_metric(scene, capsys):
    found = scores(scene, capsys)["methods"]
    assert set(found) == {"maps", "centre-gaussian", "full-image"}
    split = load_wsol(scene / "set")
    for contours, where in (("largest", "largest_contour"), ("all", "all_contours")):
        meter = MaxBoxAcc((0.3, 0.5, 0.7), contours)
        centre = MaxBoxAcc((0.3, 0.5, 0.7), contours)
        for example in split:
            meter.update([np.load(scene / "maps" / f"{example.id}.npy")], [example.boxes], [example.size])
            centre.update([centre_gaussian(224, 224)], [example.boxes], [example.size])
        assert found["maps"][where]["correct"] == meter.compute().correct.tolist()
        assert found["centre-gaussian"][where]["correct"] == centre.compute().correct.tolist()
    assert found["maps"]["MaxBoxAcc"] == found["maps"]["largest_contour"]["accuracy"][1]


def test_intervals_hold_the_scores(scene, capsys):
    for found in scores(scene, capsys)["methods"].values():
        for name in ("MaxBoxAcc", "MaxBoxAccV2"):
            low, high = found[f"{name}_interval"]
            assert low <= found[name] <= high
            assert 0 <= low < high <= 100 or low == high == found[name]


def test_transferred_thresholds(scene, capsys):
    more = ("--fullsup", str(scene / "set"), "--fullsup-heatmaps", str(scene / "maps"))
    found = scores(scene, capsys, *more)["methods"]["maps"]
    assert found["transferred"]["MaxBoxAcc"]["value"] == pytest.approx(found["MaxBoxAcc"])  # the same images
    assert found["transferred"]["MaxBoxAccV2"]["value"] == pytest.approx(found["MaxBoxAccV2"])
    more = ("--fullsup", str(scene / "set"), "--fullsup-heatmaps", str(scene / "other"), "--overwrite")
    other = scores(scene, capsys, *more)["methods"]["maps"]
    at = round(other["transferred"]["threshold"] * 1000)
    wanted = 100 * found["largest_contour"]["correct"][1][at] / 12
    assert other["transferred"]["MaxBoxAcc"]["value"] == pytest.approx(wanted)
    assert wanted < found["MaxBoxAcc"]  # thresholds of another kind of map do not serve this one as well


def test_table_and_run_folder(scene, capsys):
    assert main(command(scene)) == 0
    printed = capsys.readouterr()
    for words in ("MaxBoxAcc", "MaxBoxAccV2", "centre-gaussian", "12 images"):
        assert words in printed.out
    assert json.loads((scene / "run" / "metrics.json").read_text())["images"] == 12
    assert list((scene / "run" / "records").glob("*.parquet"))


def test_bad_maps_are_left_out_counted_and_said(scene, capsys):
    ids = [example.id for example in load_wsol(scene / "set")]
    (scene / "maps" / f"{ids[0]}.npy").unlink()
    np.save(scene / "maps" / f"{ids[1]}.npy", np.full((224, 224), np.nan))
    np.save(scene / "maps" / f"{ids[2]}.npy", np.full((224, 224), 1.5))
    np.save(scene / "maps" / f"{ids[3]}.npy", np.zeros((28, 28)))
    (scene / "maps" / f"{ids[4]}.npy").write_bytes(b"hello")
    np.save(scene / "maps" / "stranger.npy", np.zeros((224, 224)))
    assert main(command(scene, "--json")) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["images"] == 7
    assert "1 images have no heatmap" in printed.err
    assert "4 heatmaps could not be scored" in printed.err
    assert "1 heatmaps belong to no image" in printed.err
    assert "Traceback" not in printed.err


def test_exact_protocol(scene, capsys):
    found = scores(scene, capsys, "--protocol", "exact")["methods"]["maps"]
    assert found["MaxBoxAcc"] > 0


def test_interrupted_scoring_goes_on(scene, capsys, monkeypatch):
    whole = scores(scene, capsys)
    monkeypatch.setattr("heatbox.evaluation.score.MAPS_AT_A_TIME", 4)
    from heatbox.evaluation.run import ShardStore

    real, calls = ShardStore.append, []

    def stop_at_third(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(self, *arguments)

    monkeypatch.setattr(ShardStore, "append", stop_at_third)
    assert main(command(scene, "--overwrite")) == 130
    assert "interrupted" in capsys.readouterr().err
    assert scores(scene, capsys) == whole
    assert len(calls) == 4  # two of three parts were kept


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--fullsup", "x"), "together"),
        (("--heatmaps", "nowhere"), "is not a folder"),
        (("--data", "nowhere"), "expected a folder or a .tar"),
    ],
)
def test_bad_options(scene, capsys, more, says):
    arguments = command(scene)
    for flag, value in [more]:
        if flag in arguments:
            arguments[arguments.index(flag) + 1] = value
        else:
            arguments += [flag, value]
    assert main(arguments) == 2
    assert says in capsys.readouterr().err
    assert not (scene / "run").exists()  # a corrected command is not refused for another configuration
    assert main(command(scene)) == 0


def test_no_map_at_all(scene, capsys):
    (scene / "empty").mkdir()
    assert main(command(scene, maps="empty")) == 2
    assert "contains no heatmap of any of 12 images" in capsys.readouterr().err


def test_ids_that_lead_out_of_the_folder(scene, capsys):
    ids = scene / "set" / "image_ids.txt"
    ids.write_text(ids.read_text() + "../secret.png\n")
    assert main(command(scene)) == 2
    assert "leads out" in capsys.readouterr().err


def test_a_folder_named_like_a_baseline(scene, capsys):
    wanted = scores(scene, capsys)["methods"]["maps"]
    (scene / "maps").rename(scene / "full-image")
    found = scores(scene, capsys, "--out", str(scene / "again"), maps="full-image")["methods"]
    assert found["full-image (heatmaps)"] == wanted
    assert found["full-image"] != wanted


def test_a_damaged_shard_keeps_maps_and_baselines_paired(scene, capsys, monkeypatch):
    """The images of the damaged shard are scored last, those of the baselines in the same order."""
    monkeypatch.setattr("heatbox.evaluation.score.MAPS_AT_A_TIME", 4)
    whole = scores(scene, capsys)["methods"]
    part = scene / "run" / "records" / "000000.parquet"
    part.write_bytes(part.read_bytes()[:100])
    tables = []
    real = scoring.table_of
    monkeypatch.setattr(
        scoring, "table_of", lambda found, *rest: (tables.append(found), real(found, *rest))[1]
    )
    again = scores(scene, capsys)["methods"]
    orders = {tuple(score.outcomes.ids) for score in tables[0].values()}
    assert len(orders) == 1
    assert orders.pop()[0] != load_wsol(scene / "set").examples[0].id
    for name in whole:
        assert again[name]["all_contours"] == whole[name]["all_contours"]


def test_maps_made_anew_are_not_given_the_old_scores(scene, capsys):
    scores(scene, capsys)
    for path in (scene / "maps").rglob("*.npy"):
        np.save(path, np.ones((224, 224)))
        later = path.stat().st_mtime + 60
        os.utime(path, (later, later))
    assert main(command(scene)) == 2
    assert "has changed since it was scored" in capsys.readouterr().err
    assert scores(scene, capsys, "--overwrite")["methods"]["maps"]["threshold"] == 0


def test_scoring_loads_no_deep_learning_library():
    """It would cost 700 MB of memory and seconds, for nothing."""
    code = "import sys, heatbox.cli.main, heatbox.evaluation.score; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
