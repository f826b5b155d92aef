"""Splits of annotation files that list their images by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from heatbox.data.files.images import TreeImages
from heatbox.data.files.trees import Report, Tree
from heatbox.data.formats.masks import Segment, SegmentMasks
from heatbox.data.formats.names import cleaned, locate_images
from heatbox.data.formats.rows import Annotation, annotated_split, is_safe_id, skipping
from heatbox.data.types import Split
from heatbox.errors import InputError


def listed_split(
    name: str,
    tree: Tree,
    listed: Mapping[str, Annotation],
    segments: Mapping[str, Sequence[Segment]],
    class_names: Sequence[str],
    folders: Sequence[str],
    report: Report,
    needs_files: bool = True,
) -> Split:
    """The split of an annotation file.

    Args:
        name: of the split.
        tree: has the images.
        listed: image as listed → annotation.
        segments: image as listed → outlines of its objects, if the file has any.
        class_names: class index → name, all categories among them.
        folders: where the images are expected, the likeliest first.
        report: receives the problems with images.
        needs_files: report images without file; otherwise opening them does.
    """
    located = locate_images(tree, listed, folders)
    table: dict[str, Annotation] = {}
    outlines: dict[str, Sequence[Segment]] = {}
    missing = set(located.missing)
    for file, annotation in listed.items():
        image = located.ids[file]
        with skipping(report, image):
            if file in missing and not is_safe_id(cleaned(file)):
                raise InputError(f"{annotation.where}: file_name {file!r} leads out of the image folder")
            if file in missing and needs_files:
                raise InputError(f"{annotation.where}: image {file!r} is missing")
            if image in table:
                raise InputError(f"{annotation.where}: image {file!r} is another image's file, too")
            table[image], outlines[image] = annotation, segments.get(file, ())
    images = TreeImages(tree, located.folder)
    masked = any(one.outline is not None for found in outlines.values() for one in found)
    labels = {category: label for label, category in enumerate(class_names)}
    open_mask = SegmentMasks(images.tree, table, outlines, labels) if masked else None
    return annotated_split(name, table, class_names, images, report, open_mask=open_mask)


def categories_of(listed: Iterable[Annotation]) -> list[str]:
    """All categories of objects and images, sorted."""
    return sorted({kind for one in listed for kind in (*one.categories, *one.labels)})


def turned_box(corners: Sequence[tuple[float, float]]) -> list[float]:
    """The xyxy box around some points.

    Raises:
        ValueError: there is none, or one is not finite.
    """
    points: Any = np.array(corners, dtype=np.float64)
    if points.ndim != 2 or not len(points) or not np.isfinite(points).all():
        raise ValueError("no points")
    return [*points.min(0).tolist(), *points.max(0).tolist()]


def clipped(box: Sequence[float], size: tuple[int, int]) -> list[float]:
    """The part of an xyxy box inside its image, which the box around a turned shape may exceed."""
    x1, y1, x2, y2 = box
    return [
        min(max(x1, 0), size[0]),
        min(max(y1, 0), size[1]),
        max(min(x2, size[0]), 0),
        max(min(y2, size[1]), 0),
    ]


def rotated_corners(
    box: Sequence[float], degrees: float, about: tuple[float, float]
) -> list[tuple[float, float]]:
    """The corners of an xyxy box, turned clockwise about a point."""
    x1, y1, x2, y2 = box
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    found = []
    for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2)):
        dx, dy = x - about[0], y - about[1]
        found.append((float(about[0] + dx * cos - dy * sin), float(about[1] + dx * sin + dy * cos)))
    return found
