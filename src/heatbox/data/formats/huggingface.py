"""Folders of the datasets library (imagefolder): ``SPLIT/metadata.jsonl`` beside the images that it names.

A line is ``{"file_name", "width", "height", "labels", "objects": {"bbox", "categories", "score"}}``; bbox is
[x, y, width, height] in pixels, categories and labels are names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heatbox.data.formats.options import WriteOptions
from heatbox.data.formats.output import Output, Writer, box_classes, box_scores, corner_and_size, json_text
from heatbox.data.types import Example, Split


def metadata_row(example: Example, class_names: Sequence[str]) -> dict[str, Any]:
    """The row of an image; score is there if any box has one."""
    objects: dict[str, Any] = {
        "bbox": [corner_and_size(box) for box in example.boxes],
        "categories": [class_names[label] for label in box_classes(example)],
    }
    if example.box_scores is not None:
        objects["score"] = box_scores(example)
    width, height = example.size
    labels = [class_names[label] for label in example.labels]
    return {"file_name": example.id, "width": width, "height": height, "labels": labels, "objects": objects}


def _write(splits: Sequence[Split], output: Output, options: WriteOptions) -> None:
    for split in splits:
        rows = (json_text(metadata_row(example, split.class_names)) for example in split)
        output.write(f"{split.name}/metadata.jsonl", "".join(f"{row}\n" for row in rows))


WRITER = Writer(
    "SPLIT/metadata.jsonl beside the images",
    write=_write,
    image_folder=lambda split, options: split,
)
