"""What a model is made of, taken before a call and compared afterwards."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_OF_MODULES = {"_parameters", "_buffers", "_modules", "training", *_HOOKS}


def logits_of(output: Any) -> Tensor:
    """The logits among a model's outputs: `logits` where there is one, else the only (B, K) tensor."""
    if isinstance(output, Tensor):
        return output
    if getattr(output, "logits", None) is not None:
        return output.logits
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    values = list(output.values()) if isinstance(output, Mapping) else list(output)
    found = [value for value in values if isinstance(value, Tensor) and value.ndim == 2]
    assert len(found) == 1, f"{len(found)} outputs of shape (B, K)"
    return found[0]


def _tensor(value: Tensor) -> tuple[Any, ...]:
    """Shape, dtype and a checksum of the values."""
    if value.device.type == "meta" or isinstance(value, nn.parameter.UninitializedTensorMixin):
        return ("tensor", str(value.dtype), str(value.device))
    plain = value.detach()
    if plain.is_quantized:
        plain = plain.int_repr()
    data = plain.contiguous().view(-1).view(torch.uint8) if plain.numel() else plain
    checksum = zlib.crc32(data.cpu().numpy().data) if plain.numel() else 0
    return ("tensor", tuple(value.shape), str(value.dtype), checksum)


def _frozen(value: Any, depth: int = 6, above: frozenset[int] = frozenset()) -> Any:
    """A value as nested tuples that are equal where the values are; objects by their attributes."""
    if isinstance(value, int | float | str | bytes | bool | type(None)):
        return repr(value)
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, nn.Module):
        return ("module", id(value))
    if id(value) in above or depth == 0:
        return ("seen", type(value).__name__)
    above = above | {id(value)}
    if isinstance(value, Mapping):
        return (
            type(value).__name__,
            tuple(
                (_frozen(key, depth - 1, above), _frozen(one, depth - 1, above)) for key, one in value.items()
            ),
        )
    if isinstance(value, Set):
        return (type(value).__name__, tuple(sorted(repr(_frozen(one, depth - 1, above)) for one in value)))
    if isinstance(value, Sequence):
        return (type(value).__name__, tuple(_frozen(one, depth - 1, above) for one in value))
    if callable(value) or isinstance(value, type | torch.dtype | torch.device):
        return ("object", getattr(value, "__qualname__", repr(value)))
    if hasattr(value, "__dict__"):
        return (type(value).__name__, _frozen(vars(value), depth - 1, above))
    return (type(value).__name__, repr(value))


@dataclass(frozen=True)
class Snapshot:
    """State of a model: see `snapshot`."""

    state: dict[str, Any]
    modules: dict[str, int]
    training: dict[str, bool]
    hooks: dict[str, Any]
    attributes: dict[str, dict[str, Any]]
    output: Any


def snapshot(model: nn.Module, images: Tensor | None = None) -> Snapshot:
    """Weights, modules, modes, hooks and attributes of a model, and its output in eval mode for the images.

    The output is computed first, so that what the model itself remembers of a pass (masks, position
    tables) is there before and after.
    """
    output = None
    modules = dict(model.named_modules(remove_duplicate=False))
    if images is not None:
        training = {name: module.training for name, module in modules.items()}
        model.eval()
        try:
            with torch.no_grad():
                output = _frozen(model(images))
        finally:
            for name, module in modules.items():
                module.training = training[name]
    entries = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return Snapshot(
        state={
            name: (id(value), _tensor(value), value.requires_grad, value.grad is None)
            for name, value in entries
        },
        modules={name: id(module) for name, module in modules.items()},
        training={name: module.training for name, module in modules.items()},
        hooks={
            f"{name}.{kind}": tuple(vars(module)[kind].items())
            for name, module in modules.items()
            for kind in _HOOKS
            if vars(module).get(kind)
        },
        attributes={
            name: {key: _frozen(value) for key, value in vars(module).items() if key not in _OF_MODULES}
            for name, module in modules.items()
        },
        output=output,
    )


def assert_unchanged(before: Snapshot, model: nn.Module, images: Tensor | None = None) -> None:
    """Compare a model with its snapshot, which was taken with the same images."""
    after = snapshot(model)
    assert after.modules == before.modules, "modules were replaced"
    assert list(after.state) == list(before.state), "names of the state changed"
    changed = [name for name in before.state if after.state[name] != before.state[name]]
    assert not changed, f"weights changed: {changed[:5]}"
    changed = [name for name in before.training if after.training[name] != before.training[name]]
    assert not changed, f"training flags changed: {changed[:5]}"
    assert after.hooks == before.hooks, "hooks changed"
    changed = [
        f"{name}.{key}: {before.attributes[name].get(key)} → {after.attributes[name].get(key)}"[:300]
        for name in before.attributes
        for key in before.attributes[name].keys() | after.attributes[name].keys()
        if before.attributes[name].get(key) != after.attributes[name].get(key)
    ]
    assert not changed, f"attributes changed: {changed[:5]}"
    if images is not None:
        assert snapshot(model, images).output == before.output, "the outputs changed"
