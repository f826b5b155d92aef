"""Results of a run in the formats of other tools: COCO detections, .npy heatmaps, overlay images."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heatbox._utils.io import made_folder, to_json, write_atomically
from heatbox._utils.progress import Track, silent
from heatbox.boxes.contours import Protocol, check_threshold
from heatbox.boxes.ops import REFERENCE_SIDE
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.evaluation.run import MASK, Record, Run
from heatbox.evaluation.summary import own_maps
from heatbox.inference.boxes import map_to_boxes
from heatbox.maps.normalize import normalize_heatmap
from heatbox.visualization.overlay import FOUND_COLOUR, TRUTH_COLOUR, draw_boxes, draw_mask, overlay, save_png

OVERLAY_SIDE = 512


class RunMaps:
    """The maps of one method in a finished run, and the threshold of their boxes.

    Args:
        folder: of the run.
        method: name of the method; by default the run's first.
        threshold: fraction of a map's maximum in [0, 1); by default the best one for MaxBoxAcc.

    Raises:
        InputError: no finished run, no maps of this method, or a threshold out of range.
    """

    def __init__(self, folder: Path, method: str | None = None, threshold: float | None = None) -> None:
        self.run = Run(folder)
        self.protocol: Protocol = self.run.settings()["protocol"]
        metrics = self.run.scores()
        self.run.require_finished()
        methods = own_maps(metrics)
        self.method = method or methods[0]
        if self.method not in methods:
            raise InputError(f"{folder}: contains no maps of {self.method!r}, only of {', '.join(methods)}")
        best = metrics["methods"][self.method]["threshold"]
        self.threshold = best if threshold is None else check_threshold(threshold)

    def records(self) -> Iterator[Record]:
        """All records of the run."""
        return itertools.chain.from_iterable(self.run.records())

    def heatmap(self, record: Record) -> np.ndarray:
        """(224, 224) float32 in [0, 1], as it is scored."""
        return normalize_heatmap(record[f"map_{self.method}"], REFERENCE_SIDE)

    def boxes(self, record: Record, size: Sequence[int] | None = None) -> np.ndarray:
        """(K, 4) float64 xyxy, half-open: the box of the largest contour, or none; see `map_to_boxes`.

        Args:
            record: of the image.
            size: (width, height) of the image, by default that of the record.
        """
        size = size or (record["width"], record["height"])
        return map_to_boxes(record[f"map_{self.method}"], size, self.threshold, protocol=self.protocol)


def write_coco(maps: RunMaps, path: Path, class_names: Sequence[str] = (), track: Track = silent) -> Path:
    """Write boxes as COCO detections, and the images and ground truth as a second file.

    A detection has image_id (the index of the image in the run, from 1), category_id (the class its map was
    made for), bbox [x, y, width, height] in pixels of the image, and as score the probability of that class.
    An image whose map has no pixel above the threshold has no detection.

    Args:
        maps: the maps.
        path: the JSON file of detections; the ground truth is written to STEM-truth.json.
        class_names: names of the categories; without them categories are named by numbers.
        track: how to show progress.

    Returns:
        the file of the ground truth.

    Raises:
        InputError: a file cannot be written, or the run has masks in place of boxes.
    """
    if MASK in next(maps.records()):
        raise InputError(
            f"{maps.run.folder}: was scored against masks, and COCO's ground truth would have no box; "
            "--npy and --overlays work"
        )
    detections: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    classes = 0
    for number, record in enumerate(track(maps.records(), "boxes", len(maps.run)), 1):
        classes = len(record["logits"])
        size = {"width": record["width"], "height": record["height"]}
        images.append({"id": number, "file_name": record["id"], **size})
        place = {"image_id": number, "category_id": record["target"]}
        score = _probability(record["logits"], record["target"])
        for box in maps.boxes(record):
            detections.append({**place, "bbox": _corner_and_size(box), "score": score})
        for one in record["boxes"]:
            corners = _corner_and_size(one)
            extra = {"area": corners[2] * corners[3], "iscrowd": 0, "category_id": record["label"]}
            truth.append({"id": len(truth) + 1, **place, "bbox": corners, **extra})
    categories = [
        {"id": index, "name": str(class_names[index]) if index < len(class_names) else str(index)}
        for index in range(max(classes, len(class_names)))
    ]
    annotations = path.parent / f"{path.stem}-truth.json"
    made_folder(path.parent)
    write_atomically(path, to_json(detections).encode())
    content = {"info": {}, "images": images, "annotations": truth, "categories": categories}
    return write_atomically(annotations, to_json(content).encode())


def write_heatmaps(maps: RunMaps, folder: Path, track: Track = silent) -> None:
    """Write heatmaps as `<image id>.npy`, 224 x 224 float32 in [0, 1]: the layout that `heatbox score` reads.

    Raises:
        InputError: a file cannot be written, or an id leads out of the folder.
    """
    for record in track(maps.records(), "heatmaps", len(maps.run)):
        stream = io.BytesIO()
        np.save(stream, maps.heatmap(record))
        write_atomically(_inside(folder, record["id"] + ".npy"), stream.getvalue())


def write_overlays(
    maps: RunMaps, folder: Path, split: Split, track: Track = silent, limit: int | None = None
) -> None:
    """Write each image with its map, box and ground truth as `<image id>.png` of at most 512 pixels.

    Args:
        maps: the maps.
        folder: the output folder; made if missing.
        split: the images.
        track: how to show progress.
        limit: only the first so many images.

    Raises:
        InputError: an image is missing or damaged, a file cannot be written, or an id leads out of the
            folder.
    """
    examples: Mapping[str, Any] = {example.id: example for example in split}
    count = min(len(maps.run), len(maps.run) if limit is None else limit)
    for record in track(itertools.islice(maps.records(), count), "overlays", count):
        if record["id"] not in examples:
            raise InputError(f"{split.name}: has no image {record['id']!r}, which the run contains")
        image = split.open_image(examples[record["id"]])
        # Data sets with masks in place of boxes do not list the sizes of their images.
        size = np.array([record["width"], record["height"]] if record["width"] else image.size)
        sides = np.maximum(1, (size * min(1, OVERLAY_SIDE / size.max())).round().astype(int)).tolist()
        image = image.resize(sides)
        scale = np.tile(sides / size, 2)
        drawn = overlay(image, maps.heatmap(record))
        drawn = draw_boxes(drawn, record["boxes"] * scale, TRUTH_COLOUR)
        if MASK in record:
            drawn = draw_mask(drawn, record[MASK], TRUTH_COLOUR)
        drawn = draw_boxes(drawn, maps.boxes(record, sides), FOUND_COLOUR)
        save_png(drawn, _inside(folder, record["id"] + ".png"))


def _probability(logits: np.ndarray, target: int) -> float:
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    return float(shifted[target] / shifted.sum())


def _corner_and_size(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]


def _inside(folder: Path, name: str) -> Path:
    """A path inside the folder; its parent folders are made."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"image id {name!r} leads out of {folder}, expected a path inside it")
    made_folder(path.parent)
    return path
