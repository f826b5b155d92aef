"""Randomness that depends on what is drawn, not on which process draws it or what was drawn before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import get_worker_info

from heatbox.errors import InputError


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed by a key, for example (seed, epoch, index), all that crops and augmentations are drawn with.

    That is torch's CPU generator, ``numpy.random`` and ``random``: timm and torchvision use all three. The
    same key gives the same draws in any process, so that an interrupted epoch goes on as if it had not been.
    Afterwards the three are as they were before; in a DataLoader's worker, which has no other use for them,
    they are left, which is quicker.

    Args:
        key: whole numbers from 0. Trailing zeros do not count: give what is drawn for a whole batch
            one number more than what is drawn for an image, for example (seed, epoch, batch, 1).

    Raises:
        InputError: a number below 0.
    """
    if min(key, default=0) < 0:
        raise InputError(f"seed {key} has a number below 0")
    words = np.random.SeedSequence(key).generate_state(4).tolist()
    alone = get_worker_info() is not None
    before = None if alone else (torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002
    torch.default_generator.manual_seed(words[0] << 32 | words[1])
    np.random.seed(words[2])  # noqa: NPY002 - the generator that timm draws with
    random.seed(words[3])
    try:
        yield
    finally:
        if before is not None:
            torch.set_rng_state(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            random.setstate(before[2])
