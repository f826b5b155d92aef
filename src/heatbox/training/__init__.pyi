from .config import FinetuneConfig, TrainConfig, TrainOptions
from .finetune import Finetuned, finetune
from .recipes import RECIPES, get_recipe, published
from .state import TrainingStopped
from .trainer import train
from .weights import best_checkpoint, spec_of_run

__all__ = [
    "RECIPES",
    "FinetuneConfig",
    "Finetuned",
    "TrainConfig",
    "TrainOptions",
    "TrainingStopped",
    "best_checkpoint",
    "finetune",
    "get_recipe",
    "published",
    "spec_of_run",
    "train",
]
