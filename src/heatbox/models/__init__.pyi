import heatbox.config

from .checkpoints import CheckpointReport, convert, load_checkpoint
from .factory import create_model
from .introspect import ClassifierView, ModelOutput
from .zoo import list_models

ModelSpec = heatbox.config.ModelSpec

__all__ = [
    "CheckpointReport",
    "ClassifierView",
    "ModelOutput",
    "ModelSpec",
    "convert",
    "create_model",
    "list_models",
    "load_checkpoint",
]
