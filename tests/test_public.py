"""The public names, and how little importing them costs."""

import subprocess
import sys

import pytest

import heatbox

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


@pytest.mark.parametrize("name", heatbox.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert name in dir(heatbox)
    assert getattr(heatbox, name).__doc__


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
