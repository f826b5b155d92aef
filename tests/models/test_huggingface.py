"""Image classifiers of transformers from folders: weights, preprocessing, names, and what is refused."""

import json
import os
import socket

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from heatbox.cli.main import main
from heatbox.config import ModelSpec
from heatbox.data.transforms import Preprocess
from heatbox.errors import InputError
from heatbox.models.factory import create_model
from heatbox.models.outputs import select_output
from heatbox.models.processors import processor_config

transformers = pytest.importorskip("transformers")

SIDE = 64
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": SIDE,
    "patch_size": 16,
}
SWIN = {"image_size": SIDE, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **options):
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def resnet(**fields):
    torch.manual_seed(0)
    config = transformers.ResNetConfig(**{**RESNET, "num_labels": 3, **fields})
    return transformers.ResNetForImageClassification(config).eval()


def saved(model, folder, processor=None):
    """The name of a model saved with the configuration of its image processor."""
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return f"hf:{folder}"


def edited(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


# ------------------------------------------------------------------------------------------------ the model


@pytest.mark.parametrize(
    ("kind", "config", "fields"),
    [
        ("ResNetForImageClassification", "ResNetConfig", RESNET),
        (
            "ConvNextForImageClassification",
            "ConvNextConfig",
            {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]},
        ),
        ("SwinForImageClassification", "SwinConfig", SWIN),
        ("ViTForImageClassification", "ViTConfig", VIT),
        ("DeiTForImageClassificationWithTeacher", "DeiTConfig", VIT),
        ("TimmWrapperForImageClassification", "TimmWrapperConfig", {"architecture": "test_resnet"}),
    ],
)
def test_a_saved_model_gives_the_same_logits(kind, config, fields, tmp_path):
    torch.manual_seed(0)
    made = getattr(transformers, kind)(getattr(transformers, config)(**fields, num_labels=5)).eval()
    found = create_model(saved(made, tmp_path))
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(select_output(found(images)), made(images).logits, rtol=0, atol=0)
    assert not found.training


def test_weights_in_half_precision_become_float32(tmp_path):
    found = create_model(saved(resnet().half(), tmp_path))
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}


def test_class_names_and_the_kind_of_labels_come_from_the_configuration(tmp_path):
    labels = {0: "cat", 1: "dog", 2: "a bird"}
    model = create_model(
        saved(resnet(id2label=labels, problem_type="multi_label_classification"), tmp_path / "own")
    )
    spec = ModelSpec(model="hf:x")
    assert spec.class_names(model, 3) == ["cat", "dog", "a bird"]
    assert model.pretrained_cfg["problem_type"] == "multi_label_classification"
    unnamed = create_model(saved(resnet(), tmp_path / "unnamed"))
    assert spec.class_names(unnamed, 3) == ()


def test_a_folder_as_timm_saves_it(tmp_path):
    import timm

    made = timm.create_model("test_resnet", num_classes=4).eval()
    save_file(made.state_dict(), tmp_path / "model.safetensors")
    own = {"input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.9}
    own |= {"interpolation": "bicubic", "tag": "mine"}
    content = {
        "architecture": "test_resnet",
        "num_classes": 4,
        "pretrained_cfg": own,
        "label_names": [*"wxyz"],
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    model = create_model(f"hf:{tmp_path}")
    images = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(select_output(model(images)), made(images), rtol=0, atol=0)
    config = model.pretrained_cfg
    assert config["mean"] == (0.1, 0.2, 0.3)
    assert (config["input_size"], config["crop_pct"]) == ((3, 96, 96), 0.9)
    assert (config["interpolation"], config["architecture"]) == ("bicubic", "test_resnet")
    assert ModelSpec(model="hf:x").class_names(model, 4) == [*"wxyz"]


def test_weights_of_another_file_replace_those_of_the_folder(tmp_path):
    name = saved(resnet(), tmp_path / "model")
    other = resnet(num_labels=5)
    save_file(other.state_dict(), tmp_path / "five.safetensors")
    model = create_model(name, checkpoint=tmp_path / "five.safetensors")
    images = torch.randn(1, 3, SIDE, SIDE)
    torch.testing.assert_close(model(images).logits, other(images).logits, rtol=0, atol=0)
    with pytest.raises(InputError, match="has a classifier of 5 classes, not 3"):
        create_model(name, 3, tmp_path / "five.safetensors")


def test_a_folder_without_weights_is_for_training_only(tmp_path):
    name = saved(resnet(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="contains no weights for PyTorch; expected"):
        create_model(name)
    assert create_model(name, 7)(torch.randn(1, 3, SIDE, SIDE)).logits.shape == (1, 7)


# ------------------------------------------------------------------------------------------- preprocessing

PROCESSORS = [
    ("ViTImageProcessor", {}, 224, 1.0, "bilinear"),  # everything by default
    ("ViTImageProcessor", {"size": 96, "resample": 1, "image_mean": [0.1, 0.2, 0.3]}, 96, 1.0, "lanczos"),
    ("ViTImageProcessor", {"size": {"height": 48, "width": 64}, "resample": 4}, (48, 64), 1.0, "box"),
    ("ViTImageProcessor", {"do_normalize": False}, 224, 1.0, "bilinear"),
    ("ViTImageProcessor", {"do_rescale": False, "image_mean": [120, 110, 100]}, 224, 1.0, "bilinear"),
    ("ViTImageProcessor", {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1]}, 224, 1.0, "bilinear"),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.9}, 224, 0.902, "bicubic"),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}, 384, 1.0, "bicubic"),
    ("BitImageProcessor", {"size": {"shortest_edge": 256}, "crop_size": 224}, 224, 0.875, "bicubic"),
    ("LevitImageProcessor", {}, 224, 0.875, "bicubic"),
    ("EfficientNetImageProcessor", {"size": 96, "resample": 0}, 96, 1.0, "nearest"),  # divides by std twice
    ("EfficientNetImageProcessor", {"size": 96, "rescale_offset": True}, 96, 1.0, "bicubic"),
    ("MobileViTImageProcessor", {"size": {"shortest_edge": 288}}, 256, 0.889, "bicubic"),  # blue first
]


@pytest.mark.parametrize(("kind", "fields", "side", "crop", "filter_name"), PROCESSORS)
def test_input_is_as_the_image_processor_makes_it(kind, fields, side, crop, filter_name, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind, **fields}))
    config = processor_config(tmp_path, "it")
    height, width = side if isinstance(side, tuple) else (side, side)
    assert config["input_size"] == (3, height, width)
    assert config["crop_pct"] == pytest.approx(crop, abs=0.002)
    assert config["interpolation"] == filter_name
    assert ("channel_order" in config) == (kind == "MobileViTImageProcessor")
    # The values of pixels do not depend on how an image of one colour is resized and cropped.
    image = Image.new("RGB", (300, 300), (10, 80, 200))
    processor = transformers.AutoImageProcessor.from_pretrained(
        tmp_path, use_fast=fields.get("resample") != 4
    )
    expected = processor(images=[image], return_tensors="pt")["pixel_values"][0]
    found = Preprocess.from_config({**config, "channel_order": "rgb"})(
        Image.new("RGB", (300, 300), (200, 80, 10)) if "channel_order" in config else image
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_image_of_the_input_size_becomes_what_its_processor_makes(tmp_path):
    processor = {"image_processor_type": "ViTImageProcessor", "size": SIDE, "image_std": [0.2, 0.3, 0.4]}
    model = create_model(saved(resnet(), tmp_path, processor))
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    own = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    expected = own(images=[image], return_tensors="pt")["pixel_values"][0]
    found = ModelSpec(model="hf:x").preprocess(model)(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_networks_of_other_numbers_of_channels(tmp_path):
    grey = {
        "image_processor_type": "ViTImageProcessor",
        "size": 28,
        "image_mean": [0.13],
        "image_std": [0.31],
    }
    model = create_model(saved(resnet(num_channels=1), tmp_path / "one", grey))
    assert model.pretrained_cfg["mean"] == (0.13,)
    assert model.pretrained_cfg["input_size"] == (1, 28, 28)
    five = {**grey, "image_mean": [0.1, 0.2, 0.3, 0.4, 0.5], "image_std": [0.5] * 5}
    model = create_model(saved(resnet(num_channels=5), tmp_path / "five", five))
    assert model.pretrained_cfg["mean"] == (0.1, 0.2, 0.3, 0.4, 0.5)
    left = {"image_processor_type": "ViTImageProcessor"}  # RGB's mean for a grey network
    assert "mean" not in create_model(saved(resnet(num_channels=1), tmp_path / "left", left)).pretrained_cfg


def test_what_a_folder_does_not_say_is_not_invented(tmp_path):
    assert create_model(saved(resnet(), tmp_path / "none")).pretrained_cfg == {
        "architecture": "ResNetForImageClassification"
    }
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, num_labels=3))
    config = create_model(saved(vit, tmp_path / "size")).pretrained_cfg
    assert config == {"architecture": "ViTForImageClassification", "input_size": (3, SIDE, SIDE)}
    any_size = {"image_processor_type": "ViTImageProcessor", "do_resize": False}
    config = create_model(saved(resnet(), tmp_path / "any", any_size)).pretrained_cfg
    assert config["mean"] == (0.5, 0.5, 0.5)
    assert "input_size" not in config


def test_a_processor_of_ones_own_is_read_by_its_usual_fields(tmp_path):
    fields = {
        "image_processor_type": "MyProcessor",
        "image_mean": [0.1] * 3,
        "image_std": [0.2] * 3,
        "size": 32,
    }
    config = create_model(saved(resnet(), tmp_path, fields)).pretrained_cfg
    assert (config["mean"], config["std"], config["input_size"]) == ((0.1,) * 3, (0.2,) * 3, (3, 32, 32))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_std": [0, 0, 0]}, "does not make larger numbers of brighter pixels"),
        ({"image_mean": [0.1, 0.2]}, "preprocessor_config.json cannot be used"),
        ({"size": {"side": 3}}, "preprocessor_config.json cannot be read"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, r"makes pixel_values \(1, 256, 768\)"),
        ({"image_processor_type": "MyProcessor"}, "preprocessor_config.json cannot be read"),
    ],
)
def test_processors_that_make_no_images_are_refused(fields, words, tmp_path):
    name = saved(resnet(), tmp_path, {"image_processor_type": "ViTImageProcessor", **fields})
    with pytest.raises(InputError, match=words):
        create_model(name)


def test_located_by_its_name(tmp_path, capsys):
    labels = {0: "cat", 1: "dog"}
    model = resnet(num_labels=2, id2label=labels, problem_type="multi_label_classification")
    nn.init.zeros_(model.classifier[1].weight)
    model.classifier[1].bias.data = torch.tensor([-1.0, 5.0])
    fields = {"image_processor_type": "ViTImageProcessor", "size": SIDE}
    Image.new("RGB", (80, 60), "red").save(tmp_path / "red.png")
    name = saved(model, tmp_path / "model", fields)
    assert main(["locate", str(tmp_path / "red.png"), "--model", name, "--no-overlays"]) == 0
    printed = capsys.readouterr()
    line = json.loads(printed.out)
    assert (line["name"], line["scores"]) == ("dog", "sigmoid")
    assert line["score"] == pytest.approx(0.993307, abs=1e-6)
    assert "note" not in printed.err  # nothing is assumed


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf:", "'hf:' names no model, expected hf:FOLDER or hf:OWNER/NAME"),
        ("hf:./missing", "there is no such folder"),
        ("hf:a/b/c", "there is no such folder"),
        (f"hf:{__file__}", "is a file, expected a folder with config.json"),
        ("hf:owner/never-published", "neither a folder here, nor cached, nor could be fetched"),
    ],
)
def test_names_without_a_folder(name, words, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=words):
        create_model(name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", r"config.json: is not JSON"),
        ("[]", r"config.json: is a JSON list"),
        ('{"model_type": "no_such"}', "transformers cannot read this configuration"),
        ('{"model_type": "mine", "auto_map": {"AutoConfig": "c.C"}}', "needs Python code of its own"),
        ('{"model_type": "bert", "architectures": ["BertModel"]}', "is BertModel, for which"),
        ('{"model_type": "resnet", "depths": "x"}', "cannot read this configuration"),
    ],
)
def test_folders_that_are_no_image_classifier(content, words, tmp_path):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=words):
        create_model(f"hf:{tmp_path}")


def test_folders_beside_the_right_one(tmp_path):
    with pytest.raises(
        InputError, match=r"has no config.json, expected a folder as save_pretrained writes it$"
    ):
        create_model(f"hf:{tmp_path}")
    saved(resnet(), tmp_path / "checkpoint-10")
    with pytest.raises(InputError, match="the folders checkpoint-10 in it have one"):
        create_model(f"hf:{tmp_path}")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="contains an adapter only"):
        create_model(f"hf:{tmp_path}")


class RunsCode:
    def __reduce__(self):
        return os.system, ("echo this ran",)


def test_weights_that_cannot_be_used(tmp_path, capfd):
    name = saved(resnet(), tmp_path)
    with pytest.raises(InputError, match="its weights are those of 3 classes, not 5"):
        create_model(name, 5)
    with pytest.raises(InputError, match="its configuration has no 'depth'"):
        create_model(name, depth=3)
    edited(tmp_path, num_channels=1)
    with pytest.raises(
        InputError, match=r"is \[8, 3, 7, 7\] where \[8, 1, 7, 7\] is expected \(first of 1\)"
    ):
        create_model(name)
    edited(
        tmp_path, num_channels=3, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}
    )
    with pytest.raises(InputError, match=r"its weights are quantized \(bitsandbytes\)"):
        create_model(name)
    weights = tmp_path / "model.safetensors"
    saved(resnet(), tmp_path)
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(InputError, match="is a pointer of Git LFS"):
        create_model(name)
    weights.write_bytes(bytes(100))
    with pytest.raises(InputError, match=r"model.safetensors: .*damaged"):
        create_model(name)
    weights.unlink()
    torch.save({"weights": RunsCode()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="refused, because reading it would run"):
        create_model(name)
    assert "this ran" not in capfd.readouterr().out
    torch.save(resnet().state_dict(), tmp_path / "pytorch_model.bin")
    create_model(name)  # tensors alone are read
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "tf_model.h5")
    with pytest.raises(InputError, match="no weights for PyTorch, only those of Keras"):
        create_model(name)


def test_models_without_a_trained_classifier(tmp_path):
    backbone = transformers.ResNetModel(transformers.ResNetConfig(**RESNET))
    with pytest.raises(InputError, match=r"of ResNetModel, do not fit .* 'classifier.1.bias' is missing"):
        create_model(saved(backbone, tmp_path))


def test_models_of_other_inputs(tmp_path):
    config = transformers.ImageGPTConfig(n_embd=16, n_layer=1, n_head=1, n_positions=16)
    with pytest.raises(InputError, match="reads input_ids, not images"):
        create_model(saved(transformers.ImageGPTForImageClassification(config), tmp_path))


def test_without_transformers(monkeypatch, tmp_path):
    monkeypatch.setattr("heatbox._utils.extras._is_installed", lambda name: name != "transformers")
    with pytest.raises(InputError, match=r"hf:.* needs transformers: pip install 'heatbox\[hf\]'"):
        create_model(f"hf:{tmp_path}")
