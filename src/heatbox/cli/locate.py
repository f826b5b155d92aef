"""The command `heatbox locate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import tyro

from heatbox.cli.terminal import SOME_FAILED, say, warn_of_random_weights
from heatbox.config import LocateConfig
from heatbox.errors import InputError


def locate(
    photos: tyro.conf.Positional[tuple[Path, ...]],
    config: Annotated[LocateConfig, tyro.conf.arg(name="")],
    out: Path = Path("heatbox-boxes"),
    overlays: bool = True,
) -> int:
    """Localize the object in image files.

    Prints one JSON object per image (file, label, score, boxes in its pixels) and writes overlay PNGs. A
    file that cannot be read is reported and skipped; the exit code is then 1.

    Args:
        photos: Image files of any size and format.
        config: The model, the map and the threshold.
        out: Folder of the overlays.
        overlays: Draw overlays; --no-overlays disables them.

    Examples:
        heatbox locate photos/*.jpg --model convnext_tiny.fb_in1k --checkpoint pretrained
        heatbox locate cat.jpg --model resnet50 --checkpoint pretrained --method walk --contours all
    """
    from heatbox.inference.locate import locate_files

    warn_of_random_weights(config.model, config.checkpoint)
    failures = 0
    for line in locate_files(photos, config, out if overlays else None):
        if isinstance(line, InputError):
            failures += 1
            say(f"skipped: {line}")
        else:
            print(json.dumps(line), flush=True)
    if failures:
        say(f"{failures} of {len(photos)} images could not be used")
    return SOME_FAILED if failures else 0
