"""The commands `heatbox train` and `heatbox recipes`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from heatbox.config import TrainConfig, TrainOptions
from heatbox.recipes import get_recipe
from heatbox.terminal import INTERRUPTED, AsJson, print_table, say


def train_command(recipe: str) -> Callable[..., int]:
    """The function behind `heatbox train RECIPE`: every setting of the recipe is an option of it.

    Raises:
        InputError: there is no such recipe.
    """
    default = get_recipe(recipe)

    def train(
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = default,
        options: Annotated[TrainOptions, tyro.conf.arg(name="")] = TrainOptions(),  # noqa: B008
        out: Path = Path("runs") / recipe,
        overwrite: bool = False,
        accept_changes: bool = False,
        as_json: AsJson = False,
    ) -> int:
        """Train a recipe on labels alone; interrupted or killed, the same command goes on.

        Writes a run folder: checkpoints with their scores, a log, and what is needed to go on. On several
        devices: torchrun --nproc-per-node 8 -m heatbox train RECIPE ...

        Args:
            config: What to compute.
            options: How to spread it over the machine.
            out: The run folder.
            overwrite: Start anew where the folder holds another training.
            accept_changes: Go on although settings differ from those the folder was begun with.
            as_json: Print the scores as JSON instead of a table.
        """
        return _train(config, options, out, overwrite, accept_changes, as_json)

    return train


def _train(
    config: TrainConfig,
    options: TrainOptions,
    out: Path,
    overwrite: bool,
    accept_changes: bool,
    as_json: bool,
) -> int:
    from heatbox.progress import on_terminal
    from heatbox.train.loop import Stopped
    from heatbox.training import train

    try:
        _, found = train(config, out, options, on_terminal, tell_epoch, overwrite, accept_changes)
    except Stopped as stopped:
        say(f"heatbox: {stopped}; its state is saved, the same command goes on from there")
        return INTERRUPTED if stopped.number == signal.SIGINT else 128 + stopped.number
    if as_json:
        from heatbox.store import to_json

        print(to_json(found))
    else:
        from heatbox.report.tables import training_table

        print_table(training_table(found, config.recipe))
    say(f"run: {out} (checkpoints/, log.csv, training.json)")
    return 0


def tell_epoch(row: dict[str, Any]) -> None:
    """One line about an epoch that is done."""
    from heatbox.train.log import epoch_line

    say(epoch_line(row))


def recipes(as_json: AsJson = False) -> None:
    """What can be trained by name, from which weights, and what the paper reports of it.

    Args:
        as_json: Print JSON instead of a table.
    """
    from heatbox.recipes import RECIPES, published

    rows = [(make(), published(name)) for name, make in RECIPES.items()]
    if as_json:
        from heatbox.store import to_json

        print(to_json([{"config": config, "published": scores} for config, scores in rows]))
    else:
        from heatbox.report.tables import recipe_table

        print_table(recipe_table(rows))
