"""The stratified, held-out part of the images."""

import random
from collections import Counter

import pytest

from heatbox.data.held_out import held_out_part
from heatbox.data.types import Example
from heatbox.errors import InputError


def of_classes(*counts):
    return [
        Example(f"{label}/{number}.jpg", label, (0, 0))
        for label, count in enumerate(counts)
        for number in range(count)
    ]


def held_per_class(examples, chosen, classes):
    counts = Counter(
        label for one, held in zip(examples, chosen, strict=True) if held for label in one.labels
    )
    return [counts[label] for label in range(classes)]


def test_the_same_fraction_of_every_class_but_never_all_of_it():
    examples = of_classes(100, 10, 5, 3, 2, 1, 0)
    chosen = held_out_part(examples, 7, 0.2)
    assert held_per_class(examples, chosen, 7) == [20, 2, 1, 1, 1, 0, 0]
    assert held_per_class(examples, held_out_part(examples, 7, 0.9), 7) == [90, 9, 4, 2, 1, 0, 0]
    assert not held_out_part(examples, 7, 0).any()


def test_the_choice_depends_on_the_seed_and_not_on_the_order():
    examples = of_classes(30, 30)
    ids = {e.id for e, held in zip(examples, held_out_part(examples, 2), strict=True) if held}
    shuffled = random.Random(1).sample(examples, len(examples))
    again = {e.id for e, held in zip(shuffled, held_out_part(shuffled, 2), strict=True) if held}
    other = {e.id for e, held in zip(examples, held_out_part(examples, 2, seed=1), strict=True) if held}
    assert ids == again != other


@pytest.mark.parametrize("seed", range(20))
def test_images_of_several_classes_leave_each_class_something_to_train_on(seed):
    rng = random.Random(seed)
    examples = []
    for number in range(60):
        labels = tuple(sorted({min(int(rng.expovariate(0.7)), 7) for _ in range(rng.choice((1, 2, 3)))}))
        examples.append(Example(f"{number}", labels[0], (0, 0), labels=labels))
    chosen = held_out_part(examples, 8, 0.25, seed)
    total = held_per_class(examples, [True] * 60, 8)
    held = held_per_class(examples, chosen, 8)
    for have, out in zip(total, held, strict=True):
        assert out < have or have == 0
        if have >= 8:
            assert 0.1 <= out / have <= 0.45


def test_a_fraction_of_everything_is_refused():
    with pytest.raises(InputError, match="expected one in"):
        held_out_part(of_classes(3), 1, 1.0)
