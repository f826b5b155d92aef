"""Check a data set: read every table, open every image, and report missing and damaged files."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from heatbox._utils.devices import map_in_threads
from heatbox._utils.io import made_folder, to_json, write_atomically
from heatbox._utils.progress import Track, silent
from heatbox.data.catalogue import checksum_problems
from heatbox.data.files.images import TreeImages, decode_image, is_upright
from heatbox.data.files.remote import shown
from heatbox.data.formats.splits import HELD_OUT
from heatbox.data.open import open_data_set
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

_MOSTLY = 0.9  # fraction of a split: above it a differing size is how the set is stored, not an error


@dataclass(frozen=True)
class ImageRecord:
    """The result of opening one image: one line of ``images.jsonl``.

    Attributes:
        split, id: identify the image.
        stamp: changes with the file; a later check opens only files whose stamp has changed.
        digest: of the file's content, hexadecimal.
        size: upright (width, height) in pixels; (0, 0) if the image cannot be opened.
        kind: format and mode as stored, such as "JPEG CMYK", followed by "turned" if EXIF rotates it.
        problem: why the image cannot be opened, else "".
    """

    split: str
    id: str
    stamp: str = ""
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    kind: str = ""
    problem: str = ""


@dataclass
class CheckReport:
    """The result of a check.

    Attributes:
        path: the data set.
        layout: the layout that was recognized.
        splits: counts of each split: images, labels, boxes, without_boxes.
        problems: what is broken or contradictory, one sentence each.
        notes: what is unusual but can be read.
        readable: the splits, reduced to the images that can be opened; not part of the written report.
    """

    path: str
    layout: str
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    readable: list[Split] = field(default_factory=list, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """The content of ``report.json``."""
        names = [entry.name for entry in dataclasses.fields(self) if entry.name != "readable"]
        return {name: getattr(self, name) for name in names}


def check_data(path: str | Path, out: Path, track: Track = silent, jobs: int | None = None) -> CheckReport:
    """Check a data set in any supported layout.

    Args:
        path: folder or archive.
        out: folder for ``report.json`` and ``images.jsonl``. The latter lists the images that were opened:
            a repeated or resumed check opens only new and changed images.
        track: shows progress.
        jobs: number of threads, by default one per core.

    Returns:
        the report; its `problems` are empty if nothing is wrong.

    Raises:
        InputError: the layout is not recognized, or `out` cannot be written.
    """
    data_set = open_data_set(path)
    report = CheckReport(shown(str(path)), data_set.layout)
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
        report.splits[name] = {
            "images": len(split),
            "labels": len({example.label for example in split}),
            "boxes": sum(len(example.boxes) for example in split),
            "without_boxes": sum(not len(example.boxes) for example in split),
        }
    records = _open_images(splits, made_folder(out), track, jobs)
    for split in splits:
        _check_images(split, records[split.name], report)
        report.problems += _mask_problems(split, track, jobs)
        readable = [e for e, one in zip(split, records[split.name], strict=True) if not one.problem]
        report.readable.append(replace(split, examples=readable))
    _check_copies(splits, records, report)
    write_atomically(out / "report.json", to_json(report.as_dict()).encode())
    return report


# --------------------------------------------------------------------------------------- opening images


def _open_images(
    splits: Sequence[Split], out: Path, track: Track, jobs: int | None
) -> dict[str, list[ImageRecord]]:
    """Open every image once; records of an earlier check are reused where the file has not changed."""
    log = out / "images.jsonl"
    known: dict[tuple[str, str], ImageRecord] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else ():
        with suppress(ValueError, TypeError, KeyError):  # a line that was cut short
            entry = json.loads(line)
            record = ImageRecord(**{**entry, "size": tuple(entry["size"])})
            known[record.split, record.id] = record
    found: dict[str, list[ImageRecord]] = {}
    with log.open("a", buffering=1, encoding="utf-8") as file:  # line by line, so that a kill loses little
        for split in splits:

            def open_one(example: Example, split: Split = split) -> ImageRecord:
                return _open_image(split, example, known.get((split.name, example.id)))

            what = f"opening {len(split)} images of {split.name}"
            results = found.setdefault(split.name, [])
            for record in map_in_threads(open_one, split.examples, jobs, track, what):
                results.append(record)
                if known.get((split.name, record.id)) != record:
                    file.write(json.dumps(asdict(record)) + "\n")
    return found


def _open_image(split: Split, example: Example, known: ImageRecord | None) -> ImageRecord:
    """Read and decode one image, unless its file is the one that a known record describes."""
    reader = split.open_image
    record = ImageRecord(split.name, example.id)
    try:
        if not isinstance(reader, TreeImages):  # nothing shows whether such an image has changed
            return replace(record, size=reader(example).size)
        where, stamp = reader.tree.describe(example.id), ""
        if isinstance(source := reader.source(example), Path):
            try:
                status = source.stat()
            except OSError as error:
                raise InputError(f"{where}: no such image file") from error
            stamp = f"{status.st_size}-{status.st_mtime_ns}"
        if known is None or not stamp or known.stamp != stamp:
            data = reader.read(example)
            digest = hashlib.blake2b(data, digest_size=16).hexdigest()
            record = replace(record, stamp=stamp or digest, digest=digest)
            if known is None or known.stamp != record.stamp:
                return replace(record, size=decode_image(data, where).size, kind=_kind(data))
        return known
    except InputError as error:
        return replace(record, problem=str(error))


def _kind(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return f"{image.format} {image.mode}{'' if is_upright(image) else ' turned'}"
    except (OSError, UnidentifiedImageError, ValueError):
        return ""


# ----------------------------------------------------------------------------------------------- checks


def _check_images(split: Split, records: Sequence[ImageRecord], report: CheckReport) -> None:
    """Report unreadable images, sizes that differ from the metadata, and unusual kinds of files."""
    report.problems += [record.problem for record in records if record.problem]
    resized = [
        (example, record)
        for example, record in zip(split.examples, records, strict=True)
        if not record.problem and example.size != (0, 0) and example.size != record.size
    ]
    if resized and len(resized) >= _MOSTLY * len(split):
        words = "are stored in another size than the metadata lists; boxes scale by the metadata"
        report.notes.append(f"{split.name}: {len(resized)} of {len(split)} images {words}")
    else:
        report.problems += [
            f"{split.name}, image {example.id!r}: is {'{} x {}'.format(*record.size)}, "
            f"the metadata lists {'{} x {}'.format(*example.size)}"
            for example, record in resized
        ]
    for kind, count in Counter(record.kind for record in records if record.kind).items():
        suffixes = {record.id.rpartition(".")[2].lower() for record in records if record.kind == kind}
        misnamed = kind.startswith("PNG") and suffixes & {"jpg", "jpeg"}
        if misnamed or kind not in ("JPEG RGB", "PNG RGB", "PNG RGBA", "WEBP RGB"):
            report.notes.append(
                f"{split.name}: {count} images are {kind}{' but named JPEG' if misnamed else ''}"
            )


def _mask_problems(split: Split, track: Track, jobs: int | None) -> list[str]:
    """Masks that cannot be opened, or show no object; masks are small and opened at every check."""
    if split.open_mask is None:
        return []
    open_mask = split.open_mask

    def check(example: Example) -> str:
        try:
            empty = not (open_mask(example) == 1).any()
        except InputError as error:
            return str(error)
        # An image without a label has no object.
        return f"{split.name}, image {example.id!r}: empty mask" if empty and example.labels else ""

    problems = map_in_threads(check, split.examples, jobs, track, f"opening masks of {split.name}")
    return [problem for problem in problems if problem]


def _check_copies(
    splits: Sequence[Split], records: Mapping[str, Sequence[ImageRecord]], report: CheckReport
) -> None:
    """Report files that occur both in training and in a held-out split, or twice with different labels."""
    labels = {(split.name, example.id): example.label for split in splits for example in split}
    by_digest: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in (record for split in records.values() for record in split if record.digest):
        by_digest[record.digest].append(record)
    for group in by_digest.values():
        trained = [record for record in group if record.split.lower().startswith("train")]
        held_out = [record for record in group if record.split.lower() in HELD_OUT]
        if trained and held_out:
            report.problems.append(
                f"{held_out[0].split}, image {held_out[0].id!r}: is the same file as {trained[0].id!r} "
                f"in {trained[0].split}"
            )
        elif len({labels[record.split, record.id] for record in group}) > 1:
            names = ", ".join(f"{one.id!r} (label {labels[one.split, one.id]})" for one in group)
            report.problems.append(f"the same file has different labels: {names}")
    if copies := sum(len(group) - 1 for group in by_digest.values()):
        report.notes.append(f"{copies} images are copies of others")
