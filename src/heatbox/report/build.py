"""Folders of results → one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heatbox.errors import InputError
from heatbox.files import write_atomically
from heatbox.progress import Track, silent
from heatbox.report.explorer import explorer_data
from heatbox.report.figures.scores import maps_compared, score_against_erf, scores_per_model
from heatbox.report.figures.style import Drawn
from heatbox.report.models import model_scores
from heatbox.report.page import render
from heatbox.report.runs import (
    Folder,
    figure_source,
    milliseconds,
    read_folders,
    settings_of,
    source_of,
    svg_source,
)

PAGE_BYTES = 20_000_000
"""Above this a browser on a phone becomes slow; the command says so."""


def write_report(
    paths: Sequence[Path], out: Path, images: int = 500, title: str = "", track: Track = silent
) -> list[str]:
    """Write a page about folders of results.

    Args:
        paths: folders that `heatbox evaluate`, `score`, `analyze` or `demo` wrote.
        out: the HTML file.
        images: most images in the explorer.
        title: heading of the page; by default the names of the runs.
        track: how to show progress.

    Returns:
        what the reader should know, a sentence each.

    Raises:
        InputError: a folder holds no results, or the page cannot be written.
    """
    folders = read_folders(paths)
    notes: list[str] = []
    explorer, sources = None, [source_of(folder, notes) for folder in folders]
    known = [source for source in sources if source is not None]
    if known:
        explorer = explorer_data(known, images, track)
    scored = [folder for folder in folders if folder.metrics is not None]
    content: dict[str, Any] = {
        "title": title or ", ".join(folder.name for folder in folders),
        "lead": lead(scored),
        "tables": [score_rows(folder) for folder in scored],
        "figures": [*comparison_figures(folders, notes), *_figures(folders)],
        "notes": notes,
        "settings": [{"name": folder.name, "text": settings_of(folder)} for folder in folders],
        "explorer": explorer,
    }
    page = render(content).encode("utf-8", "replace")  # names of files need not be Unicode
    write_atomically(out, page)
    if len(page) > PAGE_BYTES:
        notes.append(f"{out}: has {len(page) / 1e6:.0f} MB; fewer --images make it lighter")
    return notes


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


def lead(scored: Sequence[Folder]) -> str:
    """One sentence: which map is best, and by how much it beats the best baseline."""
    if not scored:
        return "Figures of instruments."
    best: tuple[float, str, Folder] | None = None
    for folder in scored:
        assert folder.metrics is not None
        for name, found in folder.metrics["methods"].items():
            if name not in folder.metrics["baselines"] and (best is None or found["MaxBoxAccV2"] > best[0]):
                best = found["MaxBoxAccV2"], name, folder
    assert best is not None
    score, name, folder = best
    metrics = folder.metrics or {}
    baselines = {one: metrics["methods"][one]["MaxBoxAccV2"] for one in metrics["baselines"]}
    baseline, other = max(baselines.items(), key=lambda item: item[1])
    where = f" ({folder.name})" if len(scored) > 1 else ""
    return (
        f"Best map by MaxBoxAccV2: {name}{where} with {score:.1f}%, {abs(score - other):.1f} points "
        f"{'above' if score >= other else 'below'} the best baseline ({baseline}, {other:.1f}%)."
    )


def score_rows(folder: Folder) -> dict[str, Any]:
    """The table of one run: maps and baselines in rows, scores with intervals in columns."""
    metrics = folder.metrics
    assert metrics is not None
    rows = metrics["methods"]
    transferred = any("transferred" in found for found in rows.values())
    localization = any("localization" in found for found in rows.values())
    speed = milliseconds(folder)
    headings = ["map", "MaxBoxAcc, oracle", "best threshold", "MaxBoxAccV2, oracle"]
    if transferred:
        headings += ["MaxBoxAcc, transferred", "threshold", "MaxBoxAccV2, transferred"]
    headings += ["Top-1 loc", "Top-5 loc"] if localization else []
    headings += ["V2 minus centre-Gaussian"] + (["ms an image"] if speed else [])
    cells_of = [
        {
            "name": name,
            "faint": name in metrics["baselines"],
            "cells": _cells(found, transferred, localization) + ([_speed(name, speed)] if speed else []),
        }
        for name, found in rows.items()
    ]
    return {"title": folder.name, "headings": headings, "rows": cells_of, "caption": _caption(metrics, speed)}


def _cells(found: Mapping[str, Any], transferred: bool, localization: bool) -> list[dict[str, str]]:
    cells = [
        _cell(found["MaxBoxAcc"], found["MaxBoxAcc_interval"]),
        {"value": f"{found['threshold']:.3f}", "range": ""},
        _cell(found["MaxBoxAccV2"], found["MaxBoxAccV2_interval"]),
    ]
    if transferred:
        other = found["transferred"]
        threshold = {"value": f"{other['threshold']:.3f}", "range": ""}
        cells += [_cell(**other["MaxBoxAcc"]), threshold, _cell(**other["MaxBoxAccV2"])]
    if localization:
        where = found["localization"]
        cells += [{"value": f"{where[place]:.1f}", "range": ""} for place in ("top1", "top5")]
    minus = found.get("minus_baseline")
    return [*cells, _cell(**minus["MaxBoxAccV2"], form="+.1f") if minus else {"value": "", "range": ""}]


def _cell(value: float, interval: Sequence[float], form: str = ".1f") -> dict[str, str]:
    return {"value": f"{value:{form}}", "range": f"{interval[0]:{form}} to {interval[1]:{form}}"}


def _speed(name: str, speed: Mapping[str, float]) -> dict[str, str]:
    return {"value": f"{speed[name]:.2f}" if name in speed else "", "range": ""}


def _caption(metrics: Mapping[str, Any], speed: Mapping[str, float]) -> str:
    words = f"Percent of {metrics['images']} images, with 95% bootstrap intervals."
    if "top1" in metrics:
        words += f" Classification: top-1 {metrics['top1']:.1f}%, top-5 {metrics['top5']:.1f}%."
    words += " Oracle: the threshold best on these images"
    transferred = any("transferred" in found for found in metrics["methods"].values())
    words += "; transferred: the one best on the supervised split." if transferred else "."
    if "forward" in speed:
        words += (
            " Milliseconds are the median over batches, on top of a forward pass of "
            f"{speed['forward']:.2f} ms an image."
        )
    return words + " Baselines, which have not looked at the images, are in grey."
