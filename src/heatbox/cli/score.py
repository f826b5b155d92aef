"""The command `heatbox score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from heatbox._utils.io import folder_name
from heatbox.cli.terminal import SOME_FAILED, AsJson, say, show_scores
from heatbox.config import ScoreConfig
from heatbox.data.files.remote import shown


def score(
    config: Annotated[ScoreConfig, tyro.conf.arg(name="")],
    out: Path | None = None,
    overwrite: bool = False,
    breakdown: bool = False,
    as_json: AsJson = False,
) -> int:
    """Score heatmaps that any tool made.

    Heatmaps are .npy files, one per image. Prints MaxBoxAcc and MaxBoxAccV2 with intervals, and the
    baselines; PxAP if the data set has masks and no boxes. Heatmaps that are missing or malformed are
    reported and not scored; the exit code is then 1. After an interruption, rerun the command: scoring boxes
    with the reference protocol resumes, scoring masks or with the exact protocol starts again.

    Args:
        config: What to score.
        out: The run folder; by default runs/score-HEATMAPS.
        overwrite: Replace an earlier run in the folder.
        breakdown: Print MaxBoxAcc by size, shape, number and place of objects, and of the hardest classes.
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
    show_scores(metrics, f"{config.heatmaps} on {shown(config.data)}", as_json, breakdown)
    for problem in problems:
        say(f"left out: {problem}")
    say(f"run: {run.folder}")
    return SOME_FAILED if problems or metrics.get("left_out") else 0
