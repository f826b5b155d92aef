"""The small networks: the demonstration's, and one of each family of the paper."""

import pytest
import torch

from heatbox.models.factory import create_model


@pytest.mark.parametrize(
    ("name", "shape", "largest"),
    [
        ("resnet10_small", (1, 96, 16, 16), 500_000),
        ("convnext_micro", (1, 160, 8, 8), 800_000),
        ("replknet_micro", (1, 128, 8, 8), 800_000),
        ("slak_micro", (1, 160, 8, 8), 800_000),
    ],
)
def test_feature_map_and_size(name, shape, largest):
    model = create_model(name)
    assert model.forward_features(torch.zeros(1, 3, 64, 64)).shape == shape
    assert sum(p.numel() for p in model.parameters()) < largest
    assert all(
        m.dilation == (1, 1) for m in model.modules() if isinstance(m, torch.nn.Conv2d) and "micro" in name
    )


@pytest.mark.parametrize("name", ["convnext_micro", "slak_micro"])
def test_narrow_networks_begin_at_the_scale_of_their_width(name):
    """Initial outputs of a layer then have about the scale of its inputs at any width."""
    torch.manual_seed(0)
    for module in create_model(name).modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and module.weight.numel() > 2000:
            inputs = module.weight[0].numel()
            assert float(module.weight.detach().std()) * inputs**0.5 == pytest.approx(1, abs=0.1)


def test_wide_networks_begin_as_their_authors_have_it():
    torch.manual_seed(0)
    model = create_model("test_slak")
    assert float(model.stages[3][0].pwconv1.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("name", "middle", "offset"),
    [
        ("resnet10_small", slice(7, 9), -0.5),  # the stem's first convolution alone looks half a pixel up
        ("convnext_micro", slice(3, 5), 0.0),
    ],
)
def test_feature_map_lies_over_the_picture(name, middle, offset):
    """The receptive field of the central cells, averaged over random networks, is centred in the image."""
    centres = []
    for seed in range(20):
        torch.manual_seed(seed)
        model = create_model(name)
        images = torch.randn(4, 3, 64, 64, requires_grad=True)
        model.forward_features(images)[:, :, middle, middle].square().sum().backward()
        share = images.grad.square().sum((0, 1))
        share /= share.sum()
        pixels = torch.arange(64) - 31.5
        centres.append([float((share.sum(1) * pixels).sum()), float((share.sum(0) * pixels).sum())])
    for centre in torch.tensor(centres).mean(0).tolist():
        assert centre == pytest.approx(offset, abs=0.5)
