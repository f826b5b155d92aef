"""The log of a training: log.csv, log.json and a TensorBoard log."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from heatbox._utils.extras import require
from heatbox._utils.io import to_json, write_atomically

Row = dict[str, Any]
LOGS = ("log.csv", "log.json")
BOARD = "tensorboard"


def epoch_line(row: Row) -> str:
    """One line that summarizes an epoch."""
    words = [f"epoch {row['epoch']}", f"loss {row['loss']:.4f}", f"{row['images_per_second']:.0f} images/s"]
    for name in ("weights", "ema"):
        found = row.get(name, {})
        average = " of the average" if name == "ema" else ""
        if "top1" in found:
            words.append(f"top-1{average} {found['top1']:.1f}%")
        for method, scores in found.items():
            if isinstance(scores, dict):
                words.append(f"{method}{average} {scores['MaxBoxAcc']:.1f} / {scores['MaxBoxAccV2']:.1f}")
    return ", ".join(words)


class Log:
    """Writes the history of a training, always completely, so that a resumed training repeats no row.

    Args:
        folder: of the training.
        tensorboard: whether to write a TensorBoard log as well.

    Raises:
        InputError: a TensorBoard log is requested and TensorBoard is not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        self.folder = folder
        self.board: Any = _board(folder) if tensorboard else None
        self.logged = 0

    def __call__(self, history: list[Row]) -> None:
        """Write a history: one row per epoch, nested dictionaries as columns a/b."""
        rows = [flat(row) for row in history]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.folder / LOGS[0], text.getvalue().encode())
        write_atomically(self.folder / LOGS[1], (to_json(history) + "\n").encode())
        if self.board is not None:
            for row in rows[self.logged :]:
                for name, value in row.items():
                    if isinstance(value, int | float) and name not in ("epoch", "step"):
                        self.board.add_scalar(name, value, row["step"])
            self.board.flush()
        self.logged = len(rows)


def flat(row: Row, prefix: str = "") -> Row:
    """Nested dictionaries → one, with keys joined by slashes."""
    found: Row = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}/")
        else:
            found[prefix + name] = value
    return found


def _board(folder: Path) -> Any:
    require("train", "a TensorBoard log (--no-tensorboard does without)", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    # Points that an earlier process wrote are hidden by the ones written again.
    return SummaryWriter(str(folder / BOARD), purge_step=0)
