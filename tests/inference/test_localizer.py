import numpy as np
import pytest
import torch
from PIL import Image

from heatbox.errors import AssumptionWarning, InputError
from heatbox.inference.localizer import Localizer
from heatbox.models.factory import create_model
from helpers.scenes import write_model


@pytest.fixture
def model(tmp_path):
    return create_model(write_model(tmp_path))


def test_tensors(model):
    images = torch.randn(3, 3, 64, 96)
    found = Localizer(model)(images)
    assert torch.equal(found.labels, found.logits.argmax(1))
    assert torch.equal(found.targets, found.labels)
    assert torch.allclose(found.logits, model(images), atol=1e-6)
    assert found.maps.shape == (3, 8, 12)
    for heatmap, boxes in zip(found.heatmaps, found.boxes, strict=True):
        assert heatmap.shape == (64, 96)
        assert heatmap.min() >= 0
        assert heatmap.max() <= 1
        assert boxes.shape == (1, 4)
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes <= [96, 64, 96, 64]).all()


def test_pictures_of_any_size(model):
    pictures = [Image.new("RGB", (50, 80), "red"), Image.new("L", (90, 30), 9)]
    found = Localizer(model, "pc1")(pictures, targets=[1, 2])
    assert [heatmap.shape for heatmap in found.heatmaps] == [(80, 50), (30, 90)]
    assert found.targets.tolist() == [1, 2]


def bright_square(model, images, targets):
    """A method of one's own: the brightness of the picture itself."""
    return images.mean(1)


def test_box_of_a_method_of_ones_own(model):
    images = torch.zeros(1, 3, 224, 224)
    images[..., 50:100, 30:170] = 1
    found = Localizer(model, bright_square, threshold=0.5)(images)
    assert np.allclose(found.boxes[0], [[30, 50, 170, 100]])


def test_all_contours(model):
    images = torch.zeros(1, 3, 224, 224)
    images[..., 10:40, 10:40] = 1
    images[..., 150:200, 150:180] = 1
    found = Localizer(model, bright_square, threshold=0.5, contours="all")(images)
    assert sorted(map(tuple, found.boxes[0])) == [(10, 10, 40, 40), (150, 150, 180, 200)]


def test_a_method_may_use_gradients(model):
    def saliency(model, images, targets):
        with torch.enable_grad():
            images = images.clone().requires_grad_()
            model(images).gather(1, targets[:, None]).sum().backward()
        return images.grad.abs().sum(1)

    found = Localizer(model, saliency)(torch.randn(2, 3, 32, 32))
    assert found.maps.shape == (2, 32, 32)
    assert found.maps.any()


@pytest.mark.parametrize(
    ("options", "images", "says"),
    [
        ({"method": "best"}, None, "no map method 'best'"),
        ({"threshold": 1.0}, None, "threshold is 1.0"),
        ({}, torch.zeros(3, 8, 8), r"expected \(B, 3, H, W\)"),
        ({}, [], "no image"),
        ({}, ["a.png"], "PIL images"),
        ({"method": lambda m, x, t: x}, torch.zeros(1, 3, 32, 32), r"returned \(1, 3, 32, 32\)"),
    ],
)
def test_bad_input(model, options, images, says):
    with pytest.raises(InputError, match=says):
        Localizer(model, **options)(images)


def test_wrong_number_of_targets(model):
    with pytest.raises(InputError, match=r"targets have shape \(2,\), expected \(3,\)"):
        Localizer(model)(torch.zeros(3, 3, 32, 32), [0, 1])


def test_the_mean_box_is_for_walks(model):
    with pytest.warns(AssumptionWarning, match="was measured on random walks; assumed: it suits cam too"):
        found = Localizer(model, "cam", threshold="mean")(torch.rand(2, 3, 32, 32))
    assert [len(boxes) for boxes in found.boxes] == [1, 1]
    with pytest.raises(InputError, match="largest contours"):
        Localizer(model, "cam", threshold="mean", contours="all")
