"""A contact sheet of a data set: some of its pictures with their boxes or masks, split and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
from PIL import Image

from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.visualization.overlay import TRUTH_COLOUR, Cell, draw_boxes, draw_mask, paste


def data_sheet(
    splits: Sequence[Split], readable: Mapping[str, Sequence[Example]], count: int, side: int = 160
) -> Image.Image | None:
    """Pictures spread evenly over each split, squashed to squares; None where there are none.

    Args:
        splits: of the data set.
        readable: split name → its examples whose images can be opened.
        count: number of pictures.
        side: pixels of each.
    """
    cells = []
    for split in splits:
        good = readable[split.name]
        share = min(len(good), max(1, count // len(splits)))
        picks = np.unique(np.linspace(0, max(len(good) - 1, 0), share).round().astype(int))
        cells += [_cell(split, good[index], side) for index in picks.tolist()]
    return paste([[cell] for cell in cells], side, "white: ground truth") if cells else None


def _cell(split: Split, example: Example, side: int) -> Cell:
    picture = split.open_image(example).resize((side, side), Image.Resampling.BILINEAR)
    if len(example.boxes):
        picture = draw_boxes(picture, example.boxes * side / np.tile(example.size, 2), TRUTH_COLOUR)
    elif split.open_mask is not None:
        with suppress(InputError):  # which is said among the problems
            picture = draw_mask(picture, split.open_mask(example), TRUTH_COLOUR)
    known = example.label < len(split.class_names)
    label = split.class_names[example.label] if known else f"class {example.label}"
    return Cell(picture, f"{split.name}: {label}")
