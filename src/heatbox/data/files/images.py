"""Images of a tree of files: recognized by name, sized from their headers, decoded to upright RGB or bands.

`network_image` is the one way from an image or an array to the pixels that a network gets, `decode_image` the
way to what a person looks at. Both turn an image as its EXIF says.

Most images of the data sets are upright 8-bit colour JPEGs. For those, libjpeg-turbo's own interface
(simplejpeg) returns the pixels that Pillow returns, faster, at full size or at 1/2, 1/4 or 1/8 of it. Every
other file (greyscale, CMYK, rotated by its EXIF, damaged, huge, or no JPEG) is left to Pillow, which reads
it or reports what is wrong.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from heatbox.data.files.trees import NamedFiles, Tree, below, join
from heatbox.data.types import Example
from heatbox.errors import InputError

ARRAY_SUFFIX = ".npy"
UNUSUAL_SUFFIXES = (".jfif", ".jpe")  # of JPEG, which few tools know
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif",
    ".heic", ".heif", *UNUSUAL_SUFFIXES,
)  # fmt: skip
ORIENTATION = 0x0112  # EXIF tag
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_START, _SCAN, _APP1 = b"\xff\xd8\xff", 0xDA, 0xE1  # JPEG markers


def is_image(name: str) -> bool:
    """Whether a file name is that of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.rpartition("/")[2].startswith("._")


def images_among(names: Iterable[str]) -> Iterator[str]:
    """The image files among some; where there are none, the arrays (.npy), images of any number of bands."""
    arrays, found = [], False
    for name in names:
        if is_image(name):
            found = True
            yield name
        elif name.lower().endswith(ARRAY_SUFFIX) and not found:
            arrays.append(name)
    if not found:
        yield from arrays


def visible_images(tree: Tree) -> list[str]:
    """Names of the images of a tree, but for hidden files and what macOS leaves in archives."""
    return list(images_among(name for name in tree.walk() if not is_hidden(name)))


def is_hidden(name: str) -> bool:
    """Whether a file is hidden, or in a hidden folder."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


@dataclass(frozen=True)
class ImageFile:
    """An image by its name in a tree: in a folder, in an archive, or at an address.

    Attributes:
        tree: has the image.
        name: of the image in there.
    """

    tree: Tree
    name: str

    @classmethod
    def of(cls, file: Path | ImageFile) -> ImageFile:
        """An image that was named by its path."""
        return file if isinstance(file, ImageFile) else cls(NamedFiles(), str(file))

    def __str__(self) -> str:
        return self.tree.describe(self.name)

    @property
    def path(self) -> Path | None:
        """The path of an image that was named by it."""
        return self.tree.source(self.name) if isinstance(self.tree, NamedFiles) else None

    @property
    def folder(self) -> str:
        """Path or address of the folder or archive that contains it."""
        if self.path is not None:
            return str(self.path.absolute().parent)
        return join(self.tree.where, self.name.rpartition("/")[0])

    def decode(self, channels: int = 3) -> Image.Image | np.ndarray:
        """What a network of so many input channels reads; as `decode_for_network`."""
        return decode_for_network(self.tree.source(self.name), str(self), channels)


class TreeImages:
    """Opens the images of examples; ids are relative to a folder of a tree."""

    opens_by_file = True  # also the examples of `Split.by_class`

    def __init__(self, tree: Tree, folder: str = "") -> None:
        self.tree = below(tree, folder)

    def __call__(self, example: Example) -> Image.Image:
        """Open the image of an example as upright RGB."""
        return decode_image(self.tree.source(example.file), self.tree.describe(example.file))

    def read(self, example: Example) -> bytes:
        """The bytes of the image file."""
        return self.tree.read(example.file)

    def source(self, example: Example) -> bytes | Path:
        """Path or bytes of the image file."""
        return self.tree.source(example.file)


def image_size(tree: Tree, name: str) -> tuple[int, int]:
    """Upright (width, height) from an image's or an array's header, without decoding pixels.

    Raises:
        InputError: it cannot be read, with the reason.
    """
    if (known := tree.header(name)) is not None:
        size, orientation = known
        return size[::-1] if orientation in _TURNED else size
    return header_size(tree.source(name), tree.describe(name))


def header_size(data: bytes | Path, name: str) -> tuple[int, int]:
    """Upright (width, height) from the header of an image's or array's path or content, without pixels.

    Raises:
        InputError: it cannot be read, with the reason.
    """
    if name.lower().endswith(ARRAY_SUFFIX):
        height, width = _bands_last(_load_array(data, name), name).shape[:2]
        return width, height
    with _opened(data, name) as image:
        size, orientation = stored_frame(image)
        return size[::-1] if orientation in _TURNED else size


def stored_header(data: bytes, name: str) -> tuple[tuple[int, int], int]:
    """Stored (width, height) and EXIF orientation of an image, from its first bytes if they contain both.

    Raises:
        InputError: they do not.
    """
    with _opened(data, name) as image:
        return (image.size, 1) if has_no_exif(data) else stored_frame(image)


def stored_frame(image: Image.Image) -> tuple[tuple[int, int], int]:
    """Stored (width, height) and EXIF orientation of an image that is opened and not decoded.

    The size that Pillow returns is the stored one, but that of a TIFF is upright.
    """
    found = image.getexif().get(ORIENTATION, 1)
    orientation = found if isinstance(found, int) and 1 < found <= 8 else 1
    turned = isinstance(image, TiffImagePlugin.TiffImageFile) and orientation in _TURNED
    return image.size[::-1] if turned else image.size, orientation


def has_no_exif(head: bytes) -> bool:
    """Whether the first bytes of a file show that it has no EXIF and no XMP."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"eXIf" not in head and b"IDAT" in head and b"iTXt" not in head
    if not head.startswith(_START):
        return head.startswith((b"BM", b"GIF8", b"P5", b"P6"))
    at = 2
    while head[at : at + 1] == b"\xff" and at + 4 <= len(head):
        if head[at + 1] == _APP1:
            return False
        if head[at + 1] == _SCAN:
            return True
        at += 2 + int.from_bytes(head[at + 2 : at + 4])
    return False


def header_suffix(data: bytes | Path, name: str) -> str:
    """The usual ending of a file name, such as ".jpg", for the format of an image's path or content.

    Raises:
        InputError: it cannot be read, with the reason.
    """
    if name.lower().endswith(ARRAY_SUFFIX):
        return ARRAY_SUFFIX
    with _opened(data, name) as image:
        kind = (image.format or "").lower()
        return {"jpeg": ".jpg", "tiff": ".tif", "ppm": ".ppm"}.get(kind, f".{kind}")


def decode_image(data: bytes | Path, name: str) -> Image.Image:
    """Any image that Pillow reads, or an array (.npy) → upright 8-bit RGB, to look at.

    EXIF orientation is applied, transparent pixels become white, 16-bit and float greyscale is scaled to
    8 bits by its full scale (65535 for 16-bit integers, the maximum for floats) and CMYK is converted. Of an
    array of several bands the first three are shown, or the first one where there are two.

    Raises:
        InputError: the image cannot be decoded, with the reason.
    """
    if name.lower().endswith(ARRAY_SUFFIX):
        return displayed(_bands_last(_load_array(data, name), name))
    if (pixels := _plain_pixels(data)) is not None:
        return Image.fromarray(pixels)
    with _opened(data, name) as image:
        image.load()
        return to_rgb(ImageOps.exif_transpose(image))


def decode_for_network(data: bytes | Path, name: str, channels: int = 3) -> Image.Image | np.ndarray:
    """An image file or an array (.npy) → what a network of so many input channels reads; see `network_image`.

    Raises:
        InputError: naming the file that cannot be decoded, or that has another number of bands.
    """
    if name.lower().endswith(ARRAY_SUFFIX):
        return network_image(_load_array(data, name), channels, name)
    if channels in (1, 3):
        return decode_image(data, name)
    with _opened(data, name) as image:
        image.load()
        return network_image(image, channels, name)


def open_for_network(
    open_image: Callable[[Example], Image.Image], channels: int
) -> Callable[[Example], Image.Image | np.ndarray]:
    """How the images of a split are opened for a network; see `network_image`."""
    if not isinstance(open_image, TreeImages):
        return lambda example: network_image(open_image(example), channels, example.id)
    tree = open_image.tree
    return lambda example: decode_for_network(
        tree.source(example.file), tree.describe(example.file), channels
    )


@contextmanager
def _opened(data: bytes | Path, name: str) -> Iterator[Image.Image]:
    """An image whose pixels are not decoded yet; whatever its decoder raises becomes an `InputError`."""
    try:
        if name.lower().endswith(_HEIF):
            _register_heif()
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: the image is too large to decode safely ({error})") from error
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such image file") from error
    except InputError:
        raise
    except UnidentifiedImageError as error:
        if _is_tiff(data):
            raise InputError(
                f"{name}: Pillow does not read the bands of this TIFF; save them as .npy, (C, H, W)"
            ) from error
        hint = "; HEIC is read if pillow-heif is installed" if name.lower().endswith(_HEIF) else ""
        raise InputError(f"{name}: not an image in a supported format{hint}") from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise InputError(f"{name}: the image is damaged ({error})") from error


_HEIF = (".heic", ".heif")


@cache
def _register_heif() -> None:
    """Have Pillow read HEIC, where pillow-heif is installed."""
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()


def is_upright(image: Image.Image) -> bool:
    """Whether EXIF has no orientation to apply."""
    return image.getexif().get(ORIENTATION, 1) in (0, 1)


def _is_tiff(data: bytes | Path) -> bool:
    if isinstance(data, Path):
        with data.open("rb") as file:
            data = file.read(4)
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of an image in any Pillow mode; transparent pixels become white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image, dtype=np.float64)
        full_scale = np.nanmax(levels, initial=0) if image.mode == "F" else 65535
        if image.mode == "I":
            full_scale = max(levels.max(initial=0), full_scale)
        scaled = np.nan_to_num(np.clip(levels / max(full_scale, 1e-12), 0, 1)) * 255
        return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
    if image.mode == "La":  # premultiplied, which Pillow converts step by step
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB") or image
    return image.convert("RGB")


# ------------------------------------------------------------------------- what networks read, and arrays


def network_image(
    image: Image.Image | np.ndarray, channels: int = 3, name: str = "the image"
) -> Image.Image | np.ndarray:
    """What a network of so many input channels reads of an image.

    Args:
        image: in any mode of Pillow; or an array (H, W), (H, W, C) or (C, H, W), of which the bands are the
            shorter of the first and the last axis. uint8, uint16 and bool are scaled to [0, 1] by their full
            scale (255, 65535, 1); floating-point values are used as they are.
        channels: of the network's input. For 1 and 3, images become upright 8-bit RGB (see `to_rgb`), from
            which `Preprocess` makes grey; for any other number the image has to have as many bands, or as
            many pages of one band (TIFF), which are used as stored: the fourth of an RGBA image is its alpha.
        name: of the image in messages.

    Returns:
        an RGB image, or (H, W, channels) float32. One band is repeated for three channels.

    Raises:
        InputError: another number of bands, an array that is no image, or integers of unknown full scale.
    """
    if isinstance(image, np.ndarray):
        return _network_array(_bands_last(image, name), channels, name)
    image = image if is_upright(image) else ImageOps.exif_transpose(image)
    if channels in (1, 3):
        return to_rgb(image)
    stored = _stored_bands(image, channels)
    if stored.shape[2] == channels:
        return _scaled(stored, name)
    found = f"{stored.shape[2]} band{'s' * (stored.shape[2] > 1)} ({image.mode})"
    more = getattr(image, "tag_v2", {}).get(_SAMPLES, 0)
    if more > stored.shape[2]:
        raise InputError(
            f"{name}: has {more} bands, of which Pillow reads {stored.shape[2]}; save them as .npy, (C, H, W)"
        )
    raise InputError(
        f"{name}: has {found}, but the network reads {channels} channels; expected {channels} bands, for "
        f"example a .npy file of shape ({channels}, H, W)"
    )


def displayed(bands: np.ndarray) -> Image.Image:
    """8-bit RGB of (H, W, C) bands to look at: the first three, or the first where there are fewer.

    Integers are scaled by their full scale; floats by the range of the bands shown, unless that is in [0, 1].
    """
    shown = bands[..., :3] if bands.shape[2] >= 3 else bands[..., :1]
    levels = shown.astype(np.float64)
    if shown.dtype.kind in "ub":
        levels /= 1 if shown.dtype == bool else np.iinfo(shown.dtype).max
    elif (finite := levels[np.isfinite(levels)]).size and (finite.min() < 0 or finite.max() > 1):
        levels = (levels - finite.min()) / max(finite.max() - finite.min(), 1e-12)
    pixels = (np.nan_to_num(np.clip(levels, 0, 1)) * 255).round().astype(np.uint8)
    return Image.fromarray(np.repeat(pixels, 3 // pixels.shape[2], axis=2))


def picture_size(image: Image.Image | np.ndarray) -> tuple[int, int]:
    """(width, height) of the result of `network_image`."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def shown_image(image: Image.Image | np.ndarray) -> Image.Image:
    """Upright 8-bit RGB of an image or an array, to look at; see `decode_image`."""
    if isinstance(image, np.ndarray):
        return displayed(_bands_last(image, "the image"))
    return to_rgb(image if is_upright(image) else ImageOps.exif_transpose(image))


_SAMPLES = 277  # SamplesPerPixel of TIFF


def _stored_bands(image: Image.Image, channels: int) -> np.ndarray:
    """(H, W, C) values as they are stored: the bands of an image, or its pages if there are so many."""
    bands = np.atleast_3d(np.asarray(image))
    frames = getattr(image, "n_frames", 1)
    if bands.shape[2] == 1 and frames == channels:
        page = image.tell()
        pages = []
        for index in range(frames):
            image.seek(index)
            pages.append(np.asarray(image))
        image.seek(page)
        if all(one.shape == pages[0].shape and one.ndim == 2 for one in pages):
            bands = np.stack(pages, axis=2)
    if bands.dtype == np.int32 and bands.min(initial=0) >= 0 and bands.max(initial=0) <= 65535:
        bands = bands.astype(np.uint16)  # how Pillow opens some 16-bit files
    return bands


def _network_array(bands: np.ndarray, channels: int, name: str) -> Image.Image | np.ndarray:
    count = bands.shape[2]
    if count == 1 and channels == 3:
        bands = np.repeat(bands, 3, axis=2)
    elif count != channels and not (count == 3 and channels == 1):
        raise InputError(
            f"{name}: has {count} band{'s' * (count > 1)}, but the network reads {channels} "
            f"channel{'s' * (channels > 1)}"
        )
    if bands.dtype == np.uint8 and channels in (1, 3):  # as a picture of the same pixels
        return Image.fromarray(np.ascontiguousarray(np.broadcast_to(bands, (*bands.shape[:2], 3))))
    values = _scaled(bands, name)
    if values.shape[2] != channels:  # RGB to grey, with Pillow's weights
        values = values @ np.array([[0.299], [0.587], [0.114]], np.float32)
    return values


def _scaled(bands: np.ndarray, name: str) -> np.ndarray:
    """(H, W, C) float32: unsigned integers of 8 or 16 bits in [0, 1], floats as they are."""
    if bands.dtype.kind == "f":
        return bands.astype(np.float32)
    if bands.dtype in (np.uint8, np.uint16, np.bool_):
        return bands.astype(np.float32) / (1 if bands.dtype == np.bool_ else np.iinfo(bands.dtype).max)
    raise InputError(
        f"{name}: values of {bands.dtype} have no known full scale; expected uint8, uint16, or floats in the "
        "scale that mean and std refer to"
    )


def _load_array(data: bytes | Path, name: str) -> np.ndarray:
    """The array of a .npy file, of a path not read before its values are needed."""
    try:
        if isinstance(data, bytes):
            found: Any = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            found = np.load(data, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such image file") from error
    except Exception as error:  # a damaged file can make NumPy raise anything
        raise InputError(f"{name}: is not a NumPy array ({error})") from error
    if not isinstance(found, np.ndarray):
        raise InputError(f"{name}: is not a NumPy array")
    return found


def _bands_last(array: np.ndarray, name: str) -> np.ndarray:
    """(H, W), (H, W, C) or (C, H, W) → (H, W, C): the bands are the shorter of the first and last axis."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "fiub":
        raise InputError(
            f"{name}: is an array of {array.dtype} and shape {array.shape}, expected numbers of shape "
            "(H, W), (H, W, C) or (C, H, W)"
        )
    return np.moveaxis(array, 0, 2) if array.shape[0] < array.shape[2] else array


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


def _plain_pixels(data: bytes | Path) -> np.ndarray | None:
    """(height, width, 3) uint8 of an undamaged file for which `plain_jpeg_size` returns a size; else None."""
    if isinstance(data, Path):
        try:
            with data.open("rb") as file:
                start = file.read(len(_START))
                data = start + file.read() if start == _START else start
        except OSError:  # which Pillow reports
            return None
    size = plain_jpeg_size(data)
    return None if size is None else decode_plain_jpeg(data, size)


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
