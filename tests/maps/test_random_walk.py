"""The random walk against plain loops, its memory limit, shapes and unusual inputs."""

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import heatbox
from heatbox.errors import InputError
from heatbox.maps.random_walk import random_walk
from helpers.walk_loops import in_loops

walk_module = importlib.import_module("heatbox.maps.random_walk")  # the package has a function of that name


def scene(batch=2, side=(4, 5), channels=(6, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(batch, c, *side, generator=generator) for c in channels]
    return torch.randn(batch, *side, generator=generator), features


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("damping", [0.0, 0.1, 1.0])
def test_against_plain_loops(steps, damping):
    seed, features = scene()
    features[0] = features[0].relu()
    found = random_walk(seed, features, steps, damping)
    for image in range(2):
        maps = [one[image].double().numpy() for one in features]
        wanted = in_loops(seed[image].double().numpy(), maps, steps, damping)
        assert np.allclose(found[image], wanted, atol=1e-6)


def test_is_a_public_name():
    assert heatbox.random_walk is random_walk


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-5, 5), st.floats(-5, 5), st.integers(1, 4))
def test_linear_in_the_seed_and_within_its_extremes(number, factor, shift, steps):
    seed, features = scene(seed=number)
    found = random_walk(seed, features, steps)
    assert torch.allclose(
        random_walk(factor * seed + shift, features, steps), factor * found + shift, atol=1e-4
    )
    assert (found.amax((1, 2)) <= seed.amax((1, 2)) + 1e-6).all()
    assert (found.amin((1, 2)) >= seed.amin((1, 2)) - 1e-6).all()


def test_scale_and_order_of_channels_do_not_matter():
    seed, features = scene(channels=(7,))
    found = random_walk(seed, features)
    assert torch.allclose(random_walk(seed, [3 * features[0] + 5]), found, atol=1e-5)
    assert torch.allclose(random_walk(seed, [features[0].flip(1)]), found, atol=1e-6)


def test_a_map_spreads_over_its_own_region():
    """Two regions of unlike features: what is seeded in a corner of one fills it, and not the other."""
    features = torch.zeros(1, 2, 6, 6)
    features[:, 0, :, :3], features[:, 1, :, 3:] = 1, 1
    seed = torch.zeros(1, 6, 6)
    seed[0, 0, 0] = 1
    found = random_walk(seed, [features])
    assert torch.allclose(found[..., :3], torch.tensor(1 / 18), atol=1e-6)
    assert not found[..., 3:].any()


def test_finer_maps_are_averaged_and_coarser_ones_interpolated():
    seed, _ = scene(side=(4, 4))
    fine, coarse = torch.randn(2, 5, 8, 8), torch.randn(2, 5, 2, 2)
    averaged = fine.view(2, 5, 4, 2, 4, 2).mean((3, 5))
    assert torch.allclose(random_walk(seed, [fine]), random_walk(seed, [averaged]), atol=1e-6)
    enlarged = torch.nn.functional.interpolate(coarse, size=(4, 4), mode="bilinear")
    assert torch.allclose(
        random_walk(seed, [fine, coarse]), random_walk(seed, [averaged, enlarged]), atol=1e-6
    )


@pytest.mark.parametrize("value", [0.0, 3.3, -1e6])
def test_constant_channels_have_no_part(value):
    seed, features = scene(channels=(4, 4))
    dull = torch.full((2, 3, 4, 5), value)
    # Damping uses the average deviation, which includes constant channels, so it is 0 here.
    found = random_walk(seed, [torch.cat([f, dull], 1) for f in features], damping=0)
    assert torch.allclose(found, random_walk(seed, features, damping=0), atol=1e-5)


@pytest.mark.parametrize(
    "features", [torch.zeros(1, 3, 4, 5), torch.full((1, 3, 4, 5), 0.1), torch.ones(1, 3, 1, 1)]
)
def test_nothing_to_walk_on_leaves_the_seed(features):
    seed = torch.randn(1, 4, 5)
    assert torch.equal(random_walk(seed, [features]), seed)
    assert torch.equal(random_walk(seed[:, :1, :1], [torch.randn(1, 3, 1, 1)]), seed[:, :1, :1])


def test_images_of_a_batch_do_not_touch_each_other():
    seed, features = scene(batch=3)
    found = random_walk(seed, features)
    for i in range(3):
        alone = random_walk(seed[i : i + 1], [f[i : i + 1] for f in features])
        assert torch.allclose(found[i : i + 1], alone, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    seed, features = scene(side=(14, 14), channels=(64, 32))
    # The squares of such features overflow float16.
    seed, features = (300 * seed).to(dtype), [(3000 * f).to(dtype) for f in features]
    wanted = random_walk(seed.float(), [f.float() for f in features])
    found = random_walk(seed, features)
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(random_walk(seed, features), wanted)


def test_memory_is_bounded_and_changes_nothing(monkeypatch):
    seed, features = scene(batch=5, side=(6, 7))
    wanted = random_walk(seed, features)
    largest = 0
    of_rows = walk_module._affinity

    def watched(units, rows):
        nonlocal largest
        found = of_rows(units, rows)
        largest = max(largest, 2 * found.nbytes)
        return found

    monkeypatch.setattr(walk_module, "_affinity", watched)
    one_image = 2 * 4 * 42**2
    for allowed in (100 * one_image, 2 * one_image, one_image, one_image // 42 * 5):  # at last five rows
        largest = 0
        monkeypatch.setattr(walk_module, "AFFINITY_BYTES", allowed)
        assert torch.allclose(random_walk(seed, features), wanted, atol=1e-6)
        assert 0 < largest <= allowed


def test_affinity_of_a_fine_grid_at_batch_64_stays_small(monkeypatch):
    images = []
    of_rows = walk_module._affinity

    def watched(units, rows):
        images.append(len(units[0]))
        return of_rows(units, rows)

    monkeypatch.setattr(walk_module, "_affinity", watched)
    random_walk(torch.randn(64, 28, 28), [torch.randn(64, 2, 28, 28)], steps=1)
    assert sum(images) == 64
    assert max(images) * 2 * 4 * 784**2 < 200e6


def test_no_image_and_no_gradient():
    assert random_walk(torch.zeros(0, 3, 3), [torch.zeros(0, 2, 3, 3)]).shape == (0, 3, 3)
    seed, features = scene()
    found = random_walk(seed.requires_grad_(), [f.requires_grad_() for f in features])
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": torch.zeros(2, 1, 4, 5)}, r"seed has shape \(2, 1, 4, 5\), expected \(B, h, w\)"),
        ({"features": []}, "no feature map"),
        (
            {"features": [torch.zeros(3, 2, 4, 5)]},
            r"feature map 0 has shape \(3, 2, 4, 5\), expected \(2, C, h, w\)",
        ),
        ({"features": [torch.zeros(2, 0, 4, 5)]}, "feature map 0 has shape"),
        ({"steps": -1}, "steps is -1"),
        ({"damping": -0.1}, "damping is -0.1"),
    ],
)
def test_wrong_arguments(change, message):
    seed, features = scene()
    with pytest.raises(InputError, match=message):
        random_walk(**({"seed": seed, "features": features} | change))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite(bad):
    seed, features = scene()
    features[1][1, 0, 2, 3] = bad
    with pytest.raises(InputError, match="feature map 1 of image 1 is not finite"):
        random_walk(seed, features)
    seed[0, 0, 0] = bad
    with pytest.raises(InputError, match="the seed of image 0 is not finite"):
        random_walk(seed, features)
