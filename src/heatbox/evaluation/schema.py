"""What the files of a run must contain: scores, settings, and the record of each image.

Files of a run may come from another version, another tool or a failing disk. What is missing or of another
type is reported here in one sentence with its file and key, so that report, compare and export need not check
again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from heatbox._utils.json_schema import (
    COUNT,
    FINITE,
    FRACTION,
    GRID,
    NUMBER,
    TEXT,
    Kind,
    checked,
    one_of,
    or_null,
)
from heatbox.errors import InputError

NOT_PARQUET = (pa.ArrowException, OSError, UnicodeError)
"""Raised by reading a damaged Parquet file; the last where the name of the file or a column is not text."""

# ---------------------------------------------------------------------------------------------------- JSON

_PAIR = (NUMBER, NUMBER)
_ESTIMATE = {"value": NUMBER, "interval": _PAIR}
_CURVES = {"iou": [NUMBER], "accuracy": [NUMBER], "threshold": [FRACTION], "correct": [[NUMBER]]}
_PIXELS = {...: {"value": NUMBER, "interval": _PAIR, "threshold?": FRACTION}}
_AT = {"MaxBoxAcc": _ESTIMATE, "MaxBoxAccV2": _ESTIMATE, "threshold": FRACTION}
_CALIBRATED = _AT | {
    "confidence?": {
        "auroc": NUMBER,
        "calibration_error": NUMBER,
        "confident_half": NUMBER,
        "coverage": _ESTIMATE,
        "coverage_asked": NUMBER,
    }
}
_BOXES = {
    "localization_scores?": _PIXELS,
    "per_image_thresholds?": NUMBER,
    "MaxBoxAcc": NUMBER,
    "MaxBoxAcc_interval": _PAIR,
    "threshold": FRACTION,
    "MaxBoxAccV2": NUMBER,
    "MaxBoxAccV2_interval": _PAIR,
    "largest_contour": _CURVES,
    "all_contours": _CURVES,
    "localization?": {"gt_known": NUMBER, "top1": NUMBER, "top5": NUMBER},
    "transferred?": _AT,
    "calibrated?": _CALIBRATED,
    "fixed?": _AT,
    "pseudo?": {**_AT, "minus_oracle": {"MaxBoxAcc": _ESTIMATE, "MaxBoxAccV2": _ESTIMATE}},
    "minus_baseline?": {"MaxBoxAcc": _ESTIMATE, "MaxBoxAccV2": _ESTIMATE},
}
_MASKS = {
    "localization_scores?": _PIXELS,
    "PxAP": NUMBER,
    "PxAP_interval": _PAIR,
    "pixel_iou": NUMBER,
    "threshold": FRACTION,
    "transferred?": {"pixel_iou": NUMBER, "threshold": FRACTION},
    "minus_baseline?": {"PxAP": _ESTIMATE},
}
_FOREGROUND = {
    "file": or_null(TEXT),
    "fitted_images": COUNT,
    "scored_images?": FINITE,
    "seeds": TEXT,
    "model": TEXT,
}
_NETWORKS = [{"name": TEXT, "model": TEXT, "checkpoint": or_null(TEXT), "foreground?": _FOREGROUND}]
_SETTINGS = {
    "protocol?": one_of("reference", "exact"),
    "thresholds?": GRID,
    "normalize?": TEXT,
    "data?": TEXT,
    "model?": TEXT,
    "metadata?": or_null(TEXT),
    "checkpoint?": or_null(TEXT),
    "scores?": or_null(one_of("softmax", "sigmoid")),
}
_PER_CHANNEL = Kind(
    "numbers",
    lambda value: (
        value is None or (isinstance(value, list) and len(value) > 0 and all(map(FINITE.holds, value)))
    ),
)
_NETWORK = {
    "model": TEXT,
    "checkpoint?": or_null(TEXT),
    "num_classes?": or_null(COUNT),
    "size?": or_null(COUNT),
    "interpolation?": or_null(TEXT),
    "crop_pct?": or_null(NUMBER),
    "mean?": _PER_CHANNEL,
    "std?": _PER_CHANNEL,
    "output?": or_null(TEXT),
    "scores?": or_null(one_of("softmax", "sigmoid")),
    "model_options?": Kind("names and their values", lambda value: value is None or isinstance(value, dict)),
}


def checked_scores(content: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The content of metrics.json as `evaluate` and `score` write it; a number that is null becomes NaN.

    Raises:
        InputError: naming the key with another value.
    """
    masks = content.get("truth") == "masks"
    names = ("PxAP",) if masks else ("MaxBoxAcc", "MaxBoxAccV2")
    form = {
        "images": COUNT,
        "top1?": NUMBER,
        "top5?": NUMBER,
        "left_out?": {...: COUNT},
        "scores?": one_of("softmax", "sigmoid"),
        "foreground?": _FOREGROUND,
        "networks?": _NETWORKS,
        "methods": {...: _MASKS if masks else _BOXES},
        "baselines": [TEXT],
        "warnings?": [TEXT],
        "pseudo_boxes?": {
            "map": TEXT,
            "images": COUNT,
            "MaxBoxAcc?": _ESTIMATE,
            "agreement?": {...: NUMBER},
            "chosen?": TEXT,
        },
        "breakdown?": [{"by": TEXT, "group": TEXT, "images": COUNT, "scores": {...: _ESTIMATE}}],
        "differences": [
            {
                "first": TEXT,
                "second": TEXT,
                **{f"{name}?": _ESTIMATE for name in names},
                "localization_scores?": _PIXELS,
            }
        ],
    }
    if not {"methods", "baselines", "images"} <= set(content):
        raise InputError(f"{where}: contains no scores of maps, expected what heatbox evaluate writes")
    found = checked(content, form, str(where))
    if ("top1" in found) != ("top5" in found):
        raise InputError(f"{where}: has one of 'top1' and 'top5', expected both or neither")
    for key in ("localization", "transferred"):
        if len({key in entry for entry in found["methods"].values()}) > 1:
            raise InputError(f"{where}: {key!r} is there for some of 'methods', expected all or none")
    missing = [name for name in found["baselines"] if name not in found["methods"]]
    if missing or set(found["baselines"]) == set(found["methods"]):
        raise InputError(
            f"{where}: 'methods' lacks the baseline {missing[0]!r}" if missing else f"{where}: has no map"
        )
    for name, entry in found["methods"].items():
        curves = [entry[key] for key in ("largest_contour", "all_contours") if key in entry]
        if any(not curve["iou"] or len({len(values) for values in curve.values()}) > 1 for curve in curves):
            raise InputError(
                f"{where}: the curves of {name!r} differ in length, expected a value for each IoU"
            )
        if not all(math.isfinite(value) for value in (entry.get("MaxBoxAccV2", 0), entry.get("PxAP", 0))):
            raise InputError(f"{where}: the score of {name!r} is not a number")
    return found


def checked_settings(content: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The part of an evaluation's config.json that readers of its maps need; other keys stay as they are.

    Raises:
        InputError: naming the key with another value.
    """
    return {
        "protocol": "reference",
        "thresholds": 1000,
        "normalize": "min-max",
        **checked(content, _SETTINGS, str(where)),
    }


def checked_network(content: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The part of a run's config.json that describes its network; other keys stay as they are.

    Raises:
        InputError: naming the key with another value.
    """
    found: dict[str, Any] = checked(content, _NETWORK, str(where))
    return found


def checked_networks(content: Mapping[str, Any], where: object) -> list[dict[str, Any]]:
    """The networks that the content of a run's networks.json lists.

    Raises:
        InputError: naming the key with another value.
    """
    found: list[dict[str, Any]] = checked(content, {"networks": _NETWORKS}, str(where))["networks"]
    return found


# ------------------------------------------------------------------------------------------------- records

SHAPE = "_shape"
"""Ending of the column with the shapes of a flat list column's arrays."""
_NUMBERS = "numbers of its kind and shape"
RECORD = pa.schema(
    {
        "id": pa.string(),
        **dict.fromkeys(("label", "target", "width", "height"), pa.int64()),
        **dict.fromkeys(("boxes", "logits", "channel_weight"), pa.list_(pa.float64())),
        **dict.fromkeys(("top5", "mask", "channel_index", "channel_maps"), pa.list_(pa.int64())),
        **dict.fromkeys(("map_", "box_"), pa.list_(pa.float64())),
        **dict.fromkeys(("iou_", "ms_", "score"), pa.float64()),
    }
)
"""Columns of records and their types, numbers of any width; a name ending in "_" is a prefix. Other columns
may have any type."""
_SHAPES: dict[str, tuple[int | None, ...]] = {
    **dict.fromkeys(("boxes", "box_"), (None, 4)),
    **dict.fromkeys(("mask", "map_"), (None, None)),
    "channel_maps": (None, None, None),
}
"""Shapes of arrays of several dimensions, None for any length."""
_CHANNELS = {"channel_index", "channel_weight", "channel_maps"}


class SavedRecord(dict[str, Any]):
    """A record of a run's Parquet file; a column that the file lacks is an `InputError`.

    Args:
        where: the file, for messages.
        derived: column → function of a record that computes its value when it is first read.
    """

    def __init__(self, where: str, derived: Mapping[str, Callable[[SavedRecord], Any]]) -> None:
        super().__init__()
        self.where = where
        self.derived = derived

    def __missing__(self, name: str) -> Any:
        if name not in self.derived:
            raise InputError(f"{self.where}: has no column {name!r}")
        self[name] = self.derived[name](self)
        return self[name]


def _declared(name: str) -> str:
    """The name or prefix under which a column is declared in `RECORD`, or ""."""
    prefix = name[: name.find("_") + 1]
    return next((key for key in (name, prefix) if key in RECORD.names), "")


def check_columns(batch: pa.RecordBatch, where: str) -> None:
    """Raise where the columns of a table of records have other types than `RECORD` declares.

    Raises:
        InputError: naming the file, the column and the image.
    """
    names = batch.schema.names
    ids = batch["id"].to_pylist() if "id" in names else [None] * batch.num_rows
    for name, column in zip(names, batch.columns, strict=True):
        key = "" if name.endswith(SHAPE) else _declared(name)
        if not key or not batch.num_rows:
            continue
        kind = RECORD.field(key).type
        wanted = {
            pa.string(): "a name",
            pa.int64(): "an integer of 0 or more",
            pa.float64(): "a number",
        }.get(kind, _NUMBERS)
        if not _same_kind(column.type, kind):
            raise _wrong(where, name, ids[0], wanted)
        if column.null_count:
            raise _wrong(where, name, ids[column.is_valid().to_pylist().index(False)], wanted)


def _same_kind(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether both are text, integers, floating point, or lists of these; of any width."""
    kinds = (pa.types.is_string, pa.types.is_integer, pa.types.is_floating)
    if pa.types.is_list(wanted):
        return pa.types.is_list(found) and _same_kind(found.value_type, wanted.value_type)
    return any(is_kind(found) and is_kind(wanted) for is_kind in kinds)


def check_record(record: SavedRecord) -> None:
    """Raise where the values of a record are not those of a prediction.

    Raises:
        InputError: naming the file, the column and the image.
    """

    def refuse(name: str, words: str) -> NoReturn:
        raise wrong_column(record, name, words)

    classes = len(record["logits"]) if "logits" in record else 2**31
    for name, value in record.items():
        if isinstance(value, np.ndarray) and (key := _declared(name)):
            shape = _SHAPES.get(key, (None,))
            without_pixels = value.size == 0 and len(shape) > 1 and shape[1] is None
            right = len(shape) == value.ndim and all(
                one in (None, n) for one, n in zip(shape, value.shape, strict=True)
            )
            integers = pa.types.is_integer(RECORD.field(key).type.value_type)
            if not right or without_pixels or (integers and value.dtype.kind == "f"):
                refuse(name, _NUMBERS)
        elif name in ("label", "target", "width", "height"):
            if not 0 <= value < 2**31:
                refuse(name, "an integer of 0 or more")
            if name in ("label", "target") and value >= classes:
                refuse(name, f"below {classes}, the number of classes")
    lengths = {len(record[name]) for name in _CHANNELS if name in record}
    if "channel_maps" in record and (not record.keys() >= _CHANNELS or len(lengths) > 1):
        refuse("channel_maps", "as long as channel_index and channel_weight")
    boxes = record.get("boxes")
    if boxes is not None and (len(boxes) or "mask" not in record):
        if not np.isfinite(boxes).all():
            refuse("boxes", "finite")
        for name in ("width", "height"):
            if name in record and record[name] < 1:
                refuse(name, "1 or more")


def wrong_column(record: Mapping[str, Any], name: str, words: str) -> InputError:
    """The error of a column of a record that is not as expected."""
    return _wrong(getattr(record, "where", "the records"), name, record.get("id"), words)


def _wrong(where: str, name: str, image: object, words: str) -> InputError:
    return InputError(f"{where}: column {name!r} of image {image!r} is not {words}")
