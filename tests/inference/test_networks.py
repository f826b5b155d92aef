"""Several networks in `Localizer`, `locate` and `label`: the mean of their maps and scores."""

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import heatbox
import heatbox.evaluation.networks as networks
import heatbox.labeling.pipeline as labeling
from heatbox.cli.main import main
from heatbox.config import LabelNetworksConfig, NetworksConfig
from heatbox.data.glyphs import glyphs
from heatbox.data.transforms import Preprocess
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.networks import evaluate_networks
from heatbox.evaluation.run import Run
from heatbox.inference.boxes import map_to_boxes
from heatbox.inference.localizer import Localizer
from heatbox.inference.networks import common_outputs, require_same_order
from heatbox.models.factory import create_model
from helpers.scenes import write_model, write_other_model, write_split

pytestmark = pytest.mark.filterwarnings("ignore::heatbox.errors.AssumptionWarning")

IMAGES = 8


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Networks with grids of 8 x 8 and 16 x 16 at 64 pixels; images in a data set and in class folders."""
    folder = tmp_path_factory.mktemp("networks")
    names = write_model(folder), write_other_model(folder)
    data, split = write_split(folder / "set", IMAGES), glyphs("test", IMAGES)
    files = []
    for number, example in enumerate(split):
        files.append(folder / "photos" / split.class_names[example.label] / f"{number}.png")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        split.open_image(example).save(files[-1])
    pictures = [Image.open(file).convert("RGB") for file in files]
    labels = [example.label for example in split]
    models = [create_model(name) for name in names]
    return SimpleNamespace(
        folder=folder, names=names, data=data, files=files, pictures=pictures, labels=labels, models=models
    )


def localizer(scene, method="cam", **more):
    return Localizer(scene.models, method, preprocess=[Preprocess((64, 64))] * 2, **more)


def softmax(values):
    values = np.exp(values.astype(np.float64) - values.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


def scaled(values):
    return (values - values.min()) / (values.max() - values.min())


# ------------------------------------------------------------------------------------------------ Localizer


def test_maps_and_scores_are_means_for_one_class(scene):
    with torch.no_grad():
        found = localizer(scene)(scene.pictures)
    alone = [Localizer(model, preprocess=Preprocess((64, 64))) for model in scene.models]
    scores = np.mean([softmax(one(scene.pictures).logits.numpy()) for one in alone], 0)
    np.testing.assert_allclose(softmax(found.logits.numpy()), scores, rtol=1e-5)
    assert found.labels.tolist() == found.targets.tolist() == scores.argmax(1).tolist()
    assert any(one(scene.pictures).labels.tolist() != found.labels.tolist() for one in alone)
    coarse, fine = (one(scene.pictures, found.targets).maps.numpy() for one in alone)
    assert (coarse.shape[1:], fine.shape[1:]) == ((8, 8), (16, 16))
    for one, other, mean, boxes in zip(coarse, fine, found.maps, found.boxes, strict=True):
        resized = np.asarray(Image.fromarray(one).resize((16, 16), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(mean, (scaled(resized) + scaled(other)) / 2, atol=1e-5)
        assert np.array_equal(boxes, map_to_boxes(mean, (64, 64), 0.35))
    assert found.score_function == "softmax"


def test_the_maps_are_those_of_evaluate(scene, tmp_path):
    config = NetworksConfig(
        str(scene.data), model=scene.names, method=("cam", "walk"), size=64, thresholds=20
    )
    evaluate_networks(config, Run(tmp_path / "run"))
    records = [record for batch in Run(tmp_path / "run").records() for record in batch]
    for method in config.method:
        found = localizer(scene, method)(scene.pictures, scene.labels)
        saved = np.stack([record[f"map_{method}"] for record in records])
        np.testing.assert_allclose(found.maps, saved, atol=1e-5)
        np.testing.assert_allclose(
            found.logits, np.stack([record["logits"] for record in records]), atol=1e-4
        )


def test_each_network_has_its_own_preprocessing_and_head(scene, tmp_path):
    sizes = [Preprocess((64, 64)), Preprocess((96, 96), crop_pct=0.8)]
    both = Localizer(scene.models, "walk+foreground", preprocess=sizes)
    head = both.fit_foreground(iter(scene.pictures), scene.labels, batch_size=3)
    assert both.head is head is both.heads[0]
    wanted = both(scene.pictures, scene.labels)
    alone = []
    for model, size, fitted in zip(scene.models, sizes, both.heads, strict=True):
        one = Localizer(model, "walk+foreground", preprocess=size)
        own = one.fit_foreground(iter(scene.pictures), scene.labels, batch_size=3)
        assert torch.equal(own.members[0][0].weight, fitted.members[0][0].weight)
        alone.append(one(scene.pictures, scene.labels))
        fitted.save(tmp_path / f"{len(alone)}.safetensors", **fitted.fitted_on)
    assert wanted.maps.shape == (IMAGES, 224, 224)  # maps of a crop are placed in the whole image
    inner = slice(40, 184)
    first = np.stack([np.asarray(one) for one in alone[0].heatmaps])
    assert np.corrcoef(first.ravel(), np.stack(wanted.heatmaps).ravel())[0, 1] > 0.5
    assert np.isfinite(wanted.maps[:, inner, inner].numpy()).all()
    files = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    given = Localizer(scene.models, "walk+foreground", preprocess=sizes, foreground=files)
    assert torch.equal(given(scene.pictures, scene.labels).maps, wanted.maps)


def test_what_localizers_of_several_networks_refuse(scene, tmp_path):
    with pytest.raises(InputError, match="foreground has 1 values, expected one for each of 2 models"):
        localizer(scene, "foreground", foreground=tmp_path / "a")
    with pytest.raises(InputError, match="there is no model"):
        Localizer([])
    fine = create_model(f"{scene.folder / 'other.py'}:one_more")
    with pytest.raises(InputError, match=r"has 10 classes and .* 11, expected networks of the same classes"):
        Localizer([scene.models[0], fine])
    sizes = [Preprocess((64, 64)), Preprocess((96, 96))]
    with pytest.raises(InputError, match="preprocessed for one network, but these have different prep"):
        Localizer(scene.models, preprocess=sizes)(torch.zeros(1, 3, 64, 64))
    same = localizer(scene)(torch.zeros(1, 3, 64, 64))
    assert same.maps.shape == (1, 16, 16)
    grey = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    with pytest.raises(InputError, match=r"reads 3 channels and .* 1, expected networks that read the same"):
        Localizer([scene.models[0], grey.eval()])


def test_classes_in_another_order_are_refused():
    with pytest.raises(InputError, match="class 0 is 'ant' of a and 'bee' of b, expected networks with"):
        require_same_order(["a", "b"], [["ant", "bee"], ["bee", "ant"]])
    with pytest.warns(AssumptionWarning, match="class 1 is 'bee' of a and 'wasp' of b; assumed"):
        require_same_order(["a", "b"], [["ant", "bee"], ["ant", "wasp"]])
    with pytest.warns(AssumptionWarning, match="names of the classes of b are not known; assumed"):
        require_same_order(["a", "b"], [["ant", "bee"], []])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_same_order(["a", "b"], [["ant", "bee"], ["ant", "bee"]])
    with pytest.raises(InputError, match="scores of a are by softmax and those of b by sigmoid"):
        common_outputs(["a", "b"], [3, 3], ["softmax", "sigmoid"])


# ----------------------------------------------------------------------------------------------- commands


def lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_locate_prints_the_mean_and_saves_the_heads(scene, tmp_path, capsys):
    files, out = [*map(str, scene.files)], tmp_path / "out"
    args = ["locate", *files, "--model", *scene.names, "--size", "64", "--method", "foreground-walk"]
    assert main([*args, "--target", "3", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    heads = [str(out / f"{number}-foreground.safetensors") for number in (1, 2)]
    assert f"head of each network is fitted to {IMAGES} of these {IMAGES} images" in captured.err
    assert f"--foreground {heads[0]} {heads[1]} applies it to others" in captured.err.replace("\n", " ")
    both = localizer(scene, "foreground-walk", foreground=heads, confidence=True)
    wanted = both(scene.pictures, [3] * IMAGES)
    for index, line in enumerate(lines(captured.out)):
        assert (line["label"], line["model"]) == (3, " + ".join(scene.names))
        np.testing.assert_allclose(line["boxes"], wanted.boxes[index], atol=0.01)
        np.testing.assert_allclose(line["expected_confidence"], wanted.confidences[index], atol=1e-3)
    again = [*args, "--target", "3", "--no-overlays", "--foreground", *heads]
    assert main(again) == 0
    again = lines(capsys.readouterr().out)
    assert [line["boxes"] for line in again] == [line["boxes"] for line in lines(captured.out)]
    assert {line["foreground"] for line in again} == {" + ".join(heads)}


def test_files_after_a_model_are_files(scene, capsys):
    one = [str(scene.files[0]), "--size", "64", "--no-overlays", "--device", "cpu"]
    assert main(["locate", "--model", scene.names[0], *one]) == 0
    assert lines(capsys.readouterr().out)[0]["model"] == scene.names[0]
    assert main(["locate", one[0], "--model", *scene.names, "--checkpoint", "none", *one[1:]]) == 2
    assert "--checkpoint has 1 values, expected one for each of 2 networks" in capsys.readouterr().err
    first, second = scene.names
    apart = [f"--model={first}", second, "--checkpoint=none", "none"]
    assert main(["locate", one[0], *apart, *one[1:]]) == 0
    assert lines(capsys.readouterr().out)[0]["model"] == f"{first} + {second}"


def label_config(scene, **more):
    return LabelNetworksConfig(model=scene.names, size=64, batch_size=4, device="cpu", **more)


def test_label_averages_and_resumes(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "RECORDS_A_SHARD", 3)
    photos, config = str(scene.data), label_config(scene, method="walk")
    labelled = labeling.make_maps(photos, config, Run(tmp_path / "whole"))
    records = {record["id"]: record for batch in labelled.run.records() for record in batch}
    assert len(records) == IMAGES
    parts = [Run(labelled.run.folder / "networks" / str(number)) for number in (1, 2)]
    each = [{record["id"]: record for batch in part.records() for record in batch} for part in parts]
    for name, record in records.items():
        coarse, fine = (one[name]["map_walk"] for one in each)
        resized = np.asarray(Image.fromarray(coarse).resize(fine.shape[::-1], Image.Resampling.BILINEAR))
        np.testing.assert_allclose(record["map_walk"], (scaled(resized) + scaled(fine)) / 2, atol=1e-5)
    boxes = {example.id: example.boxes for example in labelled.boxes()}

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # after the first network, then in the mean
        patch.setattr(labeling, "average_runs", killed)
        with pytest.raises(KeyboardInterrupt):
            labeling.make_maps(photos, config, Run(tmp_path / "cut"))
    assert len(Run(tmp_path / "cut" / "networks" / "2")) == IMAGES
    mean, done = networks._mean, []
    with monkeypatch.context() as patch:
        patch.setattr(networks, "_mean", lambda *given: killed() if done else done.append(1) or mean(*given))
        with pytest.raises(KeyboardInterrupt):
            labeling.make_maps(photos, config, Run(tmp_path / "cut"))
    assert len(Run(tmp_path / "cut")) == 3
    again = labeling.make_maps(photos, config, Run(tmp_path / "cut"))
    assert {e.id: e.boxes.tolist() for e in again.boxes()} == {k: v.tolist() for k, v in boxes.items()}
    assert labeling.about(again, again.settings)["model"] == " + ".join(scene.names)
    with pytest.raises(InputError, match="another configuration"):
        labeling.make_maps(photos, label_config(scene, method="cam"), Run(tmp_path / "cut"))


def test_label_by_the_command_and_in_python(scene, tmp_path, capsys):
    photos, out = str(scene.data), tmp_path / "boxes"
    args = ["label", photos, "--model", *scene.names, "--size", "64", "--batch-size", "4", "--device", "cpu"]
    run = ["--run", str(tmp_path / "run"), "--out", str(out), "--method", "walk", "--review", "0"]
    assert main([*args, *run]) == 0
    assert "note:" in capsys.readouterr().err
    coco = json.loads((out / "coco.json").read_text())
    settings = {"size": 64, "device": "cpu", "method": "walk", "batch_size": 4}
    found = list(heatbox.label(photos, scene.names, **settings))
    boxes = [list(box) for one in found for box in one.boxes]
    wanted = [
        [*box[:2], box[0] + box[2], box[1] + box[3]] for box in (a["bbox"] for a in coco["annotations"])
    ]
    np.testing.assert_allclose(sorted(boxes), sorted(wanted), atol=0.02)


def test_labels_are_predicted_by_the_mean_of_the_scores(scene, tmp_path):
    (tmp_path / "flat").mkdir()
    for number, image in enumerate(scene.pictures):
        image.save(tmp_path / "flat" / f"{number}.png")
    config = label_config(scene, method="cam", min_score=0.0)
    labelled = labeling.make_maps(str(tmp_path / "flat"), config, Run(tmp_path / "run"))
    found = localizer(scene)(scene.pictures)
    assert [example.label for example in labelled.split] == found.labels.tolist()
