"""Measures of probabilities, against brute force and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from heatbox.errors import InputError
from heatbox.metrics.confidence import accuracy_by_group, area_under_roc, expected_calibration_error


@pytest.mark.parametrize("decimals", [1, 6])
def test_area_is_the_fraction_of_pairs_in_order(decimals):
    rng = np.random.default_rng(0)
    chance = rng.random(80).round(decimals)  # with one decimal, many are equal
    right = rng.random(80) < chance
    pairs = [(a > b) + (a == b) / 2 for a in chance[right] for b in chance[~right]]
    assert area_under_roc(chance, right) == pytest.approx(np.mean(pairs))
    assert area_under_roc(chance, right) == pytest.approx(roc_auc_score(right, chance))


def test_area_of_boxes_that_are_all_right_is_not_known():
    assert np.isnan(area_under_roc([0.2, 0.3], [True, True]))


def test_groups_are_of_equal_size_and_in_order():
    confidence, accuracy = accuracy_by_group([0.1, 0.9, 0.8, 0.3], [False, True, False, True], 2)
    assert confidence == pytest.approx([0.85, 0.2])
    assert accuracy == pytest.approx([0.5, 0.5])
    assert len(accuracy_by_group([0.1, 0.9], [False, True], 10)[0]) == 2


def test_error_by_hand():
    chance, right = [0.9, 0.7, 0.5, 0.3, 0.1], [True, True, False, False, False]
    # Groups of 3 and 2: means .7 and .2, accuracies 2/3 and 0.
    wanted = 3 / 5 * abs(0.7 - 2 / 3) + 2 / 5 * 0.2
    assert expected_calibration_error(chance, right, 2) == pytest.approx(wanted)


def test_perfect_probabilities_have_a_small_error_and_wrong_ones_a_large_one():
    rng = np.random.default_rng(1)
    chance = rng.random(20_000)
    right = rng.random(20_000) < chance
    assert expected_calibration_error(chance, right) < 0.02
    assert expected_calibration_error(chance**3, right) > 0.15


@pytest.mark.parametrize(
    ("chance", "right"), [([], []), ([0.1], [True, False]), ([np.nan], [True]), ([[0.1]], [[True]])]
)
def test_bad_input_is_refused(chance, right):
    with pytest.raises(InputError):
        area_under_roc(chance, right)
