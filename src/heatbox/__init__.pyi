from . import (
    analysis,
    boxes,
    data,
    evaluation,
    inference,
    labeling,
    maps,
    metrics,
    models,
    ops,
    training,
    visualization,
)
from .analysis.erf import effective_receptive_field
from .analysis.shape_bias import shape_bias
from .boxes.contours import heatmap_to_boxes
from .config import ModelSpec
from .data.glyphs import glyphs, glyphs_cue_conflict
from .data.open import open_split
from .errors import InputError, UnreachableError
from .evaluation.score import score_folder, score_stream
from .inference.boxes import map_to_boxes
from .inference.localizer import Localizer, Prediction
from .labeling.pipeline import LabelledImage, label
from .maps.baselines import centre_gaussian, full_image
from .maps.cam import cam
from .maps.normalize import normalize_heatmap
from .maps.pc1 import pc1
from .maps.random_walk import random_walk
from .metrics.bootstrap import bootstrap_interval, paired_interval
from .metrics.collection import BoxMetrics
from .metrics.functional import V2_IOU
from .metrics.localization import LocalizationAccuracy
from .metrics.max_box_acc import MaxBoxAcc, MaxBoxAccV2
from .metrics.pxap import PxAP
from .models.checkpoints import convert_checkpoint, load_checkpoint
from .models.factory import create_model
from .models.introspect import ClassifierView, ClassMaps, class_maps
from .models.zoo import list_models, model_info
from .ops.accelerate import accelerate

__version__: str
__all__ = [
    "V2_IOU",
    "BoxMetrics",
    "ClassMaps",
    "ClassifierView",
    "InputError",
    "LabelledImage",
    "LocalizationAccuracy",
    "Localizer",
    "MaxBoxAcc",
    "MaxBoxAccV2",
    "ModelSpec",
    "Prediction",
    "PxAP",
    "UnreachableError",
    "accelerate",
    "analysis",
    "bootstrap_interval",
    "boxes",
    "cam",
    "centre_gaussian",
    "class_maps",
    "convert_checkpoint",
    "create_model",
    "data",
    "effective_receptive_field",
    "evaluation",
    "full_image",
    "glyphs",
    "glyphs_cue_conflict",
    "heatmap_to_boxes",
    "inference",
    "label",
    "labeling",
    "list_models",
    "load_checkpoint",
    "map_to_boxes",
    "maps",
    "metrics",
    "model_info",
    "models",
    "normalize_heatmap",
    "open_split",
    "ops",
    "paired_interval",
    "pc1",
    "random_walk",
    "score_folder",
    "score_stream",
    "shape_bias",
    "training",
    "visualization",
]
