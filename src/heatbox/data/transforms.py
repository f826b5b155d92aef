"""From a picture to the tensor a network expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from heatbox.errors import InputError

_LARGEST_SIDE = 65_535  # pixels; more is a slip of the hand, and overflows libraries under us

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocess:
    """Squash the whole image to the input size, scale it to [0, 1] and normalise it.

    Localization needs the whole image: it is squashed, not cropped, so that a heatmap covers it exactly.

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
        if max(self.size) > _LARGEST_SIDE:
            raise InputError(f"input size {self.size} is over {_LARGEST_SIDE} pixels")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError(f"mean {self.mean} and std {self.std} need three values each, std above 0")

    @classmethod
    def from_config(
        cls, config: Mapping, size: int | None = None, interpolation: str | None = None
    ) -> Preprocess:
        """From a timm data or pretrained config: its input size, mean, std and interpolation.

        Args:
            config: with keys input_size (3, H, W), mean, std, interpolation; missing ones get the defaults.
            size: a square input size instead of the config's.
            interpolation: instead of the config's.
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
        """The same at `factor` times the size."""
        return replace(self, size=(factor * self.size[0], factor * self.size[1]))

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image → (3, H, W) float32."""
        height, width = self.size
        squashed = image.resize((width, height), _FILTERS[self.interpolation])
        pixels = torch.from_numpy(np.array(squashed, dtype=np.uint8)).permute(2, 0, 1)
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (pixels.float() / 255 - mean[:, None, None]) / std[:, None, None]
