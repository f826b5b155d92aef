"""The functions that the steps of the paper call in worker processes; thin calls of the library.

Each takes `report`, a function that prints a line, and `overwrite`, whether to drop the output of an earlier
call with other settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heatbox._utils.io import read_json
from heatbox._utils.progress import on_terminal
from heatbox.analysis.config import AllConfig
from heatbox.analysis.runner import COMPARISON, Analysis, compared_models, images_of
from heatbox.analysis.signed_cam import draw_signed_cam
from heatbox.config import EvaluateConfig
from heatbox.data.open import open_split
from heatbox.data.prepare import prepare_cub
from heatbox.errors import InputError
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import METRICS, Run
from heatbox.training.config import TrainConfig, TrainOptions
from heatbox.training.log import epoch_line
from heatbox.training.recipes import published
from heatbox.training.trainer import train
from heatbox.training.weights import best_checkpoint
from heatbox.visualization.figures import scores
from heatbox.visualization.figures.style import Drawn, save_figure
from heatbox.visualization.overlay import contact_sheet, save_sheet
from heatbox.visualization.report.build import PageFigure, write_report
from heatbox.visualization.report.folders import read_folders
from heatbox.visualization.report.models import describe, model_scores

Report = Callable[[str], None]
MAPS = ("cam", "pc1")
BEST = "best"
"""In place of a checkpoint: that of a training whose CAM scored best, or the last if none was scored."""


def prepare(source: Path, out: Path, *, report: Report, overwrite: bool) -> None:
    """448-pixel copies of CUB-200-2011 (supplement 8)."""
    for problem in prepare_cub(source, out, track=on_terminal):
        report(f"left out: {problem}")


def train_network(
    config: TrainConfig,
    folder: Path,
    start: Path | None,
    options: TrainOptions,
    *,
    report: Report,
    overwrite: bool,
) -> None:
    """Train a recipe, from the best checkpoint of another training of the plan if one is given."""
    if start is not None:
        config = dataclasses.replace(config, pretrained=str(best_checkpoint(start)))

    def report_epoch(row: Mapping[str, Any]) -> None:
        report(f"{epoch_line(dict(row))} (of {config.epochs} epochs)")

    train(config, folder, options, on_terminal, report_epoch, overwrite=overwrite)


def evaluate_network(
    config: EvaluateConfig, training: Path | None, folder: Path, *, report: Report, overwrite: bool
) -> None:
    """Make and score the maps of a model, with the best weights of its training if a folder is given.

    A fully supervised split that does not exist is left out, and with it the transferred scores.
    """
    if training is not None:
        config = dataclasses.replace(config, checkpoint=str(best_checkpoint(training)))
    if config.fullsup and not config.fullsup.startswith("glyphs") and not Path(config.fullsup).exists():
        report(f"no transferred scores: {config.fullsup} does not exist")
        config = dataclasses.replace(config, fullsup=None)
    evaluate(config, Run(folder), on_terminal, overwrite)


def analyse(
    instruments: Sequence[str], config: AllConfig, out: Path, *, report: Report, overwrite: bool
) -> None:
    """Measure models side by side with some instruments."""
    analysis = Analysis(_with_weights(config), out, on_terminal, overwrite)
    analysis.run(*instruments)
    analysis.compare()


def _with_weights(config: AllConfig) -> AllConfig:
    """The configuration with the best checkpoint of each training that is to be taken for `BEST`."""
    named = zip(config.model, config.checkpoint, strict=True)
    checkpoints = (str(best_checkpoint(Path(model))) if given == BEST else given for model, given in named)
    return dataclasses.replace(config, checkpoint=tuple(checkpoints))


def draw_contact_sheet(
    runs: Mapping[str, Path], data: str, out: Path, *, report: Report, overwrite: bool
) -> None:
    """CAM and PC1 of the same images by several models."""
    split = open_split(data)
    found = {label: Run(folder).records() for label, folder in runs.items()}
    save_sheet(contact_sheet(found, split, MAPS, count=8, side=112), out)


def draw_cam_parts(config: AllConfig, out: Path, *, report: Report, overwrite: bool) -> None:
    """Channels of high and of low class weight, and CAM from either sign of the weights."""
    config = _with_weights(config)
    draw_signed_cam(compared_models(config, out.parent), images_of(config), config, out)


def draw_scores(
    runs: Sequence[Path],
    analyses: Sequence[Path],
    starts: Mapping[str, TrainConfig],
    figure: str,
    out: Path,
    *,
    report: Report,
    overwrite: bool,
) -> None:
    """A figure or table of the scores of all models that have been scored so far.

    Args:
        runs: folders of evaluations; unfinished ones are left out.
        analyses: folders of analyses, for receptive fields.
        starts: name of a published model → the configuration of a training that starts from it.
        figure: "per-model-MAP" (Fig. 13), "against-erf-MAP" (Fig. 14), "pc1-against-cam" (Table 3) or "all".
        out: the image; its numbers are written beside it.
        report: called with what was left out.
        overwrite: without effect; figures are always drawn again.
    """
    finished = [run for run in runs if (run / METRICS).exists()]
    if absent := [run.name for run in runs if run not in finished]:
        report(f"without {', '.join(absent)}")
    folders = read_folders([*finished, *(path for path in analyses if (path / COMPARISON).exists())])
    models = [_known(model, starts.get(model.name)) for model in model_scores(folders)]
    drawers: dict[str, Callable[[], Drawn]] = {
        "per-model-cam": lambda: scores.scores_per_model(models, "cam"),
        "per-model-pc1": lambda: scores.scores_per_model(models, "pc1"),
        "against-erf-cam": lambda: scores.score_against_erf(models, "cam"),
        "against-erf-pc1": lambda: scores.score_against_erf(models, "pc1"),
        "pc1-against-cam": lambda: scores.maps_compared(models),
        "all": lambda: scores.all_scores(
            models, _baselines(finished), {model.name: published(model.name) for model in models}
        ),
    }
    save_figure(drawers[figure](), out.with_suffix(""))


def _known(model: scores.ModelScore, start: TrainConfig | None) -> scores.ModelScore:
    """The model with the family, size and augmentation that a published one has no training folder for."""
    if start is None:
        return model
    return dataclasses.replace(model, **describe(start.model, dataclasses.asdict(start)))


def _baselines(runs: Sequence[Path]) -> dict[str, Any]:
    if not runs:
        return {}
    metrics = Run(runs[0]).metrics()
    return {name: metrics["methods"][name] for name in metrics["baselines"]}


def draw_headlines(analyses: Sequence[Path], out: Path, *, report: Report, overwrite: bool) -> None:
    """The headline numbers of all instruments side by side."""
    rows: dict[str, dict[str, Any]] = {}
    for folder in analyses:
        if (folder / COMPARISON).exists():
            for row in read_json(folder / COMPARISON)["models"]:
                rows.setdefault(row["model"], {}).update(row)
    if not rows:
        raise InputError("there is no measurement of any instrument")
    save_figure(scores.headline_numbers(list(rows.values())), out.with_suffix(""))


def write_page(
    runs: Sequence[Path],
    explored: Sequence[Path],
    figures: Sequence[PageFigure],
    out: Path,
    title: str,
    images: int,
    *,
    report: Report,
    overwrite: bool,
) -> None:
    """The page with the paper's tables and figures, as far as they exist, and the explorer.

    Args:
        runs: folders of evaluations, for the tables.
        explored: those of them whose images the explorer shows.
        figures: titles and files; missing ones are named on the page.
        out: the HTML file.
        title: of the page.
        images: maximum number of images in the explorer.
        report: called with notes for the reader.
        overwrite: without effect; the page is always written again.
    """
    finished = [run for run in runs if (run / METRICS).exists()]
    there = [figure for figure in figures if figure.file.exists()]
    absent = [figure.title for figure in figures if figure not in there]
    notes = [f"not made: {', '.join(absent)}"] if absent else []
    shown = [run for run in explored if run in finished]
    for note in write_report(finished, out, images, title, on_terminal, there, shown, notes):
        report(note)
