"""Geometric steps that carry boxes: whatever is done to the picture is done to its boxes.

Boxes are (K, 4) float64 xyxy of pixel edges: a box (0, 0, width, height) covers the whole image. After a
crop boxes are cut at its edges; one of which nothing is left keeps its row, with no area.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from heatbox.errors import InputError

Boxed = tuple[Image.Image, np.ndarray]


class Step(Protocol):
    """Image and boxes → image and boxes."""

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> Boxed:
        """Do the same to both."""
        ...


@dataclass(frozen=True)
class Resize:
    """To exactly (width, height), squashing if need be."""

    size: tuple[int, int]
    resample: Image.Resampling = Image.Resampling.BILINEAR

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise InputError(f"size {self.size} is not positive")

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> Boxed:
        """Resize both."""
        # In this order a box that ends at the edge still does, which a rounded ratio would overshoot.
        moved = boxes * np.array(self.size * 2) / np.array(image.size * 2)
        return image.resize(self.size, self.resample), moved


@dataclass(frozen=True)
class ResizeShort:
    """The shorter side to `side` pixels, the longer in proportion (rounded down, as torchvision does)."""

    side: int
    resample: Image.Resampling = Image.Resampling.BILINEAR

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> Boxed:
        """Resize both."""
        short = min(image.size)
        width, height = (self.side * length // short for length in image.size)
        return Resize((width, height), self.resample)(image, boxes)


@dataclass(frozen=True)
class Crop:
    """The rectangle (left, top, right, bottom); what lies outside the image is black."""

    box: tuple[int, int, int, int]

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> Boxed:
        """Cut both."""
        left, top, right, bottom = self.box
        moved = boxes - np.array([left, top, left, top])
        limit = np.array([right - left, bottom - top] * 2)
        return image.crop(self.box), np.clip(moved, 0, limit)


@dataclass(frozen=True)
class CentreCrop:
    """The middle (width, height), placed as torchvision places it."""

    size: tuple[int, int]

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> Boxed:
        """Cut both."""
        left, top = (round((have - want) / 2) for have, want in zip(image.size, self.size, strict=True))
        return Crop((left, top, left + self.size[0], top + self.size[1]))(image, boxes)


@dataclass(frozen=True)
class Pad:
    """Black borders of (left, top, right, bottom) pixels."""

    border: tuple[int, int, int, int]

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> Boxed:
        """Enlarge the one, move the others."""
        left, top, right, bottom = self.border
        return Crop((-left, -top, image.width + right, image.height + bottom))(image, boxes)


@dataclass(frozen=True)
class Flip:
    """Left and right exchanged."""

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> Boxed:
        """Mirror both."""
        x1, y1, x2, y2 = boxes.reshape(-1, 4).T
        mirrored = np.stack([image.width - x2, y1, image.width - x1, y2], axis=1)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), mirrored


@dataclass(frozen=True)
class QuarterTurn:
    """A quarter turn to the left."""

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> Boxed:
        """Turn both."""
        x1, y1, x2, y2 = boxes.reshape(-1, 4).T
        turned = np.stack([y1, image.width - x2, y2, image.width - x1], axis=1)
        return image.transpose(Image.Transpose.ROTATE_90), turned


@dataclass(frozen=True)
class Chain:
    """Steps one after the other."""

    steps: Sequence[Step]

    def __call__(self, image: Image.Image, boxes: np.ndarray) -> Boxed:
        """Do all steps."""
        for step in self.steps:
            image, boxes = step(image, boxes)
        return image, boxes
