"""Models by name, from files and with checkpoints."""

import pickle
from collections import OrderedDict

import pytest
import torch

from heatbox.errors import InputError
from heatbox.models.factory import create_model, create_with_new_head
from heatbox.models.introspect import ClassifierView, class_maps
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


@pytest.mark.parametrize("prefix", ["", "net."])
def test_a_new_head_on_weights_of_other_classes(prefix, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import timm\ndef build(num_classes=9):\n"
        "    return timm.create_model('test_resnet', num_classes=num_classes)\n"
    )
    trained = create_model("test_resnet", num_classes=3)
    state = {prefix + name: tensor for name, tensor in trained.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "w.ckpt")
    for name in ("test_resnet", f"{tmp_path / 'mine.py'}:build"):
        model, layer = create_with_new_head(name, 4, tmp_path / "w.ckpt")
        assert len(model.get_submodule(layer).weight) == 4
        assert torch.equal(model.conv1[0].weight, trained.conv1[0].weight)


def test_a_function_that_wants_arguments_nobody_gives(tmp_path):
    (tmp_path / "own.py").write_text(OWN_CLASS)
    with pytest.raises(InputError, match=r"own\.py:wants: cannot be called with no arguments .*'width'"):
        create_model(f"{tmp_path / 'own.py'}:wants")


# ------------------------------------------------------------------------------ other forms of models


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Files of one network in forms that have no modules, and of its weights."""
    tmp_path = tmp_path_factory.mktemp("programs")
    model = create_model("test_resnet", num_classes=4)
    images = torch.randn(2, 3, 64, 64)
    torch.jit.save(torch.jit.trace(model, images), tmp_path / "script.pt")
    torch.export.save(torch.export.export(model, (images,)), tmp_path / "program.pt2")
    torch.save(model, tmp_path / "whole.pth")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    (tmp_path / "graph.onnx").write_bytes(b"\x08\x0a")
    (tmp_path / "graph.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    (tmp_path / "model.bin").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "saved_model.pb").touch()
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").touch()
    (tmp_path / "mine.py").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("script.pt", "is a TorchScript program, whose layers cannot be looked into; expected a timm model"),
        (
            "program.pt2",
            r"is a program of torch.export, .*hf:FOLDER, hf:OWNER/NAME or path/to/file.py:function",
        ),
        ("graph.onnx", "is an ONNX graph"),
        ("graph.tflite", "is a TensorFlow Lite graph"),
        ("model.bin", "is a Keras or HDF5 file"),
        ("keras", "is a TensorFlow SavedModel"),
        ("whole.pth", "refused, because reading it would run timm.models.resnet.ResNet"),
        ("weights.pth", "is a file of weights; it is a checkpoint, expected the network"),
        ("hf", r"is a folder; hf:/\S+ names the classifier in it"),
        ("mine.py", r"names no function, expected \S+mine.py:FUNCTION"),
        ("", "is a folder; expected a timm model name, hf:FOLDER"),
    ],
)
def test_files_that_are_no_model(file, words, programs):
    with pytest.raises(InputError, match=words):
        create_model(str(programs / file))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("script.pt", r"is a TorchScript program, not a checkpoint; .*torch.jit.load\(FILE\).state_dict\(\)"),
        ("program.pt2", "is a program of torch.export, not a checkpoint; expected the weights"),
        ("graph.onnx", "is an ONNX graph, not a checkpoint"),
        ("model.bin", "is a Keras or HDF5 file, not a checkpoint"),
        ("whole.pth", "refused, because reading it would run timm.models.resnet.ResNet"),
        ("hf", "is a folder, expected a file of weights"),
    ],
)
def test_files_that_are_no_checkpoint(file, words, programs):
    with pytest.raises(InputError, match=words):
        create_model("test_resnet", checkpoint=programs / file)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm/resnet50.a1_in1k", "did you mean hf:timm/resnet50.a1_in1k"),
        ("hf-hub:timm/resnet50.a1_in1k", "did you mean hf:timm/resnet50.a1_in1k"),
        ("package.module:build", "expected a timm model name, hf:FOLDER, hf:OWNER/NAME or path/to/file.py"),
        ("resnet50.no_such", "timm has no weights 'no_such' of resnet50, only .*a1_in1k"),
    ],
)
def test_names_of_other_libraries(name, words):
    with pytest.raises(InputError, match=words):
        create_model(name)


@pytest.mark.filterwarnings("ignore")
def test_models_that_are_no_networks_of_modules():
    model = create_model("test_resnet", num_classes=4)
    images = torch.randn(2, 3, 64, 64)
    traced = torch.jit.trace(model, images)
    script = "is a TorchScript program, whose layers cannot be looked into"
    graph = torch.export.export(model, (images,)).module()
    quantized = torch.nn.Sequential(OrderedDict(body=model, fc=torch.nn.Linear(4, 4)))
    quantized.fc = torch.ao.nn.quantized.dynamic.Linear(4, 4)
    for other, words in [
        (torch.jit.freeze(traced), script),
        (graph, "is a graph as torch.export makes it"),
        (quantized, r"is quantized \(fc is torch.ao.nn.quantized"),
    ]:
        with pytest.raises(InputError, match=words):
            ClassifierView(other)
    for same in (torch.fx.symbolic_trace(model), traced, torch.nn.Sequential(traced)):  # these call operators
        torch.testing.assert_close(class_maps(same, images).maps, class_maps(model, images).maps)
    with pytest.raises(TypeError, match=r"ExportedProgram, expected a torch.nn.Module"):
        ClassifierView(torch.export.export(model, (images,)))


def test_a_function_that_returns_a_program(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\ndef build():\n    linear = torch.nn.Linear(2, 2).eval()\n"
        "    return torch.export.export(linear, (torch.zeros(1, 2),)).module()\n"
    )
    with pytest.raises(InputError, match="returned GraphModule, which is a graph as"):
        create_model(f"{tmp_path}/mine.py:build")
