"""Example and Split: an image with its label and boxes, and an ordered collection of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import overload

import numpy as np
from PIL import Image

from heatbox.errors import InputError

NO_BOXES = np.zeros((0, 4))
"""The boxes of an image that has none: one array for all, of which there can be millions."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image, its labels and its ground truth.

    Attributes:
        id: unique in its split; also the relative path of the image, with forward slashes.
        label: class index; the one that counts where one class per image is needed. -1 if none is known.
        size: (width, height) of the frame of `boxes`, in pixels. The stored image may have another size;
            boxes scale by this one, never by that of the file. (0, 0) if there are no boxes and the data set
            lists no size: it is not needed then, and reading it would open every image.
        boxes: (K, 4) float64, xyxy, in pixels of `size`.
        labels: all classes of the image, sorted, `label` among them; empty if none is known, or if the image
            has no object. By default the one in `label`.
        box_labels: (K,) int64, class index of each box; None if all boxes are of the class in `label`.
        box_scores: (K,) float64, confidence of each box in [0, 1]; None for ground truth, which has none.
        box_flags: for each box the words of `BOX_FLAGS` that its file has for it; None if there are none.
        image: id of the image, where the example is one class of it (`Split.by_class`); otherwise "".
        outlines: for each box the outline of its object, a polygon (N, 2) float64 of x, y in pixels of `size`
            that is filled by the even-odd rule, or None; None if there are none.

    Raises:
        ValueError: `label` is not among `labels`, or a field with one entry per box has another length.
    """

    id: str
    label: int
    size: tuple[int, int]
    boxes: np.ndarray = field(default_factory=lambda: NO_BOXES)
    labels: tuple[int, ...] = None  # type: ignore[assignment]  # replaced by that of `label`
    box_labels: np.ndarray | None = None
    box_scores: np.ndarray | None = None
    box_flags: tuple[tuple[str, ...], ...] | None = None
    image: str = ""
    outlines: tuple[np.ndarray | None, ...] | None = None

    def __post_init__(self) -> None:
        """Complete `labels`, and refuse fields that contradict each other."""
        labels: tuple[int, ...] | None = self.labels
        if labels is None:
            object.__setattr__(self, "labels", _only(self.label))
        elif len(labels) > 1:
            object.__setattr__(self, "labels", tuple(sorted({*labels})))
        if self.label not in self.labels if self.labels else self.label >= 0:
            raise ValueError(f"{self.id}: label {self.label} is not among the labels {self.labels}")
        for name in ("box_labels", "box_scores", "box_flags", "outlines"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.boxes):
                raise ValueError(f"{self.id}: {name} has {len(given)} entries, boxes has {len(self.boxes)}")

    @property
    def file(self) -> str:
        """The id of the image, also where the example is one class of it."""
        return self.image or self.id

    def is_of(self, label: int) -> np.ndarray:
        """(K,) bool: the boxes that are of a class."""
        if self.box_labels is None:
            return np.full(len(self.boxes), label == self.label)
        return self.box_labels == label


def _of_classes(file: str, group: Sequence[Example]) -> Example:
    """The example of an image of all the classes of some examples."""
    first = group[0]
    if len(group) == 1:
        return dataclasses.replace(first, id=file, image="")
    scores = [one.box_scores for one in group if one.box_scores is not None]
    flags = [flag for one in group for flag in one.box_flags or ((),) * len(one.boxes)]
    outlines = [outline for one in group for outline in one.outlines or (None,) * len(one.boxes)]
    return Example(
        file,
        first.label,
        first.size,
        np.concatenate([one.boxes for one in group]),
        tuple(label for one in group for label in one.labels),
        np.concatenate([np.full(len(one.boxes), one.label, np.int64) for one in group]),
        np.concatenate(scores) if len(scores) == len(group) else None,
        tuple(flags) if any(flags) else None,
        outlines=tuple(outlines) if any(outline is not None for outline in outlines) else None,
    )


def _of_image(example: Example) -> Example:
    """An example of one class of an image, under the id of the image."""
    return dataclasses.replace(example, id=example.file)


def _of_class(example: Example, label: int, name: str) -> Example:
    """The example of one class of an image, with its boxes."""
    kept = example.is_of(label)
    scores, flags, outlines = example.box_scores, example.box_flags, example.outlines
    return Example(
        name,
        label,
        example.size,
        example.boxes[kept],
        box_scores=None if scores is None else scores[kept],
        box_flags=None if flags is None else tuple(itertools.compress(flags, kept)),
        image=example.id,
        outlines=None if outlines is None else tuple(itertools.compress(outlines, kept)),
    )


BOX_FLAGS = ("difficult", "occluded", "truncated")
"""What an annotation file may say of a box."""


@cache
def _only(label: int) -> tuple[int, ...]:
    """The labels of an image of one class; one tuple for all its images, of which there can be millions."""
    return (label,) if label >= 0 else ()


class Examples(Sequence[Example]):
    """Examples that are made each time they are read, from what takes less memory than all of them.

    Args:
        count: their number.
        make: place → example; its ids are valid names, see `Split`.
    """

    def __init__(self, count: int, make: Callable[[int], Example]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Example]:
        return map(self._make, range(self._count))

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> Examples: ...
    def __getitem__(self, place: int | slice) -> Example | Examples:
        places = range(self._count)[place]
        if isinstance(places, int):
            return self._make(places)
        return Examples(len(places), lambda index: self._make(places[index]))


def changed(examples: Sequence[Example], change: Callable[[Example], Example]) -> Sequence[Example]:
    """Examples with a change: a list of a list, and made when they are read of those that are."""
    if isinstance(examples, Examples):
        return Examples(len(examples), lambda place: change(examples[place]))
    return [change(example) for example in examples]


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
        class_ids: class index → WordNet id, where the names are words; empty otherwise.
    """

    name: str
    examples: Sequence[Example]
    class_names: Sequence[str]
    open_image: Callable[[Example], Image.Image]
    open_mask: Callable[[Example], np.ndarray] | None = None
    class_ids: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse names that are not text, which no written file could contain.

        Raises:
            InputError: naming the image or the class.
        """
        ids = () if isinstance(self.examples, Examples) else (example.id for example in self.examples)
        for what, names in (("image id", ids), ("class name", self.class_names)):
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
        largest = max((e.labels[-1] for e in self.examples if e.labels), default=-1)
        return max(largest + 1, len(self.class_names))

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

    def by_class(self) -> Split:
        """One example for each pair of an image and a class of it, with the boxes of that class.

        Examples of one class, or of none, stay as they are. The id of a pair is that of the image, "#" and
        the class index.

        Returns:
            the split itself if no image is of several classes.
        """
        if all(len(example.labels) <= 1 for example in self.examples):
            return self
        known = {example.id for example in self.examples}
        pairs: list[Example] = []
        for example in self.examples:
            if len(example.labels) <= 1:
                pairs.append(example)
                continue
            for label in example.labels:
                name = f"{example.id}#{label}"
                while name in known:
                    name += "#"
                known.add(name)
                pairs.append(_of_class(example, label, name))

        def opened(example: Example) -> Image.Image:
            return self.open_image(_of_image(example))

        def masked(example: Example) -> np.ndarray:
            assert self.open_mask is not None
            return self.open_mask(_of_image(example))

        open_image = self.open_image if getattr(self.open_image, "opens_by_file", False) else opened
        open_mask = None if self.open_mask is None else masked
        return dataclasses.replace(self, examples=pairs, open_image=open_image, open_mask=open_mask)

    def by_image(self) -> Split:
        """The inverse of `by_class`: one example for each image, of all the classes of its examples."""
        if not any(example.image for example in self.examples):
            return self
        groups: dict[str, list[Example]] = {}
        for example in self.examples:
            groups.setdefault(example.file, []).append(example)
        return dataclasses.replace(
            self, examples=[_of_classes(file, group) for file, group in groups.items()]
        )

    def take(self, limit: int | None) -> Split:
        """The first `limit` examples, all for None."""
        return dataclasses.replace(self, examples=self.examples[:limit])
