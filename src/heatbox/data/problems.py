"""Problems with single images, and what becomes of them: the first ends the reading, or all are counted.

Readers report a problem as one sentence. A sentence about an image also has the image's id and the kind of
problem, so that the image can be left out and counted.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from heatbox.data.types import Example, Split
from heatbox.errors import InputError

EMPTY, NO_BOX, SEVERAL, OUTSIDE, UNREADABLE, MALFORMED = (
    "no object",
    "no box",
    "several classes",
    "box outside the image",
    "unreadable",
    "malformed entry",
)
REASONS = (EMPTY, NO_BOX, SEVERAL, OUTSIDE, UNREADABLE, MALFORMED)
"""Kinds of problems for which an image is left out, as tables and metrics.json call them."""


class BadImage(InputError):
    """A problem of one image, with its kind.

    Args:
        message: one sentence.
        reason: one of `REASONS`.
    """

    def __init__(self, message: object, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Problem(str):
    """One sentence about a problem, with the id of its image ("" for none) and one of `REASONS`."""

    image: str
    reason: str

    def __new__(cls, sentence: str, image: str = "", reason: str = MALFORMED) -> Problem:
        """A sentence with an image and a reason."""
        made = super().__new__(cls, sentence)
        made.image, made.reason = image, reason
        return made


class LeftOut:
    """Images that are left out, and why: a `Report` for `heatbox.open_split`, and a filter of its result.

    Attributes:
        problems: one sentence each, in the order in which they were found.
        reasons: image id → one of `REASONS`, the first that was found for the image.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.reasons: dict[str, str] = {}
        self.rows = 0  # problems that concern no single image

    def __call__(self, problem: str) -> None:
        """Take note of a problem."""
        self.problems.append(str(problem))
        if isinstance(problem, Problem) and problem.image:
            self.reasons.setdefault(problem.image, problem.reason)
        else:
            self.rows += 1

    def unreadable(self, example: Example, error: InputError) -> None:
        """Take note of an image that cannot be read."""
        self(Problem(str(error), example.id, UNREADABLE))

    def __len__(self) -> int:
        return len(self.reasons)

    def filter(self, split: Split, boxes: bool = True, single: bool = False) -> Split:
        """The split without the images of the problems so far, and without those that do not fit the use.

        Args:
            split: the split that was opened with this report.
            boxes: whether each image needs a box.
            single: whether each image needs one class.

        Raises:
            InputError: no image is left.
        """
        kept = []
        for example in split:
            if example.id in self.reasons:
                continue
            if found := unfit(example, split.name, boxes, single):
                self(Problem(str(found), example.id, found.reason))
            else:
                kept.append(example)
        if not kept:
            first = f"; the first problem: {self.problems[0]}" if self.problems else ""
            raise InputError(f"{split.name}: no image is left to use{first}")
        return dataclasses.replace(split, examples=kept)

    def counts(self) -> dict[str, int]:
        """Number of images for each reason that occurs, in the order of `REASONS`."""
        found = Counter(self.reasons.values())
        if self.rows:
            found[MALFORMED] += self.rows
        return {reason: found[reason] for reason in REASONS if found[reason]}

    @classmethod
    def restored(cls, content: Mapping[str, Any]) -> LeftOut:
        """What `as_dict` returned."""
        found = cls()
        found.problems, found.reasons = list(content["problems"]), dict(content["images"])
        found.rows = sum(content["counts"].values()) - len(found.reasons)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Counts and sentences, for JSON."""
        return {"counts": self.counts(), "images": dict(self.reasons), "problems": list(self.problems)}


def unfit(example: Example, where: str, boxes: bool = True, single: bool = False) -> BadImage | None:
    """Why an image cannot be used; None if it can.

    Args:
        example: the image.
        where: name of its split, for the message.
        boxes: whether it needs a box.
        single: whether it needs one class.
    """
    said = f"{where}: image {example.id!r}"
    if (boxes or single) and not example.labels and not len(example.boxes):
        need = "box to be scored against" if boxes else "label"
        return BadImage(f"{said} has no {need}", EMPTY)
    if boxes and not len(example.boxes):
        return BadImage(f"{said} has no box to be scored against", NO_BOX)
    if single and len(example.labels) != 1:
        return BadImage(f"{said} is of {len(example.labels)} classes, expected one", SEVERAL)
    return None


def usable(split: Split, left_out: LeftOut | None, boxes: bool = True, single: bool = False) -> Split:
    """The split without the images that do not fit; `left_out` receives them, None raises the first.

    Raises:
        BadImage: an image that does not fit.
        InputError: no image is left.
    """
    if left_out is None:
        return require_fit(split, boxes, single)
    return left_out.filter(split, boxes, single)


def require_fit(split: Split, boxes: bool = True, single: bool = False) -> Split:
    """The split itself, if `unfit` finds nothing in any of its images.

    Raises:
        InputError: naming the first image that does not fit.
    """
    found: Iterable[BadImage | None] = (unfit(example, split.name, boxes, single) for example in split)
    if problem := next(filter(None, found), None):
        raise problem
    return split
