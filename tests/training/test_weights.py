"""Which model a run folder stands for, and what its initial weights were trained on."""

import dataclasses
import json

import pytest
from torch import nn

from heatbox.config import ModelSpec
from heatbox.errors import InputError
from heatbox.training.recipes import get_recipe
from heatbox.training.weights import last_checkpoint, pretraining_of, save_weights, spec_of_run

TRAINED = {"recipe": "r", "model": "test_slak", "size": 64, "mean": [0.5] * 3, "std": [0.2] * 3}
EVALUATED = {"model": "resnet18", "checkpoint": "own.pth", "num_classes": 5, "size": None, "device": "cuda"}


def write(folder, **contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_a_training_stands_for_its_last_weights(tmp_path):
    folder = write(tmp_path / "run", config=TRAINED, training={"last": {"epoch": 3, "weights": {}}})
    spec = spec_of_run(folder)
    assert spec.checkpoint == str(folder / "checkpoints" / "epoch-0003.safetensors")
    assert (spec.model, spec.size, spec.mean, spec.std) == ("test_slak", 64, (0.5,) * 3, (0.2,) * 3)
    write(folder, training={"last": {"epoch": 3, "weights": {}, "ema": {}}})
    assert spec_of_run(folder).checkpoint == str(folder / "checkpoints" / "epoch-0003-ema.safetensors")
    assert spec_of_run(folder, checkpoint="other.pth", size=96, mean=None) == ModelSpec(
        "test_slak", checkpoint="other.pth", size=96, mean=(0.5,) * 3, std=(0.2,) * 3
    )


def test_an_evaluation_stands_for_the_model_it_evaluated(tmp_path):
    folder = write(tmp_path / "run", config=EVALUATED)
    assert spec_of_run(folder) == ModelSpec("resnet18", checkpoint="own.pth", num_classes=5)
    assert spec_of_run(folder, device="cpu").device == "cpu"
    assert last_checkpoint(folder) is None


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(InputError, match=r"contains no config.json; expected the folder of a run"):
        spec_of_run(tmp_path)
    write(tmp_path, config=TRAINED, training={"last": {"epoch": "x"}})
    with pytest.raises(InputError, match=r"training.json: 'last/epoch' is not"):
        spec_of_run(tmp_path)


@pytest.mark.parametrize(
    ("recipe", "changes", "expected"),
    [
        ("glyphs_resnet", {}, "scratch"),
        ("glyphs_resnet", {"pretrained": "published"}, "glyphs_resnet"),  # the weights shipped with heatbox
        ("convnext_base", {}, "in1k"),
        ("convnext_base_384_in22ft1k_aug", {}, "in22k"),
        ("convnext_base", {"model": "resnet50"}, "in1k"),
        ("replknet_31b_in1k_384", {}, "in1k"),
        ("replknet_31l_in22k_384", {"pretrained": "else/RepLKNet-31L_ImageNet-22K-to-1K_384.pth"}, "in22k"),
        ("replknet_xl_320", {}, "megdata73m"),
        ("slak_tiny_k51_384", {}, "in1k"),
    ],
)
def test_the_pre_training_of_the_initial_weights(recipe, changes, expected):
    assert pretraining_of(dataclasses.replace(get_recipe(recipe), **changes)) == expected


def test_the_pre_training_of_a_file_is_in_its_metadata(tmp_path):
    config = get_recipe("glyphs_resnet")
    path = tmp_path / "checkpoints" / "own.safetensors"
    for name, expected in (("mine", "mine"), ("", "own")):
        save_weights(nn.Linear(2, 3), dataclasses.replace(config, recipe=name), 3, "scratch", path)
        assert pretraining_of(dataclasses.replace(config, pretrained=str(path))) == expected


def test_class_names_are_kept_with_the_weights(tmp_path):
    from heatbox.models.factory import create_model
    from heatbox.models.spec import class_names

    config = dataclasses.replace(get_recipe("glyphs_resnet"), model="test_resnet", model_options={})
    model = create_model("test_resnet", 3)
    save_weights(model, config, 3, "scratch", tmp_path / "a.safetensors", ["ant", "bee", "no"])
    loaded = create_model("test_resnet", checkpoint=str(tmp_path / "a.safetensors"))
    assert class_names(loaded, 3) == ["ant", "bee", "no"]
    save_weights(model, config, 3, "scratch", tmp_path / "b.safetensors")
    assert class_names(create_model("test_resnet", checkpoint=str(tmp_path / "b.safetensors")), 3) == ()
