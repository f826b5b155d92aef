"""Weights of `efficientnet_pytorch` against the outputs of its own code."""

import pytest
import timm
import torch
from torch import nn

from heatbox.errors import InputError
from heatbox.models import load_checkpoint

original = pytest.importorskip("efficientnet_lite_pytorch")


def network(name: str, classes: int = 1000) -> nn.Module:
    """A network of the original code with random weights and statistics."""
    torch.manual_seed(0)
    model = original.EfficientNet.from_name(name, num_classes=classes).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize(("name", "size"), [("efficientnet-lite0", 224), ("efficientnet-b1", 240)])
def test_outputs_are_those_of_the_original_code(name, size, tmp_path):
    theirs = network(name)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = timm.create_model(f"tf_{name.replace('-', '_')}").eval()
    report = load_checkpoint(ours, tmp_path / "weights.pth")
    assert report.num_classes == 1000
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = theirs(images)
        torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_symmetric_padding_is_refused(tmp_path):
    torch.save(network("efficientnet-lite0").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"pads symmetrically; expected tf_efficientnet_lite0$"):
        load_checkpoint(timm.create_model("efficientnet_lite0"), tmp_path / "weights.pth")


@pytest.mark.parametrize("model", ["tf_efficientnet_lite1", "resnet10t"])
def test_another_network_is_refused_with_the_name_of_the_right_one(model, tmp_path):
    torch.save(network("efficientnet-lite0").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(InputError, match="its weights are of tf_efficientnet_lite0"):
        load_checkpoint(timm.create_model(model), tmp_path / "weights.pth")


def test_other_classes_are_counted_and_can_be_left_out(tmp_path):
    torch.save(network("efficientnet-lite0", 7).state_dict(), tmp_path / "weights.pth")
    assert load_checkpoint(
        timm.create_model("tf_efficientnet_lite0", num_classes=7), tmp_path / "weights.pth"
    )
    model = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    assert load_checkpoint(model, tmp_path / "weights.pth", head=False).left_out
    with pytest.raises(InputError, match="7"):
        load_checkpoint(model, tmp_path / "weights.pth")
