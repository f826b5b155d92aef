"""CVAT: its XML for images (1.1), and the zip archives that it imports and exports.

``annotations.xml`` has an ``<image>`` with its name and size for each image, in it a ``<box>`` with corners
``xtl``, ``ytl``, ``xbr``, ``ybr`` in pixels for each object and a ``<tag>`` for each label of the image.
The other archives have the layouts of COCO, of Darknet (YOLO) and of Pascal VOC, as CVAT names their files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from heatbox.data.formats import coco, voc, yolo
from heatbox.data.formats.options import WriteOptions
from heatbox.data.formats.output import (
    LABELS,
    SCORES,
    Loss,
    Output,
    Writer,
    box_classes,
    box_scores,
    labels_without_boxes,
    number_text,
    one_line,
    without_suffix,
    xml_text,
)
from heatbox.data.types import Example, Split
from heatbox.errors import InputError


def image_xml(example: Example, class_names: Sequence[str], number: int, subset: str = "") -> str:
    """The <image> element of an image; a box's score is an attribute of that name.

    Args:
        example: the image; its boxes are in pixels of its size.
        class_names: class index → name.
        number: position of the image in the file.
        subset: name of the split, "" for none.
    """
    source = "manual" if example.box_scores is None else "auto"
    flags = example.box_flags or ((),) * len(example.boxes)
    lines = []
    rows = zip(box_classes(example), example.boxes.tolist(), box_scores(example), flags, strict=True)
    for label, box, score, words in rows:
        corners = " ".join(
            f'{name}="{number_text(value)}"'
            for name, value in zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True)
        )
        attribute = "" if score is None else f'<attribute name="score">{number_text(score)}</attribute>'
        kind = (
            f'label="{xml_text(class_names[label])}" source="{source}" occluded="{int("occluded" in words)}"'
        )
        lines.append(f'    <box {kind} {corners} z_order="0">{attribute}</box>\n')
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
    subsets = [split.name if len(splits) > 1 else "" for split in splits]
    entries = [(example, subset) for split, subset in zip(splits, subsets, strict=True) for example in split]
    images = "".join(
        image_xml(example, splits[0].class_names, number, subset)
        for number, (example, subset) in enumerate(entries)
    )
    output.write(
        "annotations.xml",
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n'
        f"    <task>\n      <size>{len(entries)}</size>\n      <mode>annotation</mode>\n"
        f"      <labels>\n{labels}      </labels>\n    </task>\n  </meta>\n{images}</annotations>\n",
    )


def _write_darknet(splits: Sequence[Split], output: Output, options: WriteOptions) -> None:
    names = [one_line(name, "obj.names") for name in splits[0].class_names]
    lists = []
    for split in splits:
        key = _darknet_name(split.name)
        folder = _darknet_folder(split.name)
        for example in split:
            output.write(f"{folder}/{without_suffix(example.id)}.txt", yolo.label_lines(example))
        paths = (f"data/{folder}/{one_line(example.id, 'the list of images')}\n" for example in split)
        output.write(f"{key}.txt", "".join(paths))
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
    "YOLO 1.1": _Variant(_write_darknet, _darknet_folder, (LABELS, SCORES)),
    "PASCAL VOC 1.1": _Variant(_write_voc, lambda split: "JPEGImages", (LABELS,)),
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
