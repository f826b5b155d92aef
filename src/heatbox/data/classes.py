"""Which class of a network each class of a data set is.

Data sets number their classes by themselves, usually 0 to n - 1 in the order of names. A network that was
trained on other data has them in another order, or has more. WordNet ids are matched with ImageNet-1k, names
with the names that the network knows. Where neither is possible, numbers count if the data set has numbers
and no names, or as many classes as the network; anything else is refused.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from heatbox.data.files.remote import shown
from heatbox.data.types import Example, Split
from heatbox.errors import AssumptionWarning, InputError

IMAGENET_CLASSES = 1000
_WNID = re.compile(r"n\d{8}")
_NUMBERED = re.compile(r"^\d+[.\s_-]+(?=\D)")  # as in 001.Black_footed_Albatross

_log = logging.getLogger(__name__)


def match_classes(
    split: Split,
    num_classes: int,
    class_names: Sequence[str] = (),
    where: str = "",
    owner: str = "the network",
) -> Split:
    """The split with labels that are the classes of a network.

    Args:
        split: labels are positions in its class names, where it has any.
        num_classes: number of classes of the network.
        class_names: their names, where they are known.
        where: the data set, for messages.
        owner: what has these classes, for messages.

    Returns:
        the split itself where its labels are those of the network, else one with other labels and with the
        class names of the network.

    Raises:
        InputError: a label that the network does not have, or classes that cannot be matched.

    Warns:
        AssumptionWarning: the order of the classes is assumed, since names do not tell.
    """
    where = shown(where or split.name)
    names = [str(name) for name in split.class_names]
    known = [str(name) for name in class_names] if len(class_names) == num_classes else []
    if names and names == known:
        return split
    ids = [str(name) for name in split.class_ids] or names
    if (places := _places_in_imagenet(ids, num_classes, known, where)) is not None:
        return _renumbered(split, places, known or _imagenet_names(names, places), where)
    largest = max((example.labels[-1] for example in split if example.labels), default=0)
    some = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
    if num_classes == 1 < max(len(names), largest + 1):
        what = "a single output is the score of one class, expected images of that class alone, of label 0"
        raise InputError(f"{where}: has {max(len(names), largest + 1)} classes{some}, {owner} 1; {what}")
    if largest >= num_classes:
        raise InputError(f"{where}: label {largest} is out of range, expected 0 to {num_classes - 1}")
    if not names:  # the labels are numbers of classes
        return split
    if known:
        found, problem = _places_by_name(names, known, owner)
        if not problem:
            return (
                split
                if found == list(range(len(names))) == list(range(num_classes))
                else _renumbered(split, found, known, where)
            )
        if len(names) == num_classes and all(place in (None, index) for index, place in enumerate(found)):
            if not any(place is not None for place in found):
                what = "no class has the name of one of the network's"
                warnings.warn(f"{where}: {what}, so their order is assumed", AssumptionWarning, 2)
            elif problem:
                warnings.warn(f"{where}: {problem}, so their order is assumed", AssumptionWarning, 2)
            return split
        of = f"{where}: has {len(names)} classes, {owner} {num_classes}"
        raise InputError(f"{of}, and {problem}")
    if len(names) == num_classes:
        if names != list(map(str, range(num_classes))):
            order = ", ".join(f"{label} is {name}" for label, name in enumerate(names[:3]))
            order += ", ..." if len(names) > 3 else ""
            what = f"the names of {owner}'s classes are unknown; assumed: {order}"
            warnings.warn(f"{where}: {what}", AssumptionWarning, 2)
        return split
    raise InputError(
        f"{where}: has {len(names)} classes{some}, {owner} {num_classes}, whose names are not known; "
        "expected as many classes, or folders named by WordNet ids for a network of ImageNet's 1000"
    )


def class_positions(
    names: Sequence[str],
    num_classes: int,
    class_names: Sequence[str] = (),
    where: str = "",
    owner: str = "the network",
) -> list[int]:
    """The class of a network for each name, as `match_classes` finds it, whose arguments these are."""
    examples = [Example(name, label, (0, 0)) for label, name in enumerate(names)]
    split = Split(where, examples, names, Image.new)  # type: ignore[arg-type]  # opens nothing
    return [example.label for example in match_classes(split, num_classes, class_names, where, owner)]


def _places_in_imagenet(
    ids: Sequence[str], num_classes: int, known: Sequence[str], where: str
) -> list[int] | None:
    """Positions of WordNet ids among ImageNet-1k's; None for other names or another network."""
    if num_classes != IMAGENET_CLASSES or not ids or not all(map(_WNID.fullmatch, ids)):
        return None
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    if known:
        own = [info.index_to_description(index) for index in range(num_classes)]
        same = sum(bool(_keys(a) & _keys(b)) for a, b in zip(own, known, strict=True))
        labels = info.label_names()
        if (
            same < num_classes // 2
            and sum(a == b for a, b in zip(labels, known, strict=True)) < num_classes // 2
        ):
            return None
    position = {name: index for index, name in enumerate(info.label_names())}
    if unknown := [name for name in ids if name not in position]:
        if len(ids) == num_classes:  # a thousand others
            return None
        what = f"class {unknown[0]!r} is not one of ImageNet's {num_classes} classes"
        raise InputError(f"{where}: has {len(ids)} classes, the network {num_classes}, and {what}")
    return [position[name] for name in ids]


def _imagenet_names(names: Sequence[str], places: Sequence[int]) -> list[str]:
    """WordNet ids of ImageNet-1k, with the data set's own names for its classes."""
    from timm.data import ImageNetInfo

    found = list(ImageNetInfo("imagenet-1k").label_names())
    for name, place in zip(names, places, strict=True):
        found[place] = name
    return found


def _keys(name: str) -> set[str]:
    """Forms of a name under which it is found: whole, and each of several separated by commas."""
    whole = " ".join(name.replace("_", " ").replace("-", " ").casefold().split())
    return {whole, *(part.strip() for part in whole.split(","))} - {""}


def _places_by_name(names: Sequence[str], known: Sequence[str], owner: str) -> tuple[list[int | None], str]:
    """The class of the network for each name, and what is wrong with the first that has none or several."""
    exact = {name: index for index, name in enumerate(known)}
    if len(exact) == len(known) and all(name in exact for name in names):
        return [exact[name] for name in names], ""
    by_key: dict[str, set[int]] = {}
    whole: dict[str, set[int]] = {}
    for index, name in enumerate(known):
        for key in _keys(name):
            by_key.setdefault(key, set()).add(index)
        whole.setdefault(" ".join(name.replace("_", " ").replace("-", " ").casefold().split()), set()).add(
            index
        )
    found: list[int | None] = []
    problem = ""
    for name in names:
        places: set[int] = set()
        for text in (name, _NUMBERED.sub("", name)):
            key = " ".join(text.replace("_", " ").replace("-", " ").casefold().split())
            places = (
                whole.get(key)
                or by_key.get(key)
                or set.union(set(), *(by_key.get(part, set()) for part in _keys(text)))
            )
            if places:
                break
        found.append(min(places) if len(places) == 1 else None)
        if len(places) != 1 and not problem:
            several = " and ".join(repr(known[place]) for place in sorted(places)[:2])
            problem = (
                f"class {name!r} may be {several} of {owner}"
                if places
                else f"class {name!r} is not among the classes of {owner}"
            )
    taken = [place for place in found if place is not None]
    if not problem and len({*taken}) < len(taken):
        twice = next(place for place in taken if taken.count(place) > 1)
        same = [name for name, place in zip(names, found, strict=True) if place == twice]
        problem = f"{same[0]!r} and {same[1]!r} are both {owner}'s class {known[twice]!r}"
    return found, problem


def _renumbered(split: Split, places: Sequence[int | None], class_names: Sequence[str], where: str) -> Split:
    numbers = {label: place for label, place in enumerate(places) if place is not None}
    if all(label == place for label, place in numbers.items()) and len(places) == len(class_names):
        return split
    _log.info("%s: %d classes are matched with the network's %d", where, len(places), len(class_names))
    examples = [_with_labels(example, numbers) for example in split]
    return dataclasses.replace(split, examples=examples, class_names=class_names, class_ids=())


def _with_labels(example: Example, numbers: Mapping[int, int]) -> Example:
    if not example.labels:
        return example
    boxes = example.box_labels
    return dataclasses.replace(
        example,
        label=numbers[example.label],
        labels=tuple(sorted(numbers[label] for label in example.labels)),
        box_labels=None
        if boxes is None
        else np.array([numbers[label] for label in boxes.tolist()], np.int64),
    )
