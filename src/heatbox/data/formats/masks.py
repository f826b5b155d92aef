"""Masks of images whose annotation files have the outlines of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from heatbox.data.files.images import image_size
from heatbox.data.files.trees import Tree
from heatbox.data.formats.frames import turned_mask, turns_of
from heatbox.data.formats.rows import Annotation
from heatbox.data.formats.segments import check_area, segment_mask
from heatbox.data.types import Example
from heatbox.errors import InputError

INVALID = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""What the content of a file may raise where it is of another form."""
_IGNORE = 255


class Segment(NamedTuple):
    """One object of an image.

    Attributes:
        category: name of its class.
        outline: see `heatbox.data.formats.segments.segment_mask`; None for its box.
        box: xyxy in pixels.
        where: file and row, for messages.
        crowd: whether it is a region of many objects, which is ignored.
    """

    category: str
    outline: Any
    box: Any
    where: str
    crowd: bool = False


class SegmentMasks:
    """Example → mask: 1 on its objects, 255 on crowds of its classes without an object, 0 elsewhere."""

    def __init__(
        self,
        images: Tree,
        table: Mapping[str, Annotation],
        segments: Mapping[str, Sequence[Segment]],
        labels: Mapping[str, int],
    ) -> None:
        self.images, self.table, self.segments, self.labels = images, table, segments, labels
        self._turns: dict[str, int] | None = None

    def __call__(self, example: Example) -> np.ndarray:
        """The mask of the classes in the labels of an example."""
        annotation = self.table[example.id]
        if self._turns is None:
            self._turns = turns_of(self.table, self.images, lambda problem: None, quiet=True)
        size = annotation.size if min(annotation.size) > 0 else image_size(self.images, example.id)
        try:
            check_area(size)
            objects, ignored = (np.zeros(size[::-1], dtype=bool) for _ in range(2))
        except ValueError as error:
            raise InputError(f"{annotation.where}: has {error}") from error
        for one in self.segments.get(example.id, ()):
            if example.labels and self.labels[one.category] not in example.labels:
                continue
            try:
                found = _box_mask(one.box, size) if one.outline is None else segment_mask(one.outline, size)
            except INVALID as error:
                raise InputError(f"{one.where}: its segmentation is invalid ({error})") from error
            if one.crowd:
                ignored |= found
            else:
                objects |= found
        result = objects.astype(np.uint8)
        result[ignored & ~objects] = _IGNORE
        return turned_mask(result, self._turns.get(example.id, 1))


def _box_mask(box: Any, size: tuple[int, int]) -> np.ndarray:
    width, height = size
    mask = np.zeros((height, width), dtype=bool)
    x1, y1, x2, y2 = np.clip(np.round(box), 0, [width, height] * 2).astype(int)
    mask[y1:y2, x1:x2] = True
    return mask
