"""The paper itself: 36 models on CUB-200-2011, pre-trained weights on ImageNet and on cue-conflict images."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from pathlib import Path
from typing import Any

import timm
import torch

from heatbox.analysis.config import AllConfig
from heatbox.config import EvaluateConfig
from heatbox.data.catalogue import CATALOGUE
from heatbox.models.zoo import count
from heatbox.paper import work
from heatbox.paper.plan import Network, Scale
from heatbox.paper.steps import Cost, Input, Step
from heatbox.training.config import TrainConfig, TrainOptions
from heatbox.training.recipes import RECIPES, get_recipe
from heatbox.training.weights import PUBLISHED

MAIN = ("convnext_base_384_in22ft1k", "replknet_31b_in1k_384", "slak_base_k51_384")
"""The best of each family (supplement 13)."""
OTHERS = ("convnext_tiny", "replknet_31b_in22k_224", "slak_tiny_k51_224")
"""Those of figures 18 and 19 (supplement 13)."""
TRAIN_IMAGES, TEST_IMAGES, FULLSUP_IMAGES, IMAGENET_IMAGES, STIMULI = 5994, 5794, 1000, 50_000, 1280
ERF_SIDE, ERF_IMAGES = 1024, 50
ERF_GRID, ERF_GRID_IMAGES = 5, 2
TFLOPS = 16.3
"""Single-precision peak of the Quadro RTX 8000 (NVIDIA's data sheet), on eight of which the paper trained."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
PRETRAINED = "-pretrained"


def full(
    out: Path,
    data: Path | None = None,
    weights: Path | None = None,
    imagenet: Path | None = None,
    stimuli: Path | None = None,
    download: bool = False,
    device: str = "auto",
    options: TrainOptions | None = None,
    tflops: float = TFLOPS,
) -> Scale:
    """The scale of the paper.

    Args:
        out: folder of all output.
        data: CUB-200-2011 as downloaded or unpacked, with CUBV2 beside it.
        weights: folder of the pre-trained files.
        imagenet: ILSVRC2012 with its validation images and boxes (Fig. 13 right).
        stimuli: cue-conflict images (Fig. 16, 17).
        download: let timm fetch the weights that it publishes.
        device: cpu, cuda, mps or auto.
        options: of the trainings.
        tflops: sustained 10^12 operations per second of a device, for the estimates of time.
    """
    copies = out / "cub"
    recipes = [name for name in RECIPES if get_recipe(name).pretrained != "scratch"]
    networks = tuple(_network(get_recipe(name), copies, weights, download) for name in recipes)
    published: dict[tuple[str, str], Network] = {}  # a network of 1000 classes for each file of weights
    for network in networks:
        own = dataclasses.replace(network, name=network.name + PRETRAINED, trained=False)
        published.setdefault(_weights_key(network), own)
    support = tuple(published.values())
    by_name = {network.name: network for network in networks}
    second = str(imagenet or "")
    return Scale(
        name="full",
        networks=networks,
        support=support,
        main=MAIN,
        others=OTHERS,
        second=tuple(network.name for network in support),
        biased=tuple(published[_weights_key(by_name[name])].name for name in MAIN),
        preparation=(
            Step(
                "prepare-cub",
                "448-pixel copies of CUB-200-2011",
                partial(work.prepare, data or Path("CUB-200-2011"), copies),
                outputs=tuple(copies / split / "localization.txt" for split in ("train", "test")),
                inputs=(_data_input("CUB-200-2011", data, "--data"),),
            ),
        ),
        evaluation=EvaluateConfig(
            model="", data=str(copies / "test"), fullsup=str(copies / "fullsup"), device=device
        ),
        second_evaluation=EvaluateConfig(model="", data=second, device=device),
        analysis=AllConfig(
            model=(),
            data=str(copies / "test"),
            stimuli=str(stimuli or ""),
            group=("clock",),  # the category that the paper shows (supplement 10)
            erf_size=ERF_SIDE,
            erf_images=ERF_IMAGES,
            erf_grid=ERF_GRID,
            erf_grid_images=ERF_GRID_IMAGES,
            device=device,
        ),
        second_data=(_data_input("ILSVRC2012", imagenet, "--imagenet"),),
        stimuli=(_data_input("cue-conflict stimuli", stimuli, "--stimuli"),),
        options=options or TrainOptions(device=device),
        cost=partial(cost, tflops=tflops),
        title="CAM Back Again: 36 models on CUB-200-2011",
        shown=300,
    )


def _data_input(name: str, path: Path | None, option: str) -> Input:
    entry = next(one for one in CATALOGUE if one.name == name)
    return Input(name, path, f"give it with {option}; it is published at {entry.where}")


def _network(config: TrainConfig, copies: Path, weights: Path | None, download: bool) -> Network:
    """A recipe with its data and the file of its weights."""
    config = dataclasses.replace(config, data=str(copies / "train"), test=str(copies / "test"))
    from_timm = config.pretrained == PUBLISHED
    if from_timm and download:
        return Network(config)
    name = config.model if from_timm else config.pretrained
    file = _file_of(weights, name)
    source = f"give its folder with --pretrained; it is published in {config.pretrained_source}"
    if from_timm:
        source += f" as timm/{config.model}, and --download downloads it"
    config = dataclasses.replace(config, pretrained=str(file or name))
    return Network(config, inputs=(Input(f"the file of weights {name}", file, source),))


def _file_of(weights: Path | None, name: str) -> Path | None:
    """The file of a name with any supported suffix; the expected path if there is none."""
    if weights is None:
        return None
    stem = name.removesuffix(".pth")
    files = [weights / name, *(weights / f"{stem}{suffix}" for suffix in SUFFIXES)]
    return next((file for file in files if file.is_file()), weights / name)


def _weights_key(network: Network) -> tuple[str, str]:
    return network.config.model, network.config.pretrained


@cache
def macs(model: str, options: tuple[tuple[str, Any], ...], side: int) -> int:
    """Multiply-accumulates of one image, counted from shapes alone."""
    with torch.device("meta"):
        network = timm.create_model(model.partition(".")[0], num_classes=200, **dict(options))
    return count(network, side).macs


def cost(network: Network, kind: str, tflops: float = TFLOPS) -> Cost:
    """Seconds of one device at its peak rate: a lower bound, since no device sustains it.

    A multiply-accumulate is 2 operations, and a backward pass twice the work of a forward pass.
    """
    config = network.config
    forward = {
        "evaluate": TEST_IMAGES + FULLSUP_IMAGES,
        "second": IMAGENET_IMAGES,
        "channels": TEST_IMAGES,
        "channels-others": TEST_IMAGES,
        "maps": TEST_IMAGES,
        "complexity": TEST_IMAGES,
        "shape-bias": STIMULI,
    }
    fields = {
        "erf": ERF_IMAGES + ERF_GRID_IMAGES * ERF_GRID**2,
        "erf-others": ERF_IMAGES + ERF_GRID_IMAGES * ERF_GRID**2,
        "shape-bias": 60,  # two groups of 30 images
    }
    options = tuple(sorted(config.model_options.items()))
    passes = forward.get(kind, 0) + (3.0 * config.epochs * TRAIN_IMAGES if kind == "train" else 0)
    # All but the classifier grows with the area, and all sides are multiples of the stride.
    passes += 3.0 * fields.get(kind, 0) * (ERF_SIDE / config.size) ** 2
    operations = 2 * passes * macs(config.model, options, config.size)
    return Cost(operations / (tflops * 1e12), f"counted operations at {tflops:g} TFLOP/s: a lower bound")
