"""Example and Split: an image with its label and boxes, and an ordered collection of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from heatbox.errors import InputError


@dataclass(frozen=True, slots=True)
class Example:
    """One image, its label and its ground truth.

    Attributes:
        id: unique in its split; also the relative path of the image, with forward slashes.
        label: class index.
        size: (width, height) of the frame of `boxes`, in pixels. The stored image may have another size;
            boxes scale by this one, never by that of the file. (0, 0) if there are no boxes and the data set
            lists no size: it is not needed then, and reading it would open every image.
        boxes: (K, 4) float64, xyxy, in pixels of `size`.
    """

    id: str
    label: int
    size: tuple[int, int]
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))


@dataclass(frozen=True)
class Split:
    """Examples in order, the names of their classes, and functions that open images and masks.

    Attributes:
        name: for example "test"; used in messages and file names.
        examples: the examples, ids unique.
        class_names: class index → name; empty if the data set has none.
        open_image: example → RGB image. Raises `InputError` naming the file.
        open_mask: example → (height, width) uint8 mask, 1 on the object, 0 off it, 255 to ignore; None if
            the data set has no masks.
    """

    name: str
    examples: Sequence[Example]
    class_names: Sequence[str]
    open_image: Callable[[Example], Image.Image]
    open_mask: Callable[[Example], np.ndarray] | None = None

    def __post_init__(self) -> None:
        """Refuse names that are not text, which no written file could contain.

        Raises:
            InputError: naming the image or the class.
        """
        for what, names in (("image id", (e.id for e in self.examples)), ("class name", self.class_names)):
            for name in names:
                try:  # file names may be any bytes, names in JSON lone surrogates
                    str(name).encode()
                except UnicodeEncodeError as error:
                    raise InputError(
                        f"{self.name}: the {what} {name!r} is not UTF-8 text; rename it"
                    ) from error

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    @property
    def num_classes(self) -> int:
        """The largest label plus one, or the number of class names if that is larger."""
        return max(max((e.label for e in self.examples), default=-1) + 1, len(self.class_names))

    def with_boxes(self) -> Split:
        """The split itself, if every image has a ground-truth box.

        Raises:
            InputError: naming the first image without a box.
        """
        if empty := [example.id for example in self.examples if not len(example.boxes)]:
            raise InputError(f"{self.name}: image {empty[0]!r} has no box to be scored against")
        return self

    @property
    def has_only_masks(self) -> bool:
        """Whether the ground truth consists of masks: no image has a box."""
        return self.open_mask is not None and not any(len(example.boxes) for example in self)

    def with_truth(self) -> Split:
        """The split itself, if every image has a ground-truth box, or if it has masks and no boxes.

        Raises:
            InputError: as for `with_boxes`.
        """
        return self if self.has_only_masks else self.with_boxes()

    def take(self, limit: int | None) -> Split:
        """The first `limit` examples, all for None."""
        return dataclasses.replace(self, examples=self.examples[:limit])
