"""Which images a map localizes: by size, shape, number and place of the objects, and by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heatbox.metrics.bootstrap import bootstrap_interval

SIZES = ((0.1, "below 10%"), (0.3, "10 to 30%"), (0.6, "30 to 60%"), (np.inf, "60% and more"))
"""Upper ends of the area of the largest box as a fraction of the image."""
SHAPES = ((2 / 3, "tall"), (3 / 2, "about square"), (np.inf, "wide"))
"""Upper ends of the width of the largest box by its height, in pixels of the image."""
PLACES = ((1 / 6, "centre"), (1 / 3, "between"), (np.inf, "side"))
"""Upper ends of the larger of the horizontal and the vertical distance of the largest box's centre from
that of the image, as a fraction of the image's side."""

FEWEST = 5
"""Images that a class needs to be among the hardest."""
HARDEST = 10


def image_groups(
    boxes: Sequence[np.ndarray], sizes: Sequence[Sequence[float]]
) -> dict[str, tuple[list[str], np.ndarray]]:
    """The group of each image.

    Args:
        boxes: for each image a (K, 4) xyxy array in pixels of the image, K >= 1.
        sizes: for each image its (width, height).

    Returns:
        "size", "shape", "objects" and "place" → the names of its groups, and (N,) the index of each image's.
    """
    largest = []
    for one in boxes:
        array = np.atleast_2d(np.asarray(one, np.float64))
        largest.append(array[int(np.prod(array[:, 2:] - array[:, :2], axis=1).argmax())])
    box, whole = np.array(largest).reshape(-1, 4), np.asarray(sizes, np.float64).reshape(-1, 2)
    sides = np.maximum(box[:, 2:] - box[:, :2], 1e-9)
    away = np.abs((box[:, :2] + box[:, 2:]) / 2 / whole - 0.5).max(1)
    values = {
        "size": (SIZES, sides.prod(1) / whole.prod(1)),
        "shape": (SHAPES, sides[:, 0] / sides[:, 1]),
        "place": (PLACES, away),
    }
    found = {
        name: (
            [words for _, words in groups],
            np.searchsorted([end for end, _ in groups], value, side="right"),
        )
        for name, (groups, value) in values.items()
    }
    numbers = np.array([len(np.atleast_2d(one)) for one in boxes], np.int64)
    found["objects"] = (["one", "two", "three or more"], np.clip(numbers, 1, 3) - 1)
    return found


def breakdown(
    hits: Mapping[str, np.ndarray],
    boxes: Sequence[np.ndarray],
    sizes: Sequence[Sequence[float]],
    labels: Sequence[int],
    class_names: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """MaxBoxAcc of each group of images, each map at its one best threshold for the split.

    Args:
        hits: map → (N,) booleans, whether its box is correct.
        boxes: for each image a (K, 4) xyxy array in pixels of the image.
        sizes: for each image its (width, height).
        labels: for each image its class.
        class_names: names of the classes, where they are known.

    Returns:
        for each group that has an image: "by" (size, shape, objects, place or class), "group", "images", and
        "scores": map → "value" in percent and its 95% "interval". Of the classes with `FEWEST` images or
        more, the `HARDEST` that the maps localize least on average.
    """
    rows = []
    for by, (names, index) in image_groups(boxes, sizes).items():
        rows += [_row(by, name, index == k, hits) for k, name in enumerate(names) if (index == k).any()]
    classes, index, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    mean = np.bincount(index.reshape(-1), np.mean(list(hits.values()), axis=0)) / counts
    hardest = [k for k in np.argsort(mean, kind="stable") if counts[k] >= FEWEST][:HARDEST]
    names = [class_names[c] if 0 <= c < len(class_names) else str(c) for c in classes.tolist()]
    return rows + [_row("class", names[k], index.reshape(-1) == k, hits) for k in hardest]


def _row(by: str, group: str, chosen: np.ndarray, hits: Mapping[str, np.ndarray]) -> dict[str, Any]:
    scores = {}
    for name, one in hits.items():
        found = bootstrap_interval(one[chosen], 2000)
        scores[name] = {"value": found.estimate, "interval": [found.low, found.high]}
    return {"by": by, "group": group, "images": int(chosen.sum()), "scores": scores}
