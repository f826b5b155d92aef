"""A small split that has everything a writer has to cope with, and its content as plain Python."""

from __future__ import annotations

import numpy as np
from PIL import Image

from heatbox.data import Example, Split
from heatbox.data.files.images import TreeImages
from heatbox.data.files.trees import FolderTree

NAMES = ["cat", 'red & "big" <dog>', "Käfer: 3'5"]
WIDTH, HEIGHT = 40, 30
# id → boxes as (class, x1, y1, x2, y2, score), labels
CONTENT = {
    "one.png": ([(0, 3.0, 4.0, 20.5, 25.25, 0.75)], [0]),
    "two ä & b.jpg": ([(1, 0.0, 0.0, 40.0, 30.0, 0.5), (2, 1.125, 2.0, 10.0, 12.0, 0.25)], [1, 2]),
    "empty.png": ([], []),
    "label only.png": ([], [2]),
    "same class.png": ([(1, 5.0, 5.0, 6.0, 7.0, 1.0), (1, 9.5, 1.0, 30.0, 29.0, 0.0)], [1]),
}


def plain_split(folder, scored=True, nested=False, name="val", content=CONTENT) -> Split:
    """The split of `CONTENT`; nested ids lie in class folders."""
    examples = []
    for number, (file, (boxes, labels)) in enumerate(content.items()):
        key = f"folder {number % 2}/{file}" if nested else file
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
        found = np.array([box[1:5] for box in boxes], dtype=np.float64).reshape(-1, 4)
        examples.append(
            Example(
                key,
                labels[0] if labels else -1,
                (WIDTH, HEIGHT),
                found,
                labels=tuple(labels),
                box_labels=np.array([box[0] for box in boxes], dtype=np.int64),
                box_scores=np.array([box[5] for box in boxes]) if scored else None,
            )
        )
    return Split(name, examples, NAMES, TreeImages(FolderTree(folder)))


def plain(split: Split, scores=True) -> dict:
    """id → boxes as (class name, x1, y1, x2, y2, score or None) rounded to a millionth of a pixel, sorted."""
    found = {}
    for example in split:
        labels = example.box_labels
        labels = [example.label] * len(example.boxes) if labels is None else labels
        has_scores = scores and example.box_scores is not None
        given = example.box_scores if has_scores else [None] * len(example.boxes)
        rows = [
            (str(split.class_names[k]), *np.round(box, 6).tolist(), None if s is None else round(float(s), 6))
            for k, box, s in zip(labels, example.boxes, given, strict=True)
        ]
        found[example.id] = sorted(rows, key=str)
    return found


def expected(scores=True, content=CONTENT) -> dict:
    """`plain` of `plain_split`, from `CONTENT` alone."""
    return {
        name: sorted(
            ((NAMES[k], *map(float, box), score if scores else None) for k, *box, score in boxes), key=str
        )
        for name, (boxes, _) in content.items()
    }
