"""The picture of docs/foreground.md: maps, boxes and confidences on the photographs of `heatbox demo`.

    python benchmarks/photographs.py --model NAME --checkpoint FILE --foreground HEAD --out PICTURE.png

Each row is one photograph, then each map of the class that its folder names, with its box at the threshold of
`heatbox label` and the expected confidence of the box. Rows are in the order of the confidence of the last
map, the least confident last; none is left out. HEAD is the foreground.safetensors of a run of `heatbox
evaluate` with the same network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from heatbox.config import ModelSpec
from heatbox.data.classes import match_classes
from heatbox.data.open import open_split
from heatbox.inference.localizer import Localizer
from heatbox.labeling.propose import default_threshold
from heatbox.visualization.overlay import FOUND_COLOUR, Cell, draw_boxes, image_grid, overlay, save_sheet

PHOTOS = Path(__file__).resolve().parents[1] / "src/heatbox/data/photos"
SIDE = 224


def square(image: Image.Image) -> Image.Image:
    """An image in the middle of a light square."""
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (SIDE, SIDE), (250, 250, 250))
    canvas.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--checkpoint")
    parser.add_argument("--foreground", type=Path, required=True, help="a fitted head of the same network")
    parser.add_argument("--method", nargs="+", default=["walk", "foreground-walk"])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    spec = ModelSpec(arguments.model, checkpoint=arguments.checkpoint)
    model = spec.build()
    localizers = [
        Localizer(
            model,
            method,
            default_threshold(method),
            confidence=True,
            foreground=arguments.foreground if "foreground" in method else None,
        )
        for method in arguments.method
    ]
    number = localizers[0].view.num_classes
    split = open_split(str(PHOTOS))
    matched = match_classes(split, number, spec.class_names(model, number), str(PHOTOS))
    rows = []
    for example, named in zip(split, matched, strict=True):
        image = split.open_image(example).convert("RGB")
        cells, sure = [Cell(square(image), split.class_names[example.label].replace("_", " "))], 0.0
        for localizer in localizers:
            found = localizer([image], [named.label])
            assert found.confidences is not None
            sure = float(found.confidences[0].max(initial=0))
            drawn = draw_boxes(overlay(image, found.heatmaps[0]), found.boxes[0], FOUND_COLOUR)
            cells.append(Cell(square(drawn), f"{localizer.name}: {sure:.2f}"))
            print(f"{example.id} {localizer.name}: {np.round(found.boxes[0]).tolist()} {sure:.2f}")
        rows.append((sure, cells))
    rows.sort(key=lambda row: -row[0])
    caption = "orange: box, with the expected confidence; most confident first, least confident last"
    headings = ["photograph", *arguments.method]
    print(save_sheet(image_grid([cells for _, cells in rows], SIDE, caption, headings), arguments.out))


if __name__ == "__main__":
    main()
