"""Boxes of the batches that Ray Data hands to its actors; each actor holds one model.

    ray.data.read_binary_files("photos/", include_paths=True).map_batches(
        Localize, fn_constructor_kwargs={"model": "resnet50", "checkpoint": "pretrained"},
        batch_size=32, compute=ray.data.ActorPoolStrategy(size=2),
    ).write_parquet("boxes")

The classes are callables on batches of columns and do not import Ray, so other programs can call them, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from heatbox._utils.checks import kind_of
from heatbox.config import DEFAULT_MAP, LabelConfig, LocateConfig
from heatbox.data.files.images import decode_for_network
from heatbox.errors import InputError
from heatbox.inference.calibration import load_calibration
from heatbox.inference.locate import localizer_of, located_line
from heatbox.labeling.pipeline import label
from heatbox.maps.registry import ForegroundName

BYTES, IMAGE = "bytes", "image"
"""Columns with images: the content of their files, which are opened upright, or decoded arrays."""
_LEFT_OUT = "the image is left out; a warning has the reason"
_BOXES = pa.list_(pa.list_(pa.float64()))
_OF_LOCALIZE = pa.schema(
    [
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("label", pa.int64()),
        ("name", pa.string()),
        ("score", pa.float64()),
        ("boxes", _BOXES),
        ("expected_confidence", pa.list_(pa.float64())),
        ("confidence", pa.list_(pa.float64())),
        ("outer_boxes", _BOXES),
        ("error", pa.string()),
    ]
)
_OF_LABEL = pa.schema(
    [
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("boxes", _BOXES),
        ("names", pa.list_(pa.string())),
        ("confidences", pa.list_(pa.float64())),
        ("error", pa.string()),
    ]
)


class Localize:
    """The boxes of `heatbox locate`, batch by batch.

    Args:
        settings: fields of `heatbox.config.LocateConfig`: model, checkpoint, method, threshold and others.
            A method with a foreground head needs its file, because an actor does not see all images.

    Raises:
        InputError: an unknown model or method, or no file of a foreground head.
    """

    def __init__(self, **settings: Any) -> None:
        config = LocateConfig(**settings)
        if config.target == "folder":
            raise InputError(
                "target is folder, but the images of a batch are in no folder; expected a class index"
            )
        _require_head(config.method, config.foreground)
        calibration = None if config.calibration is None else load_calibration(config.calibration)
        model = config.build()
        self.localizer = localizer_of(config, [config], [model], calibration)
        self.targets = None if config.target is None else [config.target]
        self.names = config.class_names(model, self.localizer.view.num_classes)

    def __call__(self, batch: Mapping[str, Any]) -> pa.Table:
        """The boxes of some images.

        Args:
            batch: columns. "bytes" are the contents of image files, or "image" (H, W, 3) uint8 arrays; all
                other columns are kept, except those of the names that are added.

        Returns:
            the other columns, and those that `heatbox locate` prints. An image that cannot be read has no
            boxes, and a sentence in the column "error".
        """
        rows: list[dict[str, Any]] = []
        for image in _images(batch, self.localizer.preprocess.channels):
            if isinstance(image, InputError):
                rows.append({"boxes": [], "error": str(image)})
                continue
            found = self.localizer([image], self.targets)
            number = int(found.targets[0])
            name = self.names[number] if number < len(self.names) else None
            rows.append(located_line(found, image, name))
        return _table(batch, rows, _OF_LOCALIZE)


class Label:
    """The boxes of `heatbox label`, batch by batch.

    Args:
        labels: the column with the class of each image, its name or its index in the network's classes; by
            default the classes that the network predicts.
        settings: fields of `heatbox.config.LabelConfig`: model, checkpoint, method, threshold and others.
            A method with a foreground head, as the default is, needs its file, because an actor does not see
            all images.

    Raises:
        InputError: no model, or no file of a foreground head.
    """

    def __init__(self, labels: str | None = None, **settings: Any) -> None:
        config = LabelConfig(**settings)
        if config.model is None:
            raise InputError(
                "Label needs a model; a classifier is fitted to all images by heatbox train finetune"
            )
        _require_head(config.method or DEFAULT_MAP, config.foreground)
        self.model, self.labels = config.spec.build(), labels
        self.settings = {key: value for key, value in settings.items() if key not in ("model", "checkpoint")}

    def __call__(self, batch: Mapping[str, Any]) -> pa.Table:
        """The boxes of some images, as for `Localize`.

        Returns:
            the other columns, and width, height, boxes (xyxy in pixels), names of their classes (numbers
            where there are none), confidences and error.
        """
        images = list(_images(batch, 3))
        good = [number for number, image in enumerate(images) if not isinstance(image, InputError)]
        labels = None if self.labels is None else [_plain(batch[self.labels][number]) for number in good]
        rows: list[dict[str, Any]] = [
            {"boxes": [], "error": str(image) if isinstance(image, InputError) else _LEFT_OUT}
            for image in images
        ]
        found = label([images[n] for n in good], self.model, labels, **self.settings) if good else ()
        for one in found:
            names = [one.class_names[kind] if one.class_names else str(kind) for kind in one.classes]
            rows[good[int(one.id.partition(".")[0])]] = {
                "width": one.size[0],
                "height": one.size[1],
                "boxes": one.boxes.tolist(),
                "names": names,
                "confidences": one.confidences.tolist(),
            }
        return _table(batch, rows, _OF_LABEL)


def _require_head(method: str, foreground: Path | None) -> None:
    if foreground is None and ForegroundName.of(method) is not None:
        raise InputError(
            f"{method} learns a foreground head from all images, of which an actor sees a part: name the "
            "foreground.safetensors of a run as foreground, or a method without a head, such as walk"
        )


def _images(batch: Mapping[str, Any], channels: int) -> Sequence[Image.Image | np.ndarray | InputError]:
    """The images of a batch, or why they cannot be read."""
    if BYTES in batch:
        paths = batch["path"] if "path" in batch else [f"row {n}" for n in range(len(batch[BYTES]))]
        return [_decoded(one, str(path), channels) for one, path in zip(batch[BYTES], paths, strict=True)]
    if IMAGE in batch:
        return [np.asarray(one) for one in batch[IMAGE]]
    raise InputError(f"there is no column {BYTES} or {IMAGE}, only {', '.join(batch)}")


def _decoded(data: Any, name: str, channels: int) -> Image.Image | np.ndarray | InputError:
    if not isinstance(data, bytes | bytearray | memoryview):
        return InputError(f"{name}: the column {BYTES} has {kind_of(data)}, expected the content of a file")
    try:
        return decode_for_network(bytes(data), name, channels)
    except InputError as error:
        return error


def _plain(value: Any) -> Any:
    """A label, or the value of a column, as Python's own type."""
    if isinstance(value, np.datetime64 | np.timedelta64):
        return value  # its item() may be a number
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def _table(batch: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """The columns of a batch without its images, and those of the rows."""
    found = pa.Table.from_pylist(list(rows), schema)
    for name in batch:
        if name not in (BYTES, IMAGE):
            column = pa.array(list(map(_plain, batch[name])))
            at = schema.get_field_index(name)
            found = found.append_column(name, column) if at < 0 else found
    return found
