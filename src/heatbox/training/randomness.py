"""Randomness that depends on where in the training it is asked for, and on nothing else.

Every random number of a training is drawn from generators that were seeded a moment before with the run's
seed and a place: (epoch, index of the picture) for augmentation, (step, slot) for dropout and mixup, (epoch)
for the order of pictures. So there is no state of generators to be saved or restored, a run goes on from any
step as if it had never stopped, and neither the number of worker processes nor that of devices changes what
is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# First word of a seed: what the numbers are for. Places of different purposes must not share seeds.
ORDER, PICTURE, STEP, MASKS = range(4)


def derived(*words: int) -> int:
    """A seed of 63 bits for a sequence of non-negative numbers; near sequences give unrelated seeds."""
    high, low = np.random.SeedSequence(words).generate_state(2, np.uint64)
    return int(high ^ low) >> 1


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators, those of accelerators included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - timm's augmentation draws from the global generator
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of the CPU for a while, then put back what they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
