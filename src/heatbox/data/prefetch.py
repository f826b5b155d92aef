"""Batches of whole, preprocessed pictures, decoded while the batch before is computed with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from heatbox.data.example import Example, Split
from heatbox.data.transforms import Preprocess


def preprocessed(
    split: Split, examples: Sequence[Example], preprocess: Preprocess, size: int
) -> Iterator[tuple[list[Example], Tensor]]:
    """Batches in order; pictures are decoded in threads, one batch ahead.

    Args:
        split: opens the pictures.
        examples: those of the split that are wanted.
        preprocess: picture → (3, H, W).
        size: images a batch; the last may be smaller.

    Yields:
        the examples and their (B, 3, H, W) float32.

    Raises:
        InputError: naming the picture that cannot be read.
    """

    def load(example: Example) -> Tensor:
        return preprocess(split.open_image(example))

    with ThreadPoolExecutor(max_workers=4) as pool:
        chunks = [list(examples[start : start + size]) for start in range(0, len(examples), size)]
        coming = [[pool.submit(load, example) for example in chunk] for chunk in chunks[:1]]
        for index, chunk in enumerate(chunks):
            if index + 1 < len(chunks):
                coming.append([pool.submit(load, example) for example in chunks[index + 1]])
            yield chunk, torch.stack([future.result() for future in coming.pop(0)])
