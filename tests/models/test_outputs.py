"""The logits among the outputs of a classifier."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from heatbox.errors import InputError
from heatbox.models.outputs import select_output

LOGITS = torch.arange(8.0).reshape(2, 4)
MAP = torch.ones(2, 3, 5, 5)
LOSS = torch.tensor(1.0)
Named = namedtuple("Named", "scores aux")


@dataclass
class Output:
    loss: Tensor | None = None
    result: Tensor | None = None


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS, MAP),
        [MAP, LOGITS],
        {"loss": LOSS, "prediction": LOGITS},
        {"deep": {"deeper": (MAP, [LOGITS])}},
        {"logits": LOGITS, "aux_logits": LOGITS + 1, "embeddings": torch.ones(2, 64)},
        {"aux": {"logits": LOGITS + 1}, "logits": LOGITS},
        Named(LOGITS, None),
        Output(LOSS, LOGITS),
        SimpleNamespace(logits=LOGITS, ids=torch.tensor([1, 2])),
        (torch.tensor([1, 2]), LOGITS),
        {"out": LOGITS, "same": LOGITS},
        (LOSS, None, "text", LOGITS, torch.zeros(2)),
        LOGITS[:, :, None, None],
        LOGITS[:, None],
    ],
)
def test_the_one_output_that_can_be_logits_is_taken(output):
    assert torch.equal(select_output(output), LOGITS)


def test_outputs_of_one_class_become_a_column():
    assert select_output(torch.tensor([1.0, 2.0])).tolist() == [[1.0], [2.0]]
    assert select_output(torch.tensor([[[1.0]], [[2.0]]])).tolist() == [[1.0], [2.0]]
    assert select_output({"probability": torch.tensor([1.0, 2.0]), "loss": LOSS}).tolist() == [[1.0], [2.0]]


def test_a_single_image_whose_axis_was_squeezed_too():
    assert select_output(torch.tensor(3.0), batch=1).tolist() == [[3.0]]
    assert select_output(torch.tensor([1.0, 2.0]), batch=1).tolist() == [[1.0, 2.0]]
    with pytest.raises(InputError, match=r"returns \(\), expected logits of shape \(B, K\)"):
        select_output(torch.tensor(3.0))


@pytest.mark.parametrize("which", ["b", 1, "1", "B", "inner.b"])
def test_an_output_is_chosen_by_name_or_position(which):
    wanted = LOGITS + 1
    if which == "B":
        assert torch.equal(select_output({"A": LOGITS, "B": (MAP, wanted)}, which), wanted)
    elif which == "inner.b":
        assert torch.equal(select_output({"a": LOGITS, "inner": {"b": wanted, "c": LOGITS}}, which), wanted)
    else:
        assert torch.equal(select_output({"a": LOGITS, "b": wanted}, which), wanted)
        if which != "b":
            assert torch.equal(select_output((LOGITS, wanted), which), wanted)


def test_features_are_no_logits_unless_they_are_asked_for():
    output = {"last_hidden_state": MAP, "pooler_output": torch.ones(2, 64)}
    with pytest.raises(InputError, match=r"pooler_output: \(2, 64\), none of which are logits"):
        select_output(output)
    assert select_output(output, "pooler_output").shape == (2, 64)


@pytest.mark.parametrize(
    ("output", "which", "words"),
    [
        ((LOGITS, LOGITS + 1), None, r"several outputs that can be logits: 0: \(2, 4\), 1: .*--output"),
        ({"a": LOGITS, "b": [LOGITS + 1]}, None, r"a: \(2, 4\), b\.0: \(2, 4\)"),
        ({"a": LOGITS, "b": LOGITS + 1}, "c", r"no output 'c', it returns a: \(2, 4\), b: \(2, 4\)"),
        ((LOGITS, LOGITS + 1), 2, "no output 2"),
        ((LOGITS, MAP), 1, r"output 1 is 1: \(2, 3, 5, 5\), expected logits"),
        (LOGITS, "logits", "returns one tensor, so there is no output 'logits'"),
        (MAP, None, r"returns \(2, 3, 5, 5\), expected logits of shape \(B, K\)"),
        (torch.tensor([[1, 2]]), None, r"returns int64 \(1, 2\), expected logits"),
        ((MAP, MAP), None, "none of which are logits"),
        ("text", None, "a str without a tensor"),
        (None, None, "None without a tensor"),
        ([], None, "a list without a tensor"),
    ],
)
def test_what_cannot_be_chosen_is_listed(output, which, words):
    with pytest.raises(InputError, match=words):
        select_output(output, which)


def test_containers_that_contain_themselves_end():
    output = SimpleNamespace(logits=LOGITS)
    output.self = output
    assert torch.equal(select_output(output), LOGITS)
