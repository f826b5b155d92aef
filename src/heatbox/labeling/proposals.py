"""The proposed boxes of many images, in arrays: some 50 bytes a box, where examples take a kilobyte each."""

from __future__ import annotations

import dataclasses
import itertools
from array import array
from collections.abc import Callable, Iterable

import numpy as np

from heatbox.boxes.ops import REFERENCE_SIDE
from heatbox.data.types import Example, Examples, Split


def with_proposals(split: Split, found: Iterable[Example]) -> Split:
    """The split with the boxes that were found, in its own order; images of no class have none and stay.

    Args:
        split: the images.
        found: some of them with boxes and confidences, in any order; corners of outlines are corners of
            pixels of the 224 x 224 map. An image of some class that is not among them is left out.
    """
    places = {example.id: place for place, example in enumerate(split)}
    # The first box of each image and the one after its last; -1 where they are not there.
    starts = array("q", [-1 if example.labels else 0 for example in split])
    stops = array("q", starts)
    boxes, labels, scores = array("d"), array("q"), array("d")
    corners, ends = array("B"), array("q", [0])  # of outlines, and where that of each box ends
    outlined = False
    for example in found:
        place = places[example.id]
        starts[place], stops[place] = len(labels), len(labels) + len(example.boxes)
        boxes.frombytes(example.boxes.astype(np.float64).tobytes())
        labels.frombytes(np.asarray(example.box_labels, np.int64).tobytes())
        scores.frombytes(np.asarray(example.box_scores, np.float64).tobytes())
        if example.outlines is not None:
            outlined = True
            for outline in example.outlines:
                on_map = np.rint(np.asarray(outline) * (REFERENCE_SIDE / np.array(example.size)))
                corners.frombytes(on_map.astype(np.uint8).tobytes())
                ends.append(len(corners))
    places.clear()
    kept = array("q", [place for place, start in enumerate(starts) if start >= 0])
    box_table = np.frombuffer(boxes).reshape(-1, 4)
    label_table, score_table = np.frombuffer(labels, np.int64), np.frombuffer(scores)
    corner_table = np.frombuffer(corners, np.uint8)

    def boxed(number: int) -> Example:
        place = kept[number]
        start, stop = starts[place], stops[place]
        example = split.examples[place]
        return Example(
            example.id,
            example.label,
            example.size,
            box_table[start:stop],
            example.labels,
            label_table[start:stop],
            score_table[start:stop],
            image=example.image,
            outlines=outlines(example, start, stop) if outlined else None,
        )

    def outlines(example: Example, start: int, stop: int) -> tuple[np.ndarray, ...]:
        scale = np.array(example.size) / REFERENCE_SIDE
        edges = itertools.pairwise(ends[start : stop + 1])
        return tuple(corner_table[one:other].reshape(-1, 2) * scale for one, other in edges)

    return dataclasses.replace(split, examples=Examples(len(kept), boxed))


def ids_by(split: Split, rank: Callable[[Example], float]) -> list[str]:
    """The ids of images, those of the lowest rank first; of equal ones in the order of the split."""
    ranks = np.fromiter(map(rank, split), np.float64, len(split))
    ids = [example.id for example in split]
    return [ids[place] for place in np.argsort(ranks, kind="stable")]
