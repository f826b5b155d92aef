import numpy as np
import pytest
import torch

from heatbox.analysis.channels import activation_area, channel_statistics, percentile_threshold
from heatbox.analysis.signed_cam import activated_area
from heatbox.errors import InputError


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


def test_activated_area_is_that_of_the_binarised_map():
    maps = np.random.default_rng(0).normal(size=(3, 5, 6))
    maps[2] = 4.0  # without contrast
    thresholds = np.array([0.0, 0.25, 0.5, 0.9])
    found = activated_area(torch.from_numpy(maps), thresholds)
    for i, one in enumerate(maps[:2]):
        scaled = (one - one.min()) / (one.max() - one.min())
        for k, threshold in enumerate(thresholds):
            assert found[i, k] == pytest.approx((scaled > threshold).mean())
    assert not found[2].any()


def test_bad_shapes():
    with pytest.raises(InputError, match=r"\(3, 4\), expected \(B, C, h, w\)"):
        activation_area(torch.zeros(3, 4))
    with pytest.raises(InputError, match=r"\(3, 4\), expected \(N, h, w\)"):
        activated_area(np.zeros((3, 4)), np.array([0.5]))
