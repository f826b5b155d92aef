"""What needs no class weights runs on any model; what is no class activation map is not called one."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from heatbox import Localizer, create_model, effective_receptive_field
from heatbox.config import EvaluateConfig
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import Run
from helpers.random_weights import scrambled

pytestmark = pytest.mark.filterwarnings("ignore::heatbox.errors.AssumptionWarning")


def vit():
    torch.manual_seed(0)
    return scrambled(create_model("test_vit", num_classes=10), (3, 160, 160))


def vgg():
    torch.manual_seed(0)
    layers = torchvision.models.vgg.make_layers([8, "M", 8, "M", 16, "M"])
    hidden = (nn.Flatten(), nn.Linear(16 * 16, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 5))
    return nn.Sequential(layers, nn.AdaptiveAvgPool2d(4), *hidden)


class LogSumExp(nn.Module):
    """Its logits are no sum over positions."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 9, 3, 4, 1), nn.Linear(9, 5)

    def forward(self, x):
        return self.out(self.conv(x).relu().flatten(2).logsumexp(2))


def pixels():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4))


def row_map(model, images, targets):
    return torch.arange(6.0).view(1, 6, 1).expand(len(images), 6, 5)


@pytest.mark.parametrize("method", ["gradcam", "layercam", "eigencam", "pc1"])
@pytest.mark.parametrize("make", [vit, vgg, LogSumExp])
def test_maps_without_class_weights(make, method):
    localizer = Localizer(make(), method)
    found = localizer(torch.randn(2, 3, 160, 160))
    assert found.maps.isfinite().all()
    assert found.maps.flatten(1).std(1).min() > 0


@pytest.mark.parametrize("make", [vit, vgg, LogSumExp, pixels])
def test_functions_of_ones_own(make):
    side = 64 if make is pixels else 160
    found = Localizer(make(), row_map)(torch.randn(2, 3, side, side))
    assert torch.equal(found.maps, row_map(None, torch.zeros(2), None))


def test_a_model_without_a_feature_map():
    for method in ("cam", "pc1", "eigencam"):
        with pytest.raises(InputError, match="from no feature map"):
            Localizer(pixels(), method)


def test_the_gradient_of_a_token_model_is_that_of_the_whole_network():
    """HiResCAM by hand: the gradient at the tokens that the last attention reads."""
    model = vit().eval()
    images = torch.randn(2, 3, 160, 160)
    kept = {}
    model.blocks[-1].norm1.register_forward_hook(lambda module, args, output: kept.update(tokens=output))
    logits = model(images)
    targets = logits.argmax(1)
    (slope,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), kept["tokens"])
    products = (slope * kept["tokens"]).sum(2)[:, model.num_prefix_tokens :].detach()
    wanted = products.clamp_min(0).unflatten(1, (10, 10))
    low, high = wanted.amin((1, 2), keepdim=True), wanted.amax((1, 2), keepdim=True)
    found = Localizer(model, "hirescam")(images).maps
    torch.testing.assert_close(found, (wanted - low) / (high - low), rtol=1e-3, atol=1e-4)


def test_gradient_weighted_attention():
    """By hand from the last block's own projections."""
    model = vit().eval()
    images = torch.randn(2, 3, 160, 160)
    block, kept = model.blocks[-1], {}
    block.attn.register_forward_pre_hook(lambda module, args: kept.update(tokens=args[0].detach()))
    with torch.no_grad():
        targets = model(images).argmax(1)
    tokens, heads = kept["tokens"], block.attn.num_heads
    q, k, v = block.attn.qkv(tokens).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    attention = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1).detach().requires_grad_()
    mixed = block.attn.proj((attention @ v).transpose(1, 2).flatten(2))
    block.attn.forward = lambda *args, **kwargs: mixed
    logits = model(images)
    (slope,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), attention)
    row = (attention * slope).clamp_min(0).mean(1)[:, 0, model.num_prefix_tokens :].detach()
    del block.attn.forward
    found = Localizer(model, "attention")(images, targets).maps
    torch.testing.assert_close(found, row.unflatten(1, (10, 10)), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("cam", "patch-tokens"),
        ("cam+centre", "patch-tokens+centre"),
        ("walk", "walk:patch-tokens"),
        ("walk:cam", "walk:patch-tokens"),
        ("pc1", "pc1"),
        ("walk:pc1", "walk:pc1"),
    ],
)
def test_the_map_of_a_class_token_is_named_as_such(asked, name):
    assert Localizer(vit(), asked).name == name
    assert Localizer(create_model("test_resnet"), asked).name == asked


def test_the_note_of_an_approximation():
    with pytest.warns(AssumptionWarning, match="cam is the approximation patch-tokens"):
        Localizer(vit(), "cam")
    with pytest.raises(InputError, match="reads no class token"):
        Localizer(create_model("test_resnet"), "patch-tokens")(torch.randn(1, 3, 64, 64))


def test_patch_tokens_are_the_logits_of_the_tokens():
    model = vit().eval()
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        tokens = model.forward_features(images)[:, model.num_prefix_tokens :]
        logits = model.head(tokens)
        targets = model(images).argmax(1)
    wanted = torch.stack([one[:, target] for one, target in zip(logits, targets, strict=True)])
    found = Localizer(model, "patch-tokens")(images).maps
    torch.testing.assert_close(found, wanted.unflatten(1, (10, 10)), rtol=1e-4, atol=1e-5)


def test_tables_of_a_token_model_say_what_the_map_is(tmp_path):
    config = EvaluateConfig("test_vit", "glyphs:test", method=("cam", "walk", "pc1"), limit=4, num_classes=10)
    run = Run(tmp_path / "run")
    metrics = evaluate(config, run)
    assert set(metrics["methods"]) >= {"patch-tokens", "walk:patch-tokens", "pc1"}
    assert "cam" not in metrics["methods"]
    assert evaluate(config, run)["methods"] == metrics["methods"]  # resumed under the same names
    record = next(run.records())[0]
    assert np.asarray(record["map_patch-tokens"]).shape == (10, 10)


def test_instruments_of_a_token_model():
    field = effective_receptive_field(vit(), torch.randn(2, 3, 160, 160))
    assert field.contribution.shape == (160, 160)
    assert field.contribution.max() > 0
