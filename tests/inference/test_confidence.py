"""Features of boxes against connected components of OpenCV, and the regression against scikit-learn's."""

import cv2
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from heatbox.errors import InputError
from heatbox.inference.boxes import map_to_boxes
from heatbox.inference.confidence import (
    AGREEMENT_THRESHOLDS,
    EXPECTED,
    FEATURES,
    SPREAD,
    ConfidenceModel,
    box_confidence,
    box_features,
    expected_model,
    fit_confidence,
)
from heatbox.maps.normalize import normalize_heatmap


def blobs(*centres, side=14, width=2.5):
    rows, columns = np.mgrid[:side, :side]
    return sum(np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2)) for y, x in centres)


def agreement_of_components(raw_map, box):
    """Mean over thresholds of the best IoU with a connected component, traced by OpenCV."""
    levels = (normalize_heatmap(raw_map, 224).astype(np.float64) * 255).astype(np.uint8)
    found = []
    for threshold in AGREEMENT_THRESHOLDS:
        mask = (levels > int(threshold * levels.max())).astype(np.uint8)
        best = 0.0
        for x, y, w, h, _ in cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:]:
            across = max(0, min(box[2], x + w) - max(box[0], x))
            down = max(0, min(box[3], y + h) - max(box[1], y))
            union = (box[2] - box[0]) * (box[3] - box[1]) + w * h - across * down
            best = max(best, across * down / union)
        found.append(best)
    return np.mean(found)


def test_agreement_is_that_with_components_in_all_maps():
    maps = {"a": blobs((4, 4), (10, 10)), "b": blobs((4, 5))}
    boxes = np.array([[30.0, 30, 100, 95], [120, 130, 200, 210], [0, 0, 224, 224]])
    found = box_features(maps, boxes, (224, 224))[:, 0]
    wanted = [np.mean([agreement_of_components(one, box) for one in maps.values()]) for box in boxes]
    assert found == pytest.approx(wanted, abs=1e-9)


def test_geometry_does_not_depend_on_the_size_of_the_image():
    heat = blobs((7, 7))
    small = box_features({"a": heat}, [[0, 20, 40, 100]], (100, 100))
    large = box_features({"a": torch.from_numpy(heat)}, [[0, 80, 200, 400]], (500, 400))
    np.testing.assert_allclose(small, large)
    assert small[0, 1:] == pytest.approx([2, np.log(0.4 * 0.8), np.log(2)])


def test_the_box_of_a_clear_map_is_surer_than_that_of_a_vague_one():
    rng = np.random.default_rng(0)
    clear = blobs((7, 7), width=1.5) ** 0.2 > 0.5  # the same box at every threshold
    vague = rng.random((14, 14))
    chances = []
    for heat in (clear.astype(float), vague):
        boxes = map_to_boxes(heat, (224, 224), 0.5)
        chances.append(box_confidence({"walk": heat}, boxes, (224, 224))[0])
    assert chances[0] > chances[1] + 0.2


def test_each_box_is_rated_alone_and_none_is_fine():
    heat = blobs((4, 4), (10, 10))
    boxes = map_to_boxes(heat, (224, 224), 0.6, "all")
    together = box_confidence({"walk": heat}, boxes, (224, 224))
    assert len(together) == len(boxes) == 2
    assert together == pytest.approx([box_confidence({"walk": heat}, [b], (224, 224))[0] for b in boxes])
    assert box_confidence({"walk": heat}, np.zeros((0, 4)), (224, 224)).shape == (0,)
    assert box_confidence({"walk": np.zeros((7, 7))}, [[0, 0, 9, 9]], (224, 224)) < 0.5


@pytest.mark.parametrize(
    ("maps", "boxes"),
    [({}, [[0, 0, 1, 1]]), ({"a": np.eye(3)}, [[0, 0, 1]]), ({"a": np.eye(3)}, [[0, 0, 1, np.nan]])],
)
def test_bad_input_is_refused(maps, boxes):
    with pytest.raises(InputError):
        box_confidence(maps, boxes, (10, 10))


def rows(number, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal([0.5, 1, -1, 0.3], SPREAD, (number, len(FEATURES)))
    return features, rng.random(number) < ConfidenceModel(-2.0, (5.0, -1.0, 0.1, 0.5))(features)


def test_fit_is_the_penalized_regression_of_scikit_learn():
    features, right = rows(60)
    strength, nothing = 3.0, ConfidenceModel(0.0, (0.0,) * len(FEATURES))
    found = fit_confidence(features, right, nothing, strength)
    scaled = (features - features.mean(0)) / SPREAD / np.sqrt(strength)
    other = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=1000)
    other.fit(np.column_stack([np.ones(len(scaled)), scaled]), right)
    wanted = other.predict_proba(np.column_stack([np.ones(len(scaled)), scaled]))[:, 1]
    np.testing.assert_allclose(found(features), wanted, atol=1e-5)


def test_fit_ends_at_the_optimum_however_wrong_the_prior_is():
    features, right = rows(400)
    prior, strength = ConfidenceModel(30.0, (-60.0, 20.0, 15.0, -40.0)), 5.0
    found = fit_confidence(features, right, prior, strength)
    centre = features.mean(0)

    def loss(model):
        odds = model.intercept + features @ np.array(model.weights)
        moved = (np.array(model.weights) - prior.weights) * SPREAD
        middle = found_at(model) - found_at(prior)
        return (np.logaddexp(0, odds) - right * odds).sum() + (middle**2 + strength * moved @ moved) / 2

    def found_at(model):
        return model.intercept + centre @ np.array(model.weights)

    rng = np.random.default_rng(0)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(20):
            change = rng.normal(0, size, 5)
            other = ConfidenceModel(found.intercept + change[0], tuple(found.weights + change[1:] / SPREAD))
            assert loss(other) > loss(found)


def test_few_boxes_stay_near_the_prior_and_many_leave_it():
    truth = np.array([5.0, -1.0, 0.1, 0.5]) * SPREAD
    far = [
        abs(np.array(fit_confidence(*rows(number), EXPECTED["walk"]).weights) * SPREAD - truth).max()
        for number in (20, 20_000)
    ]
    assert far[1] < 0.1
    assert (
        abs(
            (np.array(fit_confidence(*rows(5), EXPECTED["walk"]).weights) - EXPECTED["walk"].weights) * SPREAD
        ).max()
        < 0.5
    )
    all_right = fit_confidence(rows(30)[0], np.ones(30, bool), EXPECTED["walk"])
    assert 0.8 < all_right(rows(30)[0]).mean() < 1  # separable boxes have a finite answer


def test_fit_refuses_no_box():
    with pytest.raises(InputError, match="N > 0"):
        fit_confidence(np.zeros((0, 4)), np.zeros(0), EXPECTED["cam"])


def test_maps_of_a_kind_have_its_constants():
    for names, kind in (
        (["foreground-walk"], "foreground-walk"),
        (["foreground-walk:walk:pc1+centre"], "foreground-walk"),
        (["walk+foreground"], "walk"),
        (["foreground-walk", "walk"], "walk"),
        (["cam"], "cam"),
        (["foreground-walk", "cam"], "several"),
    ):
        assert expected_model(names) is EXPECTED[kind]
