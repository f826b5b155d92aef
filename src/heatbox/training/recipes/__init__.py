"""Recipes: named functions that return a complete configuration, one file per family."""

from __future__ import annotations

from heatbox.errors import InputError, did_you_mean
from heatbox.training.config import FINETUNE, TrainConfig

# Importing the families registers their recipes, in this order.
from heatbox.training.recipes import convnext, replknet, slak, small  # noqa: F401
from heatbox.training.recipes.shared import RECIPES

__all__ = ["PRETRAINED_ON", "RECIPES", "get_recipe", "published"]

PRETRAINED_ON = {
    "RepLKNet-31B_ImageNet-1K_224.pth": "in1k",
    "RepLKNet-31B_ImageNet-1K_384.pth": "in1k",
    "RepLKNet-31B_ImageNet-22K-to-1K_224.pth": "in22k",
    "RepLKNet-31B_ImageNet-22K-to-1K_384.pth": "in22k",
    "RepLKNet-31L_ImageNet-22K-to-1K_384.pth": "in22k",
    "RepLKNet-XL_MegData73M_ImageNet1K.pth": "megdata73m",
    **{f"SLaK_{name}.pth": "in1k" for name in ("tiny31", "tiny51", "tiny61", "small51", "base51")},
}
"""File of published weights that a recipe starts from → data set of its pre-training, before fine-tuning."""

# MaxBoxAcc and MaxBoxAccV2 of CAM and of PC1 on the test split of CUB-200-2011, each at its best threshold:
# the paper's table 3 and the model table of its released code. Other results appear only in figures.
PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "replknet_31b_in1k_384": {"cam": (90.99, 76.4), "pc1": (93.6, 80.4)},
    "convnext_base_384_in22ft1k": {"cam": (80.15, 66.33), "pc1": (83.3, 76.5)},
}


def get_recipe(name: str) -> TrainConfig:
    """The configuration of a recipe by name.

    Raises:
        InputError: there is no such recipe; the message lists similar names.
    """
    if name not in RECIPES:
        hint = did_you_mean(name, [*RECIPES, FINETUNE])
        raise InputError(f"there is no recipe {name!r}{hint}; heatbox recipes lists all")
    return RECIPES[name]()


def published(name: str) -> dict[str, tuple[float, float]]:
    """Map → published (MaxBoxAcc, MaxBoxAccV2) of a recipe in percent; empty where none was printed."""
    return PUBLISHED.get(name, {})
