"""Images that EXIF turns: in which frame their boxes are.

A camera stores a picture as its sensor lies and notes in EXIF how to turn it. heatbox opens images upright.
Annotation tools differ: some draw boxes on the upright picture, others on the stored one. The listed size of
the image tells which: boxes in the stored frame are turned with the picture.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from heatbox.data.files.images import has_no_exif, stored_frame
from heatbox.data.files.trees import Report, Tree
from heatbox.data.problems import MALFORMED, Problem
from heatbox.errors import AssumptionWarning, UnreachableError

if TYPE_CHECKING:
    from heatbox.data.formats.rows import Annotation

UPRIGHT = 1
"""EXIF orientation of an image that is stored upright."""
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_HEAD = 2**12  # bytes; EXIF comes first in a file


def turned(boxes: np.ndarray, size: tuple[int, int], orientation: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Boxes in the stored frame of an image → boxes in its upright frame, and the upright size.

    Args:
        boxes: (K, 4) xyxy in pixels of the stored image.
        size: stored (width, height).
        orientation: EXIF orientation, 1 to 8 (CIPA DC-008, tag 274).

    Returns:
        (K, 4) float64 xyxy, and the upright (width, height).
    """
    width, height = size
    x1, y1, x2, y2 = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T
    x1, y1, x2, y2 = {
        1: (x1, y1, x2, y2),
        2: (width - x2, y1, width - x1, y2),
        3: (width - x2, height - y2, width - x1, height - y1),
        4: (x1, height - y2, x2, height - y1),
        5: (y1, x1, y2, x2),
        6: (height - y2, x1, height - y1, x2),
        7: (height - y2, width - x2, height - y1, width - x1),
        8: (y1, width - x2, y2, width - x1),
    }[orientation]
    found = np.stack([x1, y1, x2, y2], axis=1)
    return found, (height, width) if orientation in SIDEWAYS else (width, height)


def turned_mask(mask: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W) of the stored frame → (H', W') of the upright frame."""
    if orientation in SIDEWAYS:
        mask = mask.T
    if orientation in (2, 3, 6, 7):
        mask = mask[:, ::-1]
    if orientation in (3, 4, 7, 8):
        mask = mask[::-1]
    return mask


def orientation_of(tree: Tree, name: str) -> tuple[int, tuple[int, int]]:
    """EXIF orientation of an image file and its stored (width, height).

    The size is (0, 0) for an upright image, whose header is not read further, and for a file that is
    missing or damaged, which is reported when it is opened.
    """
    if (known := tree.header(name)) is not None:
        size, found = known
        return (found, size) if found != UPRIGHT else (UPRIGHT, (0, 0))
    try:
        if has_no_exif(tree.head(name, _HEAD)):
            return UPRIGHT, (0, 0)
        source = tree.source(name)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            size, found = stored_frame(image)
            return found, size if found != UPRIGHT else (0, 0)
    except UnreachableError:
        raise
    except Exception:  # a damaged file can make a decoder raise anything
        pass
    return UPRIGHT, (0, 0)


def turns_of(
    table: Mapping[str, Annotation], images: Tree, report: Report, quiet: bool = False
) -> dict[str, int]:
    """File → EXIF orientation by which its boxes have to be turned, of the images that need it.

    An image counts as listed in its stored frame if its listed size, or at least its aspect ratio, is that
    of the stored picture and not that of the upright one. Sizes cannot tell for orientations that keep width
    and height, and for squares; these follow the other images, or are upright if there are none.

    Args:
        table: image → annotation.
        images: has the images.
        report: receives a problem where some images are listed in the stored and others in the upright frame.
        quiet: leave out the warnings about what is assumed.
    """
    stored: dict[str, int] = {}
    upright: list[str] = []
    unclear: dict[str, int] = {}
    for file, annotation in table.items():
        if not annotation.objects and min(annotation.size) <= 0:
            continue
        orientation, size = orientation_of(images, file)
        if orientation == UPRIGHT:
            continue
        listed = _listed_as(annotation, size, orientation)
        if listed == "stored":
            stored[file] = orientation
        elif listed == "upright":
            upright.append(file)
        else:
            unclear[file] = orientation
    if stored and upright:
        other = upright[0]
        for file in stored:
            what = f"{file!r} is listed with its stored size, {other!r} with its upright size"
            report(Problem(f"{table[file].where}: EXIF turns both, but {what}", file, MALFORMED))
        return {}
    if stored and not quiet:
        where = next(iter(table.values())).where.partition(",")[0]
        what = "are listed in the stored frame, so their boxes are turned too"
        warnings.warn(
            f"{where}: EXIF turns {len(stored) + len(unclear)} images, which {what}", AssumptionWarning, 2
        )
    if stored:
        return stored | unclear
    if unclear and not quiet:
        first = next(iter(unclear))
        what = "and no size tells whether their boxes are those of the upright or of the stored picture"
        warnings.warn(
            f"EXIF turns {len(unclear)} images, such as {first!r}, {what}; upright is assumed",
            AssumptionWarning,
            2,
        )
    return {}


def _listed_as(annotation: Annotation, stored: tuple[int, int], orientation: int) -> str:
    """ "stored" or "upright" where the listed size tells, or where boxes fit one frame only; else ""."""
    upright = stored[::-1]
    if orientation not in SIDEWAYS or stored == upright:
        return ""
    if min(annotation.size) > 0:
        if annotation.size in (stored, upright):
            return "stored" if annotation.size == stored else "upright"
        width, height = annotation.size

        def fits(size: tuple[int, int]) -> bool:  # a copy of another size: its aspect ratio, to a pixel
            return abs(width * size[1] - height * size[0]) <= max(size)

    else:
        right = max((one.box[2] for one in annotation.objects), default=0)
        bottom = max((one.box[3] for one in annotation.objects), default=0)

        def fits(size: tuple[int, int]) -> bool:
            return right <= size[0] + 1 and bottom <= size[1] + 1

    if fits(stored) == fits(upright):
        return ""
    return "stored" if fits(stored) else "upright"
