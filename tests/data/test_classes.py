"""Classes of a data set and of a network: matched by WordNet ids or names, or refused."""

import warnings

import numpy as np
import pytest

from heatbox.data import Example, Split
from heatbox.data.classes import match_classes
from heatbox.data.open import open_split, open_training
from heatbox.errors import AssumptionWarning, InputError
from helpers import data_trees as trees

# Places in the list of ImageNet-1k of the tench, the gas pump and the parachute.
PLACES = {"n01440764": 0, "n03425413": 571, "n03888257": 701}
NETWORK = ["tench, Tinca tinca", "crane, bird", "crane", "gas pump, gasoline pump", "kite"]


def split_of(names, ids=(), labels=None):
    labels = range(len(names)) if labels is None else labels
    return Split("s", [Example(str(k), k, (9, 9)) for k in labels], names, lambda e: None, class_ids=ids)


def places(split, count, names=()):
    return [example.label for example in match_classes(split, count, names)]


@pytest.mark.parametrize("layout", ["folders", "val", "xml"])
def test_wordnet_ids_take_their_places_among_a_thousand(tmp_path, layout):
    for number, wnid in enumerate(PLACES, 1):
        name = {"folders": "a.jpg"}.get(layout, f"ILSVRC2012_val_{number:08d}.JPEG")
        trees.write_image(tmp_path / "val" / wnid / name)
        if layout == "xml":
            trees.write(tmp_path / f"Annotations/{name[:-5]}.xml", trees.xml(name, wnid))
    split = open_split(str(tmp_path), num_classes=1000)
    assert [e.label for e in split] == list(PLACES.values())
    assert len(split.class_names) == 1000
    assert [e.label for e in open_split(str(tmp_path))] == [0, 1, 2]
    assert [e.label for e in open_split(str(tmp_path), num_classes=3)] == [0, 1, 2]
    with pytest.raises(InputError, match=r"has 3 classes .*n01440764.*, the network 20"):
        open_split(str(tmp_path), num_classes=20)


def test_wordnet_ids_behind_words(tmp_path):
    trees.tiny(tmp_path)
    for path in (tmp_path / "wnids.txt", tmp_path / "words.txt"):
        path.write_text(path.read_text().replace("n02084071", "n03425413"))
    (tmp_path / "train/n02084071").rename(tmp_path / "train/n03425413")
    (tmp_path / "train/n03425413/n02084071_boxes.txt").rename(
        tmp_path / "train/n03425413/n03425413_boxes.txt"
    )
    split = open_split(f"{tmp_path}:train", num_classes=1000)
    assert [e.label for e in split] == [0, 0, 1, 1, 571, 571]
    assert split.class_names[0] == "tench, Tinca tinca"


def test_a_wordnet_id_that_is_none_of_the_thousand(tmp_path):
    for wnid in ("n01440764", "n09999999"):
        trees.write_image(tmp_path / wnid / "a.jpg")
    with pytest.raises(
        InputError, match=r"has 2 classes, the network 1000, and class 'n09999999' is not one of"
    ):
        open_split(str(tmp_path), num_classes=1000)


def test_the_full_set_is_as_it_was():
    from timm.data import ImageNetInfo

    ids = ImageNetInfo("imagenet-1k").label_names()
    split = split_of(ids)
    assert places(split, 1000) == list(range(1000))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["kite", "tench"], [4, 0]),
        (["Tinca_tinca", "gas-pump"], [0, 3]),
        (["001.Gas_Pump", "002.kite"], [3, 4]),
        (["crane"], [2]),  # the whole name comes before a part of another
        (list(reversed(NETWORK)), [4, 3, 2, 1, 0]),
        (NETWORK, [0, 1, 2, 3, 4]),
    ],
)
def test_names_are_matched(names, expected):
    assert places(split_of(names), 5, NETWORK) == expected
    assert match_classes(split_of(names), 5, NETWORK).class_names == NETWORK


@pytest.mark.parametrize(
    ("names", "known", "message"),
    [
        (
            ["kite", "boat"],
            NETWORK,
            "s: has 2 classes, the network 5, and class 'boat' is not among the classes of the network",
        ),
        (
            ["Crane"],
            ["crane, bird", "crane, machine"],
            "class 'Crane' may be 'crane, bird' and 'crane, machine'",
        ),
        (["tench", "Tinca tinca"], NETWORK, "'tench' and 'Tinca tinca' are both the network's class 'tench"),
        (["a", "b"], (), r"s: has 2 classes \(a, b\), the network 5, whose names are not known"),
        (["kite", "a", "b", "c", "d"], NETWORK, "has 5 classes, the network 5, and class 'a' is not among"),
    ],
)
def test_what_cannot_be_matched_is_refused_with_both_numbers(names, known, message):
    with pytest.raises(InputError, match=message):
        match_classes(split_of(names), len(known) or 5, known)


def test_as_many_classes_without_a_common_name_keep_their_order_and_it_is_said():
    with pytest.warns(AssumptionWarning, match="their order is assumed"):
        assert places(split_of(list("abcde")), 5, NETWORK) == [0, 1, 2, 3, 4]
    with pytest.warns(AssumptionWarning, match=r"^s: the names of the network's .* 1 is b, 2 is c, \.\.\.$"):
        assert places(split_of(list("abcde")), 5) == [0, 1, 2, 3, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert places(split_of(list("01234")), 5) == [0, 1, 2, 3, 4]  # such names are the order


@pytest.mark.parametrize(("names", "said"), [(("cat", "dog"), "2 classes \\(cat, dog\\)"), ((), "2 classes")])
def test_one_output_is_the_score_of_one_class(names, said):
    with pytest.raises(InputError, match=f"s: has {said}, the network 1; a single output is .* of label 0"):
        match_classes(split_of(names, labels=[0, 1]), 1)
    assert places(split_of(("dog",), labels=[0]), 1, ["dog"]) == [0]


def test_names_of_a_test_split_without_names_to_train_on(tmp_path):
    trees.metadata(tmp_path / "train", ["a.png", "b.png"], [0, 1], [(40, 30)] * 2, ["1,2,3,4"] * 2)
    trees.write_image(tmp_path / "train/a.png")
    trees.write_image(tmp_path / "train/b.png")
    trees.classes(tmp_path / "test", ("ant", "bee"))
    with pytest.warns(AssumptionWarning, match="the training data's classes are unknown; assumed: 0 is ant"):
        open_training(str(tmp_path / "train"), str(tmp_path / "test"))


def test_numbers_without_names_are_classes_of_the_network():
    assert places(split_of((), labels=[3, 700]), 1000) == [3, 700]
    with pytest.raises(InputError, match="label 700 is out of range, expected 0 to 99"):
        places(split_of((), labels=[3, 700]), 100)


def test_labels_of_boxes_and_of_several_classes_are_matched_too():
    boxes = np.array([[0.0, 0, 1, 1], [1, 1, 2, 2]])
    example = Example("a", 0, (9, 9), boxes, (0, 1), np.array([1, 0]))
    split = Split("s", [example, Example("b", -1, (9, 9))], ["kite", "tench"], lambda e: None)
    found = match_classes(split, 5, NETWORK)
    assert found.examples[0].labels == (0, 4)
    assert found.examples[0].box_labels.tolist() == [0, 4]
    assert found.examples[0].label == 4
    assert found.examples[1] is split.examples[1]


def test_a_validation_split_without_one_of_the_classes(tmp_path):
    trees.classes(tmp_path / "train", ("ant", "bee", "cat"))
    trees.classes(tmp_path / "val", ("ant", "cat"))
    splits = open_training(str(tmp_path))
    assert [e.label for e in splits.test] == [0, 0, 2, 2]
    assert [splits.test.class_names[e.label] for e in splits.test] == ["ant", "ant", "cat", "cat"]
    trees.classes(tmp_path / "val", ("dog",))
    with pytest.raises(
        InputError,
        match=r"3 classes, the training data 3, and class .dog. is not among the classes of the",
    ):
        open_training(str(tmp_path))
