"""Where to compute."""

from __future__ import annotations

import logging

import torch

from heatbox.errors import InputError

_log = logging.getLogger(__name__)


def pick_device(name: str) -> torch.device:
    """A device by name; "auto" is CUDA, then MPS, then the CPU.

    Raises:
        InputError: a name that torch does not know, or a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()  # a device that computes, not meta
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} is not at hand ({str(error).splitlines()[0]})") from error
    known = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    )
    _log.info("computing on %s (%s)", device, known)
    return device
