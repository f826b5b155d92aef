"""Functions in a user's own Python files, named as path/to/file.py:function."""

from __future__ import annotations

import importlib.util
import sys
import zlib
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from heatbox.errors import InputError


def is_plugin(name: str) -> bool:
    """Whether a name has the form path/to/file.py:function."""
    return ".py:" in name


def load_function(name: str) -> Callable[..., Any]:
    """The function that path/to/file.py:function names; the file is executed.

    Raises:
        InputError: there is no such file or function, or the file is not valid Python.
    """
    file, _, function_name = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{path}: no such file (from {name})")
    function = getattr(_import_file(path), function_name, None)
    if not callable(function):
        raise InputError(f"{path}: has no function named {function_name!r}")
    return function


class _SourceLoader(SourceFileLoader):
    """Compiles a file each time: Python's cache takes one of equal size and second for the same."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of the file as it is now."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _import_file(path: Path) -> ModuleType:
    # Registered under a name that no installed package has: dataclasses and pickle look modules up by name.
    name = f"_heatbox_file_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_SourceLoader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        sys.modules.pop(name, None)
        raise InputError(f"{path}: is not valid Python ({error})") from error
    return module
