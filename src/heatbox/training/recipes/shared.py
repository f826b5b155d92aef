"""Registration of recipes, and the settings shared by the paper's fine-tuned models.

Sources, cited beside each value here and in the families' files:

[S]  supplement of "CAM Back Again", section 8 (training configurations), and section 9 for the data.
[R]  fine-tuning commands of the RepLKNet authors, https://github.com/DingXiaoH/RepLKNet-pytorch (README, and
     the defaults of main.py), which [S] says were followed for RepLKNet and ConvNeXt.
[L]  training commands of the SLaK authors, https://github.com/VITA-Group/SLaK (README and main.py), which [S]
     says were followed for SLaK.
[H]  our own choice, where the sources give no value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from heatbox.training.config import TrainConfig

Recipe = Callable[[], TrainConfig]
RECIPES: dict[str, Recipe] = {}


def recipe(function: Recipe) -> Recipe:
    """Register a recipe under its function's name."""
    RECIPES[function.__name__] = function
    return function


def recipe_pair(function: Recipe) -> Recipe:
    """Register a recipe under its function's name, and with augmentation under that name and "_aug"."""
    RECIPES[f"{recipe(function).__name__}_aug"] = lambda: augmented(function())
    return function


def fine_tuned(name: str, model: str, **settings: Any) -> TrainConfig:
    """A configuration with the settings that all fine-tuned models share."""
    shared: dict[str, Any] = {
        "epochs": 400,  # [S]
        "batch_size": 8 * 16,  # [S] 8 GPUs x 16 images
        "per_device": 16,  # [S]; BatchNorm normalizes over one device's images, as on the 8 GPUs
        "lr": 1e-5,  # [S]
        "lr_head": 1e-4,  # [S]
        "lr_floor": 0.01,  # [R] --min_lr 1e-6, here a fraction of the head's rate
        "warmup_epochs": 1,  # [R] --warmup_epochs 1
        "weight_decay": 1e-8,  # [R] --weight_decay 1e-8
        "layer_decay": None,  # [S] states two rates; --layer-decay 0.7 selects that of [R]
        "clip": None,  # [R] main.py: none by default
        "ema": 0.9999,  # [R] --model_ema true, decay of main.py
        "mixup": 0.0,  # [R] --mixup 0
        "cutmix": 0.0,  # [R] --cutmix 0
        "smoothing": 0.1,  # [R] main.py
        "crop": None,  # [H] without augmentation: the whole image, with random horizontal flips
        "checkpoint_every": 50,  # [S]
    }
    return TrainConfig(recipe=name, model=model, **shared | settings)


def augmented(base: TrainConfig) -> TrainConfig:
    """The same recipe with the augmentation of the pre-training (a star in the paper's figure 13)."""
    return dataclasses.replace(
        base,
        recipe=f"{base.recipe}_aug",
        crop=(0.08, 1.0),  # [R] default of timm's create_transform
        auto="rand-m9-mstd0.5-inc1",  # [R] main.py --aa
        jitter=0.4,  # [R] main.py --color_jitter; unused with a policy, as in timm
        erase=0.25,  # [R] main.py --reprob
    )
