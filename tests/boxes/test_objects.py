"""Several objects in one heatmap: components, valleys, small parts, nested boxes."""

import numpy as np
import pytest
from scipy import ndimage

from heatbox.boxes.objects import ObjectRules, heatmap_objects
from heatbox.errors import InputError

LENIENT = ObjectRules(valley=1, min_area=0, min_share=0, min_peak=0, max_iou=1, nested=1)


def bumps(*centres, side=96, width=9.0, heights=None):
    """The highest of round bumps at (x, y)."""
    y, x = np.mgrid[:side, :side]
    heights = heights or [1.0] * len(centres)
    return np.max(
        [
            h * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 2 / width**2)
            for h, (a, b) in zip(heights, centres, strict=True)
        ],
        axis=0,
    )


def test_components_are_those_of_scipy():
    rng = np.random.default_rng(0)
    for _ in range(20):
        heatmap = ndimage.gaussian_filter(rng.random((40, 50)), 2)
        heatmap = (heatmap - heatmap.min()) / np.ptp(heatmap)
        boxes, masks = heatmap_objects(heatmap, 0.6, LENIENT)
        labels, count = ndimage.label(heatmap > 0.6 * heatmap.max(), np.ones((3, 3)))
        wanted = {(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)}
        assert {tuple(box) for box in boxes.tolist()} == wanted
        assert masks.sum() == (labels > 0).sum()
        assert count == len(boxes)


def test_separate_objects_get_a_box_each_highest_first():
    boxes, masks = heatmap_objects(bumps((20, 20), (70, 70), heights=(0.9, 1.0)), 0.5)
    assert len(boxes) == 2
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert np.abs(centres - [[70.5, 70.5], [20.5, 20.5]]).max() <= 0.5
    assert not (masks[0] & masks[1]).any()


@pytest.mark.parametrize(("valley", "count"), [(0.2, 2), (0.9, 1)])
def test_joined_lobes_are_split_at_a_deep_valley(valley, count):
    heatmap = bumps((30, 48), (66, 48), width=12.0)  # .32 of the maximum between the two
    boxes, masks = heatmap_objects(heatmap, 0.25, ObjectRules(valley=valley))
    assert len(boxes) == count
    assert (masks.any(0) == (heatmap > 0.25 * heatmap.max())).all()  # no pixel is lost or shared
    assert masks.sum() == masks.any(0).sum()


def test_lobes_divide_a_component_in_the_middle():
    boxes, _ = heatmap_objects(bumps((30, 48), (66, 48), width=12.0), 0.25, ObjectRules(valley=0.2))
    left, right = sorted(boxes.tolist())
    assert abs(left[2] - 48.5) <= 1
    assert abs(right[0] - 48.5) <= 1


def test_small_low_and_nested_parts_are_no_objects():
    heatmap = bumps((48, 48), width=14.0)
    heatmap[2:4, 2:4] = 1.0  # small
    heatmap[80:95, 80:95] = 0.6  # low
    assert len(heatmap_objects(heatmap, 0.5)[0]) == 1
    ring = np.zeros((60, 60))
    ring[5:55, 5:55], ring[10:50, 10:50], ring[22:38, 22:38] = 1.0, 0.0, 1.0
    assert len(heatmap_objects(ring, 0.5, LENIENT)[0]) == 2
    boxes, masks = heatmap_objects(ring, 0.5, ObjectRules(min_share=0))
    assert boxes.tolist() == [[5, 5, 55, 55]]
    assert masks[0].sum() == (ring > 0.5).sum()  # both parts


def test_a_map_with_a_maximum_has_an_object_and_one_without_has_none():
    assert len(heatmap_objects(np.zeros((20, 20)), 0.3)[0]) == 0
    point = np.zeros((100, 100))
    point[7, 9] = 0.3
    assert heatmap_objects(point, 0.5)[0].tolist() == [[9, 7, 10, 8]]


def test_what_is_no_fraction_is_refused():
    with pytest.raises(InputError, match="nested is 2"):
        ObjectRules(nested=2)
    with pytest.raises(InputError, match="threshold"):
        heatmap_objects(np.ones((3, 3)), 1.0)
