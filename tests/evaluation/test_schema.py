"""Saved runs are looked at before they are relied on: what is wrong is said with file and key."""

import copy
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heatbox.errors import InputError
from heatbox.evaluation.run import Run
from heatbox.evaluation.schema import checked_network, checked_scores, checked_settings

_ESTIMATE = {"value": 1.0, "interval": [0.5, None]}
_CURVES = {"iou": [0.3, 0.5], "accuracy": [90.0, 80.0], "threshold": [0.1, 0.2], "correct": [[1], [2]]}
_ENTRY = {
    **{"MaxBoxAcc": 80.0, "MaxBoxAcc_interval": [70.0, 90.0], "threshold": 0.2},
    **{"MaxBoxAccV2": 70.0, "MaxBoxAccV2_interval": [60.0, None]},
    **{"largest_contour": _CURVES, "all_contours": _CURVES},
}
_AMONG = {"gt_known": 1.0, "top1": 1.0, "top5": 1.0}
SCORES = {
    "images": 3,
    "top1": None,
    "top5": None,
    "methods": {"cam": _ENTRY, "centre-gaussian": _ENTRY},
    "baselines": ["centre-gaussian"],
    "differences": [{"first": "a", "second": "b", "MaxBoxAcc": _ESTIMATE, "MaxBoxAccV2": _ESTIMATE}],
}


def changed(content, keys, value):
    content = copy.deepcopy(content)
    *above, last = keys
    place = content
    for key in above:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return content


def test_what_is_right_stays_and_null_becomes_nan():
    found = checked_scores(SCORES, "metrics.json")
    assert found["methods"]["cam"]["MaxBoxAcc"] == 80
    assert math.isnan(found["top1"])
    assert math.isnan(found["methods"]["cam"]["MaxBoxAccV2_interval"][1])


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (["methods", "cam", "MaxBoxAcc"], "80", "'methods/cam/MaxBoxAcc' is not a number"),
        (["methods", "cam", "MaxBoxAccV2"], True, "'methods/cam/MaxBoxAccV2' is not a number"),
        (["methods", "cam", "MaxBoxAccV2"], None, "the score of 'cam' is not a number"),
        (
            ["methods", "cam", "MaxBoxAcc_interval"],
            [1],
            "'methods/cam/MaxBoxAcc_interval' is not a list of 2",
        ),
        (["methods", "cam", "threshold"], 1.5, "'methods/cam/threshold' is not a number from 0 to 1"),
        (["methods", "cam", "threshold"], ..., "has no 'methods/cam/threshold'"),
        (["methods", "cam", "all_contours", "iou"], [], "curves of 'cam' differ in length"),
        (["methods", "cam"], [], "'methods/cam' is not names and their values"),
        (["methods", "centre-gaussian"], ..., "'methods' lacks the baseline 'centre-gaussian'"),
        (["methods", "cam"], ..., "has no map"),
        (["baselines"], [1], "'baselines[0]' is not a str"),
        (["methods", "cam"], {**_ENTRY, "localization": _AMONG}, "'localization' is there for some of"),
        (["top5"], ..., "has one of 'top1' and 'top5'"),
        (["images"], 0, "'images' is not an integer above 0"),
        (["images"], ..., "contains no scores of maps"),
        (["differences", 0, "first"], ..., "has no 'differences[0]/first'"),
    ],
)
def test_damaged_scores(keys, value, says):
    with pytest.raises(InputError, match=r"metrics\.json: .*" + re.escape(says)):
        checked_scores(changed(SCORES, keys, value), "metrics.json")


def test_settings_have_the_defaults_of_the_command():
    defaults = {"protocol": "reference", "thresholds": 1000, "normalize": "min-max"}
    assert checked_settings({"x": 1}, "c") == {**defaults, "x": 1}
    for content in (
        {"protocol": "other"},
        {"thresholds": 0},
        {"thresholds": 10**9},
        {"data": 3},
        {"normalize": 1},
        {"metadata": []},
    ):
        with pytest.raises(InputError, match=r"c: '\w+' is not"):
            checked_settings(content, "c")


def test_a_network_has_a_name_and_usable_settings():
    assert checked_network({"model": "m", "mean": [0, 0.5, 1], "size": None}, "c")["size"] is None
    for content in ({}, {"model": 1}, {"model": "m", "size": -1}, {"model": "m", "std": []}):
        with pytest.raises(InputError, match=r"c: "):
            checked_network(content, "c")


def record(**changes):
    whole = {
        "id": "a.png",
        "label": 1,
        "target": 1,
        "width": 40,
        "height": 30,
        "boxes": np.array([[1.0, 2, 3, 4]]),
    }
    whole |= {"logits": np.zeros(3, np.float32), "map_cam": np.zeros((2, 2), np.float32)}
    return whole | changes


def test_a_record_comes_back(tmp_path):
    run = Run(tmp_path)
    run.append([record()])
    ((found,),) = run.records()
    assert found["boxes"].tolist() == [[1, 2, 3, 4]]
    with pytest.raises(InputError, match=r"000000\.parquet: has no column 'map_pc1'"):
        found["map_pc1"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label": 3}, "column 'label' of image 'a.png' is not below 3"),
        ({"target": -1}, "column 'target' of image 'a.png' is not an integer"),
        ({"width": 0}, "column 'width' of image 'a.png' is not 1 or more"),
        ({"boxes": np.array([[1.0, 2, np.nan, 4]])}, "column 'boxes' of image 'a.png' is not finite"),
        (
            {"boxes": np.array([[1.0, 2]])},
            "column 'boxes' of image 'a.png' is not numbers of its kind and shape",
        ),
        (
            {"map_cam": np.zeros((2, 2), np.int32)},
            "column 'map_cam' of image 'a.png' is not numbers of its kind",
        ),
        ({"map_cam": "x"}, "column 'map_cam' of image 'a.png' is not numbers of its kind and shape"),
        ({"id": 7}, "column 'id' of image 7 is not a name"),
    ],
)
def test_damaged_records(tmp_path, changes, says):
    run = Run(tmp_path)
    run.append([record(**changes)])
    with pytest.raises(InputError, match=re.escape(says)):
        list(run.records())


def test_damaged_tables(tmp_path):
    run = Run(tmp_path)
    (tmp_path / "parts").mkdir()
    part = tmp_path / "parts/000000.parquet"
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["id", "id"]), part)
    with pytest.raises(InputError, match="two columns of one name"):
        list(run.records())
    pq.write_table(pa.table({"id": pa.array([], pa.string())}), part)
    with pytest.raises(InputError, match="the prediction of no image"):
        list(run.records())
    table = pa.table(
        {"id": ["a"], "map_cam": pa.array([[1.0, 2.0]], pa.list_(pa.float32())), "map_cam_shape": [[3, 3]]}
    )
    pq.write_table(table, part)
    with pytest.raises(InputError, match="'map_cam' does not have the shape it states"):
        list(run.records())
