import numpy as np
import pytest

from heatbox.analysis.thresholds import threshold_curve
from heatbox.errors import InputError

SUMMARY = {
    "largest_contour": {"iou": [0.3, 0.5, 0.7], "correct": [[9] * 5, [2, 6, 8, 8, 1], [0] * 5]},
    "all_contours": {
        "correct": [[9, 9, 9, 9, 9], [3, 6, 9, 6, 3], [0, 3, 6, 3, 0]],
        "threshold": [0.0, 0.4, 0.4],
    },
}


def test_curve_and_chosen_point():
    found = threshold_curve(SUMMARY, images=10)
    assert found.thresholds == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert found.score == pytest.approx([20, 60, 80, 80, 10])
    assert found.best == pytest.approx(0.4)  # the smallest of equals
    assert found.score_v2 == pytest.approx([40, 60, 80, 60, 40])
    assert found.best_v2.tolist() == [0, 0.4, 0.4]
    assert found.plateau == pytest.approx((0.4, 0.6))


def test_the_best_is_that_of_the_scores():
    from heatbox.metrics.collection import BoxMetrics
    from heatbox.metrics.functional import V2_IOU
    from heatbox.metrics.max_box_acc import MaxBoxAcc

    maps = np.random.default_rng(0).random((6, 224, 224)).astype(np.float32)
    maps[:, 60:150, 40:180] += np.linspace(0.2, 1.5, 6)[:, None, None].astype(np.float32)
    maps /= maps.max((1, 2), keepdims=True)
    both = [MaxBoxAcc(V2_IOU), MaxBoxAcc(V2_IOU, contours="all")]
    BoxMetrics(both).update(maps, [np.array([[40, 60, 180, 150.0]])] * 6, [(224, 224)] * 6)
    largest, every = (metric.compute() for metric in both)
    summary = {
        name: {"iou": one.iou, "correct": one.correct, "threshold": one.threshold}
        for name, one in (("largest_contour", largest), ("all_contours", every))
    }
    found = threshold_curve(summary, 6)
    assert found.best == pytest.approx(largest.threshold[1])
    assert found.score.max() == pytest.approx(largest.per_iou[1])
    assert found.thresholds == pytest.approx(largest.thresholds)


def test_no_curve():
    with pytest.raises(InputError, match="no curve over thresholds"):
        threshold_curve({}, 10)
    with pytest.raises(InputError, match=r"no curve at IoU 0\.9, only at 0\.3, 0\.5, 0\.7"):
        threshold_curve(SUMMARY, 10, iou=0.9)
