"""Label Studio's JSON: a list of tasks, each with an image and with annotations or predictions.

A box is a region of type rectanglelabels with x, y, width and height in percent of the image, and a rotation
about its upper left corner; a label without a box is of type choices. JSON-MIN has the regions of one
annotation in the task itself. Written tasks have predictions, which a person accepts or corrects.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np

from heatbox.data.files.images import is_image
from heatbox.data.files.trees import Report, Tree, find_folders
from heatbox.data.formats.listed import categories_of, clipped, listed_split, rotated_corners, turned_box
from heatbox.data.formats.masks import INVALID, Segment
from heatbox.data.formats.options import WriteOptions
from heatbox.data.formats.output import (
    SCORES,
    Output,
    Writer,
    box_classes,
    box_outlines,
    box_scores,
    corner_and_size,
    json_text,
    labels_without_boxes,
    separated,
    xml_text,
)
from heatbox.data.formats.rows import MAX_SIDE, Annotation, Object, decode_text, skipping
from heatbox.data.formats.segments import check_area, mask_box, outline_mask, run_lengths
from heatbox.data.types import Example, Split
from heatbox.errors import AssumptionWarning, InputError

LAYOUT, DEPTH = "Label Studio", 1
_KINDS = ("rectanglelabels", "polygonlabels", "ellipselabels", "brushlabels", "labels")
_VALUE_BITS, _RUN_BITS = 8, (3, 4, 8, 16)
"""Bits of a value of a brush that is written, and of the lengths of its runs."""
_CHOICE_KEY = re.compile(r"choice|class|label|category", re.IGNORECASE)
_MINIMAL = (b'"annotation_id"', b'"annotator"', b'"original_width"')  # keys of JSON-MIN
_PROGRESS = ("annotator", "annotation_id", "created_at", "updated_at", "lead_time", "id", "image")


def split_names(tree: Tree) -> tuple[str, ...]:
    """Names of the JSON files of tasks, without ".json", beside images."""
    files = _task_files(tree)
    return tuple(files) if files and next(filter(is_image, tree.walk()), None) is not None else ()


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read a file of tasks, as JSON or JSON-MIN exports have them; classes are sorted by name.

    Of several annotations of an image the one marked as ground truth counts, or else the first; cancelled
    ones do not. Predictions count where there is no annotation. A task without either is left out.

    Raises:
        InputError: naming the task: a region of another form, a box outside its image, an image that is
            missing.
    """
    path = _task_files(tree)[name]
    where = tree.describe(path)
    try:
        tasks = json.loads(decode_text(tree.read(path), where))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON ({error})") from error
    content = _Content()
    for index, task in enumerate(tasks if isinstance(tasks, list) else [tasks]):
        at = f"{where}, task {index}"
        with skipping(report):
            try:
                _read_task(content, task, at)
            except INVALID as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(
                    f"{at}: is not a task of Label Studio ({error or type(error).__name__})"
                ) from error
    for count, what in (
        (content.without, "tasks have no annotation and no prediction, and are left out"),
        (
            content.several,
            "tasks have several annotations, of which the one marked as ground truth or the first counts",
        ),
        (content.predicted, "tasks have predictions only, which are taken as they are"),
    ):
        if count:
            warnings.warn(f"{where}: {count} {what}", AssumptionWarning, 2)
    return listed_split(
        name,
        tree,
        content.table,
        content.segments,
        categories_of(content.table.values()),
        ["images", "", "data", path.rpartition("/")[0]],
        report,
    )


def _task_files(tree: Tree) -> dict[str, str]:
    """Name → JSON file with a list of tasks."""
    found = {}
    for folder in find_folders(tree, lambda t: t.paths("", ".json"), depth=1):
        for path in tree.paths(folder, ".json"):
            data = tree.read(path)
            is_list = data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"[", b"{"))
            full = b'"data"' in data and (b'"annotations"' in data or b'"predictions"' in data)
            minimal = b'"image"' in data and all(key in data for key in _MINIMAL[:2])
            if is_list and b'"categories"' not in data and (full or minimal):
                found[path.rpartition("/")[2].removesuffix(".json")] = path
    return found


_SHAPE = {"x", "y", "points", "rle"}
"""Keys of values that are regions of an image."""


@dataclass
class _Content:
    """What a file of tasks lists, and how many tasks need a word."""

    table: dict[str, Annotation] = field(default_factory=dict)
    segments: dict[str, list[Segment]] = field(default_factory=dict)
    without: int = 0
    several: int = 0
    predicted: int = 0


def _read_task(content: _Content, task: Any, where: str) -> None:
    """Add the image of a task."""
    if not isinstance(task.get("data"), dict):
        return _read_minimal(content, task, where)
    data = task["data"]
    image = _image_of(data, where)
    made = [one for one in task.get("annotations") or () if not one.get("was_cancelled")]
    predictions = [one for one in task.get("predictions") or () if isinstance(one, dict)]
    if len(made) > 1:
        content.several += 1
        made = [one for one in made if one.get("ground_truth")] or made
    if not made and not predictions:
        content.without += 1
        return
    content.predicted += not made
    chosen = made[0] if made else predictions[-1]
    score = None if made else chosen.get("score")
    results = list(chosen.get("result") or ())
    drawn_on = {str(one.get("to_name")) for one in results if _SHAPE & {*(one.get("value") or ())}}
    images = {name: data[name] for name in sorted(drawn_on) if isinstance(data.get(name), str)}
    if len(drawn_on) > 1:
        if len(images) < len(drawn_on):
            raise InputError(
                f"{where}: has regions on {', '.join(sorted(drawn_on))}, which its data does not name, "
                "so it is not known which image each is on"
            )
        for name, one in images.items():
            _add(content, one, [r for r in results if str(r.get("to_name")) == name], where, score)
        return
    _add(content, next(iter(images.values()), image), results, where, score)


def _image_of(data: Mapping[str, Any], where: str) -> str:
    """The path or address of the image of a task."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    found = [value for value in texts.values() if is_image(value.partition("?")[0]) or is_image(value)]
    if "image" in texts and (texts["image"] in found or not found):
        return texts["image"]
    if not found:
        raise InputError(f"{where}: its data names no image")
    return found[0]


def _read_minimal(content: _Content, task: Any, where: str) -> None:
    """Add the image of a task of JSON-MIN, whose regions are values of the task itself."""
    image = _image_of(task, where)
    if image in content.table:
        content.several += 1
        return
    results: list[Any] = []
    for key, value in task.items():
        if isinstance(value, list):
            results += [{"value": one, **one} for one in value if isinstance(one, dict)]
        elif isinstance(value, dict) and "choices" in value:
            results.append({"value": value})
        elif isinstance(value, str) and key not in _PROGRESS and _CHOICE_KEY.search(key):
            results.append({"value": {"choices": [value]}})
    _add(content, image, results, where, None)


def _add(content: _Content, image: str, results: Sequence[Any], where: str, score: Any) -> None:
    """Add the regions and choices of an annotation to an image."""
    if image in content.table:
        raise InputError(f"{where}: image {image!r} is in another task, too")
    annotation = Annotation(where)
    segments: list[Segment] = []
    # A rectangle and its label may be two results of one id.
    regions: dict[Any, dict[str, Any]] = {}
    for number, result in enumerate(results):
        value = result.get("value")
        if isinstance(value, dict):
            known = regions.setdefault(result.get("id") or number, {"number": number, "value": {}})
            known |= {key: one for key, one in result.items() if key != "value"}
            known["value"] |= value
    for region in regions.values():
        value, at = region["value"], f"{where}, region {region['number']}"
        kinds = [str(kind) for key in _KINDS for kind in value.get(key) or ()]
        if not _SHAPE & value.keys():
            annotation.labels += [
                str(one) for one in value.get("choices") or () if one not in annotation.labels
            ]
            continue
        if not {"width", "radiusX", "points", "rle"} & value.keys():  # a keypoint
            continue
        if turned := float(region.get("image_rotation") or 0) % 360:
            raise InputError(
                f"{at}: was drawn on an image turned by {turned:g} degrees, expected image_rotation 0 "
                "(Label Studio does not document to which sides its percentages then refer)"
            )
        width, height = int(region["original_width"]), int(region["original_height"])
        if not (0 < width < MAX_SIDE and 0 < height < MAX_SIDE):
            raise InputError(f"{at}: its image is {width} x {height}")
        if annotation.size not in ((0, 0), (width, height)):
            raise InputError(f"{at}: its image is {width} x {height}, above it is {annotation.size}")
        annotation.size = width, height
        if not kinds:
            raise InputError(f"{at}: has no label")
        try:
            box, outline = _shape(value, (width, height))
            own = region.get("score", score)
            confidence = None if own is None else float(own)
        except INVALID as error:
            raise InputError(
                f"{at}: is not a region of Label Studio ({error or type(error).__name__})"
            ) from error
        for kind in dict.fromkeys(kinds):
            annotation.objects.append(Object(kind, box, at, (), confidence))
            segments.append(Segment(kind, outline, box, at))
    content.table[image], content.segments[image] = annotation, segments


def _shape(value: Mapping[str, Any], size: tuple[int, int]) -> tuple[list[float], Any]:
    """Box in pixels, and outline (None for a rectangle), of the value of a region in percent."""
    width, height = size
    if "rle" in value:
        mask = brush_mask(value["rle"], size)
        return mask_box(mask), lambda wanted: brush_mask(value["rle"], wanted)
    if "points" in value:
        points = [(float(x) * width / 100, float(y) * height / 100) for x, y in value["points"]]
        return turned_box(points), [[side for point in points for side in point]]
    x, y = float(value["x"]) * width / 100, float(value["y"]) * height / 100
    degrees = float(value.get("rotation") or 0)
    if "radiusX" in value:
        rx, ry = float(value["radiusX"]) * width / 100, float(value["radiusY"]) * height / 100
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        half = float(np.hypot(rx * cos, ry * sin)), float(np.hypot(rx * sin, ry * cos))
        return clipped([x - half[0], y - half[1], x + half[0], y + half[1]], size), None
    box = [x, y, x + float(value["width"]) * width / 100, y + float(value["height"]) * height / 100]
    if not degrees:
        return box, None
    corners = rotated_corners(box, degrees, (x, y))
    return clipped(turned_box(corners), size), [[side for corner in corners for side in corner]]


def brush_mask(packed: Any, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool of a brush: the alpha of RGBA pixels, packed by thi.ng/rle-pack.

    A header has the number of values in 32 bits, the width of a value less one in 5, and four widths of run
    lengths less one in 4 each. A run is a bit (1 repeats one value, 0 lists values), two bits that select a
    width, and its length less one.

    Args:
        packed: bytes as integers from 0 to 255.
        size: (width, height).

    Raises:
        ValueError: bytes that end early, or values for another size.
    """
    width, height = size
    check_area(size)
    data = np.asarray(packed)
    if (
        data.ndim != 1
        or data.dtype.kind not in "iu"
        or (len(data) and not 0 <= data.min() <= data.max() <= 255)
    ):
        raise ValueError("a brush that is no list of bytes")
    bits = np.unpackbits(data.astype(np.uint8))
    at = 0

    def read(count: int) -> int:
        nonlocal at
        if at + count > len(bits):
            raise ValueError("a brush that ends early")
        found = int("".join(map(str, bits[at : at + count].tolist())), 2)
        at += count
        return found

    total = read(32)
    if total != 4 * width * height:
        raise ValueError(f"a brush of {total} values for an image of {width} x {height}")
    word = read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    values = np.zeros(total, dtype=np.uint32)
    done = 0
    while done < total:
        repeats = read(1)
        end = done + read(lengths[read(2)]) + 1
        if end > total:
            raise ValueError("a brush with a run that is too long")
        if repeats:
            values[done:end] = read(word)
        else:
            count = (end - done) * word
            if at + count > len(bits):
                raise ValueError("a brush that ends early")
            rows = bits[at : at + count].reshape(-1, word)
            values[done:end] = rows @ (1 << np.arange(word - 1, -1, -1, dtype=np.uint32))
            at += count
        done = end
    return values.reshape(height, width, 4)[:, :, 3] > 0


def pack_brush(mask: np.ndarray) -> list[int]:
    """The bytes of a brush (height, width) bool, as integers; the inverse of `brush_mask`."""
    most = 1 << max(_RUN_BITS)
    bits = [f"{4 * mask.size:032b}{_VALUE_BITS - 1:05b}", *(f"{width - 1:04b}" for width in _RUN_BITS)]
    for index, count in enumerate(run_lengths(mask.ravel())):
        left = 4 * count  # of values: a pixel has four
        while left:
            length = min(left, most)
            choice, width = next((n, w) for n, w in enumerate(_RUN_BITS) if length <= 1 << w)
            bits.append(f"1{choice:02b}{length - 1:0{width}b}{255 * (index % 2):0{_VALUE_BITS}b}")
            left -= length
    packed = np.frombuffer("".join(bits).encode(), np.uint8) - ord("0")
    return np.packbits(packed).tolist()


# ------------------------------------------------------------------------------------------------- writing

TASKS, CONFIG = "tasks.json", "labeling-config.xml"
_CHOICE = "choice"


def label_studio_task(
    example: Example, class_names: Sequence[str], image_path: str, options: WriteOptions
) -> dict[str, Any]:
    """The task of an image, with one prediction (or annotation) of all its boxes, or polygons if it has any.

    The score of the prediction is the mean of those of its boxes.

    Args:
        example: the image; its boxes are in pixels of its size.
        class_names: class index → name.
        image_path: path of the image below the document root or the address in the options.
        options: names of the tags, and the address of images.
    """
    width, height = example.size
    source = {
        "to_name": options.to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
    }
    result: list[dict[str, Any]] = []
    scores = box_scores(example)
    percent = 100 / np.maximum(example.size, 1)
    rows = zip(
        box_classes(example), example.boxes * np.tile(percent, 2), scores, box_outlines(example), strict=True
    )
    for label, box, score, outline in rows:
        value: dict[str, Any]
        if outline is None:
            x, y, w, h = corner_and_size(box)
            kind, value = "rectanglelabels", {"x": x, "y": y, "width": w, "height": h, "rotation": 0}
        elif options.mask_format == "rle":
            brush = pack_brush(outline_mask(outline, example.size))
            kind, value = "brushlabels", {"format": "rle", "rle": brush}
        else:
            kind, value = "polygonlabels", {"points": (outline * percent).tolist(), "closed": True}
        region = {
            "id": f"box{len(result) + 1}",
            "type": kind,
            "from_name": options.from_name,
            **source,
            "value": {**value, kind: [class_names[label]]},
        }
        if score is not None and not options.annotations:
            region["score"] = score
        result.append(region)
    if labels := labels_without_boxes(example):
        choices = {"choices": [class_names[label] for label in labels]}
        result.append({"id": "labels", "type": "choices", "from_name": _CHOICE, **source, "value": choices})
    made: dict[str, Any] = {"result": result}
    if not options.annotations:
        made = {"model_version": options.model_version or "heatbox", **made}
        if known := [score for score in scores if score is not None]:
            made["score"] = sum(known) / len(known)
    return {
        "data": {options.to_name: options.image_url + quote(image_path)},
        "annotations" if options.annotations else "predictions": [made],
    }


def labeling_config(splits: Sequence[Split], options: WriteOptions) -> str:
    """The labeling configuration of a project that shows these tasks."""
    to_name, names = xml_text(options.to_name), splits[0].class_names
    labels = "".join(f'    <Label value="{xml_text(name)}"/>\n' for name in names)
    has_outlines = any(example.outlines is not None for split in splits for example in split)
    outlined = "BrushLabels" if options.mask_format == "rle" else "PolygonLabels"
    tag = outlined if has_outlines else "RectangleLabels"
    choices = ""
    if any(labels_without_boxes(example) for split in splits for example in split):
        values = "".join(f'    <Choice value="{xml_text(name)}"/>\n' for name in names)
        choices = f'  <Choices name="{_CHOICE}" toName="{to_name}" choice="multiple">\n{values}  </Choices>\n'
    return (
        f'<View>\n  <Image name="{to_name}" value="${to_name}"/>\n'
        f'  <{tag} name="{xml_text(options.from_name)}" toName="{to_name}">\n{labels}'
        f"  </{tag}>\n{choices}</View>\n"
    )


def _tasks(splits: Sequence[Split], options: WriteOptions, folder: str) -> Iterator[str]:
    """All tasks, one on a line; images are in FOLDER/SPLIT, or where their ids say for no folder."""
    tasks = (
        label_studio_task(
            example,
            split.class_names,
            f"{folder}/{split.name}/{example.id}" if folder else example.id,
            options,
        )
        for split in splits
        for example in split
    )
    yield "[\n"
    yield from separated(map(json_text, tasks), ",\n")
    yield "\n]\n"


def _write(splits: Sequence[Split], output: Output, options: WriteOptions) -> None:
    output.write(TASKS, _tasks(splits, options, "" if options.images == "none" else "images"))
    output.write(CONFIG, labeling_config(splits, options))


WRITER = Writer(
    "tasks.json, labeling-config.xml and images/SPLIT, or FILE.json of tasks alone",
    write=_write,
    image_folder=lambda split, options: f"images/{split}",
    files=lambda split, options: {"": _tasks([split], options, "")},
    suffix=".json",
    loses=lambda options: (SCORES,) if options.annotations else (),
    hint="predictions have scores, annotations have none",
)
