"""Heatmaps in a folder, in the reference layout: ``<image id>.npy``, 2-D, in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from heatbox._utils.devices import available_cores
from heatbox.errors import InputError
from heatbox.maps.normalize import normalize_heatmap

Anything = TypeVar("Anything")


@dataclass(frozen=True)
class MapFolder:
    """Which heatmap of a folder belongs to which image.

    Attributes:
        root: the folder.
        files: image id → its file, relative to the folder, or None; in the order of the images.
        unknown: files that belong to no image.
    """

    root: Path
    files: dict[str, str | None]
    unknown: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Ids of images without a heatmap."""
        return tuple(name for name, file in self.files.items() if file is None)

    def path(self, name: str) -> Path | None:
        """The heatmap of an image, or None."""
        file = self.files.get(name)
        return None if file is None else self.root / file

    def load(
        self, resize: bool, side: int | None, threads: int | None = None, at_a_time: int = 64
    ) -> Iterator[tuple[str, np.ndarray | InputError]]:
        """Id and map of every image that has one, or what is wrong with it; read in threads.

        Args:
            resize: bring maps to `side` (or their own size) and [0, 1], as `normalize_heatmap` does.
            side: the side that maps must have, in pixels, unless they are resized; None for any.
            threads: threads to use; all cores by default.
            at_a_time: maps held in memory.
        """
        with ThreadPoolExecutor(threads or available_cores()) as pool:
            for batch in in_batches(self.files, at_a_time):
                paths = [(name, path) for name in batch if (path := self.path(name)) is not None]
                loaded = pool.map(lambda item: load_map(item[1], resize, side), paths)
                yield from ((name, one) for (name, _), one in zip(paths, loaded, strict=True))


def open_maps(folder: Path | str, ids: Sequence[str]) -> MapFolder:
    """Find the heatmaps of some images in a folder.

    `<image id without its suffix>.npy` is found as well, since some tools save maps so.

    Raises:
        InputError: no such folder, an id twice, one that leads out of the folder, or no map of any image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: is not a folder, expected one of <image id>.npy heatmaps")
    places = {name: _places(root, name) for name in ids}
    if len(places) != len(ids):
        raise InputError(f"{len(ids) - len(places)} image ids occur twice, expected unique ids")
    present = {path.relative_to(root).as_posix() for path in root.rglob("*.npy")}
    files = {name: next((c for c in both if c in present), None) for name, both in places.items()}
    unknown = tuple(sorted(present - {file for file in files.values() if file is not None}))
    if not any(files.values()):
        wanted = next(iter(places.values()))[0] if places else ".npy"
        raise InputError(f"{root}: holds no heatmap of any of {len(ids)} images (expected {wanted})")
    return MapFolder(root, files, unknown)


def _places(root: Path, image_id: str) -> list[str]:
    """Where the map of an image may be, relative to the folder and never outside of it."""
    relative = Path(image_id)
    names = [Path(f"{image_id}.npy"), relative.parent / f"{relative.stem}.npy"]
    base = root.resolve()
    inside = relative.name and not relative.is_absolute() and ".." not in relative.parts
    if not inside or not all((root / name).resolve().is_relative_to(base) for name in names):
        raise InputError(f"image id {image_id!r} leads out of the folder {root}, expected a path inside it")
    return [name.as_posix() for name in names]


def load_map(path: Path, resize: bool, side: int | None) -> np.ndarray | InputError:
    """One map, or what is wrong with it."""
    try:
        one = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header can make the reader raise anything
        reason = str(error).partition("\n")[0]
        return InputError(f"{path} is not a readable .npy file ({reason})")
    if not isinstance(one, np.ndarray) or one.ndim != 2 or one.size == 0 or one.dtype.kind not in "fiub":
        return InputError(f"{path} has shape {np.shape(one)}, expected a two-dimensional array of numbers")
    if resize:
        if not np.isfinite(one).all():
            return InputError(f"{path} holds {int((~np.isfinite(one)).sum())} values that are not finite")
        return normalize_heatmap(one, side or one.shape)
    if side is not None and one.shape != (side, side):
        return InputError(
            f"{path} is {one.shape[1]} x {one.shape[0]}, expected {side} x {side} (or have maps resized)"
        )
    return one


def in_batches(items: Iterable[Anything], size: int) -> Iterator[list[Anything]]:
    """Lists of `size` items, the last perhaps of fewer."""
    batch: list[Anything] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def problems_of(
    missing: Sequence[str], malformed: Sequence[tuple[str, str]], unknown: Sequence[str]
) -> list[str]:
    """What was wrong with a folder's maps, one sentence each with its count and first case."""
    said = []
    if missing:
        said.append(f"{len(missing)} images have no heatmap (the first: {missing[0]})")
    if malformed:
        first, why = malformed[0]
        said.append(f"{len(malformed)} heatmaps could not be scored (the first: {first}: {why})")
    if unknown:
        said.append(f"{len(unknown)} heatmaps belong to no image (the first: {unknown[0]})")
    return said
