"""Shape bias: does a classifier go by the shape of a thing or by its texture?

Geirhos et al., "ImageNet-trained CNNs are biased towards texture", ICLR 2019. A cue-conflict image has the
shape of one category and the texture of another. Of all answers that name one of the two, the share that
names the shape is the shape bias; CAM Back Again, supplement 10, compares large-kernel networks by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from heatbox._utils.checks import check_integer, check_module, kind_of
from heatbox._utils.progress import Track, silent
from heatbox.analysis.imagenet_categories import CATEGORIES
from heatbox.analysis.responses import Response, read_responses
from heatbox.data.formats.cue_conflict import shape_and_texture
from heatbox.data.open import open_split
from heatbox.data.transforms import Preprocess
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import as_input, data_config, eval_mode

Aggregation = Literal["mean", "sum", "max"]
Mapped = Mapping[str, Sequence[int]]
"""Category → indices of the classes that belong to it."""

EVERY_CATEGORY = "all"
"""In place of a category: the images of all."""

PUBLISHED = {
    "humans": 0.959,
    "AlexNet": 0.429,
    "GoogLeNet": 0.312,
    "ResNet-50": 0.221,
    "VGG-16": 0.172,
}
"""Shape bias of ten people and of ImageNet-trained networks as Geirhos et al. print them (ICLR 2019)."""


@dataclass(frozen=True)
class Decisions:
    """How the answers to some images fell.

    Attributes:
        shape, texture, other: number of answers that named the shape, the texture, neither.
        interval: 95% bootstrap interval of the bias over images; NaN where nothing was decided.
    """

    shape: int
    texture: int
    other: int
    interval: tuple[float, float]

    @property
    def bias(self) -> float:
        """Share of shape among the answers that named shape or texture; NaN where there is none."""
        decided = self.shape + self.texture
        return self.shape / decided if decided else math.nan

    @property
    def images(self) -> int:
        """Number of answers."""
        return self.shape + self.texture + self.other


@dataclass(frozen=True)
class ShapeBias:
    """The shape bias of one observer, or of several pooled.

    Attributes:
        decisions: over all images whose shape and texture differ.
        categories: the same for the images of each shape category.
        responses: the answers behind it, images of agreeing shape and texture included.
    """

    decisions: Decisions
    categories: dict[str, Decisions]
    responses: list[Response] = field(repr=False)

    @property
    def overall(self) -> float:
        """Shape bias in 0..1, answers pooled over categories."""
        return self.decisions.bias

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95% bootstrap interval over images."""
        return self.decisions.interval

    @property
    def per_category(self) -> dict[str, float]:
        """Shape bias in 0..1 of the images of each shape category; NaN where no answer named either cue."""
        return {name: found.bias for name, found in self.categories.items()}

    @property
    def accuracy(self) -> float:
        """Share of images for which shape or texture was named."""
        return (self.decisions.shape + self.decisions.texture) / self.decisions.images


def from_responses(table: Any, resamples: int = 10_000, seed: int = 0) -> ShapeBias:
    """Shape bias from a table of answers, the published raw data among them.

    Images whose shape and texture agree are left out. All rows are pooled, as is published for humans; split
    a table of several networks first (`heatbox.analysis.responses.by_observer`).

    Args:
        table: columns image, shape, texture, response; see `heatbox.analysis.responses.read_responses` for
            what it may be.
        resamples: bootstrap resamples for the intervals.
        seed: of the resampling.

    Raises:
        InputError: a table that cannot be read, or in which every shape agrees with its texture.
    """
    responses = read_responses(table)
    conflict = [one for one in responses if one.shape != one.texture]
    if not conflict:
        raise InputError("in every image shape and texture agree, so there is no conflict to decide")
    rng = np.random.default_rng(seed)
    categories = {
        name: _decisions([one for one in conflict if one.shape == name], resamples, rng)
        for name in sorted({one.shape for one in conflict})
    }
    return ShapeBias(_decisions(conflict, resamples, rng), categories, responses)


def _decisions(responses: Sequence[Response], resamples: int, rng: np.random.Generator) -> Decisions:
    shape = sum(one.response == one.shape for one in responses)
    texture = sum(one.response == one.texture for one in responses)
    count = len(responses)
    counts = np.array([shape, texture, count - shape - texture])
    # A resample of the images is a draw of how many decided for what: three numbers, multinomial.
    drawn = rng.multinomial(count, counts / count, resamples)
    decided = drawn[:, 0] + drawn[:, 1]
    biases = drawn[decided > 0, 0] / decided[decided > 0]
    low, high = np.quantile(biases, [0.025, 0.975]) if len(biases) else (math.nan, math.nan)
    return Decisions(shape, texture, count - shape - texture, (float(low), float(high)))


# --------------------------------------------------------------------------------- from a model to answers


def decide(probabilities: np.ndarray, categories: Mapped, aggregation: Aggregation = "mean") -> list[str]:
    """Name a category for each row of class probabilities.

    Args:
        probabilities: (N, K) softmax over all classes.
        categories: category → indices of its classes.
        aggregation: of the probabilities of a category's classes; the mean is what the authors recommend,
            since a sum favours categories of many classes.

    Returns:
        N names; of equal ones the first in alphabetical order.

    Raises:
        InputError: an index outside the classes, or an unknown aggregation.
    """
    names = sorted(categories)
    values = np.stack(
        [category_scores(probabilities, categories[name], aggregation) for name in names], axis=1
    )
    return [names[index] for index in values.argmax(1)]


def category_scores(
    probabilities: np.ndarray, indices: Sequence[int], aggregation: Aggregation = "mean"
) -> np.ndarray:
    """(N,) aggregated probability of one category; arguments as of `decide`."""
    if aggregation not in ("mean", "sum", "max"):
        raise InputError(f"aggregation is {aggregation!r}, expected 'mean', 'sum' or 'max'")
    if not indices or max(indices) >= probabilities.shape[1] or min(indices) < 0:
        raise InputError(
            f"a category's classes are {list(indices)}, expected indices from 0 to "
            f"{probabilities.shape[1] - 1}"
        )
    return getattr(np, aggregation)(probabilities[:, list(indices)], axis=1)


def categories_for(split: Split, num_classes: int) -> Mapped:
    """Which classes of a network belong to which category of the stimuli.

    ImageNet's 1000 classes are mapped as published; a network of as many classes as the stimuli have
    categories is taken to have them in the same order (glyphs).

    Raises:
        InputError: neither is the case, or a category of the stimuli is none of the 16.
    """
    names = [name.lower() for name in split.class_names]
    if num_classes == len(names):
        return {name: (index,) for index, name in enumerate(names)}
    if num_classes != 1000:
        raise InputError(
            f"the network has {num_classes} classes and the stimuli {len(names)} categories: expected as "
            "many, or ImageNet's 1000 classes, or say which classes belong to which category"
        )
    if unknown := [name for name in names if name not in CATEGORIES]:
        raise InputError(
            f"{unknown[0]!r} is none of the 16 categories that ImageNet's classes are mapped to: "
            f"{', '.join(CATEGORIES)}"
        )
    return CATEGORIES


def shape_bias(
    model: nn.Module | ClassifierView,
    cue_conflict: Split | str | Path,
    categories: Mapped | None = None,
    batch_size: int = 32,
    preprocess: Preprocess | None = None,
    track: Track = silent,
) -> ShapeBias:
    """Shape bias of a classifier on cue-conflict images.

    Args:
        model: images (B, 3, H, W) → logits (B, K).
        cue_conflict: the stimuli: a split whose ids are SHAPEn-TEXTUREm (`heatbox.glyphs_cue_conflict()`
            draws some), or where they are on disk.
        categories: category → indices of its classes; by default as `categories_for` says.
        batch_size: images a forward pass.
        preprocess: from picture to input; by default the model's own, the picture squashed, not cropped.
        track: how to show progress.

    Raises:
        InputError: stimuli that cannot be read, or classes that do not fit them.
        TypeError: no network, stimuli that are neither a split nor a path, a batch that is no whole number.
    """
    check_module(model.model if isinstance(model, ClassifierView) else model, "model")
    check_integer(batch_size, "batch_size")
    if not isinstance(cue_conflict, Split | str | Path):
        raise TypeError(f"cue_conflict: {kind_of(cue_conflict)}, expected a split or a path")
    split = cue_conflict if isinstance(cue_conflict, Split) else open_split(str(cue_conflict))
    network = model.model if isinstance(model, ClassifierView) else model
    prepare = preprocess or Preprocess.from_config(data_config(network))
    responses: list[Response] = []
    starts = range(0, len(split), batch_size)
    for start in track(starts, "shape bias", len(starts)):
        examples = split.examples[start : start + batch_size]
        images = torch.stack([prepare(split.open_image(example)) for example in examples])
        responses += answers(network, images, [example.id for example in examples], split, categories)
    return from_responses(responses)


def answers(
    model: nn.Module, images: torch.Tensor, ids: Iterable[str], split: Split, categories: Mapped | None = None
) -> list[Response]:
    """What a classifier says to a batch of preprocessed cue-conflict images (B, 3, H, W)."""
    with eval_mode(model), torch.inference_mode():
        logits = model(as_input(model, images))
    probabilities = logits.double().cpu().softmax(1).numpy()
    chosen = categories_for(split, probabilities.shape[1]) if categories is None else categories
    said = decide(probabilities, chosen)
    return [
        Response(name, *shape_and_texture(name), response) for name, response in zip(ids, said, strict=True)
    ]


def groups_of(bias: ShapeBias, category: str) -> dict[str, list[str]]:
    """Images of a shape category by what decided: {"shape": ids, "texture": ids} (supplement 10, Fig. 17).

    Args:
        bias: of the network.
        category: the shape's, or `EVERY_CATEGORY` for the images of all.

    Raises:
        InputError: there is no such category.
    """
    if category not in (*bias.categories, EVERY_CATEGORY):
        raise InputError(f"there is no category {category!r}, expected one of {', '.join(bias.categories)}")
    chosen = [
        one for one in bias.responses if one.shape != one.texture and category in (one.shape, EVERY_CATEGORY)
    ]
    return {
        cue: [one.image for one in chosen if one.response == getattr(one, cue)]
        for cue in ("shape", "texture")
    }
