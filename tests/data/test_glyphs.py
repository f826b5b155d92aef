"""The embedded data set: reproducible, varied, and true to its boxes and masks."""

import numpy as np
import pytest

from heatbox.data.glyphs import CLASS_NAMES, SHAPES, glyphs, glyphs_cue_conflict
from heatbox.errors import InputError

COUNT = 300


@pytest.fixture(scope="module")
def train():
    return glyphs("train", COUNT)


def area(split):
    boxes = np.concatenate([example.boxes for example in split])
    return (boxes[:, 2:] - boxes[:, :2]).prod(1) / 64**2


def centres(split):
    boxes = np.concatenate([example.boxes for example in split])
    return (boxes[:, 2:] + boxes[:, :2]) / 2 / 64


def test_sizes_of_the_splits():
    assert len(SHAPES) == 10
    assert [len(glyphs(name, None)) for name in ("fullsup", "test")] == [500, 500]


def test_same_seed_same_images(train):
    again = glyphs("train", 3)
    for one, other in zip(train.examples[:3], again.examples, strict=True):
        assert one.id == other.id
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(np.asarray(train.open_image(one)), np.asarray(again.open_image(other)))


def test_other_seeds_and_splits_are_other_images(train):
    first = np.asarray(train.open_image(train.examples[0]))
    for other in (glyphs("test", 1), glyphs("train", 1, seed=1)):
        assert not np.array_equal(first, np.asarray(other.open_image(other.examples[0])))


def test_images_do_not_depend_on_the_count(train):
    few = glyphs("train", 5)
    assert np.array_equal(
        np.asarray(few.open_image(few.examples[4])), np.asarray(train.open_image(train.examples[4]))
    )


def test_boxes_fit_their_masks_exactly(train):
    for example in train:
        mask = train.open_mask(example)
        x1, y1, x2, y2 = example.boxes[0].astype(int)
        assert mask[y1:y2, x1:x2].sum() == mask.sum() > 0
        for side in (mask[y1, x1:x2], mask[y2 - 1, x1:x2], mask[y1:y2, x1], mask[y1:y2, x2 - 1]):
            assert side.any()


def test_sizes_span_the_range(train):
    shares = area(train)
    assert shares.min() > 0.08
    assert shares.max() < 0.64
    assert (shares < 0.15).mean() > 0.1
    assert (shares > 0.4).mean() > 0.1


def test_objects_are_off_centre_as_often_as_centred(train):
    small = area(train) < 0.25  # large ones have little room to move
    away = np.abs(centres(train)[small] - 0.5).max(1)
    assert 0.35 < (away > 0.15).mean() < 0.65


def test_classes_are_balanced_and_texture_says_nothing(train):
    labels = np.array([example.label for example in train])
    assert (np.bincount(labels) == COUNT // 10).all()
    means = np.array([np.asarray(train.open_image(example)).mean((0, 1)) for example in train])
    by_class = np.array([means[labels == label].mean(0) for label in range(10)])
    assert by_class.std(0).max() < 3 * means.std(0).max() / (COUNT / 10) ** 0.5


def test_object_differs_from_its_ground(train):
    differences = []
    for example in train.examples[:100]:
        image, mask = np.asarray(train.open_image(example)) / 255, train.open_mask(example).astype(bool)
        differences.append(np.abs(image[mask].mean(0) - image[~mask].mean(0)).sum())
    assert np.median(differences) > 0.6
    assert np.min(differences) > 0.1


def test_cue_conflict_pairs():
    split = glyphs_cue_conflict(180)
    names = [example.id.split("/")[1].removesuffix(".png") for example in split]
    pairs = [tuple(part.rstrip("0123456789") for part in name.split("-")) for name in names]
    assert all(shape != texture for shape, texture in pairs)
    assert {pairs.count(pair) for pair in pairs} == {2}
    assert [CLASS_NAMES.index(shape) for shape, _ in pairs] == [example.label for example in split]
    assert split.open_image(split.examples[7]).size == (64, 64)


def test_texture_match_dresses_objects_as_their_class():
    always, never = glyphs("train", 40, texture_match=1.0), glyphs("train", 40)
    same = [
        np.array_equal(always.open_mask(a), never.open_mask(b)) for a, b in zip(always, never, strict=True)
    ]
    assert all(same)
    differ = [
        not np.array_equal(np.asarray(always.open_image(a)), np.asarray(never.open_image(b)))
        for a, b in zip(always, never, strict=True)
    ]
    assert sum(differ) > 25


@pytest.mark.parametrize(
    "arguments",
    [{"split": "val"}, {"size": 8}, {"count": 0}, {"texture_match": 2}],
    ids=lambda a: next(iter(a)),
)
def test_bad_arguments(arguments):
    with pytest.raises(InputError):
        glyphs(**arguments)
