"""The networks of a plan, and where their weights are."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heatbox.errors import InputError
from heatbox.paper.steps import Input
from heatbox.training.config import TrainConfig
from heatbox.training.trainer import TRAINING
from heatbox.training.weights import checkpoint_path

CHOSEN_BY = "cam"
"""Map whose best checkpoint is taken, as the paper does (supplement 8)."""


@dataclass(frozen=True)
class Network:
    """A network that the plan trains, or takes as it was published.

    Attributes:
        config: of its training; for one that is published, of the training that would begin with it.
        name: what figures, steps and folders call it; by default the recipe's name.
        start: name of the network of the plan whose weights its training begins with; "" for none.
        trained: whether the plan trains it.
        inputs: what its training needs.
    """

    config: TrainConfig
    name: str = ""
    start: str = ""
    trained: bool = True
    inputs: tuple[Input, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.config.recipe)


@dataclass(frozen=True)
class Place:
    """A network as a worker finds it.

    Attributes:
        name: of the network.
        model: that `create_model` takes.
        options: further arguments of the function that builds it.
        training: folder of its training, or None for one that is published.
        weights: file of the published weights, or "pretrained" for those that timm publishes.
    """

    name: str
    model: str
    options: dict[str, Any]
    training: Path | None
    weights: str = ""

    def checkpoint(self) -> str:
        """The weights: of a training the checkpoint whose CAM scored best, or the last where none was scored.

        Raises:
            InputError: the training is not finished.
        """
        return self.weights if self.training is None else str(best_checkpoint(self.training))


def best_checkpoint(training: Path) -> Path:
    """The checkpoint of a finished training whose CAM has the best MaxBoxAcc, or else its last one.

    Raises:
        InputError: there is none.
    """
    try:
        found = json.loads((training / TRAINING).read_text())
        last = found["last"]
        chosen = found["best"].get(CHOSEN_BY) or {
            "epoch": last["epoch"],
            "weights": "ema" if "ema" in last else "weights",
        }
        path = checkpoint_path(training, chosen["epoch"], chosen["weights"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{training}: holds no finished training ({error})") from error
    if not path.is_file():
        raise InputError(f"{path}: is missing; train {training.name} again")
    return path
