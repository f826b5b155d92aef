"""The foreground head against NumPy oracles, on scenes whose foreground is known, and its file."""

import numpy as np
import pytest
import torch

from heatbox.errors import InputError
from heatbox.maps.foreground import (
    CLIP,
    FITTED_ON,
    ForegroundHead,
    Projection,
    average_maps,
    collection_features,
    fit_foreground,
    fit_projection,
    foreground,
    foreground_walk,
    load_foreground,
)
from heatbox.models.checkpoints import write_safetensors
from helpers.walk_loops import in_loops

ABOUT = {"model": "small", "layers": "8, 16", "grid": "6", "seeds": "walk", "images": 60}


def scene(images=60, channels=10, side=6, seed=0, noise=0.35):
    """Features in which one direction is the object, its mask, and maps wrong at random positions."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((images, side, side))
    for one in mask:
        y, x = rng.integers(0, side - 2, 2)
        one[y : y + 3, x : x + 3] = 1
    direction = np.random.default_rng(99).normal(size=channels)
    features = (
        rng.normal(size=(images, channels, side, side)) + 1.5 * mask[:, None] * direction[:, None, None]
    )
    wrong = rng.random(mask.shape) < noise
    maps = 3 + 7 * np.where(wrong, 1 - mask, mask)
    return torch.from_numpy(features).float(), torch.from_numpy(maps).float(), mask


def accuracy(maps, mask):
    return ((maps > 0.5) == (mask > 0.5)).mean()


@pytest.fixture(scope="module")
def fitted():
    features, maps, _ = scene()
    return fit_foreground(features, maps, members=2, steps=80)


def test_projection_against_singular_value_decomposition():
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 7, 4, 5)) ** 3)
    found = fit_projection(features, 3)(features).numpy()
    rows = features.permute(0, 2, 3, 1).reshape(-1, 7).numpy()
    spread = rows.std(0)
    rows = np.clip((rows - rows.mean(0)) / (spread + 1e-3 * spread.mean()), -CLIP, CLIP)
    rows = rows - rows.mean(0)
    left, _, _ = np.linalg.svd(rows, full_matrices=False)
    wanted = left[:, :3] * np.sqrt(len(rows))
    got = found.transpose(0, 2, 3, 1).reshape(-1, 3)
    signs = np.sign((wanted * got).sum(0))
    assert np.allclose(got, wanted * signs, atol=1e-4)


def test_projection_is_white_and_drops_what_does_not_vary():
    features = torch.randn(50, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    features[:, 4] = features[:, 0] * 4 + 5  # the same as another one, exactly
    features[:, 5] = 3.0
    projection = fit_projection(features, 128)
    assert (projection.channels, projection.dims) == (6, 4)
    rows = projection(features).permute(0, 2, 3, 1).reshape(-1, 4).double()
    assert torch.allclose(torch.cov(rows.mT, correction=0), torch.eye(4).double(), atol=1e-3)


def test_projection_does_not_depend_on_scale_or_shift_of_channels():
    features = torch.randn(20, 5, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    other = features * 8.0 + 3
    assert torch.allclose(fit_projection(features)(features), fit_projection(other)(other), atol=1e-4)


def test_head_is_right_where_the_maps_it_learned_from_are_wrong(fitted):
    features, maps, mask = scene()
    assert accuracy(((maps - 3) / 7).numpy(), mask) < 0.7
    assert accuracy(foreground(fitted, features).numpy(), mask) > 0.9
    new, _, new_mask = scene(seed=1)  # images that it was not fitted on
    assert accuracy(foreground(fitted, new).numpy(), new_mask) > 0.9


def test_maps_are_probabilities_of_each_image_alone(fitted):
    features, _, _ = scene(40)
    maps = foreground(fitted, features)
    assert maps.shape == (40, 6, 6)
    assert maps.dtype == torch.float32
    assert 0 <= maps.min() < maps.max() <= 1
    assert torch.allclose(foreground(fitted, features[35:36]), maps[35:36], atol=1e-6)


def test_is_the_mean_of_the_members_by_hand(fitted):
    features, _, _ = scene(2)
    state = {name: tensor.double().numpy() for name, tensor in fitted.state_dict().items()}
    x = features.double().numpy().transpose(0, 2, 3, 1)
    x = np.clip((x - state["projection.mean"]) / state["projection.std"], -4, 4)
    x = x @ state["projection.components"].T - state["projection.offset"]
    grid = np.linspace(-1, 1, 6)
    places = [[[abs(b), abs(a), a, b * b, a * a, a * a + b * b] for b in grid] for a in grid]
    x = np.concatenate([x, np.broadcast_to(1.5 * np.array(places), (2, 6, 6, 6))], -1)
    logits = 0
    for k in range(2):
        hidden = x @ state[f"members.{k}.0.weight"][..., 0, 0].T + state[f"members.{k}.0.bias"]
        logits = logits + np.maximum(hidden, 0) @ state[f"members.{k}.2.weight"][0, :, 0, 0]
        logits = logits + state[f"members.{k}.2.bias"][0]
    assert np.allclose(foreground(fitted, features), 1 / (1 + np.exp(-logits / 2)), atol=1e-5)


def test_same_seed_same_head_and_global_generator_untouched(fitted):
    features, maps, _ = scene()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = fit_foreground(features, maps, members=2, steps=80)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in fitted.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    other = fit_foreground(features, maps, members=2, seed=1, steps=2)
    assert not torch.equal(other.members[0][0].weight, again.members[0][0].weight)


def test_range_of_the_maps_does_not_matter():
    features, maps, _ = scene(20)
    one, other = (fit_foreground(features, m, members=1, steps=5) for m in (maps, maps * 4 - 100))
    assert torch.equal(one.members[0][0].weight, other.members[0][0].weight)


def test_features_projected_before_give_the_same_head():
    features, maps, _ = scene(20)
    projection = fit_projection(features)
    one = fit_foreground(features, maps, members=1, steps=5)
    other = fit_foreground(projection(features), maps, projection=projection, members=1, steps=5)
    assert torch.equal(one.members[0][0].weight, other.members[0][0].weight)
    assert torch.equal(foreground(one, features), foreground(other, projection(features), projected=True))


def test_constant_maps_are_not_learned_from():
    features, maps, _ = scene(20)
    flat, odd = torch.cat([maps, torch.full((5, 6, 6), 2.0)]), torch.randn(5, 10, 6, 6)
    projection = fit_projection(features)
    heads = [
        fit_foreground(projection(x), y, projection=projection, members=1, steps=5)
        for x, y in ((features, maps), (torch.cat([features, odd]), flat))
    ]
    assert torch.equal(heads[0].members[0][0].weight, heads[1].members[0][0].weight)
    with pytest.raises(InputError, match="seeds of all 2 images are constant"):
        fit_foreground(features[:2], torch.ones(2, 6, 6))


def test_weights_are_about_ten_thousand():
    projection = Projection(torch.zeros(500), torch.ones(500), torch.zeros(128, 500), torch.zeros(128))
    head = ForegroundHead(projection)
    assert 5_000 < sum(p.numel() for p in head.members[0].parameters()) < 15_000


def test_file_is_the_head_and_says_what_it_was_fitted_on(fitted, tmp_path):
    features, _, _ = scene(3)
    fitted.save(tmp_path / "foreground.safetensors", **ABOUT, note="all")
    loaded = load_foreground(tmp_path / "foreground.safetensors")
    assert torch.equal(foreground(loaded, features), foreground(fitted, features))
    assert {**loaded.fitted_on, "heatbox": "any"} == {
        **{name: str(value) for name, value in ABOUT.items()},
        "note": "all",
        "heatbox": "any",
    }


def test_files_that_are_no_head_are_refused(fitted, tmp_path):
    path = tmp_path / "foreground.safetensors"
    with pytest.raises(InputError, match="no such file"):
        load_foreground(path)
    with pytest.raises(InputError, match="lacks layers, grid, seeds, images"):
        fitted.save(path, model="small")
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{broken}")
    with pytest.raises(InputError, match="damaged"):
        load_foreground(path)
    write_safetensors(path, {"weight": torch.ones(2)}, {})
    with pytest.raises(InputError, match="is not a foreground head, expected"):
        load_foreground(path)
    about = {name: str(value) for name, value in ABOUT.items()} | {"kind": "foreground-head"}
    write_safetensors(path, fitted.state_dict(), about)
    with pytest.raises(InputError, match="its metadata lacks heatbox"):
        load_foreground(path)
    about["heatbox"] = "1"
    for change, message in (
        ({"projection.components": None}, "has no tensors of a foreground head"),
        ({"members.1.2.bias": None}, "its tensors are not those"),
        ({"projection.offset": torch.zeros(3)}, "its tensors are not those"),
        ({"projection.mean": torch.full((10,), np.nan)}, r"projection\.mean is not finite"),
        ({"projection.std": torch.zeros(10)}, r"projection\.std is not positive"),
    ):
        state = {k: v for k, v in {**fitted.state_dict(), **change}.items() if v is not None}
        write_safetensors(path, state, about)
        with pytest.raises(InputError, match=message):
            load_foreground(path)


def test_features_of_another_network_are_refused(fitted):
    with pytest.raises(InputError, match="have 7 channels, but the foreground head was fitted on 10"):
        foreground(fitted, torch.randn(2, 7, 6, 6))
    assert foreground(fitted, torch.randn(2, 10, 9, 4)).shape == (2, 9, 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": torch.randn(4, 3, 5)}, InputError, r"expected \(N, C, h, w\)"),
        ({"features": np.zeros((4, 3, 5, 5))}, TypeError, "expected a torch.Tensor"),
        ({"features": torch.full((4, 3, 5, 5), torch.nan)}, InputError, "features of image 0 are not finite"),
        ({"features": torch.ones(4, 3, 5, 5)}, InputError, "all 3 channels of the features are constant"),
        ({"seeds": torch.randn(3, 5, 5)}, InputError, r"shape \(3, 5, 5\), expected \(4, h, w\)"),
        ({"seeds": torch.full((4, 5, 5), torch.inf)}, InputError, "seed of image 0 is not finite"),
        ({"members": 0}, InputError, "members is 0"),
        ({"steps": 1.5}, TypeError, "steps"),
        ({"threshold": 1.0}, InputError, "threshold is 1"),
    ],
)
def test_bad_arguments(change, error, message):
    given = {"features": torch.randn(4, 3, 5, 5), "seeds": torch.randn(4, 5, 5), **change}
    with pytest.raises(error, match=message):
        fit_foreground(given.pop("features"), given.pop("seeds"), **given)


def test_collection_features_on_one_grid():
    fine, coarse = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 2, 2).half()
    found = collection_features([fine, coarse], 4)
    assert found.shape == (2, 8, 4, 4)
    assert found.dtype == torch.float32
    wanted = fine.numpy().reshape(2, 3, 4, 2, 4, 2).mean((3, 5))
    assert np.allclose(found[:, :3], wanted, atol=1e-6)
    assert torch.allclose(found[:, 3:, 0, 0], coarse[:, :, 0, 0].float())  # corners have no neighbour outside
    with pytest.raises(InputError, match=r"feature map 1 has shape \(1, 5, 2, 2\), expected \(2, C, h, w\)"):
        collection_features([fine, coarse[:1]], 4)
    with pytest.raises(InputError, match="no feature map"):
        collection_features([], 4)
    with pytest.raises(TypeError, match="expected a list"):
        collection_features(fine, 4)


def test_position_is_learned_where_features_say_nothing():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 4, 8, 8, generator=generator)
    maps = torch.zeros(60, 8, 8)
    maps[:, 2:6, 2:6] = 1
    found = foreground(fit_foreground(features, maps, members=1, steps=300), features)
    assert accuracy(found.mean(0).numpy(), maps[0].numpy()) > 0.9
    head = fit_foreground(features, maps, members=1, steps=5)
    assert torch.allclose(foreground(head, features.flip(3)).flip(2), foreground(head, features), atol=1e-6)


def test_foreground_walk_against_its_definition():
    generator = torch.Generator().manual_seed(1)
    found, seed = torch.rand(3, 4, 5, generator=generator), torch.randn(3, 4, 5, generator=generator)
    features = [torch.randn(3, 6, 4, 5, generator=generator), torch.randn(3, 2, 8, 10, generator=generator)]

    def scaled(values):
        return (values - values.min()) / (values.max() - values.min())

    result = foreground_walk(found, seed, features)
    for index in range(3):
        prior = scaled(found[index].double().numpy())
        start = scaled(seed[index].double().numpy()) * np.sqrt(prior)
        coarse = features[1][index].double().numpy().reshape(2, 4, 2, 5, 2).mean((2, 4))
        step = in_loops(start, [features[0][index].double().numpy(), coarse], steps=1)
        assert np.allclose(result[index], np.sqrt(prior * scaled(step)), atol=1e-5)


def test_foreground_walk_removes_what_the_head_calls_background():
    seed = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]])
    found = torch.tensor([[[0.9, 0.9, 0.9], [0.1, 0.1, 0.1]]])
    result = foreground_walk(found, seed, [torch.randn(1, 4, 2, 3)])
    assert result.shape == (1, 2, 3)
    assert not result[0, 1].any()
    assert foreground_walk(found[..., :1, :1], seed, [torch.randn(1, 4, 2, 3)]).shape == (1, 2, 3)
    with pytest.raises(InputError, match="there are 2 maps of a head and 1 seeds"):
        foreground_walk(torch.ones(2, 2, 3), seed, [torch.randn(1, 4, 2, 3)])
    with pytest.raises(InputError, match=r"found has shape \(2, 3\)"):
        foreground_walk(torch.ones(2, 3), seed, [torch.randn(1, 4, 2, 3)])


def test_average_of_scaled_maps():
    first = torch.tensor([[[0.0, 10.0], [5.0, 10.0]]])
    second = torch.tensor([[[-1.0, 1.0], [1.0, -1.0]]])
    wanted = torch.tensor([[[0.0, 1.0], [0.75, 0.5]]])
    assert torch.equal(average_maps([first, second]), wanted)
    assert torch.equal(average_maps([torch.ones(1, 2, 2), second]), (second + 1) / 4)
    assert average_maps([first, torch.randn(1, 4, 3)]).shape == (1, 4, 3)
    with pytest.raises(InputError, match=r"map 1 has shape \(2, 2, 2\), expected \(1, h, w\)"):
        average_maps([first, torch.ones(2, 2, 2)])
    with pytest.raises(InputError, match="no map"):
        average_maps([])
    with pytest.raises(TypeError, match="expected a list"):
        average_maps(first)


def test_restored_maps_are_those_that_were_projected():
    """Channels that are sums of four components, none clipped: nothing is lost."""
    torch.manual_seed(1)
    mixed = torch.einsum("cd,ndhw->nchw", torch.randn(10, 4), torch.rand(6, 4, 5, 5))
    features = mixed * torch.rand(1, 10, 1, 1) + torch.randn(1, 10, 1, 1)
    projection = fit_projection(features, dims=4, layers=[3, 5, 2])
    projected = projection(features)
    first, second = projection.restore(projected, 2)
    assert (first.shape[1], second.shape[1]) == (3, 5)
    torch.testing.assert_close(torch.cat([first, second], 1), features[:, :8], rtol=1e-3, atol=1e-3)
    assert len(projection.restore(projected, 9)) == 3
    with pytest.raises(InputError, match=r"layers are \[3, 5\], expected 10 channels"):
        fit_projection(features, layers=[3, 5])


def test_layers_of_a_saved_head_are_checked(tmp_path):
    features = torch.randn(8, 6, 4, 4)
    head = fit_foreground(features, features[:, 0], projection=None, steps=1)
    about = dict.fromkeys(FITTED_ON, "1")
    head.save(tmp_path / "head.safetensors", **about)
    assert load_foreground(tmp_path / "head.safetensors").projection.layers.tolist() == [6]
    for wrong, words in ((torch.tensor([5]), "layers"), (torch.tensor([7, -1]), "layers is not positive")):
        head.projection.layers = wrong
        head.save(tmp_path / "wrong.safetensors", **about)
        with pytest.raises(InputError, match=words):
            load_foreground(tmp_path / "wrong.safetensors")
