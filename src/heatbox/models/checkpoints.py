"""Official and zoo checkpoints → our models: recognise, load and convert them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heatbox._utils.checks import check_module, kind_of
from heatbox.errors import InputError
from heatbox.models.checkpoint_files import (
    Checkpoint,
    StateDict,
    read_checkpoint,
    read_state_dict,
    write_safetensors,
)
from heatbox.models.checkpoint_fit import (
    classes_in,
    classifier_names,
    fitted,
    gap_fc_head,
    identify,
    is_gap_fc,
    looks_like,
    mismatch,
    take_form,
    without_numbers,
    wrong_classes,
)
from heatbox.models.slak import recover_masks
from heatbox.models.zoo import CUB, ZOO, Weights

__all__ = [
    "CheckpointReport",
    "classes_in",
    "convert",
    "gap_fc_head",
    "identify",
    "load_checkpoint",
    "read_checkpoint",
    "read_state_dict",
    "write_safetensors",
]


def _numbers(value: Any, least: float = -1e9) -> bool:
    """Whether a value is a list of three numbers."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(one, int | float) and least <= one < 1e9 for one in value)
    )


_PREPROCESSING: dict[str, Callable[[Any], bool]] = {
    "mean": _numbers,
    "std": partial(_numbers, least=1e-9),
    "input_size": lambda value: _numbers(value, 1) and all(isinstance(side, int) for side in value),
    "interpolation": lambda value: isinstance(value, str),
}
HEAD_NORM = ("head.norm.weight", "head.norm.bias")


@dataclass(frozen=True)
class CheckpointReport:
    """What a checkpoint turned out to be.

    Attributes:
        source: path or hub name.
        entry: name under which the file keeps its weights; "" for a flat file.
        model: name of the model of the zoo that the weights fit; "" where it is none of them.
        num_classes: outputs of the classifier in the file; None where it has none.
        head: "gap_fc" where the file has a ConvNeXt without the LayerNorm of its head, else "".
        sparsity: share of zeros among the weights that have a mask; 0 for a dense file.
        preprocessing: fields of timm's pretrained_cfg known for this file; empty where nothing is known.
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
    """Load a checkpoint into a model, all of it or nothing.

    The model takes the file's form first: merged weights merge it, weights of a ConvNeXt without the head's
    LayerNorm remove that. What is known of the file's preprocessing goes into `model.pretrained_cfg`, where
    `timm.data.resolve_model_data_config(model)` finds it.

    Args:
        model: a timm model or one with its interface; on the meta device its parameters are replaced.
        path: a file, "hf-hub:owner/name", or what `read_checkpoint` made of one.
        entry: which of several sets of weights to take from the file, such as "model_ema".
        head: False leaves the classifier as it is, for fine-tuning on other classes.

    Raises:
        InputError: the file cannot be read, or is of another model: the message names the first missing and
            unexpected keys and the model the file looks like. The model is then as it was.
        TypeError: no network, or a path that is none.
    """
    check_module(model, "model")
    checkpoint = path if isinstance(path, Checkpoint) else read_checkpoint(path, entry)
    trial = without_numbers(model)
    state = fitted(trial, checkpoint.state)
    skipped = frozenset() if head else classifier_names(model)
    if not head and is_gap_fc(trial.state_dict()):  # a new gap_fc head on weights that had a LayerNorm there
        skipped |= set(HEAD_NORM)
    wanted = {name: tensor for name, tensor in state.items() if name not in skipped}
    if problem := wrong_classes(trial, wanted):
        raise InputError(f"{checkpoint.source}: {problem}")
    if problem := mismatch(trial, wanted, skipped):
        raise InputError(f"{checkpoint.source}: {problem}; {looks_like(checkpoint.state)}")
    take_form(model, state)
    model.load_state_dict(wanted, strict=False, assign=any(p.is_meta for p in model.parameters()))
    report = describe(checkpoint, state, left_out=tuple(name for name in state if name in skipped))
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, dict) and report.preprocessing:
        for field in ("test_input_size", "test_crop_pct", "test_pool_size"):  # these were of other weights
            config.pop(field, None)
        config.update(report.preprocessing)
    return report


def describe(
    checkpoint: Checkpoint, state: StateDict, model: str = "", left_out: tuple[str, ...] = ()
) -> CheckpointReport:
    """What is known of a checkpoint whose weights, under the model's names, are `state`."""
    return CheckpointReport(
        source=checkpoint.source,
        entry=checkpoint.entry,
        model=model or checkpoint.metadata.get("model", ""),
        num_classes=classes_in(state),
        head="gap_fc" if is_gap_fc(state) else "",
        sparsity=sparsity(state),
        preprocessing=preprocessing_of(checkpoint),
        left_out=left_out,
    )


def sparsity(state: Mapping[str, Tensor]) -> float:
    """Share of zeros among the weights that have a mask; 0 where none has."""
    masks = recover_masks(state).values()
    total = sum(mask.numel() for mask in masks)
    return 1 - sum(int(mask.sum()) for mask in masks) / total if total else 0.0


def preprocessing_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Fields of timm's pretrained_cfg known for a file, by its metadata, layout or released name."""
    if "preprocessing" in checkpoint.metadata:
        try:
            fields = json.loads(checkpoint.metadata["preprocessing"])
        except (ValueError, RecursionError) as error:
            raise InputError(f"{checkpoint.source}: metadata field 'preprocessing' is not JSON") from error
        for name, form in _PREPROCESSING.items():
            if not isinstance(fields, dict) or (name in fields and not form(fields[name])):
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


def convert(
    source: str | Path, target: str | Path, *, entry: str | None = None, half: bool = False
) -> CheckpointReport:
    """Write any checkpoint that can be read as safetensors, names as our models have them.

    The metadata says what the file is: `model`, `timm_name`, `kwargs` (JSON), `num_classes`, `head`,
    `preprocessing` (JSON) and `source`, as far as known, and what metadata the source had.

    Args:
        source: a file, or "hf-hub:owner/name".
        target: the safetensors file to write.
        entry: which of several sets of weights to take from the file, such as "model_ema".
        half: floating-point numbers are stored as float16, in half the space; a tensor with numbers beyond
            its range stays as it is. Loaded, they are float32 again.

    Raises:
        InputError: the source cannot be read or the target not be written.
        TypeError: a source or target that is no path.
    """
    if not isinstance(target, str | Path):
        raise TypeError(f"target: {kind_of(target)}, expected the safetensors file to write")
    checkpoint = read_checkpoint(source, entry)
    zoo_model, score = identify(checkpoint.state)
    fits = score == 1.0
    state = fitted(zoo_model.on_meta(), checkpoint.state) if fits else checkpoint.state
    report = describe(checkpoint, state, zoo_model.name if fits else "")
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
    """The floating-point tensors that fit as float16, the others as they are."""
    largest = torch.finfo(torch.float16).max

    def half(tensor: Tensor) -> Tensor:
        fits = tensor.is_floating_point() and bool((tensor.abs() <= largest).all())
        return tensor.half() if fits else tensor

    return {name: half(tensor) for name, tensor in state.items()}
