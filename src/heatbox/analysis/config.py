"""The options of `heatbox analyze`, a class for each kind of measurement, and the registry of instruments.

This module imports neither torch nor timm, so that the command line starts fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from heatbox.config import ModelOptions, Target


@dataclass(frozen=True, kw_only=True)
class ModelsConfig(ModelOptions):
    """The models to compare, and how images become their input."""

    model: tuple[str, ...]
    """One or more: timm model names, path/to/file.py:function, or folders of runs, with the run's weights."""
    checkpoint: tuple[str, ...] = ()
    """A file of weights for each model, in the same order; or "pretrained", or "none"."""
    label: tuple[str, ...] = ()
    """Label of each model in the figures; by default its name."""
    batch_size: int = 32
    """Images per forward pass."""
    seed: int = 0
    """Random seed."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(ModelsConfig):
    """The images to measure on."""

    data: str
    """A folder or archive of labelled images, or glyphs:test."""
    metadata: Path | None = None
    """Folder with image_ids.txt and the other metadata files, if it is not the data folder."""
    limit: int | None = None
    """Maximum number of images, evenly spaced over the data set."""
    target: Target = "label"
    """Class whose weights and maps are used: the ground-truth label, or the predicted class."""


@dataclass(frozen=True, kw_only=True)
class FieldConfig(ModelsConfig):
    """How receptive fields are measured."""

    erf_size: int = 1024
    """Side in pixels of the square to which images are resized for receptive fields."""
    erf_images: int = 50
    """Number of images whose receptive fields are averaged: the first ones."""
    erf_batch_size: int = 1
    """Images per forward pass for receptive fields."""


@dataclass(frozen=True, kw_only=True)
class ErfConfig(FieldConfig, DataConfig):
    """Effective receptive fields."""

    erf_grid: int = 5
    """Positions along each side of the feature map that are also measured; 0 for the centre alone."""
    erf_grid_images: int = 2
    """Images for those positions, with one backward pass per position and image."""


@dataclass(frozen=True, kw_only=True)
class ShapeBiasConfig(FieldConfig):
    """Shape bias, and the receptive fields of images classified by shape and by texture."""

    stimuli: str
    """Cue-conflict images, a folder or archive; or glyphs for pairs drawn from the embedded data set."""
    group: tuple[str, ...] = ("auto",)
    """Shape categories whose receptive fields are compared: their names; auto for clock or, if there is none,
    the category with the most images in its smaller group; all to pool all categories; none to skip."""
    group_images: int = 30
    """Maximum number of images for each of a category's two groups."""


@dataclass(frozen=True, kw_only=True)
class ChannelsConfig(DataConfig):
    """Activation areas, spatial means and class weights of channels."""

    area_threshold: float = 10.0
    """Activation above which a pixel counts as activated, in units of the feature map."""
    area_percentile: float = 90.0
    """The same as a percentile of each model's activations, for models whose activations differ in scale."""
    area_by: Literal["auto", "threshold", "percentile"] = "auto"
    """Which of the two is shown; auto takes the percentile if under 1% of channels exceed the threshold."""
    norm: Literal["fold", "ignore"] = "fold"
    """Norm layers of the head: folded into the class weights, or ignored."""
    control_images: int = 100
    """Images for the control with a randomly initialized head."""


@dataclass(frozen=True, kw_only=True)
class ComplexityConfig(DataConfig):
    """Explained variance and dictionary learning."""

    channel_norm: Literal["minmax", "none"] = "minmax"
    """Channels scaled to [0, 1] before the PCA, or not scaled."""
    atoms: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Sizes of the dictionaries."""
    nonzero: int = 3
    """Maximum number of atoms used to reconstruct a map."""
    grid: int = 7
    """Positions per side to which maps are averaged; fewer if a model's map has fewer."""
    channels_an_image: int = 16
    """Channels drawn from each image for the dictionaries."""


@dataclass(frozen=True, kw_only=True)
class MapsConfig(DataConfig):
    """Class activation maps from positive and negative weights; thresholds."""

    norm: Literal["fold", "ignore"] = "fold"
    """Norm layers of the head: folded into the class weights, or ignored."""
    thresholds: int = 1000
    """Number of thresholds."""
    examples: int = 8
    """Images on the contact sheet."""


@dataclass(frozen=True, kw_only=True)
class AllConfig(MapsConfig, ComplexityConfig, ChannelsConfig, ShapeBiasConfig, ErfConfig):
    """Every instrument; the shape bias only if stimuli are given."""

    stimuli: str = ""
    """Cue-conflict images, or glyphs; without them the shape bias is not measured."""


@dataclass(frozen=True)
class Instrument:
    """One command of `heatbox analyze`, and the functions behind it.

    Attributes:
        config: class of its options.
        topic: module of `heatbox.analysis` with ``measure(analysis, model, config)``, which returns the
            numbers of one model and saves them in its run folder, and ``headline(numbers)``, which returns
            those of the comparison. An optional ``prepare(analysis, config)`` checks the input before
            anything is computed and returns the config to measure with.
        draw: name of the module's function ``(analysis, found, config)`` that draws the figures of label →
            numbers, and returns the files.
        summary: text of its help.
        example: options in the example of its help.
    """

    config: type[ModelsConfig]
    topic: str
    draw: str
    summary: str
    example: str = "--data CUB/test"


INSTRUMENTS = {
    "erf": Instrument(
        ErfConfig,
        "erf",
        "draw",
        """Effective receptive fields: the input pixels that the centre of the feature map depends on.

Draws heatmaps with the squares that contain a fraction t of the contribution, the curve r(t) and the area
under it, with and without the logarithm, and the radius at other positions. Rerun the command to resume an
interrupted measurement.""",
    ),
    "shape-bias": Instrument(
        ShapeBiasConfig,
        "shape_bias",
        "draw",
        """Shape bias on cue-conflict images; receptive fields of images classified by shape or by texture.

The model must have ImageNet's 1000 classes, or as many classes as the stimuli have categories. Rerun the
command to resume an interrupted measurement.""",
        "--stimuli cue-conflict/",
    ),
    "complexity": Instrument(
        ComplexityConfig,
        "complexity",
        "draw",
        "Complexity of feature maps: explained variance of a PCA, and dictionaries.",
    ),
    "activation": Instrument(
        ChannelsConfig,
        "channels",
        "draw_areas",
        "Activation area of channels against their class weight.",
    ),
    "class-weights": Instrument(
        ChannelsConfig,
        "channels",
        "draw_weights",
        "Spatial mean of channels against their class weight, with a randomly initialized head as control.",
    ),
    "signed-cam": Instrument(
        MapsConfig,
        "signed_cam",
        "draw",
        "CAM from channels of positive weight, of negative weight, and of all: scores, areas, images.",
    ),
    "thresholds": Instrument(
        MapsConfig,
        "signed_cam",
        "draw_thresholds",
        "Score of CAM and PC1 at every threshold, and the best one.",
    ),
}
"""Name of a command → instrument, the slowest first."""
