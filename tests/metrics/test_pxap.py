import re

import numpy as np
import pytest
import torch

from heatbox.errors import InputError
from heatbox.metrics.functional import combine_masks, pixel_histogram
from heatbox.metrics.pxap import PxAP
from helpers.awkward_maps import random_map


def written_procedure(maps, masks, count):
    """Histograms by np.histogram and the sum over the precision-recall curve, as published."""
    thresholds = np.arange(count) * (1 / count)
    edges = np.append(thresholds, [1.0, 2.0, 3.0])
    inside, outside = np.zeros(count + 2), np.zeros(count + 2)
    for one, mask in zip(maps, masks, strict=True):
        values = one.astype(np.float64)
        inside += np.histogram(values[mask == 1], bins=edges)[0]
        outside += np.histogram(values[mask == 0], bins=edges)[0]
    tp, fp = inside[::-1].cumsum(), outside[::-1].cumsum()
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
    area = (precision[1:] * np.diff(tp / inside.sum()))[(tp + fp)[1:] != 0].sum() * 100
    return area, np.stack([outside, inside])


def masks_of(maps, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.choice([0, 1, 255], m.shape, p=[0.6, 0.3, 0.1]).astype(np.uint8) for m in maps]


@pytest.mark.parametrize("count", [1000, 200, 7, 1])
def test_the_score_is_that_of_the_written_procedure(count):
    maps = [random_map(seed, 60) for seed in range(80)]
    masks = masks_of(maps)
    metric = PxAP(count)
    metric.update(maps, masks)
    expected, histogram = written_procedure(maps, masks, count)
    np.testing.assert_array_equal(metric.histogram, histogram)
    assert metric.compute().pxap == pytest.approx(expected, rel=1e-12)


def test_values_on_a_threshold_fall_where_the_thresholds_rounding_puts_them():
    edges = np.arange(1000) * (1 / 1000)
    for values in (edges, np.nextafter(edges, 1), np.nextafter(edges[1:], 0), edges.astype(np.float32)):
        mask = np.ones((1, len(values)), np.uint8)
        counted = pixel_histogram(values[None], mask, edges)[1]
        expected = np.histogram(values.astype(np.float64), bins=np.append(edges, [1, 2, 3]))[0]
        np.testing.assert_array_equal(counted, expected)


def test_a_perfect_map_scores_a_hundred_and_its_threshold_separates():
    mask = np.zeros((1, 20, 20), np.uint8)
    mask[0, 5:12, 3:9] = 1
    metric = PxAP()
    metric.update(torch.from_numpy(mask * 0.6 + 0.2).float(), torch.from_numpy(mask))
    score = metric.compute()
    assert score.pxap == pytest.approx(100)
    assert score.iou == pytest.approx(100)
    assert 0.2 < score.threshold <= 0.8


def test_the_best_threshold_has_the_best_overlap():
    maps = [random_map(seed, 40) for seed in range(20)]
    masks = masks_of(maps, 1)
    metric = PxAP(50)
    metric.update(maps, masks)
    overlaps = []
    for tau in metric.thresholds:
        both = sum(((m >= tau) & (k == 1)).sum() for m, k in zip(maps, masks, strict=True))
        either = sum((((m >= tau) & (k == 0)) | (k == 1)).sum() for m, k in zip(maps, masks, strict=True))
        overlaps.append(both / either * 100)
    assert metric.compute().iou == pytest.approx(max(overlaps))
    assert metric.compute().threshold == metric.thresholds[int(np.argmax(overlaps))]


def test_masks_of_instances_are_joined_and_ignored_pixels_are_not_object():
    first, second, ignore = (np.zeros((8, 8), np.uint8) for _ in range(3))
    first[:4], second[2:6], ignore[:, :2] = 255, 255, 255
    mask = combine_masks([first, second], ignore, size=8)
    assert (mask[:6] == 1).all()
    assert (mask[6:, :2] == 255).all()
    assert (mask[6:, 2:] == 0).all()
    assert combine_masks([first > 0], size=16).shape == (16, 16)


@pytest.mark.parametrize(
    ("heatmap", "mask", "message"),
    [
        (np.zeros((4, 4)), np.zeros((4, 5), np.uint8), "expected the same"),
        (np.zeros((4, 4)), np.full((4, 4), 2, np.uint8), "other than 0, 1 and 255"),
        (np.zeros((4, 4)), np.full((4, 4), 0.5), "other than 0, 1 and 255"),
        (np.full((4, 4), np.nan), np.zeros((4, 4), np.uint8), "16 NaN"),
    ],
)
def test_malformed_input_is_refused_and_nothing_counted(heatmap, mask, message):
    metric = PxAP()
    with pytest.raises(InputError, match=re.escape(message)):
        metric.update([np.zeros((4, 4)), heatmap], [np.zeros((4, 4), np.uint8), mask])
    assert metric.images == 0
    assert metric.histogram.sum() == 0


def test_masks_without_an_object_have_no_score():
    metric = PxAP()
    metric.update(np.zeros((1, 3, 3)), np.zeros((1, 3, 3), np.uint8))
    with pytest.raises(InputError, match="no object pixel"):
        metric.compute()
