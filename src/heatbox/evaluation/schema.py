"""What a saved run must hold before other commands rely on it: scores, settings, and each image's record.

Files of a run may come from another version, another tool or a failing disk. What is missing or of another
kind is said in one sentence here, so that report, compare and export need not look again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from heatbox.errors import InputError

NOT_PARQUET = (pa.ArrowException, OSError, UnicodeError)
"""What reading a damaged Parquet file raises; the last where the name of the file or a column is no text."""

Form = Any
"""What a value has to be: a type, a set of values, a function that tells, ``[form]`` for a list of any
length, ``(form, form)`` for one of this length, a dictionary of named forms (a name ending in "?" may be
missing), or ``{...: form}`` for any names."""


def a_number(value: Any) -> bool:
    """Whether a value is a number; None stands for one that is not finite."""
    return value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    )


def a_share(value: Any) -> bool:
    """Whether a value is a number in [0, 1]."""
    return a_number(value) and value is not None and 0 <= value <= 1


def a_count(value: Any) -> bool:
    """Whether a value is a whole number from 1 to a billion."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 10**9


def a_grid(value: Any) -> bool:
    """Whether a value is a number of thresholds that a computer can hold: 1 to a million."""
    return a_count(value) and value <= 10**6


def a_triple(value: Any) -> bool:
    """Whether a value is None or three finite numbers, one for each of red, green and blue."""
    return value is None or (
        isinstance(value, list)
        and len(value) == 3
        and all(one is not None and a_number(one) for one in value)
    )


_WORDS = {
    a_number: "a number",
    a_share: "a number from 0 to 1",
    a_count: "a whole number above 0",
    a_grid: "a whole number from 1 to a million",
    a_triple: "three numbers",
}

_PAIR = (a_number, a_number)
_ESTIMATE = {"value": a_number, "interval": _PAIR}
_CURVES = {"iou": [a_number], "accuracy": [a_number], "threshold": [a_share], "correct": [[a_number]]}
_BOXES = {
    "MaxBoxAcc": a_number,
    "MaxBoxAcc_interval": _PAIR,
    "threshold": a_share,
    "MaxBoxAccV2": a_number,
    "MaxBoxAccV2_interval": _PAIR,
    "largest_contour": _CURVES,
    "all_contours": _CURVES,
    "localization?": {"gt_known": a_number, "top1": a_number, "top5": a_number},
    "transferred?": {"MaxBoxAcc": _ESTIMATE, "MaxBoxAccV2": _ESTIMATE, "threshold": a_share},
    "minus_baseline?": {"MaxBoxAcc": _ESTIMATE, "MaxBoxAccV2": _ESTIMATE},
}
_MASKS = {
    "PxAP": a_number,
    "PxAP_interval": _PAIR,
    "pixel_iou": a_number,
    "threshold": a_share,
    "transferred?": {"pixel_iou": a_number, "threshold": a_share},
    "minus_baseline?": {"PxAP": _ESTIMATE},
}


def checked_scores(content: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The content of metrics.json as `evaluate` and `score` write it; a number that is null becomes NaN.

    Raises:
        InputError: naming the key at which it is something else.
    """
    masks = content.get("truth") == "masks"
    names = ("PxAP",) if masks else ("MaxBoxAcc", "MaxBoxAccV2")
    pair = {"first": str, "second": str, **{f"{name}?": _ESTIMATE for name in names}}
    form = {
        "images": a_count,
        "top1?": a_number,
        "top5?": a_number,
        "methods": {...: _MASKS if masks else _BOXES},
        "baselines": [str],
        "differences": [pair],
    }
    if not {"methods", "baselines", "images"} <= set(content):
        raise InputError(f"{where}: holds no scores of maps, expected what heatbox evaluate writes")
    found = checked(content, form, str(where))
    if ("top1" in found) != ("top5" in found):
        raise InputError(f"{where}: has one of 'top1' and 'top5', expected both or neither")
    for part in ("localization", "transferred"):
        if len({part in entry for entry in found["methods"].values()}) > 1:
            raise InputError(f"{where}: {part!r} is there for some of 'methods', expected all or none")
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
        InputError: naming the key at which it is something else.
    """
    form = {
        "protocol?": {"reference", "exact"},
        "thresholds?": a_grid,
        "data?": str,
        "model?": str,
        "metadata?": {None, str},
        "checkpoint?": {None, str},
    }
    return {"protocol": "reference", "thresholds": 1000, **checked(content, form, str(where))}


def checked_network(content: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The part of a run's config.json that says of which network it is; other keys stay as they are.

    Raises:
        InputError: naming the key at which it is something else.
    """
    form = {
        "model": str,
        "checkpoint?": {None, str},
        "num_classes?": {None, int},
        "size?": {None, int},
        "interpolation?": {None, str},
        "mean?": a_triple,
        "std?": a_triple,
        "model_options?": {None, dict},
    }
    found = checked(content, form, str(where))
    for name in ("num_classes", "size"):
        if found.get(name) is not None and not a_count(found[name]):
            raise InputError(f"{where}: {name!r} is not {_WORDS[a_count]}")
    return found


def checked(value: Any, form: Form, where: str, key: str = "") -> Any:
    """A value of JSON, where it has a form; numbers that are None become NaN.

    Raises:
        InputError: naming the key at which it has another.
    """
    if isinstance(form, dict):
        return _checked_names(value, form, where, key)
    if isinstance(form, list | tuple):
        _require(isinstance(value, list), where, key, "a list")
        if isinstance(form, tuple):
            _require(len(value) == len(form), where, key, f"a list of {len(form)}")
        each = form if isinstance(form, tuple) else form * len(value)
        return [
            checked(one, part, where, f"{key}[{i}]")
            for i, (one, part) in enumerate(zip(value, each, strict=True))
        ]
    if isinstance(form, set):
        known = any(isinstance(value, one) if isinstance(one, type) else value == one for one in form)
        words = " or ".join(sorted(one.__name__ if isinstance(one, type) else repr(one) for one in form))
        _require(known, where, key, words)
        return value
    if isinstance(form, type):
        _require(isinstance(value, form), where, key, f"a {form.__name__}")
        return value
    _require(form(value), where, key, _WORDS[form])
    return math.nan if value is None and form is a_number else value


def _checked_names(value: Any, form: Mapping[Any, Form], where: str, key: str) -> dict[str, Any]:
    _require(isinstance(value, dict), where, key, "names and their values")
    if ... in form:
        return {
            name: checked(one, form[...], where, f"{key}/{name}".lstrip("/")) for name, one in value.items()
        }
    found = dict(value)
    for name, part in form.items():
        bare = name.removesuffix("?")
        if bare in value:
            found[bare] = checked(value[bare], part, where, f"{key}/{bare}".lstrip("/"))
        else:
            _require(name.endswith("?"), where, f"{key}/{bare}".lstrip("/"), "not missing", there=False)
    return found


def _require(right: bool, where: str, key: str, words: str, there: bool = True) -> None:
    if not right:
        raise InputError(f"{where}: {key!r} is not {words}" if there else f"{where}: has no {key!r}")


# ------------------------------------------------------------------------------------------------- records

_WHOLE, _REAL = "iu", "f"
_ARRAYS = {  # column → kinds of numbers, shape (None for any length)
    "boxes": (_REAL, (None, 4)),
    "logits": (_REAL, (None,)),
    "top5": (_WHOLE, (None,)),
    "mask": (_WHOLE, (None, None)),
    "channel_index": (_WHOLE, (None,)),
    "channel_weight": (_REAL, (None,)),
    "channel_maps": (_WHOLE, (None, None, None)),
}
_CHANNELS = {"channel_index", "channel_weight", "channel_maps"}
_PREFIXED = {"map_": (_REAL, (None, None)), "box_": (_REAL, (None, 4))}


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


def check_record(record: SavedRecord) -> None:
    """Refuse a record whose columns are not what predictions are made of; other columns may be anything.

    Raises:
        InputError: naming the column.
    """
    for name, value in record.items():
        form = _ARRAYS.get(name) or next(
            (f for prefix, f in _PREFIXED.items() if name.startswith(prefix)), None
        )
        if form is not None and not _is_array(value, *form):
            raise _wrong(record, name, "numbers of its kind and shape")
        if name == "id" and not isinstance(value, str):
            raise _wrong(record, name, "a name")
        if name in ("label", "target", "width", "height") and not _is_index(value):
            raise _wrong(record, name, "a whole number of 0 or more")
        if name.startswith(("iou_", "ms_")) and not isinstance(value, float):
            raise _wrong(record, name, "a number")
    if "logits" in record:
        for name in ("label", "target"):
            if name in record and record[name] >= len(record["logits"]):
                raise _wrong(record, name, f"below {len(record['logits'])}, the number of classes")
    channels = {len(record[name]) for name in _CHANNELS if name in record}
    if "channel_maps" in record and (len(channels) > 1 or not record.keys() >= _CHANNELS):
        raise _wrong(record, "channel_maps", "as long as channel_index and channel_weight")
    boxes = record.get("boxes")
    if boxes is not None and (len(boxes) or "mask" not in record):
        if not np.isfinite(boxes).all():
            raise _wrong(record, "boxes", "finite")
        for name in ("width", "height"):
            if name in record and record[name] < 1:
                raise _wrong(record, name, "1 or more")


def _wrong(record: SavedRecord, name: str, words: str) -> InputError:
    return InputError(f"{record.where}: column {name!r} of image {record.get('id')!r} is not {words}")


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_array(value: Any, kinds: str, shape: Sequence[int | None]) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds or value.ndim != len(shape):
        return False
    if value.size == 0 and value.ndim > 1 and shape[1] is None:
        return False  # a map without pixels
    return all(wanted in (None, found) for wanted, found in zip(shape, value.shape, strict=True))
