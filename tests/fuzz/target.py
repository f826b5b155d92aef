"""What is fuzzed: valid inputs, how they are damaged, and the code that is given them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from fuzz.mutate import Case, damaged
from heatbox.data.types import Split
from heatbox.errors import InputError


@dataclass(frozen=True)
class Target:
    """One parser, or what is built on it.

    Attributes:
        name: as the command line calls it.
        build: makes the valid cases, with a folder to work in.
        run: is given a case and an empty folder; whatever it raises but `refusals` is a find.
        share: number of inputs per million.
        damage: makes a case of a valid one, all valid ones, and a generator.
        refusals: what the code under test may raise.
        seconds: of computing that one input may take.
    """

    name: str
    build: Callable[[Path], list[Case]]
    run: Callable[[Case, Path], None]
    share: int
    damage: Callable[[Case, Sequence[Case], Random], Case] = damaged
    refusals: tuple[type[BaseException], ...] = (InputError,)
    seconds: float = 10.0

    def case(self, cases: Sequence[Case], seed: int, number: int) -> tuple[int, Case]:
        """Input `number`: which valid case it comes from, and its files."""
        random = Random(f"{seed} {self.name} {number}")
        base = number % len(cases)
        return base, self.damage(cases[base], cases, random)


def files_of(folder: Path) -> Case:
    """All files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def written(case: Case, folder: Path) -> Path:
    """The files of a case on disk."""
    for name, content in case.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def one_sentence(problem: str) -> None:
    """A message is printable text on one line."""
    assert problem.strip(), "a problem without words"
    assert "\n" not in problem, f"a problem over several lines: {problem!r}"


def sane(split: Split) -> None:
    """What every reader promises of the examples it returns."""
    ids = [example.id for example in split]
    assert len(set(ids)) == len(ids), "an id twice"
    for example in split:
        assert example.label >= 0 or not example.labels
        assert all(0 <= label < split.num_classes for label in example.labels), "a label without class"
        if example.box_labels is not None:
            assert {*example.box_labels.tolist()} <= {*example.labels}, "a box of no class of its image"
        assert example.boxes.shape == (len(example.boxes), 4)
        assert example.boxes.dtype == np.float64
        assert ".." not in example.id.split("/")
        assert not example.id.startswith("/")
        if len(example.boxes):
            assert np.isfinite(example.boxes).all(), "a box that is not finite"
            assert (example.boxes >= 0).all(), "a box that begins before its image"
            assert (example.boxes <= np.tile(example.size, 2)).all(), "a box that ends outside its image"
            assert (example.boxes[:, 2:] >= example.boxes[:, :2]).all(), "a box that ends before it begins"
