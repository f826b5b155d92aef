"""heatbox: weakly supervised object localization.

Image-level labels become boxes: a classifier's feature maps become a heatmap, the heatmap becomes boxes,
and boxes are scored exactly as the reference evaluator scores them. Names are imported on first use;
`__init__.pyi` lists them.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

from heatbox._utils import deprecated

__version__ = "0.2.0"
_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
deprecated.register_moved_modules()


def __getattr__(name: str) -> Any:
    if name in deprecated.RENAMED:
        return deprecated.renamed(name)
    if name not in __all__:
        raise AttributeError(f"module 'heatbox' has no attribute {name!r}")
    return _load(name)
