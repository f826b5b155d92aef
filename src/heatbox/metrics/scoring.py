"""Score heatmaps as they come: from an iterator, or from a folder in the reference layout.

Memory does not grow with the number of maps, apart from the ids. With a records folder, what has been
scored is on disk after every few hundred images, and a second call continues where the first one ended.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from heatbox.boxes.batch import available_cores
from heatbox.boxes.component_tree import Protocol, check_heatmap
from heatbox.boxes.geometry import REFERENCE_SIDE, check_boxes
from heatbox.data.example import Example
from heatbox.errors import InputError
from heatbox.maps.prepare import prepare_heatmap
from heatbox.metrics.maxboxacc import V2_IOU, BoxScore, MaxBoxAcc, update_together
from heatbox.metrics.records import RecordFolder, Records, recorded_at

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
        said = []
        if self.missing:
            said.append(f"{len(self.missing)} images have no heatmap (the first: {self.missing[0]})")
        if self.malformed:
            first, why = self.malformed[0]
            said.append(f"{len(self.malformed)} heatmaps could not be scored (the first: {first}: {why})")
        if self.unknown:
            said.append(f"{len(self.unknown)} heatmaps belong to no image (the first: {self.unknown[0]})")
        return said


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
        both = list(self.metrics.values())
        curves = update_together(both, heatmaps, boxes, image_sizes, records)
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
    """
    scorer = BoxScorer(protocol, thresholds, threads=threads)
    folder, done = _open_records(records, scorer, fingerprint)
    resumed = len(done)
    malformed: list[tuple[str, str]] = []
    kept: list[tuple[list[str], dict[str, np.ndarray]]] = []
    count = resumed
    for batch in _batches((item for item in items if item[0] not in done), MAPS_AT_A_TIME):
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


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


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
        resize: bring maps to 224 x 224 and [0, 1] as `prepare_heatmap` does. Otherwise, in the reference
            protocol, maps of another size are not scored: boxes are compared in the 224 x 224 frame.
        progress: as for `score_stream`.
        keep: as for `score_stream`.

    Returns:
        The scores, and which images had no map, a malformed map, and which maps had no image.

    Raises:
        InputError: an image id leads out of the folder, an image has no box, a map is newer than the
            record of it, or as `score_stream`.
    """
    root = Path(heatmaps)
    if not root.is_dir():
        raise InputError(f"{root}: is not a folder, expected one of <image id>.npy heatmaps")
    paths = {example.id: _map_path(root, example.id) for example in examples}
    if len(paths) != len(examples):
        raise InputError(f"{len(examples) - len(paths)} image ids occur twice, expected unique ids")
    present = {p.relative_to(root).as_posix() for p in root.rglob("*.npy")}
    chosen = {k: next((c for c in v if c in present), None) for k, v in paths.items()}
    missing = tuple(k for k, v in chosen.items() if v is None)
    unknown = tuple(sorted(present - {v for v in chosen.values() if v is not None}))
    if len(missing) == len(examples):
        raise InputError(
            f"{root}: holds no heatmap of any of {len(examples)} images (expected {_first(paths)})"
        )
    if records is not None:
        _refuse_changed(root, chosen, Path(records))
    side = REFERENCE_SIDE if protocol == "reference" else None

    def items() -> Iterator[Item]:
        found = [e for e in examples if chosen[e.id] is not None]
        with ThreadPoolExecutor(threads or available_cores()) as pool:
            for batch in _batches([(e.id, chosen[e.id], e.boxes, e.size) for e in found], MAPS_AT_A_TIME):
                loaded = pool.map(lambda item: _load(root / item[1], resize, side), batch)
                yield from (
                    (i, one, boxes, size) for (i, _, boxes, size), one in zip(batch, loaded, strict=True)
                )

    outcome = score_stream(
        items(), protocol, thresholds, threads, records, progress, _fingerprint(examples, resize), keep
    )
    recorded = set(outcome.records.ids) if outcome.records is not None else set()
    return replace(outcome, missing=tuple(i for i in missing if i not in recorded), unknown=unknown)


def _refuse_changed(root: Path, chosen: dict[str, str | None], records: Path) -> None:
    """Raise where a map is newer than the record of it: old scores must not pass for those of new maps."""
    for name, written in recorded_at(records).items():
        path = chosen.get(name)
        if path is not None and (root / path).stat().st_mtime > written:
            raise InputError(
                f"{root / path}: has changed since it was scored into {records}; score anew (--overwrite), "
                "or into another folder"
            )


def _fingerprint(examples: Sequence[Example], resize: bool) -> str:
    """A checksum of the ground truth and of how maps are prepared."""
    checksum = zlib.crc32(str(resize).encode())
    for example in sorted(examples, key=lambda e: e.id):
        checksum = zlib.crc32(f"{example.id} {example.size}".encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(example.boxes, dtype=np.float64).tobytes(), checksum)
    return f"{checksum:08x}"


def _first(paths: dict[str, list[str]]) -> str:
    return next(iter(paths.values()))[0]


def _map_path(root: Path, image_id: str) -> list[str]:
    """Where the map of an image may be, relative to the folder and never outside of it."""
    relative = Path(image_id)
    names = [Path(f"{image_id}.npy"), relative.parent / f"{relative.stem}.npy"]
    base = root.resolve()
    inside = relative.name and not relative.is_absolute() and ".." not in relative.parts
    if not inside or not all((root / name).resolve().is_relative_to(base) for name in names):
        raise InputError(f"image id {image_id!r} leads out of the folder {root}, expected a path inside it")
    return [name.as_posix() for name in names]


def _load(path: Path, resize: bool, side: int | None) -> np.ndarray | InputError:
    """One map, or what is wrong with it."""
    try:
        one = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header can make the reader raise anything
        return InputError(f"{path} is not a readable .npy file ({error})")
    if not isinstance(one, np.ndarray) or one.ndim != 2 or one.size == 0 or one.dtype.kind not in "fiub":
        return InputError(f"{path} has shape {np.shape(one)}, expected a two-dimensional array of numbers")
    if resize:
        if not np.isfinite(one).all():
            return InputError(f"{path} holds {int((~np.isfinite(one)).sum())} values that are not finite")
        return prepare_heatmap(one, side or one.shape)
    if side is not None and one.shape != (side, side):
        return InputError(
            f"{path} is {one.shape[1]} x {one.shape[0]}, expected {side} x {side} (or have maps resized)"
        )
    return one
