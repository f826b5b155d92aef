"""Which model a run folder stands for."""

import json

import pytest

from heatbox.config import ModelSpec
from heatbox.errors import InputError
from heatbox.training.weights import last_checkpoint, spec_of_run

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
    with pytest.raises(InputError, match=r"holds no config.json; expected the folder of a run"):
        spec_of_run(tmp_path)
    write(tmp_path, config=TRAINED, training={"last": {"epoch": "x"}})
    with pytest.raises(InputError, match=r"training.json: 'last/epoch' is not"):
        spec_of_run(tmp_path)
