"""Images of a tree of files: their sizes, and examples opened by id."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from heatbox.data.files.trees import Tree, below
from heatbox.data.formats.rows import Complain
from heatbox.data.types import Example, decode_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def is_image(name: str) -> bool:
    """Whether a file name is that of a picture."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.rpartition("/")[2].startswith("._")


def image_size(tree: Tree, name: str, complain: Complain) -> tuple[int, int] | None:
    """Upright (width, height) from a picture's header, or None after complaining; pixels are not decoded."""
    source = tree.source(name)
    where = tree.describe(name)
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            turned = image.getexif().get(0x0112, 1) in _TURNED
            return (image.height, image.width) if turned else image.size
    except FileNotFoundError:
        complain(f"{where}: no such image file")
    except UnidentifiedImageError:
        complain(f"{where}: not a picture in a format that can be read")
    except Exception as error:  # a damaged file can make a decoder raise anything
        complain(f"{where}: the picture is damaged ({error})")
    return None


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
