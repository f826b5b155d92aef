"""The command `heatbox demo`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from heatbox.cli.terminal import AsJson, say, show_scores
from heatbox.cli.train import code_of, report_epoch
from heatbox.training.recipes import get_recipe


def demo(out: Path = Path("heatbox-demo"), epochs: int = 10, seed: int = 0, as_json: AsJson = False) -> int:
    """Train on the embedded data set, make maps and score them, in one command.

    Needs no data and no network, and takes about three minutes on two CPU cores. The run folder contains the
    trained weights, every prediction, the scores, a contact sheet and an explorer page.

    Args:
        out: The run folder; an earlier demo in it is replaced.
        epochs: Passes over the 4000 training images.
        seed: Random seed of the training.
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
        say(f"heatbox: {stopped}; rerun the command to start the demo again")
        return code_of(stopped.number)
    show_scores(metrics, f"glyphs: {metrics['images']} test images, trained on labels alone", as_json)
    missing = write_page(out, on_terminal)
    say(f"note: {missing}" if missing else f"page:     {out / PAGE} (open it in a browser)")
    say(f"images:   {out / 'contact-sheet.png'}")
    say(f"run:      {out} (metrics.json, predictions.parquet, training/)")
    return 0
