"""SLaK against the golden outputs of the authors' code, its merged form, masks, and timm's interface."""

import pytest
import timm
import torch
from timm.models._manipulate import group_parameters
from timm.utils.model import reparameterize_model

from heatbox.errors import InputError
from heatbox.models import slak
from heatbox.models.zoo import count


@pytest.fixture(scope="module")
def tiny(golden_weights):
    return golden_weights(timm.create_model("slak_tiny", num_classes=200))


@pytest.fixture(scope="module")
def tiny_logits(tiny, golden_images):
    with torch.inference_mode():
        return tiny(golden_images(64))


@pytest.fixture
def small(golden_weights):
    return golden_weights(timm.create_model("test_slak", num_classes=7))


def relative(found, expected):
    expected = torch.as_tensor(expected)
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_names_and_shapes_are_the_authors(tiny, golden, lines):
    assert lines(tiny) == golden("slak_tiny51")["keys"].tolist()


def test_features_and_logits_are_the_authors(tiny, tiny_logits, golden, golden_images):
    arrays = golden("slak_tiny51")
    with torch.inference_mode():
        features = tiny.forward_features(golden_images(64))
        pooled = tiny.forward_head(features, pre_logits=True)
    assert relative(features, arrays["features_map_64"]) < 1e-5
    assert relative(pooled, arrays["forward_features_64"]) < 1e-5
    assert relative(tiny_logits, arrays["logits_64"]) < 1e-5


def test_bfloat16_stays_within_two_percent(tiny, tiny_logits, golden_images):
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert relative(tiny(golden_images(64)).float(), tiny_logits) < 0.02


def test_merged_model_is_the_same_function(tiny, tiny_logits, golden_images):
    merged = reparameterize_model(tiny)
    names = [name for name in merged.state_dict() if name.startswith("stages.0.0.large_kernel")]
    assert names == [
        f"stages.0.0.large_kernel.{name}"
        for name in ("LoRA1.conv.weight", "LoRA1.conv.bias", "LoRA2.conv.weight")
    ]
    assert merged.stages[0][0].large_kernel.LoRA1.conv.weight.shape == (124, 1, 51, 5)
    with torch.inference_mode():
        assert relative(merged(golden_images(64)), tiny_logits) < 1e-5


def test_merged_weights_load_into_a_model_as_built(small, golden_images):
    images = golden_images(64)
    merged = reparameterize_model(small)
    assert relative(merged(images), small(images)) < 1e-5
    again = timm.create_model("test_slak", num_classes=7).eval()
    again.load_state_dict(merged.state_dict())
    torch.testing.assert_close(again(images), merged(images))


@pytest.mark.parametrize(
    ("kernel_size", "kernels"),
    [(31, (31, 29, 27, 13)), (51, (51, 49, 47, 13)), (61, (61, 59, 57, 13)), ((9, 7, 7, 5), (9, 7, 7, 5))],
)
def test_kernel_sizes(kernel_size, kernels):
    with torch.device("meta"):
        model = timm.create_model("slak_tiny", kernel_size=kernel_size)
    for stage, kernel in zip(model.stages, kernels, strict=True):
        large = stage[0].large_kernel
        assert large.LoRA1.conv.weight.shape[2:] == (kernel, 5)
        assert large.LoRA2.conv.weight.shape[2:] == (5, kernel)
        assert large.small_conv.conv.weight.shape[2:] == (5, 5)


@pytest.mark.parametrize("kernel_size", [7, (51, 49), "51"])
def test_other_kernel_sizes_are_refused(kernel_size):
    with pytest.raises(InputError, match=r"kernel_size=.*\[31, 51, 61\]"):
        timm.create_model("slak_tiny", kernel_size=kernel_size)


@pytest.mark.parametrize(
    ("name", "kernel_size", "dims", "params", "macs"),
    # Published at 40 % sparsity: 30 M, 55 M, 95 M parameters; 4.8, 5.0, 5.2, 9.8 and 17.1 GFLOPs.
    [
        ("slak_tiny", 31, (124, 249, 499, 998), 30e6, 4.8e9),
        ("slak_tiny", 51, (124, 249, 499, 998), 30e6, 5.0e9),
        ("slak_tiny", 61, (124, 249, 499, 998), 31e6, 5.2e9),
        ("slak_small", 51, (124, 249, 499, 998), 55e6, 9.8e9),
        ("slak_base", 51, (166, 332, 665, 1331), 95e6, 17.1e9),
    ],
)
def test_sizes_are_the_published_ones(name, kernel_size, dims, params, macs):
    with torch.device("meta"):
        model = timm.create_model(name, kernel_size=kernel_size)
    counts = count(model, 224)
    assert tuple(info["num_chs"] for info in model.feature_info) == dims
    assert 0.6 * counts.params == pytest.approx(params, rel=0.03)
    assert 0.6 * counts.macs == pytest.approx(macs, rel=0.05)


def test_masks_are_recovered_from_zeros(small):
    state = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    sparse = {n for n, t in state.items() if t.ndim in (2, 4) and n != "head.weight"}
    expected = {name: torch.rand(state[name].shape) > 0.4 for name in sparse}
    for name, mask in expected.items():
        state[name] *= mask
    state["head.bias"].zero_()  # zeros, but not of a weight that has a mask
    masks = slak.recover_masks(state)
    assert masks.keys() == sparse
    assert all(torch.equal(masks[name], expected[name]) for name in sparse)
    assert slak.recover_masks(small.state_dict()) == {}


def test_counts_are_exact():
    with torch.device("meta"):
        model = timm.create_model("slak_tiny", num_classes=200)
    assert count(model, 384).params == 49_904_638
    assert (count(model, 384).conv_macs, count(model, 384).linear_macs) == (4_980_358_944, 20_598_291_376)


def test_nano_has_an_8x8_map_at_64_pixels():
    model = timm.create_model("slak_nano", num_classes=200).eval()
    assert 3e6 < sum(p.numel() for p in model.parameters()) < 5e6
    with torch.inference_mode():
        assert model.forward_features(torch.zeros(1, 3, 64, 64)).shape == (1, 320, 8, 8)


def test_timm_interface(small, golden_images):
    images = golden_images(64)
    features = small.forward_features(images)
    assert features.shape == (2, 31, 4, 4)
    pooled = small.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, small.norm(features.mean((2, 3))))
    torch.testing.assert_close(small(images), small.get_classifier()(pooled))
    small.reset_classifier(3)
    assert small(images).shape == (2, 3)
    small.reset_classifier(0, "")
    torch.testing.assert_close(small(images), small.norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def test_features_only(golden_images):
    model = timm.create_model("test_slak", features_only=True, out_indices=(0, 2))
    assert [tuple(f.shape) for f in model(golden_images(64))] == [(2, 10, 16, 16), (2, 20, 4, 4)]
    assert model.feature_info.channels() == [10, 20]
    assert not any(
        "downsample_layers.3" in name or "stages.3" in name for name, _ in model.named_parameters()
    )


def test_parameters_are_grouped_by_depth(small):
    groups = group_parameters(small, small.group_matcher())
    order = [group[0].removesuffix(".0.weight") for group in groups.values()]
    assert order[:4] == ["downsample_layers.0", "stages.0.0.gamma", "downsample_layers.1", "stages.1.0.gamma"]
    assert order[-1] == "norm.weight"


def test_new_weights_follow_the_paper():
    model = timm.create_model("test_slak")
    block = model.stages[2][0]
    assert block.pwconv1.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert block.pwconv1.bias.abs().max() == 0
    assert torch.equal(block.gamma, torch.full_like(block.gamma, 1e-6))
