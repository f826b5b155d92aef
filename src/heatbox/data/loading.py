"""Training pictures from disk: decoded no larger than they are needed, cropped, augmented, normalised.

A JPEG can be decoded at half, a quarter or an eighth of its size at a fraction of the cost (libjpeg's DCT
scaling, Pillow's draft mode). The crop is drawn first, from the header; then the picture is decoded at the
smallest such size at which the crop still has as many pixels as the network's input.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from heatbox.data.example import Example, Split, decode_image, to_rgb
from heatbox.errors import InputError

Crop = tuple[int, int, int, int]


@dataclass(frozen=True)
class TrainCrop:
    """Random resized crop and mirror image, as torchvision draws them (RandomResizedCrop), then a tensor.

    Attributes:
        size: side of the square input.
        scale: range of the crop's share of the picture's area.
        ratio: range of the crop's width over height; None squashes the whole picture, without a crop.
        flip: probability of the mirror image.
        mean, std: per RGB channel, of values in [0, 1].
        augment: RGB picture of the input's size → another, for example timm's RandAugment; or None.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] | None = (3 / 4, 4 / 3)
    flip: float = 0.5
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    augment: Callable[[Image.Image], Image.Image] | None = None

    def crop(self, width: int, height: int) -> Crop:
        """A crop (left, top, right, bottom) of a picture, drawn with torch's generator."""
        if self.ratio is None:
            return 0, 0, width, height
        from torchvision.transforms import RandomResizedCrop

        blank = Image.new("1", (width, height))  # only its size is asked for
        top, left, rows, columns = RandomResizedCrop.get_params(blank, list(self.scale), list(self.ratio))
        return left, top, left + columns, top + rows

    def __call__(self, image: Image.Image) -> Tensor:
        """A picture that may not be decoded yet → (3, size, size) float32.

        Raises:
            OSError: the picture is damaged.
        """
        width, height = image.size
        left, top, right, bottom = self.crop(width, height)
        turned = image.getexif().get(0x0112, 1) not in (0, 1)
        if image.format == "JPEG" and image.mode in ("RGB", "L") and not turned:
            need = self.size / (right - left), self.size / (bottom - top)
            image.draft("RGB", (math.ceil(width * need[0]), math.ceil(height * need[1])))
        image = to_rgb(image)
        x, y = image.width / width, image.height / height
        region = (left * x, top * y, min(right * x, image.width), min(bottom * y, image.height))
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=region)
        if torch.rand(1) < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.augment is not None:
            image = self.augment(image)
        return to_tensor(image, self.mean, self.std)


def to_tensor(image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """RGB picture → (3, H, W) float32, normalised."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # cheaper while still bytes
    shift, scale = (255 * torch.tensor(values)[:, None, None] for values in (mean, std))
    return pixels.float().sub_(shift).div_(scale)


class TrainImages(Dataset):
    """Pictures and labels of a split, for a torch DataLoader; boxes are never looked at.

    Args:
        split: any split.
        transform: picture → tensor.
    """

    def __init__(self, split: Split, transform: Callable[[Image.Image], Tensor]) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """((3, H, W) float32, label) of one image.

        Raises:
            InputError: naming the file that cannot be read.
        """
        example = self.split.examples[index]
        reader: Any = self.split.open_image
        if not hasattr(reader, "source"):
            return self.transform(reader(example)), example.label
        source = reader.source(example)
        try:
            with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
                if image.getexif().get(0x0112, 1) in (0, 1):
                    return self.transform(image), example.label
            return self.transform(self._upright(example, source)), example.label
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise InputError(f"{reader.tree.describe(example.id)}: cannot be decoded ({error})") from error

    def _upright(self, example: Example, source: bytes | Path) -> Image.Image:
        reader: Any = self.split.open_image
        return decode_image(source, reader.tree.describe(example.id))
