"""CorLoc and localization AP against written procedures."""

import itertools

import numpy as np
import pytest

from heatbox.errors import InputError
from heatbox.metrics import CorLoc, LocalizationAveragePrecision
from heatbox.metrics import functional as F


def written_ap(hits, confidence, positives):
    """Precision at every cut between distinct confidences, made monotone from the right, times recall."""
    points = [(0.0, 0.0)]
    for cut in sorted(set(confidence), reverse=True):
        chosen = confidence >= cut
        points.append((hits[chosen].sum() / positives, hits[chosen].mean()))
    area = 0.0
    for (before, _), (recall, _) in itertools.pairwise(points):
        area += (recall - before) * max(p for r, p in points[1:] if r >= recall)
    return area


def test_average_precision_is_that_of_the_written_procedure():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(1, 30))
        hits, confidence = rng.random(count) < 0.5, rng.integers(0, 9, count) / 9
        positives = int(hits.sum() + rng.integers(1, 4))
        assert F.ranked_precision(hits, confidence, positives) == pytest.approx(
            written_ap(hits, confidence, positives)
        )


def scene(count=12):
    """Maps with one bright rectangle, boxes on it or beside it, and each image's size."""
    rng = np.random.default_rng(0)
    maps, boxes = np.zeros((count, 224, 224), np.float32), []
    for i, one in enumerate(maps):
        x, y = rng.integers(0, 120, 2)
        one[y : y + 80, x : x + 80] = 1
        shift = 0 if i % 3 else 60
        boxes.append(np.array([[x, y + shift, x + 79, y + shift + 79]], float).clip(0, 223) * 2)
    return maps, boxes, [(448, 448)] * count


def test_a_box_is_correct_from_the_required_iou_on_and_classes_count_alike():
    maps, boxes, sizes = scene()
    hits = F.cor_loc(maps, boxes, sizes, threshold=0.4)
    assert hits.tolist() == [0, 1, 1] * 4
    labels = [0] * 3 + [1] * 9
    labels[3] = 0
    expected = 100 * np.mean([hits[:4].mean(), hits[4:].mean()])
    assert F.class_mean(hits, labels) == pytest.approx(expected)


def test_images_without_an_object_of_the_class_are_false_positives():
    maps, boxes, sizes = scene()
    boxes[1] = np.zeros((0, 4))
    confidence = np.linspace(1, 0.1, 12)
    found = F.localization_ap(maps, boxes, sizes, confidence)
    hits = np.array([False, False, True] + [False, True, True] * 3)
    assert found.hits.tolist() == hits.tolist()
    assert found.ap == pytest.approx(100 * written_ap(hits, confidence, 11))
    labels = np.arange(12) % 2
    found = F.localization_ap(maps, boxes, sizes, confidence, labels)
    each = [100 * written_ap(hits[labels == k], confidence[labels == k], 6 - k) for k in (0, 1)]
    assert [found.per_class[0], found.per_class[1]] == pytest.approx(each)
    assert found.mean == pytest.approx(np.mean(each))


def test_a_point_hits_within_the_tolerance():
    one = np.zeros((1, 100, 100))
    one[0, 50, 50] = 1
    box = [np.array([[60, 40, 80, 60]])]
    for tolerance, hit in ((9, False), (10, True)):
        found = F.localization_ap(one, box, [(100, 100)], [0.7], point=True, tolerance=tolerance)
        assert found.hits.tolist() == [hit]
        assert found.ap == 100 * hit


def test_what_cannot_be_ranked_is_refused():
    maps, boxes, sizes = scene(2)
    with pytest.raises(InputError, match="expected as many of each"):
        F.localization_ap(maps, boxes, sizes, [0.5])
    with pytest.raises(InputError, match="and 0 objects"):
        F.localization_ap(maps, [np.zeros((0, 4))] * 2, sizes, [0.5, 0.4])
    with pytest.raises(InputError, match="finite"):
        F.ranked_precision([True], [np.nan])
    with pytest.raises(InputError, match="expected as many"):
        F.cor_loc(maps, boxes, sizes[:1], 0.5)
    with pytest.raises(InputError, match="N >= 1"):
        F.class_mean([], [])


def test_metrics_updated_batch_by_batch_and_merged_are_the_functions():
    maps, boxes, sizes = scene()
    boxes[4] = np.zeros((0, 4))
    labels, confidence = np.arange(12) % 3, np.arange(12) % 5 / 5.0
    parts = [slice(0, 5), slice(5, 12)]
    for point in (False, True):
        whole = F.localization_ap(maps, boxes, sizes, confidence, labels, point=point)
        metrics = [LocalizationAveragePrecision(point=point) for _ in parts]
        for metric, part in zip(metrics, parts, strict=True):
            metric.update(maps[part], boxes[part], sizes[part], confidence[part], labels[part])
        found = metrics[1].merge(metrics[0]).compute()  # in another order
        assert (found.ap, found.mean) == pytest.approx((whole.ap, whole.mean))
        assert found.per_class == pytest.approx(whole.per_class)
    boxes[4] = boxes[5]
    metric = CorLoc(threshold=0.4)
    for part in parts:
        metric.update(maps[part], boxes[part], sizes[part], labels[part])
    hits = F.cor_loc(maps, boxes, sizes, threshold=0.4)
    assert metric.compute().value == pytest.approx(F.class_mean(hits, labels))
    assert metric.compute().per_class[2] == pytest.approx(100 * hits[labels == 2].mean())
    with pytest.raises(InputError, match="labels"):
        metric.update(maps, boxes, sizes, labels[:3])
    assert metric.compute().images == 12
    with pytest.raises(InputError, match="merge"):
        metric.merge(CorLoc(threshold=0.5))
