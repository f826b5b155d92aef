"""The command `heatbox locate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import tyro

from heatbox.errors import InputError
from heatbox.terminal import SOME_FAILED, say, warn_of_random_weights


def locate(
    photos: tyro.conf.Positional[tuple[Path, ...]],
    model: Annotated[str, tyro.conf.arg(aliases=["-m"])],
    checkpoint: str | None = None,
    num_classes: int | None = None,
    method: str = "cam",
    walk_seed: str = "cam",
    threshold: float = 0.35,
    contours: Literal["largest", "all"] = "largest",
    size: int | None = None,
    target: int | None = None,
    out: Path = Path("heatbox-boxes"),
    overlays: bool = True,
    device: str = "auto",
) -> int:
    """Find the object in pictures of your own.

    Prints one JSON object a picture (file, label, score, boxes in its pixels) and writes overlay PNGs. A
    file that cannot be read is reported and passed over; the exit code is then 1.

    Args:
        photos: Picture files of any size and kind.
        model: A timm model name, or path/to/file.py:function for a model of your own.
        checkpoint: A file of weights, or "pretrained" for those that timm publishes.
        num_classes: Number of classes; by default the model's own.
        method: The map: cam, pc1, walk or walk-one-pass; walk:pc1 is a walk from PC1, and a name ending in
            +centre is a map times the centre prior.
        walk_seed: Map that a walk of no named seed starts from.
        threshold: Share of the map's maximum above which pixels belong to the object; evaluate prints
            the best one for a data set.
        contours: One box a picture, or one for every connected region.
        size: Side of the square input in pixels; by default the model's own.
        target: Class to look for; by default the predicted one.
        out: Folder of the overlays.
        overlays: Whether to draw them.
        device: cpu, cuda, mps, or auto for the best at hand.

    Examples:
        heatbox locate photos/*.jpg --model convnext_tiny.fb_in1k --checkpoint pretrained
        heatbox locate cat.jpg --model resnet50 --checkpoint pretrained --method walk --contours all
    """
    from heatbox.locate import locate_files

    warn_of_random_weights(model, checkpoint)
    failures = 0
    for line in locate_files(
        photos,
        model=model,
        checkpoint=checkpoint,
        num_classes=num_classes,
        method=method,
        walk_seed=walk_seed,
        threshold=threshold,
        contours=contours,
        size=size,
        target=target,
        out=out if overlays else None,
        device=device,
    ):
        if isinstance(line, InputError):
            failures += 1
            say(f"passed over: {line}")
        else:
            print(json.dumps(line), flush=True)
    if failures:
        say(f"{failures} of {len(photos)} pictures could not be used")
    return SOME_FAILED if failures else 0
