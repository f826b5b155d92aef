"""The numbers of a table's row, against their definitions."""

import numpy as np
import pytest

from heatbox.evaluation.summary import Records, SplitScore, summarise, table_of
from heatbox.maps.baselines import CENTRE
from heatbox.metrics.functional import BoxScore

IMAGES, THRESHOLDS = 60, 10
IOU = np.array([0.3, 0.5, 0.7])
GRID = np.arange(THRESHOLDS) / THRESHOLDS


def score_of(bits):
    correct = bits.sum(0)
    at = correct.argmax(1)
    per_iou = 100 * correct[np.arange(3), at] / IMAGES
    return BoxScore(float(per_iou.mean()), per_iou, GRID[at], correct, GRID, IOU, IMAGES)


def random_map(seed, likely=0.6):
    rng = np.random.default_rng(seed)
    bits = {name: rng.random((IMAGES, 3, THRESHOLDS)) < likely for name in ("MaxBoxAcc", "MaxBoxAccV2")}
    packed = {name: np.packbits(value, axis=2) for name, value in bits.items()}
    records = Records([str(n) for n in range(IMAGES)], packed, THRESHOLDS)
    return SplitScore({name: score_of(one) for name, one in bits.items()}, IMAGES, records=records), bits


def every(score):
    return score.scores["MaxBoxAccV2"].accuracy


def test_scores_are_those_at_iou_half_and_over_all():
    found, bits = random_map(0)
    row = summarise(found, resamples=200)
    assert row["MaxBoxAcc"] == pytest.approx(100 * bits["MaxBoxAcc"][:, 1].mean(0).max())
    assert row["MaxBoxAccV2"] == pytest.approx(100 * bits["MaxBoxAccV2"].mean(0).max(1).mean())
    assert row["threshold"] == GRID[bits["MaxBoxAcc"][:, 1].sum(0).argmax()]
    assert "transferred" not in row
    assert "minus_baseline" not in row


def test_transferred_scores_use_the_other_splits_thresholds():
    found, bits = random_map(0)
    fullsup, other = random_map(1)
    row = summarise(found, fullsup, resamples=200)["transferred"]
    at = other["MaxBoxAcc"][:, 1].sum(0).argmax()
    assert row["MaxBoxAcc"]["value"] == pytest.approx(100 * bits["MaxBoxAcc"][:, 1, at].mean())
    each = [bits["MaxBoxAccV2"][:, i, other["MaxBoxAccV2"][:, i].sum(0).argmax()].mean() for i in range(3)]
    assert row["MaxBoxAccV2"]["value"] == pytest.approx(100 * np.mean(each))
    low, high = row["MaxBoxAccV2"]["interval"]
    assert low < row["MaxBoxAccV2"]["value"] < high


def test_difference_to_a_baseline_is_paired():
    found, _ = random_map(0)
    row = summarise(found, baseline=found, resamples=200)["minus_baseline"]
    assert row["MaxBoxAcc"] == {"value": 0, "interval": [0, 0]}  # the same map: no spread at all
    worse, _ = random_map(2, likely=0.3)
    row = summarise(found, baseline=worse, resamples=500)["minus_baseline"]["MaxBoxAccV2"]
    assert row["value"] == pytest.approx(
        found.scores["MaxBoxAccV2"].accuracy - worse.scores["MaxBoxAccV2"].accuracy
    )
    assert 0 < row["interval"][0] < row["value"] < row["interval"][1]


def test_localization_counts_images_whose_class_is_right_too():
    found, bits = random_map(0)
    rank = np.arange(IMAGES) % 8
    row = summarise(found, ranks=rank, resamples=50)["localization"]
    half = bits["MaxBoxAcc"][:, 1]
    assert row["gt_known"] == pytest.approx(100 * half.sum(0).max() / IMAGES)
    assert row["top1"] == pytest.approx(100 * half[rank == 0].sum(0).max() / IMAGES)
    assert row["top5"] == pytest.approx(100 * half[rank < 5].sum(0).max() / IMAGES)


def test_every_pair_of_maps_is_compared():
    maps = {
        "cam": random_map(0)[0],
        "pc1": random_map(1)[0],
        "mine": random_map(2)[0],
        CENTRE: random_map(3)[0],
    }
    pairs = table_of(maps, {}, None)["differences"]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [
        ("pc1", "cam"),
        ("mine", "cam"),
        ("mine", "pc1"),
    ]
    for pair in pairs:
        first, second = maps[pair["first"]], maps[pair["second"]]
        assert pair["MaxBoxAccV2"]["value"] == pytest.approx(
            first.scores["MaxBoxAccV2"].accuracy - second.scores["MaxBoxAccV2"].accuracy
        )
