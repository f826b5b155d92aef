"""Classifiers by name, their checkpoints, and their heads, which are found by tracing a forward pass.

Importing this package registers RepLKNet, SLaK and the small networks with timm.
"""

from importlib import import_module
from typing import Any

import lazy_loader

_load, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["ModelSpec"]


def __getattr__(name: str) -> Any:
    if name == "ModelSpec":  # defined outside: the command line needs it without timm
        return import_module("heatbox.config").ModelSpec
    return _load(name)


def __dir__() -> list[str]:
    return sorted(__all__)


from heatbox.models import replknet, slak, small  # noqa: E402, F401 - registers the families
