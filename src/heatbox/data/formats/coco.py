"""COCO's JSON (Lin et al., ECCV 2014): as a data set, and as the boxes of a folder of classes.

``images`` have id, file_name, width and height; ``annotations`` have image_id, category_id and bbox [x, y,
width, height] in pixels; ``categories`` have id and name. Crowds (iscrowd 1) are not single objects and are
left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from heatbox.data.files.images import TreeImages, is_image
from heatbox.data.files.trees import Report, Tree, find_folders, raise_problem
from heatbox.data.formats.options import WriteOptions
from heatbox.data.formats.output import (
    LABELS,
    Output,
    Writer,
    box_classes,
    box_scores,
    corner_and_size,
    json_text,
    labels_without_boxes,
)
from heatbox.data.formats.rows import MAX_SIDE, Annotation, annotated_split, decode_text, is_safe_id, skipping
from heatbox.data.types import Split
from heatbox.errors import InputError

LAYOUT, DEPTH = "COCO", 1
SLACK = 0.02  # pixels: published boxes are rounded to hundredths and may overshoot by as much
_INVALID = (LookupError, TypeError, ValueError, AttributeError, OverflowError)


def split_names(tree: Tree) -> tuple[str, ...]:
    """Names of the annotation files, without "instances_" and ".json", beside images not in class folders."""
    names = tuple(_annotation_files(tree))
    return names if any(_image_folder(tree, name) is not None for name in names) else ()


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read a split; the label is the category of its objects, which has to be a single one per image.

    Raises:
        InputError: an image with no box or with objects of several categories, and as for `read_coco`.
    """
    table, categories = read_coco(tree, _annotation_files(tree)[name], report)
    images = TreeImages(tree, _image_folder(tree, name) or "")
    return annotated_split(name, table, categories, images, report, SLACK)


def _annotation_files(tree: Tree) -> dict[str, str]:
    """Name of a split → its annotation file."""
    found = {}
    for folder in find_folders(tree, lambda t: t.paths("", ".json"), depth=1):
        for path in tree.paths(folder, ".json"):
            data = tree.read(path)
            if all(b'"%s"' % key in data for key in (b"images", b"annotations", b"categories")):
                found[path.rpartition("/")[2].removesuffix(".json").removeprefix("instances_")] = path
    return found


def _image_folder(tree: Tree, split: str) -> str | None:
    """The folder that contains the images themselves, not in class folders; None if there is none."""
    for folder in (split, f"images/{split}", "images", "data", ""):
        if any(map(is_image, tree.files(folder)[:50])):
            return folder
    return None


def read_coco(
    tree: Tree, name: str, report: Report = raise_problem
) -> tuple[dict[str, Annotation], list[str]]:
    """File name → its annotation, and the names of the categories by increasing id.

    Raises:
        InputError: the file is not such JSON; single invalid entries go to `report`.
    """
    where = tree.describe(name)
    try:
        data = json.loads(decode_text(tree.read(name), where))
        tables = {key: list(data[key]) for key in ("images", "annotations", "categories")}
        names = {int(c["id"]): str(c["name"]) for c in tables["categories"]}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{where}: is not COCO's JSON ({reason})") from error
    by_id: dict[Any, Annotation] = {}
    found: dict[str, Annotation] = {}
    for index, image in enumerate(tables["images"]):
        at = f"{where}, image {index}"
        with skipping(report):
            try:
                key, file = image["id"], str(image["file_name"])
                annotation = Annotation(at, (int(image.get("width") or 0), int(image.get("height") or 0)))
                again = key in by_id
                if max(annotation.size) >= MAX_SIDE:
                    raise ValueError
            except _INVALID as error:
                raise InputError(f"{at}: expected id, file_name, width and height") from error
            if not is_safe_id(file):
                raise InputError(f"{at}: file_name {file!r} leads out of the image folder")
            if again or file in found:
                raise InputError(f"{at}: image {file!r} (id {key}) is listed twice")
            by_id[key] = found[file] = annotation
    for index, entry in enumerate(tables["annotations"]):
        at = f"{where}, annotation {index}"
        with skipping(report):
            try:
                if entry.get("iscrowd"):
                    continue
                owner, category = by_id.get(entry["image_id"]), names.get(entry["category_id"])
                x, y, width, height = map(float, entry["bbox"])
            except _INVALID as error:
                raise InputError(
                    f"{at}: expected image_id, category_id and bbox [x, y, width, height]"
                ) from error
            if owner is None or category is None:
                raise InputError(f"{at}: its image_id or category_id is not in the images and categories")
            owner.objects.append((category, (x, y, x + width, y + height), at))
    return found, [names[key] for key in sorted(names)]


# ------------------------------------------------------------------------------------------------- writing

FIRST_CATEGORY = 1
"""Id of the first category; some tools take 0 for the background."""


def to_coco(split: Split, first_category: int = FIRST_CATEGORY) -> dict[str, Any]:
    """A split as COCO's JSON, in Python's types.

    Images are numbered from 1, in the order of the split. An annotation of a box with a score has the key
    ``score``, which COCO's own files do not have. Labels of an image that none of its boxes has are in
    ``category_ids`` of the image, which other tools ignore.

    Args:
        split: its examples have sizes, with boxes in pixels of them; class names are complete.
        first_category: id of the first class.

    Raises:
        InputError: boxes of no class.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, example in enumerate(split, 1):
        width, height = example.size
        image = {"id": number, "file_name": example.id, "width": width, "height": height}
        if labels := labels_without_boxes(example):
            image["category_ids"] = [label + first_category for label in labels]
        images.append(image)
        for label, box, score in zip(box_classes(example), example.boxes, box_scores(example), strict=True):
            corners = corner_and_size(box)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": label + first_category,
                "bbox": corners,
                "area": corners[2] * corners[3],
                "iscrowd": 0,
                "segmentation": [],
            }
            annotations.append(annotation if score is None else {**annotation, "score": score})
    categories = [
        {"id": index, "name": str(name), "supercategory": ""}
        for index, name in enumerate(split.class_names, first_category)
    ]
    return {
        "info": {},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def to_coco_results(split: Split, first_category: int = FIRST_CATEGORY) -> list[dict[str, Any]]:
    """The boxes of a split as COCO's results; image_id is that of `to_coco`.

    Args:
        split: predictions; see `to_coco`.
        first_category: id of the first class.

    Raises:
        InputError: a box without a score, which results need.
    """
    found = []
    for number, example in enumerate(split, 1):
        rows = zip(box_classes(example), example.boxes, box_scores(example), strict=True)
        for label, box, score in rows:
            if score is None:
                raise InputError(
                    f"{split.name}: a box of image {example.id!r} has no score, which COCO results need; "
                    "write ground truth as coco"
                )
            place = {"image_id": number, "category_id": label + first_category}
            found.append({**place, "bbox": corner_and_size(box), "score": score})
    return found


def image_folder(split: str) -> str:
    """The folder of the images of a split that is written."""
    return f"images/{split}"


def write_tree(splits: Sequence[Split], output: Output, options: WriteOptions) -> None:
    """Write annotations/instances_SPLIT.json."""
    for split in splits:
        output.write(f"annotations/instances_{split.name}.json", json_text(to_coco(split)))


def _results_files(split: Split, options: WriteOptions) -> dict[str, str]:
    results = to_coco_results(split)
    images = {**to_coco(split), "annotations": []}
    return {"": json_text(results), "-images": json_text(images)}


WRITER = Writer(
    "annotations/instances_SPLIT.json and images/SPLIT, or FILE.json alone",
    write=write_tree,
    image_folder=lambda split, options: image_folder(split),
    files=lambda split, options: {"": json_text(to_coco(split))},
    suffix=".json",
)
RESULTS_WRITER = Writer(
    "FILE.json of detections, and FILE-images.json of the images and categories that they refer to",
    files=_results_files,
    suffix=".json",
    loses=lambda options: (LABELS,),
)
