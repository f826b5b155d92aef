"""The functions and the metrics give the same scores."""

import numpy as np
import pytest

from heatbox.boxes.contours import threshold_grid, threshold_index
from heatbox.errors import InputError
from heatbox.metrics.functional import (
    localization_accuracy,
    max_box_acc,
    max_box_acc_v2,
    oracle_and_transferred,
    pxap,
)
from heatbox.metrics.localization import LocalizationAccuracy
from heatbox.metrics.max_box_acc import V2_IOU, MaxBoxAcc, MaxBoxAccV2
from heatbox.metrics.pxap import PxAP
from helpers.awkward_maps import random_map, random_truth

pytestmark = pytest.mark.filterwarnings("ignore:the reference protocol compares")

COUNT = 12
MAPS = [random_map(seed, 24) for seed in range(COUNT)]
BOXES, SIZES = zip(*[random_truth(seed) for seed in range(COUNT)], strict=True)
MASKS = [(np.arange(m.size) % 3 == 0).reshape(m.shape).astype(np.uint8) for m in MAPS]
LOGITS = np.random.default_rng(0).normal(size=(COUNT, 7))
LABELS = np.arange(COUNT) % 7


def same(first, second):
    assert type(first) is type(second)
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, getattr(second, name), name)


@pytest.mark.parametrize("protocol", ["reference", "exact"])
def test_box_functions_are_the_metrics(protocol):
    options = {"protocol": protocol, "thresholds": 50}
    for function, metric in (
        (max_box_acc, MaxBoxAcc(**options)),
        (max_box_acc_v2, MaxBoxAccV2(**options)),
        (max_box_acc_v2, MaxBoxAcc(V2_IOU, contours="all", **options)),
    ):
        metric.update(MAPS[:5], BOXES[:5], SIZES[:5])
        metric.update(MAPS[5:], BOXES[5:], SIZES[5:])
        same(function(MAPS, BOXES, SIZES, **options), metric.compute())


def test_the_other_functions_are_the_metrics():
    arguments = MAPS, BOXES, SIZES, LOGITS, LABELS
    metric = LocalizationAccuracy(thresholds=50)
    same(localization_accuracy(*arguments, thresholds=50), metric(*arguments))
    same(pxap(MAPS, MASKS, 50), PxAP(50)(MAPS, MASKS))


def test_no_image_has_no_score():
    with pytest.raises(InputError, match="no image"):
        max_box_acc([], [], [])


def test_per_image_histograms_add_up():
    metric = PxAP(20, per_image=True)
    metric.update(MAPS[:5], MASKS[:5])
    metric.update(MAPS[5:], MASKS[5:])
    score = metric.compute()
    assert score.histograms.shape == (COUNT, 2, 22)
    np.testing.assert_array_equal(score.histograms.sum(0, dtype=np.int64), score.histogram)
    np.testing.assert_array_equal(score.histogram, PxAP(20)(MAPS, MASKS).histogram)
    assert score.at(score.threshold) == pytest.approx(score.iou)


@pytest.mark.parametrize("count", [1, 7, 1000, 65536])
def test_every_threshold_of_the_grid_has_its_own_index(count):
    np.testing.assert_array_equal(threshold_index(threshold_grid(count), count), np.arange(count))


def test_a_threshold_between_two_counts_as_the_one_below():
    grid = threshold_grid(1000)
    drawn = np.random.default_rng(0).random(2000)
    expected = np.searchsorted(grid, drawn, side="right") - 1
    np.testing.assert_array_equal(threshold_index(drawn, 1000), expected)
    assert threshold_index(0.57, 1000) == 570  # although 570 * 0.001 is larger in floating point
    assert threshold_index(np.nextafter(1, 0), 1000) == 999
    for outside in (1.0, -0.1, np.nan):
        with pytest.raises(InputError, match="expected values in"):
            threshold_index(outside, 1000)


def test_both_policies():
    reported, chosen = (
        max_box_acc_v2(MAPS[part], BOXES[part], SIZES[part]) for part in (slice(6), slice(6, 12))
    )
    found = oracle_and_transferred(reported, chosen)
    each = [reported.correct[i, round(t * 1000)] / 6 for i, t in enumerate(chosen.threshold)]
    assert found == {"oracle": reported.accuracy, "transferred": pytest.approx(100 * np.mean(each))}
    assert list(oracle_and_transferred(reported)) == ["oracle"]


def test_curves_as_data_frames():
    boxes = max_box_acc_v2(MAPS, BOXES, SIZES, thresholds=50)
    frame = boxes.to_pandas()
    assert len(frame) == 150
    assert frame.groupby("iou")["accuracy"].max().tolist() == boxes.per_iou.tolist()
    localization = localization_accuracy(MAPS, BOXES, SIZES, LOGITS, LABELS, thresholds=50)
    assert localization.to_pandas()[["gt_known", "top1", "top5"]].max().tolist() == [
        localization.gt_known, localization.top1, localization.top5,
    ]  # fmt: skip
    pixels = pxap(MAPS, MASKS, 50).to_pandas()
    assert pixels["recall"].is_monotonic_decreasing
    assert pixels["recall"][0] == 1
