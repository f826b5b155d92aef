"""Which outputs of a network the classes of a data set are: by WordNet id, by name, or by order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from heatbox.errors import InputError, did_you_mean
from heatbox.models.spec import IMAGENET_CLASSES

_WORDNET_ID = re.compile(r"n\d{8}")


class ClassMatch(NamedTuple):
    """The outputs of a network for the classes of a data set.

    Attributes:
        positions: output of each class, counted from 0.
        by: how they were found; "order" is an assumption, which the user has to be told.
    """

    positions: list[int]
    by: Literal["WordNet id", "name", "order"]


def match_classes(names: Sequence[str], known: Sequence[str], number: int) -> ClassMatch:
    """Find the outputs of a network for classes that have names.

    WordNet ids are ImageNet's classes where the network has 1000. Otherwise names are looked up among those
    of the network, where case, hyphens and underscores do not count and each of several names of a class,
    separated by commas, does. A network whose names are unknown has the classes in their order, if it has as
    many.

    Args:
        names: of the classes of the data set, each once, in order.
        known: names of the outputs of the network; empty if they are unknown.
        number: number of outputs.

    Raises:
        InputError: a class that the network does not have, or whose name several of its classes have; or
            names that are unknown, and another number of classes.

    Examples:
        >>> match_classes(["cat", "sea-lion"], ["dog", "cat", "Sea lion, eared seal"], 3).positions
        [1, 2]
    """
    has_names = bool(names) and set(names) <= set(known)
    if number == IMAGENET_CLASSES and names and not has_names and all(map(_WORDNET_ID.fullmatch, names)):
        from timm.data import ImageNetInfo

        info = ImageNetInfo("imagenet-1k")
        position = {info.index_to_label_name(index): index for index in range(number)}
        if unknown := [name for name in names if name not in position]:
            raise InputError(f"class {unknown[0]!r} is none of the 1000 classes of ImageNet-1k")
        return ClassMatch([position[name] for name in names], "WordNet id")
    if known:
        return ClassMatch([_position(name, known) for name in names], "name")
    if len(names) != number:
        raise InputError(
            f"there are {len(names)} classes ({_some(names)}), but the network has {number} outputs, whose "
            "names are unknown; name them with --class-names"
        )
    return ClassMatch(list(range(number)), "order")


def _position(name: str, known: Sequence[str]) -> int:
    wanted = _plain(name)
    for spellings in ([[one] for one in known], [one.split(",") for one in known]):
        found = [index for index, words in enumerate(spellings) if wanted in map(_plain, words)]
        if len(found) > 1:
            raise InputError(f"several classes of the network are named {name!r}: {found[0]} and {found[1]}")
        if found:
            return found[0]
    raise InputError(
        f"the network has no class {name!r}, its {len(known)} classes are {_some(known)}"
        f"{did_you_mean(name, known)}"
    )


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[_-]", " ", name).casefold().split())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
