"""The command `heatbox evaluate`: maps are made and scored, or with --from-run scored again."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from heatbox._utils.io import folder_name
from heatbox.cli.parsing import apart, for_networks, names_networks
from heatbox.cli.terminal import SOME_FAILED, AsJson, say, show_scores, warn_of_random_weights
from heatbox.config import EvaluateConfig, MetricName, NetworksConfig
from heatbox.data.files.remote import shown
from heatbox.errors import InputError


def evaluate(
    config: Annotated[EvaluateConfig, tyro.conf.arg(name="")],
    out: Path | None = None,
    overwrite: bool = False,
    calibration: Path | None = None,
    breakdown: bool = False,
    as_json: AsJson = False,
) -> int:
    """Make maps of a data set and score them against its boxes or masks.

    Masks are used where there are no boxes. Writes a run folder and prints a table. After an interruption,
    rerun the command to resume. With --on-bad skip, images that cannot be used are left out and counted; the
    exit code is then 1. With --from-run RUN instead of --model and --data, the maps saved in a run
    are scored again. With --model A B --checkpoint a b, the maps of several networks are averaged: the run
    folder contains a run of each, and the table has a row for each beside the mean.

    Args:
        config: What to evaluate.
        out: The run folder; by default runs/MODEL-DATA.
        overwrite: Replace an earlier run in the folder.
        calibration: A file of heatbox calibrate; its thresholds are scored beside the best ones.
        breakdown: Print MaxBoxAcc by size, shape, number and place of objects, and of the hardest classes.
        as_json: Print the scores as JSON instead of a table.

    Examples:
        heatbox evaluate --model resnet50 --checkpoint pretrained --data ILSVRC/test --method cam pc1
        heatbox evaluate --model mine.py:build --checkpoint mine.pth --data birds.tar --fullsup birds-val.tar
        heatbox evaluate --model resnet50 mine.py:build --checkpoint pretrained mine.pth --data ILSVRC/test
        heatbox evaluate --from-run runs/resnet50-test --metrics all
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.evaluation.networks import evaluate_networks
    from heatbox.evaluation.predict import evaluate as evaluate_one
    from heatbox.evaluation.run import Run
    from heatbox.inference.calibration import load_calibration

    networks = config.each() if isinstance(config, NetworksConfig) else [config]
    for one in networks:
        warn_of_random_weights(one.model, one.checkpoint)
    models = [one.model for one in networks]
    run = Run(out or Path("runs") / folder_name("-".join([*models, shown(config.data)])))
    if run.finished and not overwrite:
        say(f"note: {run.folder} contains maps already, which are scored again; --overwrite makes new ones")
    known = None if calibration is None else load_calibration(calibration)
    if isinstance(config, NetworksConfig):
        metrics = evaluate_networks(config, run, on_terminal, overwrite, known)
    else:
        metrics = evaluate_one(config, run, on_terminal, overwrite, calibration=known)
    show_scores(metrics, f"{' + '.join(models)} on {shown(config.data)}", as_json, breakdown)
    say(f"run: {run.folder}")
    return SOME_FAILED if metrics.get("left_out") else 0


def evaluate_or_rescore(args: Sequence[str]) -> tuple[Callable[..., int | None], str, Sequence[str]]:
    """Function, prog and arguments of `heatbox evaluate`.

    --from-run selects `rescore`, several values of --model the configuration of several networks.
    """
    if any(re.match(r"--from[-_]run\b", arg) for arg in args):
        return rescore, "heatbox evaluate", args
    if not names_networks(args):
        return evaluate, "heatbox evaluate", args
    return for_networks(evaluate, NetworksConfig), "heatbox evaluate", apart(args)


def rescore(
    from_run: Path,
    protocol: Literal["reference", "exact"] = "reference",
    thresholds: int = 1000,
    metrics: tuple[MetricName, ...] = ("boxes",),
    calibration: Path | None = None,
    normalize: str | None = None,
    breakdown: bool = False,
    as_json: AsJson = False,
) -> int:
    """Score the maps saved in a run again.

    Args:
        from_run: The folder of a finished run.
        protocol: How boxes are compared: as in the reference evaluator, or without its rounding.
        thresholds: Number of thresholds.
        metrics: Scores besides those of boxes, as for a new run.
        calibration: A file of heatbox calibrate; its thresholds are scored beside the best ones.
        normalize: How maps are brought to [0, 1]; by default as in the run.
        breakdown: Print MaxBoxAcc by size, shape, number and place of objects, and of the hardest classes.
        as_json: Print the scores as JSON instead of a table.

    Examples:
        heatbox evaluate --from-run runs/resnet50-test --protocol exact
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.evaluation.run import FULLSUP, Run
    from heatbox.evaluation.score import score_run
    from heatbox.inference.calibration import load_calibration

    known = None if calibration is None else load_calibration(calibration)
    run = Run(from_run)
    run.config()  # raises if this is not a run
    if len(run) and not run.finished:
        raise InputError(
            f"{from_run}: is an unfinished run that contains maps of {len(run)} images so far; "
            "rerun the command that started it to resume"
        )
    fullsup = Run(from_run / FULLSUP)
    methods = run.methods()
    found = score_run(
        run,
        methods,
        thresholds,
        protocol,
        fullsup if fullsup.finished else None,
        on_terminal,
        metrics,
        known,
        normalize or run.settings()["normalize"],
    )
    show_scores(found, f"{from_run}, scored again", as_json, breakdown)
    return SOME_FAILED if found.get("left_out") else 0
