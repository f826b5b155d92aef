"""Checkpoint files → the keys of our models, read without running code from the file."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from heatbox.errors import InputError

_WRAPPERS = ("state_dict", "model", "model_state", "net")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or PyTorch file.

    A state dict nested under "model" or "state_dict" is found, and a "module." prefix of every key
    is taken off.

    Raises:
        InputError: no such file, not a checkpoint, or a pickle that holds more than tensors (it is
            never executed).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    try:
        state: object
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: holds Python objects other than tensors and is not loaded") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: is not a readable checkpoint ({error})") from error
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: expected a dictionary of tensors")
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint file into a model; every key and shape has to match.

    Raises:
        InputError: naming the file and the first key that is missing, unexpected or of another shape.
    """
    state = read_state_dict(path)
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    misshapen = [key for key in own if key in state and state[key].shape != own[key].shape]
    if missing or unexpected or misshapen:
        parts = []
        if missing:
            parts.append(f"{len(missing)} keys are missing (first: {missing[0]})")
        if unexpected:
            parts.append(f"{len(unexpected)} are unexpected (first: {unexpected[0]})")
        if misshapen:
            key = misshapen[0]
            parts.append(
                f"{len(misshapen)} have another shape (first: {key} is {tuple(state[key].shape)}, "
                f"expected {tuple(own[key].shape)})"
            )
        raise InputError(f"{path}: does not fit {type(model).__name__}: {', '.join(parts)}")
    model.load_state_dict(state)
