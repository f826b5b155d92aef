"""Images of a tree of files: recognized by name, sized from their headers, decoded to upright RGB.

Most images of the data sets are upright 8-bit color JPEGs. For those, libjpeg-turbo's own interface
(simplejpeg) returns the pixels that Pillow returns, faster, at full size or at 1/2, 1/4 or 1/8 of it. Every
other file (grayscale, CMYK, rotated by its EXIF, damaged, huge, or no JPEG) is left to Pillow, which reads
it or reports what is wrong.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from heatbox.data.files.trees import Tree, below
from heatbox.data.formats.rows import Complain
from heatbox.data.types import Example
from heatbox.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
ORIENTATION = 0x0112  # EXIF tag
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_START, _SCAN, _APP1 = b"\xff\xd8\xff", 0xDA, 0xE1  # JPEG markers


def is_image(name: str) -> bool:
    """Whether a file name is that of a picture."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.rpartition("/")[2].startswith("._")


def image_size(tree: Tree, name: str, complain: Complain) -> tuple[int, int] | None:
    """Upright (width, height) from a picture's header, or None after complaining; pixels are not decoded."""
    source = tree.source(name)
    where = tree.describe(name)
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            turned = image.getexif().get(ORIENTATION, 1) in _TURNED
            return (image.height, image.width) if turned else image.size
    except FileNotFoundError:
        complain(f"{where}: no such image file")
    except UnidentifiedImageError:
        complain(f"{where}: not a picture in a format that can be read")
    except Exception as error:  # a damaged file can make a decoder raise anything
        complain(f"{where}: the picture is damaged ({error})")
    return None


def decode_image(data: bytes | Path, name: str) -> Image.Image:
    """Any picture Pillow reads → upright 8-bit RGB; what is wrong with it is raised as `InputError`.

    EXIF orientation is applied, transparency is laid on white, 16-bit and float greys are scaled to
    8 bits by their own range's full scale (65535 for 16-bit integers) and CMYK is converted.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: the picture is too large to decode safely ({error})") from error
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such image file") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not a picture in a format that can be read") from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise InputError(f"{name}: the picture is damaged ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of an image in any Pillow mode, transparent pixels laid on white."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image, dtype=np.float64)
        full_scale = 65535.0 if image.mode.startswith("I") else max(float(np.nanmax(grey, initial=0)), 1e-12)
        scaled = np.nan_to_num(np.clip(grey / full_scale, 0, 1)) * 255
        return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def open_grey(tree: Tree, name: str) -> np.ndarray:
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


# ------------------------------------------------------------------------------------------ plain JPEGs


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of an ordinary upright colour JPEG, from its header; None for any other file."""
    if not data.startswith(_START):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colours != "YCbCr" or width * height > (Image.MAX_IMAGE_PIXELS or width * height):
        return None
    return None if _may_be_turned(data) else (width, height)


def _may_be_turned(data: bytes) -> bool:
    """Whether EXIF or XMP tells an orientation, or the header is not laid out plainly."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        if data[at + 1] == _SCAN:
            return False
        if data[at + 1] == _APP1:
            return not _is_upright(data)
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return True


def _is_upright(data: bytes) -> bool:
    """Whether Pillow, which knows all places in which an orientation may stand, finds none to apply."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(ORIENTATION, 1) in (0, 1)
    except Exception:  # a damaged file can make a decoder raise anything
        return False


def decode_factor(shrink: float) -> int:
    """By how much to decode smaller a picture that may become `shrink` times smaller: 1, 2, 4 or 8.

    Other factors that libjpeg-turbo knows, such as 5/8, take longer than decoding at full size.
    """
    return next((factor for factor in (8, 4, 2) if factor <= shrink), 1)


def decode_plain_jpeg(data: bytes, size: tuple[int, int], factor: int = 1) -> np.ndarray | None:
    """Pixels of a file for which `plain_jpeg_size` tells a size.

    Args:
        data: the file's content.
        size: what `plain_jpeg_size` told.
        factor: 1, 2, 4 or 8.

    Returns:
        (height, width, 3) uint8 RGB, `factor` times smaller than the size, rounded up; None where the file
        is damaged in any way.
    """
    width, height = (-(-side // factor) for side in size)
    try:
        return simplejpeg.decode_jpeg(data, min_width=width, min_height=height, min_factor=factor)
    except ValueError:
        return None
