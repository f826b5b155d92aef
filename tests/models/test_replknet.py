"""RepLKNet against the golden outputs of the authors' code, its merged forms, and timm's interface."""

import numpy as np
import pytest
import timm
import torch
from timm.models._manipulate import group_parameters
from timm.utils.model import reparameterize_model

import heatbox.models  # noqa: F401 - registers its families with timm
from heatbox.models.zoo import count


@pytest.fixture(scope="module")
def model_31b(golden_weights):
    return golden_weights(timm.create_model("replknet_31b", num_classes=200))


@pytest.fixture(scope="module")
def outputs_31b(model_31b, golden_images):
    with torch.inference_mode():
        features = model_31b.forward_features(golden_images(64))
        return features, model_31b.forward_head(features)


@pytest.fixture
def small(golden_weights):
    return golden_weights(timm.create_model("test_replknet", num_classes=7))


def relative(found, expected):
    expected = torch.as_tensor(expected)
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_names_and_shapes_are_the_authors(model_31b, golden, lines):
    assert lines(model_31b) == golden("replknet31b")["keys_train"].tolist()


def test_features_and_logits_are_the_authors(outputs_31b, golden):
    features, logits = outputs_31b
    assert relative(features, golden("replknet31b")["features_64"]) < 1e-5
    assert relative(logits, golden("replknet31b")["logits_64"]) < 1e-5


def test_bfloat16_stays_within_two_percent(model_31b, outputs_31b, golden_images):
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model_31b(golden_images(64)).float()
    assert relative(logits, outputs_31b[1]) < 0.02


def test_merged_model_is_the_authors(model_31b, outputs_31b, golden, golden_images, lines):
    merged = reparameterize_model(model_31b)
    assert lines(merged) == golden("replknet31b")["keys_reparam"].tolist()
    with torch.inference_mode():
        logits = merged(golden_images(64))
    assert relative(logits, outputs_31b[1]) < 1e-5
    assert relative(logits, golden("replknet31b")["logits_reparam_64"]) < 1e-5
    assert "large_kernel.small_conv.conv.weight" in "".join(model_31b.state_dict()), (
        "the original was changed"
    )
    fused = merged.fuse_batch_norms()
    assert lines(fused) == golden("replknet31b")["keys_fused"].tolist()
    with torch.inference_mode():
        assert relative(fused(golden_images(64)), outputs_31b[1]) < 1e-5


def test_another_size_and_all_stages(model_31b, golden_images, shared):
    arrays = np.load(shared / "golden/arch_replknet31b.npz")
    with torch.inference_mode():
        stages = model_31b.forward_intermediates(golden_images(64), intermediates_only=True)
        assert relative(model_31b(golden_images(96)), arrays["logits_96"]) < 1e-5
    for i, stage in enumerate(stages):
        assert relative(stage, arrays[f"stage{i}_64"]) < 1e-5


def test_counts_are_exact_and_need_no_computation():
    with torch.device("meta"):
        model = timm.create_model("replknet_31b", num_classes=200)
    merged = reparameterize_model(model)
    assert (count(model, 224).params, count(merged, 224).params) == (79_044_168, 78_707_272)
    assert (count(model, 64).macs, count(merged, 64).macs) == (1_259_819_008, 1_253_470_208)
    assert (count(model, 384).macs, count(merged, 384).macs) == (45_346_316_288, 45_117_759_488)
    assert count(model, 384).linear_macs == 200 * 1024


@pytest.mark.parametrize(
    ("name", "side", "params", "macs"),
    [
        ("replknet_31b", 224, 79e6, 15.3e9),
        ("replknet_31b", 384, 79e6, 45.1e9),
        ("replknet_31l", 384, 172e6, 96.0e9),
        ("replknet_xl", 320, 335e6, 128.7e9),
    ],
)
def test_sizes_are_the_published_ones(name, side, params, macs):
    with torch.device("meta"):
        merged = reparameterize_model(timm.create_model(name))
    assert count(merged, side).params == pytest.approx(params, rel=0.01)
    assert count(merged, side).macs == pytest.approx(macs, rel=0.004)


def test_31l_has_the_names_of_31b_and_xl_no_small_kernels(golden):
    with torch.device("meta"):
        large, extra = timm.create_model("replknet_31l", num_classes=200), timm.create_model("replknet_xl")
    names = [line.split(" ")[0] for line in golden("replknet31b")["keys_train"].tolist()]
    assert list(large.state_dict()) == names
    assert not any("small_conv" in name for name in extra.state_dict())
    assert extra.stages[3].blocks[0].large_kernel.lkb_origin.conv.weight.shape == (3072, 1, 13, 13)


def test_preprocessing_of_the_variants():
    def config(name):
        with torch.device("meta"):
            return timm.data.resolve_model_data_config(timm.create_model(name))

    usual, squashed, xl = (config(f"replknet_{n}") for n in ("31b.in1k", "31b.in1k_384", "xl"))
    assert usual["mean"] == (0.485, 0.456, 0.406)
    assert usual["input_size"] == (3, 224, 224)
    assert (usual["interpolation"], usual["crop_pct"]) == ("bicubic", 0.875)
    assert squashed["input_size"] == (3, 384, 384)
    assert (squashed["crop_mode"], squashed["crop_pct"]) == ("squash", 1.0)
    assert xl["mean"] == xl["std"] == (0.5, 0.5, 0.5)
    assert xl["input_size"] == (3, 320, 320)


def test_merging_is_done_once_and_survives_saving(small, golden_images):
    images = golden_images(64)
    merged = reparameterize_model(reparameterize_model(small))
    assert relative(merged(images), small(images)) < 1e-5
    again = timm.create_model("test_replknet", num_classes=7).eval()
    again.load_state_dict(merged.state_dict())  # takes the merged form by itself
    torch.testing.assert_close(again(images), merged(images))
    folded = timm.create_model("test_replknet", num_classes=7).eval()
    folded.load_state_dict(small.fuse_batch_norms().state_dict())
    assert relative(folded(images), merged(images)) < 1e-5


def test_merging_without_small_kernel(golden_weights, golden_images):
    model = golden_weights(timm.create_model("test_replknet", small_kernel=0, dw_ratio=1.5, num_classes=3))
    merged = reparameterize_model(model)
    assert relative(merged(golden_images(64)), model(golden_images(64))) < 1e-5


def test_merging_synchronised_batch_norms(small, golden_images):
    expected = small(golden_images(64))
    merged = reparameterize_model(torch.nn.SyncBatchNorm.convert_sync_batchnorm(small))
    assert relative(merged.eval()(golden_images(64)), expected) < 1e-5


def test_nano_has_an_8x8_map_at_64_pixels():
    model = timm.create_model("replknet_nano", num_classes=200).eval()
    assert 3e6 < sum(p.numel() for p in model.parameters()) < 5e6
    with torch.inference_mode():
        assert model.forward_features(torch.zeros(1, 3, 64, 64)).shape == (1, 320, 8, 8)


def test_timm_interface(small, golden_images):
    images = golden_images(64)
    features = small.forward_features(images)
    assert features.shape == (2, 32, 4, 4)
    pooled = small.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, small.norm(features).mean((2, 3)))
    torch.testing.assert_close(small(images), small.get_classifier()(pooled))
    small.reset_classifier(3)
    assert small(images).shape == (2, 3)
    small.reset_classifier(0)
    torch.testing.assert_close(small(images), pooled)
    assert set(small.no_weight_decay()) == {n for n, p in small.named_parameters() if p.ndim == 1}


def test_features_only(small, golden_images):
    model = timm.create_model("test_replknet", features_only=True, out_indices=(1, 3), num_classes=0)
    shapes = [tuple(f.shape) for f in model(golden_images(64))]
    assert shapes == [(2, 16, 8, 8), (2, 32, 4, 4)]
    assert model.feature_info.channels() == [16, 32]
    assert model.feature_info.reduction() == [8, 16]
    first = timm.create_model("test_replknet", features_only=True, out_indices=(0,))
    assert not any("transitions" in name or "stages.1" in name for name, _ in first.named_parameters())


def test_parameters_are_grouped_by_depth(small):
    groups = group_parameters(small, small.group_matcher())
    order = [group[0] for group in groups.values()]
    assert order[0].startswith("stem")
    assert order[1].startswith("stages.0.blocks.0")
    assert order[-1].startswith("norm")
    assert len(order) == 2 + 2 * 5
    assert sum(len(group) for group in groups.values()) == len(list(small.parameters()))
