"""Transforms of an image: to the tensor that a network expects, and together with its boxes.

Boxes are (K, 4) float64 xyxy of pixel edges: a box (0, 0, width, height) covers the whole image. A crop clips
boxes at its edges; a box of which nothing is left keeps its row, with no area.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from heatbox.errors import InputError

_MAX_SIDE = 65_535  # pixels; more is a mistake, and overflows the libraries used

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocess:
    """Resize the whole image to the input size, scale it to [0, 1] and normalize it.

    Localization needs the whole image: it is resized without crop or padding, so that a heatmap covers it.

    Attributes:
        size: (height, width) of the input.
        mean, std: per RGB channel, of pixel values in [0, 1].
        interpolation: Pillow filter: "nearest", "bilinear", "bicubic" or "lanczos".
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.interpolation not in _FILTERS:
            raise InputError(
                f"interpolation is {self.interpolation!r}, expected one of {', '.join(_FILTERS)}"
            )
        if min(self.size) < 1:
            raise InputError(f"input size {self.size} is not positive")
        if max(self.size) > _MAX_SIDE:
            raise InputError(f"input size {self.size} is over {_MAX_SIDE} pixels")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError(f"mean {self.mean} and std {self.std} need three values each, std above 0")

    @classmethod
    def from_config(
        cls, config: Mapping, size: int | None = None, interpolation: str | None = None
    ) -> Preprocess:
        """From a timm data or pretrained config: its input size, mean, std and interpolation.

        Args:
            config: with keys input_size (3, H, W), mean, std, interpolation; defaults replace missing ones.
            size: side of a square input instead of the size in the config.
            interpolation: instead of that in the config.
        """
        default = cls()
        height, width = tuple(config.get("input_size", (3, *default.size)))[-2:]
        named = interpolation or config.get("interpolation", default.interpolation)
        return cls(
            size=(size, size) if size is not None else (height, width),
            mean=tuple(config.get("mean", default.mean)),
            std=tuple(config.get("std", default.std)),
            interpolation=named if named in _FILTERS or interpolation else default.interpolation,
        )

    def enlarged(self, factor: int) -> Preprocess:
        """The same preprocessing at `factor` times the size."""
        return replace(self, size=(factor * self.size[0], factor * self.size[1]))

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image → (3, H, W) float32."""
        height, width = self.size
        resized = image.resize((width, height), _FILTERS[self.interpolation])
        pixels = torch.from_numpy(np.array(resized, dtype=np.uint8)).permute(2, 0, 1)
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (pixels.float() / 255 - mean[:, None, None]) / std[:, None, None]


# ---------------------------------------------------------------------- images with boxes

ImageAndBoxes = tuple[Image.Image, np.ndarray]
BoxTransform = Callable[[Image.Image, np.ndarray], ImageAndBoxes]
"""Image and boxes → image and boxes."""


@dataclass(frozen=True)
class Resize:
    """Resize to (width, height), ignoring the aspect ratio."""

    size: tuple[int, int]
    resample: Image.Resampling = Image.Resampling.BILINEAR

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise InputError(f"size {self.size} is not positive")

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> ImageAndBoxes:
        """Resize both."""
        # Multiplied first: a box that ends at the edge still does, while a rounded ratio would overshoot.
        moved = boxes * np.array(self.size * 2) / np.array(image.size * 2)
        return image.resize(self.size, self.resample), moved


@dataclass(frozen=True)
class ResizeShort:
    """Resize the shorter side to `side` pixels and the longer in proportion, rounded down (torchvision)."""

    side: int
    resample: Image.Resampling = Image.Resampling.BILINEAR

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> ImageAndBoxes:
        """Resize both."""
        short = min(image.size)
        width, height = (self.side * length // short for length in image.size)
        return Resize((width, height), self.resample)(image, boxes)


@dataclass(frozen=True)
class Crop:
    """Crop the rectangle (left, top, right, bottom); what lies outside the image becomes black."""

    box: tuple[int, int, int, int]

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> ImageAndBoxes:
        """Crop both."""
        left, top, right, bottom = self.box
        moved = boxes - np.array([left, top, left, top])
        limit = np.array([right - left, bottom - top] * 2)
        return image.crop(self.box), np.clip(moved, 0, limit)


@dataclass(frozen=True)
class CenterCrop:
    """Crop the central (width, height), placed as in torchvision."""

    size: tuple[int, int]

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> ImageAndBoxes:
        """Crop both."""
        left, top = (round((have - want) / 2) for have, want in zip(image.size, self.size, strict=True))
        return Crop((left, top, left + self.size[0], top + self.size[1]))(image, boxes)


@dataclass(frozen=True)
class Pad:
    """Add black borders of (left, top, right, bottom) pixels."""

    border: tuple[int, int, int, int]

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> ImageAndBoxes:
        """Pad the image, move the boxes."""
        left, top, right, bottom = self.border
        return Crop((-left, -top, image.width + right, image.height + bottom))(image, boxes)


@dataclass(frozen=True)
class HorizontalFlip:
    """Exchange left and right."""

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> ImageAndBoxes:
        """Flip both."""
        x1, y1, x2, y2 = boxes.reshape(-1, 4).T
        flipped = np.stack([image.width - x2, y1, image.width - x1, y2], axis=1)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), flipped


@dataclass(frozen=True)
class Rotate90:
    """Rotate by 90 degrees counterclockwise."""

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> ImageAndBoxes:
        """Rotate both."""
        x1, y1, x2, y2 = boxes.reshape(-1, 4).T
        rotated = np.stack([y1, image.width - x2, y2, image.width - x1], axis=1)
        return image.transpose(Image.Transpose.ROTATE_90), rotated


@dataclass(frozen=True)
class Compose:
    """Several transforms in order."""

    transforms: Sequence[BoxTransform]

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> ImageAndBoxes:
        """Apply all transforms."""
        for transform in self.transforms:
            image, boxes = transform(image, boxes)
        return image, boxes
