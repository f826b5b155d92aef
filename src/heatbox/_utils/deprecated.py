"""Names and module paths of 0.1 that still work, with a `DeprecationWarning`, until 0.3."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

RENAMED = {
    "boxes_at": ("heatbox.boxes.contours:heatmap_to_boxes", "heatmap_to_boxes"),
    "build_model": ("heatbox.models.factory:create_model", "create_model"),
    "convert": ("heatbox.models.checkpoints:convert_checkpoint", "convert_checkpoint"),
    "cue_conflict": ("heatbox.data.glyphs:glyphs_cue_conflict", "glyphs_cue_conflict"),
    "erf": ("heatbox.analysis.erf:effective_receptive_field", "effective_receptive_field"),
    "load_wsol": ("heatbox.data.formats.wsol:load_wsol", "open_split"),
    "prepare_heatmap": ("heatbox.maps.normalize:normalize_heatmap", "normalize_heatmap"),
    "update_together": ("heatbox.metrics.collection:update_together", "BoxMetrics"),
    "walk": ("heatbox.maps.random_walk:random_walk", "random_walk"),
}
"""Old public name → where it is, and the public name that replaces it."""

MOVED = {
    "heatbox.data.example": "heatbox.data.types",
    "heatbox.localizer": "heatbox.inference.localizer",
    "heatbox.metrics.maxboxacc": "heatbox.metrics",
    "heatbox.models.build": "heatbox.models.factory",
    "heatbox.models.view": "heatbox.models.introspect",
    "heatbox.recipes": "heatbox.training.recipes",
}
"""Old module path → new module path."""


def renamed(name: str) -> Any:
    """The object behind an old public name; warns with the name that replaces it."""
    home, new = RENAMED[name]
    _warn(f"heatbox.{name}", f"heatbox.{new}", 4)
    module, _, attribute = home.partition(":")
    return getattr(import_module(module), attribute)


def old_names(module: str, **renamed: str) -> Callable[[str], Any]:
    """A module's `__getattr__` for names that were renamed in it, as `old_names(__name__, convert="new")`."""

    def get(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(f"{module}.{name}", f"{module}.{renamed[name]}", 3)
        return getattr(sys.modules[module], renamed[name])

    return get


def register_moved_modules() -> None:
    """Make the old module paths importable, without importing the modules behind them."""
    for old, new in MOVED.items():
        module = ModuleType(old, f"Deprecated: use `{new}`.")
        module.__dict__["__getattr__"] = partial(_moved, old, new)
        sys.modules.setdefault(old, module)


def _moved(old: str, new: str, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {old!r} has no attribute {name!r}")
    module = import_module(new)
    if name in RENAMED and not hasattr(module, name):
        return renamed(name)
    value = getattr(module, name)
    _warn(old, new, 3)
    return value


def _warn(old: str, new: str, stacklevel: int) -> None:
    message = f"{old} is deprecated and will be removed in heatbox 0.3; use {new}"
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)
