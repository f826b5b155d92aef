"""A short fuzzing of every parser, and inputs of past failures; docs/reliability.md has the long runs."""

import json
import tempfile
from functools import cache
from pathlib import Path

import pytest

from fuzz.run import tried
from fuzz.seeds import SEEDS, load
from fuzz.targets import TARGETS

KNOWN = {target.name: target for target in TARGETS}
SAVED = sorted(SEEDS.glob("*.json"))
QUICK = 40  # inputs of a target that needs a millisecond for one
SLOW = 2
COMPILING = 120.0  # seconds: what is run first compiles kernels, which is no input's fault


@cache
def cases_of(name):
    with tempfile.TemporaryDirectory() as folder:
        return KNOWN[name].build(Path(folder))


@cache
def outcomes_of_valid(name):
    return [tried(KNOWN[name], case, COMPILING) for case in cases_of(name)[:3]]


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.filterwarnings("ignore")
def test_damaged_inputs_are_read_or_refused(name):
    target, cases = KNOWN[name], cases_of(name)
    outcomes_of_valid(name)
    for number in range(QUICK if target.share >= 20_000 else SLOW):
        _, case = target.case(cases, 1, number)
        what, trace = tried(target, case)
        assert not trace, f"{name}, seed 1, input {number}: {what}\n{trace}"


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.filterwarnings("ignore")
def test_the_valid_inputs_are_read(name):
    """What the damage begins with is no damage itself: else nothing would be tested."""
    found = outcomes_of_valid(name)
    assert any(what == "ok" for what, _ in found)
    assert not [trace for _, trace in found if trace]


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")
def test_what_once_broke_does_no_more(path):
    name = json.loads(path.read_text())["target"]
    outcomes_of_valid(name)
    what, trace = tried(KNOWN[name], load(path, cases_of(name)))
    assert not trace, f"{what}\n{trace}"


def test_an_input_can_be_made_again():
    for name in ("coco", "voc-xml", "archives"):
        target, cases = KNOWN[name], cases_of(name)
        inputs = [[target.case(cases, 7, number) for number in range(20)] for _ in range(2)]
        assert inputs[0] == inputs[1]
        assert len({json.dumps(sorted(map(repr, case.items()))) for _, case in inputs[0]}) > 10
