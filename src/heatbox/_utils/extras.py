"""The optional parts of the installation, and the sentence that tells how to add one."""

from __future__ import annotations

from importlib.util import find_spec

from heatbox.errors import InputError

EXTRAS = {
    "train": ("lightning_fabric", "tensorboard"),
    "report": ("jinja2", "matplotlib"),
    "analysis": ("matplotlib", "sklearn"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "gradcam": ("pytorch_grad_cam",),
    "supervision": ("supervision",),
    "pandas": ("pandas",),
}
"""Extra → the modules that it brings."""


def require(extra: str, what: str, *modules: str) -> None:
    """Make sure that an extra is installed, before anything is computed that would be lost without it.

    Args:
        extra: one of `EXTRAS`.
        what: what needs it, for the message.
        modules: those of its modules that are needed; by default all.

    Raises:
        InputError: one is missing; the message has the command that installs them.
    """
    missing = [name for name in modules or EXTRAS[extra] if not _is_there(name)]
    if missing:
        raise InputError(f"{what} needs {', '.join(missing)}: pip install 'heatbox[{extra}]'")


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # something keeps it from being imported
        return False
