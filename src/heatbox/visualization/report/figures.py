"""The figures of a page: comparisons of runs, instruments across analyses, and the folders' own figures."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from heatbox._utils.io import read_json
from heatbox.errors import InputError
from heatbox.evaluation.run import METRICS
from heatbox.visualization.figures import channels, complexity, erf, shape_bias
from heatbox.visualization.figures.maps import threshold_curves
from heatbox.visualization.figures.scores import maps_compared, score_against_erf, scores_per_model
from heatbox.visualization.figures.style import Drawn, as_svg
from heatbox.visualization.report.folders import Folder, PageFigure
from heatbox.visualization.report.models import model_scores

Numbers = Mapping[str, Any]
Found = dict[str, Numbers]
Titled = list[tuple[str, Drawn]]
PageFigures = list[dict[str, str]]
"""The "title" of each figure and its "source", a data URI."""
MAX_MODELS = 7
"""Models on one plot; more cannot be distinguished."""
LARGEST_SVG = 400_000
"""Bytes above which the PNG of a figure is shown instead of its SVG."""


def page_figures(folders: Sequence[Folder], notes: list[str]) -> PageFigures:
    """Figures that compare the folders, then the folders' own.

    Args:
        folders: of results.
        notes: receives the reasons why figures are left out.
    """
    several = sum(bool(folder.figures) for folder in folders) > 1
    own = [
        saved_figure(PageFigure(f"{folder.name}: {one.title}", one.file) if several else one)
        for folder in folders
        for one in folder.figures
    ]
    return [*comparison_figures(folders, notes), *instrument_figures(folders, notes), *own]


def saved_figure(figure: PageFigure) -> dict[str, str]:
    """A figure on the page from its file, or from the SVG next to it unless that is large."""
    svg = figure.file.with_suffix(".svg")
    file = svg if svg.is_file() and svg.stat().st_size <= LARGEST_SVG else figure.file
    return _embedded(figure.title, file.suffix, file.read_bytes())


def _rendered(title: str, drawn: Drawn) -> dict[str, str]:
    return _embedded(title, ".svg", as_svg(drawn[0], "heatbox"))


def _embedded(title: str, suffix: str, content: bytes) -> dict[str, str]:
    """A figure as a data URI: an image cannot run a script or load anything."""
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[suffix]
    return {"title": title, "source": f"data:{kind};base64,{base64.b64encode(content).decode()}"}


def comparison_figures(folders: Sequence[Folder], notes: list[str]) -> PageFigures:
    """Scores of several runs side by side: per model (Fig. 13), maps (Table 3), against the ERF (Fig. 14).

    Args:
        folders: of results.
        notes: receives the reasons why figures are left out.
    """
    models = model_scores(folders)
    if len(models) < 2:
        return []
    if len({folder.scores["images"] for folder in folders if folder.metrics is not None}) > 1:
        notes.append("the runs scored different numbers of images, so their scores are not comparable")
    found: PageFigures = []
    try:
        for method in dict.fromkeys(name for model in models for name in model.scores):
            if sum(method in model.scores for model in models) > 1:
                found.append(_rendered(f"Scores per model, {method}", scores_per_model(models, method)))
                if sum(method in model.scores and model.auc is not None for model in models) > 1:
                    title = f"Score against receptive field, {method}"
                    found.append(_rendered(title, score_against_erf(models, method)))
        if sum({"cam", "pc1"} <= set(model.scores) for model in models) > 1:
            found.append(_rendered("PC1 against CAM", maps_compared(models)))
    except InputError as error:  # matplotlib is not installed: the page is written without these figures
        notes.append(f"no figures of the comparison: {error}")
    return found


def instrument_figures(folders: Sequence[Folder], notes: list[str]) -> PageFigures:
    """Figures of every instrument that measured models in at least two of the folders.

    Args:
        folders: of results; folders without an analysis are skipped.
        notes: receives the reasons why figures are left out.
    """
    drawn: PageFigures = []
    for instrument, (name, draw) in _DRAWERS.items():
        found, sources = gather(folders, instrument, name)
        if sources < 2:
            continue
        if len(found) > MAX_MODELS:
            measured = f"{instrument}: {len(found)} models were measured"
            notes.append(f"{measured}; figures across runs show at most {MAX_MODELS}")
            continue
        try:
            drawn += [_rendered(f"{title}, all runs", one) for title, one in draw(found)]
        except InputError as error:  # matplotlib is not installed
            notes.append(f"no figures of {instrument} across runs: {error}")
        except KeyError as error:
            notes.append(f"no figures of {instrument} across runs: an analysis lacks {error}")
    return drawn


def gather(folders: Sequence[Folder], instrument: str, name: str) -> tuple[Found, int]:
    """Label → the numbers an instrument saved of each model, and the number of folders that contain some.

    Models of the same label in several folders get the folder's name appended.
    """
    found: Found = {}
    sources = 0
    for folder in folders:
        files = folder.measured(instrument, name)
        sources += bool(files)
        for file in files:
            label = file.parent.parent.name
            found[f"{label} ({folder.name})" if label in found else label] = read_json(file)
    return found, sources


def _shape_bias(found: Found) -> Titled:
    groups = erf.groups_by_category(found)
    by_cue = [(f"Receptive fields by deciding cue, {category}", one) for category, one in groups.items()]
    return [("Shape bias", shape_bias.shape_bias(found)), *by_cue]


def _channels(found: Found) -> Titled:
    areas = {label: one["area_percentile"] for label, one in found.items()}
    means = {label: one["control"]["trained"] for label, one in found.items()}
    area = "fraction of pixels above the\nmodel's own percentile"
    return [
        ("Activation area and class weight", channels.against_weight(areas, area)),
        ("Spatial mean and class weight", channels.against_weight(means, "spatial mean of the channel")),
    ]


def _complexity(found: Found) -> Titled:
    drawn = [("Explained variance", complexity.explained_variance(found))]
    for grid in dict.fromkeys(one["reconstruction"]["grid"] for one in found.values()):
        # Errors of maps averaged to different grids are not comparable.
        errors = {label: one["reconstruction"] for label, one in found.items()}
        errors = {label: one for label, one in errors.items() if one["grid"] == grid}
        drawn.append((f"Reconstruction error of {grid} x {grid} maps", complexity.reconstruction(errors)))
    return drawn


def _thresholds(found: Found) -> Titled:
    curves = {label: one["curves"] for label, one in found.items()}
    by_method = {method: {label: one[method] for label, one in curves.items()} for method in ("cam", "pc1")}
    return [("Thresholds", threshold_curves(by_method))]


_DRAWERS: dict[str, tuple[str, Callable[[Found], Titled]]] = {
    "erf": (METRICS, lambda found: [("Receptive fields, r(t)", erf.curves(found))]),
    "shape-bias": (METRICS, _shape_bias),
    "channels": (METRICS, _channels),
    "complexity": (METRICS, _complexity),
    "maps": ("instruments.json", _thresholds),
}
