"""Class maps of the heads that people write: each beside the same map computed by hand.

Networks are small and differ in how logits are read from the last map. Where a test has no map by hand, the
sum is checked, and that one weight per channel makes the map.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import heatbox
from heatbox.errors import InputError
from heatbox.models.introspect import ClassifierView
from helpers.map_oracles import difference
from helpers.random_weights import scrambled, structured_images
from helpers.sweep import check_maps
from helpers.unchanged import assert_unchanged, logits_of, snapshot

SIZE = (3, 40, 56)
CHANNELS, CLASSES = 12, 5
POSITIONS = 10 * 14
Rule = Callable[["Net", Tensor], Any]
Oracle = Callable[[Any, Tensor, Tensor], Tensor | tuple[Tensor, ...]]
"""Model, images and targets → maps; several where constants may belong to positions or to the bias."""


def trunk(channels: int = CHANNELS, inplace: bool = False) -> nn.Sequential:
    """(B, 3, H, W) → (B, channels, H / 4, W / 4), not negative."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(inplace),
        nn.Conv2d(8, channels, 3, 2, 1),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace),
    )


class Net(nn.Module):
    """A trunk, further modules, and a rule that reads the output from the trunk's map."""

    def __init__(self, rule: Rule, trunk: nn.Module | None = None, **parts: nn.Module) -> None:
        super().__init__()
        self.trunk = globals()["trunk"]() if trunk is None else trunk
        for name, part in parts.items():
            self.add_module(name, part)
        self.rule = rule

    def forward(self, x: Tensor) -> Any:
        return self.rule(self, self.trunk(x))


def linear(inputs: int = CHANNELS, outputs: int = CLASSES, bias: bool = True) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias)


def images(number: int = 2) -> Tensor:
    return structured_images(SIZE, number, 11)


def ready(model: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return scrambled(model, SIZE, seed)


def features(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.trunk(x)


def weighted(values: Tensor, weights: Tensor) -> Tensor:
    """Maps (B, h, w) of features (B, C, h, w) and weights (B, C)."""
    return torch.einsum("bchw,bc->bhw", values, weights)


def check(
    model: nn.Module,
    oracle: Oracle | None = None,
    *,
    logits: Callable[[Any, Tensor], Tensor] | None = None,
    targets: Tensor | None = None,
    x: Tensor | None = None,
) -> Any:
    """The class maps of a model, exact, equal to the oracle's, and the model as it was."""
    x = images() if x is None else x
    for number, module in enumerate(model.modules()):
        module.training = number % 3 == 0
    before = snapshot(model, x)
    found = heatbox.class_maps(model, x, targets)
    assert_unchanged(before, model, x)
    model.eval()
    with torch.no_grad():
        own = logits_of(model(x)) if logits is None else logits(model, x)
        own = own[:, None] if own.ndim == 1 else own
        targets = own.argmax(1) if targets is None else targets
        assert check_maps(found, own, targets) == []
        assert found.exact, found.kind
        if oracle is not None:
            maps = oracle(model, x, targets)
            maps = maps if isinstance(maps, tuple) else (maps,)
            assert found.maps.shape in {one.shape for one in maps}
            assert min(difference(found.maps, one) for one in maps) < 1e-3
    return found


def check_both(model: nn.Module, oracle: Oracle | None = None, **more: Any) -> None:
    """`check` with the predicted classes and with chosen ones."""
    check(model, oracle, **more)
    check(model, oracle, targets=torch.tensor([3, 0]), **more)


def one_weight_per_channel(maps: Tensor, values: Tensor) -> bool:
    """Whether each map is a weighted sum of the channels and a constant, as for every head on a mean."""
    ones = torch.ones(len(values), 1, values[0, 0].numel())
    columns = torch.cat([values.flatten(2), ones], 1).mT.double()
    wanted = maps.flatten(1)[..., None].double()
    fitted = columns @ torch.linalg.lstsq(columns, wanted, driver="gelsd").solution
    return bool((fitted - wanted).abs().max() < 1e-3 * (wanted - wanted.mean(1, keepdim=True)).abs().max())


def refusal(model: nn.Module, x: Tensor | None = None) -> str:
    """The sentence with which a model is refused, unchanged."""
    x = images() if x is None else x
    before = snapshot(model)
    with pytest.raises(InputError) as caught:
        heatbox.class_maps(model, x)
    assert_unchanged(before, model)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert len(sentence) < 400
    for guess in ("num_classes=0", "class activation maps need a convolution"):
        assert guess not in sentence
    return sentence


def exact_or_refused(model: nn.Module, oracle: Oracle | None = None) -> str:
    """Either way is right, a wrong map is not; returns the refusal."""
    try:
        found = heatbox.class_maps(model, images())
    except InputError:
        return refusal(model)
    if found.exact:
        check(model, oracle)
    return ""


# A mean of the map, then a linear layer: however the mean is written.


def gap(net: Any, x: Tensor, targets: Tensor) -> Tensor:
    """By hand: the weights of the class times the features."""
    return weighted(features(net, x), net.fc.weight[targets])


MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean((2, 3))": lambda f: f.mean((2, 3)),
    "mean([-2, -1])": lambda f: f.mean([-2, -1]),
    "mean(-1).mean(-1)": lambda f: f.mean(-1).mean(-1),
    "mean(2).mean(2)": lambda f: f.mean(2).mean(2),
    "mean(dim, keepdim)": lambda f: f.mean(dim=(2, 3), keepdim=True).flatten(1),
    "torch.mean": lambda f: torch.mean(f, (2, 3)),
    "sum over N": lambda f: f.sum((2, 3)) / (f.shape[2] * f.shape[3]),
    "sum times 1 / N": lambda f: f.sum((2, 3)).mul(1 / f[0, 0].numel()),
    "adaptive_avg_pool2d": lambda f: F.adaptive_avg_pool2d(f, 1).flatten(1),
    "adaptive_avg_pool2d (1, 1), squeezed": lambda f: (
        F.adaptive_avg_pool2d(f, (1, 1)).squeeze(-1).squeeze(-1)
    ),
    "avg_pool2d of the whole": lambda f: F.avg_pool2d(f, f.shape[-2:]).flatten(1),
    "avg_pool2d, view": lambda f: F.avg_pool2d(f, f.size()[2:]).view(f.size(0), -1),
    "flatten(2).mean(-1)": lambda f: f.flatten(2).mean(-1),
    "flatten(2).transpose(1, 2).mean(1)": lambda f: f.flatten(2).transpose(1, 2).mean(1),
    "view(B, C, -1).mean(2)": lambda f: f.view(*f.shape[:2], -1).mean(2),
    "reshape, sum / N": lambda f: f.reshape(*f.shape[:2], -1).sum(-1) / f[0, 0].numel(),
    "permute to NHWC, mean((1, 2))": lambda f: f.permute(0, 2, 3, 1).mean((1, 2)),
    "rearranged, reduced": lambda f: f.permute(0, 2, 3, 1).reshape(len(f), -1, f.shape[1]).mean(dim=1),
    "adaptive_avg_pool1d": lambda f: F.adaptive_avg_pool1d(f.flatten(2), 1).flatten(1),
    "einsum": lambda f: torch.einsum("bchw->bc", f) / (f.shape[2] * f.shape[3]),
    "matmul with constant weights": lambda f: (
        f.flatten(2) @ torch.full((f.shape[2] * f.shape[3], 1), 1 / (f.shape[2] * f.shape[3]))
    ).squeeze(-1),
    "avg_pool2d, then mean": lambda f: F.avg_pool2d(f, 2).mean((2, 3)),
}


@pytest.mark.parametrize("name", MEANS)
def test_mean_written_in_every_way(name):
    model = ready(Net(lambda net, f: net.fc(MEANS[name](f)), fc=linear()))
    if name == "avg_pool2d, then mean":
        found = check(model)  # at one of the two resolutions
        assert found.maps.shape[1:] in {(10, 14), (5, 7)}
    else:
        check_both(model, gap)


@pytest.mark.parametrize(
    "module", [nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1)), nn.AvgPool2d((10, 14))]
)
def test_pooling_modules(module):
    parts = {"pool": module, "flat": nn.Flatten(), "drop": nn.Dropout(0.5), "fc": linear()}
    check_both(ready(Net(lambda net, f: net.fc(net.drop(net.flat(net.pool(f)))), **parts)), gap)


class Tokens(nn.Module):
    """The map as tokens behind two that the logits do not read."""

    def __init__(self, prefix: int = 2, norm: bool = True) -> None:
        super().__init__()
        self.trunk, self.fc, self.prefix = trunk(), linear(), prefix
        self.token = nn.Parameter(torch.zeros(1, prefix, CHANNELS))
        self.norm = nn.LayerNorm(CHANNELS) if norm else nn.Identity()

    def tokens(self, x: Tensor) -> Tensor:
        tokens = self.trunk(x).flatten(2).transpose(1, 2)
        return self.norm(torch.cat([self.token.expand(len(x), -1, -1), tokens], 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.tokens(x)[:, self.prefix :].mean(1))


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("norm", [True, False])
def test_mean_of_tokens(prefix, norm):
    def oracle(net, x, targets):
        values = net.tokens(x)[:, prefix:]
        return torch.einsum("bnc,bc->bn", values, net.fc.weight[targets]).unflatten(1, (10, 14))

    check_both(ready(Tokens(prefix, norm)), oracle)


SEQUENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "(B, C, N).mean(-1)": lambda f: f.flatten(2).mean(-1),
    "(B, N, C).mean(1)": lambda f: f.flatten(2).mT.mean(1),
    "AdaptiveAvgPool1d": lambda f: nn.AdaptiveAvgPool1d(1)(f.flatten(2).mT.mT).flatten(1),
    "(B, C, N) normed, AdaptiveAvgPool1d": lambda f: F.adaptive_avg_pool1d(
        F.layer_norm(f.flatten(2).mT, f.shape[1:2]).mT, 1
    ).flatten(1),
}


@pytest.mark.parametrize("channels", [16, 35, 64, 140])
@pytest.mark.parametrize("name", SEQUENCES)
def test_channels_are_not_positions(name, channels):
    """16 and 64 channels could be square maps, 35 one of the images' aspect; 140 is the number of tokens."""

    def oracle(net, x, targets):
        values = features(net, x)
        if "normed" in name:
            values = F.layer_norm(values.permute(0, 2, 3, 1), (channels,)).permute(0, 3, 1, 2)
        return weighted(values, net.fc.weight[targets])

    model = Net(lambda net, f: net.fc(SEQUENCES[name](f)), trunk=trunk(channels), fc=linear(channels))
    check_both(ready(model), oracle)


def test_norm_after_the_mean_of_tokens():
    def rule(net, f):
        return net.fc(net.norm(f.flatten(2).transpose(1, 2).mean(1)))

    check_both(ready(Net(rule, norm=nn.LayerNorm(CHANNELS), fc=linear())), normed)


# Norms and layers between the mean and the logits.


def normed(net: Any, x: Tensor, targets: Tensor) -> Tensor:
    """By hand: gamma, centred weights, over the image's own deviation."""
    values = features(net, x)
    mean = values.mean((2, 3))
    scaled = net.fc.weight[targets] * net.norm.weight
    deviation = (mean.var(1, correction=0, keepdim=True) + net.norm.eps).sqrt()
    return weighted(values, (scaled - scaled.mean(1, keepdim=True)) / deviation)


def normed_by_groups(net: Any, x: Tensor, targets: Tensor) -> Tensor:
    values = features(net, x)
    groups = values.mean((2, 3)).unflatten(1, (net.norm.num_groups, -1))
    scaled = (net.fc.weight[targets] * net.norm.weight).unflatten(1, (net.norm.num_groups, -1))
    deviation = (groups.var(2, correction=0, keepdim=True) + net.norm.eps).sqrt()
    return weighted(values, ((scaled - scaled.mean(2, keepdim=True)) / deviation).flatten(1))


def normed_by_size(net: Any, x: Tensor, targets: Tensor) -> Tensor:
    values = features(net, x)
    size = (values.mean((2, 3)).square().mean(1, keepdim=True) + net.norm.eps).sqrt()
    return weighted(values, net.fc.weight[targets] * net.norm.weight / size)


def normed_by_batch(net: Any, x: Tensor, targets: Tensor) -> Tensor:
    scale = net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()
    return weighted(features(net, x), net.fc.weight[targets] * scale)


class PlainRMS(nn.Module):
    """Root mean square norm written out, as transformers has it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class PlainLayerNorm(nn.Module):
    """LayerNorm written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).pow(2).mean(-1, keepdim=True)
        return self.weight * (x - mean) / torch.sqrt(variance + self.eps) + self.bias


NORMS = {
    "LayerNorm": (lambda: nn.LayerNorm(CHANNELS), normed),
    "LayerNorm written out": (lambda: PlainLayerNorm(CHANNELS), normed),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(CHANNELS), normed_by_batch),
    "GroupNorm": (lambda: nn.GroupNorm(3, CHANNELS), normed_by_groups),
    "GroupNorm of one group": (lambda: nn.GroupNorm(1, CHANNELS), normed_by_groups),
    "RMSNorm": (lambda: nn.RMSNorm(CHANNELS, eps=1e-6), normed_by_size),
    "RMSNorm written out": (lambda: PlainRMS(CHANNELS), normed_by_size),
}


@pytest.mark.parametrize("name", NORMS)
def test_norm_after_the_mean(name):
    build, oracle = NORMS[name]
    model = Net(lambda net, f: net.fc(net.norm(f.mean((2, 3)))), norm=build(), fc=linear())
    check_both(ready(model), oracle)


@pytest.mark.parametrize("name", ["LayerNorm", "BatchNorm1d", "RMSNorm written out"])
def test_norm_and_hidden_layer(name):
    def rule(net, f):
        return net.fc(F.gelu(net.hidden(net.norm(f.mean((2, 3))))))

    model = ready(Net(rule, norm=NORMS[name][0](), hidden=linear(CHANNELS, 9), fc=linear(9)))
    found = check(model)
    assert one_weight_per_channel(found.maps, features(model, images()))


def test_batch_norm_before_the_mean():
    def oracle(net, x, targets):
        return weighted(net.norm(features(net, x)), net.fc.weight[targets])

    rule: Rule = lambda net, f: net.fc(net.norm(f).mean((2, 3)))  # noqa: E731
    check_both(ready(Net(rule, norm=nn.BatchNorm2d(CHANNELS), fc=linear())), oracle)


def test_frozen_batch_norm():
    from torchvision.ops import FrozenBatchNorm2d

    def oracle(net, x, targets):
        return weighted(net.norm(features(net, x)), net.fc.weight[targets])

    model = ready(
        Net(lambda net, f: net.fc(net.norm(f).mean((2, 3))), norm=FrozenBatchNorm2d(CHANNELS), fc=linear())
    )
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    check_both(model, oracle)


@pytest.mark.parametrize("scale", [1.0, 16.0])
def test_cosine_head(scale):
    """Features and rows of length 1, as metric learning has them."""

    def oracle(net, x, targets):
        values = features(net, x)
        length = values.mean((2, 3)).norm(dim=1, keepdim=True)
        return weighted(values, scale * F.normalize(net.fc.weight)[targets] / length)

    def rule(net, f):
        return scale * F.linear(F.normalize(f.mean((2, 3))), F.normalize(net.fc.weight))

    check_both(ready(Net(rule, fc=linear(bias=False))), oracle)


def by_gate(activation: Callable[[Tensor], Tensor]) -> Oracle:
    """By hand: the hidden layer, each unit times (a(z) - a(0)) / z."""

    def oracle(net, x, targets):
        values = features(net, x)
        z = net.hidden(values.mean((2, 3)))
        gate = (activation(z.clone()) - activation(torch.zeros_like(z))) / z
        return weighted(values, (net.fc.weight[targets] * gate) @ net.hidden.weight)

    return oracle


ACTIVATIONS = {
    "ReLU": nn.ReLU,
    "ReLU inplace": lambda: nn.ReLU(inplace=True),
    "ReLU6": nn.ReLU6,
    "LeakyReLU": lambda: nn.LeakyReLU(0.2, inplace=True),
    "PReLU": nn.PReLU,
    "PReLU of channels": lambda: nn.PReLU(9),
    "RReLU": nn.RReLU,
    "ELU": nn.ELU,
    "CELU": lambda: nn.CELU(0.7),
    "SELU": nn.SELU,
    "GELU": nn.GELU,
    "GELU tanh": lambda: nn.GELU("tanh"),
    "SiLU": nn.SiLU,
    "Mish": nn.Mish,
    "Hardswish": nn.Hardswish,
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardtanh": nn.Hardtanh,
    "Tanh": nn.Tanh,
    "Sigmoid": nn.Sigmoid,
    "Softplus": nn.Softplus,
    "Softsign": nn.Softsign,
    "Tanhshrink": nn.Tanhshrink,
    "Softshrink": lambda: nn.Softshrink(0.1),
    "Hardshrink": lambda: nn.Hardshrink(0.1),
    "Threshold": lambda: nn.Threshold(0.1, 0.05),
    "LogSigmoid": nn.LogSigmoid,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_hidden_layer_with_every_activation(name):
    activation = ACTIVATIONS[name]()
    model = Net(
        lambda net, f: net.fc(net.drop(net.act(net.hidden(f.mean((2, 3)))))),
        hidden=linear(CHANNELS, 9),
        act=activation,
        drop=nn.Dropout(0.3),
        fc=linear(9),
    )
    check(ready(model), by_gate(lambda z: activation(z)))


def test_an_activation_of_the_trunk_in_a_hidden_layer():
    body = trunk()
    model = Net(
        lambda net, f: net.fc(net.trunk[-1](net.hidden(f.mean((2, 3))))),
        body,
        hidden=linear(CHANNELS, 40),
        fc=linear(40),
    )
    check_both(ready(model), by_gate(F.relu))


def test_a_head_that_is_chosen_by_the_image():
    def rule(net, f):
        return net.first(f.mean((2, 3))) if f.mean() < 1e3 else net.second(f.mean((2, 3)))

    model = ready(Net(rule, first=linear(), second=linear()))
    view = ClassifierView(model, size=SIZE[1:])
    view(images())
    with pytest.raises(InputError, match="takes another path for these images than for those that its head"):
        view(1e5 * images())
    model = ready(Net(lambda net, f: net.fc(f.mean((2, 3))), fc=linear()))
    view = ClassifierView(model, size=SIZE[1:])
    model.fc = linear()
    with pytest.raises(InputError, match="takes another path"):
        view(images())


def test_one_image_of_many_that_takes_another_path():
    def rule(net, f):
        pooled = f.mean((2, 3))
        return torch.where(pooled.mean(1, keepdim=True) < limit, net.first(pooled), net.second(pooled))

    limit = math.inf
    model = ready(Net(rule, first=linear(), second=linear()))
    with torch.no_grad():
        model.second.weight.copy_(0.6 * model.first.weight)
        model.second.bias.copy_(model.first.bias)
    view = ClassifierView(model, size=SIZE[1:])
    many = images(100)
    limit = view(many)[0].mean((2, 3)).mean(1).max()  # which is not below
    with pytest.raises(InputError, match="takes another path"):
        view(many)


def test_a_last_map_that_not_every_image_has():
    def rule(net, f):
        return net.fc((net.last(f) if f.mean() < 1e3 else f).mean((2, 3)))

    model = ready(Net(rule, last=nn.Conv2d(CHANNELS, CHANNELS, 1), fc=linear()))
    view = ClassifierView(model, size=SIZE[1:])
    view(images())
    with pytest.raises(InputError, match="takes another path"):
        view(1e5 * images())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_near_zero_in_half_precision(dtype):
    model = ready(Net(lambda net, f: net.fc(f.mean((2, 3))), trunk(256), fc=linear(256, 1)))
    many = torch.randn(60, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(many)[:, 0].sort()
        model.fc.bias -= logits.values[30]
    view = ClassifierView(model.to(dtype), size=SIZE[1:])
    for index in logits.indices[20:40]:
        view(many[index : index + 1].to(dtype))


def test_a_network_that_weighs_the_logits_of_another():
    def gates(net, x):
        return net.gate(net.other(x).mean((2, 3))).softmax(1)

    class Mixture(Net):
        def forward(self, x):
            pooled, weights = self.trunk(x).mean((2, 3)), gates(self, x)
            return weights[:, :1] * self.first(pooled) + weights[:, 1:] * self.second(pooled)

    def oracle(net, x, targets):
        rows = torch.stack([net.first.weight[targets], net.second.weight[targets]], 1)  # (B, 2, C)
        return weighted(features(net, x), (gates(net, x)[..., None] * rows).sum(1))

    parts = {"other": trunk(), "gate": linear(CHANNELS, 2), "first": linear(), "second": linear()}
    check_both(ready(Mixture(lambda net, f: f, **parts)), oracle)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "relu_": lambda z: z.relu_(),
    "clamp(min=0)": lambda z: z.clamp(min=0),
    "maximum": lambda z: torch.maximum(z, torch.zeros_like(z)),
    "F.gelu": F.gelu,
    "F.silu": F.silu,
    "tanh": lambda z: z.tanh(),
    "sigmoid": lambda z: torch.sigmoid(z),
    "F.leaky_relu": lambda z: F.leaky_relu(z, 0.1),
    "F.hardswish": F.hardswish,
    "F.softplus": F.softplus,
    "x * sigmoid(x)": lambda z: z * torch.sigmoid(z),
    "x * sigmoid(1.702 x)": lambda z: z * torch.sigmoid(1.702 * z),
    "x * tanh(softplus(x))": lambda z: z * torch.tanh(F.softplus(z)),
    "relu squared": lambda z: F.relu(z).square(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hidden_layer_with_a_function(name):
    function = FUNCTIONS[name]
    model = ready(
        Net(
            lambda net, f: net.fc(function(net.hidden(f.mean((2, 3))))),
            hidden=linear(CHANNELS, 9),
            fc=linear(9),
        )
    )
    check(model, by_gate(function))


def swiglu(net, f):
    value, gate = net.hidden(f.mean((2, 3))).chunk(2, 1)
    return net.fc(value * F.silu(gate))


GATED: dict[str, Rule] = {
    "GLU module": lambda net, f: net.fc(nn.GLU(1)(net.hidden(f.mean((2, 3))))),
    "F.glu": lambda net, f: net.fc(F.glu(net.hidden(f.mean((2, 3))), 1)),
    "SwiGLU": swiglu,
}


@pytest.mark.parametrize("name", GATED)
def test_gated_hidden_layer(name):
    model = ready(Net(GATED[name], hidden=linear(CHANNELS, 16), fc=linear(8)))
    found = check(model)
    assert one_weight_per_channel(found.maps, features(model, images()))


def test_hidden_layer_with_a_shortcut():
    def oracle(net, x, targets):
        rows = net.fc.weight[targets]
        values = features(net, x)
        gate = (net.hidden(values.mean((2, 3))) > 0).float()
        return weighted(values, rows + (rows * gate) @ net.hidden.weight)

    def rule(net, f):
        pooled = f.mean((2, 3))
        return net.fc(pooled + F.relu(net.hidden(pooled)))

    check_both(ready(Net(rule, hidden=linear(CHANNELS, CHANNELS), fc=linear())), oracle)


@pytest.mark.parametrize("drop", [nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_dropout_of_every_kind(drop):
    check_both(ready(Net(lambda net, f: net.fc(net.drop(f.mean((2, 3)))), drop=drop(0.5), fc=linear())), gap)


def test_functional_dropout():
    def rule(net, f):
        return net.fc(F.dropout(F.dropout2d(f, 0.3, net.training).mean((2, 3)), 0.5, net.training))

    check_both(ready(Net(rule, fc=linear())), gap)


# Maps that are class maps already.


def class_map(net: Any, x: Tensor, targets: Tensor) -> Tensor:
    return net.conv(features(net, x))[torch.arange(len(targets)), targets]


FULLY_CONVOLUTIONAL: dict[str, tuple[Rule, Oracle]] = {
    "conv, mean": (lambda net, f: net.conv(f).mean((2, 3)), class_map),
    "conv, pool, flatten": (lambda net, f: F.adaptive_avg_pool2d(net.conv(f), 1).flatten(1), class_map),
    "pool, conv": (lambda net, f: net.conv(f.mean((2, 3), keepdim=True)).flatten(1), class_map),
    "pool, conv, squeezed": (
        lambda net, f: net.conv(F.adaptive_avg_pool2d(f, 1)).squeeze(3).squeeze(2),
        class_map,
    ),
    "conv, relu, mean": (
        lambda net, f: F.relu(net.conv(f)).mean((2, 3)),
        lambda net, x, targets: class_map(net, x, targets).relu(),
    ),
    "conv, gelu, mean, squeezed": (
        lambda net, f: F.gelu(net.conv(f)).mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1),
        lambda net, x, targets: F.gelu(class_map(net, x, targets)),
    ),
    "conv over tokens, mean": (
        lambda net, f: F.linear(f.flatten(2).mT, net.conv.weight.flatten(1), net.conv.bias).mean(1),
        class_map,
    ),
    "conv, mean, temperature": (
        lambda net, f: net.conv(f).mean((2, 3)) / 0.05,
        lambda net, x, targets: class_map(net, x, targets) / 0.05,
    ),
}


@pytest.mark.parametrize("name", FULLY_CONVOLUTIONAL)
def test_class_map_is_there(name):
    rule, oracle = FULLY_CONVOLUTIONAL[name]
    check_both(ready(Net(rule, conv=nn.Conv2d(CHANNELS, CLASSES, 1))), oracle)


# A weight for each position.


def test_flatten_and_linear():
    def oracle(net, x, targets):
        values = features(net, x)
        rows = net.fc.weight[targets].view_as(values)
        return (values * rows).sum(1) * POSITIONS

    check_both(ready(Net(lambda net, f: net.fc(f.flatten(1)), fc=linear(CHANNELS * POSITIONS))), oracle)


def test_flatten_and_three_linear_layers():
    """VGG: two hidden layers with ReLU, gated by the image."""

    def oracle(net, x, targets):
        values = features(net, x)
        first, _, _, second, _, _, last = net.fc
        a = first(values.flatten(1))
        b = second(a.relu())
        rows = (last.weight[targets] * (b > 0)) @ second.weight
        rows = (rows * (a > 0)) @ first.weight
        return (values * rows.view_as(values)).sum(1) * POSITIONS

    layers = nn.Sequential(
        linear(CHANNELS * POSITIONS, 16), nn.ReLU(True), nn.Dropout(),
        linear(16, 16), nn.ReLU(True), nn.Dropout(), linear(16),
    )  # fmt: skip
    check_both(ready(Net(lambda net, f: net.fc(torch.flatten(f, 1)), fc=layers)), oracle)


@pytest.mark.parametrize("size", [(5, 7), (2, 2), (10, 14)])
def test_adaptive_pooling_to_several_positions(size):
    def oracle(net, x, targets):
        values = features(net, x)
        rows = net.fc.weight[targets].view(-1, CHANNELS, *size)
        high, wide = 10 // size[0], 14 // size[1]
        rows = rows.repeat_interleave(high, 2).repeat_interleave(wide, 3) / (high * wide)
        return (values * rows).sum(1) * POSITIONS

    def pooled(net, x, targets):
        values = F.adaptive_avg_pool2d(features(net, x), size)
        return (values * net.fc.weight[targets].view(-1, CHANNELS, *size)).sum(1) * size[0] * size[1]

    model = ready(
        Net(
            lambda net, f: net.fc(net.pool(f).flatten(1)),
            pool=nn.AdaptiveAvgPool2d(size),
            fc=linear(CHANNELS * size[0] * size[1]),
        )
    )
    found = check(model)  # before the pooling or after it
    own = found.maps.shape[1:] == (10, 14)
    check_both(model, oracle if own else pooled)


def test_conv_that_covers_the_map():
    def oracle(net, x, targets):
        return (features(net, x) * net.conv.weight[targets]).sum(1) * POSITIONS

    check_both(
        ready(Net(lambda net, f: net.conv(f).flatten(1), conv=nn.Conv2d(CHANNELS, CLASSES, (10, 14)))), oracle
    )


# Maxima and other poolings.


def at_maximum(values: Tensor) -> Tensor:
    """(B, C, h, w): the value where a channel has its first maximum, 0 elsewhere."""
    flat = values.flatten(2)
    chosen = flat.max(2, keepdim=True)
    return torch.zeros_like(flat).scatter(2, chosen.indices, chosen.values).view_as(values)


def concat_map(order: tuple[str, str]) -> Oracle:
    def oracle(net, x, targets):
        values = features(net, x)
        rows = dict(zip(order, net.fc.weight[targets].split(CHANNELS, 1), strict=True))
        return weighted(values, rows["mean"]) + weighted(at_maximum(values), rows["max"]) * POSITIONS

    return oracle


@pytest.mark.parametrize("order", [("max", "mean"), ("mean", "max")])
def test_mean_and_maximum(order):
    """fastai's concat pooling: the mean part everywhere, the maximum where it is."""

    def rule(net, f):
        parts = {"mean": F.adaptive_avg_pool2d(f, 1), "max": F.adaptive_max_pool2d(f, 1)}
        return net.fc(torch.cat([parts[name] for name in order], 1).flatten(1))

    check_both(ready(Net(rule, trunk=trunk()[:-1], fc=linear(2 * CHANNELS))), concat_map(order))


def test_fastai_head():
    """Concat pooling, BatchNorm1d, hidden layer, ReLU, BatchNorm1d, linear without bias."""

    class ConcatPool(nn.Module):
        def __init__(self):
            super().__init__()
            self.ap, self.mp = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)

        def forward(self, x):
            return torch.cat([self.mp(x), self.ap(x)], 1)

    head = nn.Sequential(
        ConcatPool(), nn.Flatten(), nn.BatchNorm1d(2 * CHANNELS), nn.Dropout(0.25),
        linear(2 * CHANNELS, 9, False), nn.ReLU(True), nn.BatchNorm1d(9), nn.Dropout(0.5),
        linear(9, bias=False),
    )  # fmt: skip

    def scale(norm):
        return norm.weight / (norm.running_var + norm.eps).sqrt()

    def oracle(net, x, targets):
        values = features(net, x)
        _, _, first, _, hidden, _, second, _, last = net.head
        z = hidden(first(torch.cat([values.amax((2, 3)), values.mean((2, 3))], 1)))
        rows = (last.weight[targets] * scale(second) * (z > 0)) @ hidden.weight * scale(first)
        top, mean = rows.split(CHANNELS, 1)
        return weighted(values, mean) + weighted(at_maximum(values), top) * POSITIONS

    check_both(ready(Net(lambda net, f: net.head(f), trunk=trunk()[:-1], head=head)), oracle)


def test_average_of_mean_and_maximum():
    """timm's `avgmax`."""

    def oracle(net, x, targets):
        values, rows = features(net, x), net.fc.weight[targets]
        return weighted(values, rows) / 2 + weighted(at_maximum(values), rows) * POSITIONS / 2

    def rule(net, f):
        return net.fc(0.5 * (f.mean((2, 3)) + f.amax((2, 3))))

    check_both(ready(Net(rule, trunk=trunk()[:-1], fc=linear())), oracle)


def test_maximum_alone():
    def oracle(net, x, targets):
        return weighted(at_maximum(features(net, x)), net.fc.weight[targets]) * POSITIONS

    model = ready(
        Net(lambda net, f: net.fc(F.adaptive_max_pool2d(f, 1).flatten(1)), trunk=trunk()[:-1], fc=linear())
    )
    assert "mean of a" not in exact_or_refused(model, oracle)


def test_mean_of_the_largest():
    def oracle(net, x, targets):
        values = features(net, x).flatten(2)
        top = values.topk(4, 2)
        kept = torch.zeros_like(values).scatter(2, top.indices, top.values).unflatten(2, (10, 14))
        return weighted(kept, net.fc.weight[targets]) * POSITIONS / 4

    exact_or_refused(
        ready(
            Net(
                lambda net, f: net.fc(f.flatten(2).topk(4, 2).values.mean(2)), trunk=trunk()[:-1], fc=linear()
            )
        ),
        oracle,
    )


def test_generalised_mean():
    def oracle(net, x, targets):
        values = features(net, x).clamp(min=1e-6) ** 3
        mean = values.mean((2, 3))
        return weighted(values, net.fc.weight[targets] * mean ** (1 / 3) / mean)

    def rule(net, f):
        return net.fc(f.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3))

    exact_or_refused(ready(Net(rule, fc=linear())), oracle)


def test_log_sum_exp_pooling_is_no_sum_of_positions():
    def rule(net, f):
        return net.fc(f.flatten(2).logsumexp(2))

    sentence = refusal(ready(Net(rule, fc=linear())))
    assert "convolution" not in sentence


def test_bilinear_pooling():
    def rule(net, f):
        flat = f.flatten(2)
        return net.fc(F.normalize((flat @ flat.mT / flat.shape[2]).flatten(1)))

    exact_or_refused(ready(Net(rule, fc=linear(CHANNELS**2))))


def test_attention_pooling():
    def oracle(net, x, targets):
        values = features(net, x)
        attention = net.score(values).flatten(1).softmax(1).view(-1, 1, 10, 14)
        return weighted(attention * values, net.fc.weight[targets]) * POSITIONS

    def rule(net, f):
        attention = net.score(f).flatten(2).softmax(2)
        return net.fc((attention * f.flatten(2)).sum(2))

    check_both(ready(Net(rule, score=nn.Conv2d(CHANNELS, 1, 1), fc=linear())), oracle)


def test_attention_pooling_by_a_learned_query():
    """SigLIP: a probe attends to the tokens; behind it a shortcut around a norm and a hidden layer."""

    def parts(net, x):
        tokens = features(net, x).flatten(2).mT
        mha, width = net.attention, CHANNELS // 2
        query, key, value = (
            F.linear(one, weight, bias).unflatten(2, (2, width)).transpose(1, 2)
            for one, weight, bias in zip(
                (net.probe.weight[None].expand(len(x), -1, -1), tokens, tokens),
                mha.in_proj_weight.chunk(3),
                mha.in_proj_bias.chunk(3),
                strict=True,
            )
        )
        attention = (query @ key.mT * width**-0.5).softmax(-1)  # (B, heads, 1, N)
        return attention, value

    def oracle(net, x, targets):
        attention, value = parts(net, x)
        matrix, rows = net.attention.out_proj.weight, net.fc.weight[targets]
        parted = (attention.mT * value).transpose(1, 2).flatten(2)  # (B, N, C): what each position adds
        shift = net.attention.in_proj_bias.chunk(3)[2].view(1, 2, 1, -1)
        linear_part = (attention.mT * (value - shift)).transpose(1, 2).flatten(2)
        pooled = parted.sum(1) @ matrix.T + net.attention.out_proj.bias
        deviation = (pooled.var(1, correction=0, keepdim=True) + net.norm.eps).sqrt()
        z = net.first(net.norm(pooled))
        inner = (((rows @ net.second.weight) * F.gelu(z) / z) @ net.first.weight) * net.norm.weight
        rows = rows + (inner - inner.mean(1, keepdim=True)) / deviation
        return tuple(
            torch.einsum("bnc,bc->bn", one, rows @ matrix).unflatten(1, (10, 14)) * POSITIONS
            for one in (parted, linear_part)
        )

    def rule(net, f):
        tokens = f.flatten(2).mT
        probe = net.probe.weight[None].expand(len(f), -1, -1)
        pooled = net.attention(probe, tokens, tokens)[0]
        pooled = pooled + net.second(F.gelu(net.first(net.norm(pooled))))
        return net.fc(pooled[:, 0])

    model = Net(
        rule,
        probe=nn.Embedding(1, CHANNELS),
        attention=nn.MultiheadAttention(CHANNELS, 2, batch_first=True),
        norm=nn.LayerNorm(CHANNELS),
        first=linear(CHANNELS, 20),
        second=linear(20, CHANNELS),
        fc=linear(),
    )
    check_both(ready(model), oracle)


def test_attention_pooling_by_the_mean():
    """CLIP's ResNets: the mean token asks, all tokens with their positions answer."""

    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(torch.randn(POSITIONS + 1, CHANNELS))
            self.q, self.k, self.v = (linear(CHANNELS, CHANNELS) for _ in range(3))

        def attention(self, tokens):
            scores = self.q(tokens[:, :1]) @ self.k(tokens).mT * CHANNELS**-0.5
            return scores.softmax(-1)

        def tokens(self, f):
            tokens = f.flatten(2).mT
            return torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + self.position

        def forward(self, f):
            tokens = self.tokens(f)
            return (self.attention(tokens) @ self.v(tokens))[:, 0]

    def oracle(net, x, targets):
        values = features(net, x)
        attention = net.pool.attention(net.pool.tokens(values))[:, 0]
        shares = attention[:, 1:] + attention[:, :1] / POSITIONS  # the mean token is every position's
        rows = net.fc.weight[targets] @ net.pool.v.weight
        alone = weighted(values, rows) * shares.unflatten(1, (10, 14)) * POSITIONS
        shift = net.fc.weight[targets] @ net.pool.v.bias
        constants = attention[:, 1:] * (net.pool.position[1:] @ rows.mT + shift).mT
        return alone, alone + constants.unflatten(1, (10, 14)) * POSITIONS

    check_both(ready(Net(lambda net, f: net.fc(net.pool(f)), pool=Pool(), fc=linear())), oracle)


def test_gates_after_the_last_map():
    """Squeeze and excitation between the trunk and the mean: the map is the gated one."""

    def gated(net, f):
        gate = net.up(F.relu(net.down(f.mean((2, 3))))).sigmoid()
        return f * gate[:, :, None, None]

    def oracle(net, x, targets):
        return weighted(gated(net, features(net, x)), net.fc.weight[targets])

    model = Net(
        lambda net, f: net.fc(gated(net, f).mean((2, 3))),
        down=linear(CHANNELS, 4),
        up=linear(4, CHANNELS),
        fc=linear(),
    )
    check_both(ready(model), oracle)


# Several heads, networks, passes.


class Two(nn.Module):
    """Two networks and a rule for their outputs."""

    def __init__(self, rule: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b = (Net(lambda net, f: net.fc(f.mean((2, 3))), fc=linear()) for _ in range(2))
        self.rule = rule

    def forward(self, x: Tensor) -> Any:
        return self.rule(self.a(x), self.b(x))


ENSEMBLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda a, b: (a + b) / 2,
    "sum": lambda a, b: a + b,
    "stacked": lambda a, b: torch.stack([a, b]).mean(0),
    "weighted": lambda a, b: 0.3 * a + 0.7 * b,
    "difference": lambda a, b: a - b,
}
SHARES = {
    "mean": (0.5, 0.5),
    "sum": (1, 1),
    "stacked": (0.5, 0.5),
    "weighted": (0.3, 0.7),
    "difference": (1, -1),
}


@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensemble_of_two_networks(name):
    first, second = SHARES[name]

    def oracle(model, x, targets):
        return first * gap(model.a, x, targets) + second * gap(model.b, x, targets)

    check_both(ready(Two(ENSEMBLES[name])), oracle)


def test_mean_of_probabilities_is_no_sum_of_positions():
    model = ready(Two(lambda a, b: (a.softmax(1) + b.softmax(1)) / 2))
    try:
        found = heatbox.class_maps(model, images())
    except InputError:
        refusal(model)
        return
    assert not found.exact


@pytest.mark.parametrize("written", ["added", "stacked", "in one batch"])
def test_flipped_passes(written):
    """The map of the flipped pass is flipped back: positions are those of the image."""

    def passes(net, x):
        if written == "in one batch":
            return net(torch.cat([x, x.flip(3)])).view(2, len(x), -1).mean(0)
        if written == "stacked":
            return torch.stack([net(x), net(x.flip(-1))], 1).mean(1)
        return (net(x) + net(torch.flip(x, [3]))) / 2

    class Flipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net(lambda net, f: net.fc(f.mean((2, 3))), fc=linear())

        def forward(self, x):
            return passes(self.net, x)

    def oracle(model, x, targets):
        return (gap(model.net, x, targets) + gap(model.net, x.flip(3), targets).flip(2)) / 2

    model = ready(Flipped())
    if written == "in one batch":
        exact_or_refused(model, oracle)
    else:
        check_both(model, oracle)


def test_two_linear_heads_averaged():
    """LeViT, EfficientFormer: the mean of two heads, each with its own norm."""

    def scale(norm):
        return norm.weight / (norm.running_var + norm.eps).sqrt()

    def oracle(net, x, targets):
        rows = net.fa.weight[targets] * scale(net.na) + net.fb.weight[targets] * scale(net.nb)
        return weighted(features(net, x), rows / 2)

    def rule(net, f):
        pooled = f.mean((2, 3))
        return (net.fa(net.na(pooled)) + net.fb(net.nb(pooled))) / 2

    norms = {name: nn.BatchNorm1d(CHANNELS) for name in ("na", "nb")}
    check_both(ready(Net(rule, **norms, fa=linear(), fb=linear())), oracle)


def test_heads_at_two_depths_added():
    """One head reads the middle of the trunk at another resolution."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, CHANNELS, 3, 2, 1)
            self.fa, self.fb = linear(8), linear()

        def forward(self, x):
            a = F.relu(self.first(x))
            b = F.relu(self.second(a))
            return self.fa(a.mean((2, 3))) + self.fb(b.mean((2, 3)))

    exact_or_refused(ready(Deep()))


# Outputs.


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor | None = None


class Named(dict):
    """Keys as attributes, as transformers has them."""

    __getattr__ = dict.get


CONTAINERS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda logits, pooled: (logits,),
    "logits and map": lambda logits, f: (logits, f),
    "map and logits": lambda logits, f: (f, logits),
    "list": lambda logits, f: [logits],
    "dictionary": lambda logits, f: {"logits": logits, "features": f.mean((2, 3))},
    "dictionary of one": lambda logits, f: {"out": logits},
    "dataclass": lambda logits, f: Output(logits, f),
    "mapping with attributes": lambda logits, f: Named(logits=logits, hidden_states=f),
    "nested": lambda logits, f: {"outputs": (logits, None), "map": f},
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_logits_in_a_container(name):
    model = ready(Net(lambda net, f: CONTAINERS[name](net.fc(f.mean((2, 3))), f), fc=linear()))
    check_both(model, gap, logits=lambda net, x: net.fc(features(net, x).mean((2, 3))))


def test_two_logits_in_a_tuple_are_not_guessed():
    def rule(net, f):
        pooled = f.mean((2, 3))
        return net.fc(pooled), net.other(pooled)

    sentence = refusal(ready(Net(rule, fc=linear(), other=linear(CHANNELS, 4))))
    assert "several" in sentence
    assert "(2, 4)" in sentence or "4)" in sentence


LAST: dict[str, Rule] = {
    "Sigmoid": lambda net, f: nn.Sigmoid()(net.fc(f.mean((2, 3)))),
    "torch.sigmoid": lambda net, f: torch.sigmoid(net.fc(f.mean((2, 3)))),
    "Softmax": lambda net, f: nn.Softmax(1)(net.fc(f.mean((2, 3)))),
    "softmax(-1)": lambda net, f: net.fc(f.mean((2, 3))).softmax(-1),
    "F.softmax": lambda net, f: F.softmax(net.fc(f.mean((2, 3))), dim=1),
    "log_softmax": lambda net, f: F.log_softmax(net.fc(f.mean((2, 3))), dim=1),
    "Sigmoid, named": lambda net, f: {"probabilities": net.fc(f.mean((2, 3))).sigmoid()},
}


@pytest.mark.parametrize("name", LAST)
def test_last_activation_is_stepped_over(name):
    model = ready(Net(LAST[name], fc=linear()))
    check_both(model, gap, logits=lambda net, x: net.fc(features(net, x).mean((2, 3))))


@pytest.mark.parametrize("last", [nn.Sigmoid, lambda: nn.Softmax(1), lambda: nn.LogSoftmax(1)])
def test_last_activation_as_a_module(last):
    net = Net(lambda net, f: net.fc(f.mean((2, 3))), fc=linear())

    def oracle(model, x, targets):
        return gap(model[0], x, targets)

    check_both(ready(nn.Sequential(net, last())), oracle, logits=lambda model, x: model[0](x))


@pytest.mark.parametrize("temperature", [0.07, 20.0])
def test_temperature(temperature):
    def oracle(net, x, targets):
        return gap(net, x, targets) / temperature

    check_both(ready(Net(lambda net, f: net.fc(f.mean((2, 3))) / temperature, fc=linear())), oracle)


def test_softmax_of_temperature():
    def rule(net, f):
        return (net.fc(f.mean((2, 3))) / 3).softmax(1)

    def oracle(net, x, targets):
        return gap(net, x, targets) / 3

    check_both(
        ready(Net(rule, fc=linear())), oracle, logits=lambda net, x: net.fc(features(net, x).mean((2, 3))) / 3
    )


COPIES: dict[str, Callable[[Tensor], Tensor]] = {
    "clone": lambda y: y.clone(),
    "plus 0": lambda y: y + 0,
    "contiguous view": lambda y: y.view(len(y), 1, -1)[:, 0],
    "float()": lambda y: y.float(),
    "doubled, half": lambda y: torch.cat([y, y], 1)[:, :CLASSES],
    "other order": lambda y: y.flip(1).flip(1),
}


@pytest.mark.parametrize("name", COPIES)
def test_logits_are_copied(name):
    check_both(ready(Net(lambda net, f: COPIES[name](net.fc(f.mean((2, 3)))), fc=linear())), gap)


def test_classes_in_another_order():
    order = torch.tensor([4, 2, 0, 1, 3])

    def oracle(net, x, targets):
        return gap(net, x, order[targets])

    check_both(ready(Net(lambda net, f: net.fc(f.mean((2, 3)))[:, order], fc=linear())), oracle)


@pytest.mark.parametrize("squeezed", [False, True])
@pytest.mark.parametrize("last", ["none", "sigmoid"])
def test_one_output(squeezed, last):
    def rule(net, f):
        y = net.fc(f.mean((2, 3)))
        y = y.squeeze(1) if squeezed else y
        return y.sigmoid() if last == "sigmoid" else y

    model = ready(Net(rule, fc=linear(CHANNELS, 1)))
    check(model, gap, logits=lambda net, x: net.fc(features(net, x).mean((2, 3))))


# Which of several heads gives the logits.


class Colours(nn.Module):
    """Two heads on one trunk; one is returned, the order of calls says nothing."""

    def __init__(self, returned: str, first: str) -> None:
        super().__init__()
        self.trunk, self.colour, self.shape = trunk(), linear(), linear()
        self.returned, self.first = returned, first

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.trunk(x).mean((2, 3))
        order = sorted(("colour", "shape"), key=lambda name: name != self.first)
        outputs = {name: getattr(self, name)(pooled) for name in order}
        return outputs[self.returned]


@pytest.mark.parametrize("returned", ["colour", "shape"])
@pytest.mark.parametrize("first", ["colour", "shape"])
def test_head_that_is_returned(returned, first):
    def oracle(net, x, targets):
        return weighted(features(net, x), getattr(net, returned).weight[targets])

    check_both(ready(Colours(returned, first)), oracle)


def test_head_that_is_never_called():
    check_both(ready(Net(lambda net, f: net.fc(f.mean((2, 3))), fc=linear(), unused=linear())), gap)


def test_auxiliary_head_is_computed_last():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.further, self.fc = trunk(), nn.Conv2d(CHANNELS, 6, 3, 2, 1), linear()
            self.auxiliary = linear(6)

        def forward(self, x):
            f = self.trunk(x)
            logits = self.fc(f.mean((2, 3)))
            self.auxiliary(self.further(f).relu().mean((2, 3)))
            return logits

    check_both(ready(Auxiliary()), gap)


def test_decoy_of_the_same_shape_as_the_map():
    """A second map of the same size, pooled by the same module, that the logits do not read."""

    class Decoy(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.other, self.pool, self.fc = trunk(), trunk(), nn.AdaptiveAvgPool2d(1), linear()

        def forward(self, x):
            pooled = self.pool(self.trunk(x)).flatten(1)
            logits = self.fc(pooled)
            self.pool(self.other(x))
            return logits

    check_both(ready(Decoy()), gap)


# How weights and calls are written.


def with_weight_norm(layer: nn.Linear) -> nn.Linear:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


class LowRank(nn.Module):
    """W x + B A x."""

    def __init__(self, layer: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.layer = layer
        self.a = nn.Linear(layer.in_features, rank, bias=False)
        self.b = nn.Linear(rank, layer.out_features, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.layer.weight + self.b.weight @ self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.b(self.a(x)) * 1.0


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def parametrized() -> nn.Module:
    layer = linear()
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


WEIGHTS: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": lambda: with_weight_norm(linear()),
    "weight_norm, parametrized": lambda: parametrizations.weight_norm(linear()),
    "spectral_norm": lambda: parametrizations.spectral_norm(linear()),
    "own parametrization": parametrized,
    "low rank": lambda: LowRank(linear()),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_computed(name):
    def oracle(net, x, targets):
        return weighted(features(net, x), net.fc.weight[targets])

    check_both(ready(Net(lambda net, f: net.fc(f.mean((2, 3))), fc=WEIGHTS[name]())), oracle)


def test_weight_that_is_a_parameter():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.rows = trunk(), nn.Parameter(torch.randn(CHANNELS, CLASSES))

        def forward(self, x):
            return self.trunk(x).mean((2, 3)) @ self.rows

    check_both(ready(Plain()), lambda net, x, targets: weighted(features(net, x), net.rows.T[targets]))


def test_activations_in_place():
    check_both(ready(Net(lambda net, f: net.fc(f.mean((2, 3))), trunk=trunk(inplace=True), fc=linear())), gap)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_forward(reentrant):
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.fc = trunk(), linear()

        def forward(self, x):
            return self.fc(checkpoint(self.trunk, x, use_reentrant=reentrant).mean((2, 3)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_both(ready(Checkpointed()), gap)


class Nhwc(nn.Module):
    """A trunk whose maps are (B, H, W, C)."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.trunk = trunk()
        self.norm = nn.LayerNorm(CHANNELS) if norm else nn.Identity()
        self.fc = linear()

    def map(self, x: Tensor) -> Tensor:
        return self.norm(self.trunk(x).permute(0, 2, 3, 1).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.map(x).mean((1, 2)))


@pytest.mark.parametrize("norm", [False, True])
def test_channels_last_maps(norm):
    def oracle(net, x, targets):
        return weighted(net.map(x).permute(0, 3, 1, 2), net.fc.weight[targets])

    check_both(ready(Nhwc(norm)), oracle)


def test_square_map_with_as_many_channels_as_columns():
    """(B, H, W, C) and (B, C, H, W) of the same shape: the layout is found by value, not by sizes."""

    class Square(nn.Module):
        def __init__(self, last):
            super().__init__()
            self.trunk, self.fc, self.last = trunk(), linear(), last

        def forward(self, x):
            f = self.trunk(x)
            return self.fc(f.permute(0, 2, 3, 1).mean((1, 2)) if self.last else f.mean((2, 3)))

    x = structured_images((3, 4 * CHANNELS, 4 * CHANNELS), 2, 3)
    for last in (False, True):
        check(ready(Square(last)), gap, x=x)


def test_channels_last_memory():
    model = ready(Net(lambda net, f: net.fc(f.mean((2, 3))), fc=linear())).to(
        memory_format=torch.channels_last
    )
    check_both(model, gap, x=images().to(memory_format=torch.channels_last))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3), (torch.float64, 1e-4)]
)
def test_other_precision(dtype, tolerance):
    model = ready(Net(lambda net, f: net.fc(f.mean((2, 3))), fc=linear()))
    with torch.no_grad():
        logits, targets = model(images()), torch.tensor([2, 1])
        wanted = gap(model, images(), targets)
    model = model.to(dtype)
    before = snapshot(model)
    found = heatbox.class_maps(model, images().to(dtype), targets)
    assert_unchanged(before, model)
    scale = logits.abs().max()
    own = logits[[0, 1], targets]
    assert found.exact
    assert found.maps.dtype == torch.float32
    assert (found.maps.mean((1, 2)) + found.bias - own).abs().max() < tolerance * scale
    assert difference(found.maps, wanted) < tolerance


# Wrappers.


class Normalize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.3])[:, None, None])
        self.register_buffer("deviation", torch.tensor([0.2, 0.3, 0.25])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


def bare() -> Net:
    return Net(lambda net, f: net.fc(f.mean((2, 3))), fc=linear())


WRAPPERS: dict[str, tuple[Callable[[nn.Module], nn.Module], Callable[[Any], nn.Module]]] = {
    "DataParallel": (nn.DataParallel, lambda model: model.module),
    "AveragedModel": (lambda net: torch.optim.swa_utils.AveragedModel(net), lambda model: model.module),
    "compiled": (lambda net: torch.compile(net, backend="eager"), lambda model: model._orig_mod),
    "Sequential of one": (nn.Sequential, lambda model: model[0]),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapped(name):
    wrap, inner = WRAPPERS[name]
    model = wrap(ready(bare()))
    found = heatbox.class_maps(model, images())
    with torch.no_grad():
        assert difference(found.maps, gap(inner(model), images(), found.targets)) < 1e-3
        assert check_maps(found, inner(model).eval()(images()), found.targets) == []


def test_normalize_before_the_network():
    def oracle(model, x, targets):
        return gap(model[1], model[0](x), targets)

    check_both(ready(nn.Sequential(Normalize(), bare())), oracle)


# Class tokens: no exact map, and it says so.


def tiny_vit(**more: Any) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(64, 16, num_classes=CLASSES, embed_dim=24, depth=2, num_heads=2, **more)


SQUARE = (3, 64, 64)


@pytest.mark.parametrize("more", [{}, {"reg_tokens": 2}, {"qk_norm": True}])
def test_class_token_is_no_exact_map(more):
    torch.manual_seed(0)
    model, x = scrambled(tiny_vit(**more), SQUARE), structured_images(SQUARE)
    before = snapshot(model, x)
    found = heatbox.class_maps(model, x)
    assert_unchanged(before, model, x)
    assert found.exact is False
    assert found.kind
    assert found.maps.shape == (2, 4, 4)
    assert check_maps(found, model(x).detach(), found.targets) == []


@pytest.mark.parametrize(
    "more", [{"class_token": False}, {"reg_tokens": 3}, {"final_norm": True}, {"fc_norm": True}]
)
def test_vit_that_averages_its_patches(more):
    torch.manual_seed(0)
    model, x = scrambled(tiny_vit(global_pool="avg", **more), SQUARE), structured_images(SQUARE)

    def oracle(net, x, targets):
        tokens = net.forward_features(x)[:, net.num_prefix_tokens :]
        rows = net.head.weight[targets]
        if isinstance(net.fc_norm, nn.LayerNorm):
            mean = tokens.mean(1)
            rows = rows * net.fc_norm.weight
            rows = (rows - rows.mean(1, keepdim=True)) / (
                mean.var(1, correction=0, keepdim=True) + 1e-6
            ).sqrt()
        return torch.einsum("bnc,bc->bn", tokens, rows).unflatten(1, (4, 4))

    check(model, oracle, x=x)


class Patches(nn.Module):
    """A transformer that cuts its patches by reshaping, not by a convolution."""

    def __init__(self, prefix: int = 0) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(3 * 64, 24), nn.LayerNorm(24)
        self.token = nn.Parameter(torch.zeros(1, prefix, 24))
        layer = nn.TransformerEncoderLayer(24, 2, 48, batch_first=True)
        self.layers, self.fc, self.prefix = nn.TransformerEncoder(layer, 2), linear(24), prefix

    def tokens(self, x: Tensor) -> Tensor:
        patches = x.unflatten(2, (-1, 8)).unflatten(4, (-1, 8))  # (B, C, h, 8, w, 8)
        tokens = self.embed(patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))
        return self.norm(self.layers(torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.tokens(x)[:, self.prefix :].mean(1))


@pytest.mark.parametrize("prefix", [0, 4])
@pytest.mark.parametrize("size", [(40, 56), (64, 64)])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_patches_without_a_convolution(prefix, size):
    def oracle(net, x, targets):
        values = net.tokens(x)[:, prefix:]
        return torch.einsum("bnc,bc->bn", values, net.fc.weight[targets]).unflatten(
            1, (size[0] // 8, size[1] // 8)
        )

    check_both(ready(Patches(prefix)), oracle, x=structured_images((3, *size), 2, 4))


def test_pixels_moved_to_channels():
    def oracle(net, x, targets):
        return weighted(net.conv(features(net, x)).relu(), net.fc.weight[targets])

    def rule(net, f):
        return net.fc(net.conv(f).relu().mean((2, 3)))

    model = Net(rule, trunk=nn.PixelUnshuffle(4), conv=nn.Conv2d(48, CHANNELS, 3, 1, 1), fc=linear())
    check_both(ready(model), oracle)


def test_class_token_beside_the_mean_of_patches():
    """DINOv2's linear classifier: half of it is exact, all of it is not."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = tiny_vit()
            self.net.reset_classifier(0)
            self.fc = linear(48)

        def forward(self, x):
            tokens = self.net.forward_features(x)
            return self.fc(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1))

    torch.manual_seed(0)
    model, x = scrambled(Both(), SQUARE), structured_images(SQUARE)
    found = heatbox.class_maps(model, x)
    assert found.exact is False
    assert found.kind == "patch tokens beside other tokens"


# Refused with a true sentence.


def test_map_of_one_position():
    model = ready(
        Net(lambda net, f: net.fc(f.mean((2, 3))), trunk=nn.Conv2d(3, CHANNELS, 32, 32), fc=linear())
    )
    sentence = refusal(model, structured_images((3, 32, 32)))
    assert "1 x 1" in sentence or "one position" in sentence


def test_lazy_layer_without_weights():
    sentence = refusal(Net(lambda net, f: net.fc(f.mean((2, 3))), fc=nn.LazyLinear(CLASSES)))
    assert "weights" in sentence or "initiali" in sentence


def test_model_without_memory():
    with torch.device("meta"):
        model = bare()
    sentence = refusal(model)
    assert "meta" in sentence


def exact_or_says(model: nn.Module, word: str) -> None:
    """Exact maps, or one sentence with this word; the model's modules cannot be compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = heatbox.class_maps(model, images())
        except InputError as raised:
            sentence = str(raised)
        else:
            with torch.no_grad():
                assert check_maps(found, model(images()), found.targets) == []
            return
    assert word in sentence
    assert "\n" not in sentence


@pytest.mark.filterwarnings("ignore")
def test_script(tmp_path):
    traced = torch.jit.trace(ready(bare()), images())
    exact_or_says(traced, "TorchScript")
    traced.save(tmp_path / "traced.pt")
    for script in (
        torch.jit.load(tmp_path / "traced.pt"),
        torch.jit.script(trunk().append(nn.Flatten()).eval()),
    ):
        with pytest.raises(InputError, match="is a TorchScript program, whose layers cannot be looked into"):
            heatbox.class_maps(script, images())


@pytest.mark.parametrize("shape", [(-1, CHANNELS), (2, -1)])
def test_windows_of_one_size(shape):
    """As in networks for small images: of larger ones, view(-1, C) makes more images."""
    model = ready(Net(lambda net, f: net.fc(F.avg_pool2d(f, (10, 14)).view(*shape)), fc=linear()))
    check_both(model, gap)
    view = ClassifierView(model, size=SIZE[1:])
    words = "logits of 8 images for 2 of 80 x 112" if shape[0] < 0 else "cannot be multiplied"
    with pytest.raises((InputError, RuntimeError), match=words):
        view(structured_images((3, 80, 112), 2, 11))


def test_images_of_a_size_that_the_network_does_not_accept():
    model = Net(lambda net, f: net.fc(f.flatten(1)), fc=linear(8 * 8 * CHANNELS)).eval()
    assert ClassifierView(model, size=(32, 32)).exact
    assert ClassifierView(model).exact  # found with images of 32 pixels
    with pytest.raises(InputError, match=r"of 224 x 224 pixels: .* 32 x 32 pixels \(--size 32\)$"):
        ClassifierView(model, size=(224, 224))


@pytest.mark.filterwarnings("ignore")
def test_quantized_linear_layer():
    quantized = torch.ao.quantization.quantize_dynamic(ready(bare()), {nn.Linear}, dtype=torch.qint8)
    exact_or_says(quantized, "quanti")


def test_model_whose_outputs_are_features():
    sentence = refusal(ready(Net(lambda net, f: f)))
    assert "(B, K)" in sentence


def test_image_of_another_shape():
    with pytest.raises(InputError, match="images"):
        heatbox.class_maps(ready(bare()), torch.zeros(3, 40, 56))


@pytest.mark.parametrize("targets", [torch.tensor([0, CLASSES]), torch.tensor([-1, 0])])
def test_class_that_does_not_exist(targets):
    with pytest.raises(InputError, match="out of range"):
        heatbox.class_maps(ready(bare()), images(), targets)


def test_gradients_are_neither_needed_nor_left():
    model = ready(bare())
    with torch.inference_mode():
        found = heatbox.class_maps(model, images())
    assert not found.maps.requires_grad
    assert all(values.grad is None for values in model.parameters())
    assert not heatbox.class_maps(model, images()).maps.requires_grad


def test_weights_may_change_between_calls():
    model = ready(bare())
    heatbox.class_maps(model, images())
    model.load_state_dict(ready(bare(), seed=7).state_dict())
    check_both(model, gap)
    model.fc = linear()
    check_both(model, gap)


def test_head_may_change_between_calls():
    """What the rule of the network is may be an attribute: maps are those of the network as it is now."""

    def oracle(net, x, targets):
        return weighted(features(net, x), getattr(net, net.returned).weight[targets])

    model = ready(Colours("colour", "shape"))
    check(model, oracle)
    model.returned = "shape"
    check(model, oracle)


def test_precision_may_change_between_calls():
    model = ready(bare())
    heatbox.class_maps(model, images())
    check(model.double(), gap, x=images().double())


def test_size_may_change_between_calls():
    model = ready(bare())
    for size in (SIZE, (3, 64, 64), (3, 96, 32), SIZE):
        check(model, gap, x=structured_images(size, 2, 3))


def test_gradients_of_the_models_own_are_left_alone():
    model = ready(bare())
    model(images()).sum().backward()
    before = [values.grad.clone() for values in model.parameters() if values.grad is not None]
    heatbox.class_maps(model, images())
    after = [values.grad for values in model.parameters() if values.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_own_hooks_are_called_as_ever():
    model, calls = ready(bare()), []
    handle = model.fc.register_forward_hook(lambda *_: calls.append(1))
    check(model, gap)
    calls.clear()
    model(images())
    assert len(calls) == 1
    handle.remove()


def test_one_image_and_many():
    model, x = ready(bare()), images(5)
    whole = heatbox.class_maps(model, x)
    for index in range(5):
        single = heatbox.class_maps(model, x[index : index + 1], whole.targets[index : index + 1])
        torch.testing.assert_close(single.maps[0], whole.maps[index], rtol=1e-4, atol=1e-5)


def test_mapping_type_is_known():
    assert isinstance(Named(), Mapping)
