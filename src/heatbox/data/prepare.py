"""Smaller copies of a data set for training, with its boxes: made atomically, resumed where they stopped."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from heatbox._utils.devices import map_in_threads
from heatbox._utils.io import write_atomically
from heatbox._utils.progress import Track, silent
from heatbox.data.formats import cub, wsol
from heatbox.data.open import open_data_set
from heatbox.data.transforms import CentreCrop, Chain, Resize, ResizeShort
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

SIDE, BEFORE_CROP = 448, 512
VARIANTS = {
    "squash": Chain((Resize((BEFORE_CROP, BEFORE_CROP)), CentreCrop((SIDE, SIDE)))),
    "short-side": Chain((ResizeShort(BEFORE_CROP), CentreCrop((SIDE, SIDE)))),
}


def prepare_cub(
    source: str | Path, out: Path, variant: str = "squash", track: Track = silent, jobs: int | None = None
) -> list[str]:
    """448-pixel copies of CUB-200-2011 (and CUBV2), a folder in the metadata layout for each split.

    Args:
        source: the data set, as downloaded or unpacked.
        out: folder of the copies. Copies that are there already are kept.
        variant: "squash": to 512 x 512 (the paper's text), "short-side": the short side to 512 (the released
            code); then the middle 448 x 448 (0.875).
        track: shows progress.
        jobs: number of threads, by default one for each core.

    Returns:
        what could not be prepared, one sentence each.

    Raises:
        InputError: no CUB-200-2011, `out` holds the other variant, or it cannot be written.
    """
    if variant not in VARIANTS:
        raise InputError(f"variant is {variant!r}, expected one of {', '.join(VARIANTS)}")
    data_set = open_data_set(source)
    if data_set.format is not cub:
        raise InputError(f"{source}: is {data_set.layout}, expected {cub.LAYOUT}")
    _claim(out, variant)
    problems: list[str] = []
    for name in data_set.splits:
        _prepare_split(data_set.load(name, problems.append), out / name, variant, track, jobs, problems)
    return problems


def _claim(out: Path, variant: str) -> None:
    """Note the variant in the folder, or refuse a folder that holds another."""
    note = out / "prepared.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        there = json.loads(note.read_text()).get("variant") if note.is_file() else variant
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{note}: cannot be made or read ({error})") from error
    if there != variant:
        raise InputError(f"{out}: holds the variant {there!r}, expected {variant!r} or an empty folder")
    write_atomically(note, json.dumps({"variant": variant, "side": SIDE}).encode())


def _prepare_split(
    split: Split, out: Path, variant: str, track: Track, jobs: int | None, problems: list[str]
) -> None:
    def copy(example: Example) -> Example | str:
        try:
            return _prepare(split, example, out / "images" / example.id, variant)
        except InputError as error:
            return str(error)

    what = f"preparing {len(split)} images of {split.name}"
    results = list(map_in_threads(copy, split.examples, jobs, track, what))
    problems += [result for result in results if isinstance(result, str)]
    wsol.write_metadata([result for result in results if not isinstance(result, str)], out)


def _prepare(split: Split, example: Example, path: Path, variant: str) -> Example:
    """Write one copy unless it is there; its boxes follow in any case."""
    steps = VARIANTS[variant]
    if path.is_file():
        # Boxes depend on sizes only: a picture of one tone is moved at no cost.
        _, boxes = steps(Image.new("1", example.size), example.boxes)
    else:
        image = split.open_image(example)
        boxes = example.boxes * np.array(image.size * 2) / np.array(example.size * 2)
        image, boxes = steps(image, boxes)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=95)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
    return Example(example.id, example.label, (SIDE, SIDE), boxes)
