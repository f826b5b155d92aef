"""Models by name, from files and with checkpoints."""

import pickle

import pytest
import torch

from heatbox.errors import InputError
from heatbox.models.factory import create_model
from helpers.scenes import write_checkpoint, write_model


def test_timm_name():
    model = create_model("test_resnet", num_classes=7)
    assert model.num_classes == 7
    assert not model.training


def test_unknown_name_suggests_near_ones():
    with pytest.raises(InputError, match=r"no model named 'resnet81'; did you mean .*resnet18"):
        create_model("resnet81")


def test_function_in_a_file(tmp_path):
    name = write_model(tmp_path)
    assert create_model(name)[-1].out_features == 10
    assert create_model(name, num_classes=4)[-1].out_features == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name: name.replace("mine", "yours"), "no such file"),
        (lambda name: name.replace(":blobs", ":squares"), "has no function named 'squares'"),
        (lambda name: name.replace(":blobs", ":no_model"), "returned str, expected a torch.nn.Module"),
    ],
)
def test_function_that_is_not_there(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        create_model(change(write_model(tmp_path)))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_checkpoint_is_loaded(tmp_path, suffix):
    torch.manual_seed(5)
    saved = create_model("test_resnet", num_classes=7)
    path = write_checkpoint(saved, tmp_path / f"weights{suffix}")
    torch.manual_seed(6)
    loaded = create_model("test_resnet", num_classes=7, checkpoint=path)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(saved(images), loaded(images))


def test_checkpoint_of_another_architecture(tmp_path):
    path = write_checkpoint(create_model("test_resnet"), tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"weights\.safetensors: .*missing.*unexpected"):
        create_model("test_convnext", checkpoint=path)
    with pytest.raises(InputError, match="expected"):
        create_model("test_resnet", num_classes=3, checkpoint=path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\0\0\0\0\0\0\0{}garbage"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged_checkpoint(tmp_path, content, suffix):
    (tmp_path / f"weights{suffix}").write_bytes(content)
    with pytest.raises(InputError, match="weights"):
        create_model("test_resnet", checkpoint=tmp_path / f"weights{suffix}")


def test_missing_checkpoint(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint file"):
        create_model("test_resnet", checkpoint=tmp_path / "none.pth")


class Trap:
    def __reduce__(self):
        import pathlib

        return pathlib.Path.touch, (pathlib.Path("sprung"),)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Trap()}, "a.pth")
    with pytest.raises(InputError, match=r"a\.pth"):
        create_model("test_resnet", checkpoint="a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps({"weight": Trap()}))
    with pytest.raises(InputError, match=r"b\.pth"):
        create_model("test_resnet", checkpoint="b.pth")
    assert not (tmp_path / "sprung").exists()


OWN_CLASS = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn

@dataclass
class Settings:
    width: int = 4

class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(Settings().width, 2)

def own():
    return Own()

def wants(width):
    return Own()
"""


def test_a_class_of_ones_own_takes_a_checkpoint(tmp_path):
    (tmp_path / "own.py").write_text(OWN_CLASS)
    name = f"{tmp_path / 'own.py'}:own"
    saved = create_model(name)
    path = write_checkpoint(saved, tmp_path / "weights.safetensors")
    assert torch.equal(create_model(name, checkpoint=path).fc.weight, saved.fc.weight)


def test_a_function_that_wants_arguments_nobody_gives(tmp_path):
    (tmp_path / "own.py").write_text(OWN_CLASS)
    with pytest.raises(InputError, match=r"own\.py:wants: cannot be called with no arguments .*'width'"):
        create_model(f"{tmp_path / 'own.py'}:wants")
