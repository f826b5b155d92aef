"""The networks of a plan, and where their weights are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heatbox.paper.steps import Input
from heatbox.training.config import TrainConfig
from heatbox.training.weights import best_checkpoint


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
