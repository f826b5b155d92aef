"""Boxes and overlays for pictures of one's own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heatbox.config import LocateConfig
from heatbox.data.files.images import decode_image
from heatbox.errors import InputError
from heatbox.inference.localizer import Localizer, Prediction
from heatbox.maps.registry import with_seed
from heatbox.visualization.overlay import FOUND_COLOUR, draw_boxes, overlay, save_png

Line = dict[str, Any]


def locate_files(
    photos: Sequence[Path], config: LocateConfig, out: Path | None = None
) -> Iterator[Line | InputError]:
    """Localize the object of each picture file.

    Args:
        photos: picture files.
        config: the model, the map and the threshold; see also `heatbox.create_model` and `heatbox.Localizer`.
        out: folder for overlays; None draws none.

    Yields:
        for each picture a dictionary that JSON can hold, or the error that says why it was passed over.

    Raises:
        InputError: nothing could be done at all: no picture named, an unknown model or method, a class
            that the model does not have, an overlay that cannot be written.
    """
    if not photos:
        raise InputError("no picture was named, expected one or more picture files")
    network = config.build()
    method, target = with_seed(config.method, config.walk_seed), config.target
    localizer = Localizer(
        network,
        method,
        config.threshold,
        config.contours,
        preprocess=config.preprocess(network),
        protocol=config.protocol,
    )
    if target is not None and not 0 <= target < localizer.view.num_classes:
        last = localizer.view.num_classes - 1
        raise InputError(f"class {target} is out of range: the model has classes 0 to {last}")
    names = config.class_names(network, localizer.view.num_classes)
    settings = {"model": config.model, "method": method, "threshold": config.threshold}
    used: set[str] = set()
    pictures = {photo.resolve() for photo in photos}
    for photo in photos:
        try:
            image = decode_image(photo, str(photo))
        except InputError as error:
            yield error
            continue
        found = localizer([image], None if target is None else [target])
        line = {
            "file": str(photo),
            "width": image.width,
            "height": image.height,
            **_answer(found, names),
            **settings,
        }
        if out is not None:
            heat = draw_boxes(overlay(image, found.heatmaps[0]), found.boxes[0], FOUND_COLOUR)
            path = _free_name(out, photo, used, pictures)
            try:
                out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{path}: the overlay could not be written ({error})") from error
            line["overlay"] = str(save_png(heat, path))
        yield line


def _answer(found: Prediction, names: Sequence[str]) -> Line:
    label = int(found.targets[0])
    scores = found.logits[0].softmax(0)
    return {
        "label": label,
        "name": names[label] if label < len(names) else None,
        "score": round(float(scores[label]), 6),
        "boxes": np.round(found.boxes[0], 2).tolist(),
    }


def _free_name(out: Path, photo: Path, used: set[str], pictures: Collection[Path]) -> Path:
    """OUT/STEM.png, with a number where two pictures share a name, or where it is one of the pictures."""
    name, again = f"{photo.stem}.png", 1
    while name in used or (out / name).resolve() in pictures:
        again += 1
        name = f"{photo.stem}-{again}.png"
    used.add(name)
    return out / name
