"""Data of the page's threshold explorer: images, small maps, and every box at every threshold.

Boxes are not stored threshold by threshold. Each row is a box with the first and the last threshold at which
it occurs, from the component tree used for scoring, so a page shows exactly the boxes that are scored.
"""

from __future__ import annotations

import base64
import io
import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from heatbox._utils.progress import Track, silent
from heatbox.boxes.contours import (
    Protocol,
    all_contours,
    check_heatmap,
    largest_contours,
    threshold_grid,
    to_convention,
    to_levels,
)
from heatbox.boxes.ops import REFERENCE_SIDE, scaled_truth
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.evaluation.images import reopen_images
from heatbox.evaluation.run import PREDICTIONS, Record
from heatbox.maps.normalize import normalize_heatmap
from heatbox.visualization.overlay import evenly_spaced
from heatbox.visualization.report.folders import Folder

MAX_MAP_SIDE = 32
"""Side to which larger maps are reduced for display; their boxes come from the full map."""
IMAGE_SIDE, JPEG_QUALITY = 256, 74


@dataclass(frozen=True)
class BoxRows:
    """Boxes of one heatmap with the thresholds at which they occur, as indices into the threshold grid.

    Attributes:
        largest_first: (N,) uint16, the first threshold of each box of the largest contour; it lasts until the
            first threshold of the next.
        largest: (N, 4) uint8 xyxy in the 224 x 224 frame, in the convention of the protocol.
        first: (M,) uint16, the first threshold of each box of any contour.
        last: (M,) uint16, its last threshold.
        boxes: (M, 4) uint8 xyxy.
    """

    largest_first: np.ndarray
    largest: np.ndarray
    first: np.ndarray
    last: np.ndarray
    boxes: np.ndarray


def packed(rows: Sequence[BoxRows | None]) -> bytes:
    """The rows of many images, column by column, compressed with zlib.

    In columns equal values are adjacent, which halves the compressed size. Little-endian: N and M of every
    image as uint32 (0 for an image without rows); every `largest_first`, every `first`, every `last` as
    uint16; then the four columns of every `largest` and of every `boxes` as uint8.
    """
    known = [one for one in rows if one is not None]
    counts = np.array([(len(one.largest), len(one.boxes)) if one else (0, 0) for one in rows], "<u4")
    columns = [counts]
    for name in ("largest_first", "first", "last"):
        columns += [getattr(one, name).astype("<u2") for one in known]
    for name in ("largest", "boxes"):
        columns += [getattr(one, name)[:, side] for side in range(4) for one in known]
    return zlib.compress(b"".join(column.tobytes() for column in columns), 9)


def box_rows(heatmap: np.ndarray, thresholds: int = 1000, protocol: Protocol = "reference") -> BoxRows:
    """Every box of a heatmap at every threshold of a grid.

    Args:
        heatmap: (H, W) in [0, 1], no side over 255.
        thresholds: number of thresholds, up to 65536.
        protocol: the convention of the boxes, see `heatmap_to_boxes`.

    Raises:
        InputError: the heatmap is malformed, or there are too many thresholds or pixels for a page.
    """
    if thresholds > 2**16 or max(np.shape(heatmap), default=0) > 255:
        raise InputError(
            f"{thresholds} thresholds of a map {np.shape(heatmap)}: a page supports up to 65536 thresholds "
            "and maps of up to 255 pixels per side"
        )
    levels = to_levels(check_heatmap(heatmap), protocol)
    if levels.top == 0:  # no foreground: the evaluator's empty box at every threshold
        empty, zero, end = np.zeros((1, 4), np.uint8), np.zeros(1, np.uint16), np.uint16(thresholds - 1)
        return BoxRows(zero, empty, zero, np.array([end]), empty)
    at = levels.at(threshold_grid(thresholds))  # (T,) non-decreasing
    largest = to_convention(largest_contours(levels), levels.shape, protocol)[at]
    changes = np.flatnonzero(np.any(np.diff(largest, axis=0, prepend=-1) != 0, axis=1))
    found, low, high = all_contours(levels)
    first, last = np.searchsorted(at, low, "left"), np.searchsorted(at, high, "right") - 1
    occurs = first <= last  # not for levels between two adjacent thresholds
    boxes = to_convention(found, levels.shape, protocol)[occurs]
    order = np.argsort(first[occurs], kind="stable")
    return BoxRows(
        changes.astype(np.uint16),
        largest[changes].astype(np.uint8),
        first[occurs][order].astype(np.uint16),
        last[occurs][order].astype(np.uint16),
        boxes[order].astype(np.uint8),
    )


@dataclass(frozen=True)
class Source:
    """A run in the explorer.

    Attributes:
        folder: of a finished run of `heatbox evaluate`.
        split: the data set with its images; None if they were not found.
        protocol: convention of its boxes.
        thresholds: size of its threshold grid.
        normalize: how its maps are brought to [0, 1].
    """

    folder: Folder
    split: Split | None
    protocol: Protocol
    thresholds: int
    normalize: str = "min-max"


def open_source(folder: Folder, notes: list[str]) -> Source | None:
    """A folder as a source of the explorer; None if it contains no maps with boxes.

    Args:
        folder: of results.
        notes: receives a sentence if the images are not found.
    """
    if folder.metrics is None or folder.has_masks or not (folder.path / PREDICTIONS).exists():
        return None
    config, split = folder.run.settings(), None
    try:
        split = reopen_images(folder.run, config)
    except (InputError, KeyError) as error:
        notes.append(f"{folder.name}: its images were not found, so maps are shown without them ({error})")
    return Source(folder, split, config["protocol"], config["thresholds"], config["normalize"])


def chosen_ids(source: Source, limit: int) -> list[str]:
    """Ids to show: all, or `limit` of them spread evenly from best to worst IoU, in the order of the run."""
    key = f"iou_{source.folder.maps[0]}"
    scored = [(record["id"], record[key]) for records in source.folder.run.records() for record in records]
    ranked = sorted(range(len(scored)), key=lambda place: -scored[place][1])
    return [scored[place][0] for place in sorted(ranked[i] for i in evenly_spaced(len(scored), limit))]


def explorer_data(sources: Sequence[Source], limit: int = 500, track: Track = silent) -> dict[str, Any]:
    """The data that the explorer's script reads.

    Args:
        sources: runs; the images of the first are shown, with the maps of all.
        limit: maximum number of images.
        track: shows progress.

    Returns:
        a dictionary for JSON: "classes", "images", and "maps" with a prediction or None for each image.

    Raises:
        InputError: a run is damaged, or an image cannot be read.
    """
    ids = chosen_ids(sources[0], limit)
    place = {name: index for index, name in enumerate(ids)}
    images: list[dict[str, Any]] = [{} for _ in ids]
    maps: list[dict[str, Any]] = []
    for source in sources:
        columns: dict[str, list[Any]] = {name: [None] * len(ids) for name in source.folder.maps}
        rows: dict[str, list[BoxRows | None]] = {name: [None] * len(ids) for name in source.folder.maps}
        examples = {example.id: example for example in source.split or ()}
        records = itertools.chain.from_iterable(source.folder.run.records())
        for record in track(records, f"boxes of {source.folder.name}", len(source.folder.run)):
            if (index := place.get(record["id"])) is None:
                continue
            size, frame = (record["width"], record["height"]), (REFERENCE_SIDE, REFERENCE_SIDE)
            image = images[index]
            if not image:
                example = examples.get(record["id"])
                jpeg = jpeg_of(source.split.open_image(example), size) if source.split and example else None
                image |= {"id": record["id"], "label": record["label"], "size": size}
                image |= {"truth": {}, "jpeg": jpeg}
            truth = scaled_truth(record["boxes"], size, frame, source.protocol, record["id"])
            image["truth"].setdefault(source.protocol, truth.tolist())
            for name in source.folder.maps:
                columns[name][index] = _prediction(record, name)
                heatmap = normalize_heatmap(record[f"map_{name}"], REFERENCE_SIDE, source.normalize)
                rows[name][index] = box_rows(heatmap, source.thresholds, source.protocol)
        maps += [_map(source, name, columns[name], rows[name]) for name in source.folder.maps]
    names = next((source.split.class_names for source in sources if source.split), [])
    return {
        "frame": REFERENCE_SIDE,
        "classes": [str(name) for name in names],
        "images": images,
        "maps": maps,
        "total": len(sources[0].folder.run),
        "has_jpegs": any(image["jpeg"] for image in images),
    }


def _map(source: Source, name: str, column: Sequence[Any], rows: Sequence[BoxRows | None]) -> dict[str, Any]:
    """One map of one run: its thresholds marked on the slider, and its predictions."""
    found = source.folder.scores["methods"][name]
    every, transferred = found["all_contours"], found.get("transferred")
    return {
        "run": source.folder.name,
        "method": name,
        "thresholds": source.thresholds,
        "protocol": source.protocol,
        "oracle": found["threshold"],
        "oracle_all": every["threshold"][int(np.argmin(np.abs(np.array(every["iou"]) - 0.5)))],
        "transferred": transferred["threshold"] if transferred else None,
        "predictions": list(column),
        "boxes": _text(packed(rows)),
    }


def _prediction(record: Record, method: str) -> dict[str, Any]:
    """A map of one record, the classes predicted, and the saved channels of highest class weight."""
    found = heat(record[f"map_{method}"]) | {"top5": record["top5"].tolist(), "target": record["target"]}
    if "channel_maps" in record and method.startswith("cam"):
        columns = (record[f"channel_{name}"] for name in ("index", "weight", "maps"))
        found["channels"] = [
            {"index": int(index), "weight": float(weight)} | heat(raw)
            for index, weight, raw in zip(*columns, strict=True)
        ]
    return found


def heat(raw: np.ndarray) -> dict[str, Any]:
    """A map as the page's script reads it."""
    small = small_map(raw)
    return {"shape": list(small.shape), "heat": _text(small.tobytes())}


def small_map(raw: np.ndarray) -> np.ndarray:
    """A map for display: its own range as 0 to 255, (h, w) uint8, no side over `MAX_MAP_SIDE`.

    A constant map, or one with NaN or infinity, becomes zeros, as in scoring.
    """
    array = np.asarray(raw, dtype=np.float32)
    if max(array.shape) > MAX_MAP_SIDE:
        height, width = (min(side, MAX_MAP_SIDE) for side in array.shape)
        array = cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA)
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all() or high <= low:
        return np.zeros(array.shape, np.uint8)
    return ((array - low) / (high - low) * 255).round().astype(np.uint8)


def jpeg_of(image: Image.Image, size: Sequence[int]) -> str:
    """An image as base64 JPEG with the aspect ratio of `size`, its longer side at most `IMAGE_SIDE`."""
    longer = max(size)
    side = min(IMAGE_SIDE, max(image.size))
    width, height = (max(1, round(length * side / longer)) for length in size)
    stream = io.BytesIO()
    image.resize((width, height)).save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return _text(stream.getvalue())


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
