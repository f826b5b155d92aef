import numpy as np
import pytest
import torch

from heatbox.errors import InputError
from heatbox.metrics.functional import label_rank
from heatbox.metrics.localization import LocalizationAccuracy
from heatbox.metrics.max_box_acc import MaxBoxAcc


def test_the_rank_of_a_label_counts_better_classes_and_earlier_equals():
    logits = np.array([[3.0, 1, 2], [1, 1, 1], [0, 5, 5]])
    assert label_rank(logits, np.array([2, 0, 2])).tolist() == [1, 0, 1]
    assert label_rank(torch.tensor(logits), torch.tensor([0, 2, 0])).tolist() == [0, 2, 2]


def some_images(count=40):
    rng = np.random.default_rng(0)
    maps = np.zeros((count, 224, 224), np.float32)
    boxes, sizes = [], []
    for one in maps:
        x, y = rng.integers(0, 120, 2)
        one[y : y + 90, x : x + 90] = rng.uniform(0.3, 1)
        shift = rng.integers(0, 60)
        boxes.append(np.array([[x + shift, y, x + 90 + shift, y + 90]]))
        sizes.append((224, 224))
    return maps, boxes, sizes, rng.normal(size=(count, 12)), rng.integers(0, 12, count)


def test_the_three_accuracies_follow_their_definition():
    maps, boxes, sizes, logits, labels = some_images()
    metric = LocalizationAccuracy(thresholds=100)
    metric.update(maps[:15], boxes[:15], sizes[:15], logits[:15], labels[:15])
    metric.update(maps[15:], boxes[15:], sizes[15:], logits[15:], labels[15:])
    score = metric.compute()
    alone = MaxBoxAcc(thresholds=100)
    alone.update(maps, boxes, sizes)
    np.testing.assert_array_equal(score.correct[:1], alone.correct)
    expected = np.zeros((3, 100), np.int64)
    for i in range(len(maps)):
        one = MaxBoxAcc(thresholds=100)
        one.update(maps[i : i + 1], boxes[i : i + 1], sizes[i : i + 1])
        better = (logits[i] > logits[i, labels[i]]).sum()
        expected += one.correct * np.array([[1], [better < 1], [better < 5]])
    np.testing.assert_array_equal(score.correct, expected)
    assert score.gt_known == expected[0].max() * 100 / 40
    assert score.top1 == expected[1].max() * 100 / 40
    assert score.top5 == expected[2].max() * 100 / 40
    assert score.top1 <= score.top5 <= score.gt_known
    np.testing.assert_array_equal(score.at(score.threshold[0])[0], score.gt_known)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), np.array([0, 3]), "label 3 is out of range, expected 0 to 2"),
        (np.zeros((2, 3)), np.array([0]), "expected \\(N, C\\) and \\(N,\\)"),
        (np.full((1, 3), np.nan), np.array([0]), "1 images contain NaN"),
    ],
)
def test_malformed_labels_are_refused(logits, labels, message):
    with pytest.raises(InputError, match=message):
        label_rank(logits, labels)
