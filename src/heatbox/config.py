"""What a run is asked to do: frozen dataclasses, from which the command line and config.json are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

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
    """A file of weights, or "pretrained" for those that come with heatbox or that timm publishes."""
    num_classes: int | None = None
    """Number of classes; by default the model's own."""
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
    channels: int = 3
    """Channels of highest class weight to keep for the report page, where a CAM is made."""
    limit: int | None = None
    """Only the first so many images."""
    batch_size: int = 32
    """Images a forward pass."""
    device: str = "auto"
    """cpu, cuda, mps, or auto for the best at hand."""


@dataclass(frozen=True)
class LocateConfig:
    """Find the object in pictures of one's own."""

    model: Annotated[str, tyro.conf.arg(aliases=["-m"])]
    """A timm model name, or path/to/file.py:function for a model of your own."""
    checkpoint: str | None = None
    """A file of weights, or "pretrained" for those that come with heatbox or that timm publishes."""
    num_classes: int | None = None
    """Number of classes; by default the model's own."""
    method: str = "cam"
    """The map: cam, pc1, walk, walk-one-pass, walk:pc1, or one of them +centre; as for evaluate."""
    walk_seed: str = "cam"
    """Map that a walk of no named seed starts from."""
    threshold: float = 0.35
    """Share of the map's maximum above which pixels are the object; evaluate prints a data set's best one."""
    contours: Literal["largest", "all"] = "largest"
    """One box a picture, or one for every connected region."""
    size: int | None = None
    """Side of the square input in pixels; by default the model's own."""
    target: int | None = None
    """Class to look for; by default the predicted one."""
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
    """Train a classifier on labels alone. `heatbox.training.recipes` has one for every model of the paper.

    Everything that the trained weights depend on is here; how the work is spread over a machine is in
    `TrainOptions`.
    """

    recipe: Annotated[str, tyro.conf.Suppress]
    """The recipe's name."""
    model: Annotated[str, tyro.conf.arg(aliases=["-m"])]
    """A timm model name, or path/to/file.py:function for a model of your own."""
    data: Annotated[str, tyro.conf.arg(aliases=["-d"])] = ""
    """The data set, or PATH:SPLIT for its training split."""
    test: str | None = None
    """The split that is scored; by default the test or validation split of the data."""
    limit: int | None = None
    """Only the first so many training images."""
    model_options: Annotated[Mapping[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """Further arguments of the function that builds the model."""
    head: Literal["own", "gap_fc"] = "own"
    """gap_fc takes the LayerNorm out of a ConvNeXt's head: average pooling and one linear layer."""
    pretrained: str = "scratch"
    """A file of weights to start from, "published" for those that timm publishes, or "scratch"."""
    pretrained_source: Annotated[str, tyro.conf.Suppress] = ""
    """Where the file is published."""
    size: int = 224
    """Side of the square input in pixels."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of RGB in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of RGB in [0, 1]."""
    crop: tuple[float, float] | None = None
    """Range of a random crop's share of the picture; None squashes the whole picture."""
    auto: str = ""
    """timm's policy of augmentation, such as rand-m9-mstd0.5-inc1."""
    jitter: float = 0.0
    """Strength of colour jitter, used without a policy: that has colours of its own."""
    erase: float = 0.0
    """Probability of random erasing."""
    mixup: float = 0.0
    """Alpha of mixup, 0 for none."""
    cutmix: float = 0.0
    """Alpha of cutmix, 0 for none."""
    smoothing: float = 0.1
    """Label smoothing: share of the target spread over all classes."""
    epochs: int = 400
    """Passes over the training images."""
    batch_size: int = 128
    """Images a step, over all devices."""
    per_device: int = 16
    """Images a forward pass on one device; the rest of a batch is accumulated. BatchNorm sees this many."""
    lr: float = 1e-5
    """Peak learning rate of everything but the classifier."""
    lr_head: float = 1e-4
    """Peak learning rate of the classifier."""
    lr_floor: float = 0.01
    """Share of the peak at which the cosine ends."""
    warmup_epochs: float = 1
    """Epochs of linear warm-up from 0."""
    weight_decay: float = 1e-8
    """Of AdamW; biases, norms and layer scales are left out."""
    layer_decay: float | None = None
    """Factor of the learning rate from each layer to the one below; None for the same in all."""
    clip: float | None = None
    """Largest norm of the gradient; None for no clipping."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, scored beside the weights; None for none."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of forward and backward passes; weights are always fp32."""
    sparsity: float = 0.0
    """Share of the convolutions' and linear layers' weights that stay zero; 0 trains dense."""
    prune_rate: float = 0.3
    """Share of a layer's kept weights that the first update of the masks replaces; decays by a cosine."""
    mask_every: int = 2000
    """Steps from one update of the masks to the next."""
    checkpoint_every: int = 50
    """Epochs from one saved and scored checkpoint to the next."""
    method: tuple[str, ...] = ("cam", "pc1")
    """Maps that are scored at each checkpoint."""
    seed: int = 0
    """Of initialisation, order, augmentation and masks."""

    def is_scored(self, epoch: int) -> bool:
        """Whether weights are saved and maps scored after this epoch, counted from 1; the last always is."""
        return epoch % self.checkpoint_every == 0 or epoch == self.epochs


@dataclass(frozen=True)
class TrainOptions:
    """How a training is spread over a machine: nothing here changes what is computed, but for rounding."""

    device: str = "auto"
    """cpu, cuda, mps, or auto for the best at hand."""
    devices: int = 1
    """Devices of this machine; torchrun and SLURM set it themselves."""
    workers: int = 0
    """Processes that decode pictures, on each device; 0 decodes in the training process."""
    cache: bool = False
    """Keep the decoded pictures in memory."""
    recompute: bool = False
    """Recompute activations in the backward pass instead of keeping them (activation checkpointing)."""
    save_minutes: float = 10
    """Minutes from one saved state to the next."""
    tensorboard: bool = True
    """Write a TensorBoard log."""
