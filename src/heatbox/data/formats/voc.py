"""PASCAL VOC's XML (Everingham et al., IJCV 2010): one file per image, as a data set.

The devkit has ``Annotations/NAME.xml``, ``JPEGImages/NAME.jpg`` and splits in ``ImageSets/Main/SPLIT.txt``.
Annotation tools write the XML into a folder of any of several names, or beside the images, and a folder per
split. An image may have objects of several classes, or none.

The devkit counts pixels from 1 and includes both corners: xmin and ymin become one less. Tools that count
from 0 show it by a 0 among their corners, CVAT and Datumaro by a file ``labelmap.txt``; their corners are
used as they are written. The reader says which is assumed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress

from heatbox.data.files.images import TreeImages, is_image
from heatbox.data.files.trees import Report, Tree, below, join
from heatbox.data.formats.names import locate_images
from heatbox.data.formats.options import WriteOptions
from heatbox.data.formats.output import (
    LABELS,
    OUTLINES,
    Output,
    Writer,
    box_classes,
    box_scores,
    number_text,
    one_line,
    without_suffix,
    xml_text,
)
from heatbox.data.formats.rows import Annotation, Object, annotated_split, is_safe_id, read_rows, skipping
from heatbox.data.formats.splits import is_split
from heatbox.data.formats.xml import Element, number, parse_xml
from heatbox.data.types import BOX_FLAGS, Example, Split
from heatbox.errors import AssumptionWarning, InputError

LAYOUT, DEPTH = "Pascal VOC", 2
LABELMAP = "labelmap.txt"
_XML_FOLDERS = ("annotations", "annotation", "xmls", "xml", "labels")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "imgs", "img", "")
_FORM = "an annotation in PASCAL VOC's XML"


def split_names(tree: Tree) -> tuple[str, ...]:
    """The lists of ImageSets/Main, the folders of splits, or "all"."""
    folder = _xml_folder(tree)
    if folder is None:
        return ()
    if sets := _sets(tree):
        return tuple(sets)
    inside = below(tree, folder)
    if splits := [name for name in inside.folders() if is_split(name) and _has_xml(inside, name)]:
        return tuple(splits)
    return ("all",)


def load_split(tree: Tree, name: str, report: Report) -> Split:
    """Read a split; classes are sorted by name, over all splits, or in the order of labelmap.txt.

    Raises:
        InputError: naming the file and the object: XML that cannot be read, a box outside its image, or an
            image without file.
    """
    folder = _xml_folder(tree) or ""
    read: dict[str, Annotation] = {}  # path of the XML without its ending → annotation
    files: dict[str, str] = {}  # the same → listed file name
    wanted = _wanted(tree, folder, name, report)
    for path in _xml_paths(tree, folder):
        stem = path.removesuffix(".xml")
        with skipping(report) if stem in wanted else suppress(InputError):
            read[stem], files[stem] = _read(tree, path, needs_size=False)
    class_names = _class_names(tree, read)
    _count_from_zero(tree, read)
    chosen = [stem for stem in wanted if stem in read]
    images = _locate(tree, folder, chosen, files)
    table: dict[str, Annotation] = {}
    for stem in chosen:
        annotation = read[stem]
        with skipping(report):
            if stem not in images.ids:
                raise InputError(f"{annotation.where}: its image {files[stem]!r} is missing")
            if images.ids[stem] in table:
                other = table[images.ids[stem]].where
                raise InputError(f"{annotation.where}: image {images.ids[stem]!r} has another XML, {other}")
            table[images.ids[stem]] = annotation
    return annotated_split(name, table, class_names, TreeImages(tree, images.folder), report)


# ------------------------------------------------------------------------------------------------- folders


def _has_xml(tree: Tree, folder: str) -> bool:
    """Whether the first XML file in a folder, or below it, is of this form."""
    first = next((path for path in tree.walk(folder) if path.endswith(".xml")), None)
    return first is not None and _is_annotation(tree.read(first)[:2000])


def _is_annotation(head: bytes) -> bool:
    head = head.replace(b"\0", b"")
    return b"<annotation>" in head or b"<annotation " in head


def _xml_folder(tree: Tree) -> str | None:
    """The folder of the annotations: one of its own, or the root if they are beside the images."""
    for name in tree.folders():
        if name.lower() in _XML_FOLDERS and _has_xml(tree, name):
            return name
    places = ["", *(name for name in tree.folders() if is_split(name))]
    for place in places:
        first = next(iter(tree.paths(place, ".xml")), "")
        beside = any(map(is_image, tree.files(place))) or any(
            n in tree.folders(place) for n in _IMAGE_FOLDERS
        )
        if first and beside and _is_annotation(tree.read(first)[:2000]):
            return ""
        for name in tree.folders(place) if place else ():
            if name.lower() in _XML_FOLDERS and _has_xml(tree, join(place, name)):
                return ""
    return None


def _xml_paths(tree: Tree, folder: str) -> Iterator[str]:
    for path in tree.walk(folder):
        if path.endswith(".xml") and not path.rpartition("/")[2].startswith("._"):
            yield path


def _sets(tree: Tree) -> dict[str, str]:
    """Split → its list; lists of single classes, such as cat_train.txt beside train.txt, are left out."""
    for folder in ("ImageSets/Main", "ImageSets"):
        paths = {path.rpartition("/")[2].removesuffix(".txt"): path for path in tree.paths(folder, ".txt")}
        found = {
            name: path
            for name, path in paths.items()
            if not ("_" in name and name.rpartition("_")[2] in paths) and tree.read(path).strip()
        }
        if found:
            return found
    return {}


def _wanted(tree: Tree, folder: str, name: str, report: Report) -> list[str]:
    """Paths of the annotations of a split, without their ending."""
    paths = [path.removesuffix(".xml") for path in _xml_paths(tree, folder)]
    sets = _sets(tree)
    if name not in sets:
        start = f"{join(folder, name)}/" if name != "all" else ""
        return [path for path in paths if path.startswith(start)]
    known = set(paths)
    found: dict[str, None] = {}
    for row in read_rows(tree, sets[name]):
        with skipping(report):
            listed = row.text.replace("\\", "/")
            stem = listed.rpartition(".")[0] if is_image(listed) else listed
            path = join(folder, stem)
            if path not in known:
                raise InputError(f"{row.where}: {listed!r} has no {tree.describe(path + '.xml')}")
            found.setdefault(path)
    return list(found)


class _Images:
    """Where the images are: folder, and path of the XML without ending → id."""

    def __init__(self, folder: str, ids: dict[str, str]) -> None:
        self.folder, self.ids = folder, ids


def _locate(tree: Tree, folder: str, stems: list[str], files: dict[str, str]) -> _Images:
    """The image of each annotation: of the same name as the XML, or else the one that the XML names."""
    by_stem: dict[str, list[str]] = {}
    for image in filter(is_image, tree.walk()):
        by_stem.setdefault(image.rpartition(".")[0], []).append(image)
    found: dict[str, str] = {}
    for stem in stems:
        inner = stem[len(folder) + 1 :] if folder else stem
        above, _, last = inner.rpartition("/")
        beside = [join(join(above.rpartition("/")[0], image), last) for image in _IMAGE_FOLDERS]
        places = [stem, *(join(image, inner) for image in _IMAGE_FOLDERS), *beside]
        same = next((by_stem[place] for place in places if place in by_stem), [])
        named = files[stem].rpartition("/")[2]
        match = [image for image in same if image.rpartition("/")[2] == named] or same[:1]
        if match:
            found[stem] = match[0]
    rest = {stem: files[stem] for stem in stems if stem not in found and files[stem]}
    if rest:
        located = locate_images(tree, dict.fromkeys(rest.values()), _IMAGE_FOLDERS)
        for stem, listed in rest.items():
            if listed not in located.missing:
                found[stem] = join(located.folder, located.ids[listed])
    folders = {image.rpartition("/")[0] for image in found.values()}
    common = next((name for name in _IMAGE_FOLDERS if name and all(_in(f, name) for f in folders)), "")
    start = len(common) + 1 if common and folders else 0
    return _Images(common if start else "", {stem: image[start:] for stem, image in found.items()})


def _in(folder: str, above: str) -> bool:
    return folder == above or folder.startswith(f"{above}/")


# ------------------------------------------------------------------------------------------------- content


def read_voc(tree: Tree, name: str) -> Annotation:
    """Size and objects of an annotation, with corners as they are written.

    Documents with a DTD are refused: none of the data sets has one, and entities can expand without limit.

    Raises:
        InputError: it is not such an annotation.
    """
    return _read(tree, name, needs_size=True)[0]


def _read(tree: Tree, name: str, needs_size: bool) -> tuple[Annotation, str]:
    """An annotation, and the file name that it lists, "" if it is none inside the data set."""
    where = tree.describe(name)
    root = parse_xml(tree.read(name), where, _FORM)
    default = None if needs_size else 0.0
    try:
        if not needs_size and root.tag != "annotation":
            raise ValueError(f"its root is {root.tag}")
        size = int(number(root, "size/width", default)), int(number(root, "size/height", default))
        found = Annotation(where, size if min(size) > 0 or needs_size else (0, 0))
        for index, element in enumerate(root.findall("object"), 1):
            box = [number(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
            category = (element.findtext("name") or "").strip()
            if not category and not needs_size:
                raise ValueError(f"object {index} has no name")
            flags = tuple(flag for flag in BOX_FLAGS if _is_set(element, flag))
            found.objects.append(Object(category, box, f"{where}, object {index}", flags, _score(element)))
    except ValueError as error:
        raise InputError(f"{where}: is not {_FORM} ({error})") from error
    listed = (root.findtext("filename") or "").strip().replace("\\", "/")
    return found, listed if listed and is_safe_id(listed) else ""


def _score(element: Element) -> float | None:
    """The confidence of an object, of its own or among its attributes; None if it has none in [0, 1]."""
    text = element.findtext("confidence")
    for attribute in element.findall("attributes/attribute"):
        if (attribute.findtext("name") or "").strip() == "score":
            text = attribute.findtext("value")
    try:
        value = float(text) if text else -1.0
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def _is_set(element: Element, flag: str) -> bool:
    return (element.findtext(flag) or "").strip() not in ("", "0")


def _class_names(tree: Tree, read: dict[str, Annotation]) -> list[str]:
    """Names in the order of labelmap.txt (``name:color:parts:actions``), then any others, sorted."""
    found = sorted({one.category for annotation in read.values() for one in annotation.objects})
    listed = []
    if tree.has(LABELMAP):
        listed = [row.text.rsplit(":", 3)[0] for row in read_rows(tree, LABELMAP) if row.text[0] != "#"]
    listed = [name for name in dict.fromkeys(listed) if name != "background" or name in found]
    return [*listed, *(name for name in found if name not in listed)]


def _count_from_zero(tree: Tree, read: dict[str, Annotation]) -> None:
    """Make corners that are counted from 1 half-open ones, counted from 0."""
    if tree.has(LABELMAP):
        return
    boxes = [one.box for annotation in read.values() for one in annotation.objects]
    if not boxes:
        return
    zero = any(min(box[0], box[1]) < 1 for box in boxes)
    why = "0, because some are below 1" if zero else "1, as in the VOC devkit: xmin and ymin become one less"
    warnings.warn(f"{tree.where}: corners are counted from {why}", AssumptionWarning, 2)
    if zero:
        return
    for annotation in read.values():
        annotation.objects[:] = [
            one._replace(box=[one.box[0] - 1, one.box[1] - 1, *one.box[2:]]) for one in annotation.objects
        ]


# ------------------------------------------------------------------------------------------------- writing


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
        for example in split:
            name = without_suffix(one_line(example.id, "the list of images"))
            output.write(f"Annotations/{name}.xml", annotation_xml(example, split.class_names, as_cvat))
        names = (f"{without_suffix(example.id)}\n" for example in split)
        output.write(f"ImageSets/Main/{split.name}.txt", names)


def _write(splits: Sequence[Split], output: Output, options: WriteOptions) -> None:
    write_voc(splits, output)


WRITER = Writer(
    "Annotations, JPEGImages and ImageSets/Main",
    write=_write,
    image_folder=lambda split, options: "JPEGImages",
    is_flat=True,
    by_stem=True,
    loses=lambda options: (LABELS, OUTLINES),
)
