"""Experiments as named functions that return a complete configuration, a file a family."""

from __future__ import annotations

import difflib

from heatbox.errors import InputError
from heatbox.training.config import TrainConfig

# Importing the families registers their recipes, in this order.
from heatbox.training.recipes import convnext, replknet, slak, small  # noqa: F401
from heatbox.training.recipes.shared import RECIPES

__all__ = ["RECIPES", "get_recipe", "published"]

# MaxBoxAcc and MaxBoxAccV2 on the test split of CUB-200-2011 at the thresholds best on it, of CAM and of PC1:
# the paper's table 3 and the model table of its released code. Others are drawn in figures without numbers.
PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "replknet_31b_in1k_384": {"cam": (90.99, 76.4), "pc1": (93.6, 80.4)},
    "convnext_base_384_in22ft1k": {"cam": (80.15, 66.33), "pc1": (83.3, 76.5)},
}


def get_recipe(name: str) -> TrainConfig:
    """The configuration of a recipe by name.

    Raises:
        InputError: there is none of that name; the message names near ones.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, 3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise InputError(f"there is no recipe {name!r}{hint}; heatbox recipes lists them")
    return RECIPES[name]()


def published(name: str) -> dict[str, tuple[float, float]]:
    """Map → published (MaxBoxAcc, MaxBoxAccV2) of a recipe in percent; empty where none was printed."""
    return PUBLISHED.get(name, {})
