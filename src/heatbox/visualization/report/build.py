"""Folders of results → one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatbox._utils.extras import require
from heatbox._utils.io import write_atomically
from heatbox._utils.progress import Track, silent
from heatbox.errors import InputError
from heatbox.visualization.figures.scores import maps_compared, score_against_erf, scores_per_model
from heatbox.visualization.figures.style import Drawn
from heatbox.visualization.report.analyses import instrument_figures
from heatbox.visualization.report.explorer import explorer_data
from heatbox.visualization.report.models import model_scores
from heatbox.visualization.report.page import render
from heatbox.visualization.report.runs import (
    Folder,
    figure_source,
    lighter,
    milliseconds,
    read_folders,
    settings_of,
    source_of,
    svg_source,
)
from heatbox.visualization.tables import score_table

PAGE_BYTES = 20_000_000
"""Above this a browser on a phone becomes slow; the command says so."""


@dataclass(frozen=True)
class PageFigure:
    """A figure of a page.

    Attributes:
        title: above it.
        file: an SVG or PNG.
    """

    title: str
    file: Path


def write_report(
    paths: Sequence[Path],
    out: Path,
    images: int = 500,
    title: str = "",
    track: Track = silent,
    figures: Sequence[PageFigure] | None = None,
    explored: Sequence[Path] | None = None,
    told: Sequence[str] = (),
) -> list[str]:
    """Write a page about folders of results.

    Args:
        paths: folders that `heatbox evaluate`, `score`, `analyze` or `demo` wrote.
        out: the HTML file.
        images: most images in the explorer.
        title: heading of the page; by default the names of the runs.
        track: how to show progress.
        figures: what the page shows in place of the folders' own figures and comparisons.
        explored: those of the folders whose images the explorer shows; by default all.
        told: what the page tells the reader beside what comes up here, a sentence each.

    Returns:
        what the reader should know, a sentence each.

    Raises:
        InputError: a folder holds no results, the extra `report` is missing, or the page cannot be written.
    """
    require("report", "the report page", "jinja2")
    folders = read_folders(paths)
    notes = list(told)
    shown = [folder for folder in folders if explored is None or folder.path in explored]
    explorer, sources = None, [source_of(folder, notes) for folder in shown]
    known = [source for source in sources if source is not None]
    if known:
        explorer = explorer_data(known, images, track)
    scored = [folder for folder in folders if folder.metrics is not None]
    told_of_masks(scored, notes)
    content: dict[str, Any] = {
        "title": title or ", ".join(folder.name for folder in folders),
        "lead": lead(scored),
        "tables": [
            {"title": folder.name, "scores": score_table(folder.scores, milliseconds(folder))}
            for folder in scored
        ],
        "figures": _page_figures(folders, notes) if figures is None else [_shown(one) for one in figures],
        "notes": notes,
        "settings": [{"name": folder.name, "text": settings_of(folder)} for folder in folders],
        "explorer": explorer,
    }
    page = render(content).encode("utf-8", "replace")  # names of files need not be Unicode
    write_atomically(out, page)
    if len(page) > PAGE_BYTES:
        notes.append(f"{out}: has {len(page) / 1e6:.0f} MB; fewer --images make it lighter")
    return notes


def lead(scored: Sequence[Folder]) -> str:
    """One sentence: the best map, and its difference to the best baseline.

    Runs scored against masks are considered only where no run was scored against boxes.
    """
    boxes = [folder for folder in scored if not folder.has_masks]
    score = "MaxBoxAccV2" if boxes else "PxAP"
    rated = [
        (entry[score], name, folder)
        for folder in boxes or scored
        for name, entry in folder.scores["methods"].items()
        if name not in folder.scores["baselines"]
    ]
    if not rated:
        return "Figures of analyses."
    best, name, folder = max(rated, key=lambda one: one[0])
    where = f" ({folder.name})" if len(boxes or scored) > 1 else ""
    sentence = f"Best map by {score}: {name}{where} with {best:.1f}%"
    baselines = {one: folder.scores["methods"][one][score] for one in folder.scores["baselines"]}
    if not baselines:
        return f"{sentence}."
    baseline, other = max(baselines.items(), key=lambda item: item[1])
    side = "above" if best >= other else "below"
    return f"{sentence}, {abs(best - other):.1f} points {side} the best baseline ({baseline}, {other:.1f}%)."


def _page_figures(folders: Sequence[Folder], notes: list[str]) -> list[dict[str, str]]:
    """What compares the folders, and their own figures."""
    return [*comparison_figures(folders, notes), *instrument_figures(folders, notes), *_figures(folders)]


def _shown(figure: PageFigure) -> dict[str, str]:
    return {"title": figure.title, "source": figure_source(lighter(figure.file))}


def told_of_masks(scored: Sequence[Folder], notes: list[str]) -> None:
    """Say what a page cannot show of runs that were scored against masks."""
    if names := [folder.name for folder in scored if folder.has_masks]:
        notes.append(f"{', '.join(names)}: scored against masks, so there are no boxes for the explorer")


def comparison_figures(folders: Sequence[Folder], notes: list[str]) -> list[dict[str, str]]:
    """Figures that put several scored runs side by side: scores (Fig. 13), maps (Table 3), ERF (Fig. 14).

    Args:
        folders: of results.
        notes: is told why figures are left out.
    """
    models = model_scores(folders)
    if len(models) < 2:
        return []
    images = {folder.metrics["images"] for folder in folders if folder.metrics is not None}
    if len(images) > 1:
        notes.append("the runs scored different numbers of images, so their scores do not compare strictly")
    found: list[dict[str, str]] = []
    try:
        for method in dict.fromkeys(name for model in models for name in model.scores):
            if sum(method in model.scores for model in models) > 1:
                found.append(_drawn(f"Scores per model, {method}", scores_per_model(models, method)))
                if sum(method in model.scores and model.auc is not None for model in models) > 1:
                    title = f"Score against receptive field, {method}"
                    found.append(_drawn(title, score_against_erf(models, method)))
        if sum({"cam", "pc1"} <= set(model.scores) for model in models) > 1:
            found.append(_drawn("PC1 against CAM", maps_compared(models)))
    except InputError as error:  # matplotlib is not installed: the page does without these figures
        notes.append(f"no figures of the comparison: {error}")
    return found


def _drawn(title: str, drawn: Drawn) -> dict[str, str]:
    return {"title": title, "source": svg_source(drawn[0])}


def _figures(folders: Sequence[Folder]) -> list[dict[str, str]]:
    several = sum(bool(folder.figures) for folder in folders) > 1
    return [
        {"title": f"{folder.name}: {title}" if several else title, "source": figure_source(file)}
        for folder in folders
        for title, file in folder.figures
    ]
