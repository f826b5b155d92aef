"""Structures of MATLAB files as SciPy writes and reads them; damaged files are refused, never crashed on."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heatbox.data.formats.ilsvrc import read_structures

scipy_io = pytest.importorskip("scipy.io")

FIELDS = ("ILSVRC2012_ID", "WNID", "words", "children", "wordnet_height", "gloss")


def written(rows, compressed):
    kind = [(name, object) for name in FIELDS]
    file = io.BytesIO()
    content = {"other": np.arange(7.0), "synsets": np.array(rows, dtype=kind)[:, None]}
    scipy_io.savemat(file, content, do_compression=compressed)
    return file.getvalue()


ROWS = [
    (1, "n02119789", "kit fox, Vulpes macrotis", np.zeros((0, 0)), 0.0, "größe – 鳥"),
    (300, "n01440764", "", np.array([[3.0, 70000.5]]), 2, "a"),
    (1001, "n00001740", "entity", np.array([[1, 2, 3]], dtype=np.uint8), 19, "x" * 300),
]


WHOLE = {compressed: written(ROWS, compressed) for compressed in (False, True)}


@pytest.mark.parametrize("compressed", [False, True])
def test_what_scipy_writes(compressed):
    found = read_structures(WHOLE[compressed], "synsets")
    again = scipy_io.loadmat(io.BytesIO(WHOLE[compressed]))["synsets"]
    assert len(found) == len(again) == 3
    for mine, theirs in zip(found, again[:, 0], strict=True):
        assert tuple(mine) == FIELDS
        for name in ("ILSVRC2012_ID", "children", "wordnet_height"):
            assert (mine[name] or []) == theirs[name].ravel().tolist()
        for name in ("WNID", "words", "gloss"):
            assert (mine[name] or "") == "".join(theirs[name].tolist())


@pytest.mark.parametrize("content", [b"", b"hello" * 100, WHOLE[False][:128], WHOLE[False][:600]])
def test_what_is_none(content):
    with pytest.raises(ValueError, match="it "):
        read_structures(content, "synsets")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 4000), st.binary(max_size=8), st.booleans(), st.booleans())
def test_any_damage_is_read_or_refused(place, noise, cut, compressed):
    whole = WHOLE[compressed]
    place %= len(whole)
    data = whole[:place] + noise + (b"" if cut else whole[place + len(noise) :])
    try:
        found = read_structures(data, "synsets")
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert isinstance(found, list)
