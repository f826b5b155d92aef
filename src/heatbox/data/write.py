"""Data sets in the formats of other tools: one table of writers, behind every command that writes boxes.

A data set is written whole or not at all: it is completed under a temporary name. Ids stay the names of the
images where the layout has room for them.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import zipfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from heatbox._utils.devices import map_in_threads
from heatbox._utils.io import folder_when_whole, made_folder, written_atomically
from heatbox._utils.progress import Track, silent
from heatbox.data.files.images import UNUSUAL_SUFFIXES, TreeImages, header_size, header_suffix, image_size
from heatbox.data.files.remote import is_address
from heatbox.data.formats import coco, cvat, folder, huggingface, labelstudio, voc, yolo
from heatbox.data.formats.options import WriteOptions, WrittenFormat
from heatbox.data.formats.output import (
    LABELS,
    OUTLINES,
    SCORES,
    FolderOutput,
    Loss,
    Output,
    Writer,
    ZipOutput,
    encoded,
    labels_without_boxes,
    without_suffix,
)
from heatbox.data.formats.rows import is_safe_id
from heatbox.data.types import Example, Examples, Split, changed
from heatbox.errors import InputError

WRITERS: Mapping[WrittenFormat, Writer] = {
    "coco": coco.WRITER,
    "coco-results": coco.RESULTS_WRITER,
    "csv": folder.WRITER,
    "cvat": cvat.WRITER,
    "huggingface": huggingface.WRITER,
    "labelstudio": labelstudio.WRITER,
    "voc": voc.WRITER,
    "yolo": yolo.WRITER,
}
"""Format → how it is written."""


@dataclass
class Written:
    """What became of a data set.

    Attributes:
        path: the file or folder that was written.
        images: number of images whose annotations were written.
        problems: why others were left out, one sentence each.
        notes: what the user should know, such as what the format could not hold.
    """

    path: Path
    images: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_splits(
    splits: Sequence[Split] | Split,
    out: str | Path,
    to: WrittenFormat,
    options: WriteOptions | None = None,
    track: Track = silent,
    jobs: int | None = None,
) -> Written:
    """Write splits in the format of another tool.

    Boxes are written in pixels of the upright image file; they are scaled where the file has another size
    than `Example.size`. The class names of the splits become one list. An image that cannot be read is left
    out.

    Args:
        splits: one or several; ground truth or, with `Example.box_scores`, predictions.
        out: the folder, the .zip archive (cvat) or the single file (.json, .csv) to write.
        to: one of `WRITERS`.
        options: how images and annotations are written.
        track: shows progress.
        jobs: number of threads, by default one per core.

    Raises:
        InputError: an unknown format, an output that exists, no image, several splits for a single file, a
            name that the format cannot hold, or a file that cannot be written.

    Examples:
        >>> from heatbox.data import glyphs, write_splits
        >>> write_splits(glyphs("test", 5), "shapes", "yolo").images  # doctest: +SKIP
        5
    """
    splits = [split.by_image() for split in ([splits] if isinstance(splits, Split) else splits)]
    out, places = Path(out), [_place(split) for split in splits]
    options, single = check_output(out, to, options or WriteOptions(), places)
    writer, written = WRITERS[to], Written(out)
    if single and len(splits) != 1:
        names = ", ".join(split.name for split in splits)
        raise InputError(f"{out}: a file holds one split, not {names}; name one as PATH:SPLIT")
    if not any(map(len, splits)):
        raise InputError(f"{', '.join(split.name for split in splits)}: has no image that could be written")
    splits = _with_folder_names(_with_shared_classes(splits, written.notes))
    if len(splits) == 1:
        splits = [dataclasses.replace(splits[0], name=writer.only_name(splits[0].name, options))]
    written.notes += _losses(splits, to, options)
    if options.images == "none":
        where = ", ".join(dict.fromkeys(str(place) for place in places if place))
        written.notes += [f"names of images are relative to {where}"] if where else []
        if to == "yolo":
            folders = " and ".join(f"images/{split.name}" for split in splits)
            what = "labels are found by the place of the images"
            written.notes.append(f"{what}: put them into {folders} in {out}")
    elif to == "labelstudio" and options.image_url == WriteOptions.image_url:
        written.notes.append(f"the images are for local storage whose document root is {out.resolve()}")
    if writer.files is not None and single:
        prepared = [_prepare(split, None, writer, options, written, track, jobs) for split in splits]
        files = writer.files(prepared[0], options)
        made_folder(out.parent)
        for addition, text in files.items():
            with written_atomically(out.with_name(out.stem + addition + out.suffix)) as file:
                file.writelines(encoded(text))
    elif writer.write is not None:
        with _opened(writer, out, written.notes) as output:
            prepared = [_prepare(split, output, writer, options, written, track, jobs) for split in splits]
            writer.write(prepared, output, options)
    return written


# ------------------------------------------------------------------------------------------- the output


def check_output(
    out: Path, to: WrittenFormat, options: WriteOptions, places: Sequence[str | Path] = ()
) -> tuple[WriteOptions, bool]:
    """Validate an output, before a computation whose result could not be written.

    Args:
        out: the output, as for `write_splits`.
        to: the format.
        options: of the writer.
        places: folders of the images; "" for images that are in no folder.

    Returns:
        the options with the choice of images made, and whether the output is a single file without images.

    Raises:
        InputError: an unknown format, an output of the wrong kind, one that exists, contains the images or
            is at a place where nothing can be written, or a choice of images that the format does not have.
    """
    if to not in WRITERS:
        raise InputError(f"format is {to!r}, expected one of {', '.join(WRITERS)}")
    writer = WRITERS[to]
    single = writer.files is not None and out.suffix.lower() == writer.suffix
    is_file = single or writer.is_archive
    if not single and (writer.write is None or writer.is_archive):
        suffix = ".zip" if writer.is_archive else writer.suffix
        if out.suffix.lower() != suffix:
            raise InputError(f"{out}: {to} is written to a file, expected a name that ends in {suffix}")
    far = any(map(is_address, places))  # images that a disk may not hold are not copied unasked
    images = options.images or ("none" if is_file or far else "link")
    if single and images != "none":
        raise InputError(f"--images {images}: a {writer.suffix} file holds no images, expected none")
    if writer.is_archive and images == "link":
        raise InputError("--images link: an archive cannot link images, expected copy or none")
    if out.exists() and out.is_dir() == is_file:
        found, wanted = ("folder", "file") if is_file else ("file", "folder")
        raise InputError(f"{out}: is a {found}, expected a {wanted}")
    more = [out.with_name(f"{out.stem}-images{out.suffix}")] if to == "coco-results" else []
    taken = [path for path in (out, *more) if path.exists() and (is_file or any(path.iterdir()))]
    if taken and not options.overwrite:
        raise InputError(f"{taken[0]}: exists; choose another output or pass --overwrite")
    for place in [Path(place).resolve() for place in places if str(place) and not is_address(place)]:
        if not is_file and place.exists() and place.is_relative_to(out.resolve()):
            raise InputError(f"{out}: contains the data set that is to be written, choose another output")
    wanted_in = out.absolute().parents if is_file else (out.absolute(), *out.absolute().parents)
    above = next(path for path in wanted_in if os.path.lexists(path))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what = "nothing can be written into it" if above.is_dir() else "is no folder"
        raise InputError(f"{out}: could not be written ({above}: {what})")
    return dataclasses.replace(options, images=images), single


@contextmanager
def _opened(writer: Writer, out: Path, notes: list[str]) -> Iterator[Output]:
    """The tree of files to write into; it gets its name when the block ends."""
    if writer.is_archive:
        made_folder(out.parent)
        with written_atomically(out) as file, zipfile.ZipFile(file, "w") as archive:
            yield ZipOutput(archive)
        return
    with folder_when_whole(out) as temporary:
        output = FolderOutput(temporary)
        yield output
        mine = {path.relative_to(temporary) for path in temporary.rglob("*")}
    others = [path for path in out.rglob("*") if path.is_file() and path.relative_to(out) not in mine]
    if others:
        notes.append(f"{out} also contains {len(others)} other files, such as {others[0].relative_to(out)}")


def _losses(splits: Sequence[Split], to: WrittenFormat, options: WriteOptions) -> list[str]:
    """Notes of what the format cannot hold, where the splits have it."""
    writer, notes = WRITERS[to], []
    for loss in writer.loses(options):
        count = sum(_HAS[loss](example) for split in splits for example in split)
        if count:
            hint = f"; {writer.hint}" if writer.hint and loss == SCORES else ""
            notes.append(f"{to} does not hold {loss}: those of {count} images are left out{hint}")
    return notes


_HAS: Mapping[Loss, Callable[[Example], bool]] = {
    SCORES: lambda example: example.box_scores is not None and len(example.boxes) > 0,
    OUTLINES: lambda example: example.outlines is not None and len(example.boxes) > 0,
    LABELS: lambda example: bool(labels_without_boxes(example)),
}
"""What a layout may be unable to hold → whether an example has it."""


# ---------------------------------------------------------------------------------------- class names


def _with_shared_classes(splits: Sequence[Split], notes: list[str]) -> list[Split]:
    """The splits with one list of class names, unique and complete; labels are positions in it."""
    own = [_class_names(split, notes) for split in splits]
    names = list(dict.fromkeys(name for found in own for name in found))
    position = {name: index for index, name in enumerate(names)}
    shared = []
    for split, found in zip(splits, own, strict=True):
        examples = split.examples
        if found != names[: len(found)]:
            labels = np.array([position[name] for name in found])
            examples = changed(examples, partial(relabelled, labels=labels))
        shared.append(dataclasses.replace(split, examples=examples, class_names=names, class_ids=()))
    return shared


def _class_names(split: Split, notes: list[str]) -> list[str]:
    """The names of the classes; numbers where there is none, and after a name that several classes have.

    Spaces around a name do not count, because few readers keep them.
    """
    names = [str(name).strip() for name in split.class_names]
    names += [""] * (split.num_classes - len(names))
    unnamed = names.count("")
    names = [name or str(index) for index, name in enumerate(names)]
    if unnamed:
        notes.append(f"{split.name}: {unnamed} classes have no name, and are named by their numbers")
    if len(set(names)) < len(names):
        repeated = next(name for name, count in Counter(names).items() if count > 1)
        notes.append(f"{split.name}: several classes are named {repeated!r}; their numbers are added")
    while len(set(names)) < len(names):
        counts = Counter(names)
        names = [f"{name} ({index})" if counts[name] > 1 else name for index, name in enumerate(names)]
    return names


def relabelled(example: Example, labels: np.ndarray) -> Example:
    """An example with other class indices: `labels` has the new one at the place of each old one."""
    boxes = example.box_labels
    return dataclasses.replace(
        example,
        label=int(labels[example.label]) if example.label >= 0 else -1,
        labels=tuple(int(labels[label]) for label in example.labels),
        box_labels=None if boxes is None else labels[np.asarray(boxes, dtype=np.int64)],
    )


def _with_folder_names(splits: Sequence[Split]) -> list[Split]:
    """The splits with names that a folder can have, each once."""
    named: dict[str, Split] = {}
    for split in splits:
        name = "".join("-" if char in "/\\:\0" else char for char in split.name).strip(". ") or "split"
        again = name
        while again in named:
            again = f"{name}-{len(named) + 1}"
        named[again] = dataclasses.replace(split, name=again)
    return list(named.values())


# ------------------------------------------------------------------------------------------------- images


class _Placed(NamedTuple):
    """Size of an image that was measured, and the bytes that were copied where images are written."""

    size: tuple[int, int]
    copied: int


def _prepare(
    split: Split,
    output: Output | None,
    writer: Writer,
    options: WriteOptions,
    written: Written,
    track: Track,
    jobs: int | None,
) -> Split:
    """The split with sizes of image files and with the names that images have in the output.

    Args:
        split: the split; its name is that of a folder.
        output: receives the images; None for a single file.
        writer: of the layout.
        options: with the choice of images.
        written: receives notes, problems and the number of images.
        track: shows progress.
        jobs: number of threads.

    Raises:
        InputError: no image could be used, an id that leads out of its folder, or an output that cannot be
            written.
    """
    placing = output is not None and options.images != "none"
    names = _image_names(split, writer, placing, written.notes)
    folder = writer.image_folder(split.name, options)

    def place(index: int) -> _Placed | str:
        if "\\" in names[index]:
            what = "a backslash, which annotation files have between folders; rename it"
            return f"{names[index]}: its name has {what}"
        try:
            source, size = _measured(split, split.examples[index], placing)
        except InputError as error:
            return str(error)
        if not placing or output is None:
            return _Placed(size, 0)
        return _Placed(size, output.place(f"{folder}/{names[index]}", source, options.images == "link"))

    what = f"writing {len(split)} images of {split.name}"
    jobs = 1 if writer.is_archive and placing else jobs  # in order
    sizes, placed = np.zeros((len(split), 2), np.int32), array("q")
    scaled = copies = copied = 0
    results = map_in_threads(place, range(len(split)), jobs, track, what)
    for index, (example, result) in enumerate(zip(split, results, strict=True)):
        if isinstance(result, str):
            written.problems.append(result)
            continue
        placed.append(index)
        sizes[index] = result.size
        scaled += example.size not in ((0, 0), result.size)
        copies, copied = copies + (result.copied > 0), copied + result.copied
    written.images += len(placed)
    if len(split) and not placed:
        first = written.problems[-len(split)]
        raise InputError(f"{split.name}: has no image that can be written; the first problem: {first}")
    if scaled:
        what = f"boxes of {scaled} images were scaled to the size of their files, which is not as listed"
        written.notes.append(f"{split.name}: {what}")
    if copies and options.images == "link":
        what = f"{copies} images ({copied / 1e6:.1f} MB) were copied, for want of hard links"
        written.notes.append(f"{split.name}: {what}")

    def as_placed(number: int) -> Example:
        index = placed[number]
        width, height = sizes[index].tolist()
        return _renamed(split.examples[index], names[index], (width, height))

    return dataclasses.replace(split, examples=Examples(len(placed), as_placed))


def _renamed(example: Example, name: str, size: tuple[int, int]) -> Example:
    """An example under another name, with its boxes in pixels of another size."""
    if example.id == name and example.size == size:
        return example
    boxes, outlines = example.boxes, example.outlines
    if example.size not in ((0, 0), size):
        scale = np.array(size) / np.array(example.size)
        boxes = boxes * np.tile(scale, 2)
        outlines = outlines and tuple(None if one is None else one * scale for one in outlines)
    return dataclasses.replace(example, id=name, size=size, boxes=boxes, outlines=outlines)


def _measured(split: Split, example: Example, placing: bool) -> tuple[Path | bytes, tuple[int, int]]:
    """An image file and its upright size; the listed size where the file is not needed and not there."""
    needed = placing or example.size == (0, 0)
    if not needed and not _has_files(split):
        return b"", example.size
    try:
        if not placing and isinstance(split.open_image, TreeImages):
            return b"", image_size(split.open_image.tree, example.file)
        source = _source(split, example)
        return source, header_size(source, _described(split, example))
    except InputError:
        if needed:
            raise
        return b"", example.size


_UNUSUAL = re.compile(r"[\\\x00-\x1f\x7f]")
"""Characters of file names that annotation files or their readers do not keep: backslashes, line breaks."""


def _image_names(split: Split, writer: Writer, placing: bool, notes: list[str]) -> list[str]:
    """The name of each image in the output."""
    names: list[str] = []
    used: set[str] = set()
    renamed, first = 0, ""
    for example in split:
        if not is_safe_id(example.id.replace("\\", "/")):
            raise InputError(f"{split.name}: image id {example.id!r} leads out of the folder of the images")
        name = _UNUSUAL.sub("_", _with_ending(split, example)) if placing else example.id
        if placing and writer.is_flat:
            name = _shortened(name.replace("/", "_"))
        stem, again = without_suffix(name), 1
        ending, start = name.removeprefix(stem), without_suffix(stem)
        while (key := stem if writer.by_stem else name) in used:
            again += 1
            stem = f"{start}-{again}"
            name = stem + ending
        used.add(key)
        if name == example.id:
            name = example.id  # not another copy of it
        elif not renamed:
            first = f"{example.id} is {name}"
        renamed += name != example.id
        names.append(name)
    if renamed:
        notes.append(f"{split.name}: {renamed} images have other names in this format: {first}")
    return names


def _shortened(name: str) -> str:
    """A file name that file systems hold (255 bytes), also with a number added and with another ending."""
    stem = without_suffix(name)
    ending = name.removeprefix(stem)
    return stem.encode()[: 240 - len(ending)].decode(errors="ignore") + ending


def _with_ending(split: Split, example: Example) -> str:
    """The id with the ending of an image file, which tools go by."""
    if not _has_files(split):
        return f"{without_suffix(example.id)}.png"
    stem = without_suffix(example.id)
    if stem != example.id and not example.id.lower().endswith(UNUSUAL_SUFFIXES):
        return example.id
    try:
        return stem + header_suffix(_source(split, example), _described(split, example))
    except InputError:  # it is left out when it is placed
        return example.id


def _has_files(split: Split) -> bool:
    return hasattr(split.open_image, "source")


def _source(split: Split, example: Example) -> Path | bytes:
    """Path or content of an image file; PNG of an image that is in no file."""
    if _has_files(split):
        return split.open_image.source(example)  # type: ignore[attr-defined, no-any-return]
    buffer = io.BytesIO()
    split.open_image(example).save(buffer, "PNG")
    return buffer.getvalue()


def _described(split: Split, example: Example) -> str:
    """The image in messages."""
    tree = getattr(split.open_image, "tree", None)
    return example.id if tree is None else str(tree.describe(example.id))


def _place(split: Split) -> str:
    """The folder of the images of a split, "" if they are not in a folder."""
    tree = getattr(split.open_image, "tree", None)
    return "" if tree is None else str(tree.describe(""))
