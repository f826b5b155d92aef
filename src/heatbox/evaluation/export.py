"""Results of a run in the formats of other tools: boxes, COCO detections, .npy heatmaps, overlay images."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from heatbox._utils.io import made_folder, write_atomically
from heatbox._utils.progress import Track, silent
from heatbox.boxes.contours import Protocol, check_threshold
from heatbox.boxes.ops import REFERENCE_SIDE
from heatbox.config import ScoreFunction
from heatbox.data.formats.coco import to_coco, to_coco_results
from heatbox.data.formats.output import json_text
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.run import IMAGE, MASK, Record, Run
from heatbox.evaluation.summary import own_maps
from heatbox.inference.boxes import map_to_boxes
from heatbox.inference.calibration import Calibration
from heatbox.inference.confidence import ConfidenceModel, box_confidence
from heatbox.inference.scores import class_scores, score_function
from heatbox.maps.normalize import normalize_heatmap
from heatbox.visualization.overlay import FOUND_COLOUR, TRUTH_COLOUR, draw_boxes, draw_mask, overlay, save_png

OVERLAY_SIDE = 512


class RunMaps:
    """The maps of one method in a finished run, and the threshold of their boxes.

    Args:
        folder: of the run.
        method: name of the method; by default the run's first.
        threshold: fraction of a map's maximum in [0, 1); by default the best one for MaxBoxAcc.
        scores: "softmax" or "sigmoid", which makes scores of logits; by default the run's, see
            `heatbox.inference.scores`.
        calibration: of the method: its threshold is that of the boxes, and their score the probability that
            they are right, instead of that of their class.

    Raises:
        InputError: no finished run, no maps of this method, a threshold out of range, or a calibration of
            other maps, of another normalization, or beside a threshold.

    Warns:
        AssumptionWarning: the calibration is of maps that were made in another way.
    """

    def __init__(
        self,
        folder: Path,
        method: str | None = None,
        threshold: float | None = None,
        scores: ScoreFunction | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.run = Run(folder)
        self.protocol: Protocol = self.run.settings()["protocol"]
        self.normalize: str = self.run.settings()["normalize"]
        metrics = self.run.scores()
        self.run.require_finished()
        methods = own_maps(metrics)
        self.method = method or methods[0]
        if self.method not in methods:
            raise InputError(f"{folder}: contains no maps of {self.method!r}, only of {', '.join(methods)}")
        best = metrics["methods"][self.method]["threshold"]
        self.confidence: ConfidenceModel | None = None
        if calibration is not None:
            if threshold is not None or scores is not None:
                given = f"threshold is {threshold}" if threshold is not None else f"scores is {scores}"
                raise InputError(f"{given}, but {calibration.where} has its own; expected only one of them")
            calibration.require_settings(self.run.settings())
            known = calibration.of(self.method)
            best, self.confidence = known.threshold, known.confidence
        self.threshold = best if threshold is None else check_threshold(threshold)
        asked = scores or metrics.get("scores") or self.run.settings().get("scores")
        classes = len(next(iter(self.run.records(1)))[0]["logits"])
        self.scores = score_function(asked, classes)

    def records(self) -> Iterator[Record]:
        """All records of the run."""
        return itertools.chain.from_iterable(self.run.records())

    def heatmap(self, record: Record) -> np.ndarray:
        """(224, 224) float32 in [0, 1], as it is scored."""
        return normalize_heatmap(record[f"map_{self.method}"], REFERENCE_SIDE, self.normalize)

    @property
    def score_words(self) -> str:
        """What the scores of boxes are."""
        return self.scores if self.confidence is None else "calibrated probability that the box is right"

    def score(self, record: Record, boxes: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """(K,) scores of the boxes of an image: the probability of the class that its map was made for, or
        with a calibration that of each box to be right.

        Args:
            record: of the image.
            boxes: (K, 4) xyxy of `boxes`.
            size: (width, height) of the image.
        """
        if self.confidence is not None:
            maps = {self.method: record[f"map_{self.method}"]}
            return box_confidence(maps, boxes, size, self.confidence)
        score = class_scores(record["logits"], self.scores)[record["target"]]
        return np.full(len(boxes), float(score))

    def boxes(self, record: Record, size: Sequence[int] | None = None) -> np.ndarray:
        """(K, 4) float64 xyxy, half-open: the box of the largest contour, or none; see `map_to_boxes`.

        Args:
            record: of the image.
            size: (width, height) of the image, by default that of the record.
        """
        size = size or (record["width"], record["height"])
        return map_to_boxes(
            record[f"map_{self.method}"],
            size,
            self.threshold,
            protocol=self.protocol,
            normalize=self.normalize,
        )


def predicted_split(
    maps: RunMaps, split: Split | None = None, class_names: Sequence[str] = (), track: Track = silent
) -> Split:
    """The boxes of a run as a split of predictions, which `heatbox.data.write_splits` writes.

    A box has the class that its map was made for, and its score; see `RunMaps.score`.

    Args:
        maps: the maps.
        split: the images of the run; without it, the result has none to open.
        class_names: names of the categories; those that are missing are numbers.
        track: how to show progress.

    Raises:
        InputError: the run does not have the sizes of its images, and there is no split to open them.
    """
    examples, classes = [], 0
    images = {example.id: example for example in split or ()}
    for record in track(maps.records(), "boxes", len(maps.run)):
        classes = max(classes, len(record["logits"]))
        size = (record["width"], record["height"])
        if 0 in size and (split is None or record["id"] not in images):
            raise InputError(f"{maps.run.folder}: does not have the size of {record['id']!r}, nor its image")
        if 0 in size and split is not None:  # data sets with masks do not list sizes
            size = split.open_image(images[record["id"]]).size
        boxes = maps.boxes(record, size).astype(np.float64)
        scores = maps.score(record, boxes, size)
        image = record.get(IMAGE) or ""
        examples.append(Example(record["id"], record["target"], size, boxes, box_scores=scores, image=image))
    names = [*map(str, class_names), *map(str, range(len(class_names), classes))]
    return Split("predictions", examples, names, split.open_image if split else _no_image).by_image()


def _true_split(maps: RunMaps, class_names: Sequence[str]) -> Split:
    """The ground truth in the records of a run."""
    examples = []
    for record in maps.records():
        size, image = (record["width"], record["height"]), record.get(IMAGE) or ""
        examples.append(Example(record["id"], record["label"], size, record["boxes"], image=image))
    return Split("truth", examples, class_names, _no_image).by_image()


def _no_image(example: Example) -> Image.Image:
    raise InputError(f"image {example.id!r} was not found")


def write_coco(maps: RunMaps, path: Path, class_names: Sequence[str] = (), track: Track = silent) -> Path:
    """Write boxes as COCO detections, and the images and ground truth as a second file.

    A detection has image_id (the index of the image in the run, from 1), category_id (the class its map was
    made for, from 0), bbox [x, y, width, height] in pixels of the image, and a score, see `RunMaps.score`. An
    image whose map has no pixel above the threshold has no detection.

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
    found = predicted_split(maps, None, class_names, track)
    truth = to_coco(_true_split(maps, found.class_names), first_category=0)
    made_folder(path.parent)
    write_atomically(path, json_text(to_coco_results(found, first_category=0)).encode())
    return write_atomically(path.parent / f"{path.stem}-truth.json", json_text(truth).encode())


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


def _inside(folder: Path, name: str) -> Path:
    """A path inside the folder; its parent folders are made."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"image id {name!r} leads out of {folder}, expected a path inside it")
    made_folder(path.parent)
    return path
