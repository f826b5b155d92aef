"""Middle layers, and the last stage at twice the resolution, against timm's own dilation."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck

from heatbox.errors import InputError
from heatbox.inference.localizer import Localizer
from heatbox.maps.registry import MapInputs, check_requirements, find_method, requirements_of
from heatbox.models.factory import create_model
from heatbox.models.introspect import ClassifierView
from heatbox.models.stages import BLOCKS, SHIFTS, shifted_copies, stitched

NETWORKS = [
    "mobilenetv1_100",
    "tf_efficientnet_lite0",  # TensorFlow's padding, only on the far side
    "mobilenetv3_small_050",  # squeeze and excitation, strides inside blocks, "same" padding
    "resnet18",
    "convnext_atto",
    "test_replknet",
    "test_slak",
]


def unlike_noise(name, **options):
    """A network in eval mode whose BatchNorms are not the identity."""
    torch.manual_seed(0)
    model = create_model(name, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            nn.init.uniform_(module.weight, 0.5, 1.5)  # zeros would hide a branch
    return model


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_one_pass_gives_what_the_network_computes(name):
    model = unlike_noise(name)
    view, images = ClassifierView(model), torch.randn(2, 3, 96, 128)
    features, logits = view(images)
    output = view.extract(images, sharp=True)
    assert torch.allclose(output.features, features, atol=1e-5)
    assert torch.allclose(output.logits, logits, atol=1e-5)
    double = [2 * side for side in features.shape[2:]]
    assert list(output.sharp.shape[2:]) == double
    row, column = view.sharp_offset((96, 128))
    assert row == column == name.startswith("tf_")
    assert torch.allclose(output.sharp[:, :, row::2, column::2], features, atol=1e-5)
    assert output.sharp[:, :, 1 - row :: 2, 1 - column :: 2].std() > 0.1 * features.std()
    with pytest.warns(DeprecationWarning, match="use ClassifierView.extract"):
        plain = view.look(images)
    assert plain.sharp is None
    for one, other in zip(plain.middle, output.middle, strict=True):
        assert torch.equal(one, other)
        assert len(one) == 2
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("mobilenetv1_100", (8, 16)),
        ("resnet18", (8, 16)),
        ("convnext_atto", (8, 16)),
        ("test_slak", (8, 16)),  # its last stage does not halve the resolution
        ("resnet10_small", (4, 4)),
    ],
)
@torch.no_grad()
def test_middle_layers_are_the_stages_that_timm_names(name, strides):
    model = unlike_noise(name)
    images = torch.randn(2, 3, 64, 96)
    middle = ClassifierView(model).extract(images).middle
    for found, wanted, stride in zip(middle, timms(model, images), strides, strict=True):
        assert torch.equal(found, wanted)
        assert found.shape[2:] == (64 // stride, 96 // stride)


def timms(model, images):
    """The same maps from timm."""
    return model.forward_intermediates(images, indices=[-3, -2], intermediates_only=True)


@pytest.mark.parametrize("name", ["mobilenetv1_100", "resnet18"])
@torch.no_grad()
def test_sharp_map_is_timms_dilation_away_from_the_border(name):
    model = unlike_noise(name)
    dilated = unlike_noise(name, output_stride=16)
    dilated.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 384, 384)
    sharp = ClassifierView(model).extract(images, sharp=True).sharp
    wanted = dilated.forward_features(images)
    assert sharp.shape == wanted.shape
    border = 9  # the reach of four 3 x 3 convolutions, one before and three after the stride
    inside = (..., slice(border, -border), slice(border, -border))
    scale = wanted.abs().max()
    assert torch.allclose(sharp[inside] / scale, wanted[inside] / scale, atol=1e-5)
    assert not torch.allclose(sharp / scale, wanted / scale, atol=1e-3)  # the zeros around the shifted inputs


@pytest.mark.parametrize("offset", [(False, False), (False, True), (True, False), (True, True)])
def test_stitching_undoes_shifting(offset):
    maps = torch.arange(2 * 3 * 6 * 8.0).view(2, 3, 6, 8)
    # a stage that only strides
    runs = shifted_copies(maps, offset)[
        :, :, int(offset[0]) :: 2, int(offset[1]) :: 2
    ]  # a stage that only strides
    assert len(runs) == len(SHIFTS) * 2
    assert torch.equal(stitched(runs, offset), maps)


@torch.no_grad()
def test_odd_sides():
    view = ClassifierView(unlike_noise("resnet18"))
    output = view.extract(torch.randn(1, 3, 200, 232), sharp=True)
    assert output.features.shape[2:] == (7, 8)
    assert output.middle[1].shape[2:] == output.sharp.shape[2:] == (13, 15)
    assert torch.equal(output.sharp[:, :, ::2, ::2], output.features)


@torch.no_grad()
def test_a_custom_network():
    relu = nn.ReLU()  # one module that is called several times
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), relu, nn.Conv2d(4, 6, 3, 2, 1), relu, nn.Conv2d(6, 8, 3, 2, 1), relu,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    images = torch.randn(2, 3, 64, 64)
    output = ClassifierView(model).extract(images, sharp=True)
    for found, end in zip(output.middle, (2, 4), strict=True):
        assert torch.allclose(found, model[:end](images), atol=1e-6)
    model[4].stride, model[4].padding = (1, 1), (1, 1)
    wanted = model[:6](images)
    assert torch.allclose(output.sharp[..., 2:-2, 2:-2], wanted[..., 2:-2, 2:-2], atol=1e-5)


@torch.no_grad()
def test_networks_whose_last_stage_cannot_be_run_alone():
    view = ClassifierView(create_model("hrnet_w18_small"))
    images = torch.randn(1, 3, 64, 64)
    assert len(view.extract(images).middle) == 2
    with pytest.raises(InputError, match="hrnet_w18_small: its last stage cannot be run on shifted inputs"):
        view.extract(images, sharp=True)
    one_stage = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(InputError, match="no feature map of twice"):
        ClassifierView(one_stage).extract(images, sharp=True)


# ------------------------------------------------------------------------------------- other layouts


def disturbed(model):
    """A network in eval mode whose constant weights, such as norms and layer scales, are random."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for values in model.parameters():
            if values.ndim < 2:
                values.add_(0.2 * torch.randn(values.shape, generator=generator))
    return model.eval()


def small_swin():
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4], window_size=[4, 4],
        num_classes=5,
    )  # fmt: skip


def walked_by_hand(seed, middle):
    """Two steps of the walk from the definition in docs/walk.md, for one image at a time."""
    maps = []
    for index in range(len(seed)):
        affinity = 0
        for features in middle:
            x = torch.nn.functional.adaptive_avg_pool2d(features[index], seed.shape[1:]).flatten(1).double()
            x = x - x.mean(1, keepdim=True)
            deviation = x.std(1, correction=0, keepdim=True)
            x = x / (deviation + 0.1 * deviation.mean())
            x = x / x.norm(dim=0, keepdim=True)
            affinity = affinity + (x.T @ x).clamp_min(0)
        value = seed[index].flatten().double()
        for _ in range(2):
            value = affinity @ value / affinity.sum(1)
        maps.append(value.view(seed.shape[1:]).float())
    return torch.stack(maps)


def test_the_walk_of_a_network_with_channels_last():
    model, images = disturbed(small_swin()), torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        stages = [model.features[:depth](images).permute(0, 3, 1, 2) for depth in (4, 6)]
        large = torch.nn.functional.interpolate(images, scale_factor=2, mode="bicubic", align_corners=False)
        last = model.norm(model.features(large))  # (B, h, w, C)
        seed = torch.stack([last[index] @ model.head.weight[target] for index, target in enumerate([3, 1])])
    view = ClassifierView(model)
    output = view.extract(images)
    for found, wanted in zip(output.middle, stages, strict=True):
        torch.testing.assert_close(found, wanted)
    inputs = MapInputs.from_output(output, view, images, torch.tensor([3, 1]))
    with torch.no_grad():
        maps = find_method("walk")(inputs)
    torch.testing.assert_close(maps, walked_by_hand(seed, stages), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3", "eva02_tiny_patch14_224"])
def test_middle_maps_of_token_models_are_the_patch_tokens_of_inner_blocks(name):
    model = disturbed(create_model(name))
    images = torch.randn(2, *model.pretrained_cfg["input_size"])
    blocks = len(model.blocks)
    chosen = [round(depth * (blocks - 1)) for depth in BLOCKS]
    with torch.no_grad():
        wanted = model.forward_intermediates(images, indices=chosen, norm=False, intermediates_only=True)
        found = ClassifierView(model).extract(images).middle
    assert len(found) == 2
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_tokens_of_a_grid_that_is_not_square():
    model = disturbed(create_model("test_vit", img_size=(96, 160), dynamic_img_size=True))
    model.pretrained_cfg = dict(model.pretrained_cfg, input_size=(3, 96, 160))
    view = ClassifierView(model)
    for size, grid in [((96, 160), (6, 10)), ((128, 64), (8, 4))]:
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            tokens = model.forward_features(images)[:, model.num_prefix_tokens :]
            features, _ = view(images)
        torch.testing.assert_close(features, tokens.transpose(1, 2).unflatten(2, grid))


def test_the_walk_of_a_token_model_starts_at_its_own_resolution():
    view = ClassifierView(disturbed(create_model("test_vit")))
    assert view.is_isotropic
    requirements = requirements_of(["walk:pc1"], view)
    assert not requirements.larger
    check_requirements(view, requirements)
    images = torch.randn(2, 3, 160, 160)
    output = view.extract(images)
    inputs = MapInputs.from_output(output, view, images, torch.tensor([0, 1]))
    with torch.no_grad():
        maps = find_method("walk:pc1")(inputs)
        wanted = walked_by_hand(find_method("pc1")(inputs), output.middle)
    torch.testing.assert_close(maps, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "boundary"),
    [
        (lambda: torchvision.models.ResNet(Bottleneck, [1, 1, 1, 1], num_classes=3), "layer3"),
        (lambda: torchvision.models.regnet_x_400mf(num_classes=3), "trunk_output.block3"),
        (lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=3), "stage3"),
    ],
)
def test_the_last_stage_of_torchvisions_networks(make, boundary):
    torch.manual_seed(0)
    model = disturbed(make())
    view = ClassifierView(model)
    names = {module: name for name, module in model.named_modules()}
    assert names[view.last_stage_input.module] == boundary
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        output = view.extract(images, sharp=True)
    row, column = view.sharp_offset((224, 224))
    torch.testing.assert_close(output.sharp[:, :, row::2, column::2], output.features, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: create_model("visformer_tiny"),
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 16, 16), nn.ReLU(), nn.AvgPool2d(14), nn.Flatten(), nn.Linear(8, 3)
        ),
    ],
)
def test_networks_of_one_size_are_refused_before_anything_is_computed(make):
    with pytest.raises(InputError, match=r"only runs on images of its own size|no feature map before"):
        Localizer(make(), "walk")


def test_a_network_of_another_size_than_is_known():
    """A head on a flattened map, of images of 64 pixels, which nothing tells but the size that is given."""
    head = [nn.Flatten(), nn.Linear(16 * 8 * 8, 10)]
    layers = [nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    view = ClassifierView(nn.Sequential(*layers, *head), size=(64, 64))
    assert [stage.size for stage in view.stages] == [(2, 2)]
    assert not view.is_isotropic
    assert not view.accepts(2)
    assert view.accepts(1)
    assert view.last_stage_input.size == (2, 2)
