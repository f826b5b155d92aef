"""Forms of models that are no networks of modules, such as programs and graphs: what they are, in words."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

_SUFFIXES = {
    ".onnx": "an ONNX graph",
    ".ort": "an ONNX Runtime graph",
    ".pb": "a TensorFlow graph",
    ".h5": "a Keras file",
    ".keras": "a Keras file",
    ".tflite": "a TensorFlow Lite graph",
    ".mlmodel": "a Core ML model",
    ".mlpackage": "a Core ML model",
    ".engine": "a TensorRT engine",
    ".plan": "a TensorRT engine",
    ".xml": "an OpenVINO graph",
    ".msgpack": "a Flax file",
    ".gguf": "a GGUF file",
    ".pte": "an ExecuTorch program",
}
_STARTS = {b"\x89HDF": "a Keras or HDF5 file", b"GGUF": "a GGUF file"}
_INSIDE = {
    "/constants.pkl": "a TorchScript program",
    "/archive_format": "a program of torch.export",
    "serialized_exported_program.json": "a program of torch.export",
    "model.weights.h5": "a Keras file",
}
"""End of the name of a file in a ZIP archive → what the archive is."""
_QUANTIZED = ("quantized", "torchao", "bitsandbytes", "gptq", "awq", "hqq", "quanto", "eetq", "auto_round")
"""Parts of the names of packages and modules whose layers or tensors are quantized."""

_OPAQUE = "whose layers cannot be looked into"


def program_in(path: Path) -> str:
    """What a file or folder is that is neither weights nor code, such as "an ONNX graph"; "" if unknown."""
    if path.is_dir():
        saved = (path / "saved_model.pb").is_file()
        return "a TensorFlow SavedModel" if saved else _SUFFIXES.get(path.suffix.lower(), "")
    try:
        with path.open("rb") as file:
            start = file.read(8)
        if start[4:] == b"TFL3":
            return "a TensorFlow Lite graph"
        if start[:4] in _STARTS:
            return _STARTS[start[:4]]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            found = (what for end, what in _INSIDE.items() if any(name.endswith(end) for name in names))
            return next(found, "")
    except (OSError, zipfile.BadZipFile):
        return ""
    return _SUFFIXES.get(path.suffix.lower(), "")


def refusal(model: nn.Module) -> str:
    """Why no layer of a model can be looked into, in words that follow its name; "" where that is not so.

    To be asked after looking has failed: a network around such a part may well be read.
    """
    scripts = [module for module in model.modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripts and 2 * sum(map(_size, _outermost(scripts))) >= _size(model):
        return f"is a TorchScript program, {_OPAQUE}; pass the network that it was made of"
    if isinstance(model, torch.fx.GraphModule) and not any(map(_size, _called(model))):
        return f"is a graph as torch.export makes it, {_OPAQUE}; pass the network that it was made of"
    for name, layer in quantized_layers(model):
        return (
            f"is quantized ({name} is {type(layer).__module__}.{type(layer).__qualname__}), and logits of "
            "rounded numbers are not those of class weights; pass the network before quantization"
        )
    return ""


def _size(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def _outermost(modules: Sequence[nn.Module]) -> list[nn.Module]:
    inner = {id(part) for one in modules for part in list(one.modules())[1:]}
    return [one for one in modules if id(one) not in inner]


def _called(graph: torch.fx.GraphModule) -> Iterator[nn.Module]:
    """The modules that a graph calls."""
    return (graph.get_submodule(node.target) for node in graph.graph.nodes if node.op == "call_module")


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of the layers whose weights are quantized."""
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        tensor = weight.data if isinstance(weight, nn.Parameter) else weight
        integers = isinstance(tensor, torch.Tensor) and not (
            tensor.is_floating_point() or tensor.is_complex()
        )
        origins = (type(layer).__module__, type(weight).__module__, type(tensor).__module__)
        named = any(word in origin for origin in origins for word in _QUANTIZED)
        if integers or (named and weight is not None):
            yield name or "it", layer
