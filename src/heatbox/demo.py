"""The main job in one go, on the embedded data set: train, make maps, score, show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from heatbox.config import EvaluateConfig, TrainConfig
from heatbox.data.glyphs import glyphs
from heatbox.errors import InputError
from heatbox.evaluation import evaluate
from heatbox.progress import Track, silent
from heatbox.report.overlay import contact_sheet
from heatbox.store import CONFIG, Run
from heatbox.train.loop import train

METHODS = ("cam", "pc1")
TRAINING = "train.json"


def run_demo(
    config: TrainConfig,
    out: Path,
    track: Track = silent,
    train_images: int | None = None,
    test_images: int | None = None,
) -> dict[str, Any]:
    """Train on glyphs' labels, then make and score CAM and PC1 maps on its test split.

    Args:
        config: of the training.
        out: the run folder, replaced if it holds an earlier run.
        track: how to show progress.
        train_images, test_images: sizes of the splits, by default all of them.

    Returns:
        the scores; see `heatbox.evaluation.score`.

    Raises:
        InputError: the folder holds something that is no demo.
    """
    run = Run(out)
    if (out / CONFIG).exists() and not (out / TRAINING).exists():
        raise InputError(f"{out}: holds a run that is no demo; choose another --out")
    test = glyphs("test", test_images)
    evaluation = EvaluateConfig(
        model=config.model,
        data="glyphs:test",
        fullsup="glyphs:fullsup",
        checkpoint=str(out / "weights.safetensors"),
        num_classes=test.num_classes,
        method=METHODS,
        limit=test_images,
    )
    run.start(evaluation, config.seed, resume=False)
    run.write_json(TRAINING, config)
    model = train(config, glyphs("train", train_images), track)
    save_file(model.state_dict(), out / "weights.safetensors")
    metrics = evaluate(evaluation, run, track, model=model)
    contact_sheet(run, test, METHODS).save(out / "contact-sheet.png")
    return metrics
