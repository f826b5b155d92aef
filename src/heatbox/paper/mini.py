"""The paper on the embedded data set: small networks of the three families, in minutes on a CPU.

As in the paper, networks are pre-trained, here at 48 pixels, and then fine-tuned: at 64 pixels, at 48, with
augmentation, and one without pre-training.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from heatbox.analysis.config import AllConfig
from heatbox.config import EvaluateConfig
from heatbox.paper.plan import Network, Scale
from heatbox.paper.steps import Cost
from heatbox.training.config import TrainConfig, TrainOptions
from heatbox.training.recipes import get_recipe

FAMILIES = ("convnext", "replknet", "slak")
AUGMENTED = ("convnext", "replknet")
"""Families whose pairs differ in augmentation; those of SLaK differ in resolution alone (supplement 8)."""
WITHOUT_PRETRAINING = ("replknet",)
SIDE, SMALL_SIDE = 64, 48
IMAGES = 4000  # of glyphs' training split
PRETRAINED_EPOCHS, EPOCHS = 10, 5
TEST_IMAGES = 500

# Of the run in docs/paper.md, processor time of one thread: training images per second at 64 pixels, with the
# validation on the test images, and seconds per network of everything else.
RATES = {"convnext_micro": 167.0, "replknet_micro": 155.0, "slak_micro": 95.0}
SECONDS = {
    "evaluate": 11.2,
    "second": 7.1,
    "erf": 5.1,
    "erf-others": 9.4,
    "channels": 4.2,
    "channels-others": 4.1,
    "maps": 20.1,
    "complexity": 6.9,
    "shape-bias": 11.4,
}
BASIS = "processor time of the run in docs/paper.md"


def mini(device: str = "auto", images: int = 40, quick: bool = False) -> Scale:
    """The small scale.

    Args:
        device: cpu, cuda, mps or auto.
        images: number of images in the page's explorer.
        quick: a few images and one epoch, to test the whole plan; its scores mean nothing.
    """
    support = tuple(Network(_pretraining(family, quick)) for family in FAMILIES)
    networks = tuple(network for family in FAMILIES for network in _fine_tuned(family, quick))
    few: dict[str, Any] = {"limit": 40} if quick else {}
    size: dict[str, Any] = {"erf_size": 256, "erf_images": 50}
    if quick:
        size = {"erf_size": 64, "erf_images": 2}
    evaluation = EvaluateConfig(
        model="", data="glyphs:test", fullsup=None if quick else "glyphs:fullsup", device=device, **few
    )
    names = tuple(f"glyphs_{family}" for family in FAMILIES)
    return Scale(
        name="mini",
        networks=networks,
        support=support,
        main=names,
        others=tuple(f"{name}_{SMALL_SIDE}" for name in names),
        second=tuple(network.name for network in support),
        biased=names,
        evaluation=evaluation,
        second_evaluation=dataclasses.replace(evaluation, fullsup=None),
        analysis=AllConfig(
            model=(),
            data="glyphs:test",
            stimuli="glyphs",
            group=("all",),
            group_images=2 if quick else 30,
            erf_batch_size=4,
            erf_grid=3,
            channels_an_image=4 if quick else 16,
            device=device,
            **size,
            **few,
        ),
        options=TrainOptions(device=device, cache=True, tensorboard=False),
        cost=cost,
        title="CAM Back Again at a small scale: three families on glyphs",
        shown=4 if quick else images,
    )


def _recipe(family: str, quick: bool, suffix: str, **settings: Any) -> TrainConfig:
    """A small recipe with another name and other settings."""
    base = get_recipe(f"glyphs_{family}")
    if quick:
        settings |= {"epochs": 1, "limit": 64, "batch_size": 32, "per_device": 32, "warmup_epochs": 0}
    changed: dict[str, Any] = {"recipe": base.recipe + suffix, "checkpoint_every": settings["epochs"]}
    return dataclasses.replace(base, **settings | changed)


def _pretraining(family: str, quick: bool) -> TrainConfig:
    settings = {"epochs": PRETRAINED_EPOCHS, "warmup_epochs": 1, "size": SMALL_SIDE}
    return _recipe(family, quick, "_pretrained", **settings)


def _fine_tuned(family: str, quick: bool) -> list[Network]:
    settings: dict[str, Any] = {"epochs": EPOCHS, "warmup_epochs": 0.5, "lr": 1e-3, "lr_head": 2.5e-3}
    start = f"glyphs_{family}_pretrained"
    found = [
        Network(_recipe(family, quick, f"_{SMALL_SIDE}", **settings, size=SMALL_SIDE), start=start),
        Network(_recipe(family, quick, "", **settings), start=start),
    ]
    if family in AUGMENTED:
        policy = {"auto": "rand-m9-mstd0.5-inc1", "erase": 0.25}
        found.append(Network(_recipe(family, quick, "_aug", **settings, **policy), start=start))
    if family in WITHOUT_PRETRAINING:
        found.append(Network(_recipe(family, quick, "_scratch", **settings)))
    return found


def cost(network: Network, kind: str) -> Cost:
    """Seconds of one thread for a kind of work."""
    config = network.config
    if kind == "train":
        rate = RATES[config.model] * (SIDE / config.size) ** 2
        return Cost(config.epochs * (config.limit or IMAGES) / rate, BASIS)
    return Cost(SECONDS[kind], BASIS)
