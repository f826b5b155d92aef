"""What is trained and how: frozen dataclasses, behind the command line and config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class TrainConfig:
    """Train a classifier on labels alone. `heatbox.training.recipes` has one for every model of the paper.

    Everything that the trained weights depend on is here; how the work is spread over a machine is in
    `TrainOptions`.
    """

    recipe: str
    """The recipe's name."""
    model: str
    """A timm model name, or path/to/file.py:function for a model of your own."""
    data: str = ""
    """The data set, or PATH:SPLIT for its training split."""
    test: str | None = None
    """The split that is scored; by default the test or validation split of the data."""
    limit: int | None = None
    """Only the first so many training images."""
    model_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the function that builds the model."""
    head: Literal["own", "gap_fc"] = "own"
    """gap_fc takes the LayerNorm out of a ConvNeXt's head: average pooling and one linear layer."""
    pretrained: str = "scratch"
    """A file of weights to start from, "published" for those that timm publishes, or "scratch"."""
    pretrained_source: str = ""
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
    """cpu, cuda, mps, or auto for the best available."""
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
