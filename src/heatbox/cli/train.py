"""The commands `heatbox train` and `heatbox recipes`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import tyro

from heatbox.cli.terminal import INTERRUPTED, AsJson, print_json, print_table, say
from heatbox.errors import InputError
from heatbox.training.config import TrainConfig, TrainOptions
from heatbox.training.recipes import RECIPES, get_recipe, published


def pick_recipe(args: Sequence[str]) -> tuple[Callable[..., int], str, Sequence[str]]:
    """The function behind `heatbox train RECIPE ...`, the words before its options, and its options.

    Raises:
        InputError: no recipe stands first, or there is none of that name.
    """
    flags = list(takewhile(lambda arg: arg in ("-v", "--verbose"), args))
    rest = args[len(flags) :]
    if rest and not rest[0].startswith("-"):
        return train_command(rest[0]), f"heatbox train {rest[0]}", [*flags, *rest[1:]]
    if not {"-h", "--help"} & set(args):
        raise InputError(
            "no recipe was named; expected heatbox train RECIPE --data PATH, heatbox recipes lists them"
        )
    return train, "heatbox train", args


def train(recipe: tyro.conf.Positional[str]) -> int:
    """Train a recipe on labels alone; interrupted or killed, the same command goes on.

    Every setting of the recipe is an option: heatbox train RECIPE --help lists them with their values.

    Args:
        recipe: One of those that heatbox recipes lists.

    Examples:
        heatbox train glyphs_resnet --out runs/small
        heatbox train replknet_31b_in1k_384 --data CUB --pretrained RepLKNet-31B_ImageNet-1K_384.pth
    """
    return train_command(recipe)()


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
        devices: torchrun --nproc-per-node 8 -m heatbox train RECIPE and the same options.

        Args:
            config: What to compute.
            options: How to spread it over the machine.
            out: The run folder.
            overwrite: Start anew where the folder holds another training.
            accept_changes: Go on although settings differ from those the folder was begun with.
            as_json: Print the scores as JSON instead of a table.

        Examples:
            heatbox train glyphs_resnet --out runs/small --epochs 3
            heatbox train replknet_31b_in1k_384 --data CUB --pretrained RepLKNet-31B_ImageNet-1K_384.pth
        """
        return _train(config, options, out, overwrite, accept_changes, as_json)

    return train


def code_of(number: int) -> int:
    """The exit code of a command that a signal has stopped."""
    return INTERRUPTED if number == signal.SIGINT else 128 + number


def _train(
    config: TrainConfig,
    options: TrainOptions,
    out: Path,
    overwrite: bool,
    accept_changes: bool,
    as_json: bool,
) -> int:
    from heatbox._utils.progress import on_terminal
    from heatbox.training.trainer import TrainingStopped, train

    try:
        _, found = train(config, out, options, on_terminal, tell_epoch, overwrite, accept_changes)
    except TrainingStopped as stopped:
        say(f"heatbox: {stopped}; its state is saved, the same command goes on from there")
        return code_of(stopped.number)
    if as_json:
        print_json(found)
    else:
        from heatbox.visualization.tables import training_table

        print_table(training_table(found, config.recipe))
    say(f"run: {out} (checkpoints/, log.csv, training.json)")
    return 0


def tell_epoch(row: dict[str, Any]) -> None:
    """One line about an epoch that is done."""
    from heatbox.training.log import epoch_line

    say(epoch_line(row))


def recipes(as_json: AsJson = False) -> None:
    """What can be trained by name, from which weights, and what the paper reports of it.

    Args:
        as_json: Print JSON instead of a table.

    Examples:
        heatbox recipes
    """
    rows = [(make(), published(name)) for name, make in RECIPES.items()]
    if as_json:
        print_json([{"config": config, "published": scores} for config, scores in rows])
    else:
        from heatbox.visualization.tables import recipe_table

        print_table(recipe_table(rows))
