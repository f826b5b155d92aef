"""Maps by name, in a run and in a localizer."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from heatbox.config import EvaluateConfig
from heatbox.errors import InputError
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import Run
from heatbox.inference.localizer import Localizer
from heatbox.maps import registry
from heatbox.maps.baselines import with_centre_prior
from heatbox.maps.cam import cam
from heatbox.maps.foreground import fit_foreground
from heatbox.maps.pc1 import pc1
from heatbox.maps.random_walk import random_walk
from heatbox.maps.registry import (
    ForegroundName,
    MapInputs,
    find_method,
    refuse_heads,
    requirements_of,
    with_seed,
)
from heatbox.models.factory import create_model
from heatbox.models.introspect import ClassifierView
from helpers.scenes import write_model, write_split


@pytest.fixture(scope="module")
def view():
    torch.manual_seed(0)
    return ClassifierView(create_model("test_replknet", num_classes=5))


def cam_of(view, features, targets):
    return cam(features, view.class_weights(features, targets)[0])


@torch.no_grad()
def test_the_walk_is_seeded_by_a_second_larger_input(view):
    images, larger, targets = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 128, 128), torch.tensor([1, 4])
    output = view.extract(images)
    inputs = MapInputs.from_output(output, view, images, targets, larger=larger)
    sharp = view.features(larger)
    assert sharp.shape[2:] == (8, 8)
    wanted = random_walk(cam_of(view, sharp, targets), output.middle)
    assert torch.allclose(find_method("walk")(inputs), wanted, atol=1e-6)
    assert torch.allclose(find_method("walk:pc1")(inputs), random_walk(pc1(sharp), output.middle), atol=1e-6)


@torch.no_grad()
def test_the_walk_in_one_pass_is_seeded_by_the_sharp_map(view):
    images, targets = torch.randn(2, 3, 64, 64), torch.tensor([0, 3])
    output = view.extract(images, sharp=True)
    inputs = MapInputs.from_output(output, view, images, targets)
    wanted = random_walk(cam_of(view, output.sharp, targets), output.middle)
    assert torch.allclose(find_method("walk-one-pass")(inputs), wanted, atol=1e-6)
    bare = MapInputs(view, images, output.features, targets, "fold")  # computes the rest itself
    assert torch.allclose(find_method("walk-one-pass")(bare), wanted, atol=1e-6)


def test_centre_prior_is_a_gaussian_on_the_scaled_map():
    maps = torch.tensor([[[1.0, 3.0, 5.0]], [[2.0, 2.0, 2.0]]])
    fall = np.exp(-0.5 * (1 / 0.75) ** 2) ** 0.25  # one of three pixels from the middle, sigma 0.75 pixels
    wanted = torch.tensor([[[0, 0.5, fall]], [[fall, 1, fall]]], dtype=torch.float32)
    assert torch.allclose(with_centre_prior(maps), wanted, atol=1e-6)


@torch.no_grad()
def test_centre_prior_by_name(view):
    images, targets = torch.randn(2, 3, 64, 64), torch.tensor([0, 3])
    inputs = MapInputs(view, images, view.features(images), targets, "fold")
    for name in ("cam", "walk:pc1"):
        plain, prior = find_method(name)(inputs), find_method(f"{name}+centre")(inputs)
        assert torch.allclose(prior, with_centre_prior(plain), atol=1e-6)


def test_names_say_which_seed():
    assert with_seed("walk", "pc1") == "walk:pc1"
    assert with_seed("walk-one-pass+centre", "pc1") == "walk-one-pass:pc1+centre"
    assert with_seed("walk:cam", "pc1") == "walk:cam"
    assert with_seed("walk", "cam") == "walk"
    assert with_seed("cam+centre", "pc1") == "cam+centre"
    assert with_seed("foreground", "cam") == "foreground"
    assert with_seed("foreground+centre", "cam", "pc1") == "foreground:pc1+centre"
    assert with_seed("walk+foreground", "pc1", "walk") == "walk:pc1+foreground:walk:pc1"
    assert with_seed("walk+foreground:cam", "pc1") == "walk:pc1+foreground:cam"
    assert with_seed("foreground-walk", "cam") == "foreground-walk"
    assert with_seed("foreground-walk+centre", "pc1", "cam") == "larger:pc1+foreground-walk:cam+centre"
    assert str(ForegroundName.of("larger+foreground-walk:walk")) == "foreground-walk"
    assert with_seed("larger", "pc1") == "larger:pc1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "wlak",
            "no map method 'wlak', expected one of cam, cam-positive, cam-negative, pc1, walk, "
            "walk-one-pass, larger, foreground",
        ),
        ("foreground:", "no map method 'foreground:'"),
        ("+foreground", "no map method"),
        ("wlak+foreground", "no map method 'wlak'"),
        ("foreground:walk:wlak", "'wlak' cannot seed a walk"),
        ("foreground+foreground", "foreground cannot be a part of it, which has a foreground head itself"),
        ("walk:walk", "'walk' cannot seed a walk, expected one of cam, cam-positive, cam-negative, pc1"),
        ("walk:", "'' cannot seed"),
        ("cam:pc1", "no map method 'cam:pc1'"),
        ("+centre", "no map method"),
        ("cam+centre+centre", "no map method"),
    ],
)
def test_names_that_are_none(name, message):
    with pytest.raises(InputError, match=message.replace("+", r"\+")):
        find_method(name)


def test_only_what_is_needed_is_computed():
    assert requirements_of(["cam", "pc1+centre", lambda m, x, t: x]) == requirements_of([])
    assert requirements_of(["walk:pc1+centre"]).larger
    assert not requirements_of(["walk"]).sharp
    assert requirements_of(["cam", "walk-one-pass"]).sharp
    assert not requirements_of(["walk-one-pass"]).larger
    head = requirements_of(["foreground"])
    assert (head.head, head.middle, head.larger, head.sharp, head.class_map) == (*[True] * 3, *[False] * 2)
    assert requirements_of(["walk+foreground"]).class_map
    assert requirements_of(["foreground-walk"]).class_map
    assert requirements_of(["larger"]).larger
    assert not requirements_of(["larger"]).middle
    assert requirements_of(["walk-one-pass:pc1+foreground+centre"]).sharp


@torch.no_grad()
def test_a_head_reads_two_middle_layers_at_two_sizes(view):
    """Strides 8 and 16 of the images, 16 and 32 of those of twice the side, on the grid of the last."""
    images, larger, targets = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 128, 128), torch.tensor([1, 4])
    output = view.extract(images)
    inputs = MapInputs.from_output(output, view, images, targets, larger=larger)
    finer = view.extract(larger)
    maps = (*output.middle, finer.middle[-1], finer.features)
    wanted = np.concatenate([block_means(one.numpy(), finer.features.shape[-1]) for one in maps], 1)
    found = inputs.head_features
    assert found.shape == wanted.shape
    assert np.allclose(found.float().numpy(), wanted, atol=2e-3 * abs(wanted).max())


def block_means(maps, side):
    """(B, C, h, w) averaged over equal blocks; coarser ones interpolated."""
    if maps.shape[-1] < side:
        return nn.functional.interpolate(torch.from_numpy(maps), size=side, mode="bilinear").numpy()
    size = maps.shape[-1] // side
    return maps.reshape(*maps.shape[:2], side, size, side, size).mean((3, 5))


@torch.no_grad()
def test_parts_that_methods_share_are_computed_once(view, monkeypatch):
    images, targets = torch.randn(2, 3, 64, 64), torch.tensor([0, 3])
    inputs = MapInputs.from_output(view.extract(images), view, images, targets)
    head = fit_foreground(inputs.head_features, find_method("walk")(inputs), steps=2)
    passes, walks = [], []
    handle = view.model.register_forward_pre_hook(lambda *_: passes.append(1))
    monkeypatch.setattr(registry, "random_walk", lambda *a: (walks.append(1), random_walk(*a))[1])
    inputs = MapInputs.from_output(view.extract(images), view, images, targets, head=head)
    walk, both, shown = (inputs.map_of(name) for name in ("walk", "walk+foreground", "foreground"))
    handle.remove()
    assert (len(passes), len(walks)) == (2, 1)
    assert torch.allclose(both, (scaled(walk) + scaled(shown)) / 2, atol=1e-6)
    with pytest.raises(InputError, match="no foreground head was fitted"):
        find_method("foreground")(MapInputs.from_output(view.extract(images), view, images, targets))


def scaled(maps):
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def test_where_no_head_can_be_fitted():
    refuse_heads(["cam", "walk", lambda *_: None], "this command")
    with pytest.raises(InputError, match=r"walk\+foreground: this command has no foreground head"):
        refuse_heads(["cam", "walk+foreground"], "this command")


def test_a_model_that_cannot_be_walked_on(tmp_path):
    one_stage = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(InputError, match="Sequential: no feature map before the last one"):
        Localizer(one_stage, "walk")
    with pytest.raises(InputError, match="so there is no foreground head on it"):
        Localizer(one_stage, "foreground")
    with pytest.raises(InputError, match="hrnet_w18_small: its last stage cannot be run on shifted inputs"):
        Localizer(create_model("hrnet_w18_small"), "walk-one-pass")


def test_a_run_saves_walks_under_their_whole_names(tmp_path):
    config = EvaluateConfig(
        write_model(tmp_path),
        str(write_split(tmp_path / "set", 4)),
        method=("cam", "walk", "walk-one-pass+centre"),
        walk_seed="pc1",
        size=64,
    )
    run = Run(tmp_path / "run")
    metrics = evaluate(config, run)
    names = ("cam", "walk:pc1", "walk-one-pass:pc1+centre")
    assert run.methods() == names
    assert set(names) < set(metrics["methods"])
    assert evaluate(config, run) == metrics  # a finished run of the same config, scored again
    record = next(iter(run.records(1)))[0]
    assert record["map_cam"].shape == (8, 8)
    assert record["map_walk:pc1"].shape == (16, 16)


def test_pictures_are_read_again_at_twice_the_size(tmp_path):
    """A pattern that the small input cannot show at all has to be in the larger one."""
    model = create_model(write_model(tmp_path))
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, 1::2] = 255
    caught = []
    handle = model.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    localizer = Localizer(model, "walk")
    localizer.networks[0].preprocess = type(localizer.preprocess)((64, 64))
    caught.clear()
    localizer([Image.fromarray(stripes)])
    handle.remove()
    small, large = caught[0], caught[-1]
    assert small.shape[2:] == (64, 64)
    assert large.shape[2:] == (128, 128)
    assert small[0, 0, 20].std() < 0.1
    assert large[0, 0, 20].std() > 1
