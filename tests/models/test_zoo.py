"""The list of models and their golden counts."""

import pytest
import timm
import torch

from heatbox.errors import InputError
from heatbox.models.factory import create_model
from heatbox.models.zoo import ZOO, list_models, model_info


def test_every_model_is_listed_with_its_golden_counts():
    rows = {row.name: row for row in model_info(num_classes=200)}
    assert list(rows) == list_models()
    assert len(rows) == len(ZOO)
    assert rows["replknet_31b"].params == 79_044_168
    assert rows["replknet_31b"].macs == {224: 15_430_478_848, 384: 45_346_316_288}
    assert rows["replknet_31b"].merged_macs == {224: 15_352_706_048, 384: 45_117_759_488}
    assert rows["slak_tiny"].params == 49_904_638
    assert rows["slak_tiny"].macs == {224: 8_703_977_970, 384: 25_578_650_320}
    assert rows["convnext_base"].params == 87_769_416 + 2 * 1024  # and the LayerNorm in the head
    assert rows["replknet_xl"].mean == (0.5, 0.5, 0.5)
    assert ("31B1K384", 384, "github.com/DingXiaoH/RepLKNet-pytorch") in rows["replknet_31b"].checkpoints


def test_all_pretrained_models_of_the_paper_are_there():
    names = [weights.name.split(".")[-1] for entry in ZOO for weights in entry.weights]
    replknet = ["31B1K224", "31B1K384", "31B22K224", "31B22K384", "31L22K384", "XL"]
    slak = ["SLaK_tiny31", "SLaK_tiny51", "SLaK_tiny61", "SLaK_small51", "SLaK_base51"]
    assert set(replknet + slak) <= set(names)
    hub = [weights.name for entry in ZOO for weights in entry.weights if weights.name.startswith("hf-hub:")]
    assert len(hub) == 7
    for name in hub:  # timm has weights under each of these names
        assert timm.models.get_pretrained_cfg(
            name.removeprefix("hf-hub:timm/"), allow_unregistered=False
        ).hf_hub_id


@pytest.mark.parametrize(
    "name",
    [
        *("replknet_31b.in1k_384", "replknet_31b.in22k_ft_in1k", "replknet_31l", "replknet_xl"),
        *("slak_tiny", "slak_small", "slak_base", "convnext_tiny", "convnext_small", "convnext_base"),
        *("convnext_base_in22ft1k", "convnext_base_384_in22ft1k", "convnext_large_in22ft1k"),
    ],
)
@pytest.mark.filterwarnings("ignore:Mapping deprecated model name")
def test_models_of_the_paper_are_built_by_name(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=200)
    assert model.get_classifier().out_features == 200


def test_small_models_are_alike():
    models = {entry.name: entry.on_meta(num_classes=200) for entry in ZOO if entry.sides == (64,)}
    for name in ("replknet_nano", "slak_nano", "convnext_atto_64"):
        features = models[name].forward_features(torch.empty(1, 3, 64, 64, device="meta"))
        assert features.shape == (1, 320, 8, 8)
        assert 3e6 < sum(p.numel() for p in models[name].parameters()) < 5e6


def test_names_and_rows_belong_together():
    assert model_info("slak_tiny_k61").kwargs == {"kernel_size": 61}
    with pytest.raises(InputError, match="name is 'slak_huge', expected 'replknet_31b', "):
        model_info("slak_huge")
