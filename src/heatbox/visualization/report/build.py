"""The report: one HTML page about folders of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heatbox._utils.extras import require
from heatbox._utils.io import write_atomically
from heatbox._utils.progress import Track, silent
from heatbox.visualization.report.explorer import explorer_data, open_source
from heatbox.visualization.report.figures import page_figures, saved_figure
from heatbox.visualization.report.folders import Folder, PageFigure, read_folders
from heatbox.visualization.report.page import render
from heatbox.visualization.tables import score_tables

PAGE_BYTES = 20_000_000
"""Size of a page above which a note warns: browsers on phones become slow."""


def write_report(
    paths: Sequence[Path],
    out: Path,
    images: int = 500,
    title: str = "",
    track: Track = silent,
    figures: Sequence[PageFigure] | None = None,
    explored: Sequence[Path] | None = None,
    notes: Sequence[str] = (),
) -> list[str]:
    """Write a page about folders of results.

    Args:
        paths: folders that `heatbox evaluate`, `score`, `analyze` or `demo` wrote.
        out: the HTML file.
        images: maximum number of images in the explorer.
        title: heading of the page; by default the names of the runs.
        track: shows progress.
        figures: shown instead of the folders' own figures and comparisons.
        explored: the folders whose images the explorer shows; by default all.
        notes: further sentences to show on the page.

    Returns:
        the notes of the page and on its size, a sentence each.

    Raises:
        InputError: a folder contains no results, the extra `report` is not installed, or the page cannot be
            written.
    """
    require("report", "the report page", "jinja2")
    folders, notes = read_folders(paths), list(notes)
    shown = [folder for folder in folders if explored is None or folder.path in explored]
    sources = [source for folder in shown if (source := open_source(folder, notes)) is not None]
    explorer = explorer_data(sources, images, track) if sources else None
    scored = [folder for folder in folders if folder.metrics is not None]
    if masks := [folder.name for folder in scored if folder.has_masks]:
        notes.append(f"{', '.join(masks)}: scored against masks, so there are no boxes for the explorer")
    content: dict[str, Any] = {
        "title": title or ", ".join(folder.name for folder in folders),
        "lead": lead(scored),
        "tables": [
            {"title": one.name, "scores": table}
            for one in scored
            for table in score_tables(one.scores, one.milliseconds())
        ],
        "figures": page_figures(folders, notes) if figures is None else list(map(saved_figure, figures)),
        "notes": notes,
        "settings": [{"name": folder.name, "text": folder.settings()} for folder in folders],
        "explorer": explorer,
    }
    page = render(content).encode("utf-8", "replace")  # file names need not be Unicode
    write_atomically(out, page)
    if len(page) > PAGE_BYTES:
        notes.append(f"{out}: has {len(page) / 1e6:.0f} MB; fewer --images make it smaller")
    return notes


def lead(scored: Sequence[Folder]) -> str:
    """One sentence: the best map, and its difference to the best baseline.

    Runs scored against masks are considered only where no run was scored against boxes.
    """
    boxes = [folder for folder in scored if not folder.has_masks]
    score = "MaxBoxAccV2" if boxes else "PxAP"
    rated = [
        (folder.scores["methods"][name][score], name, folder)
        for folder in boxes or scored
        for name in folder.maps
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
