"""Checkpoint files of every released layout, refused pickles, wrong models, conversion."""

import argparse
import os
import pickle
import re
from collections import defaultdict
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from timm.utils.model import reparameterize_model

from heatbox.errors import AssumptionWarning, InputError
from heatbox.models.checkpoints import (
    classes_in,
    convert_checkpoint,
    gap_fc_head,
    identify,
    load_checkpoint,
    read_checkpoint,
)
from heatbox.models.factory import create_model
from heatbox.models.spec import class_names


def relative(found, expected):
    expected = torch.as_tensor(expected)
    return ((found - expected).abs().max() / expected.abs().max()).item()


def new(name="test_replknet", num_classes=7):
    return timm.create_model(name, num_classes=num_classes).eval()


@pytest.fixture
def trained(golden_weights):
    return golden_weights(new())


def same(model, other, images):
    with torch.inference_mode():
        return relative(model(images), other(images)) < 1e-5


class RunsCode:
    """A pickle of this runs a command when it is read the ordinary way."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("layout", ["zip", "legacy", "bare"])
def test_a_pickle_that_would_run_code_is_refused(layout, tmp_path):
    mark, file = tmp_path / "mark", tmp_path / "weights.pth"
    content = {"model": {"head.weight": torch.zeros(2, 2)}, "extra": RunsCode(f"touch {mark}")}
    if layout == "bare":
        file.write_bytes(pickle.dumps(content["extra"], protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=layout == "zip")
    with pytest.raises(InputError, match=r"weights\.pth: refused, because reading it would run \w+\.system"):
        read_checkpoint(file)
    assert not mark.exists()
    if layout == "bare":  # unpickling the same file does run code
        pickle.loads(file.read_bytes())
        assert mark.exists()


@pytest.mark.parametrize("entry", ["", "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "_orig_mod."])
def test_official_layouts_load_as_they_are(entry, prefix, trained, tmp_path, golden_images):
    state = {prefix + name: tensor for name, tensor in trained.state_dict().items()}
    extra = {"args": argparse.Namespace(lr=4e-3), "epoch": 299, "optimizer": {"param_groups": [{"lr": 0.1}]}}
    torch.save({entry: state, **extra} if entry else state, tmp_path / "w.pth")
    model = new()
    report = load_checkpoint(model, tmp_path / "w.pth")
    assert (report.entry, report.num_classes, report.sparsity) == (entry, 7, 0)
    assert same(model, trained, golden_images(64))


@pytest.mark.parametrize("prefix", ["net.", "model.encoder.", "_forward_module.", "module."])
@pytest.mark.parametrize("rest", [{}, {"loss.weight": torch.ones(7)}, {"n_averaged": torch.tensor(3)}])
@pytest.mark.parametrize("own", [True, False])
def test_a_network_inside_a_trained_module(prefix, rest, own, trained, tmp_path, golden_images):
    state = {prefix + name: tensor for name, tensor in trained.state_dict().items()}
    torch.save({"state_dict": {**rest, **state}, "epoch": 3}, tmp_path / "w.ckpt")
    words = f"under '{prefix}' are used, 1 others are not"
    said = pytest.warns(AssumptionWarning, match=words) if rest else nullcontext()
    with said:
        model = create_model("test_replknet", 7 if own else None, tmp_path / "w.ckpt")
    assert same(model, trained, golden_images(64))


def test_two_networks_inside_a_trained_module(trained, tmp_path):
    names = trained.state_dict().items()
    state = {start + name: tensor for start in ("net.", "average.module.") for name, tensor in names}
    torch.save({"state_dict": state}, tmp_path / "w.ckpt")
    words = "has weights of RepLKNet under 'net.', 'average.module.', expected one of them alone"
    with pytest.raises(InputError, match=words):
        load_checkpoint(new(), tmp_path / "w.ckpt")


def test_counters_of_operations_are_no_weights(trained, tmp_path, golden_images):
    state = trained.state_dict() | {"total_ops": torch.zeros(1), "stem.0.total_params": torch.zeros(1)}
    torch.save(state, tmp_path / "w.pth")
    model = new()
    load_checkpoint(model, tmp_path / "w.pth")
    assert same(model, trained, golden_images(64))


@pytest.mark.parametrize(
    "value",
    [
        np.float64(0.9),
        np.float32(0.9),
        np.array([0.5, 0.25]),
        np.array(["cat", "dog"]),
        defaultdict(list, {"loss": [0.5]}),
        Path("runs/mine"),
        PureWindowsPath("runs/mine"),
        datetime(2026, 1, 2, tzinfo=UTC),
        timedelta(hours=3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_beside_the_weights(value, trained, tmp_path, golden_images):
    torch.save({"state_dict": trained.state_dict(), "hyper_parameters": {"a": value}}, tmp_path / "w.pth")
    model = new()
    load_checkpoint(model, tmp_path / "w.pth")
    assert same(model, trained, golden_images(64))


@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_values_of_numpy_1_and_2(module, trained, tmp_path):
    content = {"state_dict": trained.state_dict(), "best": np.float64(0.5), "mean": np.zeros(3)}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    written, count = re.subn(rb"numpy\._?core\.multiarray", module, (tmp_path / "w.pth").read_bytes())
    assert count
    (tmp_path / "w.pth").write_bytes(written)
    assert read_checkpoint(tmp_path / "w.pth").entry == "state_dict"


def test_entries_of_any_name(trained, tmp_path):
    state = trained.state_dict()
    torch.save({"best": state, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth").entry == "best"
    torch.save({"student": state, "teacher": state}, tmp_path / "w.pth")
    words = r"has weights under 'student', 'teacher'; choose one: heatbox convert .*w\.pth --entry student"
    with pytest.raises(InputError, match=words):
        read_checkpoint(tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth", "teacher").entry == "teacher"
    torch.save({"model": {"name": "resnet"}, "weights": state}, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth").entry == "weights"


@pytest.mark.parametrize(
    "fields",
    [
        {"classes": list("gfedcba")},
        {"class_to_idx": {name: number for number, name in enumerate("gfedcba")}},
        {"hyper_parameters": {"id2label": {str(number): name for number, name in enumerate("gfedcba")}}},
        {"meta": {"CLASSES": tuple("gfedcba")}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_names_of_classes_beside_the_weights(fields, trained, tmp_path):
    model = new()
    torch.save({"state_dict": trained.state_dict(), **fields}, tmp_path / "w.pth")
    load_checkpoint(model, tmp_path / "w.pth")
    assert class_names(model, 7) == list("gfedcba")
    torch.save({"state_dict": trained.state_dict(), "classes": ["a", "b"]}, tmp_path / "w.pth")
    load_checkpoint(other := new(), tmp_path / "w.pth")
    assert not class_names(other, 7)


def test_one_of_several_sets_of_weights_can_be_chosen(trained, tmp_path, golden_images):
    content = {"model": new().state_dict(), "model_ema": {"module": trained.state_dict()}, "epoch": 3}
    torch.save(content, tmp_path / "w.pth")
    model = new()
    with pytest.warns(AssumptionWarning, match="of the weights under 'model', 'model_ema', 'model' is used"):
        load_checkpoint(model, tmp_path / "w.pth")
    assert load_checkpoint(model, tmp_path / "w.pth", entry="model_ema").entry == "model_ema.module"
    assert same(model, trained, golden_images(64))
    with pytest.raises(InputError, match=r"no weights under 'ema', expected one of \['model', 'model_ema'\]"):
        read_checkpoint(tmp_path / "w.pth", entry="ema")


def test_safetensors_and_half_precision(trained, tmp_path, golden_images):
    halves = {name: t.half() if t.is_floating_point() else t for name, t in trained.state_dict().items()}
    safetensors.torch.save_file(halves, tmp_path / "w.safetensors")
    model = new()
    load_checkpoint(model, tmp_path / "w.safetensors")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.inference_mode():
        assert relative(model(golden_images(64)), trained(golden_images(64))) < 1e-2


def test_a_model_without_memory_takes_the_files_tensors(trained, tmp_path, golden_images):
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    with torch.device("meta"):
        model = new()
    load_checkpoint(model, tmp_path / "w.pth")
    assert same(model, trained, golden_images(64))


@pytest.mark.parametrize("name", ["test_replknet", "test_slak"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_merged_weights_merge_the_model(name, suffix, golden_weights, tmp_path, golden_images):
    model = golden_weights(new(name))
    merged = reparameterize_model(model)
    torch.save(merged.state_dict(), tmp_path / "w.pth")
    if suffix == ".safetensors":
        convert_checkpoint(tmp_path / "w.pth", tmp_path / "w.safetensors")
    again = new(name)
    load_checkpoint(again, tmp_path / f"w{suffix}")
    assert again.state_dict().keys() == merged.state_dict().keys()
    assert same(again, model, golden_images(64))


def test_zeros_of_dense_slak_files_are_reported(golden_weights, tmp_path):
    model = golden_weights(new("test_slak"))
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter *= torch.rand_like(parameter) > 0.4
    torch.save({"model": model.state_dict()}, tmp_path / "slak.pth")
    assert load_checkpoint(new("test_slak"), tmp_path / "slak.pth").sparsity == pytest.approx(0.4, abs=0.01)


def test_the_papers_convnext_file(golden, golden_state, golden_images, tmp_path):
    torch.save(golden_state(golden("convnext_base_wrapped")["keys"]), tmp_path / "renamed by its owner.pth")
    model = create_model("convnext_base", checkpoint=tmp_path / "renamed by its owner.pth")
    assert isinstance(model.head.norm, torch.nn.Identity)
    assert model.get_classifier().weight.shape == (200, 1024)
    with torch.inference_mode():
        features = model.forward_features(golden_images(96))
        logits = model.forward_head(features)
    assert relative(features, golden("convnext_base_wrapped")["features_map_96"]) < 1e-5
    assert relative(logits, golden("convnext_base_wrapped")["logits_96"]) < 1e-5
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 384, 384)
    assert config["mean"] == config["std"] == (0.5, 0.5, 0.5)
    assert (config["crop_mode"], config["interpolation"]) == ("squash", "bilinear")


def test_the_papers_replknet_file_brings_its_preprocessing(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "replknet_31B1K384_CUB.pth")
    model = new()
    load_checkpoint(model, tmp_path / "replknet_31B1K384_CUB.pth")
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 384, 384)
    assert config["mean"] == (0.5, 0.5, 0.5)
    assert (config["crop_mode"], config["interpolation"]) == ("squash", "bilinear")
    torch.save(trained.state_dict(), tmp_path / "RepLKNet-31B_ImageNet-1K_384.pth")
    report = load_checkpoint(new(), tmp_path / "RepLKNet-31B_ImageNet-1K_384.pth")
    assert report.preprocessing == {"input_size": (3, 384, 384), "crop_pct": 1.0, "crop_mode": "squash"}


def original_name(name):
    """The ConvNeXt authors' name of one of timm's parameters."""
    for ours, theirs in (
        ("head.norm.", "norm."),
        ("head.fc.", "head."),
        ("stem.", "downsample_layers.0."),
        (".blocks.", "."),
        ("conv_dw", "dwconv"),
        ("mlp.fc", "pwconv"),
    ):
        name = name.replace(ours, theirs)
    stage, down, rest = name.partition(".downsample.")
    return f"downsample_layers.{stage[-1]}.{rest}" if down else name


def test_the_original_convnext_names_are_timms(tmp_path, golden_images):
    model = timm.create_model("test_convnext", num_classes=7).eval()
    torch.save({"model": {original_name(n): t for n, t in model.state_dict().items()}}, tmp_path / "w.pth")
    again = timm.create_model("test_convnext", num_classes=7).eval()
    load_checkpoint(again, tmp_path / "w.pth")
    assert same(again, model, golden_images(64))


def test_the_original_convnext_names_are_recognised():
    with torch.device("meta"):
        state = timm.create_model("convnext_tiny").state_dict()
    model, likeness = identify({original_name(name): tensor for name, tensor in state.items()})
    assert (model.name, likeness) == ("convnext_tiny", 1.0)


def test_weights_with_a_head_norm_start_a_gap_fc_model(tmp_path):
    pretrained = timm.create_model("test_convnext", num_classes=11).eval()
    torch.save(pretrained.state_dict(), tmp_path / "w.pth")
    model = gap_fc_head(timm.create_model("test_convnext", num_classes=7))
    head = model.head.fc.weight.clone()
    report = load_checkpoint(model, tmp_path / "w.pth", head=False)
    assert report.left_out == ("head.norm.weight", "head.norm.bias", "head.fc.weight", "head.fc.bias")
    assert torch.equal(model.head.fc.weight, head)
    assert torch.equal(model.stem[0].weight, pretrained.stem[0].weight)


def test_another_number_of_classes(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    model = new(num_classes=3)
    with pytest.raises(InputError, match="classifier of 7 classes where the model has 3"):
        load_checkpoint(model, tmp_path / "w.pth")
    report = load_checkpoint(model, tmp_path / "w.pth", head=False)
    assert report.left_out == ("head.weight", "head.bias")
    assert torch.equal(model.stem[0].conv.weight, trained.stem[0].conv.weight)
    assert create_model("test_replknet", checkpoint=tmp_path / "w.pth").num_classes == 7


def test_a_file_of_the_wrong_model_says_what_it_looks_like(tmp_path):
    merged = reparameterize_model(timm.create_model("test_slak", num_classes=9))
    torch.save(merged.state_dict(), tmp_path / "w.pth")
    model = new()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError) as raised:
        load_checkpoint(model, tmp_path / "w.pth")
    message = str(raised.value)
    assert message.startswith(
        f"{tmp_path / 'w.pth'}: does not fit RepLKNet: 'stem.0.conv.weight' is missing (first of 242), "
        "'downsample_layers.0.0.weight' is unexpected (first of 66), "
    )
    assert message.endswith("; the file looks like test_slak (num_classes=9)")
    torch.testing.assert_close(dict(model.state_dict()), before)


def test_kernel_sizes_are_told_apart():
    with torch.device("meta"):
        state = timm.create_model("slak_tiny", kernel_size=61, num_classes=5).state_dict()
    model, likeness = identify(state)
    assert (model.name, dict(model.kwargs), likeness) == ("slak_tiny_k61", {"kernel_size": 61}, 1.0)
    assert classes_in(state) == 5


def test_a_file_of_no_model_of_ours(tmp_path):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match="looks like none of the models that `heatbox models` lists"):
        load_checkpoint(new(), tmp_path / "w.pth")


def test_a_wrong_file_leaves_the_models_form_alone(tmp_path):
    state = reparameterize_model(new()).state_dict()
    del state["norm.weight"]
    torch.save(state, tmp_path / "w.pth")
    model = new()
    with pytest.raises(InputError, match=r"'norm\.weight' is missing \(first of 1\)"):
        load_checkpoint(model, tmp_path / "w.pth")
    assert "stages.0.blocks.0.large_kernel.lkb_origin.conv.weight" in model.state_dict()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pth", b"", "not a checkpoint, or damaged"),
        ("text.pth", b"<html>404 Not Found</html>", "not a checkpoint; expected tensors only"),
        ("short.safetensors", b"\xff\x00\x00\x00\x00\x00\x00\x00{", "safetensors file is damaged"),
    ],
)
def test_files_that_are_no_checkpoints(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        read_checkpoint(tmp_path / name)


def test_damaged_and_missing_files(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"half\.pth: not a checkpoint, or damaged"):
        read_checkpoint(tmp_path / "half.pth")
    with pytest.raises(InputError, match=r"none\.pth: no such checkpoint file"):
        read_checkpoint(tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="contains a list, expected names and their tensors"):
        read_checkpoint(tmp_path / "list.pth")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "log.pth")
    with pytest.raises(InputError, match="contains no tensors, only 'epoch', 'lr', expected a state_dict"):
        read_checkpoint(tmp_path / "log.pth")


def test_converted_files_say_what_they_are(golden_weights, tmp_path, golden_images):
    model = golden_weights(timm.create_model("slak_nano", num_classes=7))
    torch.save({"model": {"module." + n: t for n, t in model.state_dict().items()}}, tmp_path / "w.pth")
    report = convert_checkpoint(tmp_path / "w.pth", tmp_path / "w.safetensors")
    assert (report.model, report.num_classes) == ("slak_nano", 7)
    checkpoint = read_checkpoint(tmp_path / "w.safetensors")
    assert checkpoint.metadata["timm_name"] == "slak_nano"
    assert checkpoint.metadata["num_classes"] == "7"
    assert checkpoint.metadata["source"] == "w.pth"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pth", "w.safetensors"]
    again = create_model("slak_nano", checkpoint=tmp_path / "w.safetensors")
    assert same(again, model, golden_images(64))


def test_conversion_keeps_preprocessing(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "replknet_31B1K384_CUB.pth")
    first = convert_checkpoint(tmp_path / "replknet_31B1K384_CUB.pth", tmp_path / "a.safetensors")
    second = convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert first.preprocessing["mean"] == (0.5, 0.5, 0.5)
    assert second.preprocessing == first.preprocessing
    model = new()
    load_checkpoint(model, tmp_path / "b.safetensors")
    assert model.pretrained_cfg["std"] == (0.5, 0.5, 0.5)


def test_half_takes_half_the_space_and_loads_as_float32(trained, tmp_path):
    state = {**trained.state_dict(), "norm.running_var": torch.full((24,), 1e6)}  # beyond float16
    torch.save(state, tmp_path / "w.pth")
    convert_checkpoint(tmp_path / "w.pth", tmp_path / "full.safetensors")
    convert_checkpoint(tmp_path / "w.pth", tmp_path / "half.safetensors", half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    for name, tensor in read_checkpoint(tmp_path / "half.safetensors").state.items():
        fits = tensor.is_floating_point() and state[name].abs().max() < 65504
        assert tensor.dtype == (torch.float16 if fits else state[name].dtype)
        assert torch.allclose(tensor.to(state[name].dtype), state[name], rtol=1e-3, atol=1e-7)


def test_files_of_unknown_models_are_converted_too(tmp_path):
    torch.save({"layer.weight": torch.eye(3)}, tmp_path / "w.pth")
    report = convert_checkpoint(tmp_path / "w.pth", tmp_path / "w.safetensors")
    assert report.model == ""
    assert torch.equal(read_checkpoint(tmp_path / "w.safetensors").state["layer.weight"], torch.eye(3))
    with pytest.raises(InputError, match="cannot be written"):
        convert_checkpoint(tmp_path / "w.pth", tmp_path / "nowhere" / "w.safetensors")


def test_hub_names_are_fetched_by_timm(trained, monkeypatch, golden_images):
    asked = []

    def fetch(name):
        asked.append(name)
        return trained.state_dict()

    monkeypatch.setattr("timm.models._hub.load_state_dict_from_hf", fetch)
    model = create_model("test_replknet", checkpoint="hf-hub:someone/some_model")
    assert asked == ["someone/some_model"]
    assert same(model, trained, golden_images(64))

    def offline(name):
        raise ConnectionError("no route")

    monkeypatch.setattr("timm.models._hub.load_state_dict_from_hf", offline)
    with pytest.raises(InputError, match=r"could not be fetched from the hub \(ConnectionError: no route\)"):
        read_checkpoint("hf-hub:someone/some_model")


def test_class_numbers_of_thousands_of_digits(tmp_path):
    torch.save({"model": {"weight": torch.zeros(2)}, "classes": {"1" * 5000: "cat"}}, tmp_path / "long.pth")
    assert "class_names" not in read_checkpoint(tmp_path / "long.pth").metadata
