"""`heatbox faithfulness`: records, resumption, and what the numbers are."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import trapezoid

from heatbox.cli.main import main
from heatbox.config import EvaluateConfig, FaithfulnessConfig
from heatbox.data.files.images import open_for_network
from heatbox.data.open import open_split
from heatbox.errors import InputError
from heatbox.evaluation import collection, faithfulness
from heatbox.evaluation.faithfulness import _numbers
from heatbox.evaluation.predict import make_maps, prepare
from heatbox.evaluation.run import Run
from heatbox.evaluation.schema import SavedRecord
from heatbox.maps.foreground import fit_foreground
from heatbox.maps.normalize import normalize_heatmap
from heatbox.models.introspect import ClassifierView
from helpers.scenes import write_model, write_split

SIDE = 32


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A data set, a model, and the options that bring them together."""
    folder = tmp_path_factory.mktemp("faithfulness")
    write_split(folder / "set", 6)
    options = {"model": write_model(folder), "data": str(folder / "set"), "size": SIDE, "batch_size": 4}
    options |= {"method": ("cam", "walk:pc1"), "steps": 5, "percentiles": (30, 70), "scores": "softmax"}
    return folder, options


@pytest.fixture(scope="module")
def found(scene):
    folder, options = scene
    run = Run(folder / "run")
    return faithfulness.measure_faithfulness(FaithfulnessConfig(**options), run), run


def test_one_image_by_hand(scene, found):
    """Deletion by the CAM of each image: a loop over steps, with no code of the package but the model's."""
    _, options = scene
    config = FaithfulnessConfig(**options)
    model = config.build()
    preprocess = config.preprocess(model)
    split = open_split(options["data"], None)
    records = {record["id"]: record for batch in found[1].records() for record in batch}
    assert len(records) == 6
    for example in split:
        image = preprocess(open_for_network(split.open_image, 3)(example))
        with torch.no_grad():
            features = model[:5](image[None])
            cam = torch.einsum("c,chw->hw", model[7].weight[example.label], features[0]).numpy()
            import cv2

            large = cv2.resize(cam, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).ravel()
            order = np.argsort(-(large - large.min()) / (large.max() - large.min()), kind="stable")
            curve = []
            for k in range(6):
                changed = image.clone().flatten(1)
                changed[:, order[: round(k / 5 * SIDE**2)]] = 0
                curve.append(model(changed.view(1, 3, SIDE, SIDE)).softmax(1)[0, example.label].item())
        record = records[example.id]
        np.testing.assert_allclose(record["deletion_curve_cam"], curve, atol=2e-3)
        assert record["deletion_cam"] == pytest.approx(trapezoid(curve, dx=0.2), abs=2e-3)
        assert record["score"] == pytest.approx(curve[0], abs=1e-6)


def test_the_summary_is_of_the_records(found):
    scores, run = found
    records = [record for batch in run.records() for record in batch]
    assert list(scores["methods"]) == ["cam", "walk:pc1", "centre-gaussian", "random"]
    for name, entry in scores["methods"].items():
        for column, cell in entry.items():
            values = [record[f"{column}_{name}"] for record in records]
            assert cell["value"] == pytest.approx(100 * np.mean(values), abs=1e-4)
            assert cell["interval"][0] <= cell["value"] <= cell["interval"][1]
    mean = np.mean([record["insertion_curve_cam"] for record in records], axis=0)
    np.testing.assert_allclose(scores["curves"]["cam"]["insertion"], mean, atol=1e-6)
    (pair,) = scores["differences"]
    first, second = (scores["methods"][pair[key]]["road"]["value"] for key in ("first", "second"))
    assert pair["road"]["value"] == pytest.approx(first - second, abs=1e-4)
    assert json.loads((run.folder / "faithfulness.json").read_text())["images"] == 6


def test_an_interrupted_run_is_resumed(scene, found, monkeypatch):
    folder, options = scene
    run = Run(folder / "interrupted")
    calls = []

    def stop(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return measure(*arguments)

    measure = faithfulness._measure
    monkeypatch.setattr(faithfulness, "_measure", stop)
    with pytest.raises(KeyboardInterrupt):
        faithfulness.measure_faithfulness(FaithfulnessConfig(**options), run)
    assert len(run.done()) == 4
    monkeypatch.setattr(faithfulness, "_measure", measure)
    assert faithfulness.measure_faithfulness(FaithfulnessConfig(**options), run) == found[0]
    with pytest.raises(InputError, match="another steps"):
        faithfulness.measure_faithfulness(FaithfulnessConfig(**options | {"steps": 6}), run)


def test_measures_and_fills_are_chosen(scene, found):
    folder, options = scene
    chosen = options | {"measure": ("insertion", "deletion"), "fill": "blur", "method": ("cam",)}
    scores = faithfulness.measure_faithfulness(FaithfulnessConfig(**chosen), Run(folder / "blur"))
    cam, published = scores["methods"]["cam"], found[0]["methods"]["cam"]
    assert set(cam) == {"insertion", "deletion"}
    assert cam["insertion"]["value"] == pytest.approx(published["insertion"]["value"], abs=1e-4)
    assert cam["deletion"]["value"] != pytest.approx(published["deletion"]["value"], abs=1e-4)


def test_maps_of_the_foreground_take_a_fitted_head(scene, monkeypatch):
    folder, options = scene
    with pytest.raises(InputError, match=r"foreground.*--foreground FILE"):
        faithfulness.measure_faithfulness(
            FaithfulnessConfig(**options | {"method": ("foreground",)}), Run(folder)
        )
    monkeypatch.setattr(collection, "fit_foreground", partial(fit_foreground, steps=20))
    shared = {name: options[name] for name in ("model", "data", "size", "batch_size")}
    fitted = Run(folder / "fitted")
    make_maps(prepare(EvaluateConfig(method=("foreground",), **shared)), fitted)
    file = fitted.folder / "foreground.safetensors"
    chosen = {"method": ("walk+foreground", "foreground"), "measure": ("drop",), "foreground": file}
    run = Run(folder / "foreground")
    scores = faithfulness.measure_faithfulness(FaithfulnessConfig(**options | chosen), run)
    assert list(scores["methods"])[:2] == ["walk+foreground", "foreground"]
    maps = {record["id"]: record["map_foreground"] for batch in fitted.records() for record in batch}
    config = FaithfulnessConfig(**options)
    model, split = config.build(), open_split(options["data"], None)
    read = open_for_network(split.open_image, 3)
    for example, record in zip(split, [one for batch in run.records() for one in batch], strict=True):
        image = config.preprocess(model)(read(example))
        weight = torch.from_numpy(normalize_heatmap(maps[example.id], (SIDE, SIDE)))
        with torch.no_grad():
            both = model(torch.stack([image, image * weight])).softmax(1)[:, example.label]
        drop = max(0, float((both[0] - both[1]) / both[0]))
        assert record["average_drop_foreground"] == pytest.approx(drop, abs=1e-5)


def test_a_network_that_views_its_features_keeps_its_layout(tmp_path):
    class Viewed(torch.nn.Module):
        def __init__(self, name):
            super().__init__()
            self.conv, self.fc, self.name = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 3), name

        def forward(self, images):
            features = self.conv(images).relu()
            if self.name == "view":
                features.view(len(images), -1)
            return self.fc(features.mean((2, 3)))

    for name, last in (("view", False), ("mean", True)):
        view = ClassifierView(Viewed(name), None, (16, 16))
        faithfulness._lay_out(view, (16, 16))
        weight = view.model.conv.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) is last
        assert bool(torch.isfinite(view.extract(torch.rand(2, 3, 16, 16), 0).logits).all())


def test_the_command(scene, capsys):
    folder, options = scene
    command = ["faithfulness", "--model", options["model"], "--data", options["data"], "--size", str(SIDE)]
    command += [
        "--out",
        str(folder / "command"),
        "--steps",
        "2",
        "--measure",
        "deletion",
        "drop",
        "--limit",
        "3",
    ]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "average gain" in printed.out
    assert "random" in printed.out
    assert "3 images" in printed.out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 3
    for wrong in (["--percentiles", "0"], ["--steps", "0"], ["--method", "cams"]):
        assert main([*command, *wrong, "--overwrite"]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_images_need_no_boxes(tmp_path, scene):
    _, options = scene
    for label in range(2):
        (tmp_path / "photos" / f"class{label}").mkdir(parents=True)
        pixels = (torch.rand(20, 30, 3) * 255).byte().numpy()
        from PIL import Image

        Image.fromarray(pixels).save(tmp_path / "photos" / f"class{label}" / "a.png")
    chosen = options | {"data": str(tmp_path / "photos"), "measure": ("drop",), "num_classes": 2}
    scores = faithfulness.measure_faithfulness(FaithfulnessConfig(**chosen), Run(tmp_path / "run"))
    assert scores["images"] == 2


def test_images_that_cannot_be_read_are_counted_in_every_rerun(tmp_path, scene, capsys):
    _, options = scene
    write_split(tmp_path / "set", 4)
    next(iter((tmp_path / "set" / "images").rglob("*.png"))).write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    command = ["faithfulness", "--model", options["model"], "--data", str(tmp_path / "set"), "--size", "32"]
    command += ["--measure", "drop", "--out", str(tmp_path / "run"), "--json"]
    assert main([*command, "--on-bad", "stop"]) == 2
    capsys.readouterr()
    for more in (["--overwrite"], []):
        assert main([*command, "--on-bad", "skip", *more]) == 1
        found = json.loads(capsys.readouterr().out)
        assert (found["images"], found["left_out"]) == (3, {"unreadable": 1})


def test_a_better_map_scores_better():
    """A network that sees one quarter of the image: the map of that quarter beats its opposite."""

    def score_images(images):
        inside = images[:, :, :8, :8].mean((1, 2, 3))
        return torch.stack([inside, -inside], 1).mul(4).softmax(1)

    images = torch.rand(3, 3, 16, 16) + 0.5
    right = F.pad(torch.ones(3, 8, 8), (0, 8, 0, 8))
    targets = torch.zeros(3, dtype=torch.long)
    fn = faithfulness.fn
    scores = []
    for heatmap in (right, 1 - right):
        ramp = heatmap + torch.rand(3, 16, 16) * 1e-3
        area = {m: fn.area_under_curve(fn.removal_curves(score_images, images, ramp, targets, m))
                for m in ("deletion", "insertion")}  # fmt: skip
        original, masked = fn.masked_scores(score_images, images, heatmap, targets)
        road = fn.road(score_images, images, ramp, targets)
        drop = fn.average_drop(original, masked)
        scores.append(torch.stack([-area["deletion"], area["insertion"], -drop, road.combined]))
    assert bool((scores[0][:3] > scores[1][:3]).all())


@pytest.mark.parametrize(("column", "value"), [("deletion_cam", "high"), ("deletion_curve_cam", [0.5])])
def test_a_saved_column_of_another_kind_is_named(column, value):
    record = SavedRecord("a.parquet", {})
    record |= {"id": "one.png", column: np.asarray(value) if isinstance(value, list) else value}
    shape = () if column == "deletion_cam" else (9,)
    with pytest.raises(InputError, match=f"^a.parquet: column '{column}' of image 'one.png' is not "):
        _numbers(record, column, *shape)
