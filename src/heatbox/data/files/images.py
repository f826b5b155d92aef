"""Images of a tree of files: recognized by name, sized from their headers, decoded to upright RGB.

Most images of the data sets are upright 8-bit colour JPEGs. For those, libjpeg-turbo's own interface
(simplejpeg) returns the pixels that Pillow returns, faster, at full size or at 1/2, 1/4 or 1/8 of it. Every
other file (greyscale, CMYK, rotated by its EXIF, damaged, huge, or no JPEG) is left to Pillow, which reads
it or reports what is wrong.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from heatbox.data.files.trees import Tree, below
from heatbox.data.types import Example
from heatbox.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
ORIENTATION = 0x0112  # EXIF tag
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_START, _SCAN, _APP1 = b"\xff\xd8\xff", 0xDA, 0xE1  # JPEG markers


def is_image(name: str) -> bool:
    """Whether a file name is that of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.rpartition("/")[2].startswith("._")


class TreeImages:
    """Opens the images of examples; ids are relative to a folder of a tree."""

    def __init__(self, tree: Tree, folder: str = "") -> None:
        self.tree = below(tree, folder)

    def __call__(self, example: Example) -> Image.Image:
        """Open the image of an example as upright RGB."""
        return decode_image(self.tree.source(example.id), self.tree.describe(example.id))

    def read(self, example: Example) -> bytes:
        """The bytes of the image file."""
        return self.tree.read(example.id)

    def source(self, example: Example) -> bytes | Path:
        """Path or bytes of the image file."""
        return self.tree.source(example.id)


def image_size(tree: Tree, name: str) -> tuple[int, int]:
    """Upright (width, height) from an image's header, without decoding pixels.

    Raises:
        InputError: it cannot be read, with the reason.
    """
    return header_size(tree.source(name), tree.describe(name))


def header_size(data: bytes | Path, name: str) -> tuple[int, int]:
    """Upright (width, height) from the header of an image's path or content, without decoding pixels.

    Raises:
        InputError: it cannot be read, with the reason.
    """
    with _opened(data, name) as image:
        turned = image.getexif().get(ORIENTATION, 1) in _TURNED
        return (image.height, image.width) if turned else image.size


def header_suffix(data: bytes | Path, name: str) -> str:
    """The usual ending of a file name, such as ".jpg", for the format of an image's path or content.

    Raises:
        InputError: it cannot be read, with the reason.
    """
    with _opened(data, name) as image:
        kind = (image.format or "").lower()
        return {"jpeg": ".jpg", "tiff": ".tif", "ppm": ".ppm"}.get(kind, f".{kind}")


def decode_image(data: bytes | Path, name: str) -> Image.Image:
    """Any image that Pillow reads → upright 8-bit RGB.

    EXIF orientation is applied, transparent pixels become white, 16-bit and float greyscale is scaled to
    8 bits by its full scale (65535 for 16-bit integers, the maximum for floats) and CMYK is converted.

    Raises:
        InputError: the image cannot be decoded, with the reason.
    """
    with _opened(data, name) as image:
        image.load()
        return to_rgb(ImageOps.exif_transpose(image))


@contextmanager
def _opened(data: bytes | Path, name: str) -> Iterator[Image.Image]:
    """An image whose pixels are not decoded yet; whatever its decoder raises becomes an `InputError`."""
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: the image is too large to decode safely ({error})") from error
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such image file") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image in a supported format") from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise InputError(f"{name}: the image is damaged ({error})") from error


def is_upright(image: Image.Image) -> bool:
    """Whether EXIF has no orientation to apply."""
    return image.getexif().get(ORIENTATION, 1) in (0, 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of an image in any Pillow mode; transparent pixels become white."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image, dtype=np.float64)
        full_scale = max(np.nanmax(levels, initial=0), 1e-12) if image.mode == "F" else 65535
        scaled = np.nan_to_num(np.clip(levels / full_scale, 0, 1)) * 255
        return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def read_grayscale(tree: Tree, name: str) -> np.ndarray:
    """(height, width) uint8 levels of a mask file.

    Raises:
        InputError: it cannot be read.
    """
    data = tree.read(name)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("L"))
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise InputError(f"{tree.describe(name)}: the mask cannot be read ({error})") from error


# ------------------------------------------------------------------------------------------- plain JPEGs


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of an upright 8-bit colour JPEG, from its header; None for any other file."""
    if not data.startswith(_START):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colors != "YCbCr" or width * height > (Image.MAX_IMAGE_PIXELS or width * height):
        return None
    return None if _may_be_turned(data) else (width, height)


def _may_be_turned(data: bytes) -> bool:
    """Whether EXIF or XMP contains an orientation, or the header is not laid out plainly."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        if data[at + 1] == _SCAN:
            return False
        if data[at + 1] == _APP1:
            # Pillow knows all fields that may contain an orientation.
            try:
                with Image.open(io.BytesIO(data)) as image:
                    return not is_upright(image)
            except Exception:  # a damaged file can make a decoder raise anything
                return True
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return True


def decode_factor(shrink: float) -> int:
    """The factor (1, 2, 4 or 8) at which to decode an image that may become `shrink` times smaller.

    Other factors that libjpeg-turbo supports, such as 5/8, take longer than decoding at full size.
    """
    return next((factor for factor in (8, 4, 2) if factor <= shrink), 1)


def decode_plain_jpeg(data: bytes, size: tuple[int, int], factor: int = 1) -> np.ndarray | None:
    """Pixels of a file for which `plain_jpeg_size` returns a size.

    Args:
        data: content of the file.
        size: as returned by `plain_jpeg_size`.
        factor: 1, 2, 4 or 8.

    Returns:
        (height, width, 3) uint8 RGB, `factor` times smaller than the size, rounded up; None if the file is
        damaged.
    """
    width, height = (-(-side // factor) for side in size)
    try:
        return simplejpeg.decode_jpeg(data, min_width=width, min_height=height, min_factor=factor)
    except ValueError:
        return None
