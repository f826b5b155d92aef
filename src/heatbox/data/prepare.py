"""Smaller copies of a data set for training, with their boxes: written atomically and resumable."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from heatbox._utils.devices import map_in_threads
from heatbox._utils.io import made_folder, read_json, write_atomically
from heatbox._utils.progress import Track, silent
from heatbox.data.formats import cub, wsol
from heatbox.data.open import open_data_set
from heatbox.data.transforms import CenterCrop, Compose, Resize, ResizeShort
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

SIDE, BEFORE_CROP = 448, 512
VARIANTS = {
    "squash": Compose((Resize((BEFORE_CROP, BEFORE_CROP)), CenterCrop((SIDE, SIDE)))),
    "short-side": Compose((ResizeShort(BEFORE_CROP), CenterCrop((SIDE, SIDE)))),
}


def prepare_cub(
    source: str | Path, out: Path, variant: str = "squash", track: Track = silent, jobs: int | None = None
) -> list[str]:
    """Write 448-pixel copies of CUB-200-2011 (and CUBV2): one folder in the metadata layout per split.

    Args:
        source: the data set, as downloaded or extracted.
        out: folder of the copies. Existing copies are kept.
        variant: "squash" resizes to 512 x 512 (the paper's text), "short-side" the shorter side to 512 (the
            released code); both then crop the central 448 x 448 (0.875).
        track: shows progress.
        jobs: number of threads, by default one per core.

    Returns:
        problems with images that were left out, one sentence each.

    Raises:
        InputError: not CUB-200-2011, or `out` contains the other variant or cannot be written.
    """
    if variant not in VARIANTS:
        raise InputError(f"variant is {variant!r}, expected one of {', '.join(VARIANTS)}")
    data_set = open_data_set(source)
    if data_set.format is not cub:
        raise InputError(f"{source}: is {data_set.layout}, expected {cub.LAYOUT}")
    _record_variant(out, variant)
    problems: list[str] = []
    for name in data_set.splits:
        _prepare_split(data_set.load(name, problems.append), out / name, variant, track, jobs, problems)
    return problems


def _record_variant(out: Path, variant: str) -> None:
    """Write the variant into the folder, or refuse a folder of another variant."""
    file = made_folder(out) / "prepared.json"
    found = read_json(file).get("variant") if file.is_file() else variant
    if found != variant:
        raise InputError(f"{out}: contains the variant {found!r}, expected {variant!r} or an empty folder")
    write_atomically(file, json.dumps({"variant": variant, "side": SIDE}).encode())


def _prepare_split(
    split: Split, out: Path, variant: str, track: Track, jobs: int | None, problems: list[str]
) -> None:
    def copy(example: Example) -> Example | str:
        try:
            return _write_copy(split, example, out / "images" / example.id, variant)
        except InputError as error:
            return str(error)

    what = f"preparing {len(split)} images of {split.name}"
    results = list(map_in_threads(copy, split.examples, jobs, track, what))
    problems += [result for result in results if isinstance(result, str)]
    wsol.write_metadata([result for result in results if not isinstance(result, str)], out)


def _write_copy(split: Split, example: Example, path: Path, variant: str) -> Example:
    """Write one copy unless it exists; its boxes are computed in any case."""
    transform = VARIANTS[variant]
    if path.is_file():
        # Boxes depend on sizes only, so that a blank one-bit image is enough.
        _, boxes = transform(Image.new("1", example.size), example.boxes)
    else:
        image = split.open_image(example)
        boxes = example.boxes * np.array(image.size * 2) / np.array(example.size * 2)
        image, boxes = transform(image, boxes)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=95)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
    return Example(example.id, example.label, (SIDE, SIDE), boxes)
