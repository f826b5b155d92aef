"""The commands that print a table of scores: demo, evaluate, score."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from heatbox._utils.io import folder_name
from heatbox.cli.terminal import SOME_FAILED, AsJson, print_json, print_table, say, warn_of_random_weights
from heatbox.cli.train import code_of, report_epoch
from heatbox.config import EvaluateConfig, ScoreConfig
from heatbox.errors import InputError
from heatbox.training.recipes import get_recipe


def demo(out: Path = Path("heatbox-demo"), epochs: int = 10, seed: int = 0, as_json: AsJson = False) -> int:
    """Train on the embedded data set, make maps, score them: the main job in one go.

    Requires no data and no network and takes about three minutes on two CPU cores. The run folder holds the
    trained weights, every prediction, the scores, a contact sheet and a page to explore.

    Args:
        out: The run folder; an earlier demo in it is replaced.
        epochs: Passes over the 4000 training images.
        seed: Of the training.
        as_json: Print the scores as JSON instead of a table.

    Examples:
        heatbox demo
        heatbox demo --epochs 3 --out quick-demo
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.demo import PAGE, run_demo, write_page
    from heatbox.training.trainer import TrainingStopped

    config = dataclasses.replace(get_recipe("glyphs_resnet"), epochs=epochs, seed=seed)
    try:
        metrics = run_demo(config, out, on_terminal, report_epoch)
    except TrainingStopped as stopped:
        say(f"heatbox: {stopped}; the same command begins a new demo")
        return code_of(stopped.number)
    show_scores(metrics, f"glyphs: {metrics['images']} test images, trained on labels alone", as_json)
    missing = write_page(out, on_terminal)
    say(f"note: {missing}" if missing else f"page:     {out / PAGE} (open it in a browser)")
    say(f"pictures: {out / 'contact-sheet.png'}")
    say(f"run:      {out} (metrics.json, predictions.parquet, training/)")
    return 0


def evaluate(
    config: Annotated[EvaluateConfig, tyro.conf.arg(name="")],
    out: Path | None = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> None:
    """Make maps of a data set and score them against its boxes or masks.

    Masks count where there are no boxes. Writes a run folder and prints a table. Interrupted, the same
    command goes on where it stopped. With --from-run RUN instead of --model and --data, the maps saved in a
    run are scored again.

    Args:
        config: What to evaluate.
        out: The run folder; by default runs/MODEL-DATA.
        overwrite: Start anew where the folder holds another run.
        as_json: Print the scores as JSON instead of a table.

    Examples:
        heatbox evaluate --model resnet50 --checkpoint pretrained --data ILSVRC/test --method cam pc1
        heatbox evaluate --model mine.py:build --checkpoint mine.pth --data birds.tar --fullsup birds-val.tar
        heatbox evaluate --from-run runs/resnet50-test
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.evaluation.predict import evaluate as run_evaluation
    from heatbox.evaluation.run import Run

    warn_of_random_weights(config.model, config.checkpoint)
    run = Run(out or Path("runs") / folder_name(f"{config.model}-{config.data}"))
    if run.finished and not overwrite:
        say(f"note: {run.folder} holds maps already, which are scored again; --overwrite makes new ones")
    metrics = run_evaluation(config, run, on_terminal, overwrite)
    show_scores(metrics, f"{config.model} on {config.data}", as_json)
    say(f"run: {run.folder}")


def evaluate_or_rescore(args: Sequence[str]) -> tuple[Callable[..., None], str, Sequence[str]]:
    """Function, prog and arguments of `heatbox evaluate`; --from-run selects `rescore`."""
    again = any(re.match(r"--from[-_]run\b", arg) for arg in args)
    return rescore if again else evaluate, "heatbox evaluate", args


def rescore(
    from_run: Path,
    protocol: Literal["reference", "exact"] = "reference",
    thresholds: int = 1000,
    as_json: AsJson = False,
) -> None:
    """Score the maps saved in a run again.

    Args:
        from_run: The folder of a finished run.
        protocol: Boxes as the field's reference evaluator compares them, or without its rounding.
        thresholds: Number of thresholds tried.
        as_json: Print the scores as JSON instead of a table.

    Examples:
        heatbox evaluate --from-run runs/resnet50-test --protocol exact
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.evaluation.run import Run
    from heatbox.evaluation.score import score_run

    run = Run(from_run)
    run.config()  # says so where this is no run at all
    if len(run) and not run.finished:
        raise InputError(
            f"{from_run}: is an unfinished run that holds maps of {len(run)} images so far; "
            "go on with the command that began it"
        )
    fullsup = Run(from_run / "fullsup")
    methods = run.methods()
    metrics = score_run(
        run, methods, thresholds, protocol, fullsup if fullsup.finished else None, on_terminal
    )
    show_scores(metrics, f"{from_run}, scored again", as_json)


def score(
    config: Annotated[ScoreConfig, tyro.conf.arg(name="")],
    out: Path | None = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> int:
    """Score heatmaps that any tool made.

    They are .npy files in the reference layout. Prints MaxBoxAcc and MaxBoxAccV2 with intervals, beside
    baselines; PxAP where the data set has masks and no boxes. Heatmaps that are missing or malformed are
    reported and left out; the exit code is then 1. Interrupted, the same command goes on, against boxes
    with the reference protocol; the others keep no records.

    Args:
        config: What to score.
        out: The run folder; by default runs/score-HEATMAPS.
        overwrite: Start anew where the folder holds another run.
        as_json: Print the scores as JSON instead of a table.

    Examples:
        heatbox score --heatmaps maps/ --data CUB/test
        heatbox score --heatmaps maps/ --data CUB/test --fullsup-heatmaps maps-val/ --fullsup CUB/val
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.evaluation.run import Run
    from heatbox.evaluation.score import score_heatmaps

    run = Run(out or Path("runs") / folder_name(f"score-{config.heatmaps}"))
    metrics, problems = score_heatmaps(config, run, on_terminal, overwrite)
    show_scores(metrics, f"{config.heatmaps} on {config.data}", as_json)
    for problem in problems:
        say(f"left out: {problem}")
    say(f"run: {run.folder}")
    return SOME_FAILED if problems else 0


def show_scores(metrics: dict[str, Any], title: str, as_json: bool) -> None:
    """Print what metrics.json holds, as a table with the differences between maps below it, or as JSON."""
    if as_json:
        print_json(metrics)
    else:
        from heatbox._utils.progress import printable
        from heatbox.visualization.tables import difference_lines, terminal_score_table

        print_table(terminal_score_table(metrics, title))
        for line in difference_lines(metrics):
            print(printable(line))
