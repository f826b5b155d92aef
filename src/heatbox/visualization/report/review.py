"""The page on which proposed boxes are reviewed, images in the order in which to look at them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from heatbox._utils.progress import Track, silent
from heatbox.boxes.ops import REFERENCE_FRAME, REFERENCE_SIDE, scale_boxes
from heatbox.data.formats.output import box_classes, box_scores
from heatbox.data.types import Example, Split
from heatbox.visualization.report.explorer import heat, jpeg_of
from heatbox.visualization.report.page import render


def review_data(
    split: Split,
    ids: Sequence[str],
    maps: Mapping[str, np.ndarray],
    kept: Collection[str] = (),
    track: Track = silent,
) -> dict[str, Any]:
    """The data that the review's script reads.

    Args:
        split: the images with boxes and confidences.
        ids: the images to show, in order.
        maps: id → (h, w) map to show.
        kept: ids of images whose boxes a person drew.
        track: shows progress.

    Raises:
        InputError: an image that cannot be read.
    """
    wanted = {*ids}
    examples = {example.id: example for example in split if example.id in wanted}
    images = [
        _image(split, examples[name], maps.get(name), name in kept)
        for name in track(ids, "review page", len(ids))
    ]
    return {"frame": REFERENCE_SIDE, "classes": [str(name) for name in split.class_names], "images": images}


def _image(split: Split, example: Example, raw: np.ndarray | None, kept: bool) -> dict[str, Any]:
    framed = scale_boxes(example.boxes, example.size, REFERENCE_FRAME, truncate=False).round(2).tolist()
    return {
        "id": example.id,
        "size": example.size,
        "labels": list(example.labels),
        "kinds": box_classes(example),
        "scores": [1.0 if score is None else round(score, 4) for score in box_scores(example)],
        "pixels": example.boxes.round(1).tolist(),
        "boxes": [] if kept else framed,
        "kept": framed if kept else [],
        "map": None if raw is None else heat(raw),
        "jpeg": jpeg_of(split.open_image(example), example.size),
    }


def review_page(title: str, lead: str, notes: Sequence[str], data: Mapping[str, Any]) -> str:
    """The page as HTML, with everything in it.

    Args:
        title: its heading.
        lead: a sentence below it.
        notes: further sentences.
        data: of `review_data`.

    Raises:
        InputError: the extra `report` is not installed.
    """
    nothing: dict[str, Any] = {"tables": [], "figures": [], "settings": []}
    return render({"title": title, "lead": lead, "notes": notes, "review": data, **nothing})
