"""Sparse training: counts are exact, the smallest weights are pruned, as many grow, none in between."""

import copy

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from heatbox.errors import InputError
from heatbox.models.slak import recover_masks
from heatbox.training.sparse import Masks, maskable, pruned_and_regrown, snip_counts


@pytest.fixture
def network():
    torch.manual_seed(0)
    return timm.create_model("test_slak", num_classes=5)


def loss_of(images, labels):
    return lambda model: nn.functional.cross_entropy(model(images), labels)


def batch():
    return torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])


def snip_by_hand(model, loss, sparsity):
    """The definition, entry by entry: counts per layer among the largest |weight x gradient|."""
    loss(model).backward()
    entries = [
        (abs(w * g), name)
        for name, weight in maskable(model).items()
        for w, g in zip(weight.detach().flatten().tolist(), weight.grad.flatten().tolist(), strict=True)
    ]
    entries.sort(reverse=True)
    kept = entries[: round((1 - sparsity) * len(entries))]
    return {name: sum(n == name for _, n in kept) for name in maskable(model)}


def test_snip_counts_follow_the_definition():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).double()
    loss = loss_of(torch.randn(5, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1]))
    counts = snip_counts(copy.deepcopy(model), loss, 0.4)
    assert counts == snip_by_hand(model, loss, 0.4)
    assert sum(counts.values()) == round(0.6 * (108 + 432))


@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.9])
def test_the_sparsity_is_the_requested_one(network, sparsity):
    counts = snip_counts(copy.deepcopy(network), loss_of(*batch()), sparsity)
    masks = Masks.drawn(network, counts, seed=3)
    total = sum(weight.numel() for weight in maskable(network).values())
    assert sum(int(mask.sum()) for mask in masks.kept.values()) == round((1 - sparsity) * total)
    assert masks.sparsity == pytest.approx(sparsity, abs=1 / total)
    for name, weight in maskable(network).items():
        assert int(masks.kept[name].sum()) == counts[name]
        assert not weight.detach()[~masks.kept[name]].any()


@given(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**31 - 1))
@settings(max_examples=200, deadline=None)
def test_pruning_and_regrowing_keep_the_count(size, density, rate, seed):
    rng = np.random.default_rng(seed)
    kept = torch.from_numpy(rng.random(size) < density)
    weight = torch.from_numpy(rng.standard_normal(size)) * kept
    after = pruned_and_regrown(weight, kept, rate, torch.Generator().manual_seed(seed))
    assert int(after.sum()) == int(kept.sum())
    dropped, grown = kept & ~after, after & ~kept
    number = min(round(rate * int(kept.sum())), int((~kept).sum()))
    assert int(dropped.sum()) == int(grown.sum()) == number
    if number:  # the dropped are the smallest of the kept
        survivors = (kept & after).nonzero().flatten()
        if len(survivors):
            assert weight[dropped].abs().max() <= weight[survivors].abs().min()


def test_masks_hold_through_steps_updates_and_the_average(network):
    from timm.utils import ModelEmaV3

    counts = snip_counts(copy.deepcopy(network), loss_of(*batch()), 0.4)
    masks = Masks.drawn(network, counts, seed=0, prune_rate=0.3, every=2, steps=8)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.1)
    average = ModelEmaV3(network, decay=0.9)
    wanted, seen = sum(counts.values()), []
    for step in range(8):
        loss_of(*batch())(network).backward()
        masks.mask_gradients()
        optimizer.step()
        optimizer.zero_grad()
        masks.apply(network)
        before = {name: mask.clone() for name, mask in masks.kept.items()}
        changed = masks.update(step + 1, optimizer)
        average.update(network, step)
        masks.apply(average.module)
        assert changed == ((step + 1) % 2 == 0 and step + 1 < 8)
        assert changed == any(not torch.equal(before[name], masks.kept[name]) for name in before)
        assert sum(int(mask.sum()) for mask in masks.kept.values()) == wanted
        for model in (network, average.module):
            for name, weight in maskable(model).items():
                assert not weight.detach()[~masks.kept[name]].any()
        for name, weight in maskable(network).items():
            assert not optimizer.state[weight]["exp_avg"][~masks.kept[name]].any()
            grown = masks.kept[name] & ~before[name]
            assert not weight.detach()[grown].any()  # they start from zero
            assert not optimizer.state[weight]["exp_avg_sq"][grown].any()
        seen.append(changed)
    assert sum(seen) == 3


def test_the_prune_rate_falls_by_a_cosine(network):
    masks = Masks(network, {}, prune_rate=0.5, every=10, steps=100)
    assert masks.prune_rate_at(0) == 0.5
    assert masks.prune_rate_at(50) == pytest.approx((0.5 + 0.005) / 2)
    assert masks.prune_rate_at(100) == pytest.approx(0.005)


def test_masks_of_a_file_are_its_zeros(network):
    with torch.no_grad():
        for weight in (network.stages[0][0].pwconv1.weight, network.head.weight):
            weight.view(-1)[::3] = 0
    masks = Masks.recovered(network)
    assert set(masks.kept) == {"stages.0.0.pwconv1.weight", "head.weight"}
    assert masks.sparsity == pytest.approx(1 / 3, abs=0.01)
    assert all(torch.equal(masks.kept[n], m) for n, m in recover_masks(network.state_dict()).items())


def test_the_same_seed_draws_the_same_masks(network):
    counts = {name: weight.numel() // 2 for name, weight in maskable(network).items()}
    first, again, other = (Masks.drawn(copy.deepcopy(network), counts, seed=s).kept for s in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_impossible_settings(network):
    with pytest.raises(InputError, match="update every 0 steps"):
        Masks(network, {}, every=0)
