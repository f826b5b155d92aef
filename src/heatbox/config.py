"""What a run is asked to do: frozen dataclasses, from which the command line and config.json are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Target = Literal["label", "predicted"]


@dataclass(frozen=True)
class EvaluateConfig:
    """Make maps of a data set and score them."""

    model: Annotated[str, tyro.conf.arg(aliases=["-m"])]
    """A timm model name, or path/to/file.py:function for a model of your own."""
    data: Annotated[str, tyro.conf.arg(aliases=["-d"])]
    """A folder or .tar in the metadata layout, or glyphs:test (glyphs:fullsup, glyphs:train)."""
    checkpoint: str | None = None
    """A file of weights, or "pretrained" for those that timm publishes."""
    num_classes: int | None = None
    """Number of classes; by default the model's own."""
    metadata: Path | None = None
    """Folder with image_ids.txt and the like, where it is not the data folder itself."""
    fullsup: str | None = None
    """A fully supervised split, named like data: thresholds best on it give the transferred scores."""
    fullsup_metadata: Path | None = None
    """Folder of its metadata files, where it is not the split's own folder."""
    method: tuple[str, ...] = ("cam", "pc1")
    """Maps to make and score: cam, pc1, walk, walk-one-pass; walk:pc1 is a walk from PC1, and a name ending
    in +centre is a map times the centre prior."""
    walk_seed: str = "cam"
    """Map that walks of no named seed start from: cam or pc1 (--seed is a random seed everywhere)."""
    target: Target = "label"
    """Class the map is made for: the ground-truth label (GT-known), or the predicted class."""
    norm: Literal["fold", "ignore"] = "fold"
    """Norm layers of the head: folded into the class weights (exact), or ignored (released code)."""
    size: int | None = None
    """Side of the square input in pixels; by default the model's own."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    """Filter that squashes images to the input size; by default the model's own."""
    mean: tuple[float, float, float] | None = None
    """Mean of RGB in [0, 1]; by default the model's own."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of RGB in [0, 1]; by default the model's own."""
    protocol: Literal["reference", "exact"] = "reference"
    """Boxes as the field's reference evaluator compares them, or without its rounding."""
    thresholds: int = 1000
    """Number of thresholds tried."""
    limit: int | None = None
    """Only the first so many images."""
    batch_size: int = 32
    """Images a forward pass."""
    device: str = "auto"
    """cpu, cuda, mps, or auto for the best at hand."""


@dataclass(frozen=True)
class ScoreConfig:
    """Score heatmaps that any tool made."""

    heatmaps: Path
    """Folder of <image id>.npy heatmaps, 224 x 224 in [0, 1]."""
    data: Annotated[str, tyro.conf.arg(aliases=["-d"])]
    """Folder or .tar in the metadata layout; its images are not needed."""
    fullsup_heatmaps: Path | None = None
    """Heatmaps of a fully supervised split, on which thresholds are chosen for the transferred scores."""
    fullsup: str | None = None
    """Folder or .tar of that split."""
    protocol: Literal["reference", "exact"] = "reference"
    """Boxes as the field's reference evaluator compares them, or without its rounding."""
    thresholds: int = 1000
    """Number of thresholds tried."""
    resize: bool = False
    """Bring maps of any size and range to 224 x 224 and [0, 1] first."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a classifier on labels alone."""

    model: str
    """A timm model name."""
    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step."""
    learning_rate: float = 2.5e-3
    """Peak learning rate of AdamW, after warm-up and before the cosine's end."""
    weight_decay: float = 0.05
    """Of AdamW."""
    label_smoothing: float = 0.1
    """Share of the target spread over all classes."""
    seed: int = 0
    """Of initialisation, order and augmentation."""
