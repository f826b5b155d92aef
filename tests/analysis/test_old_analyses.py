"""Analyses of 0.1.0 are continued: no image is measured again, and the printed numbers are the same."""

import json
import shutil
from pathlib import Path

import pytest

from heatbox.cli.main import main
from heatbox.models.introspect import ClassifierView

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "v0.1.0"
MODEL = ("--model", "mine.py:blobs", "--size", "64", "--device", "cpu", "--data", "set")
OPTIONS = {
    "complexity": ("--atoms", "4"),
    "erf": ("--erf-size", "64", "--erf-images", "2", "--erf-grid", "0"),
    "signed-cam": ("--thresholds", "100"),
    "activation": (),
}


@pytest.mark.parametrize("instrument", OPTIONS)
def test_an_old_analysis_is_not_measured_again(instrument, tmp_path, monkeypatch, capsys):
    shutil.copytree(FIXTURES, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    sizes = []
    forward = ClassifierView.extract

    def counted(view, images, *arguments, **options):
        sizes.append(len(images))
        return forward(view, images, *arguments, **options)

    monkeypatch.setattr(ClassifierView, "extract", counted)
    command = ("analyze", instrument, *MODEL, "--out", f"analyze-{instrument}", *OPTIONS[instrument])
    assert main([*command, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    (wanted,) = json.loads(Path("json", f"analyze-{instrument}.json").read_text())
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == (pytest.approx(value, rel=1e-6) if key != "model" else value), key
    assert sizes == ([1] if instrument == "complexity" else [])  # it asks for the size of the feature map
