"""Learning rates: the closed form of the schedule, and the rate of each parameter."""

import dataclasses
import math

import pytest
import timm
import torch
from torch import nn

import heatbox.models  # noqa: F401 - registers its families with timm
from heatbox.training.optim import make_optimizer, parameter_groups, rate_at, set_rates
from heatbox.training.recipes import get_recipe


def test_the_rate_warms_up_peaks_and_falls_like_a_cosine():
    rates = [rate_at(step, 110, 10, 0.01) for step in range(110)]
    assert rates[:11] == pytest.approx([(step + 1) / 11 for step in range(11)])
    assert max(rates) == rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.01)
    # Half-way between peak and end, 99 steps apart, the cosine is half-way between their values.
    middle = (rates[59] + rates[60]) / 2
    assert middle == pytest.approx((1 + 0.01) / 2, abs=1e-4)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_without_warm_up_it_starts_at_the_peak():
    assert rate_at(0, 10, 0, 0.0) == 1.0
    assert rate_at(9, 10, 0, 0.0) == pytest.approx(0.0, abs=1e-12)
    assert rate_at(0, 1, 0, 0.0) == 1.0


CONFIG = dataclasses.replace(get_recipe("replknet_31b_in1k_384"), weight_decay=0.1)


@pytest.mark.parametrize("name", ["test_replknet", "test_slak", "convnext_atto", "resnet18"])
def test_every_parameter_is_in_one_group(name):
    model = timm.create_model(name, num_classes=4)
    groups = parameter_groups(model, CONFIG)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    head = {id(parameter) for parameter in model.get_classifier().parameters()}
    for group in groups:
        for parameter in group["params"]:
            assert group["peak"] == (1e-4 if id(parameter) in head else 1e-5)
            assert group["weight_decay"] == (0.0 if parameter.ndim < 2 else 0.1)


def test_layer_decay_falls_by_its_factor_from_layer_to_layer():
    model = timm.create_model("test_replknet", num_classes=4)
    config = dataclasses.replace(CONFIG, layer_decay=0.5)
    peaks = {
        id(parameter): group["peak"]
        for group in parameter_groups(model, config)
        for parameter in group["params"]
    }
    stem = peaks[id(model.stem[0].conv.weight)]
    first = peaks[id(model.stages[0].blocks[0].pw1.conv.weight)]
    second = peaks[id(model.stages[0].blocks[1].pw1.conv.weight)]
    assert stem < first < second < 1e-5
    assert math.log2(second / first) == pytest.approx(1)
    assert math.log2(first / stem) == pytest.approx(1)
    assert peaks[id(model.head.weight)] == 1e-4


def test_rates_are_fractions_of_the_peaks():
    optimizer = make_optimizer(timm.create_model("test_slak", num_classes=4), CONFIG)
    set_rates(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25e-5, 0.25e-4}


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    groups = parameter_groups(model, CONFIG)
    assert sum(p.numel() for group in groups for p in group["params"]) == 8
    assert torch.is_tensor(groups[0]["params"][0])
