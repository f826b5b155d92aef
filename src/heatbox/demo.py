"""The main job in one go, on the embedded data set: train, make maps, score, show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from heatbox.config import EvaluateConfig, TrainConfig, TrainOptions
from heatbox.data.glyphs import glyphs
from heatbox.evaluation import evaluate
from heatbox.progress import Track, silent
from heatbox.report.overlay import contact_sheet
from heatbox.store import Run
from heatbox.train.weights import checkpoint_path
from heatbox.training import train

METHODS = ("cam", "pc1")


def run_demo(
    config: TrainConfig,
    out: Path,
    track: Track = silent,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    test_images: int | None = None,
) -> dict[str, Any]:
    """Train on glyphs' labels, then make and score CAM and PC1 maps on its test split.

    Args:
        config: of the training, see `heatbox.recipes`.
        out: where the folders training/ and maps/ are made; an earlier demo in it is replaced.
        track: how to show progress.
        report: is told each epoch's row.
        test_images: number of images scored, by default all of the test split.

    Returns:
        the scores; see `heatbox.evaluation.score`.

    Raises:
        InputError: the folders hold something that is no demo.
    """
    training, maps = out / "training", Run(out / "maps")
    options = TrainOptions(cache=True, tensorboard=False)
    model, _ = train(config, training, options, track, report, overwrite=True)
    evaluation = EvaluateConfig(
        model=config.model,
        data="glyphs:test",
        fullsup="glyphs:fullsup",
        checkpoint=str(checkpoint_path(training, config.epochs, "weights")),
        method=METHODS,
        limit=test_images,
    )
    metrics = evaluate(evaluation, maps, track, overwrite=True, model=model)
    contact_sheet(maps, glyphs("test", test_images), METHODS).save(out / "contact-sheet.png")
    return metrics
