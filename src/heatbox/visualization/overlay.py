"""Heatmaps and boxes drawn over pictures."""

from __future__ import annotations

import bisect
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from heatbox._utils.io import write_atomically
from heatbox.boxes.ops import REFERENCE_SIDE
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.evaluation.run import Record, Run
from heatbox.maps.normalize import normalize_heatmap

# Told apart by colour-blind readers, on dark and light ground alike.
TRUTH_COLOUR, FOUND_COLOUR = (255, 255, 255), (255, 176, 0)
_OUTLINE = (20, 20, 20)
_STRIP = 512  # rows coloured at a time


def overlay(image: Image.Image, heatmap: np.ndarray, strength: float = 0.6) -> Image.Image:
    """A heatmap laid over a picture in colours from dark violet (0) to yellow (1).

    Args:
        image: RGB picture of any size.
        heatmap: (H, W) in [0, 1], resized to the picture.
        strength: how much the colours cover, from 0 to 1.
    """
    heat = cv2.resize(np.asarray(heatmap, dtype=np.float32), image.size, interpolation=cv2.INTER_LINEAR)
    np.clip(heat, 0, 1, out=heat)
    heat *= 255
    levels, grey = heat.astype(np.uint8), np.asarray(image.convert("L"))
    del heat  # pictures may have a hundred megapixels
    mixed = np.empty((*grey.shape, 3), np.uint8)
    for top in range(0, len(grey), _STRIP):
        rows = slice(top, top + _STRIP)
        colours = cv2.cvtColor(cv2.applyColorMap(levels[rows], cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
        ground = cv2.cvtColor(grey[rows], cv2.COLOR_GRAY2RGB)
        mixed[rows] = cv2.addWeighted(ground, 1 - strength, colours, strength, 0)
    return Image.fromarray(mixed)


def draw_boxes(image: Image.Image, boxes: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """Outlines of (K, 4) xyxy boxes on a copy of the picture, with a dark rim so that they show anywhere."""
    copy = image.copy()
    pen = ImageDraw.Draw(copy)
    width = _line_width(image)
    for x1, y1, x2, y2 in np.asarray(boxes, dtype=np.float64).tolist():
        pen.rectangle((x1 - 1, y1 - 1, max(x2, x1) + 1, max(y2, y1) + 1), outline=_OUTLINE, width=width + 2)
        pen.rectangle((x1, y1, max(x2, x1), max(y2, y1)), outline=colour, width=width)
    return copy


def _line_width(image: Image.Image) -> int:
    """Pixels of a line that shows on a picture of this size and covers little, also of a long strip."""
    return max(2, round(min(max(image.size), 4 * min(image.size)) / 160))


def draw_mask(image: Image.Image, mask: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """The outline of a (H, W) mask, 1 on the object, on a copy of the picture, with a dark rim."""
    inside = cv2.resize((mask == 1).astype(np.uint8), image.size, interpolation=cv2.INTER_NEAREST)
    width = _line_width(image)
    brush = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    line = inside - cv2.erode(inside, brush, borderValue=0)
    rim = cv2.dilate(line, np.ones((3, 3), np.uint8)) - line
    pixels = np.array(image)
    pixels[rim == 1], pixels[line == 1] = _OUTLINE, colour
    return Image.fromarray(pixels)


def save_png(image: Image.Image, path: Path) -> Path:
    """Write a picture as PNG, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return write_atomically(path, stream.getvalue())


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet and the words under it."""

    picture: Image.Image
    words: str


def contact_sheet(
    run: Run, split: Split, methods: Sequence[str], count: int = 24, side: int = 144
) -> Image.Image:
    """Some images of a run with their true boxes, and each method's map and box beside them.

    The images are spread evenly over the order of the first method's IoU, from best to worst: neither a
    choice of successes nor one of failures.

    Args:
        run: a finished run.
        split: where its pictures are.
        methods: whose maps to show.
        count: number of images.
        side: pixels of each square picture; all are squashed to it.
    """
    records = list(itertools.chain.from_iterable(run.records()))
    records.sort(key=lambda record: -record[f"iou_{methods[0]}"])
    picks = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
    by_id = {example.id: example for example in split}
    groups = []
    for index in picks:
        record = records[index]
        picture = split.open_image(by_id[record["id"]]).resize((side, side), Image.Resampling.BILINEAR)
        groups.append(
            [_truth_cell(record, picture, split), *(_map_cell(record, picture, m) for m in methods)]
        )
    words = "white: ground truth, orange: box of the map at the best threshold; best images first, worst last"
    return paste(groups, side, words)


def maps_beside(
    runs: Mapping[str, Run], split: Split, methods: Sequence[str], count: int = 8, side: int = 112
) -> Image.Image:
    """The same images in several runs: a row an image, its ground truth, then each run's maps and boxes.

    The images are spread evenly over the order of the first run's first map by IoU, from best to worst.

    Args:
        runs: label → finished run.
        split: where the pictures are.
        methods: whose maps to show.
        count: number of images.
        side: pixels of each square picture.

    Raises:
        InputError: a run lacks an image that the first one holds.
    """
    tables = {label: {r["id"]: r for r in itertools.chain(*run.records())} for label, run in runs.items()}
    first = sorted(next(iter(tables.values())).values(), key=lambda record: -record[f"iou_{methods[0]}"])
    picks = np.unique(np.linspace(0, len(first) - 1, min(count, len(first))).round().astype(int))
    by_id = {example.id: example for example in split}
    groups = []
    for index in picks.tolist():
        name = first[index]["id"]
        picture = split.open_image(by_id[name]).resize((side, side), Image.Resampling.BILINEAR)
        cells = [_truth_cell(first[index], picture, split)]
        for label, table in tables.items():
            if name not in table:
                raise InputError(f"{label}: holds no image {name!r}, which another run holds")
            cells += [_map_cell(table[name], picture, method) for method in methods]
        groups.append(cells)
    headings = ["", *(label if number == 0 else "" for label in runs for number in range(len(methods)))]
    words = "white: ground truth, orange: box at the map's best threshold; best images first, worst last"
    return paste(groups, side, words, headings)


def _truth_cell(record: Record, picture: Image.Image, split: Split) -> Cell:
    label = record["label"]
    name = split.class_names[label] if label < len(split.class_names) else f"class {label}"
    return Cell(draw_boxes(picture, _scaled_truth(record, picture), TRUTH_COLOUR), name)


def _map_cell(record: Record, picture: Image.Image, method: str) -> Cell:
    heat = overlay(picture, normalize_heatmap(record[f"map_{method}"], picture.width))
    heat = draw_boxes(heat, _scaled_truth(record, picture), TRUTH_COLOUR)
    found = record[f"box_{method}"] * picture.width / REFERENCE_SIDE
    return Cell(draw_boxes(heat, found, FOUND_COLOUR), f"{method}  IoU {record[f'iou_{method}']:.2f}")


def _scaled_truth(record: Record, picture: Image.Image) -> np.ndarray:
    return record["boxes"] * np.tile([picture.width / record["width"], picture.height / record["height"]], 2)


def paste(
    groups: Sequence[Sequence[Cell]], side: int, words: str, headings: Sequence[str] = ()
) -> Image.Image:
    """Groups of cells in a grid, as near to square as can be, each group in one row of its own.

    Args:
        groups: of cells, whose pictures are squares of `side` pixels.
        side: of the pictures.
        words: what is said of them all at the foot of the sheet.
        headings: of the columns of cells, which then stand one group below the other; an empty one leaves its
            place to the one before.
    """
    margin, caption = 6, 18
    wide, high = side * len(groups[0]) + 3 * margin, side + caption + margin
    columns = 1 if headings else max(1, round((len(groups) * high / wide) ** 0.5))
    rows = -(-len(groups) // columns)
    head = caption if headings else 0
    size = (columns * wide + margin, head + rows * high + margin + caption)
    sheet = Image.new("RGB", size, (250, 250, 250))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for place, heading in enumerate(headings):
        pen.text((margin + place * side + 3, 3), heading, fill=_OUTLINE, font=font)
    for number, group in enumerate(groups):
        left, top = margin + number % columns * wide, head + margin + number // columns * high
        for place, cell in enumerate(group):
            sheet.paste(cell.picture, (left + place * side, top))
            text = _fitted(cell.words, side - 6, font)
            pen.text((left + place * side + 3, top + side + 1), text, fill=_OUTLINE, font=font)
    pen.text((margin + 3, head + rows * high + margin), words, fill=_OUTLINE, font=font)
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> Path:
    """Write a sheet as a PNG of 256 colours, which is a third as large and looks alike."""
    stream = io.BytesIO()
    sheet.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomically(path, stream.getvalue())


def _fitted(words: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Words, shortened at their end to so many pixels."""
    if font.getlength(words) <= width:
        return words
    lengths = range(min(len(words), width))
    kept = bisect.bisect_right(lengths, float(width), key=lambda n: font.getlength(words[:n] + "…")) - 1
    return words[: max(kept, 0)] + "…"
