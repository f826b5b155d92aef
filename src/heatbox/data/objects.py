"""Splits as the objects of other libraries: supervision and FiftyOne."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heatbox._utils.extras import require
from heatbox.data.formats.output import box_classes, box_scores, corner_and_size, labels_without_boxes
from heatbox.data.types import Split
from heatbox.errors import InputError

if TYPE_CHECKING:
    import supervision


def detections_of(
    boxes: np.ndarray, classes: Sequence[int], scores: np.ndarray | None, class_names: Sequence[str] = ()
) -> supervision.Detections:
    """Boxes as one `supervision.Detections`.

    Args:
        boxes: (K, 4) xyxy in pixels.
        classes: K class indices.
        scores: (K,) confidences, or None for ground truth.
        class_names: class index → name; where it is given, data["class_name"] has the names.

    Raises:
        InputError: supervision is not installed.
    """
    require("supervision", "supervision.Detections")
    from supervision import Detections

    names = [str(class_names[label]) for label in classes] if len(class_names) else None
    return Detections(
        xyxy=np.asarray(boxes, np.float32).reshape(-1, 4),
        confidence=None if scores is None else np.asarray(scores, np.float32),
        class_id=np.asarray(classes, np.int64),
        data={} if names is None else {"class_name": np.array(names, dtype=str)},
    )


def to_detections(split: Split) -> list[supervision.Detections]:
    """The boxes of each image of a split as `supervision.Detections`.

    They are in pixels of `Example.size`, with class names where the split has them; confidence is None for
    ground truth.

    Raises:
        InputError: supervision is not installed, or boxes of no class.
    """
    require("supervision", "to_detections()")
    return [detections_of(e.boxes, box_classes(e), e.box_scores, split.class_names) for e in split]


def to_fiftyone(split: Split, field: str | None = None) -> list[Any]:
    """The images of a split as `fiftyone.Sample` objects, for `Dataset.add_samples`.

    Boxes become `Detections` with relative [x, y, width, height]; labels without boxes become
    `Classifications` in the field FIELD_labels.

    Args:
        split: its images are files.
        field: name of the field; by default "predictions" where boxes have scores, else "ground_truth".

    Raises:
        InputError: FiftyOne is not installed, images that are not files, or boxes of no class.
    """
    try:
        import fiftyone
    except ImportError as error:
        raise InputError("to_fiftyone() needs fiftyone: pip install fiftyone") from error
    reader = split.open_image
    names = [*map(str, split.class_names), *map(str, range(len(split.class_names), split.num_classes))]
    samples = []
    for example in split:
        source = reader.source(example) if hasattr(reader, "source") else None
        if not isinstance(source, Path):
            raise InputError(f"{split.name}: image {example.id!r} is not a file, as FiftyOne needs it")
        scored = example.box_scores is not None
        key = field or ("predictions" if scored else "ground_truth")
        frame = np.tile(np.maximum(example.size, 1), 2)
        rows = zip(box_classes(example), example.boxes / frame, box_scores(example), strict=True)
        boxes = [
            fiftyone.Detection(label=names[label], bounding_box=corner_and_size(box), confidence=score)
            for label, box, score in rows
        ]
        fields = {key: fiftyone.Detections(detections=boxes)}
        if labels := labels_without_boxes(example):
            found = [fiftyone.Classification(label=names[label]) for label in labels]
            fields[f"{key}_labels"] = fiftyone.Classifications(classifications=found)
        samples.append(fiftyone.Sample(filepath=str(source), tags=[split.name], **fields))
    return samples
