"""Whether weights fit a model, in which form, and which model they look like."""

from __future__ import annotations

import copy
import sys
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.models._blocks import adopt_form
from heatbox.models.checkpoint_files import StateDict
from heatbox.models.zoo import ZOO, ZooModel

# Share of names and shapes in common from which on a file is said to look like a model.
ALIKE = 0.5
CLASSIFIERS = ("head.fc.", "head.", "fc.", "classifier.")


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
    rename = getattr(sys.modules.get(module), "checkpoint_filter_fn", None)
    names = model.state_dict().keys()
    if rename is None or not module.startswith("timm.") or state.keys() <= names:
        return state
    try:
        renamed = rename(dict(state), model)
    except Exception:  # the file is of another family, or of none
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
    likely = max(ZOO, key=lambda entry: likeness(entry_signature(entry.name), signature(state)))
    score = exact_likeness(likely, state)
    if score >= ALIKE:
        return likely, score
    # Perhaps the original authors' names: timm's renaming has to be tried on every model.
    convnexts = [entry for entry in ZOO if entry.timm_name.startswith("convnext")]
    scores = [exact_likeness(entry, state) for entry in convnexts]
    return convnexts[scores.index(max(scores))], max(scores)


def exact_likeness(entry: ZooModel, state: Mapping[str, Tensor]) -> float:
    """How alike these weights are to a model that has taken their form."""
    model = entry.on_meta()
    return likeness(signature(fitted(model, dict(state))), signature(model.state_dict()))


def likeness(a: frozenset[Any], b: frozenset[Any]) -> float:
    """Share in [0, 1] of what either has that both have."""
    return len(a & b) / max(len(a | b), 1)


def signature(state: Mapping[str, Tensor]) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Names with their shapes, of everything but the classifier and counters."""
    classifier = {f"{prefix}{name}" for prefix in CLASSIFIERS for name in ("weight", "bias")}
    return frozenset(
        (name, tuple(tensor.shape))
        for name, tensor in state.items()
        if name not in classifier and not name.endswith("num_batches_tracked")
    )


@cache
def entry_signature(name: str) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Signature of a model of the zoo."""
    return signature(next(entry for entry in ZOO if entry.name == name).on_meta().state_dict())


def looks_like(state: Mapping[str, Tensor]) -> str:
    """The model a file looks like, as a phrase for a message."""
    entry, score = identify(state)
    if score < ALIKE:
        return "the file looks like none of the models that `heatbox models` lists"
    settings = [f"{name}={value}" for name, value in entry.kwargs.items()]
    if (classes := classes_in(state)) is not None:
        settings.append(f"num_classes={classes}")
    return f"the file looks like {entry.timm_name} ({', '.join(settings)})"
