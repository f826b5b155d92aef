"""Installation without extras: what works without any, and the message for each missing one."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import heatbox
from heatbox._utils.extras import EXTRAS, require
from heatbox.cli.main import main
from heatbox.errors import InputError
from heatbox.maps.export import export_onnx
from helpers.scenes import write_checkpoint, write_model, write_split

ROOT = Path(heatbox.__file__).parents[2]
MODULES = sorted({name for modules in EXTRAS.values() for name in modules})
DISTRIBUTION = {
    "lightning_fabric": "lightning-fabric",
    "sklearn": "scikit-learn",
    "pytorch_grad_cam": "grad-cam",
}


@pytest.fixture
def without(monkeypatch):
    """A function that makes packages unavailable."""

    class Blocked:
        def __init__(self, names):
            self.names = names

        def find_spec(self, name, path=None, target=None):
            if name in self.names:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def block(*names):
        for name in names:  # not None in sys.modules: pyarrow takes what is there for pandas
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "meta_path", [Blocked(names), *sys.meta_path])

    return block


@pytest.fixture
def scene(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_split(tmp_path / "set")
    write_model(tmp_path)
    return tmp_path


EVALUATE = ["evaluate", "-m", "mine.py:blobs", "-d", "set", "--size", "64", "--out", "run"]
ANALYZE = ["-m", "mine.py:blobs", "-d", "set", "--size", "64", "--out", "out"]
TRAIN = ["train", "glyphs_resnet", "--epochs", "1", "--limit", "64", "--out", "out"]


def test_the_table_is_that_of_the_project():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, modules in EXTRAS.items():
        names = {re.match(r"[\w-]+", requirement)[0] for requirement in extras[extra]}
        assert {DISTRIBUTION.get(module, module) for module in modules} == names


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_is_installed_is_not_missed(extra):
    require(extra, "this")


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("matplotlib", ["analyze", "erf", *ANALYZE], "analysis"),
        ("matplotlib", ["analyze", "activation", *ANALYZE], "analysis"),
        ("matplotlib", ["analyze", "class-weights", *ANALYZE], "analysis"),
        ("matplotlib", ["analyze", "signed-cam", *ANALYZE], "analysis"),
        ("matplotlib", ["analyze", "thresholds", *ANALYZE], "analysis"),
        ("matplotlib", ["analyze", "shape-bias", *ANALYZE[:2], "--stimuli", "glyphs"], "analysis"),
        ("sklearn", ["analyze", "complexity", *ANALYZE], "analysis"),
        ("sklearn", ["analyze", "all", *ANALYZE], "analysis"),
        ("lightning_fabric", TRAIN, "train"),
        ("tensorboard", TRAIN, "train"),
        ("lightning_fabric", ["demo", "--train", "--out", "out", "--epochs", "1"], "train"),
        ("pytorch_grad_cam", [*EVALUATE[:-1], "out", "--method", "gradcam"], "gradcam"),
        ("pytorch_grad_cam", ["locate", "a.png", *ANALYZE[:2], "--method", "layercam"], "gradcam"),
        ("jinja2", ["report", "run", "--out", "out"], "report"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_one_sentence(missing, command, extra, scene, without, capsys):
    without(missing)
    assert main(command) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("heatbox: ")]
    assert len(said) == 1
    assert f"needs {missing}: pip install 'heatbox[{extra}]'" in said[0]
    assert not (scene / "out" / "predictions.parquet").exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_onnx_export_without_its_extra(missing, without, tmp_path):
    without(missing)
    with pytest.raises(InputError, match=rf"needs {missing}: pip install 'heatbox\[onnx\]'"):
        export_onnx(nn.Linear(1, 1), tmp_path / "a.onnx", 8)


def commands_of_the_core(folder):
    """Commands that need no extra, in an order in which each has what it reads."""
    return [
        ["evaluate", "-m", "mine.py:blobs", "-d", "set", "--size", "64", "--out", "run"],
        ["evaluate", "--from-run", "run", "--json"],
        ["compare", "run", "run"],
        ["export", "run", "--coco", "boxes.json", "--npy", "maps", "--overlays", "pictures", "--limit", "2"],
        ["score", "--heatmaps", "maps", "--data", "set", "--out", "scored"],
        ["locate", "set/images/test/000001.png", "-m", "mine.py:blobs", "--size", "64", "--out", "boxes"],
        ["data", "check", "set", "--out", "checked"],
        ["data", "convert", "set", "converted", "--to", "yolo"],
        ["export", "run", "--labelstudio", "tasks", "--cvat", "boxes.zip"],
        ["data", "list"],
        ["recipes"],
        ["convert", "weights.pth", "--out", "weights.safetensors"],
        ["analyze", "responses", "answers.csv"],
    ]


def write_more(folder):
    write_checkpoint(nn.Sequential(nn.Linear(2, 2)), folder / "weights.pth")
    (folder / "answers.csv").write_text("image,shape,texture,response\na,cat,dog,cat\nb,dog,cat,cat\n")


def test_the_core_works_without_any_extra(scene, without, capsys):
    without(*MODULES)
    write_more(scene)
    for command in commands_of_the_core(scene):
        assert main(command) in ((0, 1) if command[1:2] == ["check"] else (0,)), capsys.readouterr().err
    capsys.readouterr()
    assert main(["evaluate", "--from-run", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 20
    assert np.load(next((scene / "maps").rglob("*.npy"))).shape == (224, 224)


@pytest.mark.slow
def test_the_core_works_in_a_process_that_cannot_import_any_extra(scene):
    write_more(scene)
    (scene / "sitecustomize.py").write_text(
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {MODULES!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
    )
    for command in [*commands_of_the_core(scene), ["models"], ["report", "run"]]:
        done = subprocess.run(
            [sys.executable, "-m", "heatbox", *command],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(scene), "PATH": "/usr/bin:/bin"},
            check=False,
        )
        if command[0] == "report":
            assert done.returncode == 2
            assert "pip install 'heatbox[report]'" in done.stderr
        else:
            assert done.returncode in ((0, 1) if command[1:2] == ["check"] else (0,)), done.stderr


def test_extras_are_imported_where_they_are_used():
    for path in Path(heatbox.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [name.name for name in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                )
                assert not {name.split(".")[0] for name in names} & set(MODULES), path
