"""Score heatmaps as they come: from an iterator, or from a folder in the reference layout.

Memory does not grow with the number of maps, apart from the ids. With a records folder, what has been
scored is on disk after every few hundred images, and a second call continues where the first one ended.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from heatbox._utils.checks import check_choice, check_length, kind_of
from heatbox.boxes.contours import Protocol, check_heatmap
from heatbox.boxes.ops import REFERENCE_SIDE, check_boxes
from heatbox.data.types import Example
from heatbox.errors import InputError
from heatbox.evaluation.heatmaps import MapFolder, in_batches, open_maps, problems_of
from heatbox.evaluation.records import RecordFolder, Records, recorded_at
from heatbox.metrics.collection import BoxMetrics
from heatbox.metrics.functional import V2_IOU, BoxScore
from heatbox.metrics.max_box_acc import MaxBoxAcc

Item = tuple[str, Any, Any, Sequence[float]]
"""(image id, heatmap (H, W), boxes (K, 4), image size (width, height))."""

MAPS_AT_A_TIME = 256
"""Maps held in memory and, with a records folder, written together: 51 MB of 224 x 224 float32."""


@dataclass(frozen=True)
class SplitScore:
    """The outcome of scoring a split.

    Attributes:
        scores: "MaxBoxAcc" (IoU .5 of .3 .5 .7 is the published one) and "MaxBoxAccV2".
        images: images scored, those of earlier calls included.
        resumed: of these, images that an earlier call had scored.
        missing: ids without a heatmap.
        malformed: (id, what is wrong) of heatmaps that could not be scored.
        unknown: heatmaps that belong to no image, as paths within the folder.
        records: per-image outcomes, where a records folder was given.
    """

    scores: dict[str, BoxScore]
    images: int
    resumed: int = 0
    missing: tuple[str, ...] = ()
    malformed: tuple[tuple[str, str], ...] = ()
    unknown: tuple[str, ...] = ()
    records: Records | None = None

    def summary(self) -> dict[str, float]:
        """The two published numbers in percent and their thresholds: MaxBoxAcc is the one at IoU .5."""
        largest, every = self.scores["MaxBoxAcc"], self.scores["MaxBoxAccV2"]
        half = int(np.argmin(abs(largest.iou - 0.5)))
        return {
            "MaxBoxAcc": float(largest.per_iou[half]),
            "MaxBoxAcc_threshold": float(largest.threshold[half]),
            "MaxBoxAccV2": every.accuracy,
            **{
                f"MaxBoxAccV2_threshold_{d:g}": float(t)
                for d, t in zip(every.iou, every.threshold, strict=True)
            },
        }

    def problems(self) -> list[str]:
        """What was wrong, one sentence each with its count and first case; empty when all was well."""
        return problems_of(self.missing, self.malformed, self.unknown)


@dataclass
class BoxScorer:
    """MaxBoxAcc at IoU .3 .5 .7 and MaxBoxAccV2 of a stream of images, in one pass.

    Args:
        protocol: `reference` or `exact`.
        thresholds: number of evenly spaced thresholds.
        iou: the IoUs of both scores.
        threads: threads to use; all cores by default.
    """

    protocol: Protocol = "reference"
    thresholds: int = 1000
    iou: Sequence[float] = V2_IOU
    threads: int | None = None
    metrics: dict[str, MaxBoxAcc] = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = {
            "MaxBoxAcc": MaxBoxAcc(self.iou, "largest", self.protocol, self.thresholds, self.threads),
            "MaxBoxAccV2": MaxBoxAcc(self.iou, "all", self.protocol, self.thresholds, self.threads),
        }

    def update(
        self, heatmaps: Any, boxes: Any, image_sizes: Any, records: bool = False
    ) -> dict[str, np.ndarray]:
        """Add images; with `records`, the (N, I, T) correctness of each score is returned."""
        curves = BoxMetrics(self.metrics).update(heatmaps, boxes, image_sizes, return_iou=records)
        if curves is None:
            return {}
        iou = np.asarray(self.iou)[:, None]
        return {name: curves[k][:, None] >= iou for k, name in enumerate(self.metrics)}

    def compute(self) -> dict[str, BoxScore]:
        """Both scores over every image so far."""
        return {name: metric.compute() for name, metric in self.metrics.items()}


def score_stream(
    items: Iterable[Item],
    protocol: Protocol = "reference",
    thresholds: int = 1000,
    threads: int | None = None,
    records: Path | str | None = None,
    progress: Callable[[int], None] | None = None,
    fingerprint: str = "",
    keep: bool = False,
) -> SplitScore:
    """Score heatmaps from an iterator.

    Args:
        items: (id, heatmap, boxes, image size) of each image; see `Item`. Ids must be unique.
        protocol: `reference` or `exact`.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use; all cores by default.
        records: a folder for per-image outcomes. Images recorded there by an earlier call with the same
            settings count and are not scored again. Reference protocol only.
        progress: called with the number of images done.
        fingerprint: what else the records depend on, such as the split; records with another are refused.
        keep: keep per-image outcomes in memory (under 1 KB an image), where no folder is given.

    Returns:
        The scores; heatmaps that cannot be scored are listed in `malformed`, the others count.

    Raises:
        InputError: no image could be scored, ground truth is malformed, or the records folder was made
            with other settings. What was recorded before stays.
        TypeError: an item that is no (id, heatmap, boxes, image size).
    """
    check_choice(protocol, "protocol", ("reference", "exact"))
    scorer = BoxScorer(protocol, thresholds, threads=threads)
    folder, done = _open_records(records, scorer, fingerprint)
    resumed = len(done)
    malformed: list[tuple[str, str]] = []
    kept: list[tuple[list[str], dict[str, np.ndarray]]] = []
    count = resumed
    for batch in in_batches((item for item in _items(items) if item[0] not in done), MAPS_AT_A_TIME):
        good = []
        for item in batch:
            check_boxes(item[2], item[3], item[0])
            try:
                good.append((item[0], _checked(item[1]), item[2], item[3]))
            except InputError as error:
                malformed.append((item[0], str(error)))
        if good:
            ids, maps, boxes, sizes = (list(column) for column in zip(*good, strict=True))
            bits = scorer.update(maps, boxes, sizes, records=keep or folder is not None)
            if folder is not None:
                folder.write(ids, bits)
            elif keep:
                kept.append((ids, {name: np.packbits(value, axis=2) for name, value in bits.items()}))
        count += len(good)
        if progress is not None:
            progress(count)
    if count == 0:
        why = f", the first because {malformed[0][0]}: {malformed[0][1]}" if malformed else ""
        raise InputError(f"none of {len(malformed)} heatmaps could be scored{why}")
    found = folder.read() if folder is not None else _joined(kept, thresholds) if keep else None
    return SplitScore(scorer.compute(), count, resumed, (), tuple(malformed), (), found)


def _joined(kept: Sequence[tuple[list[str], dict[str, np.ndarray]]], thresholds: int) -> Records:
    """Outcomes of some batches as one."""
    ids = [name for some, _ in kept for name in some]
    return Records(
        ids, {name: np.concatenate([bits[name] for _, bits in kept]) for name in kept[0][1]}, thresholds
    )


def _items(items: Iterable[Item]) -> Iterator[Item]:
    if not isinstance(items, Iterable) or isinstance(items, str):
        raise TypeError(f"items: {kind_of(items)}, expected (id, heatmap, boxes, image size) of each image")
    for item in items:
        if not isinstance(item, tuple | list) or len(item) != 4:
            raise TypeError(f"an item is {kind_of(item)}, expected (id, heatmap, boxes, image size)")
        yield item[0], item[1], item[2], item[3]


def _checked(heatmap: Any) -> np.ndarray:
    if isinstance(heatmap, InputError):  # a map that could not even be read
        raise heatmap
    return check_heatmap(heatmap)


def _open_records(
    records: Path | str | None, scorer: BoxScorer, fingerprint: str
) -> tuple[RecordFolder | None, set[str]]:
    """The records folder, if any, with what it holds already counted; and the ids that it holds."""
    if records is None:
        return None, set()
    if scorer.protocol != "reference":
        raise InputError("records are kept for the reference protocol only: leave out the records folder")
    shape = (len(scorer.iou), scorer.thresholds)
    settings: dict[str, Any] = {
        "protocol": scorer.protocol,
        "thresholds": scorer.thresholds,
        "iou": list(scorer.iou),
    }
    settings["fingerprint"] = fingerprint
    folder = RecordFolder(Path(records), settings, dict.fromkeys(scorer.metrics, shape))
    done: set[str] = set()
    for ids, packed in folder.read_parts():
        for name, metric in scorer.metrics.items():
            metric.correct += np.unpackbits(packed[name], axis=2, count=scorer.thresholds).sum(
                0, dtype=np.int64
            )
            metric.images += len(ids)
        done.update(ids)
    return folder, done


def score_folder(
    heatmaps: Path | str,
    examples: Sequence[Example],
    protocol: Protocol = "reference",
    thresholds: int = 1000,
    threads: int | None = None,
    records: Path | str | None = None,
    resize: bool = False,
    progress: Callable[[int], None] | None = None,
    keep: bool = False,
) -> SplitScore:
    """Score a folder of `.npy` heatmaps in the reference layout: `<image id>.npy`, 2-D, in [0, 1].

    `<image id without its suffix>.npy` is found as well, since some tools save maps so.

    Args:
        heatmaps: the folder.
        examples: the images of the split, with boxes and sizes.
        protocol: `reference` or `exact`.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use; all cores by default.
        records: as for `score_stream`.
        resize: bring maps to 224 x 224 and [0, 1] as `normalize_heatmap` does. Otherwise, in the reference
            protocol, maps of another size are not scored: boxes are compared in the 224 x 224 frame.
        progress: as for `score_stream`.
        keep: as for `score_stream`.

    Returns:
        The scores, and which images had no map, a malformed map, and which maps had no image.

    Raises:
        InputError: an image id leads out of the folder, an image has no box, a map is newer than the
            record of it, or as `score_stream`.
        TypeError: a folder that is no path, or examples that are none.
    """
    if not isinstance(heatmaps, str | Path):
        raise TypeError(f"heatmaps: {kind_of(heatmaps)}, expected a folder")
    check_length(examples, "examples", "the examples of a split")
    if strange := [one for one in examples if not isinstance(one, Example)]:
        raise TypeError(f"examples: one is {kind_of(strange[0])}, expected the examples of a split")
    maps = open_maps(heatmaps, [example.id for example in examples])
    if records is not None:
        _refuse_changed(maps, Path(records))
    truth = {example.id: example for example in examples}
    side = REFERENCE_SIDE if protocol == "reference" else None
    items: Iterator[Item] = (
        (name, one, truth[name].boxes, truth[name].size)
        for name, one in maps.load(resize, side, threads, MAPS_AT_A_TIME)
    )
    outcome = score_stream(
        items, protocol, thresholds, threads, records, progress, _fingerprint(examples, resize), keep
    )
    recorded = set(outcome.records.ids) if outcome.records is not None else set()
    return replace(outcome, missing=tuple(i for i in maps.missing if i not in recorded), unknown=maps.unknown)


def _refuse_changed(maps: MapFolder, records: Path) -> None:
    """Raise where a map is newer than the record of it: old scores must not pass for those of new maps."""
    for name, written in recorded_at(records).items():
        path = maps.path(name)
        if path is not None and path.stat().st_mtime > written:
            raise InputError(
                f"{path}: has changed since it was scored into {records}; score anew (--overwrite), "
                "or into another folder"
            )


def _fingerprint(examples: Sequence[Example], resize: bool) -> str:
    """A checksum of the ground truth and of how maps are prepared."""
    checksum = zlib.crc32(str(resize).encode())
    for example in sorted(examples, key=lambda e: e.id):
        checksum = zlib.crc32(f"{example.id} {example.size}".encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(example.boxes, dtype=np.float64).tobytes(), checksum)
    return f"{checksum:08x}"
