"""Which images a device gets: a partition of the epoch's order, from any step, whichever process decodes."""

import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heatbox.data.glyphs import glyphs
from heatbox.errors import InputError
from heatbox.training.data import Plan, batches, cached
from heatbox.training.recipes import get_recipe

plans = st.builds(
    lambda micro_batch, accumulation, world, epochs, steps, rest, seed: Plan(
        images=micro_batch * accumulation * world * steps + rest,
        batch_size=micro_batch * accumulation * world,
        micro_batch_size=micro_batch,
        epochs=epochs,
        seed=seed,
        world_size=world,
    ),
    micro_batch=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    world=st.integers(1, 3),
    epochs=st.integers(1, 3),
    steps=st.integers(1, 4),
    rest=st.just(0),
    seed=st.integers(0, 100),
)


@given(plans, st.data())
@settings(max_examples=100, deadline=None)
def test_devices_share_the_batches_of_one(plan, data):
    """The devices' micro-batches are, one by one, those of a single device that accumulates."""
    alone = list(dataclasses.replace(plan, world_size=1).keys())
    ranks = [list(dataclasses.replace(plan, rank=rank).keys()) for rank in range(plan.world_size)]
    together = []
    for step in range(plan.steps):
        for keys in ranks:
            together += keys[step * plan.accumulation : (step + 1) * plan.accumulation]
    assert together == alone
    for epoch in range(plan.epochs):
        seen = [index for micro_batch in alone for e, index in micro_batch if e == epoch]
        assert sorted(seen) == list(range(plan.images))
    first = data.draw(st.integers(0, plan.steps))
    per_step = dataclasses.replace(plan, world_size=1).accumulation
    assert list(dataclasses.replace(plan, world_size=1).keys(first)) == alone[first * per_step :]


def test_epochs_differ_in_order():
    plan = Plan(images=50, batch_size=10, micro_batch_size=10, epochs=2)
    assert not np.array_equal(plan.order(0), plan.order(1))
    assert np.array_equal(plan.order(1), Plan(50, 10, 5, 9, world_size=2).order(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 7}, "7 training images do not fill a batch of 8"),
        ({"micro_batch_size": 3}, "not divisible by 1 devices x 3 images"),
        ({"world_size": 3}, "not divisible by 3 devices x 4 images"),
        ({"epochs": 0}, "must be at least 1"),
    ],
)
def test_plans_that_cannot_be(change, message):
    with pytest.raises(InputError, match=message):
        Plan(**{"images": 20, "batch_size": 8, "micro_batch_size": 4, "epochs": 1} | change)


CONFIG = dataclasses.replace(
    get_recipe("glyphs_resnet"), batch_size=8, per_device=4, epochs=2, auto="rand-m9-mstd0.5-inc1"
)


def test_images_depend_neither_on_the_process_nor_on_the_time_of_decoding():
    split = cached(glyphs("train", 24))
    plan = Plan(24, 8, 4, 2)
    whole = list(batches(split, CONFIG, plan))
    assert len(whole) == 12
    torch.manual_seed(99)
    by_workers = list(batches(split, CONFIG, plan, workers=2))
    later = list(batches(split, CONFIG, plan, first_step=4))
    for a, b in zip(whole, by_workers, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    for a, b in zip(whole[8:], later, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_images_are_augmented_differently_in_each_epoch():
    split = cached(glyphs("train", 8))
    micro_batches = list(batches(split, CONFIG, Plan(8, 8, 8, 2)))
    first, second = (images[indices.argsort()] for images, _, indices in micro_batches)
    assert not torch.equal(first, second)
    assert [labels[indices.argsort()].tolist() for _, labels, indices in micro_batches] == [
        [example.label for example in split]
    ] * 2


def test_a_cached_split_opens_the_same_images():
    split = glyphs("test", 5)
    kept = cached(split)
    for example in split:
        assert np.array_equal(np.asarray(kept.open_image(example)), np.asarray(split.open_image(example)))
    assert list(islice(kept, 2)) == list(islice(split, 2))
