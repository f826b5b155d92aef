"""The state of a training, saved in one file that is complete or absent, and the signals that stop it."""

from __future__ import annotations

import signal
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heatbox._utils.io import written_atomically
from heatbox.errors import InputError
from heatbox.models.spec import placement

STATE = "state.pt"
FORMAT = 1


class TrainingStopped(Exception):
    """A signal stopped the training; its state is saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.number, self.step = number, step


class TrainState:
    """Everything that changes during a training.

    The order of the images, augmentation, dropout and the learning rate follow from the step alone
    (`heatbox.training.data`, `heatbox.training.optim`), so the step stands for the state of all generators,
    of the schedule and of the position within the epoch.

    Attributes:
        model: the model in training.
        optimizer: its optimizer.
        ema: the exponential moving average of its weights, or None.
        masks: name → bool tensor of the kept weights of a sparse training; empty for a dense one.
        step: steps done.
        loss_sum: sum of the losses of this epoch's steps so far.
        history: one row for each finished epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: nn.Module | None = None,
        masks: dict[str, Tensor] | None = None,
    ) -> None:
        self.model, self.optimizer, self.ema = model, optimizer, ema
        self.masks = {} if masks is None else masks
        self.step = 0
        self.loss_sum = 0.0
        self.history: list[dict[str, Any]] = []

    def save(self, folder: Path) -> None:
        """Write the state; the previous one stays until the new one is complete.

        Raises:
            InputError: the disk is full or the folder is not writable.
        """
        content = {
            "format": FORMAT,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "history": self.history,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "masks": self.masks,
        }
        with written_atomically(folder / STATE) as file:
            try:
                torch.save(content, file)
            except RuntimeError as error:  # what torch's writer raises on a full disk
                raise OSError(str(error).splitlines()[0]) from error

    def load(self, folder: Path) -> bool:
        """Read the state that an earlier process saved; returns whether there was one.

        Raises:
            InputError: the file is damaged or belongs to another model.
        """
        path = folder / STATE
        if not path.exists():
            return False
        try:
            _check_integrity(path)
            found = torch.load(path, map_location="cpu", weights_only=True)
            if found["format"] != FORMAT:
                raise InputError(f"{path}: has format {found['format']}, expected {FORMAT}")
            self.model.load_state_dict(found["model"])
            if self.ema is not None:
                self.ema.load_state_dict(found["ema"])
            self.optimizer.load_state_dict(found["optimizer"])
            _check_moments(self.optimizer)
            device = placement(self.model)[0]
            self.masks.clear()
            shapes = {name: parameter.shape for name, parameter in self.model.named_parameters()}
            for name, mask in found["masks"].items():
                if mask.dtype != torch.bool or mask.shape != shapes[name]:
                    raise ValueError(f"the mask of {name} has another shape or dtype")
                self.masks[name] = mask.to(device)
            self.step, self.loss_sum = int(found["step"]), float(found["loss_sum"])
            self.history = [dict(row) for row in found["history"]]
        except InputError:
            raise
        except Exception as error:
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{path}: cannot be resumed from ({message}); --overwrite starts again, and the files in "
                "checkpoints/ can be used as initial weights"
            ) from error
        return True


def _check_integrity(path: Path) -> None:
    """Compare checksums, which torch skips: a flipped bit on the disk would change weights unnoticed."""
    with zipfile.ZipFile(path) as file:
        if (member := file.testzip()) is not None:
            raise ValueError(f"{member} is damaged: wrong checksum")


def _check_moments(optimizer: torch.optim.Optimizer) -> None:
    """Raise for optimizer moments that no training leaves; torch would fail only at the next step."""
    for parameter, moments in optimizer.state.items():
        if not float(moments.get("step", 0)) >= 0:  # written so that NaN is refused
            raise ValueError("the optimizer has a negative number of steps")
        for name, value in moments.items():
            known = not isinstance(value, Tensor) or value.is_floating_point()
            if not known or (isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape):
                raise ValueError(f"{name} of the optimizer has another shape or dtype than its parameter")


class StopRequest:
    """Whether a signal asked the training to stop; `signal` is its number, or 0."""

    signal = 0


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn Ctrl-C and SIGTERM into a request to stop after the step; a second signal stops immediately.

    Outside the main thread, where signals cannot be caught, nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number in signals:
            signal.signal(number, before[number])

    def handle(number: int, frame: Any) -> None:
        request.signal = number
        restore()

    for number in signals:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        restore()
