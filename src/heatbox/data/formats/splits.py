"""The names that data sets give their splits, in lower case; the likeliest first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

TRAIN = ("train", "train-weaksup", "train_weaksup", "training", "train_set", "training_set")
VALIDATION = ("val", "valid", "validation", "val_set", "validation_set")
TEST = ("test", "test_set", "testing")
HELD_OUT = (*TEST, *VALIDATION, "fullsup")
"""fullsup: the images with boxes for choosing hyperparameters, of "Evaluating WSOL methods right"."""
_ORDER = (*TRAIN, "fullsup", *VALIDATION, *TEST)


def is_split(name: str) -> bool:
    """Whether a folder or file of this name, in any case, holds a split."""
    return name.lower() in _ORDER


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names of splits among some names: to train on, to validate on, to test on."""
    return tuple(sorted(filter(is_split, names), key=lambda name: _ORDER.index(name.lower())))


def first_of(wanted: Sequence[str], splits: Iterable[str]) -> str:
    """The first of the wanted names that is a split, as it is written there; "" if none is."""
    written: dict[str, str] = {}
    for split in splits:
        written.setdefault(split.lower(), split)
    return next((written[name] for name in wanted if name in written), "")
