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
    ],
)
def test_bad_arguments(arguments):
    with pytest.raises(InputError):
        Preprocess(**arguments)


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
    ys, xs = np.nonzero(np.asarray(image) >= 128)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else None


@settings(max_examples=400, deadline=None)
@given(st.tuples(side, side), st.tuples(*[st.floats(0, 1)] * 4), steps)
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
