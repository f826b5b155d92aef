import heatbox.config

from .checkpoints import CheckpointReport, convert_checkpoint, load_checkpoint
from .factory import create_model
from .introspect import ClassifierView, ClassMaps, ModelOutput, class_maps
from .zoo import ModelInfo, list_models, model_info

ModelSpec = heatbox.config.ModelSpec

__all__ = [
    "CheckpointReport",
    "ClassMaps",
    "ClassifierView",
    "ModelInfo",
    "ModelOutput",
    "ModelSpec",
    "class_maps",
    "convert_checkpoint",
    "create_model",
    "list_models",
    "load_checkpoint",
    "model_info",
]
