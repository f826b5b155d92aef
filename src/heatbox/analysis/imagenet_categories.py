"""The 16 categories of the cue-conflict experiment as classes of ImageNet-1k.

Geirhos et al., ICLR 2019, and their repository (rgeirhos/texture-vs-shape): 207 of the 1000 classes belong to
one of 16 entry-level categories. Indices count from 0 in the order of ILSVRC's WordNet ids.
"""

from __future__ import annotations

_RANGES = {
    "airplane": "404",
    "bear": "294-297",
    "bicycle": "444 671",
    "bird": "8 10-16 18-20 22-24 80-83 87-96 98-100 127-133 135-145",
    "boat": "472 554 625 814 914",
    "bottle": "440 720 737 898-899 901 907",
    "car": "436 511 817",
    "cat": "281-286",
    "chair": "423 559 765 857",
    "clock": "409 530 892",
    "dog": "152-191 193-203 205-226 228-241 243-250 252-257 259 261-263 265-268",
    "elephant": "385-386",
    "keyboard": "508 878",
    "knife": "499",
    "oven": "766",
    "truck": "555 569 656 675 717 734 864 867",
}


def _indices(ranges: str) -> tuple[int, ...]:
    """``"8 10-12"`` → (8, 10, 11, 12)."""
    ends = [[int(end) for end in one.split("-")] for one in ranges.split()]
    return tuple(index for end in ends for index in range(end[0], end[-1] + 1))


CATEGORIES: dict[str, tuple[int, ...]] = {name: _indices(ranges) for name, ranges in _RANGES.items()}
"""Category → indices of its classes, in alphabetical order."""
