"""The whole workflow on the embedded data set: train, make maps, score them, draw contact sheet and page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from heatbox._utils.extras import require
from heatbox._utils.progress import Track, silent
from heatbox.config import EvaluateConfig
from heatbox.data.glyphs import glyphs
from heatbox.errors import InputError
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import CONFIG, Run
from heatbox.training.config import TrainConfig, TrainOptions
from heatbox.training.trainer import train
from heatbox.training.weights import checkpoint_path
from heatbox.visualization.overlay import contact_sheet, save_png
from heatbox.visualization.report.build import write_report

METHODS = ("cam", "pc1")
TRAINING = "training"
PAGE = "report.html"


def run_demo(
    config: TrainConfig,
    out: Path,
    track: Track = silent,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    test_images: int | None = None,
) -> dict[str, Any]:
    """Train on the labels of glyphs, then make and score CAM and PC1 maps on its test split.

    Args:
        config: the training; see `heatbox.training.recipes`.
        out: the run folder; an earlier demo in it is replaced. The training is in its subfolder training/.
        track: progress display.
        report: called with each epoch's row.
        test_images: number of images to score; by default the whole test split.

    Returns:
        the scores; see `heatbox.evaluation.predict.score`. `write_page` makes the page.

    Raises:
        InputError: the folder contains another run, or the extra `train` is not installed. Nothing is
            written in either case.
    """
    run, training = Run(out), out / TRAINING
    if (out / CONFIG).exists() and not training.exists():
        raise InputError(f"{out}: contains a run that is not a demo; choose another --out")
    evaluation = EvaluateConfig(
        model=config.model,
        data="glyphs:test",
        fullsup="glyphs:fullsup",
        checkpoint=str(checkpoint_path(training, config.epochs, "weights")),
        method=METHODS,
        limit=test_images,
    )
    require("train", "the demo", "lightning_fabric")
    run.start(evaluation, config.seed, resume=False)
    options = TrainOptions(cache=True, tensorboard=False)
    model, _ = train(config, training, options, track, report, overwrite=True)
    metrics = evaluate(evaluation, run, track, model=model)
    sheet = contact_sheet({"demo": run.records()}, glyphs("test", test_images), METHODS)
    save_png(sheet, out / "contact-sheet.png")
    return metrics


def write_page(out: Path, track: Track = silent) -> str:
    """Write report.html, the explorer of the demo's images and maps, into the run folder.

    Returns:
        "", or the reason why there is no page: the extra `report` is not installed.

    Raises:
        InputError: the page cannot be written.
    """
    (out / PAGE).unlink(missing_ok=True)
    try:
        require("report", "the report page", "jinja2")
    except InputError as error:
        return str(error)
    write_report([out], out / PAGE, title="heatbox demo", track=track)
    return ""
