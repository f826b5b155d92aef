"""Methods of pytorch-grad-cam by name, against the tool itself and against closed forms."""

import numpy as np
import pytest
import torch
from torch import nn

from heatbox.errors import InputError
from heatbox.maps.cam import cam
from heatbox.maps.gradcam import GRADIENT_METHODS, gradient_map
from heatbox.maps.registry import MapInputs, find_method
from heatbox.models.introspect import ClassifierView

tool = pytest.importorskip("pytorch_grad_cam", reason="the extra gradcam is not installed")


class Network(nn.Module):
    """Two convolutions and a linear layer on the pooled map."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.bend, self.pool = nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, images):
        features = self.bend(self.last(torch.relu(self.first(images))))
        return self.fc(self.pool(features).flatten(1))


@pytest.fixture
def model():
    return Network()


@pytest.fixture
def images():
    return torch.randn(4, 3, 40, 32)


TARGETS = torch.tensor([0, 1, 2, 4])


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_the_same_as_the_tool_on_the_whole_network(model, images, name):
    """The tool is given the layer by hand and differentiates through the whole network."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    ours = gradient_map(name, ClassifierView(model), images, TARGETS)
    assert ours.shape == (4, 10, 8)
    theirs = getattr(tool, GRADIENT_METHODS[name])(model=model, target_layers=[model.bend])
    theirs.get_target_width_height = lambda _: (8, 10)
    wanted = theirs(images, [ClassifierOutputTarget(int(target)) for target in TARGETS])
    assert np.allclose(ours.numpy(), wanted, atol=1e-5)


def test_gradcam_is_the_positive_part_of_cam(model, images):
    """For a head of pooling and one linear layer (Selvaraju et al., section 3.1)."""
    view = ClassifierView(model)
    with torch.inference_mode():
        features, _ = view(images)
        scene = MapInputs(view, images, features, TARGETS, "fold")
        found = find_method("gradcam")(scene)
        wanted = cam(features, view.class_weights(features, TARGETS)[0]).clamp(min=0)
    low, high = wanted.amin((1, 2), keepdim=True), wanted.amax((1, 2), keepdim=True)
    assert torch.allclose(found, (wanted - low) / (high - low), atol=1e-5)


def test_the_model_is_left_as_it_was(model, images):
    model.train()
    model.fc.weight.requires_grad_(False)
    model.first.weight.grad = torch.ones_like(model.first.weight)
    gradient_map("layercam", ClassifierView(model), images, TARGETS)
    assert model.training
    assert model.first.training
    assert not model.fc.weight.requires_grad
    assert model.last.weight.requires_grad
    assert model.last.weight.grad is None
    assert (model.first.weight.grad == 1).all()
    assert not any(module._forward_hooks for module in model.modules())


def test_a_function_in_a_file(model, images, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def saliency(model, images, targets):\n"
        "    with torch.enable_grad():\n"
        "        images = images.clone().requires_grad_()\n"
        "        model(images).gather(1, targets[:, None]).sum().backward()\n"
        "    return images.grad.abs().sum(1)\n"
        "flat = 3\n"
    )
    view = ClassifierView(model)
    with torch.inference_mode():
        features, _ = view(images)
        scene = MapInputs(view, images, features, TARGETS, "fold")
        found = find_method(f"{tmp_path / 'mine.py'}:saliency")(scene)
    assert found.shape == (4, 40, 32)
    assert found.max() > 0
    with pytest.raises(InputError, match="has no function named 'flat'"):
        find_method(f"{tmp_path / 'mine.py'}:flat")


def test_unknown_and_missing(model, images, monkeypatch):
    with pytest.raises(InputError, match="no map method 'gradcan'"):
        find_method("gradcan")
    with pytest.raises(InputError, match="no map method 'nothing'"):
        gradient_map("nothing", ClassifierView(model), images, TARGETS)
    monkeypatch.setitem(__import__("sys").modules, "pytorch_grad_cam", None)
    with pytest.raises(InputError, match=r"pip install 'heatbox\[gradcam\]'"):
        find_method("gradcam")
