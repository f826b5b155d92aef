"""One pass over a data set that can be interrupted: pictures in batches, records saved as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from heatbox._utils.progress import Track, silent
from heatbox.data.loader import preprocessed
from heatbox.data.types import Example, Split
from heatbox.evaluation.run import Record, Run

RECORDS_A_PART = 256


def collect(
    split: Split,
    preprocess: Callable[[Image.Image], Any],
    batch_size: int,
    run: Run,
    records: Callable[[Sequence[Example], Any], list[Record]],
    what: str,
    track: Track = silent,
) -> None:
    """Append a record for every image of the split that the run does not hold yet.

    Args:
        split: the images.
        preprocess: from picture to input, or to a list of inputs.
        batch_size: images a call of `records`.
        run: where to save; every few hundred images, and what there is when something goes wrong.
        records: (examples, (B, 3, H, W) images, or a list of them) → a record for each, with its id under
            "id".
        what: shown beside the progress.
        track: how to show progress.

    Raises:
        InputError: a picture that cannot be read; the records before it are saved.
    """
    done = run.done()
    todo = [example for example in split if example.id not in done]
    waiting: list[Record] = []
    try:
        coming = preprocessed(split, todo, preprocess, batch_size)
        for examples, images in track(coming, what, -(-len(todo) // batch_size)):
            waiting += records(examples, images)
            if len(waiting) >= RECORDS_A_PART:
                run.append(waiting)
                waiting = []
    finally:  # a bad image or an interruption must not lose what is already computed
        run.append(waiting)
