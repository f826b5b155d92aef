"""The outline of a mask as one polygon."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cv2
import numpy as np

from heatbox.errors import InputError

TOLERANCE = 1.0
"""Distance in pixels of the mask by which a simplified outline may miss the exact one."""


def mask_outline(mask: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """The outline of the pixels of a mask, along their edges, as one polygon.

    A hole and a further part of the mask are joined to the first part by an edge that is passed twice, to
    and fro, so that it encloses nothing. The outermost points stay: the box around the polygon is that of
    the mask.

    Args:
        mask: (H, W) bool; 8-connected pixels are of one part.
        tolerance: distance in pixels by which a simplified outline may miss the exact one; 0 for that.

    Returns:
        (N, 2) float64 of x, y in pixels of the mask; the last point is joined to the first. By the even-odd
        rule, and for the exact outline by the nonzero rule too, the mask is inside.

    Raises:
        InputError: a mask without a pixel, or of another shape.

    Examples:
        >>> mask = np.zeros((4, 5), bool)
        >>> mask[1:3, 2:5] = True
        >>> mask_outline(mask).tolist()
        [[2.0, 1.0], [2.0, 3.0], [5.0, 3.0], [5.0, 1.0]]
    """
    found = np.asarray(mask)
    if found.ndim != 2 or not found.any():
        raise InputError(f"the mask has shape {found.shape}, expected (H, W) with a pixel inside")
    # Contours run through the centres of pixels. Those of twice the size are even on a left or upper edge and
    # odd on a right or lower one, which tells on which side of them the edge is.
    twice = found.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    rings, _ = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return _joined([_simplified((ring[:, 0] + 1) // 2, tolerance) for ring in rings]).astype(np.float64)


def _simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """A ring (N, 2) int32 with fewer points; the outermost ones stay."""
    ends = sorted({int(find(axis)) for axis in ring.T for find in (np.argmin, np.argmax)})
    ring = np.roll(ring, -ends[0], axis=0)
    stops = [*(end - ends[0] for end in ends), len(ring)]
    closed = np.concatenate([ring, ring[:1]])
    pieces = [
        cv2.approxPolyDP(closed[one : other + 1], tolerance, False)[:-1, 0]
        for one, other in itertools.pairwise(stops)
    ]
    return np.concatenate(pieces)


def _joined(rings: Sequence[np.ndarray]) -> np.ndarray:
    """All rings as one, each joined to those before it where they are nearest to each other."""
    path, *others = rings
    for ring in others:
        distances = ((path[:, None] - ring[None]) ** 2).sum(2)
        here, there = (int(index) for index in np.unravel_index(distances.argmin(), distances.shape))
        ring = np.roll(ring, -there, axis=0)
        path = np.concatenate([path[: here + 1], ring, ring[:1], path[here:]])
    return path
