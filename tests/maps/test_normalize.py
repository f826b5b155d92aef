import cv2
import numpy as np
import pytest
import torch

from heatbox.errors import InputError
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


def written(raw, how, at=None):
    """The four normalizations of a resized map, from sorted values."""
    values = sorted(raw.ravel().tolist())
    low, high = values[0], values[-1]
    cut = values[int(at * len(values))] if at is not None else None
    out = np.zeros(raw.shape)
    for place in np.ndindex(raw.shape):
        x = float(raw[place])
        out[place] = {
            "min-max": lambda x=x: (x - low) / (high - low),
            "max": lambda x=x: max(x, 0) / high,
            "percentile": lambda x=x: min((x - low) / (cut - low), 1),
            "ivr": lambda x=x: max(x - cut, 0) / (high - cut),
        }[how]()
    return out


@pytest.mark.parametrize(
    ("name", "how", "at"),
    [
        ("min-max", "min-max", None),
        ("max", "max", None),
        ("percentile", "percentile", 0.9),
        ("percentile:0.5", "percentile", 0.5),
        ("ivr", "ivr", 0.4),
        ("ivr:0.75", "ivr", 0.75),
    ],
)
def test_normalizations_are_those_written_down(name, how, at):
    for seed in range(5):
        raw = np.random.default_rng(seed).normal(size=(9, 11))
        found = normalize_heatmap(raw, (9, 11), name)
        np.testing.assert_allclose(found, written(raw, how, at), rtol=1e-12)
        assert found.min() == 0
        assert found.max() == 1


def test_a_map_of_which_nothing_is_left_becomes_zeros_or_a_step():
    raw = np.full((4, 4), -2.0)
    raw[0, 0] = -1
    assert not normalize_heatmap(raw, 4, "max").any()
    step = np.zeros((4, 4))
    step[0] = 3
    assert normalize_heatmap(step, 4, "percentile:0.5").tolist() == (step > 0).tolist()
    assert normalize_heatmap(3 - step, 4, "ivr:0.9").max() == 0


@pytest.mark.parametrize("name", ["minmax", "max:0.5", "ivr:1", "ivr:x", "percentile:-0.1", None])
def test_an_unknown_normalization_is_refused(name):
    with pytest.raises(InputError, match="expected min-max, max, percentile, ivr"):
        normalize_heatmap(np.eye(3), 3, name)
