"""The figures of a page: comparisons of runs, instruments across analyses, and the folders' own figures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heatbox._utils.io import read_json
from heatbox.errors import InputError
from heatbox.evaluation.run import METRICS
from heatbox.visualization.figures import channels, complexity, erf, shape_bias
from heatbox.visualization.figures.maps import threshold_curves
from heatbox.visualization.figures.scores import maps_compared, score_against_erf, scores_per_model
from heatbox.visualization.figures.style import Drawn, as_plain_text
from heatbox.visualization.report.folders import Folder
from heatbox.visualization.report.models import model_scores

Numbers = Mapping[str, Any]
Found = dict[str, Numbers]
Titled = list[tuple[str, Drawn]]
PageFigures = list[dict[str, str]]
"""The "title" of each figure and its "source", a data URI."""
MAX_MODELS = 7
"""Models on one plot; more cannot be distinguished."""


def page_figures(folders: Sequence[Folder], notes: list[str]) -> PageFigures:
    """Figures that compare the folders, then the folders' own.

    Args:
        folders: of results.
        notes: receives the reasons why figures are left out.
    """
    several = sum(bool(folder.figures) for folder in folders) > 1
    own = [
        {"title": f"{folder.name}: {title}" if several else title, "source": file_source(file)}
        for folder in folders
        for title, file in folder.figures
    ]
    return [*comparison_figures(folders, notes), *instrument_figures(folders, notes), *own]


def file_source(file: Path) -> str:
    """An SVG or PNG file as a data URI: an image cannot run a script or load anything."""
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[file.suffix]
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _rendered(title: str, drawn: Drawn) -> dict[str, str]:
    """A figure as SVG in a data URI."""
    from matplotlib import rc_context

    stream = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "heatbox"}):
        as_plain_text(drawn[0]).savefig(stream, format="svg", metadata={"Date": None})
    return {
        "title": title,
        "source": f"data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode()}",
    }


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
            notes.append(
                f"{instrument}: {len(found)} models were measured; "
                f"figures across runs show at most {MAX_MODELS}"
            )
            continue
        try:
            drawn += [_rendered(f"{title}, all runs", one) for title, one in draw(found)]
        except InputError as error:  # matplotlib is not installed
            notes.append(f"no figures of {instrument} across runs: {error}")
        except KeyError as error:
            notes.append(f"no figures of {instrument} across runs: an analysis does not hold {error}")
    return drawn


def gather(folders: Sequence[Folder], instrument: str, name: str) -> tuple[Found, int]:
    """Label → the numbers an instrument saved of each model, and the number of folders that hold some.

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


def _erf(found: Found) -> Titled:
    return [("Receptive fields, r(t)", erf.curves(found))]


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
        errors = {
            k: one["reconstruction"] for k, one in found.items() if one["reconstruction"]["grid"] == grid
        }
        title = f"Reconstruction error of {grid} x {grid} maps"
        drawn.append((title, complexity.reconstruction(errors)))
    return drawn


def _thresholds(found: Found) -> Titled:
    curves = {
        method: {label: one["curves"][method] for label, one in found.items()} for method in ("cam", "pc1")
    }
    return [("Thresholds", threshold_curves(curves))]


_DRAWERS: dict[str, tuple[str, Callable[[Found], Titled]]] = {
    "erf": (METRICS, _erf),
    "shape-bias": (METRICS, _shape_bias),
    "channels": (METRICS, _channels),
    "complexity": (METRICS, _complexity),
    "maps": ("instruments.json", _thresholds),
}
