"""Augmentations of the pre-training recipes, built from timm and torchvision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from heatbox.errors import InputError


@dataclass(frozen=True)
class Augment:
    """The enabled augmentations; the defaults are those of the pre-training (supplement 8).

    Attributes:
        auto: a timm policy string such as "rand-m9-mstd0.5-inc1", or "" for none.
        jitter: strength of the colour jitter, used if `auto` is "": a policy has its own colour operations.
        erase: probability of random erasing, with noise per pixel.
        mixup, cutmix: alpha of each, 0 to disable it.
        smoothing: label smoothing.
    """

    auto: str = "rand-m9-mstd0.5-inc1"
    jitter: float = 0.4
    erase: float = 0.25
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not (0 <= self.erase <= 1 and 0 <= self.smoothing < 1):
            raise InputError(f"erase {self.erase} and smoothing {self.smoothing} have to be probabilities")
        if min(self.jitter, self.mixup, self.cutmix) < 0:
            raise InputError(f"jitter {self.jitter}, mixup {self.mixup}, cutmix {self.cutmix}: below 0")

    def image_transform(
        self, size: int, mean: tuple[float, ...]
    ) -> Callable[[Image.Image], Image.Image] | None:
        """RandAugment or colour jitter, for RGB images of the input's size; None for neither."""
        if self.auto:
            from timm.data.auto_augment import rand_augment_transform

            fill = tuple(round(255 * value) for value in mean)
            options = {"translate_const": int(size * 0.45), "img_mean": fill}
            try:
                return _at_least_one_bit(rand_augment_transform(self.auto, options))
            except (AssertionError, ValueError, KeyError) as error:
                message = "is not a policy of timm's, such as rand-m9-mstd0.5-inc1"
                raise InputError(f"augmentation {self.auto!r} {message}") from error
        if self.jitter:
            from torchvision.transforms import ColorJitter

            return ColorJitter(self.jitter, self.jitter, self.jitter)
        return None

    def batch_transform(self, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Erasing, mixup and cutmix: (B, 3, H, W), (B,) labels → images, (B, num_classes) soft labels.

        Images are changed in place. All random numbers come from the generators of the CPU, for images on any
        device. Mixing needs pairs: the last image of an odd batch is not mixed.
        """
        from timm.data import Mixup
        from timm.data.random_erasing import RandomErasing

        erase = RandomErasing(self.erase, mode="pixel", device="cpu") if self.erase else None
        mixed = self.mixup > 0 or self.cutmix > 0
        mix = Mixup(self.mixup, self.cutmix, label_smoothing=self.smoothing, num_classes=num_classes)

        def apply(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            images = erase(images) if erase else images
            soft = smooth_labels(labels, num_classes, self.smoothing)
            even = len(images) // 2 * 2
            if mixed and even:
                soft[:even] = mix(images[:even], labels[:even])[1]  # mixes in place
            return images, soft

        return apply


def smooth_labels(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """(B,) labels → (B, num_classes) float32: smoothing / num_classes everywhere, the rest on the label."""
    low = smoothing / num_classes
    soft = torch.full((len(labels), num_classes), low, device=labels.device)
    return soft.scatter_(1, labels[:, None], 1 - smoothing + low)


def _at_least_one_bit(policy: Callable[[Image.Image], Image.Image]) -> Callable[[Image.Image], Image.Image]:
    """Keep timm's Posterize from 0 bits, which Pillow 13 refuses and older versions turned into black."""
    for operation in getattr(policy, "ops", ()):
        if operation.name.startswith("Posterize"):
            bits = operation.level_fn
            operation.level_fn = lambda level, options, bits=bits: (max(1, *bits(level, options)),)
    return policy
