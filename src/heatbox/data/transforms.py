"""Transforms of an image: to the tensor that a network expects, and together with its boxes.

Boxes are (K, 4) float64 xyxy of pixel edges: a box (0, 0, width, height) covers the whole image. A crop clips
boxes at its edges; a box of which nothing is left keeps its row, with no area.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from heatbox.data.files.images import network_image
from heatbox.errors import AssumptionWarning, InputError

_MAX_SIDE = 65_535  # pixels; more is a mistake, and overflows the libraries used

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}

Region = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in pixels of an image."""


@dataclass(frozen=True)
class Preprocess:
    """Resize an image to the input size, scale it to [0, 1] and normalize it.

    Localization needs the whole image: by default it is resized without crop or padding, so that a heatmap
    covers it.

    Attributes:
        size: (height, width) of the input.
        mean, std: per channel, of pixel values in [0, 1]. Their number is that of the input's channels: with
            one the image is converted to grey, with three to RGB; with any other number the image has to have
            as many bands.
        interpolation: Pillow filter: "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming".
        crop_pct: fraction of the resized image that classifiers are usually tested on: the shorter side is
            resized to size / crop_pct and the centre of the given size is cropped, as timm does. A heatmap
            then covers `region` of the image alone. None resizes the whole image.
        bgr: whether the channels are blue, green and red, in which order mean and std are then given.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    crop_pct: float | None = None
    bgr: bool = False
    _enlarged: int = field(default=1, repr=False)

    def __post_init__(self) -> None:
        for name in ("size", "mean", "std"):  # lists are taken too
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.interpolation not in _FILTERS:
            raise InputError(
                f"interpolation is {self.interpolation!r}, expected one of {', '.join(_FILTERS)}"
            )
        if min(self.size) < 1:
            raise InputError(f"input size {self.size} is not positive")
        if max(self.size) > _MAX_SIDE:
            raise InputError(f"input size {self.size} is over {_MAX_SIDE} pixels")
        if not self.mean or len(self.mean) != len(self.std):
            raise InputError(f"mean {self.mean} and std {self.std} need as many values each")
        if not np.isfinite([*self.mean, *self.std]).all() or min(self.std) <= 0:
            raise InputError(f"mean {self.mean} and std {self.std} need finite values, std above 0")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise InputError(f"crop_pct is {self.crop_pct}, expected more than 0 and at most 1")

    @classmethod
    def from_config(
        cls, config: Mapping, size: int | None = None, interpolation: str | None = None
    ) -> Preprocess:
        """From a timm data or pretrained config: its input size, mean, std and interpolation.

        Where the input size has another number of channels than there are means, every channel gets the mean
        of the means and of the stds. The config's crop_pct is not used.

        Args:
            config: with keys input_size (C, H, W), mean, std, interpolation; defaults replace missing ones.
            size: side of a square input instead of the size in the config.
            interpolation: instead of that in the config.
        """
        default = cls()
        channels, height, width = tuple(config.get("input_size", (3, *default.size)))
        named = interpolation or config.get("interpolation", default.interpolation)
        return cls(
            size=(size, size) if size is not None else (height, width),
            mean=per_channel(config.get("mean", default.mean), channels),
            std=per_channel(config.get("std", default.std), channels),
            interpolation=named if named in _FILTERS or interpolation else default.interpolation,
            bgr=config.get("channel_order") == "bgr",
        )

    @property
    def channels(self) -> int:
        """Number of channels of the input."""
        return len(self.mean)

    def enlarged(self, factor: int) -> Preprocess:
        """The same preprocessing, of the same region, at `factor` times the size."""
        height, width = self.size
        return replace(self, size=(factor * height, factor * width), _enlarged=factor * self._enlarged)

    def region(self, image_size: Sequence[int]) -> Region:
        """The part (x1, y1, x2, y2) of an image of (width, height) pixels that the input shows.

        It is the whole image without `crop_pct`; otherwise the centre, rounded as timm and torchvision do.
        """
        width, height = image_size
        if self.crop_pct is None:
            return 0.0, 0.0, float(width), float(height)
        rows, columns = (side // self._enlarged for side in self.size)
        tall, wide = int(rows / self.crop_pct), int(columns / self.crop_pct)
        if rows == columns:  # the longer side is rounded down
            resized = [int(wide * side / min(width, height)) for side in (width, height)]
        else:
            ratio = min(height / tall, width / wide)
            resized = [max(round(width / ratio), columns), max(round(height / ratio), rows)]
        left, top = (round((have - want) / 2) for have, want in zip(resized, (columns, rows), strict=True))
        x, y = width / resized[0], height / resized[1]
        return left * x, top * y, min((left + columns) * x, width), min((top + rows) * y, height)

    def extent(self, image_size: Sequence[int]) -> Region:
        """`region` as fractions of the image's width and height."""
        width, height = image_size
        x1, y1, x2, y2 = self.region(image_size)
        return x1 / width, y1 / height, x2 / width, y2 / height

    def warn_of_scale(self, values: Tensor, subject: str) -> None:
        """Say so if preprocessed values are far beyond those of any pixels in [0, 1].

        Args:
            values: of any shape.
            subject: of the sentence, and its verb.

        Warns:
            AssumptionWarning: they are.
        """
        ends = [(abs(m) / s, abs(1 - m) / s) for m, s in zip(self.mean, self.std, strict=True)]
        if values.numel() and bool(values.abs().max() > 10 * max(map(max, ends))):
            what = f"{subject} values of more than ten times those of pixels in [0, 1] after mean and std"
            warnings.warn(f"{what}; numbers in [0, 255] have to be divided by 255", AssumptionWarning, 3)

    def __call__(self, image: Image.Image | np.ndarray) -> Tensor:
        """Image → (C, H, W) float32.

        Args:
            image: in any mode of Pillow, turned as its EXIF says; or an array (H, W), (H, W, C) or (C, H, W),
                see `heatbox.data.files.images.network_image`.

        Raises:
            InputError: an image with another number of bands than the input has channels.
        """
        image = network_image(image, self.channels)
        height, width = self.size
        if isinstance(image, np.ndarray):
            bands = [Image.fromarray(np.ascontiguousarray(image[..., band])) for band in range(self.channels)]
            levels = [np.array(self._resized(band, width, height), dtype=np.float32) for band in bands]
            pixels = torch.from_numpy(np.stack(levels))
            found = _normalized(pixels.flip(0) if self.bgr else pixels, self.mean, self.std)
            self.warn_of_scale(found, "an array has")
            return found
        array = np.asarray(self._resized(image.convert("L") if self.channels == 1 else image, width, height))
        array = array[..., ::-1].copy() if self.bgr and self.channels > 1 else array
        table = cv2.LUT(array, _levels(self.mean, self.std))
        return torch.from_numpy(table.reshape(height, width, self.channels)).permute(2, 0, 1)

    def _resized(self, image: Image.Image, width: int, height: int) -> Image.Image:
        """The region of an image at the size of the input; pixels around it count as in a resized whole."""
        box = None if self.crop_pct is None else self.region(image.size)
        return image.resize((width, height), _FILTERS[self.interpolation], box)


def _normalized(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(C, H, W) float32 pixels in [0, 1], normalized."""
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@cache
def _levels(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """(256, 1, C) float32: what each level of an 8-bit image becomes; a table is faster than arithmetic."""
    levels = (torch.arange(256).float() / 255).expand(len(mean), 1, 256)
    found: np.ndarray = _normalized(levels, mean, std).permute(2, 1, 0).contiguous().numpy()
    return found


def is_filter(name: object) -> bool:
    """Whether an interpolation has one of the names that `Preprocess` knows."""
    return isinstance(name, str) and name in _FILTERS


def per_channel(values: float | Sequence[float], channels: int) -> tuple[float, ...]:
    """A mean or std for a number of channels: the values, or the mean of them for every channel."""
    given = tuple(values) if isinstance(values, Sequence) else (values,)
    return given if len(given) == channels else (sum(given) / len(given),) * channels


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
