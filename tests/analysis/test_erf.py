"""The receptive field against the published procedure written out as it is printed, and golden numbers."""

import itertools
import json
import zlib

import numpy as np
import pytest
import scipy.optimize
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import heatbox
from heatbox.analysis import erf
from heatbox.analysis.erf import ReceptiveField, contributions, fit_gaussian, receptive_field_grid
from heatbox.errors import InputError
from heatbox.visualization.overlay import evenly_spaced


def drawn_weights(model):
    """The deterministic weights behind the golden numbers (drawn from the checksum of each name)."""
    state = {}
    for name, tensor in model.state_dict().items():
        n = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(tensor.shape))
        if name.endswith("num_batches_tracked"):
            n = np.zeros(tensor.shape)
        elif name.endswith("running_mean"):
            n = 0.1 * n
        elif name.endswith("running_var"):
            n = 1 + 0.1 * abs(n)
        elif n.ndim >= 2:
            n = n * np.sqrt(2 / np.prod(n.shape[1:]))
        elif name.endswith("weight"):
            n = 1 + 0.1 * n
        else:
            n = 0.1 * n
        state[name] = torch.from_numpy(np.asarray(n)).to(tensor.dtype)
    model.load_state_dict(state)
    return model.eval()


def published_side(contribution, t, log):
    """The square search of the RepLKNet script, loop and all; None where it returns nothing."""
    values = np.asarray(contribution, dtype=np.float64)
    values = np.log10(values + 1) if log else values
    values = values / values.max()
    height, width = values.shape
    for i in range(1, min(height, width) // 2):
        square = values[height // 2 - i : height // 2 + i + 1, width // 2 - i : width // 2 + i + 1]
        if square.sum() / values.sum() > t:
            return 2 * i + 1
    return None


def published_contribution(features_of, images):
    """One image at a time, channel by channel."""
    maps = []
    for image in images:
        pixels = image[None].clone().requires_grad_()
        features = features_of(pixels)
        middle = features[0, :, features.shape[2] // 2, features.shape[3] // 2]
        total = sum(torch.relu(value) for value in middle)
        total.backward()
        maps.append(torch.relu(pixels.grad[0]).sum(0))
    return torch.stack(maps).double().mean(0).numpy()


@pytest.fixture
def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, 2, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def test_golden_contribution_and_every_threshold(shared):
    stem = shared / "golden" / "erf_resnet18_128"
    arrays, numbers = np.load(f"{stem}.npz"), json.loads(stem.with_suffix(".json").read_text())
    model = drawn_weights(timm.create_model("resnet18"))
    pixels = (arrays["inputs_uint8"] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    images = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)
    noise = torch.from_numpy(np.random.RandomState(0).standard_normal((4, 3, 128, 128)).astype(np.float32))
    sets = (("sample_images", images, "contribution_mean"), ("noise", noise, "noise_contribution_mean"))
    for name, batch, key in sets:
        found = heatbox.effective_receptive_field(model, batch, batch_size=3)
        assert np.abs(found.contribution - arrays[key]).max() < 1e-4
        for log, curve in ((True, "curve"), (False, "curve_without_log")):
            for t, wanted in numbers[name][curve].items():
                assert found.side(float(t), log) == (wanted["side"] if wanted else None), (name, t)
                ratio = wanted["area_ratio"] if wanted else 1.0
                assert found.area_ratio(float(t), log) == pytest.approx(ratio, abs=1e-9)


def test_contribution_is_that_of_the_published_loop(small):
    images = torch.randn(5, 3, 40, 56)
    small.eval()
    wanted = published_contribution(small[:5], images)
    small.zero_grad()
    small.train()
    before = {name: value.clone() for name, value in small.state_dict().items()}
    for size in (1, 2, 5):
        assert np.allclose(
            erf.effective_receptive_field(small, images, batch_size=size).contribution, wanted, atol=1e-6
        )
    assert small.training  # everything is put back
    assert all(parameter.requires_grad and parameter.grad is None for parameter in small.parameters())
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


def test_positions_are_those_of_single_gradients(small):
    small.eval()
    images = torch.randn(2, 3, 32, 32)
    found = erf.contributions(small, images, [(0, 0), (4, 4), (7, 2)])
    assert found.shape == (3, 2, 32, 32)
    assert np.allclose(found[1], erf.contributions(small, images))  # (4, 4) is the centre of 8 x 8
    for index, (row, column) in enumerate([(0, 0), (4, 4), (7, 2)]):
        pixels = images.clone().requires_grad_()
        small[:5](pixels)[:, :, row, column].relu().sum().backward()
        assert np.allclose(found[index], pixels.grad.relu().sum(1).numpy(), atol=1e-6)
    with pytest.raises(InputError, match=r"position \(8, 0\) is outside the feature map \(8, 8\)"):
        erf.contributions(small, images, [(8, 0)])


def test_recomputed_activations_change_nothing(monkeypatch):
    model = timm.create_model("resnet10t", num_classes=3).eval()
    images = torch.randn(2, 3, 64, 64)
    plain = erf.effective_receptive_field(model, images).contribution
    monkeypatch.setattr("heatbox.analysis.erf.CHECKPOINT_FROM", 0)
    calls = []
    monkeypatch.setattr(
        "timm.models.resnet.checkpoint_seq",
        lambda seq, x, **options: (
            calls.append(1) or __import__("timm").models.checkpoint_seq(seq, x, **options)
        ),
    )
    assert np.allclose(erf.effective_receptive_field(model, images).contribution, plain, atol=1e-7)
    assert calls
    assert model.grad_checkpointing is False


@pytest.mark.parametrize("from_pixels", [2**30, 0])  # activations kept, and recomputed
def test_features_are_those_before_a_final_norm(monkeypatch, from_pixels):
    """RepLKNet's procedure looks at the last stage, before the BatchNorm that the head reads through."""
    import heatbox.models  # noqa: F401 - registers its families with timm

    monkeypatch.setattr("heatbox.analysis.erf.CHECKPOINT_FROM", from_pixels)
    torch.manual_seed(2)
    model = timm.create_model("replknet_micro", num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    wanted = published_contribution(model.forward_features, images)
    assert np.allclose(
        erf.effective_receptive_field(model, images).contribution, wanted, atol=1e-6 * max(1, wanted.max())
    )
    assert wanted.any()


def test_a_network_without_classifier_gives_its_own_features():
    torch.manual_seed(1)
    model = timm.create_model("resnet10t", num_classes=0).eval()
    images = torch.randn(1, 3, 64, 64)
    assert np.allclose(
        erf.effective_receptive_field(model, images).contribution,
        published_contribution(model.forward_features, images),
        atol=1e-6,
    )


def test_pictures_are_squashed_to_the_size_asked_for(small):
    found = heatbox.effective_receptive_field(
        small, [Image.new("RGB", (30, 80), "red"), Image.new("L", (64, 20), 40)], size=48
    )
    assert found.contribution.shape == (48, 48)
    assert found.images == 2


def test_images_without_a_finite_gradient_are_left_out(small):
    small[4] = nn.GELU()  # whose slope at NaN is NaN
    images = torch.randn(3, 3, 32, 32)
    images[1, 0, 16, 16] = float("nan")
    found = heatbox.effective_receptive_field(small, images)
    assert (found.images, found.skipped) == (2, 1)
    assert np.allclose(found.contribution, erf.effective_receptive_field(small, images[[0, 2]]).contribution)
    with pytest.raises(InputError, match="gradients of all 1 images"):
        heatbox.effective_receptive_field(small, images[1:2])


@given(
    st.integers(1, 24), st.integers(1, 24), st.integers(0, 10_000), st.booleans(),
    st.floats(0, 1, allow_nan=False),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_squares_are_those_of_the_published_loop(height, width, seed, log, t):
    rng = np.random.default_rng(seed)
    # Sixteenths, so that sums are exact and a share equal to t is equal on both routes.
    contribution = (
        rng.integers(0, 16, (height, width)) / 16 if not log else rng.gamma(0.3, size=(height, width))
    )
    if not contribution.any():
        contribution[0, 0] = 1
    wanted = published_side(contribution, t, log)
    assert ReceptiveField(contribution, 1).side(t, log) == wanted
    ratio = 1.0 if wanted is None else wanted**2 / (height * width)
    assert ReceptiveField(contribution, 1).area_ratio(t, log) == pytest.approx(ratio)


def test_no_threshold_crashes():
    for contribution in (np.zeros((16, 16)), np.ones((2, 2)), np.ones((1, 9)), np.eye(16)[::-1]):
        ratios = ReceptiveField(contribution, 1).area_ratio(np.linspace(0, 1, 21))
        assert ((ratios > 0) & (ratios <= 1)).all()
        assert ReceptiveField(contribution, 1).area_ratio(1.0) == 1.0
        assert 0 < ReceptiveField(contribution, 1).auc() <= 0.98


def test_area_under_the_curve():
    contribution = np.random.default_rng(0).random((40, 40))
    t = np.arange(1, 100) / 100
    for log in (True, False):
        ratios = [ReceptiveField(contribution, 1).area_ratio(float(one), log) for one in t]
        by_hand = sum((b + a) / 2 * 0.01 for a, b in itertools.pairwise(ratios))
        assert ReceptiveField(contribution, 1).auc(log) == pytest.approx(by_hand)
    # An even contribution needs the share itself, up to the steps of the squares.
    assert ReceptiveField(np.ones((301, 301)), 1).auc() == pytest.approx(0.49, abs=0.01)


@pytest.mark.parametrize(
    ("contribution", "t", "says"),
    [
        (np.ones(4), 0.5, "finite"),
        (np.full((4, 4), np.nan), 0.5, "finite"),
        (-np.ones((4, 4)), 0.5, "negative"),
        (np.ones((4, 4)), 1.5, "t is 1.5"),
    ],
)
def test_bad_measures(contribution, t, says):
    with pytest.raises(InputError, match=says):
        ReceptiveField(contribution, 1).area_ratio(t)


def test_bad_images(small):
    with pytest.raises(InputError, match=r"shape \(3, 8, 8\)"):
        heatbox.effective_receptive_field(small, torch.zeros(3, 8, 8))
    with pytest.raises(InputError, match="no image"):
        heatbox.effective_receptive_field(small, [])
    with pytest.raises(InputError, match="batch_size is 0"):
        heatbox.effective_receptive_field(small, torch.zeros(1, 3, 8, 8), batch_size=0)


def test_the_public_name_is_the_function_not_the_module():
    assert callable(heatbox.effective_receptive_field)
    assert heatbox.effective_receptive_field is erf.effective_receptive_field


# --------------------------------------------------------------------------------------- the Gaussian fit


def gaussian(height, width, row, column, sigma):
    y, x = np.mgrid[:height, :width]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize("sigma", [1.0, 4.0, 30.0])
def test_an_exact_gaussian_is_found(sigma):
    found = fit_gaussian(3.5 * gaussian(90, 120, 40, 61.5, sigma), (40, 61.5))
    assert found.sigma == pytest.approx(sigma, rel=1e-4)
    assert found.amplitude == pytest.approx(3.5, rel=1e-4)
    assert found.explained == pytest.approx(1, abs=1e-6)


def test_the_fit_is_the_least_squares_one():
    values = 2 * gaussian(50, 60, 25, 30, 7) + np.random.default_rng(0).gamma(0.4, size=(50, 60))
    found = fit_gaussian(values)

    def residual(parameters):
        return (parameters[0] * gaussian(50, 60, 25, 30, parameters[1]) - values).ravel()

    wanted = scipy.optimize.least_squares(residual, [1.0, 5.0])
    assert (found.amplitude, found.sigma) == pytest.approx(tuple(wanted.x), rel=1e-3)
    assert found.explained == pytest.approx(1 - 2 * wanted.cost / (values**2).sum(), rel=1e-3)


@pytest.mark.parametrize("values", [np.zeros((4, 4)), np.ones(4), np.full((3, 3), np.inf)])
def test_nothing_to_fit(values):
    with pytest.raises(InputError, match="a Gaussian is fitted"):
        fit_gaussian(values)


# -------------------------------------------------------------------------- positions other than the centre


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 4, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip


def test_fields_lie_where_their_position_looks(model):
    images = torch.randn(3, 3, 48, 64)
    found = receptive_field_grid(model, images.split(2), grid=3)
    assert found.feature_size == (12, 16)
    assert found.rows.tolist() == [0, 6, 11]
    assert found.columns.tolist() == [0, 8, 15]
    assert found.images == 3
    for i, row in enumerate(found.rows):
        for k, column in enumerate(found.columns):
            wanted = contributions(model, images, [(int(row), int(column))])[0].mean(0)
            assert np.allclose(found.contribution[i, k], wanted, atol=1e-6)
            # 7 x 7 pixels around 4 times the cell, nothing outside of them
            rows, columns = np.nonzero(found.contribution[i, k])
            assert abs(rows - 4 * row).max() <= 3
            assert abs(columns - 4 * column).max() <= 3
            # A convolution of stride 4 from the corner on sits 1.5 pixels up and left of the cell's middle.
            assert found.centre(row, column) == (4 * row + 1.5, 4 * column + 1.5)
            centre = found.mass_centres()[i, k]
            assert abs(centre - [4 * row, 4 * column]).max() < 3
    assert found.gaussians()[1][1] == fit_gaussian(found.contribution[1, 1], found.centre(6, 8))


def test_the_model_is_left_as_it_was(model):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    receptive_field_grid(model, [torch.randn(1, 3, 16, 16)], grid=2)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_cells_are_spread():
    assert evenly_spaced(7, 3) == [0, 3, 6]
    assert evenly_spaced(2, 5) == [0, 1]
    assert evenly_spaced(9, 1) == [0]


def test_bad_input(model):
    with pytest.raises(InputError, match="no image"):
        receptive_field_grid(model, [])
    with pytest.raises(InputError, match="grid of 0"):
        receptive_field_grid(model, [torch.zeros(1, 3, 16, 16)], grid=0)
