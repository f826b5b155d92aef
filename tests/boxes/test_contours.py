import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heatbox.boxes.contours import heatmap_to_boxes
from heatbox.errors import InputError
from helpers.awkward_maps import random_map
from helpers.brute_force import exact_levels, reference_levels


def sorted_rows(boxes):
    return np.unique(np.asarray(boxes), axis=0)


def assert_boxes_match(heatmap):
    for contours in ("largest", "all"):
        expected, top = reference_levels(heatmap, contours)
        found = heatmap_to_boxes(heatmap, [(level + 0.5) / top for level in expected], contours)
        for level, boxes in zip(expected, found, strict=True):
            np.testing.assert_array_equal(
                sorted_rows(boxes), sorted_rows(expected[level]), f"{contours} {level}"
            )
        if heatmap.size > 400:
            continue
        exact = exact_levels(heatmap, contours)
        found = heatmap_to_boxes(heatmap, [value for value, _ in exact], contours, protocol="exact")
        for (value, expected_boxes), boxes in zip(exact, found, strict=True):
            np.testing.assert_array_equal(
                sorted_rows(boxes), sorted_rows(expected_boxes), f"{contours} {value}"
            )


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_boxes_are_those_of_opencv(seed):
    assert_boxes_match(random_map(seed, 24))


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_boxes_are_those_of_opencv_on_many_maps(seed):
    assert_boxes_match(random_map(seed, 48))


def test_a_ring_has_an_outer_and_a_hole_contour():
    heatmap = np.zeros((7, 7))
    heatmap[1:6, 1:6] = 1
    heatmap[3, 3] = 0
    (boxes,) = heatmap_to_boxes(heatmap, [0.5], "all")
    assert sorted_rows(boxes).tolist() == [[1, 1, 6, 6], [2, 2, 5, 5]]


def test_of_equal_areas_the_last_in_raster_order_wins():
    heatmap = np.zeros((6, 9))
    heatmap[1, 1], heatmap[1, 5], heatmap[0, 7] = 1, 1, 1
    assert heatmap_to_boxes(heatmap, [0])[0].tolist() == [[5, 1, 6, 2]]


@pytest.mark.parametrize("protocol", ["reference", "exact"])
def test_a_map_of_zeros_gives_the_empty_box(protocol):
    for contours in ("largest", "all"):
        boxes = heatmap_to_boxes(np.zeros((5, 4)), [0, 0.5], contours, protocol)
        assert [b.tolist() for b in boxes] == [[[0, 0, 0, 0]]] * 2


@pytest.mark.parametrize(
    ("heatmap", "message"),
    [
        (np.zeros(3), "shape (3,)"),
        (np.zeros((0, 4)), "shape (0, 4)"),
        (np.array([[0.1, np.nan]]), "1 NaN"),
        (np.array([[0.1, 1.5]]), "[0.1, 1.5]"),
        (np.array([[-0.1, 0.5]]), "[-0.1, 0.5]"),
        (np.array([[0, np.inf]]), "[0, inf]"),
    ],
)
def test_a_malformed_map_is_refused_in_one_sentence(heatmap, message):
    with pytest.raises(InputError, match=re.escape(message)):
        heatmap_to_boxes(heatmap, [0.5])


def test_a_threshold_of_one_is_refused():
    with pytest.raises(InputError, match=re.escape("[1.0], expected values in [0, 1)")):
        heatmap_to_boxes(np.ones((2, 2)), [1.0])
