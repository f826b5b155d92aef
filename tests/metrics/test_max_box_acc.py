import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heatbox.errors import InputError
from heatbox.metrics.collection import BoxMetrics
from heatbox.metrics.functional import per_image_iou
from heatbox.metrics.max_box_acc import MaxBoxAcc
from helpers.awkward_maps import random_map, random_truth
from helpers.brute_force import exact_levels, iou, reference_curves

pytestmark = pytest.mark.filterwarnings("ignore:the reference protocol compares")  # most maps are small

IOU = (0.3, 0.5, 0.7)


def assert_counts_match(heatmap, boxes, size):
    metrics = [MaxBoxAcc(IOU, "largest"), MaxBoxAcc(IOU, "all")]
    BoxMetrics(metrics).update([heatmap], [boxes], [size])
    curves = reference_curves(heatmap, boxes, size, 1000)
    for metric, curve in zip(metrics, curves, strict=True):
        np.testing.assert_array_equal(metric.correct, curve[None] >= np.array(IOU)[:, None], metric.contours)


def truth_that_fits(seed, heatmap):
    """Ground truth near the map's own boxes, so that IoUs of every size occur, or anywhere."""
    rng = np.random.default_rng(seed)
    if rng.random() < 0.3:
        return random_truth(seed)
    size = np.array(heatmap.shape[::-1])
    corners = np.sort(rng.integers(0, size + 1, (int(rng.integers(1, 4)), 2, 2)), axis=1)
    return corners.reshape(-1, 4), (224, 224)


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_counts_are_those_of_the_written_procedure(seed):
    heatmap = random_map(seed, 20)
    assert_counts_match(heatmap, *truth_that_fits(seed, heatmap))


@pytest.mark.slow
@settings(max_examples=10000, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_counts_on_ten_thousand_larger_maps(seed):
    heatmap = random_map(seed, 48)
    assert_counts_match(heatmap, *truth_that_fits(seed, heatmap))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_counts_up_to_512_pixels(seed):
    heatmap = random_map(seed, 512)
    assert_counts_match(heatmap, *truth_that_fits(seed, heatmap))


@pytest.mark.parametrize("seed", range(4))
def test_counts_at_the_size_of_the_protocol(seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:224, :224] / 224
    bumps = [np.exp(-(((y - a) ** 2 + (x - b) ** 2) / c)) for a, b, c in rng.uniform(0.05, 0.9, (4, 3))]
    heatmap = np.sum(bumps, axis=0)
    heatmap = (heatmap - heatmap.min()) / np.ptp(heatmap)
    assert_counts_match(heatmap, *random_truth(seed))


def some_images(count=6, side=32):
    rng = np.random.default_rng(1)
    maps = rng.random((count, side, side)).astype(np.float32) ** 2
    truth = [random_truth(i) for i in range(count)]
    return maps, [t[0] for t in truth], [t[1] for t in truth]


@pytest.mark.parametrize("seed", range(0, 120, 2))
def test_the_general_path_and_one_metric_alone_agree_with_both_together(seed):
    heatmap = random_map(seed, 60)
    boxes, size = truth_that_fits(seed, heatmap)
    for contours in ("largest", "all"):
        alone, together = MaxBoxAcc(IOU, contours), [MaxBoxAcc(IOU, c) for c in (contours, "largest", "all")]
        alone.update([heatmap], [boxes], [size])
        curves = BoxMetrics(together).update([heatmap], [boxes], [size], return_iou=True)
        general = per_image_iou(heatmap, boxes, size, contours)
        np.testing.assert_array_equal(curves[0, 0], general)
        np.testing.assert_array_equal(alone.correct, together[0].correct)


def test_a_tensor_gives_the_counts_of_its_array():
    maps, boxes, sizes = some_images()
    scores = []
    for given_maps in (maps, torch.from_numpy(maps).requires_grad_()):
        metric = MaxBoxAcc(IOU, "all")
        metric.update(given_maps, boxes, sizes)
        scores.append(metric.compute())
    np.testing.assert_array_equal(scores[0].correct, scores[1].correct)


def test_the_score_is_read_off_the_curves():
    maps, boxes, sizes = some_images(30)
    metric = MaxBoxAcc(IOU, "all", thresholds=200)
    metric.update(maps, boxes, sizes)
    score = metric.compute()
    assert score.correct.shape == (3, 200)
    assert score.images == 30
    best = score.correct.max(1)
    np.testing.assert_allclose(score.per_iou, best * 100 / 30)
    assert score.accuracy == pytest.approx(np.mean(best) * 100 / 30)
    for i in range(3):
        assert score.correct[i, round(score.threshold[i] * 200)] == best[i]


def test_a_perfect_mask_scores_one_in_the_exact_protocol_and_less_in_the_reference():
    heatmap = np.zeros((224, 224), np.float32)
    heatmap[40:160, 30:130] = 1
    box, size = np.array([[30, 40, 130, 160]]), (224, 224)
    for contours in ("largest", "all"):
        exact = MaxBoxAcc((1.0,), contours, "exact")
        exact.update([heatmap], [box], [size])
        assert exact.compute().accuracy == 100
    # Inclusive ends make both boxes 101 x 121 here; a box that touches the far edge is clamped and is not.
    heatmap[:] = 0
    heatmap[112:, 112:] = 1
    reference = MaxBoxAcc((1.0,))
    reference.update([heatmap], [np.array([[112, 112, 224, 224]])], [size])
    assert reference.compute().accuracy == 0


def test_an_update_with_one_bad_map_counts_none_of_it():
    maps, boxes, sizes = some_images(3)
    metric = MaxBoxAcc()
    bad = maps.copy()
    bad[2, 0, 0] = np.nan
    with pytest.raises(InputError, match="heatmap 2: contains 1 NaN"):
        metric.update(bad, boxes, sizes)
    assert metric.images == 0
    assert metric.correct.sum() == 0


@pytest.mark.parametrize(
    ("boxes", "size", "message"),
    [
        ([[5, 5, 4, 9]], (10, 10), "box [5.0, 5.0, 4.0, 9.0]"),
        ([[-1, 5, 4, 9]], (10, 10), "0 <= x0 <= x1"),
        (np.zeros((0, 4)), (10, 10), "expected (K, 4)"),
        ([[0, 0, 1]], (10, 10), "expected (K, 4)"),
        ([[0, 0, 1, 1]], (0, 10), "expected positive (width, height)"),
    ],
)
def test_malformed_ground_truth_is_refused(boxes, size, message):
    with pytest.raises(InputError, match=re.escape(message)):
        MaxBoxAcc().update(np.zeros((1, 4, 4)), [np.array(boxes)], [size])


@pytest.mark.parametrize(
    "arguments", [{"iou": ()}, {"iou": (1.5,)}, {"contours": "some"}, {"protocol": "x"}, {"thresholds": 0}]
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(InputError):
        MaxBoxAcc(**arguments)


def test_a_map_of_another_size_is_warned_of_in_the_reference_protocol():
    box, size = [np.array([[0, 0, 5, 5]])], [(10, 10)]
    with pytest.warns(UserWarning, match="224 x 224 frame"):
        MaxBoxAcc().update(np.ones((1, 14, 14)), box, size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MaxBoxAcc().update(np.ones((1, 224, 224)), box, size)
        MaxBoxAcc(protocol="exact").update(np.ones((1, 14, 14)), box, size)


@pytest.mark.parametrize("seed", range(25))
def test_the_exact_score_is_the_best_over_all_distinct_values(seed):
    maps = [random_map(seed * 3 + k, 16) for k in range(3)]
    truth = [truth_that_fits(seed * 3 + k, m) for k, m in enumerate(maps)]
    boxes, sizes = [t[0] for t in truth], [t[1] for t in truth]
    for contours in ("largest", "all"):
        metric = MaxBoxAcc(IOU, contours, "exact")
        metric.update(maps, boxes, sizes)
        values = np.unique(np.concatenate([[0.0], *((m / np.float64(m.max() or 1)).ravel() for m in maps)]))
        values = values[values < 1]
        correct = np.zeros((3, len(values)), int)
        for one, box, size in zip(maps, boxes, sizes, strict=True):
            scaled = box * np.tile(one.shape[::-1], 2) / np.tile(size, 2)
            steps = exact_levels(one, contours) or [(0.0, np.zeros((1, 4)))]
            best = np.array([iou(found, scaled, 0).max() for _, found in steps])
            at = np.searchsorted([value for value, _ in steps], values, side="right") - 1
            correct += best[at][None] >= np.array(IOU)[:, None]
        score = metric.compute()
        np.testing.assert_array_equal(score.per_iou, correct.max(1) * 100 / 3)


def test_numbers_of_maps_and_boxes_must_agree():
    with pytest.raises(InputError, match="2 heatmaps, 1 box arrays"):
        MaxBoxAcc().update(np.zeros((2, 4, 4)), [np.zeros((1, 4))], [(4, 4), (4, 4)])


def test_no_image_has_no_score():
    with pytest.raises(InputError, match="at least one update"):
        MaxBoxAcc().compute()
