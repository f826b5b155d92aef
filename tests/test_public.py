"""The public names."""

import subprocess
import sys

import pytest

import heatbox


@pytest.mark.parametrize("name", heatbox.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert name in dir(heatbox)
    assert getattr(heatbox, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = heatbox.nonsense


def test_importing_heatbox_imports_nothing_heavy():
    code = "import sys, heatbox; print([m for m in ('torch', 'timm', 'numba', 'cv2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
