import numpy as np
import pytest
import scipy.stats
import timm
import torch

from heatbox.analysis.channels import (
    activation_area,
    channel_statistics,
    correlate,
    correlate_by_class,
    percentile_threshold,
    random_head,
)
from heatbox.errors import InputError
from heatbox.models.introspect import ClassifierView


def test_areas_are_counts_of_pixels():
    features = torch.randn(2, 5, 3, 4) * 20
    found = activation_area(features, 7.5)
    for image in range(2):
        for channel in range(5):
            counted = sum(value > 7.5 for value in features[image, channel].flatten().tolist())
            assert found[image, channel].item() == pytest.approx(counted / 12)


def test_a_pixel_at_the_threshold_does_not_count():
    assert activation_area(torch.full((1, 1, 2, 2), 10.0)).item() == 0


def test_statistics():
    features = torch.randn(2, 5, 3, 4)
    found = channel_statistics(features, 0.0)
    assert torch.equal(found.area, activation_area(features, 0.0))
    assert torch.allclose(found.gap, features.mean((2, 3)))


def test_the_percentile_leaves_that_share_of_values_above():
    features = torch.randn(4, 8, 10, 10).exp()
    threshold = percentile_threshold(features, 90)
    assert activation_area(features, threshold).mean().item() == pytest.approx(0.1, abs=1e-3)
    with pytest.raises(InputError, match="percentile is 101"):
        percentile_threshold(features, 101)


def test_bad_shapes():
    with pytest.raises(InputError, match=r"\(3, 4\), expected \(B, C, h, w\)"):
        activation_area(torch.zeros(3, 4))


# ----------------------------------------------------------------------------------------- class weights


def linked(images=30, channels=40, seed=0):
    """Two quantities that share something, with ties and with images that differ from each other."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(images, channels)) + rng.normal(size=(images, 1))
    y = 0.5 * x + rng.normal(size=(images, channels)) + 100
    return np.round(x, 1), np.round(y, 1)


def test_coefficients_are_those_of_scipy():
    x, y = linked()
    found = correlate(x, y)
    assert found.pearson == pytest.approx(scipy.stats.pearsonr(x.ravel(), y.ravel())[0])
    assert found.spearman == pytest.approx(scipy.stats.spearmanr(x.ravel(), y.ravel())[0])
    assert (found.images, found.points) == (30, 1200)


def test_intervals_are_those_of_resampled_images():
    x, y = linked(20, 15)
    found = correlate(x, y, resamples=4000)
    rng = np.random.default_rng(7)
    plain, ranked = [], []
    rank_x, rank_y = (scipy.stats.rankdata(values).reshape(values.shape) for values in (x, y))
    for _ in range(1500):
        again = rng.integers(0, 20, 20)
        plain.append(np.corrcoef(x[again].ravel(), y[again].ravel())[0, 1])
        ranked.append(np.corrcoef(rank_x[again].ravel(), rank_y[again].ravel())[0, 1])
    assert found.pearson_interval == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=0.015)
    assert found.spearman_interval == pytest.approx(tuple(np.quantile(ranked, [0.025, 0.975])), abs=0.015)


def test_what_does_not_vary_has_no_correlation():
    found = correlate(np.full((6, 4), 0.1), np.random.default_rng(0).normal(size=(6, 4)))
    assert np.isnan([found.pearson, found.spearman, *found.pearson_interval]).all()


def test_few_images_have_no_interval():
    x, y = linked(3, 50)
    found = correlate(x, y)
    assert np.isfinite(found.pearson)
    assert np.isnan(found.pearson_interval).all()


def test_by_class():
    x, y = linked(12, 10)
    labels = [3, 1, 3, 1, 1, 1, 1, 3, 3, 3, 1, 8]
    found = correlate_by_class(x, y, labels)
    assert list(found) == [1, 3, 8]
    for label, one in found.items():
        chosen = np.array(labels) == label
        assert one.pearson == pytest.approx(np.corrcoef(x[chosen].ravel(), y[chosen].ravel())[0, 1])
        assert one.images == chosen.sum()


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "shapes"),
        (np.zeros(3), np.zeros(3), "shapes"),
        (np.full((2, 2), np.nan), np.zeros((2, 2)), "not finite"),
    ],
)
def test_bad_arrays(x, y, says):
    with pytest.raises(InputError, match=says):
        correlate(x, y)
    with pytest.raises(InputError, match="1 labels for 2 images"):
        correlate_by_class(np.zeros((2, 2)), np.zeros((2, 2)), [0])


def test_random_head_is_random_seeded_and_put_back():
    view = ClassifierView(timm.create_model("resnet10t", num_classes=5))
    before = view.classifier.weight.detach().clone()
    state = torch.random.get_rng_state()
    drawn = []
    for seed in (0, 0, 1):
        with random_head(view, seed):
            drawn.append(view.classifier.weight.detach().clone())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    bound = view.classifier.in_features**-0.5
    assert drawn[0].abs().max() <= bound  # torch's own uniform initialisation
    assert drawn[0].std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert torch.equal(view.classifier.weight, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(KeyboardInterrupt), random_head(view):
        raise KeyboardInterrupt
    assert torch.equal(view.classifier.weight, before)
