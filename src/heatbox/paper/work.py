"""What the steps of the paper do, each in a worker process: thin calls of the library."""

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
from heatbox.models.factory import create_model
from heatbox.paper.networks import Place
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

Tell = Callable[[str], None]
MAPS = ("cam", "pc1")


def prepare(source: Path, out: Path, *, tell: Tell, anew: bool) -> None:
    """448-pixel copies of CUB-200-2011 (supplement 8)."""
    for problem in prepare_cub(source, out, track=on_terminal):
        tell(f"left out: {problem}")


def train_network(
    config: TrainConfig, folder: Path, start: Path | None, options: TrainOptions, *, tell: Tell, anew: bool
) -> None:
    """Train a recipe; its weights begin as those of another training of the plan where one is named."""
    if start is not None:
        config = dataclasses.replace(config, pretrained=str(best_checkpoint(start)))

    def report(row: Mapping[str, Any]) -> None:
        tell(f"{epoch_line(dict(row))} (of {config.epochs} epochs)")

    train(config, folder, options, on_terminal, report, overwrite=anew)


def evaluate_network(place: Place, asked: EvaluateConfig, folder: Path, *, tell: Tell, anew: bool) -> None:
    """Make and score the maps of a network.

    `asked` names the data; model and weights are those of the place. A fully supervised split that is not
    there is left out, and with it the transferred scores.
    """
    checkpoint = place.checkpoint()
    config = dataclasses.replace(asked, model=place.model, checkpoint=checkpoint)
    if config.fullsup and not config.fullsup.startswith("glyphs") and not Path(config.fullsup).exists():
        tell(f"no transferred scores: {config.fullsup} is not there")
        config = dataclasses.replace(config, fullsup=None)
    model = create_model(place.model, None, checkpoint, **place.options)
    evaluate(config, Run(folder), on_terminal, anew, model)


def analyse(
    instruments: Sequence[str],
    asked: AllConfig,
    places: Sequence[Place],
    out: Path,
    *,
    tell: Tell,
    anew: bool,
) -> None:
    """Measure networks side by side with some instruments."""
    config = _of(asked, places)
    analysis = Analysis(config, out, on_terminal, anew)
    analysis.run(*instruments)
    analysis.compare()


def _of(asked: AllConfig, places: Sequence[Place]) -> AllConfig:
    """The configuration of an analysis of some networks."""
    return dataclasses.replace(
        asked,
        model=tuple(place.model if place.training is None else str(place.training) for place in places),
        checkpoint=tuple(place.checkpoint() for place in places),
        label=tuple(place.name for place in places),
    )


def draw_pictures(runs: Mapping[str, Path], data: str, out: Path, *, tell: Tell, anew: bool) -> None:
    """CAM and PC1 of the same images by several networks."""
    split = open_split(data)
    found = {label: Run(folder).records() for label, folder in runs.items()}
    save_sheet(contact_sheet(found, split, MAPS, count=8, side=112), out)


def draw_cam_parts(asked: AllConfig, places: Sequence[Place], out: Path, *, tell: Tell, anew: bool) -> None:
    """What CAM is made of: channels of high and of low weight, and CAM from either sign."""
    config = _of(asked, places)
    draw_signed_cam(compared_models(config, out.parent), images_of(config), config, out)


def draw_scores(
    runs: Sequence[Path],
    analyses: Sequence[Path],
    starts: Mapping[str, TrainConfig],
    figure: str,
    out: Path,
    *,
    tell: Tell,
    anew: bool,
) -> None:
    """A figure or table of the scores of all networks that have been scored so far.

    Args:
        runs: folders of evaluations; those that are not finished are left out.
        analyses: folders of analyses, for receptive fields.
        starts: name of a published network → a training that begins with it, which says what it is.
        figure: "per-model-MAP" (Fig. 13), "against-erf-MAP" (Fig. 14), "pc1-against-cam" (Table 3) or "all".
        out: the picture; its numbers lie beside it.
        tell: is told what was left out.
        anew: these are always drawn anew.
    """
    finished = [run for run in runs if (run / METRICS).exists()]
    if absent := [run.name for run in runs if run not in finished]:
        tell(f"without {', '.join(absent)}")
    folders = read_folders([*finished, *(path for path in analyses if (path / COMPARISON).exists())])
    models = [_known(model, starts.get(model.name)) for model in model_scores(folders)]
    drawers: dict[str, Callable[[], Drawn]] = {
        "per-model-cam": lambda: scores.scores_per_model(models, "cam"),
        "per-model-pc1": lambda: scores.scores_per_model(models, "pc1"),
        "against-erf-cam": lambda: scores.score_against_erf(models, "cam"),
        "against-erf-pc1": lambda: scores.score_against_erf(models, "pc1"),
        "pc1-against-cam": lambda: scores.maps_compared(models),
        "all": lambda: scores.all_scores(models, _baselines(finished), _printed(models)),
    }
    save_figure(drawers[figure](), out.with_suffix(""))


def _known(model: scores.ModelScore, start: TrainConfig | None) -> scores.ModelScore:
    """A published network lies in no training's folder that would tell of it."""
    if start is None:
        return model
    return dataclasses.replace(model, **describe(start.model, dataclasses.asdict(start)))


def _baselines(runs: Sequence[Path]) -> dict[str, Any]:
    if not runs:
        return {}
    metrics = Run(runs[0]).metrics()
    return {name: metrics["methods"][name] for name in metrics["baselines"]}


def _printed(models: Sequence[scores.ModelScore]) -> scores.Published:
    return {model.name: published(model.name) for model in models}


def draw_headlines(analyses: Sequence[Path], out: Path, *, tell: Tell, anew: bool) -> None:
    """The headline numbers of all instruments side by side."""
    rows: dict[str, dict[str, Any]] = {}
    for folder in analyses:
        if (folder / COMPARISON).exists():
            for row in read_json(folder / COMPARISON)["models"]:
                rows.setdefault(row["model"], {}).update(row)
    if not rows:
        raise InputError("no instrument has measured anything")
    save_figure(scores.headline_numbers(list(rows.values())), out.with_suffix(""))


def write_page(
    runs: Sequence[Path],
    explored: Sequence[Path],
    figures: Sequence[PageFigure],
    out: Path,
    title: str,
    images: int,
    *,
    tell: Tell,
    anew: bool,
) -> None:
    """The page: what is there of the paper's tables and figures, and the explorer.

    Args:
        runs: folders of evaluations, for the tables.
        explored: those of them whose images the explorer shows.
        figures: titles and files; those that are not there are named on the page.
        out: the HTML file.
        title: of the page.
        images: most images in the explorer.
        tell: is told what the reader should know.
        anew: pages are always written anew.
    """
    finished = [run for run in runs if (run / METRICS).exists()]
    there = [figure for figure in figures if figure.file.exists()]
    absent = [figure.title for figure in figures if figure not in there]
    notes = [f"not made: {', '.join(absent)}"] if absent else []
    shown = [run for run in explored if run in finished]
    for note in write_report(finished, out, images, title, on_terminal, there, shown, notes):
        tell(note)
