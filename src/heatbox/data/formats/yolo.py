"""YOLO's text files: one line ``class cx cy width height`` per box, relative to the size of the image.

Written as Ultralytics reads it: ``data.yaml`` names the splits and the classes, the labels of
``images/SPLIT/NAME.jpg`` are in ``labels/SPLIT/NAME.txt``, and an image without objects has an empty file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heatbox.data.formats.options import WriteOptions
from heatbox.data.formats.output import (
    LABELS,
    SCORES,
    Output,
    Writer,
    box_classes,
    box_scores,
    number_text,
    without_suffix,
)
from heatbox.data.types import Example, Split

_KEYS = {"training": "train", "valid": "val", "validation": "val"}
"""Names of splits → the keys under which Ultralytics looks for them."""


def label_lines(example: Example, confidence: bool = False) -> str:
    """The lines of an image.

    Args:
        example: the image; its boxes are relative to its size.
        confidence: write the score of each box as a sixth column.
    """
    x1, y1, x2, y2 = (example.boxes / np.tile(np.maximum(example.size, 1), 2)).T
    rows = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1).tolist()
    lines = []
    for label, row, score in zip(box_classes(example), rows, box_scores(example), strict=True):
        fields = [*row, score] if confidence and score is not None else row
        lines.append(" ".join([str(label), *map(number_text, fields)]) + "\n")
    return "".join(lines)


def _write(splits: Sequence[Split], output: Output, options: WriteOptions) -> None:
    for split in splits:
        for example in split:
            name = f"labels/{split.name}/{without_suffix(example.id)}.txt"
            output.write(name, label_lines(example, options.confidence))
    output.write("data.yaml", data_yaml(splits))


def data_yaml(splits: Sequence[Split]) -> str:
    """The file that names splits and classes. Ultralytics needs the keys train and val."""
    folders: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for split in splits:
        key = _KEYS.get(split.name.lower(), split.name)
        if len(splits) == 1 and key not in folders:
            key = "train"
        folders.setdefault(key, []).append(f"images/{split.name}")
    lines = ["# Folders are relative to this file; an empty split is one that the data set does not have."]
    for key, found in folders.items():
        value = yaml_text(found[0]) if len(found) == 1 else f"[{', '.join(map(yaml_text, found))}]"
        name = key if key in ("train", "val", "test") else yaml_text(key)
        lines.append(f"{name}: {value if found else ''}")
    lines += ["names:", *(f"  {i}: {yaml_text(name)}" for i, name in enumerate(splits[0].class_names))]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def yaml_text(text: str) -> str:
    """A double-quoted scalar of YAML, in which everything but printable ASCII and letters is escaped."""
    return '"' + "".join(map(_yaml_character, text)) + '"'


def _yaml_character(char: str) -> str:
    code = ord(char)
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


WRITER = Writer(
    "data.yaml, images/SPLIT, labels/SPLIT, as Ultralytics reads them",
    write=_write,
    image_folder=lambda split, options: f"images/{split}",
    is_flat=True,
    by_stem=True,
    loses=lambda options: (LABELS,) if options.confidence else (LABELS, SCORES),
    hint="--confidence writes scores as a sixth column",
)
