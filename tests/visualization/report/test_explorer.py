"""The boxes stored in the page, against the evaluator's at every threshold."""

import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heatbox.boxes.contours import heatmap_to_boxes, threshold_grid
from heatbox.errors import InputError
from heatbox.visualization.report.explorer import box_rows, packed, small_map
from heatbox.visualization.report.page import render, script_json


def unpacked_at(rows, index, contours):
    """Boxes at one threshold, read as the page's script reads them."""
    if contours == "largest":
        place = np.flatnonzero(rows.largest_first <= index)[-1]
        return rows.largest[place : place + 1]
    return rows.boxes[(rows.first <= index) & (index <= rows.last)]


@pytest.mark.parametrize("protocol", ["reference", "exact"])
@pytest.mark.parametrize("contours", ["largest", "all"])
def test_rows_give_the_evaluators_boxes_at_every_threshold(protocol, contours):
    maps = [np.random.default_rng(seed).random((12, 15)) for seed in range(3)] + [np.zeros((5, 5))]
    for heatmap in maps:
        rows = box_rows(heatmap, 97, protocol)
        wanted = heatmap_to_boxes(heatmap, threshold_grid(97), contours, protocol)
        for index, boxes in enumerate(wanted):
            found = unpacked_at(rows, index, contours)
            assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, boxes.tolist()))


def test_packing_loses_nothing():
    all_rows = [box_rows(np.random.default_rng(1).random((9, 9)), 50), None, box_rows(np.ones((4, 4)), 50)]
    raw = zlib.decompress(packed(all_rows))
    counts = np.frombuffer(raw[:24], "<u4").reshape(3, 2)
    assert counts[1].tolist() == [0, 0]
    n, m = counts.sum(0).tolist()
    shorts = np.frombuffer(raw[24 : 24 + 2 * (n + 2 * m)], "<u2")
    known = [rows for rows in all_rows if rows is not None]
    wanted = [getattr(r, name) for name in ("largest_first", "first", "last") for r in known]
    assert shorts.tolist() == np.concatenate(wanted).tolist()
    sides = np.frombuffer(raw[24 + shorts.nbytes :], np.uint8)
    assert np.array_equal(sides[: 4 * n].reshape(4, n).T, np.concatenate([r.largest for r in known]))
    assert np.array_equal(sides[4 * n :].reshape(4, m).T, np.concatenate([r.boxes for r in known]))


def test_too_large_for_a_page():
    with pytest.raises(InputError, match="a page supports"):
        box_rows(np.ones((300, 300)))


@pytest.mark.parametrize("raw", [np.full((3, 3), np.nan), np.ones((2, 5)), np.array([[0, np.inf]])])
def test_maps_without_contrast_are_shown_as_zeros(raw):
    assert not small_map(raw).any()


def test_large_maps_are_reduced_for_showing():
    found = small_map(np.linspace(0, 1, 100 * 20).reshape(100, 20))
    assert found.shape == (32, 20)
    assert (found.min(), found.max()) == (0, 255)


@given(st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=3)))
@settings(max_examples=60, deadline=None)
def test_json_in_a_script_element(content):
    text = script_json(content)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == content


def test_text_of_the_page_is_escaped():
    page = render(
        {
            "title": "<script>alert(1)</script>",
            "lead": "a & b",
            "tables": [],
            "figures": [{"title": '"><b>', "source": 'x" onerror="y'}],
            "notes": ["<i>"],
            "settings": [],
            "explorer": None,
        }
    )
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert 'x" onerror' not in page
    assert "<i>" not in page
