"""Several networks together: a run of each, and the mean of their maps."""

import json
import shutil
import warnings
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

import heatbox.evaluation.collection as collection
import heatbox.evaluation.networks as networks
import heatbox.evaluation.predict as prediction
from heatbox.cli.main import main
from heatbox.config import EvaluateConfig, NetworksConfig
from heatbox.errors import InputError
from heatbox.evaluation.compare import compare_runs
from heatbox.evaluation.networks import evaluate_networks
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import Run, ShardStore
from heatbox.inference.networks import logits_of
from heatbox.maps.foreground import fit_foreground
from heatbox.visualization.tables import score_table
from helpers.scenes import write_model, write_other_model, write_split

pytestmark = pytest.mark.filterwarnings("ignore::heatbox.errors.AssumptionWarning")

METHODS = ("cam", "walk+foreground")
IMAGES = 10


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_small(monkeypatch)


def make_small(patch):
    """Several shards, and a short fit."""
    patch.setattr(prediction, "RECORDS_A_SHARD", 4)
    patch.setattr(networks, "RECORDS_A_SHARD", 4)
    patch.setattr(collection, "fit_foreground", partial(fit_foreground, steps=20))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A configuration of two networks with grids of 8 x 8 and 16 x 16, and the finished run of it."""
    folder = tmp_path_factory.mktemp("networks")
    first = write_model(folder)
    second = write_other_model(folder)
    data = str(write_split(folder / "set", IMAGES))
    config = NetworksConfig(
        data,
        model=(first, second),
        method=METHODS,
        size=64,
        batch_size=4,
        thresholds=50,
    )
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_small(patch)
        metrics = evaluate_networks(config, Run(folder / "run"))
    return SimpleNamespace(config=config, run=Run(folder / "run"), metrics=metrics, folder=folder)


def records_of(run):
    return {record["id"]: dict(record) for batch in run.records() for record in batch}


def parts_of(run):
    return [records_of(Run(run.folder / "networks" / str(number))) for number in (1, 2)]


def scaled(values):
    values = values.astype(np.float64)
    return (values - values.min()) / (values.max() - values.min())


def doubled(values):
    """Bilinear interpolation to twice the side, pixel centres aligned, written out."""
    side = len(values)
    weights = np.zeros((2 * side, side))
    for row in range(2 * side):
        place = min(max((row + 0.5) / 2 - 0.5, 0), side - 1)
        low = int(place)
        weights[row, low] += 1 - (place - low)
        weights[row, min(low + 1, side - 1)] += place - low
    return weights @ values @ weights.T


def softmax(values):
    values = np.exp(values.astype(np.float64) - values.max())
    return values / values.sum()


def test_the_mean_is_that_of_the_saved_maps(scene):
    coarse, fine = parts_of(scene.run)
    found = records_of(scene.run)
    assert list(found) == list(coarse) == list(fine)
    assert len(found) == IMAGES
    for name, record in found.items():
        for method in METHODS:
            one, other = coarse[name][f"map_{method}"], fine[name][f"map_{method}"]
            assert 2 * len(one) == len(other)
            wanted = (scaled(doubled(one)) + scaled(other)) / 2
            np.testing.assert_allclose(record[f"map_{method}"], wanted, atol=1e-5)
            assert np.array_equal(record[f"map_{method} (mine.py:blobs)"], one)
            assert np.array_equal(record[f"map_{method} (other.py:fine)"], other)
        scores = (softmax(coarse[name]["logits"]) + softmax(fine[name]["logits"])) / 2
        np.testing.assert_allclose(softmax(record["logits"]), scores, rtol=1e-5)
        assert record["top5"].tolist() == np.argsort(-scores)[:5].tolist()
        assert record["score"] == pytest.approx(scores[record["label"]], rel=1e-5)
        assert record["ms_forward"] == pytest.approx(coarse[name]["ms_forward"] + fine[name]["ms_forward"])


def test_each_network_has_the_run_that_it_has_alone(scene, tmp_path):
    model, common = scene.config.model[1], {"size": 64, "batch_size": 4, "thresholds": 50}
    alone = evaluate(
        EvaluateConfig(model, scene.config.data, method=METHODS, **common), Run(tmp_path / "run")
    )
    part = Run(scene.run.folder / "networks" / "2")
    wanted, found = records_of(Run(tmp_path / "run")), records_of(part)
    for name, record in wanted.items():
        for method in METHODS:
            assert np.array_equal(found[name][f"map_{method}"], record[f"map_{method}"])
    for method in METHODS:
        rows = [
            part.scores()["methods"][method],
            scene.run.scores()["methods"][f"{method} (other.py:fine)"],
            alone["methods"][method],
        ]
        assert len({(row["MaxBoxAcc"], row["MaxBoxAccV2"], row["threshold"]) for row in rows}) == 1
    assert (part.folder / "foreground.safetensors").is_file()


def test_the_scores_have_rows_and_differences_of_the_mean_and_of_each_network(scene):
    scores = scene.run.scores()
    names = [*METHODS]
    names += [f"{one} ({net})" for one in METHODS for net in ("mine.py:blobs", "other.py:fine")]
    assert list(scores["methods"]) == [*names, *scores["baselines"]]
    pairs = {(one["first"], one["second"]) for one in scores["differences"]}
    assert ("walk+foreground (mine.py:blobs)", "walk+foreground") in pairs
    assert [one["name"] for one in scores["networks"]] == ["mine.py:blobs", "other.py:fine"]
    assert all(one["foreground"]["fitted_images"] == IMAGES for one in scores["networks"])
    caption = score_table(scores).caption
    assert "mean of the maps of mine.py:blobs, other.py:fine" in caption
    assert f"The foreground head of other.py:fine was fitted to walk on {IMAGES} of these images" in caption


def test_a_run_is_resumed_wherever_it_was_killed(scene, tmp_path, monkeypatch):
    """The two networks write shards of the first pass and of the second, then the mean does."""
    wanted, append, made = records_of(scene.run), ShardStore.append, []
    monkeypatch.setattr(prediction, "score_run", lambda *_: {"methods": {}, "baselines": []})  # takes longer

    def counted(store, table):
        if len(made) in kills:
            kills.discard(len(made))
            raise KeyboardInterrupt
        made.append(str(store.folder.relative_to(tmp_path)))
        append(store, table)

    monkeypatch.setattr(ShardStore, "append", counted)
    kills = set()
    evaluate_networks(scene.config, Run(tmp_path / "whole"))
    total = len(made)
    assert sum(folder == "whole/parts" for folder in made) == 3
    kills, deaths = {1, total // 2, total - 2, total - 1}, 0
    made.clear()
    while True:
        try:
            evaluate_networks(scene.config, Run(tmp_path / "run"))
            break
        except KeyboardInterrupt:
            deaths += 1
    assert deaths == 4
    assert len(made) == total  # nothing was written twice
    for name, record in records_of(Run(tmp_path / "run")).items():
        for key in (key for key in wanted[name] if key.startswith(("map_", "logits"))):
            assert np.array_equal(record[key], wanted[name][key]), key


def test_a_finished_run_is_scored_again_without_the_runs_inside(scene, tmp_path):
    shutil.copytree(scene.run.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "networks")
    assert evaluate_networks(scene.config, Run(tmp_path / "run")) == scene.metrics
    with pytest.raises(InputError, match=r"another configuration \(another checkpoint, model, networks"):
        evaluate_networks(
            replace(scene.config, model=scene.config.model[::-1], checkpoint=("none", "none")),
            Run(tmp_path / "run"),
        )


def test_records_in_another_order_are_matched_by_image(scene, monkeypatch):
    class Shuffled(Run):
        def records(self, batch_size=256):
            for batch in super().records(batch_size):
                yield batch[::-1]

    parts = [kind(scene.run.folder / "networks" / str(n)) for n, kind in ((1, Run), (2, Shuffled))]
    pairs = list(networks._together(parts))
    assert [one["id"] for one, _ in pairs] == [other["id"] for _, other in pairs]
    assert [one["id"] for one, _ in pairs] == list(records_of(scene.run))
    monkeypatch.setattr(Shuffled, "records", lambda self: iter([next(Run.records(self))[1:]]))
    with pytest.raises(InputError, match="networks/2: contains no map of image"):
        list(networks._together(parts))


def test_the_commands_on_runs_accept_it(scene, tmp_path, capsys):
    run, data = str(scene.run.folder), scene.config.data
    assert main(["export", run, "--coco", str(tmp_path / "boxes.json"), "--method", "walk+foreground"]) == 0
    assert len(json.loads((tmp_path / "boxes.json").read_text())) == IMAGES
    file = tmp_path / "calibration.json"
    assert main(["calibrate", run, "--boxes", data, "--method", "cam", "--out", str(file)]) == 0
    assert json.loads(file.read_text())["run"]["model"] == " + ".join(scene.config.model)
    assert main(["report", run, "--out", str(tmp_path / "report.html")]) == 0
    assert "cam (other.py:fine)" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    assert main(["evaluate", "--from-run", run, "--thresholds", "50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(scene.metrics))
    found = compare_runs(scene.run.folder, scene.run.folder / "networks" / "1")
    assert list(found["scores"]) == [*METHODS]


def test_the_command_with_thresholds_of_another_split(scene, tmp_path, capsys):
    first, second = scene.config.model
    data = scene.config.data
    args = ["evaluate", "-m", first, second, "-d", data, "--fullsup", data, "--method", "cam", "--size", "64"]
    args += ["--checkpoint", "none", "none", "--thresholds", "50", "--out", str(tmp_path / "run"), "--json"]
    assert main(args) == 0
    scores = json.loads(capsys.readouterr().out)["methods"]
    for name in ("cam", "cam (mine.py:blobs)", "cam (other.py:fine)"):  # the split is the same
        assert scores[name]["transferred"]["threshold"] == scores[name]["threshold"]
        assert scores[name]["MaxBoxAcc"] == scene.metrics["methods"][name]["MaxBoxAcc"]


def test_sigmoid_scores_are_averaged_too():
    scores = np.array([[0.25, 0.999, 0.0]])
    found = logits_of(scores, "sigmoid").astype(np.float64)
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), scores, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": ("a.pth",)}, "--checkpoint has 1 values, expected one for each of 2 networks"),
        ({"foreground": ("a", "b", "c")}, "--foreground has 3 values, expected one for each of 2 networks"),
        ({"model": ("resnet18", "resnet18")}, "resnet18 is named twice"),
        ({"target": "predicted"}, "networks may predict different classes"),
    ],
)
def test_what_networks_cannot_be(scene, changes, message):
    with pytest.raises(InputError, match=message):
        replace(scene.config, **changes).each()


def test_one_pretrained_is_for_all(scene):
    found = replace(scene.config, checkpoint=("pretrained",)).each()
    assert [one.checkpoint for one in found] == ["pretrained", "pretrained"]
    same = replace(scene.config, model=("resnet18", "resnet18"), checkpoint=("a.pth", "b.pth"))
    assert [(one.model, one.checkpoint) for one in same.each()] == [
        ("resnet18", "a.pth"),
        ("resnet18", "b.pth"),
    ]
    assert same.names() == ["resnet18 1", "resnet18 2"]


def test_networks_of_other_classes_are_refused_before_maps_are_made(scene, tmp_path):
    first, second = scene.config.model
    other = second.replace(":fine", ":one_more")
    with pytest.raises(InputError, match=r"mine.py:blobs has 10 classes and other.py:one_more 11"):
        evaluate_networks(replace(scene.config, model=(first, other)), Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()

    def network(label, function="softmax"):
        split = [SimpleNamespace(id="a", labels=(label,))]
        return SimpleNamespace(view=SimpleNamespace(num_classes=10), split=split, function=function)

    with pytest.raises(InputError, match="image 'a' is class 1 of x and class 2 of y"):
        networks._require_same_classes([network(1), network(2)], ["x", "y"])
    with pytest.raises(InputError, match="the scores of x are by softmax and those of y by sigmoid"):
        networks._require_same_classes([network(1), network(1, "sigmoid")], ["x", "y"])
