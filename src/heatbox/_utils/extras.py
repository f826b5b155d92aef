"""Optional dependencies, and the message that names the command which installs them."""

from __future__ import annotations

from importlib.util import find_spec

from heatbox.errors import InputError

EXTRAS = {
    "train": ("lightning_fabric", "tensorboard"),
    "report": ("jinja2", "matplotlib"),
    "analysis": ("matplotlib", "sklearn"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "gradcam": ("pytorch_grad_cam",),
    "hf": ("transformers",),
    "supervision": ("supervision",),
    "pandas": ("pandas",),
}
"""Extra → the modules that it installs."""


def require(extra: str, what: str, *modules: str) -> None:
    """Raise unless an extra is installed. Call it before a computation whose result would be lost without it.

    Args:
        extra: one of `EXTRAS`.
        what: what needs the extra, for the message.
        modules: the modules that are needed; by default all of the extra's.

    Raises:
        InputError: a module is missing; the message has the command that installs the extra.
    """
    missing = [name for name in modules or EXTRAS[extra] if not _is_installed(name)]
    if missing:
        raise InputError(f"{what} needs {', '.join(missing)}: pip install 'heatbox[{extra}]'")


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # its import is blocked
        return False
