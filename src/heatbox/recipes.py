"""The paper's fine-tuned models, and small ones, as named functions that return a complete configuration.

Sources, named beside each value:

[S]  supplement of "CAM Back Again", section 8 (training configurations), and section 9 for the data.
[R]  fine-tuning commands of the RepLKNet authors, https://github.com/DingXiaoH/RepLKNet-pytorch (README, and
     the defaults of main.py), which [S] says were followed for RepLKNet and ConvNeXt.
[L]  training commands of the SLaK authors, https://github.com/VITA-Group/SLaK (README and main.py), which [S]
     says were followed for SLaK.
[H]  our own choice, where the sources are silent.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

from heatbox.config import TrainConfig
from heatbox.errors import InputError

Recipe = Callable[[], TrainConfig]
RECIPES: dict[str, Recipe] = {}

REPLKNET = "the table of github.com/DingXiaoH/RepLKNet-pytorch"
SLAK = "the tables of github.com/VITA-Group/SLaK"
HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

# MaxBoxAcc and MaxBoxAccV2 on the test split of CUB-200-2011 at the thresholds best on it, of CAM and of PC1:
# the paper's table 3 and the model table of its released code. Others are drawn in figures without numbers.
PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "replknet_31b_in1k_384": {"cam": (90.99, 76.4), "pc1": (93.6, 80.4)},
    "convnext_base_384_in22ft1k": {"cam": (80.15, 66.33), "pc1": (83.3, 76.5)},
}


def recipe(function: Recipe) -> Recipe:
    """Register a recipe under its function's name."""
    RECIPES[function.__name__] = function
    return function


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


# -------------------------------------------------------------------------------- what the recipes share


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


# ------------------------------------------------------- RepLKNet: 6 pre-trained models, 12 fine-tuned [S]


def _replknet(name: str, model: str, size: int, file: str, drop_path: float, **settings: Any) -> TrainConfig:
    return fine_tuned(
        name,
        model,
        size=size,  # [S] the resolution of the pre-training
        pretrained=file,
        pretrained_source=REPLKNET,
        model_options={"drop_path_rate": drop_path},
        **settings,
    )


@recipe
def replknet_31b_in1k_224() -> TrainConfig:
    """31B1K224."""
    # [R] has no fine-tuning at 224 from this file; its pre-training has --drop_path 0.5.
    return _replknet("replknet_31b_in1k_224", "replknet_31b", 224, "RepLKNet-31B_ImageNet-1K_224.pth", 0.5)


@recipe
def replknet_31b_in1k_224_aug() -> TrainConfig:
    """31B1K224 with augmentation."""
    return augmented(replknet_31b_in1k_224())


@recipe
def replknet_31b_in1k_384() -> TrainConfig:
    """31B1K384, the paper's best."""
    # [R] --drop_path 0.8 at 384 from 1K
    return _replknet("replknet_31b_in1k_384", "replknet_31b", 384, "RepLKNet-31B_ImageNet-1K_384.pth", 0.8)


@recipe
def replknet_31b_in1k_384_aug() -> TrainConfig:
    """31B1K384 with augmentation."""
    return augmented(replknet_31b_in1k_384())


@recipe
def replknet_31b_in22k_224() -> TrainConfig:
    """31B22K224."""
    # [R] --drop_path 0.2 at 224 from 22K
    return _replknet(
        "replknet_31b_in22k_224", "replknet_31b", 224, "RepLKNet-31B_ImageNet-22K-to-1K_224.pth", 0.2
    )


@recipe
def replknet_31b_in22k_224_aug() -> TrainConfig:
    """31B22K224 with augmentation."""
    return augmented(replknet_31b_in22k_224())


@recipe
def replknet_31b_in22k_384() -> TrainConfig:
    """31B22K384."""
    # [R] --drop_path 0.3 at 384 from 22K
    return _replknet(
        "replknet_31b_in22k_384", "replknet_31b", 384, "RepLKNet-31B_ImageNet-22K-to-1K_384.pth", 0.3
    )


@recipe
def replknet_31b_in22k_384_aug() -> TrainConfig:
    """31B22K384 with augmentation."""
    return augmented(replknet_31b_in22k_384())


@recipe
def replknet_31l_in22k_384() -> TrainConfig:
    """31L22K384."""
    # [R] --drop_path 0.3 for 31L at 384 from 22K
    return _replknet(
        "replknet_31l_in22k_384", "replknet_31l", 384, "RepLKNet-31L_ImageNet-22K-to-1K_384.pth", 0.3
    )


@recipe
def replknet_31l_in22k_384_aug() -> TrainConfig:
    """31L22K384 with augmentation."""
    return augmented(replknet_31l_in22k_384())


@recipe
def replknet_xl_320() -> TrainConfig:
    """XL: 320 pixels, mean and std 0.5 [R]."""
    # [R] has no fine-tuning command for XL; 0.3 is that of 31L [H].
    return _replknet(
        "replknet_xl_320", "replknet_xl", 320, "RepLKNet-XL_MegData73M_ImageNet1K.pth", 0.3, **HALF
    )


@recipe
def replknet_xl_320_aug() -> TrainConfig:
    """XL with augmentation."""
    return augmented(replknet_xl_320())


# ------------------------------------------------------ ConvNeXt: 7 pre-trained models, 14 fine-tuned [S]


def _convnext(name: str, model: str, size: int = 224) -> TrainConfig:
    return fine_tuned(
        name,
        model,
        size=size,  # [S] the resolution of the pre-training
        head="gap_fc",  # the released code's head: average pooling and one linear layer
        pretrained="published",
        pretrained_source="timm's collection on the Hugging Face hub",
        model_options={"drop_path_rate": 0.0},  # [R] main.py: --drop_path 0 by default
    )


@recipe
def convnext_tiny() -> TrainConfig:
    """convnext_tiny."""
    return _convnext("convnext_tiny", "convnext_tiny.fb_in1k")


@recipe
def convnext_tiny_aug() -> TrainConfig:
    """convnext_tiny with augmentation."""
    return augmented(convnext_tiny())


@recipe
def convnext_small() -> TrainConfig:
    """convnext_small."""
    return _convnext("convnext_small", "convnext_small.fb_in1k")


@recipe
def convnext_small_aug() -> TrainConfig:
    """convnext_small with augmentation."""
    return augmented(convnext_small())


@recipe
def convnext_base() -> TrainConfig:
    """convnext_base."""
    return _convnext("convnext_base", "convnext_base.fb_in1k")


@recipe
def convnext_base_aug() -> TrainConfig:
    """convnext_base with augmentation."""
    return augmented(convnext_base())


@recipe
def convnext_base_in22ft1k() -> TrainConfig:
    """convnext_base_in22ft1k."""
    return _convnext("convnext_base_in22ft1k", "convnext_base.fb_in22k_ft_in1k")


@recipe
def convnext_base_in22ft1k_aug() -> TrainConfig:
    """convnext_base_in22ft1k with augmentation."""
    return augmented(convnext_base_in22ft1k())


@recipe
def convnext_base_384_in22ft1k() -> TrainConfig:
    """convnext_base_384_in22ft1k, the paper's best ConvNeXt."""
    return _convnext("convnext_base_384_in22ft1k", "convnext_base.fb_in22k_ft_in1k_384", 384)


@recipe
def convnext_base_384_in22ft1k_aug() -> TrainConfig:
    """convnext_base_384_in22ft1k with augmentation."""
    return augmented(convnext_base_384_in22ft1k())


@recipe
def convnext_large() -> TrainConfig:
    """convnext_large."""
    return _convnext("convnext_large", "convnext_large.fb_in1k")


@recipe
def convnext_large_aug() -> TrainConfig:
    """convnext_large with augmentation."""
    return augmented(convnext_large())


@recipe
def convnext_large_in22ft1k() -> TrainConfig:
    """convnext_large_in22ft1k."""
    return _convnext("convnext_large_in22ft1k", "convnext_large.fb_in22k_ft_in1k")


@recipe
def convnext_large_in22ft1k_aug() -> TrainConfig:
    """convnext_large_in22ft1k with augmentation."""
    return augmented(convnext_large_in22ft1k())


# --------------------------------------- SLaK: 5 pre-trained models at 224 and 384 pixels, 10 fine-tuned [S]


def _slak(variant: str, kernel: int, size: int) -> TrainConfig:
    drop_path = {"tiny": 0.1, "small": 0.4, "base": 0.5}[variant]  # [S]
    return fine_tuned(
        f"slak_{variant}_k{kernel}_{size}",
        f"slak_{variant}",
        size=size,  # [S] all were pre-trained at 224
        pretrained=f"SLaK_{variant}{kernel}.pth",  # the files have no settled names; [S] names models so
        pretrained_source=SLAK,
        model_options={"kernel_size": kernel, "drop_path_rate": drop_path},
        sparsity=0.4,  # [L] --sparsity 0.4
        prune_rate=0.5 if variant == "tiny" else 0.3,  # [L] --prune_rate
        mask_every=2000 if variant == "tiny" else 10,  # [S] update frequency 2000, 10, 10
    )


@recipe
def slak_tiny_k31_224() -> TrainConfig:
    """SLaK-T, 31 x 31, at 224."""
    return _slak("tiny", 31, 224)


@recipe
def slak_tiny_k31_384() -> TrainConfig:
    """SLaK-T, 31 x 31, at 384."""
    return _slak("tiny", 31, 384)


@recipe
def slak_tiny_k51_224() -> TrainConfig:
    """SLaK-T, 51 x 51, at 224."""
    return _slak("tiny", 51, 224)


@recipe
def slak_tiny_k51_384() -> TrainConfig:
    """SLaK-T, 51 x 51, at 384."""
    return _slak("tiny", 51, 384)


@recipe
def slak_tiny_k61_224() -> TrainConfig:
    """SLaK-T, 61 x 61, at 224."""
    return _slak("tiny", 61, 224)


@recipe
def slak_tiny_k61_384() -> TrainConfig:
    """SLaK-T, 61 x 61, at 384."""
    return _slak("tiny", 61, 384)


@recipe
def slak_small_k51_224() -> TrainConfig:
    """SLaK-S, 51 x 51, at 224."""
    return _slak("small", 51, 224)


@recipe
def slak_small_k51_384() -> TrainConfig:
    """SLaK-S, 51 x 51, at 384."""
    return _slak("small", 51, 384)


@recipe
def slak_base_k51_224() -> TrainConfig:
    """SLaK-B, 51 x 51, at 224."""
    return _slak("base", 51, 224)


@recipe
def slak_base_k51_384() -> TrainConfig:
    """SLaK-B, 51 x 51, at 384, the paper's best SLaK."""
    return _slak("base", 51, 384)


# ---------------------------------------------------------------- small networks, trained from scratch [H]


def _small(name: str, model: str, data: str, **settings: Any) -> TrainConfig:
    """64-pixel images, one learning rate for all parameters, checkpoints scored at the end."""
    shared: dict[str, Any] = {
        "data": data,
        "size": 64,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "crop": (0.5, 1.0),
        "epochs": 10,
        "batch_size": 64,
        "per_device": 64,
        "lr": 2.5e-3,
        "lr_head": 2.5e-3,
        "weight_decay": 0.05,
        "clip": 1.0,
        "checkpoint_every": 10,
    }
    return TrainConfig(recipe=name, model=model, **shared | settings)


@recipe
def glyphs_resnet() -> TrainConfig:
    """The demonstration: a residual network of a third of a million parameters."""
    return _small("glyphs_resnet", "resnet10_small", "glyphs")
