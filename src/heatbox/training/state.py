"""What a training needs to go on where it was, in one file that is either there whole or not at all."""

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


class TrainState:
    """Everything that changes during a training.

    The order of pictures, augmentation, dropout and the learning rate follow from the step alone
    (`heatbox.training.randomness`, `heatbox.training.optim`), so the step stands for the state of all
    generators, of the schedule and of the place within the epoch.

    Attributes:
        model: the network that is trained.
        optimizer: its optimizer.
        ema: an average of its weights, or None.
        masks: name → bool tensor of a sparse training's kept weights; empty for a dense one.
        step: steps done.
        loss_sum: of the losses of this epoch's steps so far.
        history: a row for each finished epoch.
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
        """Write the state; until it is written whole, the one before stays.

        Raises:
            InputError: the disk is full or the folder cannot be written to.
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
            except RuntimeError as error:  # what torch's writer makes of a full disk
                raise OSError(str(error).splitlines()[0]) from error

    def load(self, folder: Path) -> bool:
        """Read the state that an earlier process left; returns whether there was one.

        Raises:
            InputError: the file is damaged or of another network.
        """
        path = folder / STATE
        remove_leftovers(folder)
        if not path.exists():
            return False
        try:
            _refuse_damage(path)
            found = torch.load(path, map_location="cpu", weights_only=True)
            if found["format"] != FORMAT:
                raise InputError(f"{path}: is of format {found['format']}, expected {FORMAT}")
            self.model.load_state_dict(found["model"])
            if self.ema is not None:
                self.ema.load_state_dict(found["ema"])
            self.optimizer.load_state_dict(found["optimizer"])
            _refuse_other_moments(self.optimizer)
            device = placement(self.model)[0]
            self.masks.clear()
            shapes = {name: parameter.shape for name, parameter in self.model.named_parameters()}
            for name, mask in found["masks"].items():
                if mask.dtype != torch.bool or mask.shape != shapes[name]:
                    raise ValueError(f"the mask of {name} is of another shape or kind")
                self.masks[name] = mask.to(device)
            self.step, self.loss_sum = int(found["step"]), float(found["loss_sum"])
            self.history = [dict(row) for row in found["history"]]
        except InputError:
            raise
        except Exception as error:
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{path}: cannot be resumed from ({message}); --overwrite begins anew, and the "
                "checkpoints beside it are files of weights to start from"
            ) from error
        return True


def _refuse_damage(path: Path) -> None:
    """Compare checksums, which torch leaves out: a bit that a disk turned would change weights unnoticed."""
    with zipfile.ZipFile(path) as file:
        if (member := file.testzip()) is not None:
            raise ValueError(f"{member} is damaged: wrong checksum")


def _refuse_other_moments(optimizer: torch.optim.Optimizer) -> None:
    """Raise where moments are none that training leaves, which torch finds only at the next step."""
    for parameter, moments in optimizer.state.items():
        if not float(moments.get("step", 0)) >= 0:  # written so that NaN is refused
            raise ValueError("the optimizer has done less than no step")
        for name, value in moments.items():
            known = not isinstance(value, Tensor) or value.is_floating_point()
            if not known or (isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape):
                raise ValueError(f"{name} of the optimizer is of another shape or kind than its parameter")


def remove_leftovers(folder: Path) -> None:
    """Remove files that a killed process was writing."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


class Stop:
    """Whether someone asked the training to stop, and how."""

    def __init__(self) -> None:
        self.signal = 0

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.signal != 0


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn Ctrl-C and SIGTERM into a request to stop after the step; a second signal stops at once.

    Outside the main thread, where signals cannot be caught, nothing is changed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def ask(number: int, frame: Any) -> None:
        stop.signal = number
        for each in signals:
            signal.signal(each, before[each])

    for number in signals:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number in signals:
            signal.signal(number, before[number])
