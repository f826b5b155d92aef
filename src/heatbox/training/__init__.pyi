from .config import TrainConfig, TrainOptions
from .recipes import RECIPES, get_recipe, published
from .trainer import train

__all__ = [
    "RECIPES",
    "TrainConfig",
    "TrainOptions",
    "get_recipe",
    "published",
    "train",
]
