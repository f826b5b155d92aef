import numpy as np
import pytest

from heatbox.errors import InputError
from heatbox.metrics.bootstrap import best_threshold_interval, bootstrap_interval, paired_interval


def drawn_one_by_one(scores, resamples=4000, seed=1):
    rng = np.random.default_rng(seed)
    means = [scores[rng.integers(0, len(scores), len(scores))].mean() * 100 for _ in range(resamples)]
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("columns", [None, 3])
def test_the_interval_is_that_of_drawing_images(columns):
    rng = np.random.default_rng(0)
    bits = rng.random((400, columns) if columns else 400) < 0.6
    found = bootstrap_interval(bits, 20_000)
    scores = bits.mean(1) if columns else bits.astype(float)
    assert found.estimate == pytest.approx(scores.mean() * 100)
    np.testing.assert_allclose([found.low, found.high], drawn_one_by_one(scores), atol=0.5)


def test_scores_with_many_values_are_drawn_image_by_image():
    scores = np.random.default_rng(0).random(5000)
    found = bootstrap_interval(scores, 500)
    np.testing.assert_allclose([found.low, found.high], drawn_one_by_one(scores, 1000), atol=0.4)


def test_a_pair_that_differs_by_little_on_the_same_images_is_told_apart():
    rng = np.random.default_rng(0)
    first = rng.random(2000) < 0.5
    second = first.copy()
    second[:60] = True
    found = paired_interval(second, first)
    assert found.estimate == pytest.approx((second.mean() - first.mean()) * 100)
    assert found.low > 0
    alone = bootstrap_interval(first)
    assert found.high - found.low < (alone.high - alone.low) / 3
    same = paired_interval(first, first)
    assert (same.low, same.high) == (0, 0)


def test_choosing_the_threshold_in_each_resample_is_what_is_computed():
    rng = np.random.default_rng(0)
    begin, length = rng.integers(0, 40, (300, 2)), rng.integers(0, 25, (300, 2))
    at = np.arange(40)
    bits = (at >= begin[..., None]) & (at < (begin + length)[..., None])
    bits[0, 0] = at % 2 == 0  # correct on and off again
    found = best_threshold_interval(bits, 4000, threads=2)
    assert found.estimate == pytest.approx(bits.sum(0).max(1).mean() / 3)
    means = []
    for _ in range(2000):
        picked = bits[rng.integers(0, 300, 300)]
        means.append(picked.sum(0).max(1).mean() / 3)
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.5)
    assert best_threshold_interval(bits, 100, threads=1) == best_threshold_interval(bits, 100, threads=2)


def test_the_seed_decides():
    bits = np.random.default_rng(0).random(100) < 0.4
    assert bootstrap_interval(bits, 200, seed=3) == bootstrap_interval(bits, 200, seed=3)
    assert bootstrap_interval(bits, 200, seed=3) != bootstrap_interval(bits, 200, seed=4)


@pytest.mark.parametrize(
    ("bits", "arguments"),
    [
        (np.zeros(0), {}),
        (np.array([np.nan]), {}),
        (np.zeros(3), {"level": 1.0}),
        (np.zeros(3), {"resamples": 0}),
    ],
)
def test_what_cannot_be_resampled_is_refused(bits, arguments):
    with pytest.raises(InputError):
        bootstrap_interval(bits, **arguments)


def test_pairs_must_have_one_shape():
    with pytest.raises(InputError, match="expected the same"):
        paired_interval(np.zeros(3), np.zeros(4))
