"""The commands `heatbox train` and `heatbox recipes`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import tyro

from heatbox.cli.terminal import INTERRUPTED, SOME_FAILED, AsJson, print_json, print_table, say
from heatbox.data.files.remote import shown
from heatbox.errors import InputError
from heatbox.training.config import FINETUNE, FinetuneConfig, TrainConfig, TrainOptions
from heatbox.training.recipes import RECIPES, get_recipe, published


def pick_recipe(args: Sequence[str]) -> tuple[Callable[..., int], str, Sequence[str]]:
    """The function behind `heatbox train RECIPE ...`, the command up to its options, and the options.

    Raises:
        InputError: the first argument is no recipe.
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
    """Train a recipe on labels alone; after an interruption, rerun the command to resume.

    Every setting of the recipe is an option: heatbox train RECIPE --help lists them with their values.

    Args:
        recipe: Name of a recipe; heatbox recipes lists them.

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
    if recipe == FINETUNE:
        return finetune
    default = get_recipe(recipe)

    def train(
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = default,
        options: Annotated[TrainOptions, tyro.conf.arg(name="")] = TrainOptions(),  # noqa: B008
        out: Path = Path("runs") / recipe,
        overwrite: bool = False,
        accept_changes: bool = False,
        as_json: AsJson = False,
    ) -> int:
        """Train a recipe on labels alone; after an interruption, rerun the command to resume.

        Writes a run folder: checkpoints with their scores, a log, and the state to resume from. On several
        devices: torchrun --nproc-per-node 8 -m heatbox train RECIPE with the same options.

        Args:
            config: The training.
            options: How to distribute it over devices.
            out: The run folder.
            overwrite: Replace an earlier training in the folder.
            accept_changes: Resume even if settings differ from those of the training in the folder.
            as_json: Print the scores as JSON instead of a table.

        Examples:
            heatbox train glyphs_resnet --out runs/small --epochs 3
            heatbox train replknet_31b_in1k_384 --data CUB --pretrained RepLKNet-31B_ImageNet-1K_384.pth
        """
        from heatbox._utils.progress import on_terminal
        from heatbox.training.state import TrainingStopped
        from heatbox.training.trainer import train as run_training

        try:
            _, found = run_training(
                config, out, options, on_terminal, report_epoch, overwrite, accept_changes
            )
        except TrainingStopped as stopped:
            say(f"heatbox: {stopped}; its state is saved, rerun the command to resume")
            return code_of(stopped.number)
        if as_json:
            print_json(found)
        else:
            from heatbox.visualization.tables import training_table

            print_table(training_table(found, config.recipe))
        say(f"run: {out} (checkpoints/, log.csv, training.json)")
        return SOME_FAILED if found.get("left_out") else 0

    return train


def finetune(
    config: Annotated[FinetuneConfig, tyro.conf.arg(name="")],
    out: Path = Path("runs") / FINETUNE,
    workers: int = 0,
    save_minutes: float = 10,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> int:
    """Fit a pretrained network to the classes of your images; after an interruption, rerun the command to
    resume.

    The network's features of all images are computed once; its last layer is fitted to them, which takes
    minutes on a CPU for thousands of images. With --epochs the whole network is then trained from there. A
    part of the images of each class is held out to measure the accuracy. Writes OUT/weights.safetensors,
    which every command takes as --checkpoint: it knows its classes, its preprocessing and whether an image
    has one class or several.

    Args:
        config: The network, the data and the training.
        out: The run folder.
        workers: Processes that decode images during --epochs; 0 decodes in the training process.
        save_minutes: Minutes between saved states during --epochs.
        overwrite: Replace an earlier fine-tuning in the folder.
        as_json: Print the accuracy and the confusion matrix as JSON instead of tables.

    Examples:
        heatbox train finetune --model tf_efficientnet_lite0 --data photos/ --out runs/mine
        heatbox train finetune --model hf:facebook/convnext-tiny-224 --data photos/ --epochs 10
        heatbox evaluate -m tf_efficientnet_lite0 --checkpoint runs/mine/weights.safetensors -d boxes/
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.training.finetune import finetune as run_finetune
    from heatbox.training.state import TrainingStopped

    try:
        found = run_finetune(config, out, None, on_terminal, report_epoch, overwrite, workers, save_minutes)
    except TrainingStopped as stopped:
        say(f"heatbox: {stopped}; its state is saved, rerun the command to resume")
        return code_of(stopped.number)
    if as_json:
        print_json(found.scores)
    else:
        show_accuracy(found.scores, f"{config.model} on {shown(config.data)}")
    left_out = found.scores["left_out"]
    if left_out:
        say("left out: " + ", ".join(f"{count} {reason}" for reason, count in left_out.items()))
    say(f"run: {out} (weights.safetensors, finetune.json, held-out.json)")
    return SOME_FAILED if left_out else 0


def show_accuracy(scores: dict[str, Any], title: str) -> None:
    """Print the accuracy of a fine-tuning and what its classes are taken for."""
    from heatbox.visualization.tables import accuracy_table, confusion_table

    print_table(accuracy_table(scores, title))
    if (table := confusion_table(scores)) is not None:
        print_table(table)


def code_of(number: int) -> int:
    """The exit code of a command stopped by a signal."""
    return INTERRUPTED if number == signal.SIGINT else 128 + number


def report_epoch(row: dict[str, Any]) -> None:
    """Print one line about a finished epoch."""
    from heatbox.training.log import epoch_line

    say(epoch_line(row))


def recipes(as_json: AsJson = False) -> None:
    """List the recipes, their initial weights, and the scores that the paper reports.

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
        say(
            "heatbox train finetune --model ANY --data PHOTOS fits any pretrained network to your own classes"
        )
