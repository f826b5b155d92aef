"""Boxes and overlays of image files: the lines that `heatbox locate` prints."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heatbox.config import LocateConfig
from heatbox.data.files.images import decode_for_network, picture_size, shown_image
from heatbox.errors import InputError
from heatbox.inference.localizer import Localizer
from heatbox.maps.registry import with_seed
from heatbox.visualization.overlay import FOUND_COLOUR, draw_boxes, overlay, save_png

Line = dict[str, Any]


def locate_files(
    files: Sequence[Path], config: LocateConfig, out: Path | None = None
) -> Iterator[Line | InputError]:
    """Localize the object of each image file.

    Args:
        files: image files of any size and format.
        config: the model, the map and the threshold; see also `heatbox.create_model` and `heatbox.Localizer`.
        out: folder for overlays; None draws none.

    Yields:
        for each file a dictionary for JSON, or the error because of which it was skipped.

    Raises:
        InputError: no file, an unknown model or method, a class that the model does not have, or an overlay
            that cannot be written.
    """
    if not files:
        raise InputError("no image was named, expected one or more image files")
    model = config.build()
    method, target = with_seed(config.method, config.walk_seed), config.target
    localizer = Localizer(
        model,
        method,
        config.threshold,
        config.contours,
        preprocess=config.preprocess(model),
        protocol=config.protocol,
    )
    if target is not None and not 0 <= target < localizer.view.num_classes:
        last = localizer.view.num_classes - 1
        raise InputError(f"class {target} is out of range: the model has classes 0 to {last}")
    names = config.class_names(model, localizer.view.num_classes)
    settings = {"model": config.model, "method": method, "threshold": config.threshold}
    used: set[str] = set()
    inputs = {file.resolve() for file in files}
    for file in files:
        try:
            image = decode_for_network(file, str(file), localizer.preprocess.channels)
        except InputError as error:
            yield error
            continue
        found = localizer([image], None if target is None else [target])
        label, (width, height) = int(found.targets[0]), picture_size(image)
        line = {
            "file": str(file),
            "width": width,
            "height": height,
            "label": label,
            "name": names[label] if label < len(names) else None,
            "score": round(float(found.scores()[0]), 6),
            "boxes": np.round(found.boxes[0], 2).tolist(),
            **settings,
        }
        if out is not None:
            heat = draw_boxes(overlay(shown_image(image), found.heatmaps[0]), found.boxes[0], FOUND_COLOUR)
            path = _free_name(out, file, used, inputs)
            try:
                out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{path}: the overlay could not be written ({error})") from error
            line["overlay"] = str(save_png(heat, path))
        yield line


def _free_name(out: Path, file: Path, used: set[str], inputs: Collection[Path]) -> Path:
    """OUT/STEM.png, with a number where two images share a name, or where it is one of the inputs."""
    name, again = f"{file.stem}.png", 1
    while name in used or (out / name).resolve() in inputs:
        again += 1
        name = f"{file.stem}-{again}.png"
    used.add(name)
    return out / name
