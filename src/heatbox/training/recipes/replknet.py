"""RepLKNet: 6 pre-trained models, 12 fine-tuned ones [S].

The letters of the sources are those of `heatbox.training.recipes.shared`.
"""

from __future__ import annotations

from typing import Any

from heatbox.training.config import TrainConfig
from heatbox.training.recipes.shared import fine_tuned, recipe_pair

PUBLISHED_IN = "the table of github.com/DingXiaoH/RepLKNet-pytorch"
HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def _replknet(name: str, model: str, size: int, file: str, drop_path: float, **settings: Any) -> TrainConfig:
    return fine_tuned(
        name,
        model,
        size=size,  # [S] the resolution of the pre-training
        pretrained=file,
        pretrained_source=PUBLISHED_IN,
        model_options={"drop_path_rate": drop_path},
        **settings,
    )


@recipe_pair
def replknet_31b_in1k_224() -> TrainConfig:
    """31B1K224."""
    # [R] has no fine-tuning command at 224 from this file; its pre-training uses --drop_path 0.5.
    return _replknet("replknet_31b_in1k_224", "replknet_31b", 224, "RepLKNet-31B_ImageNet-1K_224.pth", 0.5)


@recipe_pair
def replknet_31b_in1k_384() -> TrainConfig:
    """31B1K384, the paper's best."""
    # [R] --drop_path 0.8 at 384 from 1K
    return _replknet("replknet_31b_in1k_384", "replknet_31b", 384, "RepLKNet-31B_ImageNet-1K_384.pth", 0.8)


@recipe_pair
def replknet_31b_in22k_224() -> TrainConfig:
    """31B22K224."""
    # [R] --drop_path 0.2 at 224 from 22K
    return _replknet(
        "replknet_31b_in22k_224", "replknet_31b", 224, "RepLKNet-31B_ImageNet-22K-to-1K_224.pth", 0.2
    )


@recipe_pair
def replknet_31b_in22k_384() -> TrainConfig:
    """31B22K384."""
    # [R] --drop_path 0.3 at 384 from 22K
    return _replknet(
        "replknet_31b_in22k_384", "replknet_31b", 384, "RepLKNet-31B_ImageNet-22K-to-1K_384.pth", 0.3
    )


@recipe_pair
def replknet_31l_in22k_384() -> TrainConfig:
    """31L22K384."""
    # [R] --drop_path 0.3 for 31L at 384 from 22K
    return _replknet(
        "replknet_31l_in22k_384", "replknet_31l", 384, "RepLKNet-31L_ImageNet-22K-to-1K_384.pth", 0.3
    )


@recipe_pair
def replknet_xl_320() -> TrainConfig:
    """XL: 320 pixels, mean and std 0.5 [R]."""
    # [R] has no fine-tuning command for XL; 0.3 is the value of 31L [H].
    return _replknet(
        "replknet_xl_320", "replknet_xl", 320, "RepLKNet-XL_MegData73M_ImageNet1K.pth", 0.3, **HALF
    )
