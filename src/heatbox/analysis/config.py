"""What an instrument is asked to do. The configuration of `all` is the union of the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from heatbox.config import Target


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """The networks to compare, and how pictures become their input."""

    model: tuple[str, ...]
    """One or more: timm model names, path/to/file.py:function, or folders of runs with their weights."""
    checkpoint: tuple[str, ...] = ()
    """A file of weights for each model in turn, or "pretrained", or "none"."""
    label: tuple[str, ...] = ()
    """What figures call each model; by default its name."""
    num_classes: int | None = None
    """Number of classes; by default the models' own."""
    size: int | None = None
    """Side of the square input in pixels; by default each model's own."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    """Filter that squashes images to the input size; by default each model's own."""
    mean: tuple[float, float, float] | None = None
    """Mean of RGB in [0, 1]; by default each model's own."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of RGB in [0, 1]; by default each model's own."""
    batch_size: int = 32
    """Images a forward pass."""
    device: str = "auto"
    """cpu, cuda, mps, or auto for the best available."""
    seed: int = 0
    """Of everything that is drawn at random."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(ModelsConfig):
    """The images to measure on."""

    data: str
    """A folder or archive of labelled images, or glyphs:test."""
    metadata: Path | None = None
    """Folder with image_ids.txt and the like, where it is not the data folder itself."""
    limit: int | None = None
    """At most so many images, evenly spread over the data set."""
    target: Target = "label"
    """Class whose weights and maps are looked at: the ground-truth label, or the predicted class."""


@dataclass(frozen=True, kw_only=True)
class FieldConfig(ModelsConfig):
    """How receptive fields are measured."""

    erf_size: int = 1024
    """Side in pixels of the input for receptive fields, to which pictures are squashed."""
    erf_images: int = 50
    """Receptive fields are means over the first so many images."""
    erf_batch_size: int = 1
    """Images in memory at once for receptive fields."""


@dataclass(frozen=True, kw_only=True)
class ErfConfig(FieldConfig, DataConfig):
    """Effective receptive fields."""

    erf_grid: int = 5
    """Also of so many positions along each side of the feature map; 0 for the centre alone."""
    erf_grid_images: int = 2
    """Images for those positions; each costs a backward pass a position."""


@dataclass(frozen=True, kw_only=True)
class ShapeBiasConfig(FieldConfig):
    """Shape bias, and the receptive fields of images that shape or texture decided."""

    stimuli: str
    """Cue-conflict images, a folder or archive; or glyphs for pairs drawn from the embedded data set."""
    group: tuple[str, ...] = ("auto",)
    """Shape categories whose receptive fields are compared; auto takes clock or the most even one; all pools
    them; none."""
    group_images: int = 30
    """At most so many images for each of a category's two groups."""


@dataclass(frozen=True, kw_only=True)
class ChannelsConfig(DataConfig):
    """Activation areas, spatial means and class weights of channels."""

    area_threshold: float = 10.0
    """Activation above which a pixel counts as activated, in units of the feature map."""
    area_percentile: float = 90.0
    """The same as a percentile of each network's own activations, for networks whose scale differs."""
    area_by: Literal["auto", "threshold", "percentile"] = "auto"
    """Which of the two is shown; auto takes the percentile where under 1% of channels pass the threshold."""
    norm: Literal["fold", "ignore"] = "fold"
    """Norm layers of the head: folded into the class weights, or ignored."""
    control_images: int = 100
    """Images for the control with a randomly initialised head."""


@dataclass(frozen=True, kw_only=True)
class ComplexityConfig(DataConfig):
    """Explained variance and dictionary learning."""

    channel_norm: Literal["minmax", "none"] = "minmax"
    """Channels scaled to [0, 1] before the PCA, or taken as they are."""
    atoms: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Sizes of the dictionaries."""
    nonzero: int = 3
    """Atoms that the code of a map may use."""
    grid: int = 7
    """Maps are averaged to so many positions a side; fewer where a network's map has fewer."""
    channels_an_image: int = 16
    """Channels drawn from each image for the dictionaries."""


@dataclass(frozen=True, kw_only=True)
class MapsConfig(DataConfig):
    """Class activation maps from positive and negative weights; thresholds."""

    norm: Literal["fold", "ignore"] = "fold"
    """Norm layers of the head: folded into the class weights, or ignored."""
    thresholds: int = 1000
    """Number of thresholds tried."""
    examples: int = 8
    """Images on the sheet of pictures."""


@dataclass(frozen=True, kw_only=True)
class AllConfig(MapsConfig, ComplexityConfig, ChannelsConfig, ShapeBiasConfig, ErfConfig):
    """Every instrument; the shape bias only where there are stimuli."""

    stimuli: str = ""
    """Cue-conflict images, or glyphs; without them the shape bias is left out."""
