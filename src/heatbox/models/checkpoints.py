"""Checkpoint files: read without running their code, matched to a model, loaded, converted.

Safetensors and PyTorch files of the models' authors and of training scripts can be read. Names and shapes
determine whether weights fit a model, which form the model takes, and which model of the zoo a file
resembles.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from heatbox._utils import deprecated
from heatbox._utils.checks import check_module, kind_of
from heatbox._utils.io import named_when_whole
from heatbox.errors import AssumptionWarning, InputError, quoted
from heatbox.models._blocks import merge_as_in
from heatbox.models.efficientnet_names import (
    is_efficientnet_pytorch,
    likely_efficientnet,
    renamed_efficientnet,
)
from heatbox.models.forms import program_in
from heatbox.models.slak import recover_masks
from heatbox.models.spec import update_data_config
from heatbox.models.zoo import CUB, ZOO, Weights, ZooModel

if not TYPE_CHECKING:
    __getattr__ = deprecated.old_names(__name__, convert="convert_checkpoint")

StateDict = dict[str, Tensor]

# Entries under which training scripts save the weights, in order of preference.
CONTAINERS = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "module",
    "net",
    "weights",
    "state_dict_ema",
    "model_ema",
)
# Prefixes that wrappers add to every name.
PREFIXES = ("module.", "_orig_mod.", "model.")
# The paper's ConvNeXt files are of Sequential(Sequential(stem, stages), head).
WRAPPED = {"0.0.": "stem.", "0.1.": "stages.", "1.fc.": "head.fc."}
HUB_PREFIXES = ("hf-hub:", "hf_hub:")
# Counters that only cumulative averaging uses and some files lack; and those of thop, which no network has.
COUNTERS = ("num_batches_tracked", "total_ops", "total_params")
# Fields of a training script's file that have the names of the classes, by number or as name → number.
CLASS_FIELDS = ("class_names", "classes", "CLASSES", "class_to_idx", "idx_to_class", "id2label", "label2id")
# Likeness from which a message names a model.
ALIKE = 0.5
CLASSIFIERS = ("head.fc.", "head.", "fc.", "_fc.", "classifier.")
HEAD_NORM = ("head.norm.weight", "head.norm.bias")


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file and its information about them.

    Attributes:
        source: path or hub name, for messages.
        state: parameter names → tensors, without the prefixes of wrappers.
        entry: name of the entry that contains them; "" for a flat file.
        metadata: text fields of a safetensors file.
        wrapped: whether the file has the key layout of the paper's ConvNeXt files.
    """

    source: str
    state: StateDict
    entry: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    wrapped: bool = False


def read_checkpoint(path: str | Path, entry: str | None = None) -> Checkpoint:
    """Read a safetensors file, a PyTorch file, or (online) a model of the hub.

    Args:
        path: the file, or "hf-hub:owner/name".
        entry: which of several sets of weights to take from a training script's file, such as "model_ema".

    Raises:
        InputError: no such file, not a checkpoint, damaged, or a pickle that would run code.
        TypeError: neither text nor a path.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"path: {kind_of(path)}, expected a checkpoint file or hf-hub:owner/name")
    if isinstance(path, str) and path.startswith(HUB_PREFIXES):
        return read_hub(path)
    path = Path(path)
    if not os.path.isfile(path):
        what = "is a folder" if path.is_dir() else "no such checkpoint file"
        raise InputError(f"{path}: {what}{', expected a file of weights' if path.is_dir() else ''}")
    metadata: Mapping[str, str] = {}
    if is_safetensors(path):
        content, metadata = read_safetensors(path)
    else:
        content = read_pickle(path)
        if names := _noted_names(content):
            metadata = {"class_names": json.dumps(names)}
    try:
        state, found = unwrap(content, entry, str(path))
    except RecursionError as error:
        raise InputError(f"{path}: its entries are nested too deeply") from error
    return rename_wrapped(Checkpoint(str(path), strip_prefixes(state), found, metadata))


def is_safetensors(path: Path) -> bool:
    """Whether the file starts as safetensors do: the length of a JSON header, then the header."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return len(start) == 9 and start[8:] == b"{"


def read_safetensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # a damaged header can make the reader raise anything
        raise InputError(f"{path}: the safetensors file is damaged ({quoted(error)})") from error


def read_pickle(path: Path) -> Any:
    """Content of a PyTorch file that consists of tensors and plain values only.

    Plain are also values that training scripts save beside the weights: their arguments, numbers and arrays
    of NumPy, paths and dates.
    """
    try:
        with torch.serialization.safe_globals(_plain_types()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; errors are raised
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        _refuse_program(path)
        culprit = re.search(r"(?:GLOBAL|function|global) ([A-Za-z_][\w.]*\.\w+)", str(error))
        problem = f"refused, because reading it would run {culprit[1]}" if culprit else "not a checkpoint"
        raise InputError(
            f"{path}: {problem}; expected tensors only, as safetensors or a state_dict saved by torch.save"
        ) from error
    except Exception as error:  # a damaged file can make the unpickler raise anything
        _refuse_program(path)
        raise InputError(f"{path}: not a checkpoint, or damaged ({quoted(error)})") from error


@cache
def _plain_types() -> list[Any]:
    """Types, and functions of NumPy that make values of bytes, whose pickles run no code of the file."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    types: list[Any] = [argparse.Namespace, np.ndarray, np.dtype, date, datetime, timedelta, timezone]
    types += {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdFDSU"}
    types += [(lambda *_: {}, "collections.defaultdict")]  # filled as a dictionary
    types += [(one, f"builtins.{one.__name__}") for one in (list, dict, set, int, float)]
    for package in ("numpy._core.multiarray", "numpy.core.multiarray"):  # NumPy 2 and 1
        types += [(scalar, f"{package}.scalar"), (array, f"{package}._reconstruct")]
    for module in ("pathlib", "pathlib._local"):  # of any system
        types += [(PurePosixPath, f"{module}.{name}") for name in ("PosixPath", "PurePosixPath")]
        types += [(PureWindowsPath, f"{module}.{name}") for name in ("WindowsPath", "PureWindowsPath")]
    return types


def _refuse_program(path: Path) -> None:
    """Raise where a file is a program or a graph, which are saved with the weights inside."""
    if program := program_in(path):
        hint = "; torch.save(torch.jit.load(FILE).state_dict(), NEW) saves its weights"
        raise InputError(
            f"{path}: is {program}, not a checkpoint; expected the weights, as safetensors or a state_dict "
            f"saved by torch.save{hint if 'TorchScript' in program else ''}"
        )


def read_hub(name: str) -> Checkpoint:
    """Weights of a model on the hub, by name; needs the network or a filled cache."""
    from timm.models._hub import load_state_dict_from_hf

    try:
        state = load_state_dict_from_hf(name.partition(":")[2])
    except Exception as error:  # the client raises its own errors and those of its transport
        raise InputError(f"{name}: could not be fetched from the hub ({quoted(error)})") from error
    return Checkpoint(name, strip_prefixes(state))


def unwrap(content: Any, entry: str | None, source: str) -> tuple[StateDict, str]:
    """The mapping of names to tensors inside a file's content, and the name of the entry that contains it."""
    if not isinstance(content, Mapping):
        raise InputError(f"{source}: contains a {type(content).__name__}, expected names and their tensors")
    inside = [name for name in CONTAINERS if isinstance(content.get(name), Mapping)]
    inside = [name for name in inside if _has_tensors(content[name])] or inside
    if not inside and not _is_flat(content):
        inside = [name for name in content if isinstance(name, str) and _is_flat(content[name])]
        if entry is None and len(inside) > 1:
            hint = f"choose one: heatbox convert {source} --entry {inside[0]}"
            raise InputError(f"{source}: has weights under {', '.join(map(repr, inside))}; {hint}")
    if entry is not None and not isinstance(content.get(entry), Mapping):
        expected = f"one of {inside}" if inside else "no entry, the file is flat"
        raise InputError(f"{source}: has no weights under {entry!r}, expected {expected}")
    chosen = entry if entry is not None else next(iter(inside), None)
    if entry is None and len(inside) > 1:
        what = f"of the weights under {', '.join(map(repr, inside))}, {chosen!r} is used"
        warnings.warn(f"{source}: {what}; heatbox convert --entry takes others", AssumptionWarning, 3)
    if chosen is not None:
        state, deeper = unwrap(content[chosen], None, source)
        return state, f"{chosen}.{deeper}" if deeper else chosen
    state = {name: t for name, t in content.items() if isinstance(name, str) and isinstance(t, Tensor)}
    if not state:
        keys = ", ".join(repr(key) for key in list(content)[:3])
        raise InputError(f"{source}: contains no tensors, only {keys or 'nothing'}, expected a state_dict")
    return state, ""


def _is_flat(value: Any) -> bool:
    """Whether a part of a file's content is a mapping of names to tensors."""
    return isinstance(value, Mapping) and any(
        isinstance(name, str) and isinstance(one, Tensor) for name, one in value.items()
    )


def _has_tensors(value: Any) -> bool:
    """Whether such a mapping is in there, perhaps in a further entry."""
    inner = value.values() if isinstance(value, Mapping) else ()
    return _is_flat(value) or any(map(_has_tensors, inner))


def _noted_names(content: Any) -> list[str]:
    """Names of the classes in the order of their numbers, where a training script's file has them."""
    inside = content if isinstance(content, Mapping) else {}
    more = (inside.get(name) for name in ("meta", "dataset_meta", "hyper_parameters"))
    places = (inside, *(one for one in more if isinstance(one, Mapping)))
    found = (_in_order(place.get(name)) for place in places for name in CLASS_FIELDS)
    return next(filter(None, found), [])


def _in_order(value: Any) -> list[str]:
    """Names of a list, of a mapping number → name or name → number; empty for anything else."""
    if isinstance(value, Mapping):
        pairs = [(key, one) if isinstance(one, str) else (one, key) for key, one in value.items()]
        names = {str(number): name for number, name in pairs}
        value = [names.get(str(number)) for number in range(len(value))]
    names_only = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return list(value) if names_only else []


def strip_prefixes(state: StateDict) -> StateDict:
    """Remove the prefixes that wrappers (DataParallel, torch.compile) add to every name."""
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return strip_prefixes({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return state


def rename_wrapped(checkpoint: Checkpoint) -> Checkpoint:
    """Rename the keys of the paper's ConvNeXt files to timm's."""
    state = checkpoint.state
    if not all(name.startswith(tuple(WRAPPED)) for name in state):
        return checkpoint
    renamed = {}
    for name, tensor in state.items():
        old = next(old for old in WRAPPED if name.startswith(old))
        renamed[WRAPPED[old] + name.removeprefix(old)] = tensor
    return replace(checkpoint, state=renamed, wrapped=True)


def write_safetensors(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and text fields as safetensors, atomically: no incomplete file takes its name."""
    path = Path(path)
    try:
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
        with named_when_whole(path) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata={"format": "pt", **metadata})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be written ({quoted(error)})") from error


def gap_fc_head(model: nn.Module) -> nn.Module:
    """Remove the LayerNorm from the head of a timm ConvNeXt, in place: pooling and one linear layer remain.

    The paper fine-tunes this head. The LayerNorm becomes `nn.Identity`. Returns `model`.

    Raises:
        InputError: the model has no such head.
    """
    head = getattr(model, "head", None)
    if head is None or not (hasattr(head, "norm") and hasattr(head, "fc")):
        raise InputError(f"{type(model).__name__}: has no pooling-norm-linear head that could become gap_fc")
    head.norm = nn.Identity()
    return model


def replace_classifier(model: nn.Module, name: str, num_classes: int) -> nn.Module:
    """Replace the last linear layer of a model by a new one, in place; returns the new layer.

    Args:
        model: the classifier.
        name: of the layer, as `named_modules` calls it: `nn.Linear` or a 1 x 1 `nn.Conv2d`.
        num_classes: rows of the new layer.

    Raises:
        InputError: there is no such layer under this name.
    """
    parent, _, own = name.rpartition(".")
    layers = dict(model.named_modules())
    layer = layers.get(name)
    if not name or not isinstance(layer, nn.Linear | nn.Conv2d):
        raise InputError(f"{type(model).__name__}: has no linear layer {name!r} that could be replaced")
    options: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    options["bias"] = layer.bias is not None
    new: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, num_classes, **options)
    else:
        new = nn.Conv2d(layer.in_channels, num_classes, 1, **options)
    setattr(layers[parent], own, new)
    if isinstance(getattr(model, "num_classes", None), int):
        vars(model)["num_classes"] = num_classes
    return new.train(layer.training)


def match_classifier(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Give a model, in place, as many classes as a checkpoint that names its classifier has."""
    name = checkpoint.metadata.get("classifier", "")
    rows = checkpoint.state.get(f"{_without_prefixes(name)}.weight")
    own = model.state_dict().get(f"{name}.weight")
    if rows is not None and own is not None and len(rows) != len(own):
        replace_classifier(model, name, len(rows))


def _without_prefixes(name: str) -> str:
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return _without_prefixes(name.removeprefix(prefix))
    return name


def is_gap_fc(names: Collection[str]) -> bool:
    """Whether these are the parameters of a ConvNeXt without a LayerNorm in or before its head."""
    norms = ("head.norm.weight", "norm_pre.weight")
    return "stages.0.blocks.0.conv_dw.weight" in names and not any(norm in names for norm in norms)


def adapt_form(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Change the model, in place, to the form of the weights: merged, or without the head's LayerNorm."""
    if is_gap_fc(state) and hasattr(getattr(model, "head", None), "norm"):
        gap_fc_head(model)
    merge_as_in(model, state)


def adapt(model: nn.Module, state: StateDict) -> StateDict:
    """Rename the weights to the model's names, and change the model, in place, to their form."""
    state = renamed_efficientnet(model, renamed_by_timm(model, _with_own_prefix(model, state)))
    adapt_form(model, state)
    return state


def _with_own_prefix(model: nn.Module, state: StateDict) -> StateDict:
    """The weights under the names of a model that begin as those of wrappers do, which reading removes."""
    own = list(model.state_dict())
    stripped = list(strip_prefixes(dict.fromkeys(own, torch.empty(0))))
    if own == stripped or state.keys() != set(stripped):
        return state
    return {name: state[short] for name, short in zip(own, stripped, strict=True)}


def renamed_by_timm(model: nn.Module, state: StateDict) -> StateDict:
    """Apply timm's renaming of the original authors' files if more names fit after it."""
    module = type(model).__module__
    rename = getattr(sys.modules.get(module), "checkpoint_filter_fn", None)
    names = model.state_dict().keys()
    if rename is None or not module.startswith("timm.") or state.keys() <= names:
        return state
    try:
        renamed = rename(dict(state), model)
    except Exception:  # the file is not of this family
        return state
    return renamed if len(renamed.keys() & names) > len(state.keys() & names) else state


def weights_of(model: nn.Module, checkpoint: Checkpoint, head: bool = True) -> Checkpoint:
    """The part of a checkpoint that is of a model, by the names of its weights, without their prefix.

    A training's module has its network under a name such as "net.", perhaps beside a loss or metrics.

    Args:
        model: the network, of any number of classes.
        checkpoint: the file. It is returned as it is where its names are the model's, or where no part of it
            has all of them.
        head: whether the part needs the weights of the classifier.

    Raises:
        InputError: there are several such parts.

    Warns:
        AssumptionWarning: the rest is not used.
    """
    state, skipped = checkpoint.state, frozenset() if head else classifier_names(model)
    own = [name for name in model.state_dict() if name not in skipped and not name.endswith(COUNTERS)]
    if not own or state.keys() >= {*own}:
        return checkpoint
    starts = [name.removesuffix(own[0]) for name in state if name.endswith(f".{own[0]}")]
    found = [start for start in starts if all(start + name in state for name in own)]
    if len(found) > 1:
        parts = ", ".join(map(repr, found))
        what = f"has weights of {type(model).__name__} under {parts}, expected one of them alone"
        raise InputError(f"{checkpoint.source}: {what}")
    if not found:
        return checkpoint
    inside = {name.removeprefix(found[0]): one for name, one in state.items() if name.startswith(found[0])}
    if others := [name for name in state if not name.startswith(found[0])]:
        what = f"the weights under {found[0]!r} are used, {len(others)} others are not, such as {others[0]!r}"
        warnings.warn(f"{checkpoint.source}: {what}", AssumptionWarning, stacklevel=3)
    return replace(checkpoint, state=inside)


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of a model on the meta device, without its weights."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"))
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def classifier_names(model: nn.Module) -> frozenset[str]:
    """Names of the classifier's parameters."""
    get_classifier = getattr(model, "get_classifier", None)
    classifier = get_classifier() if callable(get_classifier) else nn.Identity()
    inside = {id(parameter) for parameter in classifier.parameters()}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) in inside)


def classes_in(state: Mapping[str, Tensor]) -> int | None:
    """Number of classes of the classifier among these weights; None without a classifier."""
    weights = (state.get(f"{prefix}weight") for prefix in CLASSIFIERS)
    return next((weight.shape[0] for weight in weights if weight is not None and weight.ndim == 2), None)


def classes_of(checkpoint: Checkpoint) -> int | None:
    """Number of classes of a checkpoint, by its classifier, or else by its metadata; None if unknown."""
    noted = checkpoint.metadata.get("num_classes", "")
    return classes_in(checkpoint.state) or (int(noted) if noted.isdecimal() else None)


def mismatch(model: nn.Module, state: Mapping[str, Tensor], skipped: Collection[str] = ()) -> str:
    """Why these weights cannot be loaded into the model, as a phrase; "" if they can."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    optional = {*skipped, *(name for name in own if name.endswith(COUNTERS))}
    missing = [name for name in own if name not in state and name not in optional]
    unexpected = [name for name in state if name not in own and not name.endswith(COUNTERS)]
    shapes = [name for name in state if name in own and tuple(state[name].shape) != own[name]]
    if not (missing or unexpected or shapes):
        return ""
    parts = []
    if missing:
        parts.append(f"{missing[0]!r} is missing (first of {len(missing)})")
    if unexpected:
        parts.append(f"{unexpected[0]!r} is unexpected (first of {len(unexpected)})")
    if shapes:
        found, expected = list(state[shapes[0]].shape), list(own[shapes[0]])
        parts.append(f"{shapes[0]!r} is {found} where {expected} is expected (first of {len(shapes)})")
    return f"does not fit {type(model).__name__}: " + ", ".join(parts)


def wrong_classes(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """A different number of classes, if nothing else prevents loading, as a phrase."""
    own = model.state_dict()
    classifier = {name: tensor for name, tensor in own.items() if name in classifier_names(model)}
    found = classes_in({name: state[name] for name in classifier if name in state})
    if found in (None, classes_in(classifier)) or mismatch(model, {**state, **classifier}):
        return ""
    return (
        f"has a classifier of {found} classes where the model has {classes_in(classifier)}, "
        "expected the same number, or head=False to leave the classifier out"
    )


def identify(state: Mapping[str, Tensor]) -> tuple[ZooModel, float]:
    """The model of the zoo that these weights resemble most, and their likeness; 1 if the weights fit."""
    likely = max(ZOO, key=lambda entry: likeness(zoo_signature(entry.name), signature(state)))
    score = exact_likeness(likely, state)
    if score >= ALIKE:
        return likely, score
    # The names may be the original authors': timm's renaming is tried on every model.
    convnexts = [entry for entry in ZOO if entry.timm_name.startswith("convnext")]
    return max(((entry, exact_likeness(entry, state)) for entry in convnexts), key=lambda pair: pair[1])


def exact_likeness(entry: ZooModel, state: Mapping[str, Tensor]) -> float:
    """Likeness of these weights to a model in their form, under its names."""
    model = entry.on_meta()
    return likeness(signature(adapt(model, dict(state))), signature(model.state_dict()))


def likeness(a: frozenset[Any], b: frozenset[Any]) -> float:
    """Intersection over union of two signatures, in [0, 1]."""
    return len(a & b) / max(len(a | b), 1)


def signature(state: Mapping[str, Tensor]) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors except the classifier's and counters."""
    classifier = {f"{prefix}{name}" for prefix in CLASSIFIERS for name in ("weight", "bias")}
    return frozenset(
        (name, tuple(tensor.shape))
        for name, tensor in state.items()
        if name not in classifier and not name.endswith(COUNTERS)
    )


@cache
def zoo_signature(name: str) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Signature of a model of the zoo."""
    return signature(next(entry for entry in ZOO if entry.name == name).on_meta().state_dict())


def resemblance(state: Mapping[str, Tensor]) -> str:
    """The model that a file resembles, as a phrase."""
    if is_efficientnet_pytorch(state) and (name := likely_efficientnet(state)) is not None:
        return f"the file has the names of efficientnet_pytorch, and its weights are of {name}"
    entry, score = identify(state)
    if score < ALIKE:
        return "the file looks like none of the models that `heatbox models` lists"
    settings = [f"{name}={value}" for name, value in entry.kwargs.items()]
    if (classes := classes_in(state)) is not None:
        settings.append(f"num_classes={classes}")
    return f"the file looks like {entry.timm_name} ({', '.join(settings)})"


# Fields of timm's pretrained_cfg that are lists of numbers, with the least allowed one: three numbers for the
# input size, otherwise one for each channel.
LEAST = {"mean": -1e9, "std": 1e-9, "input_size": 1}


def is_usable(name: str, value: Any) -> bool:
    """Whether a field of timm's pretrained_cfg has a type and range that preprocessing can use."""
    if name not in LEAST:
        return name != "interpolation" or isinstance(value, str)
    kind = int if name == "input_size" else int | float
    if not isinstance(value, list) or not (len(value) == 3 if name == "input_size" else value):
        return False
    return all(isinstance(one, kind) and LEAST[name] <= one < 1e9 for one in value)


@dataclass(frozen=True)
class CheckpointReport:
    """Description of a checkpoint.

    Attributes:
        source: path or hub name.
        entry: name of the entry that contains the weights; "" for a flat file.
        model: name of the model of the zoo that the weights fit; "" if there is none.
        num_classes: outputs of the classifier in the file; None if it has none.
        head: "gap_fc" for a ConvNeXt without the LayerNorm of its head, otherwise "".
        sparsity: fraction of zeros among the weights that have a mask; 0 for a dense file.
        preprocessing: fields of timm's pretrained_cfg known for this file; empty if none are.
        left_out: names in the file that were left out on request (the classifier's).
    """

    source: str
    entry: str
    model: str
    num_classes: int | None
    head: str
    sparsity: float
    preprocessing: Mapping[str, Any]
    left_out: tuple[str, ...] = ()


def load_checkpoint(
    model: nn.Module, path: str | Path | Checkpoint, *, entry: str | None = None, head: bool = True
) -> CheckpointReport:
    """Load a checkpoint into a model, completely or not at all.

    The model first takes the form of the file: merged weights merge it, and weights of a ConvNeXt without the
    head's LayerNorm remove that. The file's preprocessing, as far as known, is set in `model.pretrained_cfg`,
    where `timm.data.resolve_model_data_config(model)` reads it. Of a file that has more than the model, such
    as a checkpoint of Lightning, the part with the model's names is taken, see `weights_of`.

    Args:
        model: a timm model or one with its interface; on the meta device its parameters are replaced.
        path: a file, "hf-hub:owner/name", or the result of `read_checkpoint`.
        entry: which of several sets of weights to take from the file, such as "model_ema".
        head: False keeps the model's classifier, for fine-tuning on other classes.

    Raises:
        InputError: the file cannot be read, has weights of several such models, or is of another model: the
            message names the first missing and unexpected keys and the model that the file resembles. The
            model is unchanged.
        TypeError: not an `nn.Module`, or neither text nor a path.
    """
    check_module(model, "model")
    checkpoint = path if isinstance(path, Checkpoint) else read_checkpoint(path, entry)
    trial = meta_copy(model)
    checkpoint = weights_of(trial, checkpoint, head)
    state = adapt(trial, checkpoint.state)
    skipped = frozenset() if head else classifier_names(model)
    if not head and is_gap_fc(trial.state_dict()):  # a new gap_fc head on weights that had a LayerNorm there
        skipped |= set(HEAD_NORM)
    wanted = {name: tensor for name, tensor in state.items() if name not in skipped}
    if problem := wrong_classes(trial, wanted):
        raise InputError(f"{checkpoint.source}: {problem}")
    if problem := mismatch(trial, wanted, skipped):
        raise InputError(f"{checkpoint.source}: {problem}; {resemblance(checkpoint.state)}")
    adapt_form(model, state)
    model.load_state_dict(wanted, strict=False, assign=any(p.is_meta for p in model.parameters()))
    report = report_on(checkpoint, state, left_out=tuple(name for name in state if name in skipped))
    update_data_config(model, report.preprocessing)
    if "recipe" in checkpoint.metadata:  # of heatbox train, whose recipes have the softmax's cross-entropy
        update_data_config(model, {"scores": checkpoint.metadata.get("scores", "softmax")})
    names = _class_names_in(checkpoint) if head else []
    if names and report.num_classes in (None, len(names)):
        update_data_config(model, {"label_names": names, "label_descriptions": {}})
    return report


def _class_names_in(checkpoint: Checkpoint) -> list[str]:
    """Class names in the metadata of a checkpoint; empty where there are none."""
    try:
        names = json.loads(checkpoint.metadata.get("class_names", "[]"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{checkpoint.source}: metadata field 'class_names' is not JSON") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{checkpoint.source}: metadata field 'class_names' is no list of names")
    return names


def report_on(
    checkpoint: Checkpoint, state: StateDict, model: str = "", left_out: tuple[str, ...] = ()
) -> CheckpointReport:
    """The report of a checkpoint whose weights, under the model's names, are `state`."""
    return CheckpointReport(
        source=checkpoint.source,
        entry=checkpoint.entry,
        model=model or checkpoint.metadata.get("model", ""),
        num_classes=classes_of(checkpoint),
        head="gap_fc" if is_gap_fc(state) else "",
        sparsity=sparsity(state),
        preprocessing=preprocessing_of(checkpoint),
        left_out=left_out,
    )


def sparsity(state: Mapping[str, Tensor]) -> float:
    """Fraction of zeros among the weights that have a mask; 0 if none has."""
    masks = recover_masks(state).values()
    total = sum(mask.numel() for mask in masks)
    return 1 - sum(int(mask.sum()) for mask in masks) / total if total else 0.0


def preprocessing_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Fields of timm's pretrained_cfg known from a file's metadata, layout or released name."""
    if "preprocessing" in checkpoint.metadata:
        try:
            fields = json.loads(checkpoint.metadata["preprocessing"])
        except (ValueError, RecursionError) as error:
            raise InputError(f"{checkpoint.source}: metadata field 'preprocessing' is not JSON") from error
        for name in (*LEAST, "interpolation"):
            if not isinstance(fields, dict) or (name in fields and not is_usable(name, fields[name])):
                raise InputError(
                    f"{checkpoint.source}: metadata field 'preprocessing' has no usable {name!r}"
                )
        return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    if checkpoint.wrapped:
        return Weights("", 384, "", "", CUB).config
    name = Path(checkpoint.source).name.lower()
    released = (weights for entry in ZOO for weights in entry.weights)
    known = (weights for weights in released if weights.file and name.startswith(weights.file))
    return next((weights.config for weights in known), {})


def convert_checkpoint(
    source: str | Path, target: str | Path, *, entry: str | None = None, half: bool = False
) -> CheckpointReport:
    """Write a readable checkpoint as safetensors, under the names of the zoo's models.

    The metadata describes the file: `model`, `timm_name`, `kwargs` (JSON), `num_classes`, `head`,
    `preprocessing` (JSON) and `source`, as far as known, and the metadata of the source.

    Args:
        source: a file, or "hf-hub:owner/name".
        target: the safetensors file to write.
        entry: which of several sets of weights to take from the file, such as "model_ema".
        half: store floating-point tensors as float16; a tensor with values beyond its range keeps its dtype.
            Loading converts them to the model's dtype.

    Raises:
        InputError: the source cannot be read or the target cannot be written.
        TypeError: a source or target that is neither text nor a path.
    """
    if not isinstance(target, str | Path):
        raise TypeError(f"target: {kind_of(target)}, expected the safetensors file to write")
    checkpoint = read_checkpoint(source, entry)
    zoo_model, score = identify(checkpoint.state)
    fits = score == 1.0
    state = adapt(zoo_model.on_meta(), checkpoint.state) if fits else checkpoint.state
    report = report_on(checkpoint, state, zoo_model.name if fits else "")
    metadata = {**checkpoint.metadata, "source": Path(report.source).name}
    if fits:
        metadata |= {"model": zoo_model.name, "timm_name": zoo_model.timm_name}
        metadata["kwargs"] = json.dumps(dict(zoo_model.kwargs))
    if report.num_classes is not None:
        metadata["num_classes"] = str(report.num_classes)
    if report.head:
        metadata["head"] = report.head
    if report.preprocessing:
        metadata["preprocessing"] = json.dumps(report.preprocessing)
    write_safetensors(target, halved(state) if half else state, metadata)
    return report


def halved(state: StateDict) -> StateDict:
    """Floating-point tensors as float16 if their values fit, others unchanged."""
    largest = torch.finfo(torch.float16).max
    fits = {name for name, t in state.items() if t.is_floating_point() and bool((t.abs() <= largest).all())}
    return {name: tensor.half() if name in fits else tensor for name, tensor in state.items()}
