"""PASCAL VOC's XML (Everingham et al., IJCV 2010): one file per image, as a data set.

The devkit has ``Annotations/NAME.xml``, ``JPEGImages/NAME.jpg`` and ``ImageSets/Main/SPLIT.txt``. It counts
pixels from 1 and includes both corners: ``xmin`` and ``ymin`` are one more than in xyxy. CVAT and Datumaro
count from 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from heatbox.data.formats.options import WriteOptions
from heatbox.data.formats.output import (
    LABELS,
    Output,
    Writer,
    box_classes,
    box_scores,
    number_text,
    one_line,
    without_suffix,
    xml_text,
)
from heatbox.data.types import Example, Split


def annotation_xml(example: Example, class_names: Sequence[str], as_cvat: bool = False) -> str:
    """The annotation of an image, with corners and scores as the devkit's tools or as CVAT writes them.

    Args:
        example: the image; its boxes are in pixels of its size.
        class_names: class index → name.
        as_cvat: corners counted from 0 and scores in ``<attributes>``; otherwise corners counted from 1 and
            scores in ``<confidence>``.

    Raises:
        InputError: boxes of no class, or a name that XML cannot hold.
    """
    first = 0 if as_cvat else 1
    flags = example.box_flags or ((),) * len(example.boxes)
    objects = []
    rows = zip(box_classes(example), example.boxes.tolist(), box_scores(example), flags, strict=True)
    for label, box, score, words in rows:
        values = (box[0] + first, box[1] + first, box[2], box[3])
        corners = zip(("xmin", "ymin", "xmax", "ymax"), map(number_text, values), strict=True)
        confidence = "" if score is None else f"\t\t<confidence>{number_text(score)}</confidence>\n"
        if score is not None and as_cvat:
            attribute = f"<name>score</name><value>{number_text(score)}</value>"
            confidence = f"\t\t<attributes><attribute>{attribute}</attribute></attributes>\n"
        objects.append(
            f"\t<object>\n\t\t<name>{xml_text(class_names[label])}</name>\n\t\t<pose>Unspecified</pose>\n"
            + "".join(f"\t\t<{f}>{int(f in words)}</{f}>\n" for f in ("truncated", "occluded", "difficult"))
            + f"{confidence}\t\t<bndbox>\n"
            + "".join(f"\t\t\t<{name}>{value}</{name}>\n" for name, value in corners)
            + "\t\t</bndbox>\n\t</object>\n"
        )
    width, height = example.size
    return (
        f"<annotation>\n\t<folder>JPEGImages</folder>\n\t<filename>{xml_text(example.id)}</filename>\n"
        f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>0</segmented>\n{''.join(objects)}</annotation>\n"
    )


def write_voc(splits: Sequence[Split], output: Output, as_cvat: bool = False) -> None:
    """Write the annotation files and the lists of images."""
    for split in splits:
        names = []
        for example in split:
            names.append(without_suffix(one_line(example.id, "the list of images")))
            text = annotation_xml(example, split.class_names, as_cvat)
            output.write(f"Annotations/{names[-1]}.xml", text)
        output.write(f"ImageSets/Main/{split.name}.txt", "".join(f"{name}\n" for name in names))


def _write(splits: Sequence[Split], output: Output, options: WriteOptions) -> None:
    write_voc(splits, output)


WRITER = Writer(
    "Annotations, JPEGImages and ImageSets/Main",
    write=_write,
    image_folder=lambda split, options: "JPEGImages",
    is_flat=True,
    by_stem=True,
    loses=lambda options: (LABELS,),
)
