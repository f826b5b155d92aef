"""The field's metadata layout: four text files beside the images, in a folder or in a .tar archive.

A split is ``image_ids.txt`` (one id a line), ``class_labels.txt`` (id,label), ``image_sizes.txt``
(id,width,height) and ``localization.txt`` (id,x1,y1,x2,y2; several rows an image, pixels of the size given
in image_sizes.txt). The format is that of the reference evaluator (Choe et al., CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from PIL import Image

from heatbox.data.example import Example, FolderImages, Split, TarImages
from heatbox.errors import InputError

FILES = ("image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt")
Number = TypeVar("Number", int, float)


def load_wsol(path: str | Path, metadata: str | Path | None = None, num_classes: int | None = None) -> Split:
    """Read a split in the metadata layout.

    Args:
        path: a folder, or an uncompressed .tar, that holds the four files and the images, the latter in
            ``images/`` or beside the files; in a .tar all of it may lie in one top-level folder.
        metadata: a folder with the four files, where they are not with the images.
        num_classes: if given, labels have to be below it.

    Returns:
        the split, in the order of image_ids.txt, named after the folder or archive.

    Raises:
        InputError: naming file and row: a missing file, an id without label or size, a label out of
            range, a box outside its image or with x2 < x1, an id that leads out of the folder.
    """
    path = Path(path)
    if path.is_dir():
        root = path / "images" if (path / "images").is_dir() else path
        images: Callable[[Example], Image.Image] = FolderImages(root)
        text = _folder_reader(Path(metadata) if metadata else path)
    elif path.is_file():
        images, text = _open_tar(path, Path(metadata) if metadata else None)
    else:
        raise InputError(f"{path}: expected a folder or a .tar archive in the metadata layout")
    return Split(path.stem, _examples(text, num_classes), (), images)


# ------------------------------------------------------------------------------------------------ files

Text = Callable[[str], tuple[str, str]]  # file name → (where it is, its text)


def _folder_reader(folder: Path) -> Text:
    def read(name: str) -> tuple[str, str]:
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file}: missing; the metadata layout needs {', '.join(FILES)}")
        return str(file), _decode(file.read_bytes(), str(file))

    return read


def _open_tar(path: Path, metadata: Path | None) -> tuple[TarImages, Text]:
    archive = TarImages(path)
    names = archive.names()
    top = _top(names, "image_ids.txt") if metadata is None else _top(names, "images/")
    has_images = any(name.startswith(f"{top}images/") for name in names)
    images = archive.below(top + ("images/" if has_images else ""))
    if metadata is not None:
        return images, _folder_reader(metadata)

    def read(name: str) -> tuple[str, str]:
        if top + name not in names:
            raise InputError(f"{path}: holds no {top}{name}; the metadata layout needs {', '.join(FILES)}")
        where = f"{path}:{top}{name}"
        return where, _decode(archive.read(top + name), where)

    return images, read


def _top(names: list[str], landmark: str) -> str:
    """Folder of an archive, with its last slash, in which a file or folder lies; the outermost if several."""
    found = [name[: f"/{name}".index(f"/{landmark}")] for name in names if f"/{landmark}" in f"/{name}"]
    return min(found, key=len, default="")


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not UTF-8 text ({error})") from error


def _rows(text: str) -> Iterator[tuple[int, str]]:
    """(row number from 1, line) of every line that is not blank."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def _split_row(
    line: str, count: int, kind: Callable[[str], Number], where: str, form: str
) -> tuple[str, list[Number]]:
    """``id,v1,...`` from the right, so that an id may hold commas."""
    parts = line.rsplit(",", count)
    if len(parts) != count + 1:
        raise InputError(f"{where}: {line!r} is not of the form {form}")
    try:
        return parts[0], [kind(part.strip()) for part in parts[1:]]
    except ValueError as error:
        raise InputError(f"{where}: {line!r} is not of the form {form}") from error


# --------------------------------------------------------------------------------------------- examples


def _examples(text: Text, num_classes: int | None) -> list[Example]:
    ids = _ids(*text("image_ids.txt"))
    labels = _labels(*text("class_labels.txt"), num_classes)
    sizes = _sizes(*text("image_sizes.txt"))
    where_boxes, boxes_text = text("localization.txt")
    boxes = _checked_boxes(boxes_text, where_boxes, sizes)
    examples = []
    for name in ids:
        if name not in labels:
            raise InputError(f"{text('class_labels.txt')[0]}: has no row for image {name!r}")
        if name not in sizes:
            raise InputError(f"{text('image_sizes.txt')[0]}: has no row for image {name!r}")
        found = np.array(boxes.get(name, []), dtype=np.float64).reshape(-1, 4)
        examples.append(Example(name, labels[name], sizes[name], found))
    return examples


def _ids(where: str, text: str) -> list[str]:
    ids = []
    for row, name in _rows(text):
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise InputError(f"{where}, row {row}: image id {name!r} leads out of the image folder")
        ids.append(name)
    if not ids:
        raise InputError(f"{where}: lists no image")
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        again = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(f"{where}: image id {again!r} is listed twice")
    return ids


def _labels(where: str, text: str, num_classes: int | None) -> dict[str, int]:
    labels = {}
    for row, line in _rows(text):
        name, (label,) = _split_row(line, 1, int, f"{where}, row {row}", "id,label")
        if label < 0 or (num_classes is not None and label >= num_classes):
            limit = f"0 to {num_classes - 1}" if num_classes is not None else "0 or more"
            raise InputError(f"{where}, row {row}: label {label} is out of range, expected {limit}")
        labels[name] = label
    return labels


def _sizes(where: str, text: str) -> dict[str, tuple[int, int]]:
    sizes = {}
    for row, line in _rows(text):
        name, (width, height) = _split_row(line, 2, int, f"{where}, row {row}", "id,width,height")
        if not (0 < width < 2**31 and 0 < height < 2**31):
            raise InputError(
                f"{where}, row {row}: size {width} x {height} of {name!r} is not positive, "
                "or too large for an image"
            )
        sizes[name] = (width, height)
    return sizes


def _checked_boxes(text: str, where: str, sizes: dict[str, tuple[int, int]]) -> dict[str, list[list[float]]]:
    """Boxes of each id, xyxy; every box is checked against the size of its image."""
    boxes: dict[str, list[list[float]]] = {}
    for row, line in _rows(text):
        name, (x1, y1, x2, y2) = _split_row(line, 4, float, f"{where}, row {row}", "id,x1,y1,x2,y2")
        if not all(np.isfinite((x1, y1, x2, y2))):
            raise InputError(f"{where}, row {row}: box {line!r} is not finite")
        if x2 < x1 or y2 < y1:
            raise InputError(f"{where}, row {row}: box {line!r} has x2 < x1 or y2 < y1")
        if name in sizes:
            width, height = sizes[name]
            if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
                raise InputError(
                    f"{where}, row {row}: box {line!r} lies outside its {width} x {height} image"
                )
        boxes.setdefault(name, []).append([x1, y1, x2, y2])
    return boxes
