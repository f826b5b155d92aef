"""Example and Split: one image with its label and boxes, and an ordered collection of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from heatbox.errors import InputError


def no_boxes() -> np.ndarray:
    """An empty (0, 4) float64 array: an image without ground-truth boxes."""
    return np.zeros((0, 4))


@dataclass(frozen=True, slots=True)
class Example:
    """One image, its label and its ground truth.

    Attributes:
        id: unique name inside its split; also the relative path of the image, with forward slashes.
        label: class index.
        size: (width, height) in pixels of the frame in which `boxes` are given. The stored image may be
            of another size; boxes scale by this one, never by the file's. (0, 0) where there are no boxes
            and the data set tells no size: nothing needs it then, and reading it would open every image.
        boxes: (K, 4) float64, xyxy, in pixels of `size`.
    """

    id: str
    label: int
    size: tuple[int, int]
    boxes: np.ndarray = field(default_factory=no_boxes)


@dataclass(frozen=True)
class Split:
    """Examples in order, the names of their classes, and the way to open an image.

    Attributes:
        name: for example "test"; used in messages and file names.
        examples: the examples, ids unique.
        class_names: class index → name; may be empty where the data set gives none.
        open_image: example → RGB image. Raises `InputError` naming the file.
        open_mask: example → (height, width) uint8 mask, 1 on the object, 0 off it, 255 to be ignored;
            None where the data set has no masks.
    """

    name: str
    examples: Sequence[Example]
    class_names: Sequence[str]
    open_image: Callable[[Example], Image.Image]
    open_mask: Callable[[Example], np.ndarray] | None = None

    def __post_init__(self) -> None:
        """Refuse names that are no text, which nothing that is written could hold.

        Raises:
            InputError: naming the image or the class.
        """
        for what, names in (("image id", (e.id for e in self.examples)), ("class name", self.class_names)):
            for name in names:
                if not _is_text(str(name)):
                    raise InputError(f"{self.name}: the {what} {name!r} is not UTF-8 text; rename it")

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    @property
    def num_classes(self) -> int:
        """One more than the largest label, or the number of class names where there are more."""
        return max(max((e.label for e in self.examples), default=-1) + 1, len(self.class_names))

    def with_boxes(self) -> Split:
        """The split itself, where every image has a box to be scored against.

        Raises:
            InputError: naming the first image that has none.
        """
        if empty := [example.id for example in self.examples if not len(example.boxes)]:
            raise InputError(f"{self.name}: image {empty[0]!r} has no box to be scored against")
        return self

    @property
    def has_only_masks(self) -> bool:
        """Whether masks are all there is to score against: no image has a box."""
        return self.open_mask is not None and not any(len(example.boxes) for example in self)

    def with_truth(self) -> Split:
        """The split itself, where every image has a box to be scored against, or masks take the boxes' place.

        Raises:
            InputError: as `with_boxes`.
        """
        return self if self.has_only_masks else self.with_boxes()

    def take(self, limit: int | None) -> Split:
        """The first `limit` examples (all of them for None)."""
        return dataclasses.replace(self, examples=self.examples[:limit])


def _is_text(name: str) -> bool:
    """Whether a name is Unicode; names of files may be any bytes, those of JSON half a character."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
