"""Ordinary JPEGs straight to pixels, at full size or at a half, a quarter or an eighth of it.

Most pictures of the data sets are upright 8-bit colour JPEGs. For those libjpeg-turbo's own interface
(simplejpeg) gives the pixels that Pillow gives, sooner. Whatever else a file may be, grey, CMYK, turned by
its EXIF, damaged, huge or no JPEG at all, is left to Pillow, which reads it or says what is wrong.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image

_START, _SCAN, _APP1 = b"\xff\xd8\xff", 0xDA, 0xE1
_ORIENTATION = 0x0112


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
            return image.getexif().get(_ORIENTATION, 1) in (0, 1)
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
