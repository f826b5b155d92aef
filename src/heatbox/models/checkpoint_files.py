"""Checkpoint files → names and tensors, without ever running what is in a file."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from heatbox._utils.checks import kind_of
from heatbox._utils.io import named_when_whole
from heatbox.errors import InputError

StateDict = dict[str, Tensor]

# Where training scripts put the weights inside their files, most wanted first.
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
# What wrappers put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.")
# The paper's ConvNeXt files are of Sequential(Sequential(stem, stages), head).
WRAPPED = {"0.0.": "stem.", "0.1.": "stages.", "1.fc.": "head.fc."}
HUB_PREFIXES = ("hf-hub:", "hf_hub:")


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file and what the file says about them.

    Attributes:
        source: path or hub name, for messages.
        state: parameter names → tensors, without the prefixes of wrappers.
        entry: name under which the file keeps them; "" for a flat file.
        metadata: text fields of a safetensors file.
        wrapped: the file has the key layout of the paper's own ConvNeXt files.
    """

    source: str
    state: StateDict
    entry: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    wrapped: bool = False


def read_state_dict(path: str | Path, entry: str | None = None) -> StateDict:
    """Parameter names → tensors of a checkpoint file; see `read_checkpoint`."""
    return read_checkpoint(path, entry).state


def read_checkpoint(path: str | Path, entry: str | None = None) -> Checkpoint:
    """Read a safetensors file, a PyTorch file, or (online) a model of the hub.

    Args:
        path: the file, or "hf-hub:owner/name".
        entry: which of several sets of weights to take from a training script's file, such as "model_ema".

    Raises:
        InputError: no such file, not a checkpoint, damaged, or a pickle that would run code.
        TypeError: a path that is none.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"path: {kind_of(path)}, expected a checkpoint file or hf-hub:owner/name")
    if isinstance(path, str) and path.startswith(HUB_PREFIXES):
        return read_hub(path)
    path = Path(path)
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such checkpoint file")
    metadata: Mapping[str, str] = {}
    if is_safetensors(path):
        content, metadata = read_safetensors(path)
    else:
        content = read_pickle(path)
    try:
        state, found = unwrap(content, entry, str(path))
    except RecursionError as error:
        raise InputError(f"{path}: its entries lie in each other without end") from error
    return named_as_ours(Checkpoint(str(path), strip_prefixes(state), found, metadata))


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
    """Content of a PyTorch file, where it is made of tensors and plain values only.

    Training scripts keep their command line in the file: a bare `argparse.Namespace` is plain enough.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what matters is raised
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        culprit = re.search(r"(?:GLOBAL|function|global) ([A-Za-z_][\w.]*\.\w+)", str(error))
        problem = f"refused, because reading it would run {culprit[1]}" if culprit else "not a checkpoint"
        raise InputError(
            f"{path}: {problem}; expected tensors only, as safetensors or a state_dict saved by torch.save"
        ) from error
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise InputError(f"{path}: not a checkpoint, or damaged ({quoted(error)})") from error


def quoted(error: Exception) -> str:
    """Kind and first line of another library's error, to quote in one of ours."""
    return f"{type(error).__name__}: {str(error).strip().partition('. ')[0]}".partition("\n")[0]


def read_hub(name: str) -> Checkpoint:
    """Weights of a model on the hub, by name; needs the network or a filled cache."""
    from timm.models._hub import load_state_dict_from_hf

    try:
        state = load_state_dict_from_hf(name.partition(":")[2])
    except Exception as error:  # the hub's client raises its own and its transport's errors
        raise InputError(f"{name}: could not be fetched from the hub ({quoted(error)})") from error
    return Checkpoint(name, strip_prefixes(state))


def unwrap(content: Any, entry: str | None, source: str) -> tuple[StateDict, str]:
    """The mapping of names to tensors inside a file's content, and the name of the entry that holds it."""
    if not isinstance(content, Mapping):
        raise InputError(f"{source}: holds a {type(content).__name__}, expected names and their tensors")
    inside = [name for name in CONTAINERS if isinstance(content.get(name), Mapping)]
    if entry is not None and not isinstance(content.get(entry), Mapping):
        expected = f"one of {inside}" if inside else "no entry, the file is flat"
        raise InputError(f"{source}: has no weights under {entry!r}, expected {expected}")
    chosen = entry if entry is not None else next(iter(inside), None)
    if chosen is not None:
        state, deeper = unwrap(content[chosen], None, source)
        return state, f"{chosen}.{deeper}" if deeper else chosen
    state = {name: t for name, t in content.items() if isinstance(name, str) and isinstance(t, Tensor)}
    if not state:
        keys = ", ".join(repr(key) for key in list(content)[:3])
        raise InputError(f"{source}: holds no tensors, only {keys or 'nothing'}, expected a state_dict")
    return state, ""


def strip_prefixes(state: StateDict) -> StateDict:
    """Remove what wrappers (DataParallel, torch.compile) put before every name."""
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return strip_prefixes({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return state


def named_as_ours(checkpoint: Checkpoint) -> Checkpoint:
    """Rename the keys of the paper's own ConvNeXt files to timm's."""
    state = checkpoint.state
    if not all(name.startswith(tuple(WRAPPED)) for name in state):
        return checkpoint
    renamed = {}
    for name, tensor in state.items():
        old = next(old for old in WRAPPED if name.startswith(old))
        renamed[WRAPPED[old] + name.removeprefix(old)] = tensor
    return replace(checkpoint, state=renamed, wrapped=True)


def write_safetensors(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and text fields as safetensors; a file of this name is replaced only by a whole one."""
    path = Path(path)
    try:
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
        with named_when_whole(path) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata={"format": "pt", **metadata})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be written ({quoted(error)})") from error
