"""Foreground heads in runs: fitted to the images in two resumable passes, or read from a file."""

import json
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import heatbox.evaluation.collection as collection
import heatbox.evaluation.predict as prediction
import heatbox.inference.collection as rules
from heatbox.cli.main import main
from heatbox.config import EvaluateConfig
from heatbox.data.open import open_split
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.compare import compare_runs
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import COLLECTION, Run, ShardStore
from heatbox.maps.foreground import fit_foreground, load_foreground
from heatbox.maps.registry import MapInputs
from heatbox.models.factory import create_model
from heatbox.models.introspect import ClassifierView
from heatbox.visualization.tables import score_table
from helpers.scenes import write_model, write_split

pytestmark = pytest.mark.filterwarnings("ignore::heatbox.errors.AssumptionWarning")

METHODS = (
    "walk",
    "foreground",
    "walk:pc1+foreground",
    "walk+foreground+centre",
    "foreground-walk",
    "larger",
)
IMAGES, SAMPLE = 14, 6


def make_small(patch):
    """Several shards of each kind, images outside of the sample, and a short fit."""
    patch.setattr(prediction, "RECORDS_A_SHARD", 4)
    patch.setattr(rules, "SAMPLE", SAMPLE)
    patch.setattr(collection, "fit_foreground", partial(fit_foreground, steps=20))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_small(monkeypatch)


@pytest.fixture
def unscored(monkeypatch):
    """Only the maps are made; scoring takes longer."""
    empty = {"methods": {}, "baselines": []}
    monkeypatch.setattr(prediction, "score_run", lambda run, *_: empty | {"foreground": run.foreground()})


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A configuration, and the finished run of it."""
    folder = tmp_path_factory.mktemp("collection")
    config = EvaluateConfig(
        write_model(folder), str(write_split(folder / "set", IMAGES)), method=METHODS, size=64, batch_size=4
    )
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        evaluate(config, Run(folder / "run"))
    return config, Run(folder / "run")


def maps_of(run):
    return {
        record["id"]: {name: value for name, value in record.items() if name.startswith("map_")}
        for batch in run.records()
        for record in batch
    }


def head_of(run):
    """The saved head in full; the order of metadata in the file is not fixed."""
    head = load_foreground(run.folder / "foreground.safetensors")
    return {name: value.numpy().tobytes() for name, value in head.state_dict().items()} | head.fitted_on


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    for name, maps in wanted.items():
        for method, one in maps.items():
            assert np.array_equal(found[name][method], one), (name, method)


def scaled(values):
    low, high = values.min((-2, -1), keepdims=True), values.max((-2, -1), keepdims=True)
    return (values - low) / (high - low)


def head_in_numpy(head, features):
    """(C, h, w) → (h, w), written out."""
    state = {name: value.numpy().astype(np.float64) for name, value in head.state_dict().items()}
    x = features.reshape(len(features), -1)
    mean, std = state["projection.mean"][:, None], state["projection.std"][:, None]
    x = np.clip((x - mean) / std, -4, 4)
    x = state["projection.components"] @ x - state["projection.offset"][:, None]
    height, width = features.shape[1:]
    down, right = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    places = (abs(right), abs(down), down, right**2, down**2, right**2 + down**2)
    x = np.concatenate([x, *(1.5 * one.reshape(1, -1) for one in places)])
    logits = 0
    for member in range(len(head.members)):
        first, last = (state[f"members.{member}.{i}.weight"][:, :, 0, 0] for i in (0, 2))
        hidden = np.maximum(first @ x + state[f"members.{member}.0.bias"][:, None], 0)
        logits = logits + last @ hidden + state[f"members.{member}.2.bias"][:, None]
    logits = logits[0] / len(head.members)
    return 1 / (1 + np.exp(-logits.reshape(features.shape[1:])))


def foreground_walk_in_numpy(head, features, found, seed):
    """sqrt(P · scaled(T(s · sqrt(P)))), with a step T on the correlations of the first two maps.

    The small network has no more channels than there are components, so nothing of the maps is lost.
    """
    projection = head.projection
    mean, std = (one.numpy()[:, None].astype(np.float64) for one in (projection.mean, projection.std))
    x = features.reshape(len(features), -1)
    x = std * np.clip((x - mean) / std, -4, 4)
    affinity = 0
    for one in (x[:8], x[8:16]):
        one = one - one.mean(1, keepdims=True)
        deviation = one.std(1, keepdims=True)
        varies = deviation > 1e-6 * abs(mean[: len(one)])
        one = np.where(varies, one / (deviation + 0.1 * deviation.mean()), 0)
        one = one / np.linalg.norm(one, axis=0)
        affinity = affinity + np.maximum(one.T @ one, 0)
    prior = scaled(found.astype(np.float64))
    start = (scaled(seed.astype(np.float64)) * np.sqrt(prior)).ravel()
    walked = (affinity / affinity.sum(1, keepdims=True) @ start).reshape(seed.shape)
    return np.sqrt(prior * scaled(walked))


@torch.no_grad()
def test_maps_are_those_of_the_saved_head(scene):
    """The features are made again here with the network alone, the head is computed in NumPy."""
    config, run = scene
    model = create_model(config.model)
    head = load_foreground(run.folder / "foreground.safetensors")
    small = config.preprocess(model)
    saved, split = maps_of(run), open_split(config.data)
    assert list(saved) == [example.id for example in split]
    for example in list(split)[:: IMAGES // 3]:
        image = split.open_image(example)
        with torch.inference_mode():
            x, larger = small(image)[None], small.enlarged(2)(image)[None]
            fine, finest = model[:2](x), model[:2](larger)  # strides 4 and 8; one stage before the last
            last = model[:5](larger)
        assert (x.shape[-1], larger.shape[-1], last.shape[-1]) == (64, 128, 16)
        pooled = [torch.nn.functional.adaptive_avg_pool2d(one, 16) for one in (fine, finest, last)]
        features = torch.cat(pooled, 1)[0].numpy().astype(np.float64)
        wanted = head_in_numpy(head, features)
        maps = saved[example.id]
        assert np.allclose(maps["map_foreground"], wanted, atol=5e-3)
        assert np.ptp(wanted) > 0.05
        mean = (scaled(maps["map_walk"]) + scaled(maps["map_foreground"])) / 2
        y = (np.arange(16) - 7.5) / 4
        prior = np.exp(-0.5 * (y[:, None] ** 2 + y[None] ** 2)) ** 0.25
        assert np.allclose(maps["map_walk+foreground+centre"], scaled(mean) * prior, atol=1e-5)
        weights = model[7].weight[example.label].numpy()  # the norm layer is before the activation
        assert np.allclose(maps["map_larger"], np.einsum("c,chw->hw", weights, last[0].numpy()), atol=1e-4)
        wanted = foreground_walk_in_numpy(head, features, maps["map_foreground"], maps["map_larger"])
        assert np.allclose(maps["map_foreground-walk"], wanted, atol=5e-3)


def test_the_run_says_what_the_head_was_fitted_on(scene):
    config, run = scene
    metrics = json.loads((run.folder / "metrics.json").read_text())
    note = metrics["foreground"]
    assert (note["file"], note["fitted_images"], note["scored_images"], note["seeds"]) == (
        *(None, IMAGES, IMAGES, "walk"),
    )
    assert "fitted to walk on 14 of these images (transductive)" in score_table(run.scores()).caption
    about = load_foreground(run.folder / "foreground.safetensors").fitted_on
    assert (about["size"], about["data"], about["random_seed"]) == ("64 x 64", config.data, "0")
    assert not (run.folder / COLLECTION).exists()


def test_images_of_the_fit_do_not_hold_their_shards(scene, tmp_path, monkeypatch, unscored):
    """A view of one image's features would hold those of its whole shard in memory."""
    of_the_fit, records = [], collection.ImageCollection.records

    def watched(self, split, projection, only=None):
        for record in records(self, split, projection, only):
            of_the_fit.extend([] if only is None else [record[collection.FEATURES], record[collection.SEEDS]])
            yield record

    monkeypatch.setattr(collection.ImageCollection, "records", watched)
    evaluate(scene[0], Run(tmp_path / "run"))
    assert len(of_the_fit) == 2 * IMAGES
    assert all(values.base is None for values in of_the_fit)


def test_the_network_runs_once_on_each_image(scene, tmp_path, unscored):
    config, _ = scene
    model = create_model(config.model)
    seen = []
    view = ClassifierView(model)  # finds the head, so that what follows are images
    assert view.exact
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    evaluate(config, Run(tmp_path / "run"), model=model)
    for side in (64, 128):
        images = torch.cat([one for one in seen if one.shape[-1] == side])
        photographs = images[images.flatten(1).std(1) > 0.2]
        split = open_split(config.data)
        preprocess = config.preprocess(model, side)
        for example in split:
            wanted = preprocess(split.open_image(example))
            assert sum(torch.equal(one, wanted) for one in photographs) == 1, (side, example.id)


class Stopped(Exception):
    """Stands for whatever ends a process."""


def test_interrupted_anywhere_it_ends_the_same(scene, tmp_path, monkeypatch, unscored):
    config, run = scene
    wanted, head = maps_of(run), head_of(run)
    append = ShardStore.append
    for stop in (2, 4, 5, 8, 99):  # within the sample, the others, and the records of the maps
        other, count = Run(tmp_path / str(stop)), 0

        def stopping(store, table, stop=stop):
            nonlocal count
            count += 1
            if count == stop:
                raise Stopped
            append(store, table)

        monkeypatch.setattr(ShardStore, "append", stopping)
        if stop == 99:
            evaluate(config, other)
            assert count == 8  # 2 shards of the sample, 2 of the others, 4 of records
            break
        with pytest.raises(Stopped):
            evaluate(config, other)
        monkeypatch.setattr(ShardStore, "append", append)
        evaluate(config, other)
        assert_same(maps_of(other), wanted)
        assert head_of(other) == head


def test_maps_that_were_lost_are_made_again_with_the_head(scene, tmp_path, monkeypatch, unscored):
    """A damaged shard of an otherwise complete run: its images are read again, nothing is fitted."""
    config, run = scene
    monkeypatch.setattr(Run, "finish", lambda self, columns=None: None)
    other = Run(tmp_path / "run")
    evaluate(config, other)
    shard = other.parts.shards()[1]
    shard.write_bytes(shard.read_bytes()[:100])
    monkeypatch.setattr(prediction, "_fit_head", None)
    evaluate(config, other)
    found, wanted = maps_of(other), maps_of(run)
    assert set(found) == set(wanted)
    for name, maps in wanted.items():
        for method, one in maps.items():
            assert np.allclose(found[name][method], one, atol=1e-5), (name, method)


def changed_split(config, **fields):
    """The images of a run with boxes or labels of other images."""
    split = open_split(config.data)
    order = np.random.default_rng(3).permutation(len(split))
    examples = []
    for example, index in zip(split, order, strict=True):
        other = split.examples[index]
        given = (
            {"boxes": other.boxes} if "boxes" in fields else {"label": other.label, "labels": other.labels}
        )
        examples.append(replace(example, **given))
    return replace(split, examples=examples)


def test_boxes_take_no_part(scene, tmp_path):
    config, run = scene
    split = changed_split(config, boxes=True)
    assert any(
        (one.boxes != two.boxes).any() for one, two in zip(split, open_split(config.data), strict=True)
    )
    other = Run(tmp_path / "run")
    metrics = evaluate(config, other, split=split)
    assert_same(maps_of(other), maps_of(run))
    assert head_of(other) == head_of(run)
    assert metrics["methods"]["walk"]["MaxBoxAccV2"] != run.scores()["methods"]["walk"]["MaxBoxAccV2"]


def test_labels_take_part_only_as_the_target(scene, tmp_path, unscored):
    config, run = scene
    predicted = replace(config, target="predicted")
    plain, shuffled, labelled = (Run(tmp_path / name) for name in ("plain", "shuffled", "labelled"))
    evaluate(predicted, plain)
    split = changed_split(config, labels=True)
    evaluate(predicted, shuffled, split=split)
    assert_same(maps_of(shuffled), maps_of(plain))
    evaluate(config, labelled, split=split)  # the walk of another class is another seed
    one, other = (next(iter(maps_of(each).values())) for each in (labelled, run))
    assert not np.array_equal(one["map_foreground"], other["map_foreground"])


def test_a_head_is_applied_to_other_images(scene, tmp_path, monkeypatch):
    config, run = scene
    other = write_split(tmp_path / "other", 5)
    for path in sorted((other / "images").rglob("*.png")):
        path.rename(path.with_name(f"new-{path.name}"))
    for file in other.glob("*.txt"):
        rows = file.read_text().splitlines()
        file.write_text("".join(_renamed(row) + "\n" for row in rows))
    monkeypatch.setattr(prediction, "_fit_head", None)
    applied = replace(config, data=str(other), foreground=run.folder / "foreground.safetensors")
    metrics = evaluate(applied, Run(tmp_path / "run"))
    assert metrics["foreground"]["scored_images"] == 0
    caption = score_table(metrics).caption
    assert "foreground.safetensors was fitted to walk on 14 other images (inductive)" in caption
    assert not (tmp_path / "run/foreground.safetensors").exists()
    # Applied to its own images it makes the same maps, and says that it was fitted on them.
    again = replace(config, foreground=run.folder / "foreground.safetensors")
    metrics = evaluate(again, Run(tmp_path / "again"))
    assert "14 of which have the names and sizes of these (transductive)" in score_table(metrics).caption
    found = maps_of(Run(tmp_path / "again"))
    for name, maps in maps_of(run).items():
        for method, one in maps.items():
            assert np.allclose(found[name][method], one, atol=1e-4), (name, method)


def _renamed(row):
    path, comma, rest = row.partition(",")
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}new-{name}{comma}{rest}"


def test_a_seed_is_of_the_fit_alone(scene, tmp_path, unscored):
    config, run = scene
    other = Run(tmp_path / "run")
    evaluate(replace(config, seed=1), other)
    for name, maps in maps_of(run).items():
        assert np.allclose(maps_of(other)[name]["map_walk"], maps["map_walk"], atol=1e-5)
    assert head_of(other) != head_of(run)


def test_thresholds_of_another_split_are_of_the_same_head(scene, tmp_path):
    config, _ = scene
    run = Run(tmp_path / "run")
    metrics = evaluate(replace(config, fullsup=str(write_split(tmp_path / "fullsup", 4))), run)
    assert "transferred" in metrics["methods"]["foreground"]
    assert not (run.folder / "fullsup/foreground.safetensors").exists()


def test_maps_of_crops_are_placed_in_the_image(scene, tmp_path, unscored):
    config, _ = scene
    run = Run(tmp_path / "run")
    evaluate(replace(config, crop_pct=0.5, limit=6, method=("walk", "walk+foreground")), run)
    for maps in maps_of(run).values():
        assert maps["map_walk+foreground"].shape == maps["map_walk"].shape == (224, 224)
        for one in maps.values():
            assert np.ptp(one[:50]) == 0
            assert np.ptp(one[60:160, 60:160]) > 0.1 * np.ptp(one)


def test_images_that_cannot_be_read_are_left_out_once(scene, tmp_path):
    config, _ = scene
    data = write_split(tmp_path / "set", 8)
    damaged = sorted((data / "images").rglob("*.png"))[2]
    damaged.write_bytes(damaged.read_bytes()[:80])
    run = Run(tmp_path / "run")
    metrics = evaluate(replace(config, data=str(data), on_bad="skip"), run)
    assert (metrics["images"], sum(metrics["left_out"].values())) == (7, 1)
    assert metrics["foreground"]["fitted_images"] == 7
    with pytest.raises(InputError, match=r"damaged|cannot be decoded"):
        evaluate(replace(config, data=str(data)), Run(tmp_path / "stopped"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": ("foreground", "foreground:pc1")}, "fitted to walk and to pc1 were asked for"),
        ({"method": ("cam",), "foreground": "HEAD"}, "none of cam is a map of a foreground head"),
        ({"foreground": "no.safetensors"}, "no.safetensors: no such file"),
        ({"model": "test_resnet", "foreground": "HEAD"}, "it is for the network that it was fitted with"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_is_said_first(scene, tmp_path, changes, message):
    config, run = scene
    if changes.get("foreground") == "HEAD":
        changes = changes | {"foreground": run.folder / "foreground.safetensors"}
    with pytest.raises(InputError, match=message):
        evaluate(replace(config, **changes), Run(tmp_path / "run"))
    assert not (tmp_path / "run/collection").exists()


def test_other_weights_and_sizes_are_noted(scene, tmp_path, unscored):
    config, run = scene
    model = create_model(config.model)
    with torch.no_grad():
        model[0].weight.add_(1)
    applied = replace(config, size=96, foreground=run.folder / "foreground.safetensors", limit=2)
    with pytest.warns(AssumptionWarning, match=r"with other weights and on images of 64 x 64 pixels, not 96"):
        evaluate(applied, Run(tmp_path / "run"), model=model)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*was fitted")
        evaluate(replace(applied, size=64), Run(tmp_path / "same"))


def test_few_images_are_noted(scene, tmp_path, unscored):
    config, _ = scene
    with pytest.warns(AssumptionWarning, match="fitted on 3 images only; from fewer than 30"):
        evaluate(replace(config, limit=3), Run(tmp_path / "run"))


def test_runs_are_compared_and_exported(scene, tmp_path):
    config, run = scene
    other = Run(tmp_path / "run")
    evaluate(replace(config, foreground=run.folder / "foreground.safetensors"), other)
    found = compare_runs(run.folder, other.folder)
    assert set(found["config"]) == {"foreground"}
    assert found["flipped"]["walk"] == {"gained": [], "lost": []}
    coco = tmp_path / "boxes.json"
    assert main(["export", str(run.folder), "--method", "walk:pc1+foreground", "--coco", str(coco)]) == 0
    assert len(json.loads(coco.read_text())) == IMAGES
    assert main(["evaluate", "--from-run", str(run.folder)]) == 0
    assert main(["report", str(run.folder), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "walk+foreground+centre" in page
    assert "transductive" in page


def test_the_features_of_a_head_are_rounded_as_stored(scene):
    config, _ = scene
    view = ClassifierView(create_model(config.model))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        output = view.extract(images)
        features = MapInputs.from_output(output, view, images, torch.tensor([0, 1])).head_features
    assert features.dtype == torch.float16
