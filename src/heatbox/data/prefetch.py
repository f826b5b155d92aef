"""Batches of whole, preprocessed pictures, decoded while the batch before is computed with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image
from torch.utils.data import default_collate

from heatbox.data.types import Example, Split


def preprocessed(
    split: Split, examples: Sequence[Example], preprocess: Callable[[Image.Image], Any], size: int
) -> Iterator[tuple[list[Example], Any]]:
    """Batches in order; pictures are decoded in threads, one batch ahead.

    Args:
        split: opens the pictures.
        examples: those of the split that are wanted.
        preprocess: picture → (3, H, W), or a list of such tensors.
        size: images a batch; the last may be smaller.

    Yields:
        the examples and their (B, 3, H, W) float32, or a list of such batches.

    Raises:
        InputError: naming the picture that cannot be read.
    """

    def load(example: Example) -> Any:
        return preprocess(split.open_image(example))

    with ThreadPoolExecutor(max_workers=4) as pool:
        chunks = [list(examples[start : start + size]) for start in range(0, len(examples), size)]
        coming = [[pool.submit(load, example) for example in chunk] for chunk in chunks[:1]]
        for index, chunk in enumerate(chunks):
            if index + 1 < len(chunks):
                coming.append([pool.submit(load, example) for example in chunks[index + 1]])
            yield chunk, default_collate([future.result() for future in coming.pop(0)])
