"""Every command of the tutorial on labelling, on its photographs, with a small network without weights."""

import json
import shlex
import warnings

import pytest

from heatbox.cli.main import main
from heatbox.data.open import open_split
from heatbox.demo import INCLUDED
from helpers.doc_blocks import ROOT, blocks, commands, heatbox_arguments

NETWORK, SMALL = "tf_efficientnet_lite0 --checkpoint pretrained", "test_resnet --size 64 --device cpu"


@pytest.fixture
def reader(tmp_path, monkeypatch):
    (tmp_path / "heatbox-demo").mkdir()
    (tmp_path / "heatbox-demo" / "photos").symlink_to(INCLUDED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_tutorial(reader, capsys):
    text = (ROOT / "docs" / "label.md").read_text()
    first, last = text.index("## From an empty folder"), text.index("## What is written")
    lines = text[:last].count("\n"), text[:first].count("\n")
    found = [
        shlex.join(words)
        for block in blocks(ROOT / "docs" / "label.md")
        if block.language == "bash" and lines[1] < block.line < lines[0]
        for line in commands(block.text)
        if (words := heatbox_arguments(line)) is not None
    ]
    assert len(found) == 3
    for command in found:
        assert NETWORK in command
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert main(shlex.split(command.replace(NETWORK, SMALL))) == 0, capsys.readouterr().err
    photos = len(list(INCLUDED.rglob("*.jpg")))
    assert len(json.loads((reader / "boxes" / "label-studio.json").read_text())) == photos
    assert (reader / "boxes" / "review.html").exists()
    split = open_split(reader / "boxes2" / "yolo")
    assert len(split) == photos
    assert all(len(example.boxes) for example in split)
    assert f"boxes proposed on {photos} corrected images 100% are right" in capsys.readouterr().out
