"""Train a small classifier from scratch on image-level labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from heatbox.config import TrainConfig
from heatbox.data.example import Split
from heatbox.data.transforms import Preprocess
from heatbox.errors import InputError
from heatbox.models.build import build_model
from heatbox.progress import Track, silent


def train(config: TrainConfig, split: Split, track: Track = silent) -> nn.Module:
    """Train a model on the labels of a split; its boxes are never looked at.

    Args:
        config: model, length and rates.
        split: the training images, held in memory once decoded.
        track: how to show progress; it counts steps.

    Returns:
        the model, in eval mode, on the CPU.

    Raises:
        InputError: fewer images than a batch, or a loss that is no longer finite.
    """
    if len(split) < config.batch_size:
        raise InputError(f"{len(split)} training images do not fill a batch of {config.batch_size}")
    torch.manual_seed(config.seed)
    model = build_model(config.model, num_classes=split.num_classes).to(memory_format=torch.channels_last)
    preprocess = Preprocess.from_config(getattr(model, "pretrained_cfg", None) or {})
    pictures, labels = _in_memory(split, preprocess, track)
    steps = len(split) // config.batch_size * config.epochs
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps)
    criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    model.train()
    for step, (images, targets) in enumerate(
        track(_batches(pictures, labels, config, preprocess), "training", steps)
    ):
        loss = criterion(model(images), targets)
        if not torch.isfinite(loss):
            raise InputError(f"the loss is {loss.item()} at step {step}: lower the learning rate")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval().to(memory_format=torch.contiguous_format)


def _in_memory(split: Split, preprocess: Preprocess, track: Track) -> tuple[Tensor, Tensor]:
    """All pictures as (N, 3, H, W) uint8, and their labels."""
    height, width = preprocess.size
    pictures = np.empty((len(split), height, width, 3), dtype=np.uint8)
    for index, example in enumerate(track(split, f"drawing {split.name}", len(split))):
        pictures[index] = np.asarray(split.open_image(example).resize((width, height)))
    labels = torch.tensor([example.label for example in split])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2), labels


def _batches(
    pictures: Tensor, labels: Tensor, config: TrainConfig, preprocess: Preprocess
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, mirrored and shifted batches for all epochs."""
    generator = torch.Generator().manual_seed(config.seed)
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    for _ in range(config.epochs):
        order = torch.randperm(len(pictures), generator=generator)
        for chosen in order[: len(order) // config.batch_size * config.batch_size].split(config.batch_size):
            images = (pictures[chosen].float() / 255 - mean) / std
            if torch.rand((), generator=generator) < 0.5:
                images = images.flip(3)
            down, right = torch.randint(-4, 5, (2,), generator=generator).tolist()
            images = images.roll((down, right), (2, 3))
            yield images.contiguous(memory_format=torch.channels_last), labels[chosen]
