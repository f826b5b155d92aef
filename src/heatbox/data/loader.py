"""Images for training: decoded no larger than needed, cropped, augmented, normalized. Batches for inference.

A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size at a fraction of the cost (DCT scaling in libjpeg). The
crop is drawn first, from the size in the header; then the image is decoded at the smallest size at which the
crop still has as many pixels as the network's input. Plain JPEGs are decoded straight to arrays
(`plain_jpeg_size`), all other images by Pillow.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset, default_collate

from heatbox._utils.devices import available_cores
from heatbox.data.files.images import (
    TreeImages,
    decode_factor,
    decode_image,
    decode_plain_jpeg,
    is_upright,
    open_for_network,
    plain_jpeg_size,
    to_rgb,
)
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

Crop = tuple[int, int, int, int]
_UNDECODABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, AssertionError, struct.error),
    Image.DecompressionBombError,
)  # not every exception, because a user's transform may have a bug


@dataclass(frozen=True)
class TrainCrop:
    """Random resized crop and horizontal flip, drawn as in torchvision (RandomResizedCrop), then a tensor.

    Attributes:
        size: side of the square input.
        scale: range of the crop's area, as a fraction of the image's area.
        ratio: range of the crop's aspect ratio, width over height; None resizes the whole image instead.
        flip: probability of the horizontal flip.
        mean, std: per RGB channel, of values in [0, 1].
        augment: RGB image of the input's size → another, for example timm's RandAugment; or None.
        as_bytes: return uint8 levels, to be passed to `normalize` as a batch on any device: a quarter of the
            memory to move between processes and devices.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] | None = (3 / 4, 4 / 3)
    flip: float = 0.5
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    augment: Callable[[Image.Image], Image.Image] | None = None
    as_bytes: bool = False

    def crop(self, width: int, height: int) -> Crop:
        """A crop (left, top, right, bottom) of an image, drawn from torch's generator."""
        if self.ratio is None:
            return 0, 0, width, height
        from torchvision.transforms import RandomResizedCrop

        blank = Image.new("1", (width, height))  # only its size is used
        top, left, rows, columns = RandomResizedCrop.get_params(blank, list(self.scale), list(self.ratio))
        return left, top, left + columns, top + rows

    def __call__(self, image: Image.Image) -> Tensor:
        """An image, possibly not decoded yet → (3, size, size) float32, or uint8 if `as_bytes`.

        Raises:
            OSError: the image is damaged.
        """
        width, height = image.size
        crop = self.crop(width, height)
        if image.format == "JPEG" and image.mode in ("RGB", "L") and is_upright(image):
            factor = self._factor(crop)
            image.draft("RGB", (max(width // factor, 1), max(height // factor, 1)))
        return self._finish(np.array(to_rgb(image)), crop, (width, height))

    def from_jpeg(self, data: bytes) -> Tensor | None:
        """The same for the bytes of a plain JPEG, faster; None for any other file."""
        size = plain_jpeg_size(data)
        if size is None:
            return None
        crop = self.crop(*size)
        pixels = decode_plain_jpeg(data, size, self._factor(crop))
        return None if pixels is None else self._finish(pixels, crop, size)

    def _factor(self, crop: Crop) -> int:
        """The decoding factor at which the crop is still as large as the input."""
        left, top, right, bottom = crop
        return decode_factor(min(right - left, bottom - top) / self.size)

    def _finish(self, pixels: np.ndarray, crop: Crop, size: tuple[int, int]) -> Tensor:
        """Crop, flip, augment, normalize; `crop` is in pixels of `size`, `pixels` may be decoded smaller."""
        small = resized_crop(pixels, crop, size, self.size)  # (3, S, S) uint8
        if torch.rand(1) < self.flip:
            small = small.flip(2)
        if self.augment is not None:
            image = Image.fromarray(small.permute(1, 2, 0).contiguous().numpy())
            small = _as_tensor(self.augment(image))
        return small if self.as_bytes else normalize(small, self.mean, self.std)


def resized_crop(pixels: np.ndarray, crop: Crop, size: tuple[int, int], side: int) -> Tensor:
    """A crop resized by antialiased bilinear interpolation, as torchvision's ``resized_crop``.

    Args:
        pixels: (H, W, 3) uint8 of the whole image, possibly decoded smaller.
        crop: (left, top, right, bottom) in pixels of the stored image.
        size: (width, height) of the stored image.
        side: of the result.

    Returns:
        (3, side, side) uint8.
    """
    height, width, _ = pixels.shape
    if (width, height) == size:
        left, top, right, bottom = crop
        region = torch.from_numpy(pixels[top:bottom, left:right]).permute(2, 0, 1)
        if region.shape[1:] == (side, side):
            return region.contiguous()
        return interpolate(region[None], (side, side), mode="bilinear", antialias=True)[0].contiguous()
    # In an image decoded smaller, a crop may begin between two pixels, which Pillow supports.
    x, y = width / size[0], height / size[1]
    box = (crop[0] * x, crop[1] * y, min(crop[2] * x, width), min(crop[3] * y, height))
    return _as_tensor(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR, box=box))


def _as_tensor(image: Image.Image) -> Tensor:
    """RGB image → (3, H, W) uint8, contiguous: cheaper to copy now than as floats."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def normalize(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(..., 3, H, W) uint8 → normalized float32 on the same device."""
    return pixels.float().sub_(_levels(mean).to(pixels.device)).div_(_levels(std).to(pixels.device))


@cache
def _levels(values: tuple[float, ...]) -> Tensor:
    """Values in [0, 1] → (3, 1, 1) levels from 0 to 255."""
    return 255 * torch.tensor(values)[:, None, None]


class TrainImages(Dataset):
    """Images and labels of a split, for a torch DataLoader; boxes are not used.

    Args:
        split: any split.
        transform: image → tensor.
    """

    def __init__(self, split: Split, transform: Callable[[Image.Image], Tensor]) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """(tensor from `transform`, label) of one image.

        Raises:
            InputError: naming the file that cannot be read.
        """
        example = self.split.examples[index]
        return self._transformed(example), example.label

    def _transformed(self, example: Example) -> Tensor:
        reader = self.split.open_image
        if not isinstance(reader, TreeImages):
            return self.transform(reader(example))
        data = reader.read(example)
        if isinstance(self.transform, TrainCrop) and (found := self.transform.from_jpeg(data)) is not None:
            return found
        where = reader.tree.describe(example.id)
        try:
            with Image.open(io.BytesIO(data)) as image:
                if is_upright(image):
                    return self.transform(image)
            return self.transform(decode_image(data, where))
        except _UNDECODABLE as error:
            raise InputError(f"{where}: cannot be decoded ({error})") from error


def preprocessed(
    split: Split,
    examples: Sequence[Example],
    preprocess: Callable[[Any], Any],
    size: int,
    channels: int | None = None,
    unreadable: Callable[[Example, InputError], None] | None = None,
) -> Iterator[tuple[list[Example], Any]]:
    """Batches of whole, preprocessed images in order, decoded in threads one batch ahead.

    Args:
        split: opens the images.
        examples: examples of the split.
        preprocess: image → (C, H, W), or a list of such tensors.
        size: images per batch; the last may be smaller.
        channels: of the network's input, see `heatbox.data.files.images.network_image`; by default those of
            the preprocessing, or 3.
        unreadable: receives the images that cannot be read, which are left out of the batches; by default the
            first is raised.

    Yields:
        the examples and their (B, C, H, W) float32, or a list of such batches.

    Raises:
        InputError: naming the image that cannot be read.
    """

    channels = getattr(preprocess, "channels", 3) if channels is None else channels
    opened = open_for_network(split.open_image, channels)

    def load(example: Example) -> Any:
        try:
            return preprocess(opened(example))
        except InputError as error:
            if unreadable is None:
                raise
            return error

    def batch(start: int) -> tuple[list[tuple[Example, Any]], Any]:
        some = examples[start : start + size]
        pairs = list(zip(some, pool.map(load, some), strict=True))
        good = [one for _, one in pairs if not isinstance(one, InputError)]
        return pairs, default_collate(good) if good else None

    with ThreadPoolExecutor(available_cores()) as pool, ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(batch, 0)
        for start in range(0, len(examples), size):
            this, coming = coming, ahead.submit(batch, start + size)
            pairs, inputs = this.result()
            for example, one in pairs:
                if isinstance(one, InputError) and unreadable is not None:
                    unreadable(example, one)
            if inputs is not None:
                yield [example for example, one in pairs if not isinstance(one, InputError)], inputs
