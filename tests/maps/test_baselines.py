import numpy as np
import pytest

from heatbox.maps.baselines import centre_gaussian, full_image
from heatbox.metrics.max_box_acc import MaxBoxAcc


def test_the_gaussian_is_centred_and_symmetric_and_fills_the_range():
    out = centre_gaussian(30, 40)
    assert out.shape == (30, 40)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, out[::-1, ::-1])
    assert (out.min(), out.max()) == (0, 1)
    assert out.argmax() in {14 * 40 + 19, 14 * 40 + 20, 15 * 40 + 19, 15 * 40 + 20}
    # One standard deviation, a quarter of the side, from the middle of a map with odd sides.
    wide = centre_gaussian(401, 401)
    lowest = np.exp(-0.5 * 2 * (200 / (401 / 4)) ** 2)
    at = np.exp(-0.5 * (100 / (401 / 4)) ** 2)
    assert wide[200, 100] == pytest.approx((at - lowest) / (1 - lowest), rel=1e-4)


def test_the_full_image_is_right_for_a_box_of_the_whole_image():
    metric = MaxBoxAcc((1.0,), protocol="exact")
    metric.update(full_image(20, 30)[None], [np.array([[0, 0, 600, 400]])], [(600, 400)])
    assert metric.compute().accuracy == 100


@pytest.mark.parametrize("shape", [(1, 1), (1, 5)])
def test_tiny_maps_are_defined(shape):
    assert np.isfinite(centre_gaussian(*shape)).all()
    assert centre_gaussian(*shape).max() == 1
