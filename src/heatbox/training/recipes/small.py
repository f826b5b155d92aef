"""Small models of every family, trained from scratch on 64-pixel images; all settings are our own choice."""

from __future__ import annotations

from typing import Any

from heatbox.training.config import TrainConfig
from heatbox.training.recipes.shared import recipe


def _small(name: str, model: str, data: str, **settings: Any) -> TrainConfig:
    """64-pixel images and one learning rate for all parameters."""
    shared: dict[str, Any] = {
        "data": data,
        "size": 64,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "crop": (0.8, 1.0),  # smaller crops lose the glyphs at the image borders
        "epochs": 10,
        "batch_size": 64,
        "per_device": 64,
        "lr": 2.5e-3,
        "lr_head": 2.5e-3,
        "warmup_epochs": 3,
        "weight_decay": 0.05,
        "clip": 1.0,
        "checkpoint_every": 10,
    }
    return TrainConfig(recipe=name, model=model, **shared | settings)


@recipe
def glyphs_resnet() -> TrainConfig:
    """The recipe of heatbox demo --train: a ResNet with 0.28 million parameters."""
    return _small("glyphs_resnet", "resnet10_small", "glyphs")


def _family(name: str, model: str, **settings: Any) -> TrainConfig:
    """One budget for the three families of the paper; small batches give more steps."""
    shared: dict[str, Any] = {"epochs": 20, "batch_size": 32, "per_device": 32, "warmup_epochs": 1}
    return _small(name, model, "glyphs", **shared | settings)


@recipe
def glyphs_convnext() -> TrainConfig:
    """A ConvNeXt with half a million parameters on glyphs."""
    return _family("glyphs_convnext", "convnext_micro", head="gap_fc")


@recipe
def glyphs_replknet() -> TrainConfig:
    """A RepLKNet with half a million parameters on glyphs."""
    return _family("glyphs_replknet", "replknet_micro")


@recipe
def glyphs_slak() -> TrainConfig:
    """A SLaK with half a million parameters on glyphs, 40% of them zero."""
    sparse: dict[str, Any] = {"sparsity": 0.4, "prune_rate": 0.3, "mask_every": 120}
    return _family("glyphs_slak", "slak_micro", **sparse)


def _tiny_imagenet(name: str, model: str, **settings: Any) -> TrainConfig:
    """100 epochs with the augmentation of the pre-training; --data is required."""
    shared: dict[str, Any] = {
        "epochs": 100,
        "batch_size": 256,
        "per_device": 256,
        "lr": 2e-3,
        "lr_head": 2e-3,
        "warmup_epochs": 5,
        "crop": (0.35, 1.0),
        "auto": "rand-m9-mstd0.5-inc1",
        "erase": 0.25,
        "cutmix": 1.0,
        "mixup": 0.8,
        "ema": 0.999,
        "precision": "bf16",
        "checkpoint_every": 20,
    }
    return _small(name, model, "", **shared | settings)


@recipe
def tiny_imagenet_convnext_nano() -> TrainConfig:
    """ConvNeXt-Atto with an 8 x 8 map on Tiny-ImageNet."""
    options = {"drop_path_rate": 0.1}
    return _tiny_imagenet(
        "tiny_imagenet_convnext_nano", "convnext_atto_64", model_options=options, head="gap_fc"
    )


@recipe
def tiny_imagenet_replknet_nano() -> TrainConfig:
    """A small RepLKNet on Tiny-ImageNet."""
    return _tiny_imagenet(
        "tiny_imagenet_replknet_nano", "replknet_nano", model_options={"drop_path_rate": 0.1}
    )


@recipe
def tiny_imagenet_slak_nano() -> TrainConfig:
    """A small SLaK on Tiny-ImageNet, 40% of its weights zero."""
    return _tiny_imagenet(
        "tiny_imagenet_slak_nano",
        "slak_nano",
        model_options={"drop_path_rate": 0.1},
        sparsity=0.4,
        prune_rate=0.3,
        mask_every=200,
    )
