import numpy as np
import pytest
import torch
from PIL import Image

from heatbox.data.transforms import Preprocess
from heatbox.errors import InputError


def test_squashes_and_normalises():
    image = Image.fromarray(np.full((30, 50, 3), (255, 0, 51), np.uint8))
    found = Preprocess((8, 12), mean=(0.5, 0.5, 0.2), std=(0.5, 0.25, 0.1))(image)
    assert found.shape == (3, 8, 12)
    assert torch.allclose(found[:, 0, 0], torch.tensor([1.0, -2.0, 0.0]), atol=1e-6)


def test_the_whole_image_is_kept():
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, :8] = 255  # a strip at the left edge, which a centre crop would cut off
    found = Preprocess((20, 20), (0, 0, 0), (1, 1, 1))(Image.fromarray(picture))
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
