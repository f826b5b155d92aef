"""A data set by what the user typed: a path, or the name of the embedded one."""

from __future__ import annotations

from pathlib import Path

from heatbox.data.example import Split
from heatbox.data.glyphs import glyphs
from heatbox.data.wsol import load_wsol


def open_split(data: str, metadata: Path | None = None, num_classes: int | None = None) -> Split:
    """Open a split.

    Args:
        data: "glyphs", "glyphs:train", "glyphs:fullsup" or "glyphs:test" for the embedded data set (test
            by default), else a folder or .tar in the metadata layout.
        metadata: folder of the metadata files, where they are not with the images.
        num_classes: labels have to be below it.

    Raises:
        InputError: what the reader of the layout raises.
    """
    name, _, split = data.partition(":")
    if name == "glyphs" and not Path(data).exists():
        return glyphs(split or "test")
    return load_wsol(data, metadata, num_classes)
