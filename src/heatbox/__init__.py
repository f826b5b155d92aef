"""heatbox: weakly supervised object localization.

Image-level labels become boxes: a classifier's feature maps become a heatmap, the heatmap becomes boxes,
the boxes are scored exactly as the field's reference evaluator does. Names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heatbox.analysis.erf import effective_receptive_field as effective_receptive_field
    from heatbox.analysis.shape_bias import shape_bias as shape_bias
    from heatbox.boxes.contours import heatmap_to_boxes as heatmap_to_boxes
    from heatbox.data.formats.wsol import load_wsol as load_wsol
    from heatbox.data.glyphs import cue_conflict as cue_conflict
    from heatbox.data.glyphs import glyphs as glyphs
    from heatbox.data.open import open_split as open_split
    from heatbox.errors import InputError as InputError
    from heatbox.evaluation.stream import score_folder as score_folder
    from heatbox.evaluation.stream import score_stream as score_stream
    from heatbox.inference.localizer import Localizer as Localizer
    from heatbox.inference.localizer import Prediction as Prediction
    from heatbox.maps.baselines import centre_gaussian as centre_gaussian
    from heatbox.maps.baselines import full_image as full_image
    from heatbox.maps.cam import cam as cam
    from heatbox.maps.normalize import normalize_heatmap as normalize_heatmap
    from heatbox.maps.pc1 import pc1 as pc1
    from heatbox.maps.random_walk import walk as walk
    from heatbox.metrics.bootstrap import bootstrap_interval as bootstrap_interval
    from heatbox.metrics.bootstrap import paired_interval as paired_interval
    from heatbox.metrics.localization import LocalizationAccuracy as LocalizationAccuracy
    from heatbox.metrics.max_box_acc import V2_IOU as V2_IOU
    from heatbox.metrics.max_box_acc import MaxBoxAcc as MaxBoxAcc
    from heatbox.metrics.max_box_acc import update_together as update_together
    from heatbox.metrics.pxap import PxAP as PxAP
    from heatbox.models.checkpoints import convert as convert
    from heatbox.models.checkpoints import load_checkpoint as load_checkpoint
    from heatbox.models.factory import create_model as create_model
    from heatbox.models.introspect import ClassifierView as ClassifierView
    from heatbox.models.zoo import list_models as list_models
    from heatbox.ops import accelerate as accelerate

_HOMES = {
    "accelerate": "heatbox.ops",
    "bootstrap_interval": "heatbox.metrics.bootstrap",
    "heatmap_to_boxes": "heatbox.boxes.contours",
    "create_model": "heatbox.models.factory",
    "cam": "heatbox.maps.cam",
    "centre_gaussian": "heatbox.maps.baselines",
    "ClassifierView": "heatbox.models.introspect",
    "convert": "heatbox.models.checkpoints",
    "cue_conflict": "heatbox.data.glyphs",
    "effective_receptive_field": "heatbox.analysis.erf",
    "full_image": "heatbox.maps.baselines",
    "glyphs": "heatbox.data.glyphs",
    "InputError": "heatbox.errors",
    "list_models": "heatbox.models.zoo",
    "load_checkpoint": "heatbox.models.checkpoints",
    "load_wsol": "heatbox.data.formats.wsol",
    "LocalizationAccuracy": "heatbox.metrics.localization",
    "Localizer": "heatbox.inference.localizer",
    "MaxBoxAcc": "heatbox.metrics.max_box_acc",
    "open_split": "heatbox.data.open",
    "paired_interval": "heatbox.metrics.bootstrap",
    "pc1": "heatbox.maps.pc1",
    "Prediction": "heatbox.inference.localizer",
    "normalize_heatmap": "heatbox.maps.normalize",
    "PxAP": "heatbox.metrics.pxap",
    "score_folder": "heatbox.evaluation.stream",
    "score_stream": "heatbox.evaluation.stream",
    "shape_bias": "heatbox.analysis.shape_bias",
    "update_together": "heatbox.metrics.max_box_acc",
    "V2_IOU": "heatbox.metrics.max_box_acc",
    "walk": "heatbox.maps.random_walk",
}

__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'heatbox' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
