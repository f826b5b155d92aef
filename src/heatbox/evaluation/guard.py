"""Sentences about scores that are easily misread, and about maps whose values betray a wrong scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

STRIDE = 8
"""Every eighth pixel of every eighth row is looked at before a map is looked at whole."""
FAINT = 0.05
"""A largest value of all maps below this is taken for a wrong scale."""


class MapRanges:
    """What the values of the maps of one source look like, in [0, 1]."""

    def __init__(self) -> None:
        self.maps = self.constant = self.binary = 0
        self.top = 0.0
        self.latest: list[
            tuple[int, float]
        ] = []  # of the last maps: number of values if 1 or 2, and the largest

    def add(self, maps: Sequence[np.ndarray] | np.ndarray) -> None:
        """Look at some maps (H, W)."""
        self.latest = []
        for one in maps:
            values = 0
            part = one[::STRIDE, ::STRIDE]
            low, high = part.min(), part.max()
            if low == high and (one == low).all():
                values = 1
            elif ((part == low) | (part == high)).all():
                low, high = one.min(), one.max()
                values = 2 * bool(((one == low) | (one == high)).all())
            self.latest.append((values, float(one.max())))
        self.restore(self.latest)

    def restore(self, found: Sequence[tuple[int, float]]) -> None:
        """Count maps that have been looked at, as `latest` describes them."""
        for values, top in found:
            self.maps += 1
            self.constant += values == 1
            self.binary += values == 2
            self.top = max(self.top, top)

    def sentences(self, name: str) -> list[str]:
        """What is wrong with the maps of a name, one sentence each."""
        found = []
        if self.constant:
            found.append(
                f"{name}: {self.constant} of {self.maps} maps have the same value everywhere; "
                "their box is the whole image, or one pixel where the value is 0"
            )
        if self.binary:
            found.append(
                f"{name}: {self.binary} of {self.maps} maps have only two values, as if a threshold had been "
                "applied to them; where it was chosen for each image, the scores are those of no method"
            )
        if 0 < self.top < FAINT:
            found.append(
                f"{name}: the largest value of all {self.maps} maps is {self.top:.3g}, as if they had been "
                "scaled to [0, 1] twice; 8-bit levels distinguish few of their values (--resize scales them)"
            )
        return found


def policy_sentences(table: Mapping[str, Any], shared: int = 0) -> list[str]:
    """What the thresholds of a table of scores were chosen on.

    Args:
        table: the content of metrics.json.
        shared: number of images that are in the fully supervised split and among the scored ones.
    """
    entries = [entry for name, entry in table["methods"].items() if name not in table["baselines"]]
    found = []
    if not any({"transferred", "calibrated", "pseudo"} & set(entry) for entry in entries):
        found.append(
            "thresholds are the best ones for the scored images (oracle), chosen with their ground truth; "
            "--fullsup gives scores at thresholds that were chosen on other images, --metrics pseudo_boxes "
            "at thresholds that were chosen without ground truth"
        )
    if shared:
        found.append(
            f"{shared} of the {table['images']} scored images are in the fully supervised split too: the "
            "transferred scores are partly those of the images that chose the thresholds"
        )
    return found
