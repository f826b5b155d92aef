"""What a classifier returns: logits (B, K), or a container that contains them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from heatbox._utils.checks import kind_of
from heatbox.errors import InputError
from heatbox.models.spec import unwrap

LOGITS = "logits"
NOT_LOGITS = {"pooler_output", "image_embeds", "embeddings", "features"}
"""Names under which models return features; such an output is taken only if it is asked for."""
DEPTH = 8
"""Levels of containers that are searched."""
TRAINED = {"multi_label_classification": "sigmoid", "single_label_classification": "softmax"}
"""Kind of labels in a configuration of transformers → the function that makes probabilities of logits."""

Entry = tuple[tuple[str, ...], Tensor]
"""Names or positions that lead to a tensor, outermost first, and the tensor."""


def select_output(output: Any, which: str | int | None = None, batch: int | None = None) -> Tensor:
    """The logits among the outputs of a classifier.

    Args:
        output: a tensor, or a tuple, list, mapping, named tuple, dataclass or `ModelOutput` with tensors in
            it, nested to any depth.
        which: name of the output, or its position; "outer.inner" or "outer.0" for an inner one. None takes
            the output named "logits", or otherwise the only one that can be logits.
        batch: number of images B; needed only where a model also drops the axis of a single image.

    Returns:
        (B, K) floating point; a model with one output may return (B,), which becomes (B, 1). Axes of length
        1 after the first are removed.

    Raises:
        InputError: no output, or several, that can be logits (the message lists them), or no output of this
            name or position.

    Examples:
        >>> select_output((torch.zeros(2, 10), torch.zeros(2, 64, 7, 7))).shape
        torch.Size([2, 10])
        >>> select_output({"main": torch.zeros(2, 10), "auxiliary": torch.ones(2, 10)}, "auxiliary")[0, 0]
        tensor(1.)
    """
    if isinstance(output, Tensor):
        if which is not None:
            raise InputError(f"the model returns one tensor, so there is no output {which!r} to choose")
        found = _as_logits(output, batch)
        if found is None:
            raise InputError(f"the model returns {_described(output)}, expected logits of shape (B, K)")
        return found
    entries = list(_entries(output))
    if not entries:
        raise InputError(f"the model returns {kind_of(output)} without a tensor, expected logits (B, K)")
    if which is not None:
        chosen = _named(entries, which)
        if not chosen:
            raise InputError(f"the model has no output {which!r}, it returns {_listed(entries)}")
        possible = _possible(chosen, batch)
        if not possible:
            raise InputError(f"output {which!r} is {_listed(chosen)}, expected logits of shape (B, K)")
    else:
        possible = _possible(entries, batch)
        logits = [entry for entry in possible if entry[0][-1] == LOGITS]
        depth = min((len(path) for path, _ in logits), default=0)
        possible = [entry for entry in logits if len(entry[0]) == depth] or [
            entry for entry in possible if entry[0][-1] not in NOT_LOGITS
        ]
        if not possible:
            raise InputError(
                f"the model returns {_listed(entries)}, none of which are logits of shape (B, K)"
            )
    if len(possible) > 1:
        raise InputError(
            f"the model returns several outputs that can be logits: {_listed(possible)}; "
            "choose one of them with --output NAME or output="
        )
    selected = _as_logits(possible[0][1], batch)
    assert selected is not None
    return selected


def trained_scores(model: nn.Module) -> str | None:
    """The function that made probabilities of logits in training, "softmax" or "sigmoid"; None if unknown.

    It is known where the `pretrained_cfg` of the model, or of a network inside it, has it under "scores" or
    describes weights that timm publishes for as many classes, or where a configuration of transformers names
    the kind of labels.
    """
    for module in unwrap(model).modules():
        config = getattr(module, "pretrained_cfg", None)
        known = dict(config) if isinstance(config, Mapping) else {}
        kind = known.get("problem_type") or getattr(getattr(module, "config", None), "problem_type", None)
        if found := known.get("scores") or TRAINED.get(str(kind)):
            return str(found)
        published = known.get("url") or known.get("hf_hub_id")
        if published and known.get("num_classes") == getattr(module, "num_classes", None):
            return "softmax"  # timm's weights are those of one class per image
    return None


def _entries(value: Any, path: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Every tensor in a container, in order."""
    if isinstance(value, Tensor):
        yield path, value
        return
    for name, inner in _items(value) if len(path) < DEPTH else ():
        yield from _entries(inner, (*path, name))


def _items(value: Any) -> list[tuple[str, Any]]:
    """Names or positions in a container, and what is there; nothing for anything but a container."""
    if isinstance(value, Mapping):
        return [(str(name), inner) for name, inner in value.items()]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [(str(index), inner) for index, inner in enumerate(value)]
    return list(vars(value).items()) if hasattr(value, "__dict__") and not callable(value) else []


def _named(entries: Sequence[Entry], which: str | int) -> list[Entry]:
    """Tensors at a full path, below it, under a last name, or at a position of the outermost container."""
    name = str(which)
    wanted = tuple(name.split("."))
    below = [entry for entry in entries if entry[0][: len(wanted)] == wanted]
    last = [entry for entry in entries if entry[0][-1] == name]
    outermost = list(dict.fromkeys(path[0] for path, _ in entries))
    if below or last or not name.isdecimal() or int(name) >= len(outermost):
        return below or last
    return [entry for entry in entries if entry[0][0] == outermost[int(name)]]


def _possible(entries: Sequence[Entry], batch: int | None) -> list[Entry]:
    """Those that can be logits, each tensor once: (B, K) as they are, or otherwise after a squeeze."""
    once = list({id(tensor): (path, tensor) for path, tensor in reversed(entries)}.values())[::-1]
    usable = [entry for entry in once if _as_logits(entry[1], batch) is not None]
    return [entry for entry in usable if entry[1].ndim == 2] or usable


def _as_logits(value: Tensor, batch: int | None) -> Tensor | None:
    """A tensor as (B, K), or None for one that cannot be logits."""
    if not value.is_floating_point() or not value.numel():
        return None
    if batch == 1 and value.ndim < 2:  # squeezed without naming an axis
        return value.reshape(1, -1)
    if value.ndim == 0 or (batch is not None and value.shape[0] != batch):
        return None
    if value.ndim == 2:
        return value
    sides = [side for side in value.shape[1:] if side != 1]
    return value.reshape(value.shape[0], *(sides or [1])) if len(sides) < 2 else None


def _described(value: Tensor) -> str:
    kind = "" if value.dtype == torch.float32 else f"{str(value.dtype).removeprefix('torch.')} "
    return f"{kind}{tuple(value.shape)}"


def _listed(entries: Sequence[Entry]) -> str:
    return ", ".join(f"{'.'.join(path)}: {_described(value)}" for path, value in entries)
