"""The proposed boxes of many images: in arrays, in the order of the split, and written in little memory."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from heatbox.boxes.outlines import mask_outline
from heatbox.data.formats.options import WriteOptions
from heatbox.data.types import Example, Examples, Split, changed
from heatbox.data.write import write_splits
from heatbox.labeling.proposals import ids_by, with_proposals

NAMES = ["cat", "dog", "owl"]


def boxed(example, count, random, outlined=False):
    """An example with random boxes of its classes."""
    masks = random.random((count, 224, 224)) > 0.7
    masks[:, :200] = False
    return dataclasses.replace(
        example,
        boxes=random.random((count, 4)) * 50,
        box_labels=random.choice(example.labels, count),
        box_scores=random.random(count),
        outlines=tuple(mask_outline(m) * (np.array(example.size) / 224) for m in masks) if outlined else None,
    )


@pytest.mark.parametrize("outlined", [False, True])
def test_boxes_come_back_exactly_in_the_order_of_the_split(outlined):
    random = np.random.default_rng(0)
    blank = [Example(f"{i}.jpg", i % 3, (333 + i, 50), labels=(i % 3, 2)) for i in range(9)]
    nothing = Example("nothing.jpg", -1, (20, 20))
    split = Split("s", [*blank[:4], nothing, *blank[4:]], NAMES, None)
    wanted = {one.id: boxed(one, count, random, outlined) for count, one in enumerate(blank) if count != 7}
    found = with_proposals(split, reversed(wanted.values()))
    assert [one.id for one in found] == [one.id for one in split if one.id != "7.jpg"]
    for one in found:
        expected = wanted.get(one.id, nothing)
        assert (one.label, one.labels, one.size) == (expected.label, expected.labels, expected.size)
        np.testing.assert_array_equal(one.boxes, expected.boxes)
        if one.id in wanted:
            np.testing.assert_array_equal(one.box_labels, expected.box_labels)
            np.testing.assert_array_equal(one.box_scores, expected.box_scores)
        for mine, theirs in zip(one.outlines or (), expected.outlines or (), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)


def test_examples_are_a_sequence_and_changes_stay_lazy():
    made = []

    def make(place):
        made.append(place)
        return Example(str(place), 0, (1, 1))

    examples = changed(Examples(6, make), lambda one: dataclasses.replace(one, label=1, labels=(1,)))
    split = Split("s", examples, NAMES, None)
    assert not made
    assert [one.id for one in split.take(4).examples[1::2]] == ["1", "3"]
    assert split.examples[-1].id == "5"
    assert split.examples[-1].label == 1
    with pytest.raises(IndexError):
        split.examples[6]


def test_of_equal_ranks_the_first_image_comes_first():
    split = Split("s", [Example(name, 0, (1, 1)) for name in "dcba"], NAMES, None)
    assert ids_by(split, lambda one: one.id in "ca") == ["d", "b", "c", "a"]


@pytest.mark.parametrize("kind", ["coco", "csv", "labelstudio", "cvat", "coco-results"])
def test_an_image_takes_little_memory_while_files_are_written(tmp_path, kind):
    def peak(count):
        examples = [Example(f"{i % 3}/{i:06d}.jpg", i % 3, (640, 480)) for i in range(count)]
        blank = Split("all", examples, NAMES, None)
        random = np.random.default_rng(0)
        split = with_proposals(blank, (boxed(one, 1, random) for one in examples))
        tracemalloc.start()
        name = "boxes.zip" if kind == "cvat" else "boxes.csv" if kind == "csv" else "boxes.json"
        write_splits(split, tmp_path / str(count) / name, kind, WriteOptions())
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)  # what is kept for later calls
    assert (peak(1200) - peak(200)) / 1000 < 400


def test_images_of_one_name_without_ending_get_names_of_their_own(tmp_path):
    examples = [Example(name, 0, (4, 4)) for name in ("a.jpg", "a.png", "a.bmp")]

    def opened(example):
        from PIL import Image

        return Image.new("RGB", (4, 4))

    write_splits(Split("s", examples, NAMES, opened), tmp_path / "out", "coco")
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.png")) == ["a-2.png", "a-3.png", "a.png"]
