"""The settings of a training: frozen dataclasses behind the command line and config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

from heatbox.config import ModelSpec, OnBad, ScoreFunction


@dataclass(frozen=True)
class TrainConfig:
    """Train a classifier on labels alone. `heatbox.training.recipes` has one for every model of the paper.

    Everything that the trained weights depend on is here; `TrainOptions` distributes the work over devices.
    """

    recipe: str
    """The recipe's name."""
    model: str
    """A timm model name, or path/to/file.py:function for a custom model."""
    data: str = ""
    """The data set, or PATH:SPLIT for its training split."""
    test: str | None = None
    """The split to validate on; by default the test or validation split of the data."""
    limit: int | None = None
    """Maximum number of training images; the first ones are used."""
    on_bad: OnBad = "stop"
    """What to do with an image that is unreadable or not of one class: stop, or skip it, count it by reason
    and exit with code 1. skip opens every image before the training."""
    model_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the function that builds the model."""
    head: Literal["own", "gap_fc"] = "own"
    """gap_fc removes the LayerNorm from a ConvNeXt's head: average pooling and one linear layer."""
    pretrained: str = "scratch"
    """Initial weights: a file, "published" for those that timm publishes, or "scratch" for random ones."""
    pretrained_source: str = ""
    """Where the file is published."""
    size: int = 224
    """Side of the square input in pixels."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of RGB in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of RGB in [0, 1]."""
    crop: tuple[float, float] | None = None
    """Range of the fraction of the image that a random crop covers; None squashes the whole image."""
    auto: str = ""
    """timm's augmentation policy, such as rand-m9-mstd0.5-inc1."""
    jitter: float = 0.0
    """Strength of colour jitter; unused with a policy, which has its own colour operations."""
    erase: float = 0.0
    """Probability of random erasing."""
    mixup: float = 0.0
    """Alpha of mixup, 0 for none."""
    cutmix: float = 0.0
    """Alpha of cutmix, 0 for none."""
    smoothing: float = 0.1
    """Label smoothing: fraction of the target that is distributed over all classes."""
    epochs: int = 400
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step, over all devices."""
    per_device: int = 16
    """Images per forward pass on one device; gradients are accumulated. BatchNorm normalizes over these."""
    lr: float = 1e-5
    """Peak learning rate of everything but the classifier."""
    lr_head: float = 1e-4
    """Peak learning rate of the classifier."""
    lr_floor: float = 0.01
    """Fraction of the peak learning rate at which the cosine ends."""
    warmup_epochs: float = 1
    """Epochs of linear warm-up from 0."""
    weight_decay: float = 1e-8
    """Weight decay of AdamW; biases, norms and layer scales are excluded."""
    layer_decay: float | None = None
    """Factor of the learning rate from each layer to the one below; None for the same rate in all layers."""
    clip: float | None = None
    """Maximum norm of the gradient; None for no clipping."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, which is also scored; None for no average."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of forward and backward passes; weights are always fp32."""
    sparsity: float = 0.0
    """Fraction of the convolutions' and linear layers' weights that is zero; 0 trains a dense model."""
    prune_rate: float = 0.3
    """Fraction of a layer's kept weights that the first mask update replaces; it has cosine decay."""
    mask_every: int = 2000
    """Steps between updates of the masks."""
    checkpoint_every: int = 50
    """Epochs between checkpoints, which are saved and scored."""
    method: tuple[str, ...] = ("cam", "pc1")
    """Maps scored at each checkpoint."""
    seed: int = 0
    """Seed of initialization, order, augmentation and masks."""

    @property
    def spec(self) -> ModelSpec:
        """The model and its preprocessing: whole images squashed to the input size, bilinear."""
        return ModelSpec(
            self.model,
            model_options=self.model_options,
            size=self.size,
            interpolation="bilinear",
            mean=self.mean,
            std=self.std,
        )

    def is_scored(self, epoch: int) -> bool:
        """Whether a checkpoint is saved and scored after this epoch, counted from 1; the last always is."""
        return epoch % self.checkpoint_every == 0 or epoch == self.epochs


@dataclass(frozen=True)
class TrainOptions:
    """How a training is distributed over devices; except for rounding, nothing here changes the results."""

    device: str = "auto"
    """cpu, cuda, mps, or auto for the best available."""
    devices: int = 1
    """Devices of this machine; torchrun and SLURM override it."""
    workers: int = 0
    """Processes per device that decode images; 0 decodes in the training process."""
    cache: bool = False
    """Keep the decoded images in memory."""
    recompute: bool = False
    """Recompute activations in the backward pass instead of keeping them (activation checkpointing)."""
    save_minutes: float = 10
    """Minutes between saved states."""
    tensorboard: bool = True
    """Write a TensorBoard log; --no-tensorboard disables it."""


FINETUNE = "finetune"
"""The recipe's name."""


@dataclass(frozen=True)
class FinetuneConfig(ModelSpec):
    """Fit a pretrained network to the classes of a data set.

    The last linear layer is fitted to features of the images that are computed once: a logistic regression.
    With `epochs`, the whole network is then trained from there.
    """

    data: str
    """The data set, or PATH:SPLIT: class folders, a table of labels, or any other layout that is read."""
    _: KW_ONLY
    checkpoint: str | None = None
    """A file of weights, whose classifier may have other classes; by default the published weights, or those
    of hf:FOLDER."""
    scores: ScoreFunction | None = None
    """softmax, one class per image; or sigmoid, each class alone. By default sigmoid if an image has several
    classes, otherwise softmax."""
    recipe: Literal["finetune"] = "finetune"
    """The recipe's name."""
    from_scratch: bool = False
    """Start from random weights; without it the weights are those of --checkpoint, or the published ones."""
    test: str | None = None
    """A split to measure on, given like --data; by default a part of the images is held out for it."""
    held_out: float = 0.2
    """Fraction of the images of each class that is held out to measure on."""
    on_bad: OnBad = "stop"
    """What to do with an image that is unreadable or has no label: stop, or skip it, count it by reason and
    exit with code 1."""
    class_weights: Literal["auto", "balanced", "none"] = "auto"
    """balanced counts all classes alike, however many images they have; auto is balanced with the softmax and
    none with the sigmoid, where classes do not compete."""
    epochs: int = 0
    """Passes over the training images in which the whole network is trained; 0 fits the last layer only."""
    patience: int = 5
    """Epochs without a better loss on the held-out images after which the training ends."""
    batch_size: int = 32
    """Images per forward pass, and per step of the training."""
    lr: float = 1e-4
    """Peak learning rate of the training."""
    weight_decay: float = 0.05
    """Weight decay of the training (AdamW); that of the last layer's fit is chosen on the held-out images."""
    crop: tuple[float, float] | None = (0.5, 1.0)
    """Range of the fraction of the image that a random crop of the training covers; None for whole images.
    Images are also flipped horizontally at random."""
    jitter: float = 0.2
    """Strength of the training's colour jitter."""
    smoothing: float = 0.1
    """Label smoothing of the training, with the softmax."""
    seed: int = 0
    """Seed of the held-out part, of the order of the images and of augmentation."""
