"""The role of a pixel in the merge tree as a function of its eight neighbours: tables over their mask.

Bit k of a mask is set if neighbour k precedes the pixel in the order of the tree.
"""

from __future__ import annotations

import numpy as np

RING = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
"""(dx, dy) of the neighbours in the order of the bits: E, NE, N, NW, W, SW, S, SE."""

SIDES = 0b01010101
"""The bits of the four neighbours that share a side."""


def _groups(mask: int, connectivity: int) -> list[list[int]]:
    """The neighbours in a mask, grouped by their connections around the pixel."""
    reach = 1 if connectivity == 4 else 2
    groups: list[list[int]] = []
    for k in (k for k in range(8) if mask >> k & 1):
        joined = [g for g in groups if any(_touch(k, other, reach) for other in g)]
        groups = [g for g in groups if g not in joined] + [[k, *(m for g in joined for m in g)]]
    if connectivity == 4:  # a diagonal neighbour connects others but is not itself a neighbour
        groups = [g for g in groups if any(SIDES >> k & 1 for k in g)]
    return groups


def _touch(k: int, other: int, reach: int) -> bool:
    dx, dy = abs(RING[k][0] - RING[other][0]), abs(RING[k][1] - RING[other][1])
    return max(dx, dy) <= 1 and dx + dy <= reach


def _tables(connectivity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each mask: whether it is critical, how many groups it joins, and one neighbour of each group."""
    critical, joins = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    member = np.zeros((256, 4), np.uint8)
    for mask in range(256):
        groups = _groups(mask, connectivity)
        joins[mask] = len(groups)
        critical[mask] = len(groups) > 1
        for i, group in enumerate(groups):
            member[mask, i] = min(group, key=lambda k: (k % 2, k))
        if len(groups) == 1:
            xs, ys = [RING[k][0] for k in groups[0]], [RING[k][1] for k in groups[0]]
            # With neighbours on both sides the component's box already spans this pixel.
            critical[mask] = not (min(xs) <= 0 <= max(xs) and min(ys) <= 0 <= max(ys))
    return critical, joins, member


def _cell_weights() -> np.ndarray:
    """For each mask: the number of 2 x 2 cells in which the pixel is the third or fourth in order."""
    weights = np.zeros(256, np.uint8)
    for mask in range(256):
        for cell in ((0, 1, 2), (2, 3, 4), (4, 5, 6), (6, 7, 0)):
            weights[mask] += sum(mask >> k & 1 for k in cell) >= 2
    return weights


CRITICAL_8, JOINS_8, MEMBER_8 = _tables(8)
CRITICAL_4, JOINS_4, MEMBER_4 = _tables(4)
WEIGHT = _cell_weights()
