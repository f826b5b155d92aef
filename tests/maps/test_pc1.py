"""PC1 as the paper defines it, its independence of the sign of the solver, and the released code's values."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from heatbox.errors import InputError
from heatbox.maps.cam import cam
from heatbox.maps.pc1 import _orient_by_border, pc1

GOLDEN = np.load(Path(__file__).parents[1] / "fixtures" / "golden_maps.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN.files})


def blob(channels=40, side=12, noise=0.3, seed=0):
    """Channels that see one off-centre object, half of them with the sign turned."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    shape = torch.exp(-((x - 4) ** 2 + (y - 7) ** 2) / 8.0)
    sign = torch.where(torch.arange(channels) % 3 == 0, -1.0, 1.0)
    strength = torch.rand(channels, generator=generator) * sign
    return (strength[:, None, None] * shape + noise * torch.randn(channels, side, side, generator=generator))[
        None
    ]


@pytest.mark.parametrize("case", CASES)
def test_released_variant_on_golden_features(case):
    features, weights = (
        torch.from_numpy(GOLDEN[f"{case}/features"]),
        torch.from_numpy(GOLDEN[f"{case}/weights"]),
    )
    weighted = features.float().reshape(1, *features.shape[-3:]) * weights.reshape(1, -1, 1, 1)
    found = pc1(weighted, variant="released")[0]
    assert torch.allclose(found, torch.from_numpy(GOLDEN[f"{case}/pc1_low_full"]).squeeze(), atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_cam_on_golden_features(case):
    features = torch.from_numpy(GOLDEN[f"{case}/features"]).float()
    features = features.reshape(1, *features.shape[-3:])
    found = cam(features, torch.from_numpy(GOLDEN[f"{case}/weights"]).reshape(-1))[0].clamp(min=0)
    wanted = torch.from_numpy(GOLDEN[f"{case}/cam_low"]).squeeze()
    assert torch.allclose(found / found.max(), wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["replknet31b", "convnext_nano"])
def test_released_variant_on_golden_photos(shared, name):
    files = sorted((shared / "golden").glob(f"heat_{name}_*.npz"))
    assert files
    for file in files:
        saved = np.load(file)
        features = torch.from_numpy(saved["features_f16"]).float().reshape(1, -1, 12, 12)
        weighted = features * torch.from_numpy(saved["weights_row"]).reshape(1, -1, 1, 1)
        wanted = torch.from_numpy(saved["pc1_low_full"]).squeeze()
        assert torch.allclose(pc1(weighted, variant="released")[0], wanted, atol=1e-4), file.name


def test_finds_the_blob_and_keeps_off_the_border():
    found = pc1(blob())[0]
    assert found.min() == 0
    assert found.max() == 1
    assert found[7, 4] > 0.8
    edge = torch.cat([found[0], found[-1], found[:, 0], found[:, -1]])
    assert edge.mean() < found.mean()


@pytest.mark.parametrize("channel_norm", ["minmax", None])
@pytest.mark.parametrize("shape", [(1, 40, 12, 12), (3, 5, 9, 7), (2, 100, 4, 6)])
def test_is_the_first_axis_of_a_pca(channel_norm, shape):
    features = torch.randn(shape) + blob(shape[1])[:, :, : shape[2], : shape[3]]
    for one, found in zip(features, pc1(features, channel_norm=channel_norm), strict=True):
        samples = one.flatten(1).double()
        if channel_norm == "minmax":
            low, high = samples.amin(1, keepdim=True), samples.amax(1, keepdim=True)
            samples = (samples - low) / (high - low)
        axis = PCA(1, svd_solver="full").fit(samples.numpy()).components_[0]
        assert abs(np.corrcoef(axis, found.flatten().numpy())[0, 1]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("solver", ["full", "arpack", "randomized", "covariance_eigh"])
@pytest.mark.parametrize("sign", [1, -1])
def test_does_not_depend_on_solver_or_its_sign(solver, sign):
    features = blob()
    samples = features[0].flatten(1).double().numpy()
    low, high = samples.min(1, keepdims=True), samples.max(1, keepdims=True)
    pca = PCA(1, svd_solver=solver, random_state=0).fit((samples - low) / (high - low))
    axis = torch.from_numpy(sign * pca.components_[0]).reshape(1, 12, 12)
    assert torch.allclose(_orient_by_border(axis).float(), pc1(features), atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(2, 9), st.integers(2, 9), st.booleans())
@example(37393, 15, 2, 2, True)  # all four pixels equally far from the mean
def test_unchanged_under_a_sign_flip_of_the_features(seed, channels, height, width, coarse):
    features = torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(seed))
    if coarse:  # few values, so that pixels at the mean and exact halves of the border do occur
        features = features.sign()
    assert torch.allclose(pc1(features), pc1(-features), atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.data())
def test_orientation_is_free_of_the_sign(height, width, data):
    values = data.draw(st.lists(st.integers(-2, 2), min_size=height * width, max_size=height * width))
    axis = torch.tensor(values, dtype=torch.float64).reshape(1, height, width)
    one, other = _orient_by_border(axis), _orient_by_border(-axis)
    assert torch.allclose(one, other)
    assert one.any() == (len(set(values)) > 1)


def test_border_of_exactly_half_is_decided_by_its_values():
    axis = torch.zeros(1, 4, 4, dtype=torch.float64)
    axis[0, 0], axis[0, 3], axis[0, 1:3, 0], axis[0, 1:3, 3] = 3, -1, 3, -1
    assert torch.equal(_orient_by_border(axis), _orient_by_border(-axis))


def test_constant_channels_contribute_nothing():
    features = blob()
    dull = torch.cat([features, torch.full((1, 7, 12, 12), 3.0), torch.zeros(1, 2, 12, 12)], 1)
    assert torch.allclose(pc1(dull), pc1(features), atol=1e-6)
    assert torch.allclose(pc1(dull, channel_norm=None), pc1(features, channel_norm=None), atol=1e-6)


@pytest.mark.parametrize(
    "features",
    [
        torch.zeros(2, 6, 5, 5),
        torch.randn(2, 1, 5, 5),
        torch.randn(2, 6, 1, 1),
        torch.rand(1, 1, 5, 5).expand(2, 4, 5, 5),
    ],
    ids=["constant", "one channel", "one pixel", "identical channels"],
)
@pytest.mark.parametrize("channel_norm", ["minmax", None])
def test_nothing_to_decompose_gives_zeros(features, channel_norm):
    found = pc1(features, channel_norm=channel_norm)
    assert found.shape == (2, *features.shape[2:])
    if features.shape[2:] == (1, 1) and channel_norm is None:
        assert torch.isfinite(found).all()
    assert not found.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite(bad):
    features = torch.randn(3, 4, 5, 5)
    features[1, 2, 0, 0] = bad
    with pytest.raises(InputError, match=r"image 1 are not finite \(first in channel 2\)"):
        pc1(features)


def test_images_of_a_batch_do_not_touch_each_other():
    one, other = blob(seed=1), blob(seed=2)
    assert torch.allclose(pc1(torch.cat([one, other]))[1], pc1(other)[0], atol=1e-6)


def test_half_precision_features():
    features = blob().half()
    assert torch.allclose(pc1(features), pc1(features.float()), atol=1e-6)


def test_released_variant_refuses_what_it_divides_by():
    features = blob()
    features[0, 5] = 1.0
    with pytest.raises(InputError, match="channel 5 of image 0 is constant"):
        pc1(features, variant="released")
    with pytest.raises(InputError, match="'minmax'"):
        pc1(blob(), variant="released", channel_norm=None)


@pytest.mark.parametrize("shape", [(4, 5, 5), (1, 0, 5, 5), (1, 4, 0, 5)])
def test_wrong_shapes(shape):
    with pytest.raises(InputError, match=r"expected \(B, C, H, W\)"):
        pc1(torch.zeros(shape))


def test_float32_keeps_the_digits_of_channels_far_from_zero(monkeypatch):
    """As on MPS, which has no float64."""
    features = blob() + 1000
    expected = pc1(features)
    monkeypatch.setattr(sys.modules["heatbox.maps.pc1"], "_dtype", lambda device: torch.float32)
    assert torch.allclose(pc1(features), expected, atol=1e-5)
