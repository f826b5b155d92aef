"""SLaK: 5 pre-trained models, each at 224 and 384 pixels [S].

The letters of the sources are those of `heatbox.training.recipes.shared`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from heatbox.training.config import TrainConfig
from heatbox.training.recipes.shared import RECIPES, fine_tuned

PUBLISHED_IN = "the tables of github.com/VITA-Group/SLaK"


def _slak(variant: str, kernel: int, size: int) -> TrainConfig:
    drop_path = {"tiny": 0.1, "small": 0.4, "base": 0.5}[variant]  # [S]
    return fine_tuned(
        f"slak_{variant}_k{kernel}_{size}",
        f"slak_{variant}",
        size=size,  # [S] all were pre-trained at 224
        pretrained=f"SLaK_{variant}{kernel}.pth",  # the files have no fixed names; [S] names the models so
        pretrained_source=PUBLISHED_IN,
        model_options={"kernel_size": kernel, "drop_path_rate": drop_path},
        sparsity=0.4,  # [L] --sparsity 0.4
        prune_rate=0.5 if variant == "tiny" else 0.3,  # [L] --prune_rate
        mask_every=2000 if variant == "tiny" else 10,  # [S] update frequency 2000, 10, 10
    )


def _both_sizes(function: Callable[[int], TrainConfig]) -> Callable[[int], TrainConfig]:
    """Register a recipe at 224 and at 384 pixels, with the size appended to its function's name."""
    for size in (224, 384):
        RECIPES[f"{function.__name__}_{size}"] = partial(function, size)
    return function


@_both_sizes
def slak_tiny_k31(size: int) -> TrainConfig:
    """SLaK-T, 31 x 31."""
    return _slak("tiny", 31, size)


@_both_sizes
def slak_tiny_k51(size: int) -> TrainConfig:
    """SLaK-T, 51 x 51."""
    return _slak("tiny", 51, size)


@_both_sizes
def slak_tiny_k61(size: int) -> TrainConfig:
    """SLaK-T, 61 x 61."""
    return _slak("tiny", 61, size)


@_both_sizes
def slak_small_k51(size: int) -> TrainConfig:
    """SLaK-S, 51 x 51."""
    return _slak("small", 51, size)


@_both_sizes
def slak_base_k51(size: int) -> TrainConfig:
    """SLaK-B, 51 x 51; at 384 the paper's best SLaK."""
    return _slak("base", 51, size)
