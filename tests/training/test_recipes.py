"""The recipes against the paper's list of models, which is written out here independently."""

import dataclasses
import json

import pytest
import torch
from timm.models import is_model

from heatbox._utils.io import to_json
from heatbox.cli.main import main
from heatbox.data.glyphs import glyphs
from heatbox.errors import InputError
from heatbox.models.factory import create_model
from heatbox.models.zoo import ZOO
from heatbox.training.config import TrainConfig
from heatbox.training.recipes import PRETRAINED_ON, RECIPES, get_recipe, published
from heatbox.training.weights import built, start_model

CONFIGS = {name: make() for name, make in RECIPES.items()}
PAPER = {name: config for name, config in CONFIGS.items() if config.data != "glyphs" and config.size != 64}


def family(prefix):
    return {name: config for name, config in PAPER.items() if name.startswith(prefix)}


def test_there_are_the_36_models_of_the_paper():
    counts = {prefix: len(family(prefix)) for prefix in ("replknet", "convnext", "slak")}
    assert counts == {"replknet": 12, "convnext": 14, "slak": 10}
    assert len(PAPER) == 36
    files = {config.pretrained for config in PAPER.values()} - {"published"}
    assert files == set(PRETRAINED_ON)


def test_what_all_of_them_share():
    for name, config in PAPER.items():
        assert config.recipe == name
        assert (config.epochs, config.batch_size, config.per_device) == (400, 128, 16), name
        assert (config.lr_head, config.lr) == (1e-4, 1e-5), name
        assert config.checkpoint_every == 50, name
        assert config.weight_decay == 1e-8, name
        assert config.warmup_epochs == 1, name
        assert config.mixup == config.cutmix == 0, name
        assert config.data == "", name


def test_resolutions_means_and_files_of_replknet():
    expected = {
        "replknet_31b_in1k_224": (224, 0.485, "RepLKNet-31B_ImageNet-1K_224.pth"),
        "replknet_31b_in1k_384": (384, 0.485, "RepLKNet-31B_ImageNet-1K_384.pth"),
        "replknet_31b_in22k_224": (224, 0.485, "RepLKNet-31B_ImageNet-22K-to-1K_224.pth"),
        "replknet_31b_in22k_384": (384, 0.485, "RepLKNet-31B_ImageNet-22K-to-1K_384.pth"),
        "replknet_31l_in22k_384": (384, 0.485, "RepLKNet-31L_ImageNet-22K-to-1K_384.pth"),
        "replknet_xl_320": (320, 0.5, "RepLKNet-XL_MegData73M_ImageNet1K.pth"),
    }
    for name, facts in expected.items():
        config = CONFIGS[name]
        assert (config.size, config.mean[0], config.pretrained) == facts
    files = [weights.file for entry in ZOO for weights in entry.weights if weights.file]
    for name in expected:  # the zoo knows these files by the same names
        assert any(CONFIGS[name].pretrained.lower().startswith(file) for file in files), name


def test_convnext_starts_from_published_weights_with_the_paper_s_head():
    names = ("tiny", "small", "base", "base_in22ft1k", "base_384_in22ft1k", "large", "large_in22ft1k")
    assert set(family("convnext")) == {f"convnext_{n}{a}" for n in names for a in ("", "_aug")}
    for name, config in family("convnext").items():
        assert config.head == "gap_fc"
        assert config.pretrained == "published"
        assert config.size == (384 if "384" in name else 224)
        assert ("in22k_ft_in1k" in config.model) == ("in22ft1k" in name)
        assert is_model(config.model)


def test_sparse_schedules_of_slak():
    for name, config in family("slak").items():
        variant = config.model.removeprefix("slak_")
        assert config.sparsity == 0.4
        assert config.model_options["drop_path_rate"] == {"tiny": 0.1, "small": 0.4, "base": 0.5}[variant]
        assert config.mask_every == {"tiny": 2000, "small": 10, "base": 10}[variant]
        assert config.prune_rate == (0.5 if variant == "tiny" else 0.3)
        assert f"_k{config.model_options['kernel_size']}_{config.size}" in name
    sizes = sorted(config.size for config in family("slak").values())
    assert sizes == [224] * 5 + [384] * 5


def test_augmented_recipes_differ_in_their_augmentation_alone():
    pairs = [(CONFIGS[name.removesuffix("_aug")], config) for name, config in PAPER.items() if "_aug" in name]
    assert len(pairs) == 13
    for plain, augmented in pairs:
        fields = {f.name for f in dataclasses.fields(TrainConfig)}
        changed = {name for name in fields if getattr(plain, name) != getattr(augmented, name)}
        assert changed == {"recipe", "crop", "auto", "jitter", "erase"}
        assert augmented.auto == "rand-m9-mstd0.5-inc1"
        assert (augmented.jitter, augmented.erase, plain.smoothing) == (0.4, 0.25, 0.1)


@pytest.mark.parametrize("name", sorted(PAPER))
def test_every_model_of_the_paper_can_be_built(name):
    config = CONFIGS[name]
    with torch.device("meta"):
        model = built(config, 200)
    assert model.get_classifier().out_features == 200
    assert model.pretrained_cfg["mean"] == config.mean
    norm = getattr(getattr(model, "head", None), "norm", None)
    assert config.head == "own" or isinstance(norm, torch.nn.Identity)


def test_there_is_a_small_recipe_of_every_family():
    families = ("convnext", "replknet", "slak")
    small = {*(f"glyphs_{f}" for f in ("resnet", *families)), *(f"tiny_imagenet_{f}_nano" for f in families)}
    assert set(CONFIGS) - set(PAPER) == small


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - set(PAPER)))
def test_small_recipes_start_from_nothing(name):
    config = CONFIGS[name]
    assert config.pretrained == "scratch"
    assert (config.data == "glyphs") == name.startswith("glyphs")
    model = start_model(config, 10)
    assert model(torch.zeros(1, 3, config.size, config.size)).shape == (1, 10)


def test_configurations_survive_json():
    for config in CONFIGS.values():
        found = json.loads(to_json(config))
        rebuilt = TrainConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()})
        assert rebuilt == config


def test_published_numbers_are_named_beside_their_models():
    assert published("replknet_31b_in1k_384") == {"cam": (90.99, 76.4), "pc1": (93.6, 80.4)}
    assert published("slak_base_k51_384") == {}


def test_a_name_that_is_no_recipe():
    with pytest.raises(InputError, match="did you mean replknet_31b_in1k_384"):
        get_recipe("replknet_31b_in1k_385")


def test_the_list_of_recipes(capsys):
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in CONFIGS)
    assert "90.99 / 76.40" in printed
    assert main(["recipes", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(CONFIGS)


def test_an_absent_file_is_named_with_its_place(tmp_path, capsys):
    data = tmp_path / "data"
    for index, example in enumerate(glyphs("train", 4)):
        folder = data / "train" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        glyphs("train", 4).open_image(example).save(folder / f"{index}.png")
    command = ["train", "replknet_31b_in1k_384", "--data", str(data), "--out", str(tmp_path / "run")]
    assert main([*command, "--batch-size", "4", "--per-device", "4"]) == 2
    output = capsys.readouterr().err
    assert "RepLKNet-31B_ImageNet-1K_384.pth: no such file" in output
    assert "github.com/DingXiaoH/RepLKNet-pytorch" in output
    assert "--pretrained scratch" in output
    assert not (tmp_path / "run").exists()


def test_other_ways_to_go_wrong(tmp_path, capsys):
    small = ["train", "glyphs_resnet", "--out", str(tmp_path / "run"), "--no-tensorboard"]
    for options, message in [
        (["--data", str(tmp_path)], "no data set is recognized"),
        (["--per-device", "48"], "not divisible by 1 devices x 48 images"),
        (["--auto", "no-policy"], "is not a policy of timm's"),
        (["--sparsity", "1.5"], "expected a fraction in [0, 1)"),
        (["--model", "resnet19"], "there is no model named"),
        (["--method", "saliency"], "there is no map method"),
    ]:
        assert main([*small, *options]) == 2, options
        assert message in capsys.readouterr().err, options
        assert not (tmp_path / "run").exists(), options  # nothing is bound to a configuration that cannot be
    assert main(["train", "replknet_31b_in1k_384"]) == 2
    assert "name one with --data" in capsys.readouterr().err


def test_a_gap_fc_head_is_built_for_convnext():
    config = dataclasses.replace(CONFIGS["convnext_tiny"], model="convnext_atto", pretrained="scratch")
    model = start_model(config, 7)
    assert isinstance(model.head.norm, torch.nn.Identity)
    assert create_model("convnext_atto").head.norm is not model.head.norm
