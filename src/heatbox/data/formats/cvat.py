"""CVAT: its XML for images (1.1), and the zip archives that it imports and exports.

``annotations.xml`` has an ``<image>`` with its name and size for each image, in it a ``<box>`` with corners
``xtl``, ``ytl``, ``xbr``, ``ybr`` in pixels for each object, which may be turned about its centre or be a
``<polygon>``, ``<ellipse>`` or ``<mask>``, and a ``<tag>`` for each label of the image.
The other archives have the layouts of COCO, of Darknet (YOLO) and of Pascal VOC, as CVAT names their files.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from heatbox.data.files.trees import Report, Tree
from heatbox.data.formats import coco, voc, yolo
from heatbox.data.formats.listed import categories_of, clipped, listed_split, rotated_corners, turned_box
from heatbox.data.formats.masks import Segment
from heatbox.data.formats.options import MaskFormat, WriteOptions
from heatbox.data.formats.output import (
    LABELS,
    OUTLINES,
    SCORES,
    Loss,
    Output,
    Writer,
    box_classes,
    box_outlines,
    box_scores,
    labels_without_boxes,
    number_text,
    one_line,
    without_suffix,
    xml_text,
)
from heatbox.data.formats.rows import MAX_SIDE, Annotation, Object, skipping
from heatbox.data.formats.segments import mask_box, outline_mask, run_lengths
from heatbox.data.formats.xml import Element, attribute, parse_xml
from heatbox.data.types import Example, Split
from heatbox.errors import InputError

LAYOUT, DEPTH = "CVAT for images", 1
_FORM = "CVAT's XML for images"


def split_names(tree: Tree) -> tuple[str, ...]:
    """The subsets of the images, or "all"."""
    path = _annotation_file(tree)
    if path is None:
        return ()
    root = parse_xml(tree.read(path), tree.describe(path), _FORM)
    subsets = dict.fromkeys((image.get("subset") or "").strip() for image in root.findall("image"))
    return tuple(name for name in subsets if name) if len(subsets) > 1 or "" not in subsets else ("all",)


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read the images of a subset; classes are in the order of the labels in the file's meta.

    Raises:
        InputError: naming the image and the shape: a shape that cannot be read, a box outside its image, an
            image that is missing; or annotations of a video.
    """
    path = _annotation_file(tree)
    if path is None:
        raise InputError(f"{tree.where}: has no {_FORM}")
    where = tree.describe(path)
    root = parse_xml(tree.read(path), where, _FORM)
    if root.find("track") is not None:
        raise InputError(
            f"{where}: has tracks of a video, expected images; export the task as CVAT for images 1.1"
        )
    table: dict[str, Annotation] = {}
    segments: dict[str, list[Segment]] = {}
    for index, element in enumerate(root.findall("image")):
        subset = (element.get("subset") or "").strip()
        if name not in (subset, "all"):
            continue
        at = f"{where}, image {index}"
        with skipping(report):
            listed = element.get("name") or ""
            try:
                size = int(attribute(element, "width")), int(attribute(element, "height"))
                if not listed or not (min(size) > 0 and max(size) < MAX_SIDE):
                    raise ValueError(f"name {listed!r}, size {size[0]} x {size[1]}")
            except ValueError as error:
                raise InputError(f"{at}: expected name, width and height ({error})") from error
            if listed in table:
                raise InputError(f"{at}: image {listed!r} is listed twice")
            table[listed], segments[listed] = Annotation(at, size), []
            for number, shape in enumerate(element):
                with skipping(report, listed):
                    _read_shape(table[listed], segments[listed], shape, f"{at}, shape {number}")
    found = categories_of(table.values())
    names = [(label.findtext("name") or "").strip() for label in root.iterfind("meta/*//labels/label")]
    names = [one for one in dict.fromkeys(names) if one]
    class_names = [*names, *(kind for kind in found if kind not in names)]
    folders = ["images", f"images/{name}", "", name, "images/default"]
    return listed_split(name, tree, table, segments, class_names, folders, report)


def _annotation_file(tree: Tree) -> str | None:
    """The first XML file whose root is <annotations>."""
    for path in tree.paths("", ".xml"):
        head = tree.read(path)[:4000].replace(b"\0", b"")
        if b"<annotations>" in head or b"<annotations " in head:
            return path
    return None


def _read_shape(annotation: Annotation, segments: list[Segment], shape: Element, where: str) -> None:
    """Add a shape or a tag to an image."""
    kind = (shape.get("label") or "").strip()
    if shape.tag not in ("box", "polygon", "ellipse", "mask", "tag"):
        return  # points and lines have no extent
    if not kind:
        raise InputError(f"{where}: {shape.tag} has no label")
    if shape.tag == "tag":
        annotation.labels += [kind] if kind not in annotation.labels else []
        return
    try:
        box, outline = _box_and_outline(shape, annotation.size)
        scores = [one.text for one in shape.findall("attribute") if one.get("name") == "score" and one.text]
        score = float(scores[0]) if scores else None
    except ValueError as error:
        raise InputError(f"{where}: {shape.tag} cannot be read ({error})") from error
    flags = ("occluded",) if shape.get("occluded") == "1" else ()
    annotation.objects.append(Object(kind, box, where, flags, score))
    segments.append(Segment(kind, outline, box, where))


def _box_and_outline(shape: Element, size: tuple[int, int]) -> tuple[list[float], Any]:
    """xyxy box in pixels, and outline, None for an upright box."""
    degrees = attribute(shape, "rotation") if shape.get("rotation") else 0.0
    if shape.tag == "polygon":
        points = [tuple(map(float, pair.split(","))) for pair in (shape.get("points") or "").split(";")]
        if any(len(point) != 2 for point in points):
            raise ValueError("points are not x,y;x,y")
        return turned_box(points), [[side for point in points for side in point]]  # type: ignore[arg-type]
    if shape.tag == "mask":
        left, top, width, height = (int(attribute(shape, key)) for key in ("left", "top", "width", "height"))
        runs = [int(run) for run in (shape.get("rle") or "").split(",")]
        box = [left, top, left + width, top + height]
        if not (0 <= left < left + width <= size[0] and 0 <= top < top + height <= size[1]):
            raise ValueError(f"a mask at {box} in an image of {size[0]} x {size[1]}")
        if min(runs) < 0 or sum(runs) != width * height:
            raise ValueError(f"run lengths that sum to {sum(runs)}, not to {width * height} pixels")

        def outline(wanted: tuple[int, int]) -> np.ndarray:
            part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
            mask = np.zeros(wanted[::-1], dtype=bool)
            mask[top : top + height, left : left + width] = part
            return mask

        return [float(side) for side in box], outline
    if shape.tag == "ellipse":
        x, y, rx, ry = (attribute(shape, key) for key in ("cx", "cy", "rx", "ry"))
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        half = float(np.hypot(rx * cos, ry * sin)), float(np.hypot(rx * sin, ry * cos))
        return clipped([x - half[0], y - half[1], x + half[0], y + half[1]], size), None
    upright = [attribute(shape, key) for key in ("xtl", "ytl", "xbr", "ybr")]
    if not degrees:
        return upright, None
    centre = ((upright[0] + upright[2]) / 2, (upright[1] + upright[3]) / 2)
    corners = rotated_corners(upright, degrees, centre)
    return clipped(turned_box(corners), size), [[side for corner in corners for side in corner]]


# ------------------------------------------------------------------------------------------------- writing


def image_xml(
    example: Example,
    class_names: Sequence[str],
    number: int,
    subset: str = "",
    masks: MaskFormat = "polygon",
) -> str:
    """The <image> element of an image: boxes, or polygons if it has outlines, with scores as an attribute.

    Args:
        example: the image; its boxes are in pixels of its size.
        class_names: class index → name.
        number: position of the image in the file.
        subset: name of the split, "" for none.
    """
    source = "manual" if example.box_scores is None else "auto"
    flags = example.box_flags or ((),) * len(example.boxes)
    lines = []
    columns = box_classes(example), example.boxes.tolist(), box_scores(example), flags, box_outlines(example)
    for label, box, score, words, outline in zip(*columns, strict=True):
        shape, place = (
            "box",
            " ".join(
                f'{name}="{number_text(value)}"'
                for name, value in zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True)
            ),
        )
        if outline is not None and masks == "rle":
            mask = outline_mask(outline, example.size)
            left, top, right, bottom = map(int, mask_box(mask))
            runs = ", ".join(map(str, run_lengths(mask[top:bottom, left:right].ravel())))
            shape = "mask"
            place = f'rle="{runs}" left="{left}" top="{top}" width="{right - left}" height="{bottom - top}"'
        elif outline is not None:
            points = ";".join(f"{number_text(x)},{number_text(y)}" for x, y in outline.tolist())
            shape, place = "polygon", f'points="{points}"'
        attribute = "" if score is None else f'<attribute name="score">{number_text(score)}</attribute>'
        kind = (
            f'label="{xml_text(class_names[label])}" source="{source}" occluded="{int("occluded" in words)}"'
        )
        lines.append(f'    <{shape} {kind} {place} z_order="0">{attribute}</{shape}>\n')
    lines += [
        f'    <tag label="{xml_text(class_names[label])}" source="{source}"></tag>\n'
        for label in labels_without_boxes(example)
    ]
    place = f' subset="{xml_text(subset)}"' if subset else ""
    width, height = example.size
    return (
        f'  <image id="{number}" name="{xml_text(example.id)}"{place} width="{width}" height="{height}">\n'
        f"{''.join(lines)}  </image>\n"
    )


def _write_xml(splits: Sequence[Split], output: Output, options: WriteOptions) -> None:
    has_scores = any(example.box_scores is not None for split in splits for example in split)
    score = (
        "<attribute><name>score</name><mutable>False</mutable><input_type>text</input_type>"
        "<default_value></default_value><values></values></attribute>"
        if has_scores
        else ""
    )
    labels = "".join(
        f"        <label><name>{xml_text(name)}</name><attributes>{score}</attributes></label>\n"
        for name in splits[0].class_names
    )
    head = (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n'
        f"    <task>\n      <size>{sum(map(len, splits))}</size>\n      <mode>annotation</mode>\n"
        f"      <labels>\n{labels}      </labels>\n    </task>\n  </meta>\n"
    )
    numbers = itertools.count()
    images = (
        image_xml(
            example,
            split.class_names,
            next(numbers),
            split.name if len(splits) > 1 else "",
            options.mask_format,
        )
        for split in splits
        for example in split
    )
    output.write("annotations.xml", itertools.chain([head], images, ["</annotations>\n"]))


def _write_darknet(splits: Sequence[Split], output: Output, options: WriteOptions) -> None:
    names = [one_line(name, "obj.names") for name in splits[0].class_names]
    lists = []
    for split in splits:
        key = _darknet_name(split.name)
        folder = _darknet_folder(split.name)
        for example in split:
            boxes = dataclasses.replace(example, outlines=None)
            output.write(f"{folder}/{without_suffix(example.id)}.txt", yolo.label_lines(boxes))
        paths = (f"data/{folder}/{one_line(example.id, 'the list of images')}\n" for example in split)
        output.write(f"{key}.txt", paths)
        lists.append(f"{key} = data/{key}.txt\n")
    output.write("obj.names", "".join(f"{name}\n" for name in names))
    lines = [f"classes = {len(names)}\n", *lists, "names = data/obj.names\nbackup = backup/\n"]
    output.write("obj.data", "".join(lines))


def _darknet_name(split: str) -> str:
    return {"all": "train", "val": "valid", "validation": "valid"}.get(split, split)


def _only_name(split: str, options: WriteOptions) -> str:
    """CVAT looks for the images of train and valid in YOLO 1.1."""
    known = options.cvat_format != "YOLO 1.1" or _darknet_name(split) in ("train", "valid")
    return split if known else "train"


def _darknet_folder(split: str) -> str:
    return f"obj_{_darknet_name(split)}_data"


def _write_voc(splits: Sequence[Split], output: Output, options: WriteOptions) -> None:
    voc.write_voc(splits, output, as_cvat=True)
    for name in splits[0].class_names:
        if ":" in one_line(name, "labelmap.txt") or name.startswith("#"):
            raise InputError(f"class {name!r} contains a sign that labelmap.txt cannot hold (: or # first)")
    lines = ["# label:color_rgb:parts:actions\n", *(f"{name}:::\n" for name in splits[0].class_names)]
    output.write("labelmap.txt", "".join(lines))


class _Variant(NamedTuple):
    """One of CVAT's formats: what writes it, where its images are, and what it loses."""

    write: Callable[[Sequence[Split], Output, WriteOptions], None]
    image_folder: Callable[[str], str]
    loses: Sequence[Loss] = ()


_VARIANTS = {
    "CVAT 1.1": _Variant(_write_xml, lambda split: "images"),
    "COCO 1.0": _Variant(coco.write_tree, coco.image_folder),
    "YOLO 1.1": _Variant(_write_darknet, _darknet_folder, (LABELS, SCORES, OUTLINES)),
    "PASCAL VOC 1.1": _Variant(_write_voc, lambda split: "JPEGImages", (LABELS, OUTLINES)),
}
WRITER = Writer(
    "a zip archive that CVAT imports: CVAT 1.1, COCO 1.0, YOLO 1.1 or PASCAL VOC 1.1",
    write=lambda splits, output, options: _VARIANTS[options.cvat_format].write(splits, output, options),
    image_folder=lambda split, options: _VARIANTS[options.cvat_format].image_folder(split),
    only_name=_only_name,
    is_archive=True,
    loses=lambda options: _VARIANTS[options.cvat_format].loses,
    hint="--cvat-format 'CVAT 1.1' holds both",
)
