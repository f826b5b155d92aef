"""SLaK: 5 pre-trained models, each at 224 and 384 pixels [S].

The letters of the sources are those of `heatbox.training.recipes.shared`.
"""

from __future__ import annotations

from heatbox.training.config import TrainConfig
from heatbox.training.recipes.shared import fine_tuned, recipe

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
