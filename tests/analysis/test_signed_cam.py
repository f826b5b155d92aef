import numpy as np
import pytest
import torch

from heatbox.analysis.signed_cam import activated_area
from heatbox.errors import InputError


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
    with pytest.raises(InputError, match=r"\(3, 4\), expected \(N, h, w\)"):
        activated_area(np.zeros((3, 4)), np.array([0.5]))
