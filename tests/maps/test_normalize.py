import cv2
import numpy as np
import pytest
import torch

from heatbox.maps.normalize import normalize_heatmap


def test_a_batch_is_each_map_resized_and_stretched():
    maps = np.random.default_rng(0).normal(size=(3, 7, 7)).astype(np.float32)
    out = normalize_heatmap(maps)
    assert out.shape == (3, 224, 224)
    assert out.dtype == np.float32
    for one, raw in zip(out, maps, strict=True):
        big = cv2.resize(raw, (224, 224), interpolation=cv2.INTER_CUBIC)
        np.testing.assert_allclose(one, (big - big.min()) / (big.max() - big.min()), atol=1e-6)
        assert one.min() == 0
        assert one.max() == 1
    np.testing.assert_array_equal(normalize_heatmap(torch.from_numpy(maps)), out)
    np.testing.assert_array_equal(normalize_heatmap(maps[1]), out[1])


@pytest.mark.parametrize("value", [0.0, 3.0, np.nan, np.inf])
def test_a_map_without_contrast_becomes_zeros(value):
    raw = np.full((5, 5), value)
    out = normalize_heatmap(raw, size=(9, 11))
    assert out.shape == (9, 11)
    assert out.dtype == np.float64
    assert not out.any()


def test_one_bad_pixel_makes_only_its_own_map_zero():
    maps = np.random.default_rng(0).random((2, 6, 6))
    maps[0, 2, 2] = np.nan
    out = normalize_heatmap(maps, 12)
    assert not out[0].any()
    assert out[1].max() == 1
