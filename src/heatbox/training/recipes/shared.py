"""How recipes are registered, and what the paper's fine-tuned models share.

Sources, named beside each value here and in the families' files:

[S]  supplement of "CAM Back Again", section 8 (training configurations), and section 9 for the data.
[R]  fine-tuning commands of the RepLKNet authors, https://github.com/DingXiaoH/RepLKNet-pytorch (README, and
     the defaults of main.py), which [S] says were followed for RepLKNet and ConvNeXt.
[L]  training commands of the SLaK authors, https://github.com/VITA-Group/SLaK (README and main.py), which [S]
     says were followed for SLaK.
[H]  our own choice, where the sources are silent.
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


def fine_tuned(name: str, model: str, **settings: Any) -> TrainConfig:
    """What all fine-tuned models share: 8 devices x 16 images, head and rest at their own rates."""
    shared: dict[str, Any] = {
        "epochs": 400,  # [S]
        "batch_size": 8 * 16,  # [S] 8 GPUs with 16 images each
        "per_device": 16,  # [S]; BatchNorm sees one device's images, as it did on the 8 GPUs
        "lr": 1e-5,  # [S]
        "lr_head": 1e-4,  # [S]
        "lr_floor": 0.01,  # [R] --min_lr 1e-6, here relative to the head's rate
        "warmup_epochs": 1,  # [R] --warmup_epochs 1
        "weight_decay": 1e-8,  # [R] --weight_decay 1e-8
        "layer_decay": None,  # [S] states two rates; --layer-decay 0.7 switches [R]'s on
        "clip": None,  # [R] main.py: none by default
        "ema": 0.9999,  # [R] --model_ema true, decay of main.py
        "mixup": 0.0,  # [R] --mixup 0
        "cutmix": 0.0,  # [R] --cutmix 0
        "smoothing": 0.1,  # [R] main.py
        "crop": None,  # [H] without augmentation: the whole picture, mirrored at random
        "checkpoint_every": 50,  # [S]
    }
    return TrainConfig(recipe=name, model=model, **shared | settings)


def augmented(base: TrainConfig) -> TrainConfig:
    """The same with the augmentation of the pre-training (a star in the paper's figure 13)."""
    return dataclasses.replace(
        base,
        recipe=f"{base.recipe}_aug",
        crop=(0.08, 1.0),  # [R] timm's create_transform, by its default
        auto="rand-m9-mstd0.5-inc1",  # [R] main.py --aa
        jitter=0.4,  # [R] main.py --color_jitter; a policy has colours of its own, so timm leaves it out then
        erase=0.25,  # [R] main.py --reprob
    )
