"""Which model, and what is done with it: frozen dataclasses, behind the command line and config.json.

This module imports neither torch nor timm, so that the command line starts fast; what needs them is
imported where it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

    from heatbox.data.transforms import Preprocess

Target = Literal["label", "predicted"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class ModelSpec:
    """Which classifier, with which weights, and how images become its input.

    The one place that knows them: every command that runs a model takes these options.
    """

    model: str
    """A timm model name, or path/to/file.py:function for a model of your own."""
    _: KW_ONLY
    checkpoint: str | None = None
    """A file of weights, or "pretrained" for those that come with heatbox or that timm publishes."""
    num_classes: int | None = None
    """Number of classes; by default the model's own."""
    model_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the function that builds the model."""
    size: int | None = None
    """Side of the square input in pixels; by default the model's own."""
    interpolation: Interpolation | None = None
    """Filter that resizes images to the input size; by default the model's own."""
    mean: tuple[float, float, float] | None = None
    """Mean of RGB in [0, 1]; by default the model's own."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of RGB in [0, 1]; by default the model's own."""
    device: str = "auto"
    """cpu, cuda, mps, or auto for the best available."""

    @property
    def spec(self) -> ModelSpec:
        """The model alone, without what else a configuration asks for."""
        return ModelSpec(**{name: getattr(self, name) for name in ModelSpec.__dataclass_fields__})

    def build(self) -> nn.Module:
        """The classifier on its device, in eval mode.

        Raises:
            InputError: as `heatbox.create_model`; or the device is not available.
        """
        from heatbox._utils.devices import pick_device
        from heatbox.models.factory import create_model

        model = create_model(self.model, self.num_classes, self.checkpoint, **self.model_options)
        return model.to(pick_device(self.device))

    def preprocess(
        self, model: nn.Module, size: int | None = None, interpolation: str | None = None
    ) -> Preprocess:
        """How images become the input of a model: as it was trained, but for what is set here.

        Args:
            model: the built classifier.
            size: side of the square input, before what is set here.
            interpolation: filter, before what is set here.

        Raises:
            InputError: a size, mean or standard deviation that no input can have.
        """
        from heatbox.data.transforms import Preprocess
        from heatbox.models.spec import data_config

        own = data_config(model)
        own |= {name: value for name in ("mean", "std") if (value := getattr(self, name)) is not None}
        return Preprocess.from_config(own, size or self.size, interpolation or self.interpolation)

    def class_names(self, model: nn.Module, number: int) -> Sequence[str]:
        """Names of the classes where they are known; empty where they are not.

        Args:
            model: the built classifier.
            number: of its classes.
        """
        from heatbox.models.spec import class_names

        return class_names(model, number)

    @property
    def weights(self) -> str | None:
        """The checkpoint and the beginning of its SHA-256, so that changed weights are told apart."""
        if self.checkpoint is None or not Path(self.checkpoint).is_file():
            return self.checkpoint
        with Path(self.checkpoint).open("rb") as file:
            return f"{self.checkpoint} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


@dataclass(frozen=True)
class EvaluateConfig(ModelSpec):
    """Make maps of a data set and score them."""

    data: str
    """A folder or .tar in the metadata layout, or glyphs:test (glyphs:fullsup, glyphs:train)."""
    _: KW_ONLY
    metadata: Path | None = None
    """Folder with image_ids.txt and the like, where it is not the data folder itself."""
    fullsup: str | None = None
    """A fully supervised split, named like data: thresholds best on it give the transferred scores."""
    fullsup_metadata: Path | None = None
    """Folder of its metadata files, where it is not the split's own folder."""
    method: tuple[str, ...] = ("cam", "pc1")
    """Maps to make and score: cam, pc1, cam-positive, cam-negative, walk, walk-one-pass; walk:pc1 is a walk
    from PC1, and a name ending in +centre is a map times the centre prior. With the extra gradcam also
    gradcam, gradcam++, hirescam, xgradcam, layercam, gradcam-elementwise, eigencam, eigengradcam, kpcacam; or
    path/to/file.py:function of (model, images, targets)."""
    walk_seed: str = "cam"
    """Map that walks of no named seed start from: cam or pc1 (--seed is a random seed everywhere)."""
    target: Target = "label"
    """Class the map is made for: the ground-truth label (GT-known), or the predicted class."""
    norm: Literal["fold", "ignore"] = "fold"
    """Norm layers of the head: folded into the class weights (exact), or ignored (released code)."""
    protocol: Literal["reference", "exact"] = "reference"
    """Boxes as the field's reference evaluator compares them, or without its rounding."""
    thresholds: int = 1000
    """Number of thresholds tried."""
    channels: int = 3
    """Channels of highest class weight to keep for the report page, where a CAM is made."""
    limit: int | None = None
    """Only the first so many images."""
    batch_size: int = 32
    """Images a forward pass."""


@dataclass(frozen=True)
class LocateConfig(ModelSpec):
    """Find the object in pictures of one's own."""

    _: KW_ONLY
    method: str = "cam"
    """The map: cam, pc1, walk, walk-one-pass, walk:pc1, or one of them +centre; as for evaluate."""
    walk_seed: str = "cam"
    """Map that a walk of no named seed starts from."""
    threshold: float = 0.35
    """Share of the map's maximum above which pixels are the object; evaluate prints a data set's best one."""
    contours: Literal["largest", "all"] = "largest"
    """One box a picture, or one for every connected region."""
    protocol: Literal["reference", "exact"] = "reference"
    """Maps binarised at 8-bit levels as evaluate scores them, or without rounding."""
    target: int | None = None
    """Class to look for; by default the predicted one."""


@dataclass(frozen=True)
class ScoreConfig:
    """Score heatmaps that any tool made."""

    heatmaps: Path
    """Folder of <image id>.npy heatmaps, 224 x 224 in [0, 1]."""
    data: str
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
