"""A foreground head that learns from corrected boxes too.

The head of a run was fitted to the maps of its images. Here it is fitted again to the same features, which
the run has kept: for a corrected image the foreground is what its map shows in its boxes, for the others it
stays that of their maps. The new maps of all images are saved in a run of their own in the folder of the run.

What a head has seen says nothing of its errors on other images. So each corrected image also gets a map of a
head that was fitted without it (cross-validation); thresholds and confidences are calibrated on these maps.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.collection import EXTENT, FEATURES, SEEDS, ImageCollection, add_maps, save_head
from heatbox.evaluation.predict import RECORDS_A_SHARD, placed_maps
from heatbox.evaluation.run import CONFIG, CORRECTED, HEAD, IMAGE, NETWORKS, Record, Run
from heatbox.inference.collection import MOST_IMAGES, drawn
from heatbox.maps.foreground import ForegroundHead, Projection, fit_foreground, load_foreground
from heatbox.maps.registry import ForegroundName

FEWEST = 40
"""Corrected images from which on a head learns from them."""
FOLDS = 4
"""Parts of the corrected images, each of which gets the maps of a head that was fitted without it."""
SHARE = 0.75
"""Fraction of the draws of a fit that are of corrected images."""


@dataclass(frozen=True)
class Refit:
    """What a head that learned from corrected boxes makes of a run.

    Attributes:
        run: its maps of all images.
        held_out: records of the corrected images, with maps of heads that were fitted without them.
    """

    run: Run
    held_out: Sequence[Record]


def can_refit(run: Run, method: str) -> str:
    """Why a head cannot learn from corrections; empty if it can."""
    if ForegroundName.of(method) is None:
        return f"{method} has no foreground head"
    if (run.folder / NETWORKS).exists():
        return "its maps are the mean of several networks"
    if not ImageCollection(run) or not (run.folder / HEAD).exists():
        return f"{run.folder} has not kept the features of its images"
    return ""


def refit(run: Run, split: Split, corrected: Mapping[str, Example], seed: int = 0) -> Refit:
    """Fit the head of a run to its images and to corrected boxes, and make the maps again.

    A rerun after an interruption goes on with the maps; other corrections start them again.

    Args:
        run: a run for which `can_refit` is empty.
        split: its images, one example for each class of an image (`Split.by_class`).
        corrected: id of an image → example with the corrected boxes.
        seed: of the fit and of the division into parts.

    Raises:
        InputError: fewer than two corrected images have features.
    """
    collection = ImageCollection(run)
    projection = collection.projection()
    known = collection.done()
    pairs = [example for example in split if example.id in known]
    mine = {pair.id for pair in pairs if pair.file in corrected and len(corrected[pair.file].boxes)}
    others = [pair.id for pair in pairs if pair.file not in corrected]
    chosen = {others[index] for index in drawn(len(others), MOST_IMAGES, seed)}
    records = list(collection.records(split, projection, mine | chosen))
    files = np.array([record.get(IMAGE) or record["id"] for record in records])
    rows = np.array([record["id"] in mine for record in records])
    images = np.unique(files[rows])
    if len(images) < 2:
        raise InputError(f"{len(images)} corrected images have features, expected two or more")
    fit = _Fit(records, rows, corrected, projection, seed)
    parts = np.random.default_rng(seed).permutation(len(images)) % FOLDS
    part = dict(zip(images, parts, strict=True))
    held_out: list[Record] = []
    for fold in range(min(FOLDS, len(images))):
        out = np.array([one and part[file] == fold for one, file in zip(rows, files, strict=True)])
        some = [copy.copy(records[index]) for index in np.flatnonzero(out)]
        add_maps(some, fit(~out), placed_maps)
        held_out += some
    inner = Run(run.folder / CORRECTED)
    wanted = {"corrections": _digest(corrected), "seed": seed, "head": _head_digest(run)}
    known_config = (inner.folder / CONFIG).exists() and inner.config() == wanted
    inner.start(wanted, resume=known_config)
    if (inner.folder / HEAD).exists():
        head = load_foreground(inner.folder / HEAD)
    else:
        head = fit(np.ones(len(records), bool))
        old = load_foreground(run.folder / HEAD).fitted_on
        about = {name: value for name, value in old.items() if name not in ("heatbox", "identities")}
        about |= {"images": str(len(records)), "corrected": str(len(images))}
        seen = {record["id"] for record in records}
        save_head(inner, head, [pair for pair in pairs if pair.id in seen], about)
    collection.finish(split, head, inner, placed_maps, RECORDS_A_SHARD)
    _append_others(run, inner)
    return Refit(inner, held_out)


class _Fit:
    """Fits heads to some of the records of a collection."""

    def __init__(
        self,
        records: Sequence[Record],
        rows: np.ndarray,
        corrected: Mapping[str, Example],
        projection: Projection,
        seed: int,
    ) -> None:
        self.projection, self.seed, self.rows = projection, seed, rows
        self.features = torch.from_numpy(np.stack([record[FEATURES] for record in records]))
        self.targets = torch.from_numpy(
            np.stack(
                [
                    box_target(record, corrected[record.get(IMAGE) or record["id"]])
                    if mine
                    else record[SEEDS].astype(np.float32)
                    for record, mine in zip(records, rows, strict=True)
                ]
            )
        )

    def __call__(self, chosen: np.ndarray) -> ForegroundHead:
        """The head of the records (N,) bool that are chosen."""
        mine, others = int((chosen & self.rows).sum()), int((chosen & ~self.rows).sum())
        often = max(1, round(SHARE / (1 - SHARE) * others / max(mine, 1)))
        counts = np.where(self.rows, often, 1) * chosen
        return fit_foreground(
            self.features,
            self.targets,
            projection=self.projection,
            seed=self.seed,
            counts=torch.from_numpy(counts.astype(np.int64)),
        )


def box_target(record: Record, corrected: Example) -> np.ndarray:
    """(h, w) float32, on the grid of the maps: 1 on the objects in the corrected boxes of an image, else 0.

    The object in a box is where the map, times the fraction of a position that the box covers, exceeds half
    of its maximum there. A box in which the map is 0 is filled.
    """
    seed = record[SEEDS].astype(np.float32)
    seed = seed - seed.min()
    height, width = seed.shape
    x1, y1, x2, y2 = record.get(EXTENT, (0.0, 0.0, 1.0, 1.0))  # the part of the image that the map shows
    boxes = corrected.boxes / np.tile(corrected.size, 2) - np.array([x1, y1, x1, y1])
    boxes = boxes / np.array([x2 - x1, y2 - y1] * 2) * np.array([width, height] * 2)
    found = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes:
        covered = _covered(top, bottom, height)[:, None] * _covered(left, right, width)
        inside = seed * covered if (seed * covered).any() else covered
        found |= inside > inside.max() / 2
    return found.astype(np.float32)


def _covered(low: float, high: float, count: int) -> np.ndarray:
    """(count,) fraction of each position, one wide, that an interval covers."""
    first = np.arange(count)
    return np.clip(np.minimum(high, first + 1) - np.maximum(low, first), 0, 1)


def _append_others(run: Run, inner: Run) -> None:
    """Append the records of images that came after the fit, whose features are not known, as they are."""
    done = inner.done()
    if done >= run.done():
        return
    for batch in run.records():
        inner.append([record for record in batch if record["id"] not in done])


def _digest(corrected: Mapping[str, Example]) -> str:
    """A fingerprint of corrected boxes."""
    seen = hashlib.sha256()
    for name in sorted(corrected):
        one = corrected[name]
        seen.update(f"{name}\0{one.size}{one.boxes.tolist()}{one.box_labels}\n".encode())
    return seen.hexdigest()[:16]


def _head_digest(run: Run) -> str:
    """A fingerprint of the weights of a head; files of the same weights may differ in their metadata."""
    seen = hashlib.sha256()
    for name, value in sorted(load_foreground(run.folder / HEAD).state_dict().items()):
        seen.update(f"{name} {tuple(value.shape)} ".encode() + value.numpy().tobytes())
    return seen.hexdigest()[:16]
