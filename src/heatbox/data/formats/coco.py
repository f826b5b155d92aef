"""COCO's JSON (Lin et al., ECCV 2014): as a data set, and as the boxes of a folder of classes.

``images`` have id, file_name, width and height; ``annotations`` have image_id, category_id and bbox [x, y,
width, height] in pixels; ``categories`` have id and name. An annotation may have its outline in segmentation,
polygons or run lengths, from which masks are made. One with a category and neither is a label of the image.
Crowds (iscrowd 1) are not single objects: they are no boxes, and ignored in masks.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heatbox.data.files.images import is_image
from heatbox.data.files.trees import Report, Tree, find_folders, join, raise_problem
from heatbox.data.formats.listed import listed_split
from heatbox.data.formats.masks import INVALID, Segment
from heatbox.data.formats.names import cleaned, locate_images
from heatbox.data.formats.options import MaskFormat, WriteOptions
from heatbox.data.formats.output import (
    LABELS,
    OUTLINES,
    Output,
    Writer,
    box_classes,
    box_outlines,
    box_scores,
    corner_and_size,
    json_text,
    labels_without_boxes,
    separated,
)
from heatbox.data.formats.rows import (
    MAX_SIDE,
    Annotation,
    Object,
    decode_text,
    is_safe_id,
    refuse_fractions,
    skipping,
)
from heatbox.data.formats.segments import mask_rle, outline_mask, polygon_area, segment_box
from heatbox.data.types import Split
from heatbox.errors import InputError

LAYOUT, DEPTH = "COCO", 1
_KEYS = ("images", "annotations", "categories")
_EVERYWHERE = ("_annotations.coco",)  # names of files that each split has in a folder of its own


def split_names(tree: Tree) -> tuple[str, ...]:
    """Names of the annotation files, without "instances_" and ".json", beside images not in class folders."""
    files = _annotation_files(tree)
    if any(_image_folder(tree, name) is not None for name in files):
        return tuple(files)
    return tuple(files) if files and _lists_other_folders(tree, files) else ()


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read a split; the labels of an image are the categories of its objects.

    Raises:
        InputError: a box outside its image, and as for `read_coco`.
    """
    path = _annotation_files(tree)[name]
    content = read_coco_file(tree, path, report)
    own = path.rpartition("/")[0]
    first = _image_folder(tree, name)
    beside = [folder for folder in (own, join(own, "images")) if folder]
    folders = [*([first] if first is not None else []), *beside, name, f"images/{name}", "images", "data", ""]
    return listed_split(
        name, tree, content.table, content.segments, content.categories, folders, report, needs_files=False
    )


def _annotation_files(tree: Tree) -> dict[str, str]:
    """Name of a split → its annotation file."""
    found = []
    for folder in find_folders(tree, lambda t: t.paths("", ".json"), depth=1):
        for path in tree.paths(folder, ".json"):
            data = tree.read(path)
            if all(b'"%s"' % key.encode() in data for key in _KEYS):
                found.append(path)
    names = [path.rpartition("/")[2].removesuffix(".json").removeprefix("instances_") for path in found]
    return {
        path.rpartition("/")[0] if name in _EVERYWHERE and "/" in path else name: path
        for name, path in zip(names, found, strict=True)
    }


def _image_folder(tree: Tree, split: str) -> str | None:
    """The folder that contains the images themselves, not in class folders; None if there is none."""
    for folder in (split, f"images/{split}", "images", "data", ""):
        if any(map(is_image, tree.files(folder)[:50])):
            return folder
    return None


def _lists_other_folders(tree: Tree, files: Mapping[str, str]) -> bool:
    """Whether images lie in folders that are not the classes of an annotation file beside them.

    Folders named like a category are classes. So are several folders with objects of one category, which
    may be called "object"; one folder with any other categories only holds the images.
    """
    folders = [name for name in tree.folders() if next(filter(is_image, tree.walk(name)), "")]
    used: set[str] = set()
    listed: set[str] = set()
    for path in files.values():
        try:
            content = read_coco_file(tree, path, lambda problem: None)
        except InputError:
            return False
        used |= {name for one in content.table.values() for name in (*one.categories, *one.labels)}
        listed.update(content.table)
    if not listed or not used or used & {*folders}:
        return False
    if len(used) == 1 and len(folders) > 1:
        inner = {name.lower() for name in folders}
        if not inner <= {"train", "training", "val", "valid", "validation", "test", "images"}:
            return False
    located = locate_images(tree, listed, [""])
    return len(located.missing) < len(listed)


# ------------------------------------------------------------------------------------------------ the JSON


@dataclass
class CocoFile:
    """The content of an annotation file.

    Attributes:
        table: file name as listed → annotation.
        categories: names of the categories by increasing id; a name counts once.
        segments: file name as listed → outlines of its objects, in the order of the file.
    """

    table: dict[str, Annotation] = field(default_factory=dict)
    categories: list[str] = field(default_factory=list)
    segments: dict[str, list[Segment]] = field(default_factory=dict)


def read_coco(
    tree: Tree, name: str, report: Report = raise_problem
) -> tuple[dict[str, Annotation], list[str]]:
    """File name → its annotation, and the names of the categories by increasing id.

    Raises:
        InputError: the file is not such JSON; single invalid entries go to `report`.
    """
    content = read_coco_file(tree, name, report, safe=True)
    refuse_fractions(content.table.values(), tree.describe(name), "bbox")
    return content.table, content.categories


def read_coco_file(tree: Tree, name: str, report: Report = raise_problem, safe: bool = False) -> CocoFile:
    """The content of an annotation file.

    Args:
        tree: has the file.
        name: of the file.
        report: receives the problems with single entries.
        safe: refuse file names that lead out of the folder of the images, which a caller may else do.

    Raises:
        InputError: the file is not such JSON.
    """
    where = tree.describe(name)
    try:
        data = json.loads(decode_text(tree.read(name), where))
        tables = {key: list(data[key]) for key in _KEYS}
        names = {int(c["id"]): str(c["name"]) for c in tables["categories"]}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{where}: is not COCO's JSON ({reason})") from error
    for category in tables["categories"]:
        if names[int(category["id"])] != str(category["name"]):
            both = f"{str(category['name'])!r} and {names[int(category['id'])]!r}"
            raise InputError(f"{where}: category id {category['id']} is {both}")
    # Roboflow lists the only class of a project a second time, as the parent of all classes.
    content = CocoFile(categories=list(dict.fromkeys(names[key] for key in sorted(names))))
    by_id: dict[Any, tuple[str, Annotation]] = {}
    for index, image in enumerate(tables["images"]):
        at = f"{where}, image {index}"
        with skipping(report):
            try:
                key, file = image["id"], str(image["file_name"])
                annotation = Annotation(at, (int(image.get("width") or 0), int(image.get("height") or 0)))
                again = key in by_id
                if max(annotation.size) >= MAX_SIDE or min(annotation.size) < 0:
                    raise ValueError
                annotation.labels = [names[int(number)] for number in image.get("category_ids") or ()]
            except INVALID as error:
                raise InputError(f"{at}: expected id, file_name, width and height") from error
            if (safe and not is_safe_id(file)) or not cleaned(file):
                raise InputError(f"{at}: file_name {file!r} leads out of the image folder")
            if again or file in content.table:
                raise InputError(f"{at}: image {file!r} (id {key}) is listed twice")
            content.table[file] = annotation
            by_id[key] = file, annotation
    for index, entry in enumerate(tables["annotations"]):
        try:
            _read_annotation(content, by_id, names, entry, where, index)
        except InputError as error:
            report(str(error))
    return content


def _read_annotation(
    content: CocoFile,
    by_id: Mapping[Any, tuple[str, Annotation]],
    names: Mapping[Any, str],
    entry: Any,
    where: str,
    index: int,
) -> None:
    """Add an annotation to the image that it belongs to."""
    try:
        file, owner = by_id.get(entry["image_id"], ("", None))
        category_id = entry["category_id"]
        category = names.get(int(category_id) if isinstance(category_id, str) else category_id)
        crowd = bool(int(entry.get("iscrowd") or 0))
        outline, bbox, score = entry.get("segmentation") or None, entry.get("bbox"), entry.get("score")
        if owner is None or category is None:
            what = "its image_id or category_id is not in the images and categories"
            raise InputError(f"{where}, annotation {index}: {what}")
        if not bbox and outline is None:
            if not crowd and category not in owner.labels:
                owner.labels.append(category)
            return
        if bbox:
            x, y, width, height = map(float, bbox)
            box = [x, y, x + width, y + height]
        else:
            box = segment_box(outline, owner.size)
        confidence = None if score is None else float(score)
    except INVALID as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{where}, annotation {index}: expected image_id, category_id and bbox [x, y, width, height]"
        ) from error
    at = f"{where}, annotation {index}"
    if not crowd:
        owner.objects.append(Object(category, box, at, (), confidence))
    if outline is not None or not crowd:
        content.segments.setdefault(file, []).append(Segment(category, outline, box, at, crowd))


# ------------------------------------------------------------------------------------------------- writing

FIRST_CATEGORY = 1
"""Id of the first category; some tools take 0 for the background."""


def to_coco(
    split: Split, first_category: int = FIRST_CATEGORY, masks: MaskFormat = "polygon"
) -> dict[str, Any]:
    """A split as COCO's JSON, in Python's types.

    Images are numbered from 1, in the order of the split. An annotation of a box with a score has the key
    ``score``, which COCO's own files do not have; where an image has outlines, ``segmentation`` is a polygon,
    or the run lengths of the pixels inside. Labels of an image that none of its boxes has are in
    ``category_ids`` of the image, which other tools ignore.

    Args:
        split: its examples have sizes, with boxes in pixels of them; class names are complete.
        first_category: id of the first class.
        masks: how outlines are written.

    Raises:
        InputError: boxes of no class.
    """
    content = _content(split, first_category, masks)
    return {key: list(value) if key in _KEYS else value for key, value in content}


def _content(split: Split, first_category: int, masks: MaskFormat) -> Iterator[tuple[str, Any]]:
    """Key and value of the JSON of a split; its lists as iterators."""
    yield "info", {}
    yield "licenses", []
    yield "images", _images(split, first_category)
    yield "annotations", _annotations(split, first_category, masks)
    named = enumerate(map(str, split.class_names), first_category)
    yield "categories", ({"id": index, "name": name, "supercategory": ""} for index, name in named)


def _images(split: Split, first_category: int) -> Iterator[dict[str, Any]]:
    for number, example in enumerate(split, 1):
        width, height = example.size
        image = {"id": number, "file_name": example.id, "width": width, "height": height}
        if labels := labels_without_boxes(example):
            image["category_ids"] = [label + first_category for label in labels]
        yield image


def _annotations(split: Split, first_category: int, masks: MaskFormat) -> Iterator[dict[str, Any]]:
    numbers = itertools.count(1)
    for image, example in enumerate(split, 1):
        rows = zip(
            box_classes(example), example.boxes, box_scores(example), box_outlines(example), strict=True
        )
        for label, box, score, outline in rows:
            corners = corner_and_size(box)
            area: float = corners[2] * corners[3]
            segmentation: Any = []
            if outline is not None and masks == "rle":
                mask = outline_mask(outline, example.size)
                area, segmentation = float(mask.sum()), mask_rle(mask)
            elif outline is not None:
                area, segmentation = polygon_area(outline), [outline.ravel().tolist()]
            annotation = {
                "id": next(numbers),
                "image_id": image,
                "category_id": label + first_category,
                "bbox": corners,
                "area": area,
                "iscrowd": 0,
                "segmentation": segmentation,
            }
            yield annotation if score is None else {**annotation, "score": score}


def coco_text(split: Split, masks: MaskFormat = "polygon", boxes: bool = True) -> Iterator[str]:
    """The file of `to_coco` in parts; its list of annotations is empty without boxes."""
    for number, (key, value) in enumerate(_content(split, FIRST_CATEGORY, masks)):
        yield f'{", " if number else "{"}"{key}": '
        yield from (
            _list_text(value if boxes or key != "annotations" else ()) if key in _KEYS else [json_text(value)]
        )
    yield "}"


def _list_text(rows: Iterable[object]) -> Iterator[str]:
    yield "["
    yield from separated(map(json_text, rows), ", ")
    yield "]"


def to_coco_results(split: Split, first_category: int = FIRST_CATEGORY) -> list[dict[str, Any]]:
    """The boxes of a split as COCO's results; image_id is that of `to_coco`.

    Args:
        split: predictions; see `to_coco`.
        first_category: id of the first class.

    Raises:
        InputError: a box without a score, which results need.
    """
    return list(_results(split, first_category))


def _results(split: Split, first_category: int) -> Iterator[dict[str, Any]]:
    for number, example in enumerate(split, 1):
        rows = zip(box_classes(example), example.boxes, box_scores(example), strict=True)
        for label, box, score in rows:
            if score is None:
                raise InputError(
                    f"{split.name}: a box of image {example.id!r} has no score, which COCO results need; "
                    "write ground truth as coco"
                )
            place = {"image_id": number, "category_id": label + first_category}
            yield {**place, "bbox": corner_and_size(box), "score": score}


def image_folder(split: str) -> str:
    """The folder of the images of a split that is written."""
    return f"images/{split}"


def write_tree(splits: Sequence[Split], output: Output, options: WriteOptions) -> None:
    """Write annotations/instances_SPLIT.json."""
    for split in splits:
        output.write(f"annotations/instances_{split.name}.json", coco_text(split, options.mask_format))


def _results_files(split: Split, options: WriteOptions) -> dict[str, Iterator[str]]:
    return {"": _list_text(_results(split, FIRST_CATEGORY)), "-images": coco_text(split, boxes=False)}


WRITER = Writer(
    "annotations/instances_SPLIT.json and images/SPLIT, or FILE.json alone",
    write=write_tree,
    image_folder=lambda split, options: image_folder(split),
    files=lambda split, options: {"": coco_text(split, options.mask_format)},
    suffix=".json",
)
RESULTS_WRITER = Writer(
    "FILE.json of detections, and FILE-images.json of the images and categories that they refer to",
    files=_results_files,
    suffix=".json",
    loses=lambda options: (LABELS, OUTLINES),
)
