"""The images of each batch and device, from any step on, and the random numbers that they depend on.

Every random number of a training is drawn from generators seeded immediately before with the run's seed and a
position: (epoch, index of the image) for augmentation, (step, micro-batch) for dropout and mixup, (epoch) for
the order of the images. No generator state is saved or restored. A resumed run therefore draws the same
numbers as an uninterrupted one, for any number of worker processes and devices.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from heatbox._utils.progress import Track, silent
from heatbox.data.augment import Augment
from heatbox.data.loader import TrainCrop, TrainImages
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.training.config import TrainConfig

Key = tuple[int, int]  # epoch, index of the image

# First word of a seed: what the numbers are for. Different purposes must not share seeds.
ORDER, IMAGE, STEP, MASKS = range(4)


def derived(*words: int) -> int:
    """A 63-bit seed for a sequence of non-negative integers; similar sequences give unrelated seeds."""
    high, low = np.random.SeedSequence(words).generate_state(2, np.uint64)
    return int(high ^ low) >> 1


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch, including those of accelerators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - timm's augmentation draws from the global generator
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global CPU generators inside the context and restore their states afterwards."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


@dataclass(frozen=True)
class Plan:
    """How a training is divided: an epoch's order into batches, a batch into micro-batches.

    A micro-batch is one forward pass. Device r of w computes the r-th of w equal runs of consecutive
    micro-batches of every step. Images that do not fill the last batch of an epoch are skipped in that epoch;
    the next one has another order.

    Attributes:
        images: number of training images.
        batch_size: images per step, over all devices.
        micro_batch_size: images per forward pass.
        epochs: passes over the images.
        seed: of the order.
        world_size, rank: number of devices, and the index of this one.
    """

    images: int
    batch_size: int
    micro_batch_size: int
    epochs: int
    seed: int = 0
    world_size: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if min(self.batch_size, self.micro_batch_size, self.epochs) < 1:
            raise InputError(
                f"batch size {self.batch_size}, per device {self.micro_batch_size} and epochs {self.epochs} "
                "must be at least 1"
            )
        if self.batch_size % (self.micro_batch_size * self.world_size):
            raise InputError(
                f"a batch of {self.batch_size} images is not divisible by {self.world_size} devices x "
                f"{self.micro_batch_size} images; change --batch-size or --per-device"
            )
        if self.images < self.batch_size:
            raise InputError(f"{self.images} training images do not fill a batch of {self.batch_size}")

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch."""
        return self.images // self.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.steps_per_epoch * self.epochs

    @property
    def accumulation(self) -> int:
        """Forward passes of one device per step."""
        return self.batch_size // (self.micro_batch_size * self.world_size)

    @property
    def micro_batches(self) -> range:
        """Indices, within a step, of the micro-batches that this device computes."""
        return range(self.rank * self.accumulation, (self.rank + 1) * self.accumulation)

    def order(self, epoch: int) -> np.ndarray:
        """(images,) int64: the order of the images in an epoch."""
        return np.random.default_rng(derived(self.seed, ORDER, epoch)).permutation(self.images)

    def keys(self, first_step: int = 0) -> Iterator[list[Key]]:
        """This device's micro-batches, from a step to the end of the training."""
        for step in range(first_step, self.steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0 or step == first_step:
                order = self.order(epoch)
            for micro_batch in self.micro_batches:
                start = position * self.batch_size + micro_batch * self.micro_batch_size
                yield [(epoch, int(index)) for index in order[start : start + self.micro_batch_size]]


class SeededImages(Dataset):
    """Images by (epoch, index), whose augmentation depends on nothing but these and the seed.

    Args:
        images: images by index, as ((3, H, W), label).
        seed: of the training.
    """

    def __init__(self, images: TrainImages, seed: int) -> None:
        self.images, self.seed = images, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> tuple[Tensor, int, int]:
        """((3, H, W) float32, label, index)."""
        epoch, index = key
        with seeded(derived(self.seed, IMAGE, epoch, index)):
            image, label = self.images[index]
        return image, label, index


def batches(
    split: Split, config: TrainConfig, plan: Plan, first_step: int = 0, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """This device's micro-batches: images (B, 3, H, W), labels (B,) and indices (B,), from a step to the end.

    One iterator serves the whole training, so that worker processes start once.

    Args:
        split: the training images; their boxes are not used.
        config: preprocessing, augmentation and seed.
        plan: the division into micro-batches.
        first_step: the step to start with.
        workers: processes that decode images; 0 decodes in this process.

    Raises:
        InputError: an image cannot be read, or the augmentation policy is unknown.
    """
    transform = TrainCrop(
        size=config.size,
        scale=config.crop or (1.0, 1.0),
        ratio=(3 / 4, 4 / 3) if config.crop else None,
        mean=config.mean,
        std=config.std,
        augment=augment_of(config).image_transform(config.size, config.mean),
    )
    loader: Any = DataLoader(
        SeededImages(TrainImages(split, transform), config.seed),
        batch_sampler=plan.keys(first_step),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


def augment_of(config: TrainConfig) -> Augment:
    """The augmentation of a configuration."""
    return Augment(config.auto, config.jitter, config.erase, config.mixup, config.cutmix, config.smoothing)


def cached(split: Split, track: Track = silent) -> Split:
    """The split with its images decoded once and kept in memory as 8-bit RGB."""
    decoded: dict[str, np.ndarray] = {}
    for example in track(split, f"reading {split.name}", len(split)):
        decoded[example.id] = np.asarray(split.open_image(example).convert("RGB"))

    def open_image(example: Example) -> Image.Image:
        return Image.fromarray(decoded[example.id])

    return dataclasses.replace(split, open_image=open_image)
