"""Boxes and overlays of image files: the lines that `heatbox locate` prints, and the split that it writes."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from heatbox._utils import processes
from heatbox._utils.io import made_folder
from heatbox._utils.progress import Track, silent
from heatbox.config import LocateConfig, LocateNetworksConfig
from heatbox.data.classes import class_positions
from heatbox.data.files.archives import ARCHIVES, HALF_ADDRESS, PARQUET, joined_images
from heatbox.data.files.images import (
    ImageFile,
    TreeImages,
    header_size,
    images_among,
    is_hidden,
    picture_size,
    shown_image,
)
from heatbox.data.files.remote import is_address, is_pattern
from heatbox.data.files.trees import FolderTree
from heatbox.data.open import images_at, path_and_split
from heatbox.data.types import Example, Split
from heatbox.errors import AssumptionWarning, InputError
from heatbox.inference.calibration import MODEL_SETTINGS, Calibration, load_calibration
from heatbox.inference.collection import HEAD_FILE, MOST_IMAGES, drawn, identity
from heatbox.inference.localizer import Localizer, Prediction
from heatbox.inference.scores import score_function
from heatbox.maps.foreground import ForegroundHead
from heatbox.maps.registry import with_seed
from heatbox.models.spec import placement
from heatbox.visualization.overlay import draw_map, save_png

Line = dict[str, Any]


def locate_files(
    files: Sequence[Path | ImageFile],
    config: LocateConfig | LocateNetworksConfig,
    out: Path | None = None,
    class_names: Sequence[str] = (),
    track: Track = silent,
    only: Sequence[int] | None = None,
) -> Iterator[Line | InputError]:
    """Localize the object of each image file.

    Args:
        files: image files of any size and format; see `find_images` for folders, archives and addresses.
        config: the model or models, the map and the threshold; see also `heatbox.create_model` and
            `heatbox.Localizer`.
        out: folder for overlays; None draws none.
        class_names: names of the model's classes, in the order of its outputs; by default those that are
            known of the model.
        track: how to show progress of the fit of a foreground head.
        only: positions of the files that are localized here; by default all are.

    A method with a foreground head for which none is given is fitted to the files themselves first, at most
    `MOST_IMAGES` of them; with `out` the head is saved there. Of several processes, see
    `heatbox._utils.processes`, the first fits it for all.

    Yields:
        for each file a dictionary for JSON, or the error because of which it was skipped.

    Raises:
        InputError: no file, an unknown model or method, a class that the model does not have, class names of
            another number, folders whose names are none of its classes, or an overlay that cannot be written.
        UnreachableError: an address that cannot be reached.
    """
    if not files:
        raise InputError("no image was named, expected one or more image files")
    images = [ImageFile.of(file) for file in files]
    calibration = None if config.calibration is None else load_calibration(config.calibration)
    if isinstance(config, LocateNetworksConfig):
        each, named = config.each(), config.joined()
    else:
        each, named = [config], {"model": config.model, "checkpoint": config.checkpoint}
    models = [one.build() for one in each]
    target = config.target
    localizer = localizer_of(config, each, models, calibration)
    if calibration is not None:
        calibration.require_settings({name: getattr(each[0], name) for name in MODEL_SETTINGS} | named)
    number = localizer.view.num_classes
    if isinstance(target, int) and not 0 <= target < number:
        raise InputError(f"class {target} is out of range: the model has classes 0 to {number - 1}")
    if class_names and len(class_names) != number:
        raise InputError(f"there are {len(class_names)} class names, but the model has {number} classes")
    names = class_names or each[0].class_names(models[0], number)
    targets = _folder_targets(images, names, number) if target == "folder" else {}

    def target_of(file: ImageFile) -> int | None:
        return targets[_folder_name(file)] if target == "folder" else target

    settings = {"model": named["model"], "method": localizer.name, "threshold": localizer.threshold}
    settings |= {"scores": score_function(localizer.score_function, localizer.view.num_classes)}
    if calibration is not None:
        settings |= {"coverage": calibration.coverage}
    if localizer.head_seed is not None:
        given = " + ".join(str(one.foreground) for one in each if one.foreground is not None)
        settings["foreground"] = given or "fitted to these images"
        if not given:
            fit = partial(_fit_head, localizer, images, target_of, config.seed, out, track)
            for network, head in zip(localizer.networks, processes.from_first(fit), strict=True):
                network.head = head.to(placement(network.view.model)[0])
    overlays = [] if out is None else _overlay_paths(out, images)
    for index in range(len(images)) if only is None else only:
        file = images[index]
        try:
            image = file.decode(localizer.preprocess.channels)
        except InputError as error:
            yield error
            continue
        wanted = target_of(file)
        found = localizer([image], None if wanted is None else [wanted])
        label = int(found.targets[0])
        name = _folder_name(file) if targets else names[label] if label < len(names) else None
        line = {"file": str(file), **located_line(found, image, name), **settings}
        if out is not None:
            heat = draw_map(shown_image(image), found.heatmaps[0], found.boxes[0])
            path = overlays[index]
            try:
                out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{path}: the overlay could not be written ({error})") from error
            line["overlay"] = str(save_png(heat, path))
        yield line


def localizer_of(
    config: LocateConfig | LocateNetworksConfig,
    each: Sequence[LocateConfig],
    models: Sequence[nn.Module],
    calibration: Calibration | None = None,
) -> Localizer:
    """The localizer that a configuration describes.

    Args:
        config: the map, the threshold and the scores.
        each: the configuration of each network.
        models: the networks.
        calibration: content of the file that the configuration names.
    """
    return Localizer(
        models,
        with_seed(config.method, config.walk_seed, config.foreground_seed),
        config.threshold,
        config.contours,
        preprocess=[one.preprocess(model) for one, model in zip(each, models, strict=True)],
        protocol=config.protocol,
        scores=config.scores,
        output=config.output,
        calibration=calibration,
        confidence=True,
        normalize=config.normalize,
        foreground=[one.foreground for one in each],
    )


def located_line(found: Prediction, image: Image.Image | np.ndarray, name: str | None) -> Line:
    """What a line says of one image.

    Args:
        found: its prediction.
        image: the image.
        name: of its class.
    """
    width, height = picture_size(image)
    score = float(found.scores()[0])
    return {
        "width": width,
        "height": height,
        "label": int(found.targets[0]),
        "name": name,
        "score": round(score, 6) if math.isfinite(score) else None,
        "boxes": np.round(found.boxes[0], 2).tolist(),
        **_rated(found),
    }


def _rated(found: Prediction) -> Line:
    """Confidence of the boxes of one image; their outer boxes too where there is a calibration."""
    assert found.confidences is not None
    confidence = np.round(found.confidences[0], 4).tolist()
    if found.outer_boxes is None:
        return {"expected_confidence": confidence}
    return {"confidence": confidence, "outer_boxes": np.round(found.outer_boxes[0], 2).tolist()}


def _fit_head(
    localizer: Localizer,
    files: Sequence[ImageFile],
    target_of: Callable[[ImageFile], int | None],
    seed: int,
    out: Path | None,
    track: Track,
) -> list[ForegroundHead]:
    """Fit a foreground head to image files; those that cannot be read take no part.

    Returns:
        the head of each network, on the CPU.

    Raises:
        InputError: none of them can be read, the maps have nothing to learn, or the head cannot be written.
    """
    chosen = [files[index] for index in drawn(len(files), MOST_IMAGES, seed)]
    targets: list[int] = []
    marks: set[str] = set()

    def images() -> Iterator[Image.Image | np.ndarray]:
        for file in track(chosen, "fitting the foreground head", len(chosen)):
            try:
                image = file.decode(localizer.preprocess.channels)
            except InputError:  # reported where the image is localized
                continue
            marks.add(identity(file.name, picture_size(image)))
            wanted = target_of(file)
            if wanted is not None:
                targets.append(wanted)
            yield image

    given = target_of(files[0]) is not None
    localizer.fit_foreground(images(), targets if given else None, seed=seed)
    heads = [head for head in localizer.heads if head is not None]
    of = "" if len(heads) == 1 else " of each network"
    number = heads[0].fitted_on["images"]
    words = f"the foreground head{of} is fitted to {number} of these {len(files)} images"
    if out is not None:
        paths = []
        for place, head in enumerate(heads, 1):
            paths.append(made_folder(out) / (HEAD_FILE if not of else f"{place}-{HEAD_FILE}"))
            head.save(paths[-1], **head.fitted_on, identities=" ".join(sorted(marks)))
        words += f" and saved: --foreground {' '.join(map(str, paths))} applies it to others"
    warnings.warn(words, AssumptionWarning, stacklevel=3)
    return [head.cpu() for head in heads]


def _folder_name(file: ImageFile) -> str:
    """The name of the folder that contains a file."""
    return Path(file.folder).name


def _folder_targets(files: Sequence[ImageFile], names: Sequence[str], number: int) -> Mapping[str, int]:
    """Name of a folder → class of the network."""
    folders = sorted({_folder_name(file) for file in files})
    where = joined_images(files)[0].where
    return dict(zip(folders, class_positions(folders, number, names, where), strict=True))


def _overlay_paths(out: Path, files: Sequence[ImageFile]) -> list[Path]:
    """OUT/STEM.png, with a number where two images share a name, or where it is one of the inputs."""
    used: dict[str, None] = {}
    inputs = {file.path.resolve() for file in files if file.path is not None}
    for file in files:
        stem, again = Path(file.name).stem, 1
        name = f"{stem}.png"
        while name in used or (out / name).resolve() in inputs:
            again += 1
            name = f"{stem}-{again}.png"
        used[name] = None
    return [out / name for name in used]


# ------------------------------------------------------------------------------------- files and annotations


def find_images(paths: Iterable[str | Path]) -> Iterator[Path | ImageFile | InputError]:
    """The images that some paths name: files themselves, and all images in folders, archives, at addresses.

    An address, or a pattern such as "shards/{000..099}.tar", is given as text; see
    `heatbox.data.open.images_at`. In a folder, at any depth, hidden files and what macOS leaves in archives
    do not count. A file without an ending counts if it is an image. Of a folder without images, those in its
    archives or Parquet files count.

    Yields:
        in the order of the paths, sorted within a folder; an error for a folder without images, or for what
        cannot be opened.

    Raises:
        UnreachableError: an address that cannot be reached.
    """
    for one in paths:
        text, path = os.fspath(one), Path(one)
        if not path.is_dir() and not _is_stored(text):
            yield path
            continue
        found: list[str] = []
        if path.is_dir():
            visible = [name for name in FolderTree(path).walk() if not is_hidden(name)]
            named = set(images_among(visible))
            found = [name for name in visible if name in named or _is_unnamed_image(path, name)]
            yield from (path / name for name in found)
        if not found:
            try:
                yield from images_at(text)
            except InputError as error:
                yield error


def _is_stored(text: str) -> bool:
    """Whether a path that is no folder names images in archives, in Parquet files or at an address."""
    where = path_and_split(text)[0]
    if is_address(where) or HALF_ADDRESS.match(where) or where.lower().endswith((*ARCHIVES, PARQUET)):
        return True
    return is_pattern(where) and not os.path.exists(where)


def _is_unnamed_image(folder: Path, name: str) -> bool:
    """Whether a file without ending is an image."""
    try:
        return "." not in name.rpartition("/")[2] and min(header_size(folder / name, name)) > 0
    except InputError:
        return False


def located_split(
    lines: Sequence[Line], class_names: Sequence[str] = (), images: Iterable[Path | ImageFile] = ()
) -> Split:
    """What `locate_files` found, as a split of predictions, for `heatbox.data.write_splits`.

    Ids are paths below the innermost folder that contains all images, or in the archive or at the address
    where they are. Without class names, the classes are those that were localized, in the order of the
    network's outputs, by their names in the lines or by their numbers.

    Args:
        lines: the lines of images; not empty.
        class_names: names of all classes of the model.
        images: what `find_images` found, where some images are not files on a disk.
    """
    named = {str(file): ImageFile.of(file) for file in images}
    files = [named.get(line["file"]) or ImageFile.of(Path(line["file"])) for line in lines]
    tree, ids = joined_images(files)
    by_id = dict(zip(ids, lines, strict=True))
    found = sorted({(line["label"], line["name"] or str(line["label"])) for line in lines})
    examples = []
    for name_there, line in by_id.items():
        name = line["name"] or str(line["label"])
        label = line["label"] if class_names else found.index((line["label"], name))
        boxes = np.array(line["boxes"], dtype=np.float64).reshape(-1, 4)
        scores = np.full(len(boxes), line["score"], dtype=np.float64)
        scores = np.array(line.get("confidence", scores), dtype=np.float64)
        size = (line["width"], line["height"])
        examples.append(Example(name_there, label, size, boxes, box_scores=scores))
    return Split("all", examples, class_names or [name for _, name in found], TreeImages(tree))
