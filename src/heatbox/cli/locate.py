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
    """Find the object in pictures of your own.

    Prints one JSON object a picture (file, label, score, boxes in its pixels) and writes overlay PNGs. A
    file that cannot be read is reported and passed over; the exit code is then 1.

    Args:
        photos: Picture files of any size and kind.
        config: How to look for it.
        out: Folder of the overlays.
        overlays: Whether to draw overlays.

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
            say(f"passed over: {line}")
        else:
            print(json.dumps(line), flush=True)
    if failures:
        say(f"{failures} of {len(photos)} pictures could not be used")
    return SOME_FAILED if failures else 0
