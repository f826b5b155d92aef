"""What is in a data set, what is missing and what is broken: every table read, every image opened."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from heatbox._utils.cores import number_of_jobs
from heatbox._utils.io import made_folder, write_atomically
from heatbox._utils.progress import Track, silent
from heatbox.data.catalogue import checksum_problems
from heatbox.data.files.images import decode_image
from heatbox.data.open import open_data_set
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.visualization.overlay import data_sheet, save_png

_HELD_OUT = ("test", "val", "valid", "validation", "fullsup")
_BATCH = 256
_MOSTLY = 0.9  # of a split's images: above it another size is how the set is stored, not a fault


@dataclass(frozen=True)
class Seen:
    """What opening one image told.

    Attributes:
        split, id: which image.
        stamp: changes with the file; a later check opens only what has changed.
        digest: of the file's content, hex.
        size: upright (width, height) in pixels; (0, 0) where it could not be opened.
        kind: format and mode as stored, such as "JPEG CMYK", with "turned" where EXIF turns it.
        problem: why it could not be opened, else "".
    """

    split: str
    id: str
    stamp: str
    digest: str
    size: tuple[int, int]
    kind: str
    problem: str = ""


@dataclass
class CheckReport:
    """The outcome of a check.

    Attributes:
        path: what was checked.
        layout: as it was recognised.
        splits: counts of each split: images, labels, boxes, without_boxes.
        problems: what is broken or contradictory, one sentence each.
        notes: what is unusual and read all the same.
    """

    path: str
    layout: str
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_data(
    path: str | Path, out: Path, track: Track = silent, jobs: int | None = None, sheet_images: int = 24
) -> CheckReport:
    """Check a data set in any layout that is read.

    Args:
        path: folder or archive.
        out: folder for ``report.json``, ``contact-sheet.png`` and ``images.jsonl``. The last tells which
            images were opened: an interrupted or repeated check opens only the others and those that changed.
        track: shows progress.
        jobs: number of threads, by default one for each core.
        sheet_images: number of images on the contact sheet.

    Returns:
        the report; nothing is wrong where `problems` is empty.

    Raises:
        InputError: the layout is not recognised, or `out` cannot be written.
    """
    data_set = open_data_set(path)
    report = CheckReport(str(path), data_set.layout)
    wrong, compared = checksum_problems(Path(path))
    report.problems += wrong
    if compared:
        report.notes.append(f"{compared - len(wrong)} of {compared} files have their published checksum")
    splits = []
    for name in data_set.splits:
        try:
            split = data_set.load(name, report.problems.append)
        except InputError as error:
            report.problems.append(str(error))
            continue
        splits.append(split)
        report.splits[name] = _counts(split)
    jobs = number_of_jobs(jobs)
    seen = _open_all(splits, made_folder(out), track, jobs)
    for split in splits:
        _judge(split, seen[split.name], report)
        _judge_masks(split, report, track, jobs)
    _judge_copies(splits, seen, report)
    readable = {
        split.name: [e for e, one in zip(split, seen[split.name], strict=True) if not one.problem]
        for split in splits
    }
    if sheet := data_sheet(splits, readable, sheet_images):
        save_png(sheet, out / "contact-sheet.png")
    write_atomically(out / "report.json", json.dumps(asdict(report), indent=2).encode())
    return report


def _counts(split: Split) -> dict[str, int]:
    return {
        "images": len(split),
        "labels": len({example.label for example in split}),
        "boxes": sum(len(example.boxes) for example in split),
        "without_boxes": sum(not len(example.boxes) for example in split),
    }


# --------------------------------------------------------------------------------------- opening images


def _open_all(splits: Sequence[Split], out: Path, track: Track, jobs: int) -> dict[str, list[Seen]]:
    """Open every image once; what an earlier check found is taken from its file."""
    log = out / "images.jsonl"
    earlier = {(seen.split, seen.id): seen for seen in _earlier(log)}
    found: dict[str, list[Seen]] = {}
    with log.open("a", encoding="utf-8") as file, ThreadPoolExecutor(jobs) as pool:
        for split in splits:
            batches = range(0, len(split), _BATCH)
            results: list[Seen] = []

            def look(example: Example, split: Split = split) -> Seen:
                return _look(split, example, earlier.get((split.name, example.id)))

            for start in track(batches, f"opening {len(split)} images of {split.name}", len(batches)):
                for seen in pool.map(look, split.examples[start : start + _BATCH]):
                    results.append(seen)
                    if earlier.get((split.name, seen.id)) != seen:
                        file.write(json.dumps(asdict(seen)) + "\n")
                file.flush()
            found[split.name] = results
    return found


def _earlier(log: Path) -> Iterator[Seen]:
    """Lines of an earlier check, without a last one that was cut short."""
    if not log.is_file():
        return
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            yield Seen(**{**entry, "size": tuple(entry["size"])})
        except (ValueError, TypeError, KeyError):
            continue


def _look(split: Split, example: Example, earlier: Seen | None) -> Seen:
    """Read and decode one image."""
    reader: Any = split.open_image
    try:
        source = reader.source(example)
        if isinstance(source, Path):
            status = source.stat()
            stamp = f"{status.st_size}-{status.st_mtime_ns}"
            if earlier is not None and earlier.stamp == stamp:
                return earlier
        data = reader.read(example)
    except (InputError, OSError) as error:
        problem = str(error) if isinstance(error, InputError) else f"{source}: no such image file"
        return Seen(split.name, example.id, "", "", (0, 0), "", problem)
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    stamp = stamp if isinstance(source, Path) else digest
    if earlier is not None and earlier.stamp == stamp:
        return earlier
    where = reader.tree.describe(example.id)
    try:
        image = decode_image(data, where)
        return Seen(split.name, example.id, stamp, digest, image.size, _kind(data))
    except InputError as error:
        return Seen(split.name, example.id, stamp, digest, (0, 0), "", str(error))


def _kind(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            turned = " turned" if image.getexif().get(0x0112, 1) not in (0, 1) else ""
            return f"{image.format} {image.mode}{turned}"
    except (OSError, UnidentifiedImageError, ValueError):
        return ""


# ------------------------------------------------------------------------------------------- judgements


def _judge(split: Split, seen: Sequence[Seen], report: CheckReport) -> None:
    """Unreadable images, sizes that differ from the metadata, unusual kinds of file."""
    report.problems += [one.problem for one in seen if one.problem]
    other = [
        (example, one)
        for example, one in zip(split.examples, seen, strict=True)
        if not one.problem and example.size != (0, 0) and example.size != one.size
    ]
    if other and len(other) >= _MOSTLY * len(split):
        words = "are stored in another size than the metadata tells; boxes scale by the metadata"
        report.notes.append(f"{split.name}: {len(other)} of {len(split)} images {words}")
    else:
        report.problems += [
            f"{split.name}, image {example.id!r}: is {_by(one.size)}, the metadata tells {_by(example.size)}"
            for example, one in other
        ]
    kinds = Counter(one.kind for one in seen if one.kind)
    for kind, count in kinds.items():
        named = {i.rpartition(".")[2].lower() for i in (one.id for one in seen if one.kind == kind)}
        usual = kind in ("JPEG RGB", "PNG RGB", "PNG RGBA", "WEBP RGB")
        misnamed = kind.startswith("PNG") and named & {"jpg", "jpeg"}
        if not usual or misnamed:
            report.notes.append(
                f"{split.name}: {count} images are {kind}{' but named JPEG' if misnamed else ''}"
            )


def _judge_masks(split: Split, report: CheckReport, track: Track, jobs: int) -> None:
    """Masks that cannot be opened, or show no object; they are small and opened at every check."""
    if split.open_mask is None:
        return
    open_mask = split.open_mask

    def look(example: Example) -> str:
        try:
            return (
                "" if (open_mask(example) == 1).any() else f"{split.name}, image {example.id!r}: empty mask"
            )
        except InputError as error:
            return str(error)

    batches = range(0, len(split), _BATCH)
    with ThreadPoolExecutor(jobs) as pool:
        for start in track(batches, f"opening masks of {split.name}", len(batches)):
            found = pool.map(look, split.examples[start : start + _BATCH])
            report.problems += [problem for problem in found if problem]


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _judge_copies(splits: Sequence[Split], seen: dict[str, list[Seen]], report: CheckReport) -> None:
    """The same file content in training and in a held-out split, or twice with different labels."""
    labels = {(split.name, example.id): example.label for split in splits for example in split}
    by_digest: dict[str, list[Seen]] = defaultdict(list)
    for one in (one for split in seen.values() for one in split if one.digest):
        by_digest[one.digest].append(one)
    copies = 0
    for group in by_digest.values():
        trained = [one for one in group if one.split.lower().startswith("train")]
        held_out = [one for one in group if one.split.lower() in _HELD_OUT]
        if trained and held_out:
            report.problems.append(
                f"{held_out[0].split}, image {held_out[0].id!r}: is the same file as {trained[0].id!r} "
                f"in {trained[0].split}"
            )
        elif len({labels[one.split, one.id] for one in group}) > 1:
            names = ", ".join(f"{one.id!r} (label {labels[one.split, one.id]})" for one in group)
            report.problems.append(f"the same file has different labels: {names}")
        copies += len(group) - 1
    if copies:
        report.notes.append(f"{copies} images are copies of others")
