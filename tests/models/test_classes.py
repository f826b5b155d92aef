"""Classes of a data set among the outputs of a network."""

import pytest

from heatbox.errors import InputError
from heatbox.models.classes import match_classes


def test_wordnet_ids_have_the_positions_of_imagenet():
    # From the published class index: tench, gas pump, parachute are 0, 571, 701.
    assert match_classes(["n01440764", "n03425413", "n03888257"], (), 1000) == ([0, 571, 701], "WordNet id")
    with pytest.raises(InputError, match="class 'n99999999' is none of the 1000 classes"):
        match_classes(["n01440764", "n99999999"], (), 1000)


def test_wordnet_ids_of_another_network_are_names():
    assert match_classes(["n2", "n01440764"], ["n01440764", "n2"], 2) == ([1, 0], "name")


def test_names_are_matched_in_any_spelling():
    known = ["hen", "Sea_Lion, eared seal", "dog"]
    assert match_classes(["DOG", "sea-lion", "eared  Seal"], known, 3) == ([2, 1, 1], "name")


@pytest.mark.parametrize(
    ("names", "known", "number", "message"),
    [
        (["cet"], ["cat", "dog"], 2, "has no class 'cet', its 2 classes are cat, dog; did you mean cat"),
        (["crane"], ["crane", "x", "crane"], 3, "several classes of the network are named 'crane': 0 and 2"),
        (["a", "b"], (), 3, r"there are 2 classes \(a, b\), but the network has 3 outputs"),
        (list("abcd"), (), 1000, r"there are 4 classes \(a, b, c, \.\.\.\), but the"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(names, known, number, message):
    with pytest.raises(InputError, match=message):
        match_classes(names, known, number)


def test_equal_numbers_are_an_assumption():
    assert match_classes(["a", "b"], (), 2) == ([0, 1], "order")


def test_the_whole_name_comes_before_its_parts():
    assert match_classes(["seal"], ["lion, seal", "seal"], 2).positions == [1]
