"""Label Studio's JSON: a list of tasks, each with an image and with annotations or predictions.

A box is a region of type rectanglelabels with x, y, width and height in percent of the image; a label without
a box is of type choices. Written tasks have predictions, which a person accepts or corrects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from heatbox.data.formats.options import WriteOptions
from heatbox.data.formats.output import (
    SCORES,
    Output,
    Writer,
    box_classes,
    box_scores,
    corner_and_size,
    json_text,
    labels_without_boxes,
    xml_text,
)
from heatbox.data.types import Example, Split

TASKS, CONFIG = "tasks.json", "labeling-config.xml"
_CHOICE = "choice"


def label_studio_task(
    example: Example, class_names: Sequence[str], image_path: str, options: WriteOptions
) -> dict[str, Any]:
    """The task of an image, with one prediction (or annotation) of all its boxes.

    The score of the prediction is the mean of those of its boxes.

    Args:
        example: the image; its boxes are in pixels of its size.
        class_names: class index → name.
        image_path: path of the image below the document root or the address in the options.
        options: names of the tags, and the address of images.
    """
    width, height = example.size
    source = {
        "to_name": options.to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
    }
    result: list[dict[str, Any]] = []
    scores = box_scores(example)
    percents = example.boxes / np.tile(np.maximum(example.size, 1), 2) * 100
    for label, box, score in zip(box_classes(example), percents, scores, strict=True):
        x, y, w, h = corner_and_size(box)
        value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0}
        region = {
            "id": f"box{len(result) + 1}",
            "type": "rectanglelabels",
            "from_name": options.from_name,
            **source,
            "value": {**value, "rectanglelabels": [class_names[label]]},
        }
        if score is not None and not options.annotations:
            region["score"] = score
        result.append(region)
    if labels := labels_without_boxes(example):
        choices = {"choices": [class_names[label] for label in labels]}
        result.append({"id": "labels", "type": "choices", "from_name": _CHOICE, **source, "value": choices})
    made: dict[str, Any] = {"result": result}
    if not options.annotations:
        made = {"model_version": options.model_version or "heatbox", **made}
        if known := [score for score in scores if score is not None]:
            made["score"] = sum(known) / len(known)
    return {
        "data": {options.to_name: options.image_url + quote(image_path)},
        "annotations" if options.annotations else "predictions": [made],
    }


def labeling_config(splits: Sequence[Split], options: WriteOptions) -> str:
    """The labeling configuration of a project that shows these tasks."""
    to_name, names = xml_text(options.to_name), splits[0].class_names
    labels = "".join(f'    <Label value="{xml_text(name)}"/>\n' for name in names)
    choices = ""
    if any(labels_without_boxes(example) for split in splits for example in split):
        values = "".join(f'    <Choice value="{xml_text(name)}"/>\n' for name in names)
        choices = f'  <Choices name="{_CHOICE}" toName="{to_name}" choice="multiple">\n{values}  </Choices>\n'
    return (
        f'<View>\n  <Image name="{to_name}" value="${to_name}"/>\n'
        f'  <RectangleLabels name="{xml_text(options.from_name)}" toName="{to_name}">\n{labels}'
        f"  </RectangleLabels>\n{choices}</View>\n"
    )


def _tasks(splits: Sequence[Split], options: WriteOptions, folder: str) -> str:
    """All tasks, one on a line; images are in FOLDER/SPLIT, or where their ids say for no folder."""
    tasks = [
        label_studio_task(
            example,
            split.class_names,
            f"{folder}/{split.name}/{example.id}" if folder else example.id,
            options,
        )
        for split in splits
        for example in split
    ]
    return "[\n" + ",\n".join(map(json_text, tasks)) + "\n]\n"


def _write(splits: Sequence[Split], output: Output, options: WriteOptions) -> None:
    output.write(TASKS, _tasks(splits, options, "" if options.images == "none" else "images"))
    output.write(CONFIG, labeling_config(splits, options))


WRITER = Writer(
    "tasks.json, labeling-config.xml and images/SPLIT, or FILE.json of tasks alone",
    write=_write,
    image_folder=lambda split, options: f"images/{split}",
    files=lambda split, options: {"": _tasks([split], options, "")},
    suffix=".json",
    loses=lambda options: (SCORES,) if options.annotations else (),
    hint="predictions have scores, annotations have none",
)
