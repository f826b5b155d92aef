"""`heatbox train finetune`: a classifier for the classes of a data set."""

import copy
import dataclasses
import json
import warnings

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open

from heatbox import ClassifierView, InputError, Localizer, create_model
from heatbox.cli.main import main
from heatbox.config import ModelSpec
from heatbox.data.glyphs import glyphs
from heatbox.data.open import open_split
from heatbox.data.types import Example
from heatbox.errors import AssumptionWarning
from heatbox.inference.scores import trained_function
from heatbox.models.checkpoints import convert_checkpoint
from heatbox.models.spec import class_names, data_config
from heatbox.training import FinetuneConfig, finetune, spec_of_run, train, whole_network
from heatbox.training.finetune import FEATURES, HEAD, HELD_OUT, RESULT, WEIGHTS
from heatbox.training.recipes import get_recipe

FEW = ("disc", "ring", "star")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders of 12, 9 and 6 glyphs."""
    root = tmp_path_factory.mktemp("photos")
    split, numbers = glyphs("train", 200), dict.fromkeys(FEW, 0)
    for example in split:
        name = split.class_names[example.label]
        if name in numbers and numbers[name] < 12 - 3 * FEW.index(name):
            path = root / name / f"{numbers[name]}.png"
            path.parent.mkdir(exist_ok=True)
            split.open_image(example).save(path)
            numbers[name] += 1
    return root


def config_of(data, **settings):
    settings = {"model": "resnet10_small", "size": 48, "held_out": 0.34, "device": "cpu", **settings}
    return FinetuneConfig(data=str(data), **settings)


@pytest.fixture(scope="module")
def fitted(photos, tmp_path_factory):
    """A run folder, and what `finetune` returned."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    return out, finetune(config_of(photos), out)


def logits_by_hand(out, photos, ids):
    """Logits by the files of a run alone: the included network up to its last layer, times the head."""
    network = create_model("resnet10_small", checkpoint="pretrained")
    network.reset_classifier(0)
    preprocess = ModelSpec("resnet10_small", size=48).preprocess(network)
    split = open_split(photos)
    images = {example.id: split.open_image(example) for example in split}
    with torch.no_grad():
        features = network(torch.stack([preprocess(images[name]) for name in ids]))
    with safe_open(out / HEAD, "pt") as file:
        return features @ file.get_tensor("weight").T + file.get_tensor("bias")


def test_the_checkpoint_knows_everything_without_options(fitted, photos):
    out, found = fitted
    split = open_split(photos)
    held_out = json.loads((out / HELD_OUT).read_text())["ids"]
    model = create_model("resnet10_small", checkpoint=out / WEIGHTS)  # no number of classes
    assert class_names(model, 3) == list(FEW)
    assert trained_function(model) == "softmax"
    assert data_config(model)["input_size"] == (3, 48, 48)
    assert list(found.class_names) == list(FEW)
    preprocess = ModelSpec("resnet10_small").preprocess(model)
    assert preprocess.size == (48, 48)
    images = torch.stack([preprocess(split.open_image(e)) for e in split if e.id in held_out])
    with torch.no_grad():
        logits = model(images)
    order = [e.id for e in split if e.id in held_out]
    torch.testing.assert_close(logits, logits_by_hand(out, photos, order), rtol=1e-3, atol=1e-3)
    labels = torch.tensor([e.label for e in split if e.id in held_out])
    assert found.scores["top1"] == pytest.approx(100 * float((logits.argmax(1) == labels).float().mean()))
    assert found.scores["images"] == {"train": 18, "measured": 9}
    assert [(row["train"], row["images"]) for row in found.scores["classes"]] == [(8, 4), (6, 3), (4, 2)]
    assert np.sum(found.scores["confusion"]) == 9
    view = ClassifierView(found.model)
    assert view.exact
    assert view.classifier.weight.shape[0] == 3


def test_other_commands_read_it(fitted, photos, tmp_path, capsys):
    out, _ = fitted
    assert spec_of_run(out).checkpoint == str(out / WEIGHTS)
    convert_checkpoint(out / WEIGHTS, tmp_path / "half.safetensors", half=True)
    for weights in (out / WEIGHTS, tmp_path / "half.safetensors"):
        localizer = Localizer(create_model("resnet10_small", checkpoint=weights))
        with Image.open(photos / "star" / "0.png") as image:
            found = localizer([image])
        assert found.score_function == "softmax"
        assert found.logits.shape == (1, 3)
    command = ["evaluate", "-m", "resnet10_small", "--checkpoint", str(out / WEIGHTS), "-d", "glyphs:test"]
    assert main([*command, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert "label 9 is out of range, expected 0 to 2" in capsys.readouterr().err


def test_an_interrupted_one_gives_the_same(fitted, photos, tmp_path, monkeypatch):
    reference, _ = fitted
    out, split = tmp_path / "run", open_split(photos)
    monkeypatch.setattr("heatbox.evaluation.predict.RECORDS_A_SHARD", 4)
    opened = []

    def failing(example):
        opened.append(example.id)
        if len(opened) > 15:
            raise KeyboardInterrupt
        return split.open_image(example)

    config = config_of(photos, batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, out, dataclasses.replace(split, open_image=failing))
    shards = sorted((out / FEATURES).glob("*.parquet"))
    assert shards
    assert not (out / WEIGHTS).exists()
    shards[0].write_bytes(b"damaged")
    finetune(config, out)
    for name in (HEAD, WEIGHTS):
        assert_same_tensors(out / name, reference / name)
    with pytest.raises(InputError, match="another held_out"):
        finetune(dataclasses.replace(config, held_out=0.5), out)
    fewer = dataclasses.replace(split, examples=split.examples[:-1])
    with pytest.raises(InputError, match="other images or labels"):
        finetune(config, out, fewer)
    finetune(config, out, fewer, overwrite=True)


def assert_same_tensors(path, other):
    with safe_open(path, "pt") as a, safe_open(other, "pt") as b:
        assert a.keys() == b.keys()
        for name in a.keys():  # noqa: SIM118
            torch.testing.assert_close(a.get_tensor(name), b.get_tensor(name), rtol=1e-4, atol=1e-4)


def test_images_of_several_classes_make_a_sigmoid(photos, tmp_path):
    split = open_split(photos)

    def relabelled(example):
        labels = (example.label, 2) if int(example.id.split("/")[1][0]) % 2 and example.label < 2 else None
        return Example(example.id, example.label, (0, 0), labels=labels or (example.label,))

    several = dataclasses.replace(split, examples=[relabelled(e) for e in split])
    unknown = Example(split.examples[0].id, -1, (0, 0), labels=())
    several = dataclasses.replace(several, examples=[unknown, *several.examples[1:]])
    with pytest.warns(AssumptionWarning) as said:
        found = finetune(config_of(photos), tmp_path / "run", several)
    notes = " ".join(str(one.message) for one in said)
    assert "of several classes" in notes
    assert "1 images without a label" in notes
    assert trained_function(found.model) == "sigmoid"
    assert found.scores["mAP"] == pytest.approx(np.mean([row["AP"] for row in found.scores["classes"]]))
    assert np.shape(found.scores["confusion"]) == (3, 2, 2)
    with pytest.raises(InputError, match=r"is of 2 classes.*--scores softmax"):
        finetune(config_of(photos, scores="softmax"), tmp_path / "other", dataclasses.replace(
            several, examples=several.examples[1:]
        ))  # fmt: skip


def test_classes_of_one_and_two_images_are_told_truthfully(photos, tmp_path):
    split = open_split(photos)
    of = {label: [e for e in split if e.label == label] for label in range(3)}
    few = dataclasses.replace(split, examples=[*of[0], *of[1][:1], *of[2][:2]])
    with pytest.warns(AssumptionWarning, match="no image of ring is left to measure on"):
        found = finetune(config_of(photos), tmp_path / "run", few)
    rows = found.scores["classes"]
    assert [(row["train"], row["images"]) for row in rows] == [(8, 4), (1, 0), (1, 1)]
    assert rows[1]["accuracy"] is None
    alone = dataclasses.replace(split, examples=[of[k][0] for k in range(3)])
    with pytest.warns(AssumptionWarning, match="no image is held out"):
        found = finetune(config_of(photos), tmp_path / "alone", alone)
    assert found.scores["top1"] is None


PLUGIN = """
import torch, torchvision
def net():
    torch.manual_seed(1)
    return torchvision.models.squeezenet1_1()
def resnet():
    torch.manual_seed(1)
    return torchvision.models.resnet18()
class Wrapped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = resnet()
    def forward(self, images):
        return self.model(images)
"""


@pytest.mark.parametrize("function", ["resnet", "Wrapped"])
def test_a_network_of_torchvision_gets_another_head(function, photos, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    name = f"{tmp_path / 'mine.py'}:{function}"
    with pytest.warns(AssumptionWarning, match="as the function returns them"):
        found = finetune(config_of(photos, model=name), tmp_path / "run")
    model = create_model(name, checkpoint=tmp_path / "run" / WEIGHTS)
    assert class_names(model, 3) == list(FEW)
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(model(images), found.model(images))
    again = dataclasses.replace(found.spec, checkpoint=str(tmp_path / "run" / WEIGHTS))
    other = config_of(photos, model=name, checkpoint=again.checkpoint, held_out=0.5)
    assert finetune(other, tmp_path / "more").scores["images"]["measured"] > 9


def test_logits_that_are_not_the_last_layer_are_refused(photos, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError, match=r"not its last linear layer|does not end in a linear layer"):
            finetune(config_of(photos, model=f"{tmp_path / 'mine.py'}:net", size=64), tmp_path / "run")


def test_a_network_of_transformers_gets_another_head(photos, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8, "layer_type": "basic"}
    torch.manual_seed(5)  # other than that of the configuration
    network = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, num_labels=5))
    network.save_pretrained(tmp_path / "net")
    name = f"hf:{tmp_path / 'net'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        found = finetune(config_of(photos, model=name), tmp_path / "run")
        model = create_model(name, checkpoint=tmp_path / "run" / WEIGHTS)
        assert class_names(model, 3) == list(FEW)
        assert data_config(model)["input_size"] == (3, 48, 48)
        own = network.resnet.embedder.embedder.convolution.weight
        torch.testing.assert_close(model.resnet.embedder.embedder.convolution.weight, own)
        scratch = finetune(config_of(photos, model=name, from_scratch=True), tmp_path / "scratch").model
        weight = scratch.resnet.embedder.embedder.convolution.weight
        assert not torch.equal(weight, own)
        images = torch.randn(2, 3, 48, 48)
        with torch.no_grad():
            torch.testing.assert_close(model(images).logits, found.model(images).logits)


def test_weights_of_another_number_of_classes_are_said(photos, tmp_path):
    network = timm.create_model("test_resnet", num_classes=11)
    torch.save(network.state_dict(), tmp_path / "eleven.pth")
    config = config_of(photos, model="test_resnet", checkpoint=str(tmp_path / "eleven.pth"))
    with pytest.warns(AssumptionWarning, match="classifier of 11 classes is replaced by one of 3"):
        found = finetune(config, tmp_path / "run")
    torch.testing.assert_close(found.model.layer1[0].conv1.weight, network.layer1[0].conv1.weight)


def test_weights_that_cannot_be_fetched_end_in_what_to_do(photos, tmp_path, monkeypatch):
    def offline(*args, pretrained=False, **options):
        if pretrained:
            raise OSError("We couldn't connect to the hub.\nCheck your connection. Or not.")
        return make(*args, **options)

    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match=r"could not be fetched .*--checkpoint.*--from-scratch") as error:
        finetune(config_of(photos, model="test_resnet"), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
    assert finetune(config_of(photos, model="test_resnet", from_scratch=True), tmp_path / "run2").scores


def test_the_best_epoch_of_the_whole_network_is_kept(photos, tmp_path):
    rows = []
    config = config_of(photos, epochs=3, patience=2, batch_size=6, lr=1e-3)
    found = finetune(config, tmp_path / "run", report=rows.append)
    with safe_open(tmp_path / "run" / HEAD, "pt") as file:
        start = json.loads(file.metadata()["scores"])["loss"]
    losses = [start, *(row["weights"]["loss"] for row in rows)]
    assert found.scores["epoch"] == int(np.argmin(losses))
    assert found.scores["loss"] == pytest.approx(min(losses), rel=1e-2)
    assert len(rows) == found.scores["epochs"]
    assert len(rows) == 3 or len(losses) - 1 - np.argmin(losses) == 2
    reference = finetune(config_of(photos, epochs=3, patience=2, batch_size=6, lr=1e-3), tmp_path / "again")
    assert reference.scores["confusion"] == found.scores["confusion"]
    # Killed after the last state but before the scores were written: the same from there.
    (tmp_path / "run" / RESULT).unlink()
    assert finetune(config, tmp_path / "run").scores == found.scores


def test_the_statistics_of_batch_norms_are_held(photos, tmp_path, monkeypatch):
    """A few small batches would replace what they have learned."""
    states, fit = [], whole_network.fit

    def watched(settings, options, plan, model, *args, **kwargs):
        states.append(copy.deepcopy(model.state_dict()))
        history = fit(settings, options, plan, model, *args, **kwargs)
        states.append(copy.deepcopy(model.state_dict()))
        return history

    monkeypatch.setattr(whole_network, "fit", watched)
    finetune(config_of(photos, epochs=1, batch_size=6, lr=1e-3), tmp_path / "run")
    before, after = states
    same = {name for name, values in before.items() if torch.equal(values, after[name])}
    held = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert held
    assert same == held


def test_the_command(photos, tmp_path, capsys):
    data = tmp_path / "photos"
    for path in photos.glob("*/*.png"):
        (data / path.parent.name).mkdir(parents=True, exist_ok=True)
        (data / path.parent.name / path.name).write_bytes(path.read_bytes())
    (data / "star" / "bad.png").write_bytes(b"no image")
    command = ["train", "finetune", "-m", "resnet10_small", "-d", str(data), "--size", "48"]
    command += ["--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(command) == 2
    assert "bad.png" in capsys.readouterr().err
    command += ["--on-bad", "skip", "--overwrite"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "left out: 1 unreadable" in printed.err
    assert "percent of held-out images" in " ".join(printed.out.split())
    assert main([*command[:-1], "--json"]) == 1  # finished, with the image left out still counted
    assert json.loads(capsys.readouterr().out)["left_out"] == {"unreadable": 1}
    assert main(["train", "finetun", "-d", str(data)]) == 2
    assert "did you mean finetune?" in capsys.readouterr().err


def test_a_recipe_whose_head_does_not_fit_names_finetune(small_data, tmp_path):
    config = dataclasses.replace(
        get_recipe("convnext_tiny"), model="test_resnet", pretrained="scratch", data=str(small_data),
        model_options={}, size=64, batch_size=8, per_device=8,
    )  # fmt: skip
    with pytest.raises(InputError, match="heatbox train finetune --model test_resnet"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"held_out": 1.0}, "held-out fraction"),
        ({"from_scratch": True, "checkpoint": "a.pth"}, "exclude each other"),
        ({"num_classes": 3}, "leave --num-classes out"),
        ({"epochs": -1}, "epochs"),
    ],
)
def test_impossible_settings_are_refused(settings, words, photos, tmp_path):
    with pytest.raises(InputError, match=words):
        finetune(config_of(photos, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()
