"""Preprocessing of images, and geometric transforms under which boxes follow to one pixel."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from heatbox.data.transforms import (
    CenterCrop,
    Compose,
    Crop,
    HorizontalFlip,
    Pad,
    Preprocess,
    Resize,
    ResizeShort,
    Rotate90,
)
from heatbox.errors import InputError


def test_resizes_and_normalizes():
    image = Image.fromarray(np.full((30, 50, 3), (255, 0, 51), np.uint8))
    found = Preprocess((8, 12), mean=(0.5, 0.5, 0.2), std=(0.5, 0.25, 0.1))(image)
    assert found.shape == (3, 8, 12)
    assert torch.allclose(found[:, 0, 0], torch.tensor([1.0, -2.0, 0.0]), atol=1e-6)


def test_the_whole_image_is_kept():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :8] = 255  # a strip at the left edge, which a centre crop would cut off
    found = Preprocess((20, 20), (0, 0, 0), (1, 1, 1))(Image.fromarray(image))
    assert found[0, :, 0].min() > 0.9


def test_takes_a_timm_config():
    config = {
        "input_size": (3, 96, 128),
        "mean": (0.1, 0.2, 0.3),
        "std": (1.0, 2.0, 3.0),
        "interpolation": "bicubic",
    }
    assert Preprocess.from_config(config) == Preprocess(
        (96, 128), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "bicubic"
    )
    assert Preprocess.from_config(config, size=64, interpolation="bilinear").size == (64, 64)
    assert Preprocess.from_config({}) == Preprocess()


@pytest.mark.parametrize(
    "arguments",
    [
        {"interpolation": "cubic"},
        {"size": (0, 5)},
        {"size": (2**64, 5)},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (1.0,)},
        {"mean": (), "std": ()},
        {"mean": (float("nan"), 0.0, 0.0)},
        {"crop_pct": 0.0},
        {"crop_pct": 1.5},
    ],
)
def test_bad_arguments(arguments):
    with pytest.raises(InputError):
        Preprocess(**arguments)


@pytest.mark.parametrize(("mean", "channels"), [((0.5,), 1), ((0.1, 0.2, 0.3), 3), ((0.1, 0.2, 0.3, 0.4), 4)])
def test_as_many_channels_as_means(mean, channels):
    levels = np.random.default_rng(0).integers(0, 256, (30, 50, channels)).astype(np.uint8)
    prepare = Preprocess((30, 50), mean, (0.25,) * channels)
    found = prepare(levels)
    expected = (levels.transpose(2, 0, 1) / 255 - np.array(mean)[:, None, None]) / 0.25
    assert found.shape == (channels, 30, 50)
    assert np.allclose(found, expected, atol=1e-5)
    smaller = Preprocess((6, 10), mean, (0.25,) * channels, "box")(levels)
    blocks = expected.reshape(channels, 6, 5, 10, 5).mean((2, 4))
    assert np.allclose(smaller, blocks, atol=4 * 1.1 / 255)  # rounded to 8 bits, once per axis


def test_grey_is_that_of_the_colours():
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8))
    found = Preprocess((8, 8), (0,), (1,))(colour)
    assert np.abs(found[0].numpy() * 255 - np.asarray(colour) @ [0.299, 0.587, 0.114]).max() <= 0.51


def test_blue_first():
    image = Image.fromarray(np.full((4, 4, 3), (255, 0, 51), np.uint8))
    found = Preprocess((4, 4), (0.0, 0.5, 1.0), (1.0, 1.0, 1.0), bgr=True)(image)
    assert torch.allclose(found[:, 0, 0], torch.tensor([0.2, -0.5, 0.0]), atol=1e-6)
    assert Preprocess.from_config({"channel_order": "bgr"}).bgr


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_levels_are_normalized_one_by_one(bgr, channels):
    mean, std = torch.tensor([0.485, 0.456, 0.406][:channels]), torch.tensor([0.229, 0.224, 0.225][:channels])
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8))
    found = Preprocess((30, 40), tuple(mean.tolist()), tuple(std.tolist()), bgr=bgr)(image)
    shown = np.array(image.convert("L"))[..., None] if channels == 1 else np.array(image)
    levels = torch.from_numpy(shown).permute(2, 0, 1).float() / 255
    expected = ((levels.flip(0) if bgr else levels) - mean[:, None, None]) / std[:, None, None]
    assert torch.equal(found, expected)


def test_an_image_is_turned_as_its_exif_says():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8))
    upright = Preprocess((30, 20), (0, 0, 0), (1, 1, 1))(image.transpose(Image.Transpose.ROTATE_270))
    image.getexif()[0x0112] = 6
    assert torch.equal(Preprocess((30, 20), (0, 0, 0), (1, 1, 1))(image), upright)


def test_one_mean_for_every_channel_of_a_config():
    config = {"input_size": (1, 32, 32), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    assert Preprocess.from_config(config).mean == pytest.approx((0.2,))
    assert Preprocess.from_config({**config, "input_size": (5, 32, 32)}).std == (0.5,) * 5


@pytest.mark.parametrize("filter_name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
def test_crop_pct_is_what_classifiers_are_tested_on(crop_pct, filter_name):
    """timm's own transform is the oracle, for images of any aspect ratio."""
    from timm.data.transforms_factory import transforms_imagenet_eval

    generator = np.random.default_rng(0)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)
    oracle = transforms_imagenet_eval(64, crop_pct, interpolation=filter_name, mean=mean, std=std)
    prepare = Preprocess((64, 64), mean, std, filter_name, crop_pct)
    for width, height in ((100, 100), (150, 113), (90, 241), (64, 64), (500, 333)):
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3)).astype(np.uint8))
        difference = (prepare(image) - oracle(image)).abs() * torch.tensor(std)[:, None, None] * 255
        assert difference.max() < 1.6, (width, height)  # rounded once or twice
        assert difference.mean() < 0.1


@pytest.mark.parametrize(("width", "height"), [(100, 100), (150, 80), (90, 241)])
def test_crop_of_inputs_that_are_no_squares(width, height):
    """Resized in proportion to contain the input enlarged by 1 / crop_pct, then cropped, as in timm."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8))
    factor = max(60 / height, 120 / width)
    resized = image.resize((round(factor * width), round(factor * height)), Image.Resampling.BILINEAR)
    expected, _ = CenterCrop((96, 48))(resized, np.zeros((0, 4)))
    found = Preprocess((48, 96), (0,) * 3, (1 / 255,) * 3, crop_pct=0.8)(image)
    assert np.abs(found.numpy() - np.asarray(expected).transpose(2, 0, 1)).max() < 1.1


@given(st.integers(20, 700), st.integers(20, 700), st.floats(0.5, 1.0), st.sampled_from([32, 224]))
def test_the_region_lies_in_the_centre(width, height, crop_pct, size):
    prepare = Preprocess((size, size), crop_pct=crop_pct)
    x1, y1, x2, y2 = prepare.region((width, height))
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height
    short = min(width, height)
    assert x2 - x1 == pytest.approx(crop_pct * short, rel=0.05, abs=1)
    assert y2 - y1 == pytest.approx(crop_pct * short, rel=0.05, abs=1)
    assert abs(x1 + x2 - width) <= 2.01 * short / size * crop_pct + 1
    assert prepare.enlarged(2).region((width, height)) == (x1, y1, x2, y2)
    assert prepare.enlarged(2).size == (2 * size, 2 * size)
    assert Preprocess((size, size)).region((width, height)) == (0, 0, width, height)


side = st.integers(20, 160)
steps = st.one_of(
    st.builds(Resize, st.tuples(side, side)),
    st.builds(ResizeShort, st.integers(40, 120)),
    st.builds(CenterCrop, st.tuples(side, side)),
    st.builds(Pad, st.tuples(*[st.integers(0, 20)] * 4)),
    st.tuples(st.integers(-10, 30), st.integers(-10, 30), side, side).map(
        lambda b: Crop((b[0], b[1], b[0] + b[2], b[1] + b[3]))
    ),
    st.just(HorizontalFlip()),
    st.just(Rotate90()),
)


def drawn(size, box):
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    return Image.fromarray(mask)


def found(image):
    """The box of what is brighter than half of the brightest; an edge is there also where an axis dims it."""
    values = np.asarray(image)
    ys, xs = np.nonzero(values >= values.max() / 2) if values.max() >= 128 else ((), ())
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else None


@settings(max_examples=400, deadline=None)
@given(st.tuples(side, side), st.tuples(*[st.floats(0, 1)] * 4), steps)
@example((84, 20), (0.5, 0.25, 0.0, 0.0), Resize((20, 142)))  # two dim columns, seven times as high
@example((29, 29), (0.0, 0.0, 0.0, 1.0), ResizeShort(119))  # 29 * (119 / 29) is more than 119
def test_boxes_follow_every_step(size, share, step):
    x1, y1 = int(share[0] * (size[0] - 8)), int(share[1] * (size[1] - 8))
    box = [x1, y1, x1 + 8 + int(share[2] * (size[0] - 8 - x1)), y1 + 8 + int(share[3] * (size[1] - 8 - y1))]
    image, boxes = step(drawn(size, box), np.array([box], dtype=np.float64))
    moved = boxes[0]
    assert (moved >= 0).all()
    assert (moved <= np.array(image.size * 2)).all()
    seen = found(image)
    if seen is None:
        assert min(moved[2] - moved[0], moved[3] - moved[1]) <= 1  # cut away but for less than a pixel
    else:
        assert np.abs(moved - seen).max() <= 1


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from([HorizontalFlip(), Rotate90(), Pad((3, 0, 5, 2)), Crop((1, 2, 33, 40))]), max_size=6
    )
)
def test_chains_of_exact_steps_are_exact(chain):
    box = [10, 12, 30, 25]
    image, boxes = Compose(chain)(drawn((44, 50), box), np.array([box], dtype=np.float64))
    seen = found(image)
    if seen is not None:
        assert boxes[0].tolist() == seen


def test_no_boxes_stay_none():
    for step in (
        Resize((9, 8)),
        ResizeShort(7),
        CenterCrop((5, 5)),
        Pad((1, 1, 1, 1)),
        HorizontalFlip(),
        Rotate90(),
    ):
        assert step(Image.new("L", (20, 30)), np.zeros((0, 4)))[1].shape == (0, 4)


def test_a_size_that_is_none():
    with pytest.raises(InputError):
        Resize((0, 5))
