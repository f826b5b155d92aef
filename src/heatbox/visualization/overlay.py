"""Heatmaps, boxes and masks drawn over images, and contact sheets of many of them."""

from __future__ import annotations

import bisect
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from heatbox._utils.io import write_atomically
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.maps.normalize import normalize_heatmap

Record = Mapping[str, Any]
"""What an evaluation saved of one image: "id", "label", "width", "height", "boxes", and of each METHOD
"map_METHOD", "box_METHOD" and "iou_METHOD"."""

# Distinct for colour-blind readers, on dark and on light backgrounds.
TRUTH_COLOUR, FOUND_COLOUR = (255, 255, 255), (255, 176, 0)
_OUTLINE = (20, 20, 20)
_NO_BOXES = np.zeros((0, 4))
_STRIP = 512  # rows coloured at once


def overlay(image: Image.Image, heatmap: np.ndarray, strength: float = 0.6) -> Image.Image:
    """Overlay a heatmap on an image in colours from dark violet (0) to yellow (1).

    Args:
        image: RGB image of any size.
        heatmap: (H, W) in [0, 1], resized to the image.
        strength: opacity of the colours, from 0 to 1.
    """
    heat = cv2.resize(np.asarray(heatmap, dtype=np.float32), image.size, interpolation=cv2.INTER_LINEAR)
    np.clip(heat, 0, 1, out=heat)
    heat *= 255
    levels, grey = heat.astype(np.uint8), np.asarray(image.convert("L"))
    del heat  # images may have a hundred megapixels
    mixed = np.empty((*grey.shape, 3), np.uint8)
    for top in range(0, len(grey), _STRIP):
        rows = slice(top, top + _STRIP)
        colours = cv2.cvtColor(cv2.applyColorMap(levels[rows], cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
        background = cv2.cvtColor(grey[rows], cv2.COLOR_GRAY2RGB)
        mixed[rows] = cv2.addWeighted(background, 1 - strength, colours, strength, 0)
    return Image.fromarray(mixed)


def draw_boxes(image: Image.Image, boxes: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """Draw (K, 4) xyxy boxes on a copy of the image, with a dark rim that keeps them visible everywhere."""
    copy = image.copy()
    pen = ImageDraw.Draw(copy)
    width = _line_width(image)
    for x1, y1, x2, y2 in np.asarray(boxes, dtype=np.float64).tolist():
        pen.rectangle((x1 - 1, y1 - 1, max(x2, x1) + 1, max(y2, y1) + 1), outline=_OUTLINE, width=width + 2)
        pen.rectangle((x1, y1, max(x2, x1), max(y2, y1)), outline=colour, width=width)
    return copy


def draw_map(
    image: Image.Image, heatmap: np.ndarray, boxes: np.ndarray, truth: np.ndarray = _NO_BOXES
) -> Image.Image:
    """Overlay a heatmap on an image, with ground-truth boxes in white and those that were found in orange.

    Args:
        image: RGB image of any size.
        heatmap: (H, W) in [0, 1], resized to the image.
        boxes, truth: (K, 4) xyxy in pixels of the image.
    """
    return draw_boxes(draw_boxes(overlay(image, heatmap), truth, TRUTH_COLOUR), boxes, FOUND_COLOUR)


def _line_width(image: Image.Image) -> int:
    """Line width in pixels that suits an image of this size; narrow images get thin lines."""
    return max(2, round(min(max(image.size), 4 * min(image.size)) / 160))


def draw_mask(image: Image.Image, mask: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """Draw the outline of a (H, W) mask, 1 on the object, on a copy of the image, with a dark rim."""
    inside = cv2.resize((mask == 1).astype(np.uint8), image.size, interpolation=cv2.INTER_NEAREST)
    width = _line_width(image)
    brush = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    line = inside - cv2.erode(inside, brush, borderValue=0)
    rim = cv2.dilate(line, np.ones((3, 3), np.uint8)) - line
    pixels = np.array(image)
    pixels[rim == 1], pixels[line == 1] = _OUTLINE, colour
    return Image.fromarray(pixels)


def save_png(image: Image.Image, path: Path, optimize: bool = False) -> Path:
    """Write an image as PNG, atomically.

    Raises:
        InputError: the file cannot be written.
    """
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=optimize)
    return write_atomically(path, stream.getvalue())


@dataclass(frozen=True)
class Cell:
    """One image of a sheet and the label below it."""

    image: Image.Image
    label: str


@dataclass(frozen=True)
class BoxedMap:
    """A map of an image and the boxes that were made of it.

    Attributes:
        heatmap: (H, W) in [0, 1], of the whole image.
        boxes: (K, 4) xyxy in pixels of the image.
        label: below the map.
    """

    heatmap: np.ndarray
    boxes: np.ndarray
    label: str


def map_row(
    image: Image.Image,
    label: str,
    maps: Sequence[BoxedMap],
    side: int,
    truth: np.ndarray | None = None,
) -> list[Cell]:
    """An image, and beside it each of its maps with its boxes: a row of `image_grid`.

    Args:
        image: of any size, shown whole within a square of `side` pixels.
        label: below the image.
        maps: of the image.
        side: of the cells in pixels.
        truth: (K, 4) ground-truth boxes in pixels of the image, drawn on it and on the maps; without them the
            image has the boxes of the last map.
    """
    small = ImageOps.contain(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    scale = np.tile([small.width / image.width, small.height / image.height], 2)
    known = _NO_BOXES if truth is None else truth * scale
    found = _NO_BOXES if truth is not None else maps[-1].boxes * scale
    first = draw_boxes(draw_boxes(small, known, TRUTH_COLOUR), found, FOUND_COLOUR)
    cells = [Cell(draw_map(small, one.heatmap, one.boxes * scale, known), one.label) for one in maps]
    return [Cell(first, label), *cells]


def contact_sheet(
    runs: Mapping[str, Iterable[Sequence[Record]]],
    split: Split,
    methods: Sequence[str],
    count: int = 24,
    side: int = 144,
) -> Image.Image:
    """Images with their ground truth, and each run's maps and boxes beside it.

    The images are spread evenly over the ranking by IoU of the first run's first map, from best to worst:
    neither successes nor failures are selected. Several runs get one row per image, headed by their names.

    Args:
        runs: name of a run → its records in batches, as `heatbox.evaluation.run.Run.records` yields them.
        split: the data set with the images.
        methods: names of the maps shown.
        count: number of images.
        side: of each image in pixels; images are resized to squares.

    Raises:
        InputError: a run lacks an image that the first run contains.
    """
    tables = {
        name: {record["id"]: record for record in itertools.chain.from_iterable(batches)}
        for name, batches in runs.items()
    }
    ranked = sorted(next(iter(tables.values())).values(), key=lambda record: -record[f"iou_{methods[0]}"])
    by_id = {example.id: example for example in split}
    groups = []
    for index in evenly_spaced(len(ranked), count):
        key = ranked[index]["id"]
        image = split.open_image(by_id[key]).resize((side, side), Image.Resampling.BILINEAR)
        truth = draw_boxes(image, _scaled(ranked[index], "boxes", image), TRUTH_COLOUR)
        cells = [Cell(truth, _class_name(split, ranked[index]["label"]))]
        for name, table in tables.items():
            if key not in table:
                raise InputError(f"{name}: contains no image {key!r}, which another run contains")
            cells += [_map_cell(table[key], image, method) for method in methods]
        groups.append(cells)
    blank = [""] * (len(methods) - 1)
    headings = ["", *(heading for name in runs for heading in (name, *blank))] if len(runs) > 1 else []
    caption = "white: ground truth, orange: box at the map's best threshold; best images first, worst last"
    return image_grid(groups, side, caption, headings)


def data_sheet(splits: Sequence[Split], count: int) -> Image.Image | None:
    """Images of a data set with their boxes or masks, split and class; None without an image.

    Args:
        splits: of the data set, all images readable; the images shown are spread evenly over each.
        count: number of images, which are resized to squares of 160 pixels.
    """
    side, cells = 160, []
    for split in splits:
        for index in evenly_spaced(len(split), max(1, count // len(splits))):
            example = split.examples[index]
            image = split.open_image(example).resize((side, side), Image.Resampling.BILINEAR)
            if len(example.boxes):
                image = draw_boxes(image, example.boxes * side / np.tile(example.size, 2), TRUTH_COLOUR)
            elif split.open_mask is not None:
                with suppress(InputError):  # listed among the problems
                    image = draw_mask(image, split.open_mask(example), TRUTH_COLOUR)
            cells.append(Cell(image, f"{split.name}: {_class_name(split, example.label)}"))
    return image_grid([[cell] for cell in cells], side, "white: ground truth") if cells else None


def evenly_spaced(total: int, count: int) -> list[int]:
    """At most `count` of the indices 0 to `total` - 1, evenly spaced, both ends included."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)).tolist()


def _class_name(split: Split, label: int) -> str:
    return split.class_names[label] if 0 <= label < len(split.class_names) else f"class {label}"


def _map_cell(record: Record, image: Image.Image, method: str) -> Cell:
    heatmap = normalize_heatmap(record[f"map_{method}"], image.width)
    boxes, truth = _scaled(record, f"box_{method}", image), _scaled(record, "boxes", image)
    # The number comes first: where there is no room, the end of the label is cut off.
    return Cell(draw_map(image, heatmap, boxes, truth), f"IoU {record[f'iou_{method}']:.2f}  {method}")


def _scaled(record: Record, key: str, image: Image.Image) -> np.ndarray:
    """Boxes of a record, from pixels of the recorded image to those of the drawn one."""
    return record[key] * np.tile([image.width / record["width"], image.height / record["height"]], 2)


def image_grid(
    groups: Sequence[Sequence[Cell]], side: int, caption: str, headings: Sequence[str] = ()
) -> Image.Image:
    """Groups of cells in a grid that is close to square; each group is one row of adjacent cells.

    Args:
        groups: of cells, whose images have at most `side` pixels along each side.
        side: width of the columns of images; a row is as high as its highest image.
        caption: at the bottom of the sheet.
        headings: of the columns of cells; the groups are then stacked in one column. An empty heading extends
            the one before it.
    """
    margin, line = 6, 18
    width, height = side * len(groups[0]) + 3 * margin, side + line + margin
    columns = 1 if headings else max(1, round((len(groups) * height / width) ** 0.5))
    rows = [groups[first : first + columns] for first in range(0, len(groups), columns)]
    heights = [max(cell.image.height for group in row for cell in group) for row in rows]
    head = line if headings else 0
    size = (columns * width + margin, head + sum(heights) + len(rows) * (line + margin) + margin + line)
    sheet = Image.new("RGB", size, (250, 250, 250))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for place, heading in enumerate(headings):
        pen.text((margin + place * side + 3, 3), heading, fill=_OUTLINE, font=font)
    top = head + margin
    for row, tall in zip(rows, heights, strict=True):
        for column, group in enumerate(row):
            for place, cell in enumerate(group):
                left = margin + column * width + place * side
                free = side - cell.image.width, tall - cell.image.height
                sheet.paste(cell.image, (left + free[0] // 2, top + free[1]))
                text = _truncated(cell.label, side - 6, font)
                pen.text((left + 3, top + tall + 1), text, fill=_OUTLINE, font=font)
        top += tall + line + margin
    pen.text((margin + 3, top), caption, fill=_OUTLINE, font=font)
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> Path:
    """Write a sheet as a PNG of 256 colours: a third of the size, visually the same.

    Raises:
        InputError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_png(sheet.quantize(dither=Image.Dither.NONE), path, optimize=True)


def _truncated(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Text cut at its end to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    lengths = range(min(len(text), width))
    kept = bisect.bisect_right(lengths, float(width), key=lambda n: font.getlength(text[:n] + "…")) - 1
    return text[: max(kept, 0)] + "…"
