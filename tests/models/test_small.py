"""The demonstration's network."""

import pytest
import torch

from heatbox.models.build import build_model


def test_feature_map_is_a_quarter_of_the_side():
    model = build_model("resnet10_small")
    assert model.forward_features(torch.zeros(1, 3, 64, 64)).shape == (1, 96, 16, 16)
    assert sum(p.numel() for p in model.parameters()) < 500_000


def test_feature_map_lies_over_the_picture():
    """What feeds the middle cells is, on average over random networks, centred in the picture."""
    centres = []
    for seed in range(20):
        torch.manual_seed(seed)
        model = build_model("resnet10_small")
        images = torch.randn(4, 3, 64, 64, requires_grad=True)
        model.forward_features(images)[:, :, 7:9, 7:9].square().sum().backward()
        share = images.grad.square().sum((0, 1))
        share /= share.sum()
        pixels = torch.arange(64) - 31.5
        centres.append([float((share.sum(1) * pixels).sum()), float((share.sum(0) * pixels).sum())])
    for centre in torch.tensor(centres).mean(0).tolist():
        assert centre == pytest.approx(
            -0.5, abs=0.5
        )  # the stem's first convolution alone looks half a pixel up
