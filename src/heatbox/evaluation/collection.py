"""The foreground head of a run: fitted to its images in two passes, resumable, or read from a file.

The first pass runs the network on every image once. It saves the records without the maps of the head, and
with the features that the head reads: ``collection/sample`` of the images on which the projection is fitted,
``collection/others`` of the others, already projected (50 KB an image of 224 pixels). The head is fitted on a
few thousand of them at most. The second pass reads the records in the order of the split and adds the maps;
the network is not run again. Memory does not grow with the number of images.

``foreground.safetensors``  the fitted head
``foreground.json``         which head made the maps, and on which images it was fitted
``collection/``             of an unfinished run, and of one whose head is to learn from corrected boxes too
"""

from __future__ import annotations

import copy
import heapq
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heatbox._utils import processes
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.run import COLLECTION, HEAD, Record, Run
from heatbox.inference.collection import (
    MOST_IMAGES,
    drawn,
    gathered,
    identity,
    projected,
    sample_size,
    warn_of_few,
)
from heatbox.maps.foreground import ForegroundHead, Projection, fit_foreground, fit_projection, foreground
from heatbox.maps.registry import ForegroundName, HeadShape, MapInputs
from heatbox.models.checkpoints import read_safetensors, write_safetensors

FEATURES, SEEDS, EXTENT = "features", "seeds", "extent"
"""Columns of the records of a collection: features, seed maps, and what the input shows of the image."""

PROJECTION = "projection.safetensors"

Pass = Callable[[Split, Run, Projection | None], None]
"""Runs the network on a split and appends to a run; see `Collection.gather`."""


class ImageCollection:
    """What the first pass of a run keeps of its images.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self.folder = run.folder / COLLECTION
        self.sample, self.others = Run(self.folder / "sample"), Run(self.folder / "others")

    def __bool__(self) -> bool:
        return self.folder.exists()

    def remove(self) -> None:
        """Remove it, once the maps of the head are saved."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def gather(self, split: Split, seed: int, shape: HeadShape, work: Pass) -> Projection:
        """The first pass, resumed where an earlier call ended; returns the projection of the features.

        Args:
            split: the images.
            seed: draws the images on which the projection is fitted.
            shape: of the features of an image.
            work: (images, run to append to, projection) runs the network on the images that the run does not
                contain yet and appends their records with what `kept` returns.

        Raises:
            InputError: no image can be used.
        """
        first = set(drawn(len(split), sample_size(shape), seed))
        path = self.folder / PROJECTION
        there, elsewhere, fitted = self.sample.done(), self.others.done(), path.exists()
        parts: tuple[list[Example], list[Example]] = ([], [])
        for index, example in enumerate(split):  # images may have been added: none is in both parts
            new = index in first and example.id not in elsewhere and not fitted
            parts[not (example.id in there or new)].append(example)
        work(replace(split, examples=parts[0]), self.sample, None)
        with processes.first_alone():
            if path.exists():
                projection = self.projection()
            else:
                records = list(_records(self.sample))
                if not records:
                    raise InputError(f"{split.name}: none of the first {len(first)} images drawn can be used")
                features = torch.from_numpy(np.stack([record[FEATURES] for record in records]))
                projection = fit_projection(features, layers=shape.layers)
                write_safetensors(path, projection.state_dict(), {})
        work(replace(split, examples=parts[1]), self.others, projection)
        return projection

    def fit(self, split: Split, projection: Projection, seed: int) -> tuple[ForegroundHead, list[Example]]:
        """The head, and the examples on which it was fitted."""
        gathered_ids = self.done()
        known = [example.id for example in split if example.id in gathered_ids]
        chosen = {known[index] for index in drawn(len(known), MOST_IMAGES, seed)}
        warn_of_few(len(chosen))
        features, maps = [], []
        for record in self.records(split, projection, chosen):
            features.append(record[FEATURES])
            maps.append(record[SEEDS])
        fitted = fit_foreground(
            torch.from_numpy(np.stack(features)),
            torch.from_numpy(np.stack(maps)),
            projection=projection,
            seed=seed,
        )
        return fitted, [example for example in split if example.id in chosen]

    def done(self) -> set[str]:
        """Ids of the images that it has."""
        return self.sample.done() | self.others.done()

    def projection(self) -> Projection:
        """The projection of the features."""
        return _read_projection(self.folder / PROJECTION)

    def records(
        self, split: Split, projection: Projection, only: Collection[str] | None = None
    ) -> Iterator[Record]:
        """The records of images of the split, in its order, with projected features.

        Args:
            split: the images.
            projection: of the features.
            only: ids of those that are wanted; by default all. Their arrays are copies: views of a shard that
                are kept would hold all of it in memory.
        """
        place = {
            example.id: index for index, example in enumerate(split) if only is None or example.id in only
        }
        sample, others = (
            (record if only is None else copy.deepcopy(record) for record in found if record["id"] in place)
            for found in (_records(self.sample, projection), _records(self.others))
        )
        in_order = sorted(sample, key=lambda record: place[record["id"]])
        return heapq.merge(in_order, others, key=lambda record: place[record["id"]])

    def finish(
        self,
        split: Split,
        head: ForegroundHead,
        run: Run,
        placed: Callable[[np.ndarray, Tensor], np.ndarray],
        at_once: int,
    ) -> None:
        """The second pass: append the records with the maps of the head to the run, as far as it lacks them.

        Args:
            split: the images.
            head: the head.
            run: the run.
            placed: (maps (B, h, w), extents (B, 4)) → maps of whole images.
            at_once: records per shard.
        """
        done = run.done()
        if done >= self.done() & {example.id for example in split}:
            return
        coming = self.records(split, head.projection)
        while group := list(islice(coming, at_once)):
            if not all(record["id"] in done for record in group):
                add_maps(group, head, placed)
                run.append([record for record in group if record["id"] not in done])


def kept(inputs: MapInputs, seed: str, projection: Projection | None, extents: Tensor | None) -> list[Record]:
    """Further columns of the records of the first pass."""
    features, maps = (values.numpy() for values in gathered(inputs, seed, projection))
    columns = [{FEATURES: one, SEEDS: other} for one, other in zip(features, maps, strict=True)]
    if extents is not None:
        for column, extent in zip(columns, extents.numpy(), strict=True):
            column[EXTENT] = extent
    return columns


def _records(run: Run, projection: Projection | None = None) -> Iterator[Record]:
    """The records of one part of a collection; with a projection, of features that it is applied to."""
    if not run.done():
        return
    for batch in run.records():
        if projection is not None:
            values = projected(projection, torch.from_numpy(np.stack([one[FEATURES] for one in batch])))
            for record, value in zip(batch, values.numpy(), strict=True):
                record[FEATURES] = value
        yield from batch


def _read_projection(path: Path) -> Projection:
    state, _ = read_safetensors(path)
    return Projection(*(state[name] for name in ("mean", "std", "components", "offset", "layers")))


def add_maps(
    records: Sequence[Record], head: ForegroundHead, placed: Callable[[np.ndarray, Tensor], np.ndarray]
) -> None:
    """Replace what the first pass kept by the maps of the head, in place.

    Args:
        records: of a collection, with projected features.
        head: the head.
        placed: as for `ImageCollection.finish`.
    """
    features = torch.from_numpy(np.stack([record.pop(FEATURES) for record in records]))
    found = foreground(head, features, projected=True)
    extents = [record.pop(EXTENT) for record in records if EXTENT in record]
    for record in records:
        del record[SEEDS]
    for column in [name for name in records[0] if name.startswith("map_")]:
        parts = ForegroundName.of(column.removeprefix("map_"))
        if parts is None:
            continue
        base = torch.from_numpy(np.stack([record[column] for record in records])) if parts.base else None
        maps = parts.finish(base, head, features, found).numpy()
        if extents:
            maps = placed(maps, torch.from_numpy(np.stack(extents)))
        for record, one in zip(records, maps, strict=True):
            record[column] = one


# -------------------------------------------------------------------------------------- what a run says of it


def save_head(run: Run, head: ForegroundHead, chosen: Sequence[Example], about: Mapping[str, Any]) -> None:
    """Write the head that a run fitted.

    Args:
        run: the run.
        head: the head.
        chosen: the examples on which it was fitted.
        about: further entries on the fit, see `heatbox.inference.collection.fitted_on`.
    """
    marks = sorted({identity(one.file, one.size) for one in chosen})
    head.save(run.folder / HEAD, **about, identities=" ".join(marks))


def head_note(head: ForegroundHead, split: Split, file: Path | None) -> dict[str, Any]:
    """What metrics.json says of the head that made the maps of a split.

    Returns:
        "file" of a head that was given; "fitted_images", "seeds" and "model" of the fit; and, where the head
        says on which images it was fitted, "scored_images", the number of them in the split, judged by their
        names and sizes.
    """
    about = head.fitted_on
    note = {
        "file": None if file is None else str(file),
        "fitted_images": int(about["images"]),
        "seeds": about["seeds"],
        "model": about["model"],
    }
    if "identities" in about:
        marks = set(about["identities"].split())
        note["scored_images"] = len({one.file for one in split if identity(one.file, one.size) in marks})
    return note
