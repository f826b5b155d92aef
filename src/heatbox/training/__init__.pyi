from .config import TrainConfig, TrainOptions
from .recipes import RECIPES, get_recipe, published
from .trainer import TrainingStopped, train
from .weights import best_checkpoint, spec_of_run

__all__ = [
    "RECIPES",
    "TrainConfig",
    "TrainOptions",
    "TrainingStopped",
    "best_checkpoint",
    "get_recipe",
    "published",
    "spec_of_run",
    "train",
]
