"""ConvNeXt: 7 pre-trained models, 14 fine-tuned ones [S].

The letters of the sources are those of `heatbox.training.recipes.shared`.
"""

from __future__ import annotations

from heatbox.training.config import TrainConfig
from heatbox.training.recipes.shared import fine_tuned, recipe_pair


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


@recipe_pair
def convnext_tiny() -> TrainConfig:
    """convnext_tiny."""
    return _convnext("convnext_tiny", "convnext_tiny.fb_in1k")


@recipe_pair
def convnext_small() -> TrainConfig:
    """convnext_small."""
    return _convnext("convnext_small", "convnext_small.fb_in1k")


@recipe_pair
def convnext_base() -> TrainConfig:
    """convnext_base."""
    return _convnext("convnext_base", "convnext_base.fb_in1k")


@recipe_pair
def convnext_base_in22ft1k() -> TrainConfig:
    """convnext_base_in22ft1k."""
    return _convnext("convnext_base_in22ft1k", "convnext_base.fb_in22k_ft_in1k")


@recipe_pair
def convnext_base_384_in22ft1k() -> TrainConfig:
    """convnext_base_384_in22ft1k, the paper's best ConvNeXt."""
    return _convnext("convnext_base_384_in22ft1k", "convnext_base.fb_in22k_ft_in1k_384", 384)


@recipe_pair
def convnext_large() -> TrainConfig:
    """convnext_large."""
    return _convnext("convnext_large", "convnext_large.fb_in1k")


@recipe_pair
def convnext_large_in22ft1k() -> TrainConfig:
    """convnext_large_in22ft1k."""
    return _convnext("convnext_large_in22ft1k", "convnext_large.fb_in22k_ft_in1k")
