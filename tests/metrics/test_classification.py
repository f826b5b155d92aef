"""Scores of classifications, against scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics as reference

from heatbox.metrics.classification import (
    average_precision,
    confusion_matrix,
    multi_label_scores,
    single_label_scores,
)

RNG = np.random.default_rng(0)


def test_scores_of_one_class_an_image():
    labels = RNG.integers(0, 4, 60)
    logits = RNG.normal(size=(60, 5)) + 1.5 * np.eye(5)[labels]
    predicted = logits.argmax(1)
    found = single_label_scores(logits, labels)
    assert found["top1"] == pytest.approx(100 * reference.accuracy_score(labels, predicted))
    present = labels.max() + 1
    recalls = reference.recall_score(labels, predicted, labels=range(present), average=None)
    assert found["balanced"] == pytest.approx(100 * recalls.mean())
    np.testing.assert_array_equal(
        found["confusion"], reference.confusion_matrix(labels, predicted, labels=range(5))
    )
    assert [row["accuracy"] for row in found["per_class"][:present]] == pytest.approx(list(100 * recalls))
    assert found["per_class"][4]["accuracy"] is None  # no image of it, which is not 0 percent
    assert found["per_class"][4]["images"] == 0


def test_scores_without_images_are_unknown():
    found = single_label_scores(np.zeros((0, 3)), np.zeros(0, np.int64))
    assert (found["top1"], found["top5"], found["balanced"]) == (None, None, None)
    assert multi_label_scores(np.zeros((0, 3)), np.zeros((0, 3), bool))["mAP"] is None


@pytest.mark.parametrize("decimals", [6, 1, 0])  # with few decimals many scores are equal
def test_average_precision(decimals):
    scores, positive = RNG.normal(size=80).round(decimals), RNG.random(80) < 0.3
    wanted = reference.average_precision_score(positive, scores)
    assert average_precision(scores, positive) == pytest.approx(wanted)


def test_scores_of_several_classes_an_image():
    targets = RNG.random((70, 3)) < 0.3
    targets[:, 2] = False
    logits = RNG.normal(size=(70, 3)) + 2 * targets
    found = multi_label_scores(logits, targets)
    np.testing.assert_array_equal(
        found["confusion"], reference.multilabel_confusion_matrix(targets, logits > 0)
    )
    wanted = [reference.average_precision_score(targets[:, k], logits[:, k]) for k in range(2)]
    assert [row["AP"] for row in found["per_class"]] == pytest.approx([100 * w for w in wanted] + [None])
    assert found["mAP"] == pytest.approx(100 * np.mean(wanted))
    balanced = [reference.balanced_accuracy_score(targets[:, k], logits[:, k] > 0) for k in range(2)]
    assert found["balanced"] == pytest.approx(100 * np.mean(balanced))
    some = targets.any(1)
    best = targets[some, logits[some].argmax(1)]
    assert found["top1"] == pytest.approx(100 * best.mean())


def test_confusion_matrix_counts_every_image_once():
    assert confusion_matrix(np.array([2, 0, 2]), np.array([1, 0, 2]), 3).tolist() == [
        [1, 0, 0],
        [0, 0, 0],
        [0, 1, 1],
    ]
