"""Which pictures make which batch, on which device, from any step on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from heatbox._utils.progress import Track, silent
from heatbox.data.augment import Augment
from heatbox.data.loader import TrainCrop, TrainImages
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.training.config import TrainConfig
from heatbox.training.randomness import ORDER, PICTURE, derived, seeded

Key = tuple[int, int]  # epoch, index of the picture


@dataclass(frozen=True)
class Plan:
    """How the steps of a training are divided: a step's batch into slots, an epoch's order into batches.

    A slot is one forward pass. Device r of w takes the r-th of w equal runs of a step's slots, one after the
    other. Pictures that do not fill an epoch's last batch are left to the next epoch, whose order differs.

    Attributes:
        images: number of training images.
        batch_size: images a step, over all devices.
        slot_size: images a forward pass.
        epochs: passes over the images.
        seed: of the order.
        world_size, rank: number of devices and which of them this is.
    """

    images: int
    batch_size: int
    slot_size: int
    epochs: int
    seed: int = 0
    world_size: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if min(self.batch_size, self.slot_size, self.epochs) < 1:
            raise InputError(
                f"batch size {self.batch_size}, per device {self.slot_size} and epochs {self.epochs} "
                "have to be at least 1"
            )
        if self.batch_size % (self.slot_size * self.world_size):
            raise InputError(
                f"a batch of {self.batch_size} images is not divisible by {self.world_size} devices x "
                f"{self.slot_size} images; change --batch-size or --per-device"
            )
        if self.images < self.batch_size:
            raise InputError(f"{self.images} training images do not fill a batch of {self.batch_size}")

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass."""
        return self.images // self.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.steps_per_epoch * self.epochs

    @property
    def accumulation(self) -> int:
        """Forward passes of one device in a step."""
        return self.batch_size // (self.slot_size * self.world_size)

    @property
    def slots(self) -> range:
        """The slots of every step that are this device's."""
        return range(self.rank * self.accumulation, (self.rank + 1) * self.accumulation)

    def order(self, epoch: int) -> np.ndarray:
        """(images,) int64: the order of the pictures in an epoch."""
        return np.random.default_rng(derived(self.seed, ORDER, epoch)).permutation(self.images)

    def keys(self, first_step: int = 0) -> Iterator[list[Key]]:
        """The pictures of this device's slots, slot by slot, from a step to the end of the training."""
        for step in range(first_step, self.steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            if place == 0 or step == first_step:
                order = self.order(epoch)
            for slot in self.slots:
                start = place * self.batch_size + slot * self.slot_size
                yield [(epoch, int(index)) for index in order[start : start + self.slot_size]]


class _Keys(Sampler):
    def __init__(self, plan: Plan, first_step: int) -> None:
        self.plan, self.first_step = plan, first_step

    def __iter__(self) -> Iterator[list[Key]]:
        return self.plan.keys(self.first_step)


class SeededImages(Dataset):
    """Pictures by (epoch, index), augmented the same way whoever asks and whenever.

    Args:
        images: pictures by index, as ((3, H, W), label).
        seed: of the training.
    """

    def __init__(self, images: TrainImages, seed: int) -> None:
        self.images, self.seed = images, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> tuple[Tensor, int, int]:
        """((3, H, W) float32, label, index)."""
        epoch, index = key
        with seeded(derived(self.seed, PICTURE, epoch, index)):
            image, label = self.images[index]
        return image, label, index


def batches(
    split: Split, config: TrainConfig, plan: Plan, first_step: int = 0, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """This device's slots: images (B, 3, H, W), labels (B,) and indices (B,), from a step to the end.

    One iterator serves the whole training, so that worker processes start once.

    Args:
        split: the training images; their boxes are never looked at.
        config: preprocessing, augmentation and seed.
        plan: which picture is where.
        first_step: the step to begin with.
        workers: processes that decode pictures.

    Raises:
        InputError: a picture cannot be read, or the augmentation is none.
    """
    augment = augment_of(config)
    transform = TrainCrop(
        size=config.size,
        scale=config.crop or (1.0, 1.0),
        ratio=(3 / 4, 4 / 3) if config.crop else None,
        mean=config.mean,
        std=config.std,
        augment=augment.on_picture(config.size, config.mean),
    )
    loader: Any = DataLoader(
        SeededImages(TrainImages(split, transform), config.seed),
        batch_sampler=_Keys(plan, first_step),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
    )
    return iter(loader)


def augment_of(config: TrainConfig) -> Augment:
    """The augmentation a configuration asks for."""
    return Augment(config.auto, config.jitter, config.erase, config.mixup, config.cutmix, config.smoothing)


def cached(split: Split, track: Track = silent) -> Split:
    """The split with its pictures decoded once and kept in memory as 8-bit RGB."""
    pictures: dict[str, np.ndarray] = {}
    for example in track(split, f"reading {split.name}", len(split)):
        pictures[example.id] = np.asarray(split.open_image(example).convert("RGB"))

    def open_image(example: Example) -> Image.Image:
        return Image.fromarray(pictures[example.id])

    return dataclasses.replace(split, open_image=open_image)
