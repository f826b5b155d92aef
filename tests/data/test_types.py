"""Examples with one, several and no labels."""

import dataclasses

import numpy as np
import pytest

from heatbox.data import Example, Split

BOXES = np.array([[0.0, 0, 2, 2], [1, 1, 3, 3]])


def test_the_labels_are_those_of_the_label_by_default():
    example = Example("a", 3, (4, 4), BOXES)
    assert example.labels == (3,)
    assert example.box_labels is example.box_scores is example.box_flags is None
    assert example.is_of(3).tolist() == [True, True]
    assert example.is_of(2).tolist() == [False, False]
    assert Example("a", -1, (0, 0)).labels == ()


def test_several_labels_are_sorted_and_each_is_there_once():
    example = Example("a", 2, (4, 4), BOXES, labels=(5, 2, 5), box_labels=np.array([5, 2]))
    assert example.labels == (2, 5)
    assert example.is_of(5).tolist() == [True, False]
    assert dataclasses.replace(example, id="b").labels == (2, 5)


@pytest.mark.parametrize(
    ("label", "fields", "message"),
    [
        (1, {"labels": (0, 2)}, r"a: label 1 is not among the labels \(0, 2\)"),
        (0, {"labels": ()}, r"label 0 is not among the labels \(\)"),
        (-1, {"labels": (0,)}, r"label -1 is not among the labels \(0,\)"),
        (0, {"box_labels": np.array([0])}, "box_labels has 1 entries, boxes has 2"),
        (0, {"box_scores": np.array([])}, "box_scores has 0 entries, boxes has 2"),
        (0, {"box_flags": ((), (), ())}, "box_flags has 3 entries, boxes has 2"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(label, fields, message):
    with pytest.raises(ValueError, match=message):
        Example("a", label, (4, 4), BOXES, **fields)


def test_classes_are_counted_over_all_labels():
    examples = [Example("a", 0, (4, 4), labels=(0, 7)), Example("b", -1, (4, 4))]
    assert Split("s", examples, (), lambda example: None).num_classes == 8
