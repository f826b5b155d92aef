"""A map of a part of an image becomes a map of the whole."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heatbox.errors import InputError
from heatbox.inference.boxes import map_to_boxes, place_map

MAP = np.random.default_rng(0).random((7, 9)).astype(np.float32)


@pytest.mark.parametrize("size", [(224, 224), (60, 31)])
def test_a_map_of_everything_is_resized_as_opencv_does(size):
    expected = cv2.resize(MAP, size[::-1], interpolation=cv2.INTER_CUBIC)
    assert np.allclose(place_map(MAP, (0, 0, 1, 1), size), expected, atol=1e-5)
    assert np.allclose(place_map(torch.tensor(MAP), (0.0, 0.0, 1.0, 1.0), size), expected, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(8, 60), st.integers(8, 60))
def test_a_part_of_whole_pixels_is_the_resized_map(left, top, width, height):
    found = place_map(MAP, (left / 100, top / 100, (left + width) / 100, (top + height) / 100), (100, 100))
    part = found[top : top + height, left : left + width]
    assert np.allclose(part, cv2.resize(MAP, (width, height), interpolation=cv2.INTER_CUBIC), atol=1e-4)
    around = np.delete(
        np.arange(10_000), np.arange(10_000).reshape(100, 100)[top : top + height, left : left + width]
    )
    assert (found.ravel()[around] == part.min()).all()


def test_edges_are_not_rounded():
    """On a grid that is 20 times finer the same edges are whole pixels."""
    found = place_map(MAP, (0.1237, 0, 0.8611, 1), (7, 500))[3]
    fine = cv2.resize(MAP, (8611 - 1237, 7), interpolation=cv2.INTER_CUBIC)[3]
    wide = np.concatenate([np.full(1237, np.nan), fine, np.full(10_000 - 8611, np.nan)])
    expected = wide.reshape(500, 20)[:, 9:11].mean(1)
    inside = np.isfinite(expected)
    assert inside.sum() > 350
    assert np.allclose(found[inside], expected[inside], atol=2e-4)


def test_boxes_of_a_placed_map_are_pixels_of_the_image():
    square = np.zeros((8, 8), np.float32)
    square[2:6, 4:8] = 1
    found = map_to_boxes(place_map(square, (0.25, 0, 0.75, 1)), (400, 200), 0.5)
    assert np.abs(found - [[200, 50, 300, 150]]).max() <= 400 / 224


def test_maps_without_numbers_have_no_box():
    for value in (np.nan, np.inf):
        assert map_to_boxes(place_map(np.full((3, 3), value), (0.2, 0.2, 0.7, 0.7)), (50, 50), 0.5).shape == (
            0,
            4,
        )
    assert map_to_boxes(place_map(np.ones((3, 3)), (0.2, 0.2, 0.7, 0.7)), (50, 50), 0.5).shape == (0, 4)


def test_the_mean_box_is_that_of_the_boxes_at_its_thresholds():
    rng = np.random.default_rng(3)
    heat = rng.random((5, 6))
    boxes = [map_to_boxes(heat, (300, 200), threshold / 100) for threshold in range(35, 71, 5)]
    np.testing.assert_allclose(map_to_boxes(heat, (300, 200), "mean"), np.mean(boxes, axis=0))
    assert map_to_boxes(np.zeros((5, 6)), (300, 200), "mean").shape == (0, 4)
    with pytest.raises(InputError, match="largest contours"):
        map_to_boxes(heat, (300, 200), "mean", "all")
