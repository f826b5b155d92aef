"""A stratified part of the images that is kept out of a training, to measure on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from heatbox.data.types import Example
from heatbox.errors import InputError


def held_out_part(
    examples: Sequence[Example], num_classes: int, fraction: float = 0.2, seed: int = 0
) -> np.ndarray:
    """Choose the images that are held out: about the same fraction of every class.

    A class of n images has ``fraction * n`` held out, rounded, but at least one if n is 2 or more, and at
    most n - 1: a class of one image is trained on and cannot be measured. Images of several classes are
    assigned class by class, the rarest first, after Sechidis et al., "On the stratification of multi-label
    data", 2011. Which images of a class are chosen depends on the seed and their ids alone, not on their
    order.

    Args:
        examples: the images, with their labels.
        num_classes: number of classes.
        fraction: of each class, in [0, 1); 0 holds out nothing.
        seed: of the choice.

    Returns:
        (N,) bool, True for the images that are held out.

    Raises:
        InputError: a fraction outside [0, 1).

    Examples:
        >>> images = [Example(f"{number}.jpg", number % 2, (0, 0)) for number in range(10)]
        >>> int(held_out_part(images, 2, 0.2).sum())
        2
    """
    if not 0 <= fraction < 1:
        raise InputError(f"the held-out fraction is {fraction}, expected one in [0, 1)")
    members: list[list[int]] = [[] for _ in range(num_classes)]
    for index in sorted(range(len(examples)), key=lambda index: _draw(seed, examples[index].id)):
        for label in examples[index].labels:
            members[label].append(index)
    chosen = np.zeros(len(examples), dtype=bool)
    assigned = np.zeros(len(examples), dtype=bool)
    held = np.zeros(num_classes, dtype=np.int64)
    total = np.array([len(group) for group in members])
    for label in np.argsort(total, kind="stable"):
        wanted = _number(int(total[label]), fraction)
        for index in members[label]:
            if assigned[index]:
                continue
            labels = list(examples[index].labels)
            if held[label] < wanted and (held[labels] + 1 < total[labels]).all():
                chosen[index] = True
                held[labels] += 1
            assigned[index] = True
    return chosen


def _draw(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()


def _number(total: int, fraction: float) -> int:
    return 0 if total < 2 or not fraction else min(max(int(fraction * total + 0.5), 1), total - 1)
