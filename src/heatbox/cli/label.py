"""The command `heatbox label`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from heatbox.cli.parsing import apart, for_networks, names_networks
from heatbox.cli.terminal import (
    MOST_PROBLEMS,
    SOME_FAILED,
    AsJson,
    print_json,
    print_table,
    say,
    warn_of_random_weights,
)
from heatbox.config import LabelConfig, LabelNetworksConfig
from heatbox.data.files.remote import shown
from heatbox.data.formats.options import WriteOptions

if TYPE_CHECKING:
    from heatbox.training.finetune import Finetuned

LabelFormat = Literal[
    "coco", "coco-results", "csv", "cvat", "huggingface", "label-studio", "labelstudio", "voc", "yolo"
]


def label(
    photos: tyro.conf.Positional[str],
    config: Annotated[LabelConfig, tyro.conf.arg(name="")],
    options: Annotated[WriteOptions, tyro.conf.arg(name="")],
    to: tuple[LabelFormat, ...] = ("coco",),
    out: Path = Path("boxes"),
    run: Path | None = None,
    corrected: str | None = None,
    review: int = 1000,
    as_json: AsJson = False,
) -> int:
    """Make boxes of labelled photographs, for an annotation tool or a detector.

    The photographs lie in class folders, or have a table of labels; without labels the classifier's
    prediction counts. Writes a folder or file for each format below --out, and summary.json. Images
    that cannot be read are left out and listed; the exit code is then 1. Without --model, a classifier
    is fitted to the labels first, and its accuracy printed. With --model A B --checkpoint a b after the
    photographs, the maps of several networks are averaged. Maps are kept in a run folder: after an
    interruption, rerun the command to resume.

    Args:
        photos: A folder of class folders, a table of labels, or another data set whose images have labels; or
            a folder of images. Nothing is written there.
        config: The classifier, the map, and how boxes are made of it.
        options: How annotations and images are written.
        to: Formats to write, each to a file or folder below --out.
        out: The output folder; it is written whole or not at all.
        run: Folder of the maps; by default runs/label-PHOTOS.
        corrected: Boxes that a person corrected, in any format that heatbox reads. They are kept; threshold
            and confidence are calibrated with them, and the other images are labelled again.
        review: Maximum number of images on review.html, the most doubtful ones; 0 writes no page.
        as_json: Print summary.json instead of a table.

    Examples:
        heatbox label photos/ --to yolo coco label-studio --out boxes
        heatbox label photos/ --model convnext_tiny.fb_in1k --checkpoint pretrained --to yolo coco --out boxes
        heatbox label photos/ --model hf:my-finetuned-model --to cvat label-studio
        heatbox label photos/ --model hf:my-finetuned-model --corrected corrected.json --out boxes2
    """
    from heatbox._utils import processes
    from heatbox._utils.progress import on_terminal, printable
    from heatbox.cli.train import show_accuracy
    from heatbox.evaluation.run import Run
    from heatbox.labeling.output import accuracy_sentence, check_outputs
    from heatbox.labeling.pipeline import default_run, label_photos
    from heatbox.visualization.tables import label_table

    each = config.each() if isinstance(config, LabelNetworksConfig) else [config]
    for one in each:
        if one.model is not None:
            warn_of_random_weights(one.model, one.checkpoint)
    if options.model_version is None:
        models = " + ".join(one.model or one.finetune for one in each)
        name = " ".join(filter(None, (models, config.method)))
        options = dataclasses.replace(options, model_version=name)

    def trained(fitted: Finetuned) -> None:
        if not as_json and processes.is_first():
            show_accuracy(fitted.scores, f"{each[0].finetune} on {shown(photos)}")

    check_outputs(out, to, options, photos)
    store = Run(run or default_run(photos))
    written = label_photos(photos, config, store, out, to, options, on_terminal, corrected, review, trained)
    summary = written.summary
    if as_json:
        print_json(summary)
    else:
        print_table(label_table(summary, shown(photos)))
        print(f"{accuracy_sentence(summary)}.")
        for line in summary["notes"]:
            print(printable(line))
    for note in written.notes:
        say(f"note: {note}")
    problems = [*summary["left_out"]["problems"], *written.problems]
    for problem in problems[:MOST_PROBLEMS]:
        say(f"left out: {problem}")
    if len(problems) > MOST_PROBLEMS:
        say(f"... and {len(problems) - MOST_PROBLEMS} more in {out / 'summary.json'}")
    say(f"boxes: {out} ({', '.join(written.files)})")
    return SOME_FAILED if problems else 0


def one_or_several(args: Sequence[str]) -> tuple[Callable[..., int | None], str, Sequence[str]]:
    """Function, prog and arguments of `heatbox label`: of several networks where --model names some."""
    if not names_networks(args, after_files=True):
        return label, "heatbox label", args
    return for_networks(label, LabelNetworksConfig), "heatbox label", apart(args)
