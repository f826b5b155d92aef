"""What is known of a built classifier: wrappers, preprocessing, channels, placement."""

import json
import warnings

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.transforms import v2

from heatbox.config import ModelOptions
from heatbox.errors import AssumptionWarning, InputError
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import (
    data_config,
    eval_mode,
    find_preprocessing,
    fit_affine,
    input_channels,
    input_size,
    model_name,
    placement,
    unchanged,
    unwrap,
    update_data_config,
)
from heatbox.training.config import TrainConfig
from heatbox.training.weights import start_model

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def small(**options) -> nn.Module:
    """A timm network with a preprocessing that no default has."""
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=3, **options).eval()
    net.pretrained_cfg = {**net.pretrained_cfg, "mean": MEAN, "std": STD, "input_size": (3, 96, 96)}
    return net


def plain(channels=3) -> nn.Module:
    """A network that says nothing about its images."""
    layers = nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(*layers)


class Before(nn.Module):
    """A function of the images before a network."""

    def __init__(self, function, net):
        super().__init__()
        self.function, self.net = function, net

    def forward(self, images):
        return self.net(self.function(images))


class Normalize(nn.Module):
    """As kornia's: mean and std are buffers."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images):
        return (images - self.mean) / self.std


class Mean(nn.Module):
    """An ensemble."""

    def __init__(self, *nets):
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, images):
        return sum(net(images) for net in self.nets) / len(self.nets)


def quietly(model, **options):
    """The preprocessing of a model for which nothing may be assumed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ModelOptions(**options).preprocess(model)


def assumed(model, words, **options):
    """The preprocessing of a model, and the only warning, which contains some words."""
    with pytest.warns(AssumptionWarning, match=words) as caught:
        found = ModelOptions(**options).preprocess(model)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert caught[0].filename == __file__
    return found


# --------------------------------------------------------------------------------------------- containers


def test_containers_that_compute_the_same_are_unwrapped():
    net = small()
    nested = torch.compile(nn.DataParallel(torch.compile(net, backend="eager")), backend="eager")
    for wrapped in (net, nn.DataParallel(net), torch.compile(net, backend="eager"), nested):
        assert unwrap(wrapped) is net
        assert model_name(wrapped) == "test_resnet"
        assert data_config(wrapped) == net.pretrained_cfg
        assert quietly(wrapped) == quietly(net)
    assert type(unwrap(AveragedModel(net))) is type(net)
    own = nn.Sequential(net)
    assert unwrap(own) is own


def test_compiled_models_run_uncompiled_inside():
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    for model in (torch.compile(small(), backend=backend), small()):
        if not compilations:
            unwrap(model).compile(backend=backend)
        with eval_mode(model), torch.no_grad():
            model(torch.zeros(1, 3, 64, 64))
            model(torch.zeros(1, 3, 32, 32))
        assert not compilations


# ------------------------------------------------------------------------------------- the images seen inside

SEEN_THROUGH = {
    "itself": lambda net: net,
    "own wrapper": lambda net: Before(lambda x: x, net),
    "two wrappers": lambda net: nn.Sequential(Before(lambda x: x, nn.DataParallel(net))),
    "normalize": lambda net: nn.Sequential(Normalize(MEAN, STD), net),
    "torchvision's": lambda net: nn.Sequential(torchvision.transforms.Normalize(MEAN, STD), net),
    "compiled": lambda net: torch.compile(nn.Sequential(Normalize(MEAN, STD), net), backend="eager"),
    "in forward": lambda net: Before(lambda x: (x - 0.5) / 0.5, net),
    "to levels": lambda net: Before(lambda x: x * 255, net),
    "from levels": lambda net: Before(lambda x: x / 255, net),
    "clamped": lambda net: Before(lambda x: (x.clamp(0, 1) - 0.1) / 0.3, net),
    "resized": lambda net: Before(lambda x: nn.functional.interpolate(2 * x - 1, (64, 80)), net),
    "padded": lambda net: Before(lambda x: nn.functional.pad(2 * x - 1, (5, 5, 2, 2)), net),
    "blue first": lambda net: Before(lambda x: x.flip(1), net),
    "8 bits": lambda net: Before(lambda x: (x * 255).round() / 255, net),
    "half": lambda net: nn.Sequential(Normalize(MEAN, STD), net).half(),
    "ensemble": lambda net: Mean(net, small()),
    "mean after": lambda net: Mean(Before(lambda x: x, net)),
}


def with_border(levels):
    """The border is 0 after normalization: the mean."""
    mean = torch.tensor(MEAN)[:, None, None]
    return nn.functional.pad(levels - mean, (5, 5, 2, 2)) + mean


PIXELS = {
    "resized": lambda x: nn.functional.interpolate(x, (64, 80)),
    "padded": with_border,
    "blue first": lambda x: x.flip(1),
}
"""The pixels that the network inside gets, where those are not the image's."""


@pytest.mark.parametrize("kind", SEEN_THROUGH)
def test_the_network_inside_gets_its_own_preprocessing(kind):
    net, seen = small(), []
    model = SEEN_THROUGH[kind](net).eval()
    levels = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        found = ModelOptions().preprocess(model)
    given = (levels - torch.tensor(found.mean)[:, None, None]) / torch.tensor(found.std)[:, None, None]
    net.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(given.to(placement(model)[1]))
    expected = PIXELS.get(kind, lambda x: x)(levels)
    expected = (expected - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    tolerance = 0.05 if kind == "half" else 1e-3
    if kind not in ("clamped", "8 bits"):
        assert torch.allclose(expected, seen[0].float(), atol=tolerance)
    assert found.size == (96, 96)


def test_normalization_in_the_model_leaves_images_in_0_to_1():
    for model in (nn.Sequential(Normalize(MEAN, STD), small()), Before(lambda x: x, small())):
        found = quietly(model)
        inside = isinstance(model, nn.Sequential)
        assert found.mean == pytest.approx((0, 0, 0) if inside else MEAN, abs=1e-5)
        assert found.std == pytest.approx((1, 1, 1) if inside else STD, abs=1e-5)


def test_equal_inputs_keep_the_configuration_to_the_last_digit():
    assert quietly(Before(lambda x: x, small())) == quietly(small())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.clamp_min(0) ** 2.2,
        lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True),
        lambda x: 1 - x,
        lambda x: x * 0,
        lambda x: torch.log(x.clamp_min(1e-3)),
    ],
)
def test_what_is_no_scale_and_shift_is_said(function):
    found = assumed(Before(function, small()), "not by a scale and a shift")
    assert (found.mean, found.std) == (MEAN, STD)
    assert quietly(Before(function, small()), mean=(0.0,), std=(1.0,)).std == (1, 1, 1)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: crop(x, 1 / 8, 1 / 4), "25 to 75% of the width and 12 to 88% of the height"),
        (lambda x: crop(2 * x, -1 / 4, 0), "0 to 100% of the width and -25 to 125% of the height"),
        (
            v2.Compose([v2.Resize(120), v2.CenterCrop(96)]),
            "10 to 90% of the width and 10 to 90% of the height",
        ),
    ],
)
@pytest.mark.parametrize("net", [small, plain])
def test_a_crop_inside_the_model_is_said(function, words, net):
    with pytest.warns(AssumptionWarning, match=f"crops or pads its images before .*{words}") as caught:
        ModelOptions(size=96).preprocess(Before(function, net()))
    assert len(caught) == 1


def crop(images, rows, columns):
    """A fraction of the height and the width less at each edge; more where it is negative."""
    height, width = images.shape[2:]
    top, left = -round(rows * height), -round(columns * width)
    return nn.functional.pad(images, (left, left, top, top))


def test_a_resize_inside_the_model_is_none():
    for side in (40, 96, 128, 301):
        assert quietly(Before(v2.Resize((side, side)), small())) == quietly(small())
    assert quietly(Before(lambda x: nn.functional.pad(x, (1, 1, 1, 1), "reflect"), small())).mean == MEAN


def test_another_normalization_than_the_networks_is_said():
    model = nn.Sequential(Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), small())
    found = assumed(model, "normalizes images by mean 0.485, 0.456, 0.406")
    assert found.std == pytest.approx([s / i for s, i in zip(STD, (0.229, 0.224, 0.225), strict=True)], 1e-4)


def test_networks_of_different_preprocessing():
    other = small()
    other.pretrained_cfg = {**other.pretrained_cfg, "std": (1.0, 1.0, 1.0)}
    assert assumed(Mean(small(), other), "different mean and std").std == STD
    idle = small()
    idle.teacher = other  # never called
    assert quietly(nn.ModuleList([idle])[0]).std == STD


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(0.01, 300), min_size=3, max_size=3),
    st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    st.permutations([0, 1, 2]),
)
def test_scale_and_shift_of_each_channel_are_found(scale, shift, order):
    outer = torch.rand(50, 3, generator=torch.Generator().manual_seed(1))
    inner = outer[:, order] * torch.tensor(scale) + torch.tensor(shift)
    found = fit_affine(outer, inner)
    assert np.allclose(found.scale, scale, rtol=1e-3)
    assert np.allclose(found.shift, shift, atol=1e-3)
    assert found.source == tuple(order)
    mean, std = found.outer_channels(*found.before(MEAN, STD))
    pixels = torch.rand(5, 3)
    given_images = (pixels - torch.tensor(mean)) / torch.tensor(std)
    reached = given_images[:, order] * torch.tensor(scale) + torch.tensor(shift)
    wanted = (pixels[:, order] - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(reached.float(), wanted, atol=1e-2)


@settings(max_examples=20, deadline=None)
@given(st.floats(1.3, 4))
def test_powers_are_no_scale(power):
    outer = torch.rand(200, 3, generator=torch.Generator().manual_seed(1))
    assert fit_affine(outer, outer**power) is None


# ----------------------------------------------------------------------------- networks that say nothing


def test_imagenets_preprocessing_is_assumed_and_said():
    found = assumed(plain(), "no preprocessing was found.*--mean, --std, --size, --interpolation")
    assert found.size == (224, 224)
    assert (found.mean, found.interpolation) == ((0.485, 0.456, 0.406), "bilinear")
    assumed(torchvision.models.resnet18(), "as most weights of torchvision use")
    assumed(torchvision.models.googlenet(transform_input=True, init_weights=False), "ImageNet's mean")
    options = {"mean": (0.5,), "std": (0.5,), "size": 64, "interpolation": "bicubic"}
    assert quietly(plain(), **options).mean == (0.5, 0.5, 0.5)


def test_only_what_is_assumed_is_named():
    with pytest.warns(AssumptionWarning) as caught:
        ModelOptions(size=64, mean=(0.0,)).preprocess(plain())
    text = str(caught[0].message)
    assert "--std" in text
    assert "--interpolation" in text
    assert "--mean" not in text
    assert "--size" not in text
    assert "pixels" not in text


@pytest.mark.parametrize(
    ("model", "largest"),
    [
        (lambda: nn.Sequential(Normalize(MEAN, STD), plain()), 1),
        (lambda: nn.Sequential(v2.Normalize(MEAN, STD), plain()), 1),
        (lambda: nn.Sequential(Normalize((0.5,) * 3, (0.5,) * 3), torchvision.models.resnet18()), 1),
        (lambda: Before(lambda x: 2 * x - 1, plain()), 1),
        (lambda: Before(lambda x: x * 255 - 120, plain()), 1),
        (lambda: Before(lambda x: (x - 127.5) / 127.5, plain()), 255),
        (lambda: Before(lambda x: x / 255, plain()), 255),
        (lambda: nn.Sequential(Normalize((0.2,), (0.3,)), plain(1)), 1),
    ],
)
def test_a_model_that_normalizes_gets_raw_images(model, largest):
    model = model()
    found = assumed(model, rf"normalizes images itself.* in \[0, {largest}\]")
    channels = input_channels(model)
    assert found.mean == (0,) * channels
    assert found.std == pytest.approx((1 / largest,) * channels)


@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda net: torch.jit.trace(net, torch.rand(1, 3, 64, 64))]
)
def test_programs_are_assumed_to_read_imagenet(make):
    assert assumed(make(plain()), "no preprocessing was found").size == (224, 224)


def test_a_preset_of_torchvision_inside_the_model():
    preset = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    found = assumed(nn.Sequential(preset, torchvision.models.resnet18()), "6 to 94% of the width")
    assert (found.mean, found.std) == ((0, 0, 0), (1, 1, 1))


def test_a_norm_layer_with_weights_is_part_of_the_network():
    found = assumed(nn.Sequential(nn.BatchNorm2d(3), plain()), "no preprocessing")
    assert found.mean == (0.485, 0.456, 0.406)


# -------------------------------------------------------------------------------------------------- channels

CHANNELS = {
    "rgb": (lambda: small(), 3),
    "grey": (lambda: small(in_chans=1), 1),
    "four": (lambda: small(in_chans=4), 4),
    "seven, plain": (lambda: plain(7), 7),
    "wrapped grey": (lambda: Before(lambda x: x, small(in_chans=1)), 1),
    "grey to rgb": (lambda: Before(lambda x: x.repeat(1, 3, 1, 1), small()), 1),
    "rgb to grey": (lambda: Before(lambda x: x.mean(1, keepdim=True), small(in_chans=1)), 3),
    "adapter": (lambda: nn.Sequential(nn.Conv2d(5, 3, 1), small()), 5),
    "vit": (lambda: timm.create_model("test_vit", num_classes=3, in_chans=2), 2),
    "space to depth": (lambda: timm.create_model("tresnet_m", num_classes=3), 3),
    "space to depth of four": (lambda: timm.create_model("tresnet_m", num_classes=3, in_chans=4), 4),
    "focus": (lambda: timm.create_model("cs3darknet_focus_s", num_classes=3), 3),
    "linear first": (lambda: Before(lambda x: x.mean((2, 3)), nn.Linear(6, 3)), 3),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(6, 12, 3, groups=6), nn.AdaptiveAvgPool2d(1)), 6),
}


@pytest.mark.parametrize("kind", CHANNELS)
def test_channels_are_read_from_the_first_layer(kind):
    build, expected = CHANNELS[kind]
    model = build()
    assert input_channels(model) == expected
    assert input_size(model)[0] == expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ModelOptions().preprocess(model).channels == expected


def test_one_mean_for_other_channels():
    found = assumed(small(in_chans=1), "reads 1 channel, with the averages of mean and std over RGB")
    assert (found.mean, found.std) == (pytest.approx((0.4,)), pytest.approx((0.25,)))
    assert assumed(small(in_chans=4), "reads 4 channels").mean == pytest.approx((0.4,) * 4)
    told = small(in_chans=1)
    told.pretrained_cfg = {**told.pretrained_cfg, "mean": (0.1,), "std": (0.2,)}
    assert quietly(told).mean == (0.1,)
    assert quietly(small(in_chans=4), mean=(0.1, 0.2, 0.3, 0.4), std=(0.5,)).std == (0.5,) * 4
    with pytest.raises(InputError, match=r"mean has 3 values, but the model reads 1 channel$"):
        ModelOptions(mean=(0.1, 0.2, 0.3)).preprocess(small(in_chans=1))


def test_a_grey_wrapper_of_an_rgb_network():
    model = Before(lambda x: x.repeat(1, 3, 1, 1), small())
    assert assumed(model, "whose mean and std are averaged").mean == pytest.approx((0.4,))


# ----------------------------------------------------------------------------------- left as it was given


class Remembering(nn.Module):
    """Keeps its last input, counts its calls, draws random numbers."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.register_buffer("calls", torch.zeros(()))
        self.seen = {}

    def forward(self, images):
        self.last, self.seen["last"] = images, images
        self.calls += 1
        return self.net(images + 0 * torch.rand(1))


def test_the_model_is_left_as_it_was():
    model = Remembering(nn.Sequential(Normalize(MEAN, STD), small())).train()
    model.net[1].layer1.eval()
    before = [dict(vars(module)) for module in model.modules()]
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        find_preprocessing(model)
        input_channels(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for module, attributes in zip(model.modules(), before, strict=True):
        assert vars(module).keys() == attributes.keys()
        assert not module._forward_pre_hooks
    assert model.seen == {}


def test_unchanged_restores_what_a_module_replaces():
    net = small()
    conv = net.conv1
    with unchanged(net):
        net.conv1 = nn.Identity()
        net.extra = 1
    assert net.conv1 is conv
    assert not hasattr(net, "extra")


# ------------------------------------------------------------------- checkpoints, transformers, placement


def test_fields_of_a_checkpoint_describe_the_whole():
    fields = {"mean": (0.1, 0.1, 0.1), "std": (0.2, 0.2, 0.2), "input_size": (3, 64, 64)}
    model = plain()
    update_data_config(model, fields)
    assert data_config(model) == fields
    net = small()
    wrapped = nn.Sequential(Normalize(MEAN, STD), net)
    update_data_config(wrapped, fields)
    assert ModelOptions().preprocess(wrapped).mean == fields["mean"]
    assert net.pretrained_cfg["mean"] == MEAN


def test_models_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_channels=3
    )
    model = transformers.ResNetForImageClassification(config).eval()
    assumed(model, "no preprocessing")
    model.save_pretrained(tmp_path)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 64}}
    processor |= {"image_mean": MEAN, "image_std": STD, "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    loaded = transformers.ResNetForImageClassification.from_pretrained(tmp_path)
    for one in (loaded, Before(lambda x: x, loaded)):
        found = quietly(one)
        assert (found.size, found.interpolation) == ((48, 64), "bicubic")
        assert found.mean == pytest.approx(MEAN, abs=1e-4)
        assert found.std == pytest.approx(STD, abs=1e-4)
    (tmp_path / "preprocessor_config.json").write_text("{")
    assumed(loaded, "no preprocessing")


def test_placement_reads_weights_not_scalars():
    net = nn.Sequential(nn.Linear(3, 2)).half()
    net.register_parameter("temperature", nn.Parameter(torch.ones(())))
    assert placement(net) == (torch.device("cpu"), torch.float16)
    assert placement(nn.Identity()) == (torch.device("cpu"), torch.float32)
    with pytest.raises(InputError, match="meta device and have no values"):
        placement(small().to("meta"))


def test_training_reads_rgb():
    config = TrainConfig("own", "test_resnet", model_options={"in_chans": 4})
    with pytest.raises(
        InputError, match="test_resnet: reads images of 4 channels, but heatbox trains on RGB"
    ):
        start_model(config, 3)


def test_models_that_accelerate_dispatched():
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(small(), execution_device="cpu")
    assert next(model.parameters()).is_meta
    assert placement(model) == (torch.device("cpu"), torch.float32)
    assert ModelOptions(device="cpu").to_device(model) is model
    assert quietly(model).mean == MEAN
    assert input_size(model) == (3, 96, 96)
    with pytest.raises(InputError, match="is offloaded by accelerate, but class maps need all weights"):
        ClassifierView(model)
    dispatched = accelerate.dispatch_model(small(), {"": "cpu"})
    images = torch.rand(2, 3, 96, 96)
    assert torch.allclose(ClassifierView(dispatched)(images)[1], small()(images), atol=1e-4)
    wrapped = Before(lambda x: (x - MEAN[0]) / 4, accelerate.cpu_offload(small(), execution_device="cpu"))
    assert quietly(wrapped).std == pytest.approx([s / 4 for s in STD], 1e-4)
    assert all(parameter.is_meta for parameter in wrapped.parameters())
