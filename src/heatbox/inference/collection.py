"""A foreground head for a collection of images: which images it is fitted on, and what is kept of each.

The projection is fitted on the features of a first sample of images; of every later image only the projected
features are kept. Images are drawn by a seed. Boxes take no part, and labels only where the maps that the
head is fitted to are maps of the label.
"""

from __future__ import annotations

import hashlib
import warnings
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heatbox._utils.checks import check_integer
from heatbox.errors import AssumptionWarning, InputError
from heatbox.maps.foreground import (
    ForegroundHead,
    Projection,
    fit_foreground,
    fit_projection,
    load_foreground,
)
from heatbox.maps.registry import (
    HEAD_SEED,
    ForegroundName,
    HeadShape,
    MapFunction,
    MapInputs,
    Requirements,
    named_for,
    run_model,
)
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import blank_input, model_name, placement

SAMPLE, SAMPLE_BYTES = 128, 2**27
"""Images on which a projection is fitted at most, and the memory for their features."""

MOST_IMAGES = 3000
"""Images on which a head is fitted at most: 150 MB of projected features on a 14 x 14 grid."""

FEW_IMAGES = 30
"""Below this number of images, a fit is said to be doubtful."""

HEAD_FILE = "foreground.safetensors"


def head_seed(methods: Iterable[str | MapFunction], view: ClassifierView | None = None) -> str | None:
    """The method to whose maps the head of some methods is fitted; None if none of them has a head.

    Args:
        methods: names or callables.
        view: the model, for which the default seed has another name where it has no exact class map.

    Raises:
        InputError: they have different seeds.
    """
    seeds = [parts.seed or HEAD_SEED for parts in map(ForegroundName.of, methods) if parts is not None]
    if len(set(seeds)) > 1:
        first, other = dict.fromkeys(seeds)
        raise InputError(
            f"foreground heads fitted to {first} and to {other} were asked for, expected one; run twice"
        )
    return (named_for(view, seeds[0]) if view is not None else seeds[0]) if seeds else None


def drawn(count: int, most: int, seed: int) -> list[int]:
    """Positions of at most `most` of `count` images in random order, drawn without replacement."""
    check_integer(seed, "seed", 0)
    order: list[int] = np.random.default_rng(seed).permutation(count)[:most].tolist()
    return order


def sample_size(shape: HeadShape) -> int:
    """Number of images on which the projection is fitted, for features of a shape."""
    return max(1, min(SAMPLE, SAMPLE_BYTES // (2 * shape.channels * shape.height * shape.width)))


def features_shape(view: ClassifierView, size: Sequence[int], requirements: Requirements) -> HeadShape:
    """The shape of the features that a head reads, from a pass of a blank image of (height, width) pixels."""
    images = blank_input(view.model, *size)
    with torch.no_grad():
        output = run_model(view, images, requirements)
        targets = torch.zeros(len(images), dtype=torch.long, device=output.logits.device)
        return MapInputs.from_output(output, view, images, targets).head_shape


def gathered(inputs: MapInputs, seed: str, projection: Projection | None) -> tuple[Tensor, Tensor]:
    """What a fit keeps of some images.

    Args:
        inputs: of the images.
        seed: the method to whose maps the head is fitted.
        projection: None for the sample on which it is to be fitted.

    Returns:
        (B, C, h, w) float16 features on the CPU, projected where there is a projection, and (B, h, w) float32
        seed maps.
    """
    features = inputs.head_features
    if projection is not None:
        features = projection(features)
    return features.half().cpu(), inputs.map_of(seed).float().cpu()


class HeadFit:
    """Features and seed maps of images, in memory, for the fit of a head.

    Args:
        seed: of all random numbers.
        sample: number of images on which the projection is fitted.
    """

    def __init__(self, seed: int = 0, sample: int = SAMPLE) -> None:
        check_integer(seed, "seed", 0)
        self.seed, self.sample = seed, sample
        self.projection: Projection | None = None
        self.layers: tuple[int, ...] = ()
        self._features: list[Tensor] = []
        self._maps: list[Tensor] = []

    def __len__(self) -> int:
        return sum(map(len, self._maps))

    def add(self, inputs: MapInputs, method: str) -> None:
        """Keep what `gathered` returns for some images; `method` is the seed."""
        features, maps = gathered(inputs, method, self.projection)
        self.layers = inputs.head_shape.layers
        self._features.append(features)
        self._maps.append(maps)
        if self.projection is None and len(self) >= self.sample:
            self._project()

    def _project(self) -> None:
        features = torch.cat(self._features)
        projection = fit_projection(features, layers=self.layers)
        self._features = [projected(projection, features)]
        self.projection = projection.to(features.device)

    def fit(self) -> ForegroundHead:
        """The head.

        Raises:
            InputError: there is no image, or nothing to learn.
        """
        if not self._features:
            raise InputError("there is no image to fit a foreground head on")
        if self.projection is None:
            self._project()
        warn_of_few(len(self))
        return fit_foreground(
            torch.cat(self._features), torch.cat(self._maps), projection=self.projection, seed=self.seed
        )


def projected(projection: Projection, features: Tensor, at_once: int = 32) -> Tensor:
    """(N, C, h, w) float16 features → (N, D, h, w) float16, some images at a time."""
    with torch.no_grad():
        return torch.cat([projection(part.float()).half() for part in features.split(at_once)])


def warn_of_few(images: int) -> None:
    """Warn that a head is fitted on few images.

    Warns:
        AssumptionWarning: there are fewer than `FEW_IMAGES`.
    """
    if images < FEW_IMAGES:
        plural = "s" * (images != 1)
        warnings.warn(
            f"the foreground head is fitted on {images} image{plural} only; from fewer than {FEW_IMAGES} it "
            "hardly learns more than the maps that it is fitted to",
            AssumptionWarning,
            stacklevel=3,
        )


# ------------------------------------------------------------------------------------- heads and their files


def fitted_on(view: ClassifierView, head_images: int, seed: str, size: Sequence[int]) -> dict[str, Any]:
    """What a head was fitted on, for `ForegroundHead.save`.

    Args:
        view: the model.
        head_images: number of images.
        seed: the method to whose maps it was fitted.
        size: (height, width) of the input.
    """
    layers = "two middle maps" + (
        " and the last map"
        if view.is_isotropic
        else ", the second of them and the last map at twice the side"
    )
    return {
        "model": model_name(view.model),
        "layers": layers,
        "grid": "of the last of them",
        "seeds": seed,
        "images": head_images,
        "size": "{} x {}".format(*size),
        "weights": fingerprint(view),
    }


def identity(file: str, size: Sequence[int]) -> str:
    """Eight digits by which an image is recognized in another folder: of its name there and its size."""
    name = file.rpartition("/")[2]
    return f"{zlib.crc32('{} {}x{}'.format(name, *size).encode()):08x}"


def fingerprint(view: ClassifierView) -> str:
    """16 digits that differ for other weights: of a hash over the first values of each tensor of a model."""
    digest = hashlib.sha256()
    for name, value in view.model.state_dict().items():
        if isinstance(value, Tensor) and value.device.type != "meta":
            digest.update(f"{name} {tuple(value.shape)} ".encode())
            digest.update(value.detach().flatten()[:16].double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def usable_head(
    head: ForegroundHead | str | Path, view: ClassifierView, channels: int, size: Sequence[int]
) -> ForegroundHead:
    """A fitted head for a model, on its device.

    Args:
        head: the head, or its file.
        view: the model.
        channels: of the features that the model has for it, see `features_shape`.
        size: (height, width) of the input.

    Raises:
        InputError: the file is no head, or the head was fitted on features of another number of channels.

    Warns:
        AssumptionWarning: it was fitted with other weights, or on images of another size.
    """
    where = "the foreground head" if isinstance(head, ForegroundHead) else str(head)
    found = head if isinstance(head, ForegroundHead) else load_foreground(head)
    about = found.fitted_on
    if found.channels != channels:
        of = f" of {about['model']}" if "model" in about else ""
        raise InputError(
            f"{where}: was fitted on features{of} with {found.channels} channels, but those of "
            f"{model_name(view.model)} have {channels}; it is for the network that it was fitted with"
        )
    side = "{} x {}".format(*size)
    other = []
    if about.get("weights", fingerprint(view)) != fingerprint(view):
        other.append("with other weights")
    if about.get("size", side) != side:
        other.append(f"on images of {about['size']} pixels, not {side}")
    if other:
        warnings.warn(
            f"{where}: was fitted {' and '.join(other)}; its maps may be worse",
            AssumptionWarning,
            stacklevel=3,
        )
    return found.to(placement(view.model)[0])
