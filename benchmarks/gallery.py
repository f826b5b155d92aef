"""The pictures of docs/gallery.md: maps with the boxes of `heatbox label` and their confidences.

    python benchmarks/gallery.py photographs --checkpoint FILE --foreground HEAD --out PICTURE.jpg
    python benchmarks/gallery.py glyphs --out PICTURE.jpg

Each row is an image, and beside it each map of one of its classes. `photographs` are those of `heatbox
demo`, whose folders name their classes; none is left out. HEAD is the foreground.safetensors of a run of
`heatbox evaluate` with EfficientNet-Lite0. `glyphs` are drawings of the split "several", chosen by what is
drawn, not by what is found: two images each with the three objects of a class that are farthest apart, with
the two that are nearest to each other, with the smallest object, and without any. Their foreground head is
fitted to all drawings of the split that have an object.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from heatbox.config import ModelSpec
from heatbox.data.classes import match_classes
from heatbox.data.glyphs import glyphs
from heatbox.data.open import open_split
from heatbox.data.types import Split
from heatbox.demo import INCLUDED, NETWORK, find_weights
from heatbox.inference.localizer import Localizer
from heatbox.labeling.propose import BoxSettings, default_threshold, find_objects
from heatbox.visualization.overlay import BoxedMap, Cell, image_grid, map_row

METHODS = ("cam", "pc1", "walk", "foreground-walk")
EACH = 2  # drawings of a kind


class Shown(NamedTuple):
    """An image, the class of its maps (-1: the predicted one), its name and, where known, its boxes."""

    image: Image.Image
    target: int
    name: str
    truth: np.ndarray | None = None


def photographs(localizer: Localizer) -> list[Shown]:
    """The photographs of the demo, with the classes of the network that their folders name."""
    split, view = open_split(str(INCLUDED)), localizer.view
    names = ModelSpec(NETWORK).class_names(view.model, view.num_classes)
    matched = match_classes(split, view.num_classes, names, str(INCLUDED))
    return [
        Shown(split.open_image(one), known.label, split.class_names[one.label].replace("_", " "))
        for one, known in zip(split, matched, strict=True)
    ]


def gap(boxes: np.ndarray) -> float:
    """The smallest distance between two of the (K, 4) boxes, in pixels."""
    between = np.maximum(boxes[:, None, :2] - boxes[:, 2:], boxes[:, :2] - boxes[:, None, 2:]).clip(0)
    return float(np.hypot(*np.moveaxis(between, -1, 0))[np.triu_indices(len(boxes), 1)].min())


def area(boxes: np.ndarray) -> float:
    """The area of the smallest of the (K, 4) boxes, in square pixels."""
    return float((boxes[:, 2:] - boxes[:, :2]).prod(1).min())


def hard_drawings(split: Split) -> list[Shown]:
    """The drawings of each kind, by the boxes of one class."""
    kinds: dict[str, tuple[int, Callable[[np.ndarray], float]]] = {
        "apart": (3, lambda boxes: -gap(boxes)),
        "near": (2, gap),
        "small": (1, area),
        "none": (0, lambda boxes: 0),
    }
    by_class, found = split.by_class(), []
    for kind, (count, order) in kinds.items():
        those = [one for one in by_class if len(one.boxes) == count]
        for one in sorted(those, key=lambda one: order(one.boxes))[:EACH]:
            name = f"{split.class_names[one.label]}, {kind}" if count else kind
            found.append(Shown(by_class.open_image(one), one.label, name, one.boxes))
    return found


def drawn(shown: Shown, localizers: list[Localizer], side: int) -> tuple[float, list[Cell]]:
    """The row of an image, and the confidence of its most confident box of the last map."""
    maps, sure = [], 0.0
    for localizer in localizers:
        found = localizer([shown.image], None if shown.target < 0 else [shown.target])
        settings = BoxSettings(localizer.name or "", default_threshold(localizer.name or ""))
        (objects,) = find_objects([found.maps[0].numpy()], shown.image.size, settings)
        label = ", ".join(f"{one:.2f}" for one in objects.confidences) or "no box"
        maps.append(BoxedMap(found.heatmaps[0], objects.boxes, label))
        sure = float(objects.confidences.max(initial=0))
        print(f"{shown.name} {localizer.name}: {np.round(objects.boxes).tolist()} {label}")
    return sure, map_row(shown.image, shown.name, maps, side, shown.truth)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", choices=["photographs", "glyphs"])
    parser.add_argument("--checkpoint", help="weights of the network of the photographs")
    parser.add_argument("--foreground", type=Path, help="a fitted head of the same network")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    photos = arguments.images == "photographs"
    spec = (
        ModelSpec(NETWORK, checkpoint=arguments.checkpoint or find_weights())
        if photos
        else ModelSpec("resnet10_small", checkpoint="pretrained", size=128)
    )
    model = spec.build()
    head = arguments.foreground
    localizers = [
        Localizer(
            model,
            method,
            preprocess=spec.preprocess(model),
            foreground=head if method == METHODS[-1] else None,
        )
        for method in METHODS
    ]
    if photos:
        rows = [drawn(one, localizers, 160) for one in photographs(localizers[-1])]
        rows.sort(key=lambda row: -row[0])
        caption = "orange: boxes, below them their expected confidences; most confident first"
        headings = [f"boxes of {METHODS[-1]}", *METHODS]
    else:
        split = glyphs("several")
        labelled = [example for example in split if example.labels]
        localizers[-1].fit_foreground(
            map(split.open_image, labelled), [example.label for example in labelled]
        )
        rows = [drawn(one, localizers, 128) for one in hard_drawings(split)]
        caption = "white: objects of the class, orange: boxes, below them their expected confidences"
        headings = ["drawing", *METHODS]
    sheet = image_grid([cells for _, cells in rows], 160 if photos else 128, caption, headings)
    sheet.save(arguments.out, quality=88)


if __name__ == "__main__":
    main()
