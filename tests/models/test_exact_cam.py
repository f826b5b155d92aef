"""The mean of a class activation map plus the bias is the logit, on every backbone and head."""

import numpy as np
import pytest
import timm
import torch
from timm.utils.model import reparameterize_model

import heatbox.models  # noqa: F401 - registers its families with timm
from heatbox.maps.cam import cam
from heatbox.maps.pc1 import pc1
from heatbox.models.checkpoints import gap_fc_head
from heatbox.models.introspect import ClassifierView

BUILDERS = {
    "replknet": lambda: timm.create_model("test_replknet", num_classes=7),
    "replknet merged": lambda: reparameterize_model(timm.create_model("test_replknet", num_classes=7)),
    "replknet fused": lambda: timm.create_model("test_replknet", num_classes=7).fuse_batch_norms(),
    "slak": lambda: timm.create_model("test_slak", num_classes=7),
    "slak merged": lambda: reparameterize_model(timm.create_model("test_slak", num_classes=7)),
    "convnext": lambda: timm.create_model("test_convnext", num_classes=7),
    "convnext gap_fc": lambda: gap_fc_head(timm.create_model("test_convnext", num_classes=7)),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_mean_of_map_and_bias_make_the_logit(name, golden_weights, golden_images):
    model = golden_weights(BUILDERS[name]())
    view = ClassifierView(model)
    with torch.inference_mode():
        features, logits = view(golden_images(96))
        for target in range(7):
            targets = torch.full((2,), target)
            weights, bias = view.class_weights(features, targets)
            means = cam(features, weights).mean((1, 2))
            torch.testing.assert_close(means + bias, logits[:, target], rtol=1e-4, atol=1e-4)


def test_view_sees_the_map_before_replknets_norm(golden_weights, golden_images):
    model = golden_weights(timm.create_model("test_replknet", num_classes=7))
    view = ClassifierView(model)
    with torch.inference_mode():
        features, _ = view(golden_images(64))
        torch.testing.assert_close(features, model.forward_features(golden_images(64)))
    weights, _ = view.class_weights(features, torch.tensor([3, 3]), norm="ignore")
    torch.testing.assert_close(weights[0], model.head.weight[3])


def test_view_sees_the_map_before_slaks_pooling(golden_weights, golden_images):
    model = golden_weights(timm.create_model("test_slak", num_classes=7))
    with torch.inference_mode():
        features, _ = ClassifierView(model)(golden_images(64))
        torch.testing.assert_close(features, model.forward_features(golden_images(64)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["replknet_31b", "slak_tiny", "convnext_base"])
def test_full_size_backbones(name, golden_weights, golden_images):
    model = golden_weights(timm.create_model(name, num_classes=200))
    view = ClassifierView(model)
    with torch.inference_mode():
        features, logits = view(golden_images(96))
        targets = logits.argmax(1)
        weights, bias = view.class_weights(features, targets)
        means = cam(features, weights).mean((1, 2)) + bias
    torch.testing.assert_close(means, logits.gather(1, targets[:, None])[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("file", ["heat_replknet31b_00", "heat_convnext_nano_03"])
def test_released_maps_on_the_sample_features(file, shared):
    """The released code: norm ignored, predicted class, CAM clipped at zero and divided by its maximum."""
    arrays = np.load(shared / f"golden/{file}.npz")
    features = torch.from_numpy(arrays["features_f16"].astype(np.float32))[None]
    row = torch.from_numpy(arrays["weights_row"])
    heatmap = cam(features, row)[0].clamp(min=0)
    torch.testing.assert_close(
        heatmap / heatmap.max(), torch.from_numpy(arrays["cam_low"]), rtol=1e-4, atol=1e-5
    )
    first = pc1(features * row[None, :, None, None], variant="released")[0]
    torch.testing.assert_close(first, torch.from_numpy(arrays["pc1_low_full"]), rtol=1e-4, atol=1e-4)
