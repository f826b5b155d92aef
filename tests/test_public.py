"""The public names, and how little importing them costs."""

import ast
import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest

import heatbox
from heatbox._utils import deprecated

ROOT = Path(heatbox.__file__).parent
STUBS = sorted(ROOT.rglob("__init__.pyi"))

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "matplotlib",
    "sklearn",
    "numba",
    "cv2",
    "pandas",
    "numpy",
    "pyarrow",
)


PACKAGES = ["heatbox", *(f"heatbox.{path.parent.name}" for path in STUBS if path.parent != ROOT)]
NAMES = [(package, name) for package in PACKAGES for name in importlib.import_module(package).__all__]


def names_of_the_stub(package):
    """What `__init__.pyi` declares to type checkers."""
    path = ROOT.joinpath(*package.split(".")[1:], "__init__.pyi")
    (names,) = (
        node.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return ast.literal_eval(names)


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_every_public_name_resolves_and_is_documented(package, name):
    module = importlib.import_module(package)
    assert name in dir(module)
    value = getattr(module, name)
    assert value.__doc__
    if not isinstance(value, types.ModuleType) and hasattr(value, "__name__"):
        assert value.__name__ == name  # the function, not the module of the same name


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_the_same_names(package):
    stub, module = names_of_the_stub(package), importlib.import_module(package)
    assert sorted(stub) == sorted(module.__all__)
    assert len(set(stub)) == len(stub)


def test_sub_packages_are_attributes():
    code = "import heatbox as hb; print(hb.ops.depthwise_conv2d.__name__, hb.metrics.MaxBoxAcc.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["depthwise_conv2d", "MaxBoxAcc"]


@pytest.mark.parametrize("order", [("maps.cam", "maps"), ("maps", "maps.cam")])
def test_a_function_is_not_hidden_by_its_module(order):
    code = "; ".join(f"from heatbox.{home} import cam" for home in order) + "; assert callable(cam)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", deprecated.RENAMED)
def test_an_old_name_warns_and_works(name):
    new = deprecated.RENAMED[name][1]
    with pytest.warns(
        DeprecationWarning, match=rf"heatbox\.{name} is deprecated .*; use heatbox\.{new}"
    ) as raised:
        value = getattr(heatbox, name)
    assert raised[0].filename == __file__
    assert callable(value)
    assert name not in heatbox.__all__
    assert new in heatbox.__all__


OLD_PATHS = {
    "heatbox.data.example": "Example",
    "heatbox.localizer": "Localizer",
    "heatbox.metrics.maxboxacc": "MaxBoxAcc, V2_IOU, oracle_and_transferred, update_together",
    "heatbox.models.build": "build_model",
    "heatbox.models.view": "ClassifierView",
    "heatbox.recipes": "get_recipe",
}


@pytest.mark.parametrize("module", deprecated.MOVED)
def test_an_old_module_path_warns_and_works(module):
    with pytest.warns(DeprecationWarning, match="use heatbox") as raised:
        exec(f"from {module} import {OLD_PATHS[module]}", {})
    assert raised[0].filename == "<string>"


def test_a_name_that_was_renamed_in_its_module_warns_and_works():
    with pytest.warns(
        DeprecationWarning, match="convert is deprecated .*; use .*convert_checkpoint$"
    ) as raised:
        from heatbox.models.checkpoints import convert
    assert raised[0].filename == __file__
    assert convert is heatbox.convert_checkpoint


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = heatbox.nonsense


def imported_by(code):
    """Of the heavy packages, tyro and rich: those that a fresh process has imported after some code."""
    tell = (
        f"import sys; print(*(m for m in {(*HEAVY, 'tyro', 'rich')!r} if m in sys.modules), file=sys.stderr)"
    )
    program = f"import atexit; atexit.register(lambda: exec({tell!r}, {{}}))\n{code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr.split()


def test_importing_heatbox_imports_nothing_heavy():
    assert imported_by("import heatbox") == []


def test_the_list_of_commands_imports_nothing_heavy():
    assert imported_by("from heatbox.cli.main import main; main(['--help'])") == []


def test_help_of_a_command_imports_nothing_heavy():
    found = imported_by("from heatbox.cli.main import main; main(['evaluate', '--help'])")
    assert "tyro" in found  # or nothing was imported at all
    assert not set(HEAVY) & set(found)
