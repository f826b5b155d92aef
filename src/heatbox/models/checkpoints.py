"""Official and zoo checkpoints → our models: recognise, load and convert them."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.models.checkpoint_files import (
    Checkpoint,
    StateDict,
    read_checkpoint,
    read_state_dict,
    write_safetensors,
)
from heatbox.models.layers import adopt_form
from heatbox.models.slak import recover_masks
from heatbox.models.zoo import CUB, ZOO, Weights, ZooModel

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

HEAD_NORM = ("head.norm.weight", "head.norm.bias")
CLASSIFIERS = ("head.fc.", "head.", "fc.", "classifier.")


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
    """
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


def gap_fc_head(model: nn.Module) -> nn.Module:
    """Take the LayerNorm out of a timm ConvNeXt's head, in place: average pooling and one linear layer.

    This is the head the paper fine-tunes. The LayerNorm becomes `nn.Identity`, so everything that reads
    `model.head` sees pooling, no norm, and `fc`. Returns `model`.

    Raises:
        InputError: the model has no such head.
    """
    head = getattr(model, "head", None)
    if head is None or not (hasattr(head, "norm") and hasattr(head, "fc")):
        raise InputError(f"{type(model).__name__}: has no pooling-norm-linear head that could become gap_fc")
    head.norm = nn.Identity()
    return model


def is_gap_fc(names: Collection[str]) -> bool:
    """Whether these are a ConvNeXt's parameters without the LayerNorm in or before its head."""
    norms = ("head.norm.weight", "norm_pre.weight")
    return "stages.0.blocks.0.conv_dw.weight" in names and not any(norm in names for norm in norms)


def take_form(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the model, in place, the form of the weights: merged, or without the head's LayerNorm."""
    if is_gap_fc(state) and hasattr(getattr(model, "head", None), "norm"):
        gap_fc_head(model)
    adopt_form(model, state)


def fitted(model: nn.Module, state: StateDict) -> StateDict:
    """The weights under the model's names, and the model, in place, in the weights' form."""
    state = renamed_by_timm(model, state)
    take_form(model, state)
    return state


def renamed_by_timm(model: nn.Module, state: StateDict) -> StateDict:
    """Apply the renaming timm has for the original authors' files of a family, where that fits better."""
    module = type(model).__module__
    rename = getattr(sys.modules[module], "checkpoint_filter_fn", None)
    names = model.state_dict().keys()
    if rename is None or not module.startswith("timm.") or state.keys() <= names:
        return state
    try:
        renamed = rename(dict(state), model)
    except (KeyError, RuntimeError, ValueError, AttributeError):  # the file is of another family
        return state
    return renamed if len(renamed.keys() & names) > len(state.keys() & names) else state


def without_numbers(model: nn.Module) -> nn.Module:
    """A copy of a model on the meta device, made without copying its weights."""
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
    """Number of classes of the classifier among these weights, None where there is no classifier."""
    weights = (state.get(f"{prefix}weight") for prefix in CLASSIFIERS)
    return next((weight.shape[0] for weight in weights if weight is not None and weight.ndim == 2), None)


def mismatch(model: nn.Module, state: Mapping[str, Tensor], skipped: Collection[str] = ()) -> str:
    """What keeps these weights from loading into the model, as a phrase; "" where nothing does."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    # The counters are read by cumulative averaging only, and some files lack them.
    optional = {*skipped, *(name for name in own if name.endswith("num_batches_tracked"))}
    missing = [name for name in own if name not in state and name not in optional]
    unexpected = [name for name in state if name not in own]
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
    """Another number of classes, where that is all that keeps these weights from loading, as a phrase."""
    own = model.state_dict()
    classifier = {name: tensor for name, tensor in own.items() if name in classifier_names(model)}
    found = classes_in({name: state[name] for name in classifier if name in state})
    if found in (None, classes_in(classifier)) or mismatch(model, {**state, **classifier}):
        return ""
    return (
        f"has a classifier of {found} classes where the model has {classes_in(classifier)}, "
        "expected as many or the classifier left out (head=False)"
    )


def identify(state: Mapping[str, Tensor]) -> tuple[ZooModel, float]:
    """The model of the zoo these weights are most alike, and how alike.

    Returns:
        the model, and the share in [0, 1] of names with their shapes that both have, the classifier's and
        counters aside; 1 where the weights fit.
    """

    def likeness(entry: ZooModel) -> float:
        model = entry.on_meta()
        ours = fitted(model, dict(state))
        theirs = model.state_dict()
        skipped = classifier_names(model)
        both = [
            {(n, tuple(t.shape)) for n, t in tensors.items() if n not in skipped and "num_batches" not in n}
            for tensors in (ours, theirs)
        ]
        return len(both[0] & both[1]) / max(len(both[0] | both[1]), 1)

    scores = [(likeness(entry), entry) for entry in ZOO]
    score, entry = max(scores, key=lambda pair: pair[0])
    return entry, score


def looks_like(state: Mapping[str, Tensor]) -> str:
    """The model a file looks like, as a phrase for a message."""
    entry, score = identify(state)
    if score < 0.1:
        return "the file looks like none of the models that `heatbox models` lists"
    settings = [f"{name}={value}" for name, value in entry.kwargs.items()]
    if (classes := classes_in(state)) is not None:
        settings.append(f"num_classes={classes}")
    return f"the file looks like {entry.timm_name} ({', '.join(settings)})"


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
        except ValueError as error:
            raise InputError(f"{checkpoint.source}: metadata field 'preprocessing' is not JSON") from error
        return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    if checkpoint.wrapped:
        return Weights("", 384, "", "", CUB).config
    name = Path(checkpoint.source).name.lower()
    released = (weights for entry in ZOO for weights in entry.weights)
    known = (weights for weights in released if weights.file and name.startswith(weights.file))
    return next((weights.config for weights in known), {})


def convert(source: str | Path, target: str | Path, *, entry: str | None = None) -> CheckpointReport:
    """Write any checkpoint that can be read as safetensors, names as our models have them.

    The metadata says what the file is: `model`, `timm_name`, `kwargs` (JSON), `num_classes`, `head`,
    `preprocessing` (JSON) and `source`, as far as known, and what metadata the source had.

    Args:
        source: a file, or "hf-hub:owner/name".
        target: the safetensors file to write.
        entry: which of several sets of weights to take from the file, such as "model_ema".

    Raises:
        InputError: the source cannot be read or the target not be written.
    """
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
    write_safetensors(target, state, metadata)
    return report
