"""Image processors of the transformers library as fields of timm's pretrained_cfg.

How pixels become input is measured on images of constant colour, because image processors differ in which of
their fields they use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from heatbox.errors import InputError, quoted

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Filters by their number in Pillow, which image processors save as `resample`."""
SLOW_FILTERS = (FILTERS.index("box"), FILTERS.index("hamming"))
"""Filters that only Pillow has."""
FIELDS = (
    *("size", "resample", "crop_size", "rescale_factor", "image_mean", "image_std"),
    *("do_resize", "do_center_crop", "do_rescale", "do_normalize"),
)
TENSORS = {"return_tensors": "pt"}
INPUTS = ("pixel_values", "inputs")
"""Names of the argument that takes images."""
PROBE_SIDE, UNCROPPED = 512, 0.995
ALONG = (5**0.5 - 1) / 2
"""Fraction of a ramp's range that is horizontal; the rest is vertical."""
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def processor_config(folder: Path, name: str, channels: int = 3) -> dict[str, Any]:
    """The image processor of a folder as fields of timm's pretrained_cfg; see `create_huggingface`.

    Args:
        folder: with preprocessor_config.json.
        name: of the model, for messages.
        channels: of the model's input.

    Returns:
        mean and std of pixel values in [0, 1], per channel of the input; interpolation, a filter of Pillow;
        input_size (C, H, W) and crop_pct, the fraction of a square image that the input shows, where the
        processor makes inputs of one size; and channel_order, "bgr" where it flips the channels.

    Raises:
        InputError: the processor makes no images of so many channels, or cannot be read.
    """
    processor = _processor(name, folder)
    try:
        return _measured(processor, channels)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except Exception as error:  # fields that do not fit each other can make the processor raise anything
        if channels == 1:  # the processor's fields are often left as they were for RGB
            return {}
        raise InputError(f"{name}: its {PROCESSORS[0]} cannot be used ({quoted(error)})") from error


def _processor(name: str, folder: Path) -> Any:
    """The image processor; where it is not of transformers, one that reads the usual fields."""
    from transformers import AutoImageProcessor, CLIPImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(folder, **_LOCAL)
        if getattr(processor, "resample", None) in SLOW_FILTERS:
            processor = AutoImageProcessor.from_pretrained(folder, use_fast=False, **_LOCAL)
        return processor
    except Exception as error:  # of fields of any kind
        failure = error
    try:
        fields = json.loads((folder / PROCESSORS[0]).read_text())
        if not {"image_mean", "image_std"} <= set(fields):
            raise failure
        known = {key: fields[key] for key in FIELDS if key in fields}
        return CLIPImageProcessor(**{"do_center_crop": False, **known})
    except Exception as error:
        raise InputError(f"{name}: its {PROCESSORS[0]} cannot be read ({quoted(error)})") from error


def _measured(processor: Any, channels: int) -> dict[str, Any]:
    """What an image processor does, measured on square images of so many channels."""

    def run(pixels: np.ndarray) -> np.ndarray:
        """(H, W, C) uint8 → (C', H', W') float64."""
        if channels in (1, 3):
            found = processor(
                images=[Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)], **TENSORS
            )
        else:
            found = processor(images=[pixels], input_data_format="channels_last", **TENSORS)
        values = next((found[key] for key in INPUTS if key in found), None)
        if values is None or values.ndim != 4 or values.shape[1] != channels:
            raise InputError(f"its image processor makes {_shapes(found)}, not images (B, {channels}, H, W)")
        return np.asarray(values[0], dtype=np.float64)

    def plain(*values: int, side: int = PROBE_SIDE) -> np.ndarray:
        return run(np.full((side, side, channels), values, dtype=np.uint8))

    black, white = plain(0), plain(255)
    height, width = black.shape[1:]
    low, high = (image[:, height // 2, width // 2] for image in (black, white))
    if not (np.isfinite(low) & np.isfinite(high) & (high > low)).all():
        raise InputError("its image processor does not make larger numbers of brighter pixels")
    std = 1 / (high - low)
    mean = -low * std
    found: dict[str, Any] = {"mean": _rounded(mean), "std": _rounded(std)}
    if plain(0, side=PROBE_SIDE // 2).shape == black.shape:
        found["input_size"] = (channels, height, width)
        found["crop_pct"] = _crop(run, channels, mean, std)
    colour = np.linspace(51, 204, channels).round().astype(int)
    shown = 255 * (plain(*colour)[:, height // 2, width // 2] * std + mean)
    if channels == 3 and np.allclose(shown, colour[::-1], atol=1):
        found["channel_order"] = "bgr"
    elif not np.allclose(shown, colour, atol=1):
        raise InputError("its image processor changes colours in a way that no mean and std describe")
    resample = getattr(processor, "resample", None)
    if isinstance(resample, int) and 0 <= resample < len(FILTERS):
        found["interpolation"] = FILTERS[resample]
    return found


def _crop(run: Any, channels: int, mean: np.ndarray, std: np.ndarray) -> float:
    """Side of the central crop over the side of the image, from the slope of a ramp."""
    steps = np.linspace(0, 255, PROBE_SIDE)
    # The rows differ by no simple fraction of a level, so that their mean has no error of 8-bit rounding.
    ramp = (ALONG * steps + (1 - ALONG) * steps[:, None]).round().astype(np.uint8)
    output = run(np.repeat(ramp[:, :, None], channels, axis=2))
    shown = (output * std[:, None, None] + mean[:, None, None]).mean((0, 1))  # (W,) in [0, 1]
    width = len(shown)
    if width < 8:
        return 1.0
    middle = slice(width // 4, width - width // 4)
    slope = float(np.polyfit(np.arange(width)[middle], shown[middle], 1)[0])
    fraction = slope * width * (PROBE_SIDE - 1) / (PROBE_SIDE * ALONG)
    return round(fraction, 3) if 0 < fraction < UNCROPPED else 1.0


def _shapes(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {tuple(getattr(value, 'shape', ()))}" for key, value in found.items())


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """Without the error of float32."""
    return tuple(float(f"{value:.6g}") + 0.0 for value in values.tolist())
