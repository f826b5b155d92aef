"""Outlines of objects as masks: polygons, and the run lengths of COCO's API.

After COCO's "Data format" (cocodataset.org): polygons are lists [x1, y1, x2, y2, ...] in pixels; run lengths
go down the columns, begin with background, and are a list or a compressed string.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

MAX_CROSSINGS = 2**27
"""Rows that the edges of a polygon may cross in all."""
_BELOW_ZERO, _MORE, _SIGN, _BITS = 48, 32, 16, 5  # of compressed run lengths


def check_area(size: tuple[int, int]) -> None:
    """Refuse a mask that is larger than any image that is opened.

    Args:
        size: (width, height).

    Raises:
        ValueError: the mask is too large, or has no pixels.
    """
    width, height = size
    if min(size) < 1 or width * height > 2 * (Image.MAX_IMAGE_PIXELS or 2**27):
        raise ValueError(f"a mask of {width} x {height} pixels")


def polygon_mask(points: Sequence[float] | np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool of a polygon: the pixels whose centre is inside, by the even-odd rule.

    Args:
        points: x1, y1, x2, y2, ... in pixels from the upper left corner.
        size: (width, height) of the mask.

    Raises:
        ValueError: fewer than three points, an odd number of coordinates, or one that is not finite.
    """
    check_area(size)
    width, height = size
    corners = np.asarray(points, dtype=np.float64)
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
        raise ValueError("a polygon needs three or more finite points x, y")
    corners = np.clip(corners.reshape(-1, 2), -1e7, 1e7)
    following = np.roll(corners, -1, axis=0)
    # Each edge crosses the rows whose centre lies between its ends; a crossing changes inside to outside.
    high, low = np.sort([corners[:, 1], following[:, 1]], axis=0)
    first = np.clip(np.ceil(high - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(low - 0.5), 0, height).astype(np.int64)
    count = last - first
    if (total := int(count.sum())) > MAX_CROSSINGS:
        raise ValueError("a polygon with too many corners")
    edge = np.repeat(np.arange(len(corners)), count)
    row = np.arange(total) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    (x1, y1), (x2, y2) = corners[edge].T, following[edge].T
    x = x1 + (row + 0.5 - y1) * (x2 - x1) / (y2 - y1)
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1))
    return np.cumsum(crossings.reshape(height, width + 1)[:, :width], axis=1) % 2 == 1


def rle_counts(counts: str | bytes) -> np.ndarray:
    """Run lengths of a compressed string: five bits a character, each third and later one as a difference.

    Raises:
        ValueError: it is no such string.
    """
    data = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else counts, np.uint8)
    values = data.astype(np.int64) - _BELOW_ZERO
    if len(values) and (values.min() < 0 or values.max() > 63 or values[-1] & _MORE):
        raise ValueError("run lengths that are not a compressed string")
    found: list[int] = []
    value = shift = 0
    for character in values.tolist():
        value |= (character & 31) << shift
        shift += _BITS
        if shift > 40:
            raise ValueError("a run length that is too large")
        if not character & _MORE:
            if character & _SIGN:
                value -= 1 << shift
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value = shift = 0
    return np.array(found, dtype=np.int64)


def rle_mask(entry: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool of run lengths: {"size": [height, width], "counts": list or compressed string}.

    Args:
        entry: the run lengths.
        size: (width, height) that the image has.

    Raises:
        ValueError: run lengths that do not fill the size, or another size.
    """
    check_area(size)
    height, width = (int(side) for side in entry["size"])
    if (width, height) != tuple(size):
        raise ValueError(f"run lengths of {width} x {height} pixels for an image of {size[0]} x {size[1]}")
    counts = entry["counts"]
    runs = rle_counts(counts) if isinstance(counts, str | bytes) else np.asarray(counts, dtype=np.float64)
    if runs.ndim != 1 or (len(runs) and not ((runs >= 0) & (runs <= width * height)).all()):
        raise ValueError("run lengths that are negative, or longer than the mask")
    lengths = runs.astype(np.int64)
    if lengths.sum() != width * height or (lengths != runs).any():
        raise ValueError(f"run lengths that sum to {int(lengths.sum())}, not to {width * height} pixels")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def outline_mask(outline: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool of a polygon (N, 2); the pixel in its middle if it contains no centre of one.

    Args:
        outline: x, y in pixels.
        size: (width, height).
    """
    mask = polygon_mask(outline.ravel(), size)
    if not mask.any():
        middle = (outline.min(0) + outline.max(0)) / 2
        column, row = np.clip(middle.astype(np.int64), 0, np.array(size) - 1)
        mask[row, column] = True
    return mask


def run_lengths(values: np.ndarray) -> list[int]:
    """Lengths of the runs of equal values (N,) bool; the first is of False, and may be 0."""
    ends = np.flatnonzero(np.diff(values)) + 1
    lengths = np.diff([0, *ends, len(values)]).tolist()
    return [0, *lengths] if len(values) and values[0] else lengths


def mask_rle(mask: np.ndarray) -> dict[str, Any]:
    """The run lengths of a mask (height, width) bool as a compressed string; the inverse of `rle_mask`."""
    return {"size": list(mask.shape), "counts": rle_string(run_lengths(mask.T.ravel()))}


def rle_string(counts: Sequence[int]) -> str:
    """Run lengths as a compressed string; the inverse of `rle_counts`."""
    found = bytearray()
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits = value & (_MORE - 1)
            value >>= _BITS
            more = value != (-1 if bits & _SIGN else 0)  # until the sign of the rest is that of the last bit
            found.append(bits + (_MORE if more else 0) + _BELOW_ZERO)
    return found.decode()


def segment_mask(segment: Any, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool of an outline: polygons, joined, run lengths, or a function of the size.

    Raises:
        ValueError, LookupError, TypeError: it is neither.
    """
    if isinstance(segment, Mapping):
        return rle_mask(segment, size)
    check_area(size)
    if callable(segment):
        return segment(size)
    found = np.zeros(size[::-1], dtype=bool)
    for points in segment:
        found |= polygon_mask(points, size)
    return found


def polygon_area(points: np.ndarray) -> float:
    """The area inside a polygon (N, 2) that does not cross itself."""
    (x, y), (x2, y2) = points.T, np.roll(points, -1, axis=0).T
    return float(abs((x * y2 - x2 * y).sum()) / 2)


def segment_box(segment: Any, size: tuple[int, int]) -> list[float]:
    """The xyxy box around a value of "segmentation".

    Raises:
        ValueError, LookupError, TypeError: it is neither polygons nor run lengths, or has no pixel.
    """
    if isinstance(segment, Mapping):
        return mask_box(rle_mask(segment, size))
    points = np.concatenate([np.asarray(points, dtype=np.float64) for points in segment]).reshape(-1, 2)
    return [*points.min(0).tolist(), *points.max(0).tolist()]


def mask_box(mask: np.ndarray) -> list[float]:
    """The half-open xyxy box around the pixels of a mask.

    Raises:
        ValueError: the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ValueError("an empty mask")
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
