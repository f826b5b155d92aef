"""accelerate and restore on models of timm, of the official repositories and others."""

import pytest
import timm
import torch
from torch import nn

from heatbox.ops import DepthwiseConv2d, accelerate, restore
from heatbox.ops.accelerate import OFFICIAL_NAME


class Mixed(nn.Module):
    """One of every kind."""

    def __init__(self):
        super().__init__()
        self.large = nn.Conv2d(8, 8, 31, padding=15, groups=8, bias=False)
        self.tall = nn.Conv2d(8, 8, (51, 5), padding="same", groups=8)
        self.three = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.strided = nn.Conv2d(8, 8, 7, padding=3, stride=2, groups=8)
        self.dense = nn.Conv2d(8, 8, 7, padding=3)
        self.grouped = nn.Conv2d(8, 8, 7, padding=3, groups=2)

    def forward(self, x):
        return self.grouped(self.dense(self.strided(self.three(self.tall(self.large(x))))))


def test_swaps_what_is_eligible_says_so_and_puts_it_back(capsys):
    model = Mixed()
    before = {name: type(module) for name, module in model.named_modules()}
    keys, parameters = list(model.state_dict()), list(model.parameters())
    x = torch.randn(1, 8, 20, 20)
    expected = model(x)

    record = accelerate(model)

    assert record.swapped == {"large": (31, 31), "tall": (51, 5)}
    assert set(record.left) == {"three", "strided"}
    assert "stride" in record.left["strided"]
    printed = capsys.readouterr().out
    assert "2 accelerated, 2 left as they are" in printed
    assert "31 x 31: 1 accelerated" in printed
    assert isinstance(model.large, DepthwiseConv2d)
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)

    assert record.restore() is model
    assert {name: type(module) for name, module in model.named_modules()} == before
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_twice_changes_nothing_more_and_restore_needs_no_record(capsys):
    model = Mixed()
    accelerate(model, verbose=False)
    assert accelerate(model, verbose=False).swapped == {}
    assert capsys.readouterr().out == ""
    assert restore(model) == 2
    assert restore(model) == 0
    assert type(model.large) is nn.Conv2d


def test_hooks_and_training_survive():
    model, seen = Mixed(), []
    model.large.register_forward_hook(lambda *_: seen.append(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.large.weight.detach().clone()
    accelerate(model, verbose=False)
    model(torch.randn(2, 8, 20, 20)).square().mean().backward()
    optimizer.step()
    assert seen == [1]
    assert not torch.equal(model.large.weight, before)


@pytest.mark.parametrize("name", ["test_convnext", "convnext_atto"])
def test_convnext_of_timm(name):
    model = timm.create_model(name, num_classes=5).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        record = accelerate(model, verbose=False)
        got = model(x)
    assert set(record.swapped.values()) == {(7, 7)}
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_official_wrapper_pads_by_itself():
    class DepthWiseConv2dImplicitGEMM(nn.Conv2d):
        def __init__(self, channels, kernel, bias=False):
            super().__init__(channels, channels, kernel, groups=channels, bias=bias)

    assert DepthWiseConv2dImplicitGEMM.__name__ == OFFICIAL_NAME
    model = nn.Sequential(DepthWiseConv2dImplicitGEMM(4, 13))
    x = torch.randn(1, 4, 9, 9)
    expected = nn.functional.conv2d(x, model[0].weight, padding=6, groups=4)
    record = accelerate(model, verbose=False)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    record.restore()
    assert type(model[0]) is DepthWiseConv2dImplicitGEMM


def test_subclasses_with_a_forward_of_their_own_are_left():
    class Scaled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    record = accelerate(nn.Sequential(Scaled(4, 4, 7, padding=3, groups=4)), verbose=False)
    assert record.left == {"0": "its class is Scaled"}
