"""What can be chosen where a data set is written; light, so that the command line starts fast."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

WrittenFormat = Literal["coco", "coco-results", "csv", "cvat", "huggingface", "labelstudio", "voc", "yolo"]
MaskFormat = Literal["polygon", "rle"]
CvatFormat = Literal["CVAT 1.1", "COCO 1.0", "YOLO 1.1", "PASCAL VOC 1.1"]


@dataclass(frozen=True)
class WriteOptions:
    """How annotations and images are written."""

    _: KW_ONLY
    images: Literal["link", "copy", "none"] | None = None
    """Image files: link makes hard links, which take no space and share the content of the originals (images
    in an archive or on another disk are copied, with a note); copy; none writes annotations alone, and image
    names as the data set has them. By default link in a folder; none for cvat and for single files."""
    confidence: bool = False
    """yolo: scores as a sixth column. Ultralytics does not train on files that have one."""
    annotations: bool = False
    """labelstudio: annotations, which count as finished, in place of predictions."""
    from_name: str = "label"
    """labelstudio: name of the RectangleLabels tag in the labeling configuration."""
    to_name: str = "image"
    """labelstudio: name of the Image tag, and key of the image in the data of a task."""
    model_version: str | None = None
    """labelstudio: name of the predictions; by default the model, or heatbox."""
    image_url: str = "/data/local-files/?d="
    """labelstudio: what comes before the path of an image. The default is local storage whose document root
    is the output folder, or with --images none the folder of the images."""
    cvat_format: CvatFormat = "CVAT 1.1"
    """cvat: name of the format in CVAT's import dialog. YOLO 1.1 cannot hold scores; in CVAT 1.1 and PASCAL
    VOC 1.1 they are an attribute "score", which CVAT keeps if the labels of the task have it."""
    mask_format: MaskFormat = "polygon"
    """coco, labelstudio, cvat: outlines of objects as polygons, or as run lengths of the pixels inside (rle;
    in Label Studio a brush). yolo has polygons alone."""
    overwrite: bool = False
    """Replace files that exist; other files in the folder stay."""


@dataclass(frozen=True)
class AnnotationFiles:
    """Where boxes are written in the formats of other tools."""

    _: KW_ONLY
    yolo: Path | None = None
    """Folder with data.yaml, images and labels, as Ultralytics reads it; see --confidence for scores."""
    voc: Path | None = None
    """Folder of Pascal VOC: Annotations, JPEGImages, ImageSets. Scores are <confidence> elements."""
    labelstudio: Path | None = None
    """Folder of Label Studio tasks with predictions, their images and configuration, or FILE.json."""
    cvat: Path | None = None
    """Zip archive that CVAT imports; see --cvat-format."""
    huggingface: Path | None = None
    """Folder with images and metadata.jsonl, as the datasets library reads it (imagefolder)."""
    csv: Path | None = None
    """CSV file: image, label, x1, y1, x2, y2, score, size; one row per box."""

    def chosen(self) -> dict[WrittenFormat, Path]:
        """Format → path, of the formats that were requested."""
        found: dict[WrittenFormat, Path | None] = {
            "yolo": self.yolo,
            "voc": self.voc,
            "labelstudio": self.labelstudio,
            "cvat": self.cvat,
            "huggingface": self.huggingface,
            "csv": self.csv,
        }
        return {name: path for name, path in found.items() if path is not None}
