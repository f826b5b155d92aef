"""The head that is found reproduces the logits, and the spatial mean of CAM plus the bias is the logit."""

import gc

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from heatbox.errors import InputError
from heatbox.maps.cam import cam
from heatbox.models.introspect import ClassifierView, class_maps
from heatbox.models.spec import input_size


def scramble(model: nn.Module) -> nn.Module:
    """Random norm layers: at initialisation they are identities, whose folding has no effect."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm) and module.weight is not None:
            module.weight.data = 1 + 0.3 * torch.randn(module.weight.shape, generator=generator)
            module.bias.data = 0.3 * torch.randn(module.bias.shape, generator=generator)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(0.2 * torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return model


class NormBeforePool(nn.Module):
    """RepLKNet's head: BatchNorm, then pooling, then the classifier; features end before the norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 4, 1), nn.GELU())
        self.norm = nn.BatchNorm2d(12)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(12, 7)

    def forward_features(self, x):
        return self.stem(x)

    def forward(self, x):
        return self.head(torch.flatten(self.pool(self.norm(self.forward_features(x))), 1))


class FunctionalPool(nn.Module):
    """A custom network without forward_features, whose pooling is a function call."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 9, 3, 4, 1), nn.ReLU(inplace=True)
        self.hidden, self.act, self.out = (
            nn.Linear(9, 20),
            nn.SiLU(inplace=True),
            nn.Linear(20, 5, bias=False),
        )

    def forward(self, x):
        return self.out(self.act(self.hidden(self.relu(self.conv(x)).mean((2, 3)))))


class HiddenActivation(nn.Module):
    """Its last feature map is the result of a function call, which no hook captures."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 9, 3, 4, 1), nn.Linear(9, 5)

    def forward(self, x):
        return self.out(self.conv(x).sigmoid().mean((2, 3)))


def gap_fc():
    """The head the paper fine-tunes for ConvNeXt: average pooling and one linear layer."""
    backbone = timm.create_model("test_convnext", num_classes=0, global_pool="")
    backbone.head = nn.Identity()
    return nn.Sequential(
        backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(backbone.num_features, 11)
    )


MODELS = {
    "resnet18": lambda: timm.create_model("resnet18"),
    "mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050"),
    "mobilenetv4, norm with activation in the head": lambda: timm.create_model("mobilenetv4_conv_small_035"),
    "efficientnet": lambda: timm.create_model("efficientnet_b0"),
    "convnext, LayerNorm after pooling": lambda: timm.create_model("convnext_atto"),
    "convnext, norm before pooling": lambda: timm.create_model("convnext_atto", head_norm_first=True),
    "classifier that is a convolution": lambda: timm.create_model("resnetv2_50", layers=(1, 1, 1, 1)),
    "norm before pool": NormBeforePool,
    "gap_fc": gap_fc,
    "custom network, pooled by a function call": FunctionalPool,
}


@pytest.mark.parametrize("name", MODELS)
def test_mean_of_cam_plus_bias_is_the_logit(name):
    model = scramble(MODELS[name]()).eval()
    view = ClassifierView(model)
    images = torch.randn(3, 3, 96, 128)
    with torch.no_grad():
        features, logits = view(images)
        targets = torch.tensor([0, view.num_classes - 1, 2])
        weights, bias = view.class_weights(features, targets)
        sums = cam(features, weights).mean((1, 2)) + bias
    assert features.ndim == 4
    assert min(features.shape[2:]) > 1
    assert torch.equal(logits, model(images))
    wanted = logits[range(3), targets]
    assert (sums - wanted).abs().max() <= 1e-4 * logits.abs().max()
    assert (sums - wanted.flip(0)).abs().max() > 1e-3 * logits.abs().max()  # the right image, the right class


@pytest.mark.parametrize("name", MODELS)
def test_head_reproduces_all_logits(name):
    view = ClassifierView(scramble(MODELS[name]()))
    with torch.no_grad():
        features, logits = view(torch.randn(2, 3, 96, 96))
        assert torch.allclose(view.head(features), logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))


def test_features_are_the_models_own():
    model = scramble(NormBeforePool()).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(ClassifierView(model).features(images), model.forward_features(images))


def test_training_mode_is_restored():
    model = timm.create_model("test_resnet").train()
    model.layer1.eval()
    view = ClassifierView(model)
    view(torch.randn(2, 3, 64, 64))
    assert model.training
    assert model.layer4.training
    assert not model.layer1.training


def test_hooks_are_removed():
    model = timm.create_model("test_resnet").eval()
    ClassifierView(model)(torch.randn(1, 3, 64, 64))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class LogSumExp(nn.Module):
    """Pooling that is no sum over positions."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 9, 3, 4, 1), nn.Linear(9, 5)

    def forward(self, x):
        return self.out(self.conv(x).flatten(2).logsumexp(2))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: timm.create_model("resnet18", num_classes=0), "num_classes=0"),
        (LogSumExp, "logsumexp in its head is no affine function"),
    ],
)
def test_no_class_map_and_the_reason(make, reason):
    view = ClassifierView(make())
    features, _ = view(torch.randn(2, 3, 64, 64))
    assert not view.exact
    with pytest.raises(InputError, match=reason):
        view.contributions(features, torch.tensor([0, 1]))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_resnet", "densenet121"])
def test_in_any_mode_of_gradients(name, mode):
    model = timm.create_model(name, num_classes=4)
    with mode():
        images = torch.randn(2, *model.pretrained_cfg["input_size"])
        found = class_maps(model, images, torch.tensor([3, 1]))
        logit = found.logits[[0, 1], [3, 1]]
    torch.testing.assert_close(found.maps.mean((1, 2)) + found.bias, logit, rtol=1e-4, atol=1e-4)
    assert not found.maps.requires_grad
    assert all(value.grad is None for value in model.parameters())


def test_recordings_are_freed_with_their_features():
    view = ClassifierView(LogSumExp())
    features, logits = view(torch.randn(2, 3, 64, 64))
    assert len(view._sources) == 1
    del features, logits
    gc.collect()
    assert len(view._sources) == 0


def test_no_logits():
    with pytest.raises(InputError, match="of shape"):
        ClassifierView(nn.Sequential(nn.Conv2d(3, 4, 3)))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: timm.create_model("test_vit"), "patch tokens"),
        (lambda: timm.create_model("resnet18", global_pool="max"), "positional weights"),
        (
            lambda: nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
            ),
            "positional weights",
        ),
        (HiddenActivation, "class weights"),
        (lambda: timm.create_model("test_resnet").bfloat16(), "class weights"),
    ],
)
def test_heads_that_are_no_chain_of_modules_on_the_mean(make, kind):
    model = make().eval()
    images = torch.randn(2, 3, *input_size(model)[1:]).to(next(model.parameters()).dtype)
    found = class_maps(model, images, [1, 0])
    assert found.kind == kind
    assert found.exact == (kind != "patch tokens")
    wanted = model(images).float()
    torch.testing.assert_close(found.logits, wanted, rtol=0.05, atol=0.02 * float(wanted.abs().max()))
    logit = found.logits[[0, 1], [1, 0]]
    torch.testing.assert_close(found.maps.mean((1, 2)) + found.bias, logit, rtol=1e-4, atol=1e-4)


def test_ignoring_the_norm_gives_the_raw_row():
    model = scramble(timm.create_model("convnext_atto", num_classes=6)).eval()
    view = ClassifierView(model)
    features = view.features(torch.randn(2, 3, 64, 64))
    weights, bias = view.class_weights(features, torch.tensor([4, 1]), norm="ignore")
    assert torch.equal(weights, model.head.fc.weight[[4, 1]])
    assert torch.equal(bias, model.head.fc.bias[[4, 1]])


def test_ignoring_the_norm_needs_matching_channels():
    view = ClassifierView(FunctionalPool())
    features = view.features(torch.randn(1, 3, 64, 64))
    with pytest.raises(InputError, match="hidden layer"):
        view.class_weights(features, torch.tensor([0]), norm="ignore")


@pytest.mark.parametrize("target", [-1, 7])
def test_target_out_of_range(target):
    view = ClassifierView(NormBeforePool())
    features = view.features(torch.randn(1, 3, 64, 64))
    with pytest.raises(InputError, match=rf"class {target} is out of range.*0 to 6"):
        view.class_weights(features, torch.tensor([target]))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.sampled_from(["linear", "batchnorm", "layernorm", "relu", "hardswish", "sigmoid"]), max_size=5
    )
)
def test_any_chain_of_foldable_steps(kinds):
    steps = []
    for kind in kinds:
        steps.append(
            {
                "linear": lambda: nn.Linear(8, 8),
                "batchnorm": lambda: nn.BatchNorm1d(8),
                "layernorm": lambda: nn.LayerNorm(8),
                "relu": nn.ReLU,
                "hardswish": lambda: nn.Hardswish(inplace=True),
                "sigmoid": nn.Sigmoid,
            }[kind]()
        )
    body = (nn.Conv2d(3, 8, 3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    view = ClassifierView(scramble(nn.Sequential(*body, *steps, nn.Linear(8, 4))))
    with torch.no_grad():
        features, logits = view(torch.randn(5, 3, 32, 32))
        targets = logits.argmax(1)
        weights, bias = view.class_weights(features, targets)
        sums = cam(features, weights).mean((1, 2)) + bias
    assert torch.allclose(sums, logits.max(1).values, rtol=1e-3, atol=1e-5)
