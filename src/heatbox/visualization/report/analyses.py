"""Figures of instruments across several analyses: networks that were measured apart, on one plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from heatbox._utils.io import read_json
from heatbox.errors import InputError
from heatbox.evaluation.run import METRICS
from heatbox.visualization.figures import channels, complexity, erf, shape_bias
from heatbox.visualization.figures.maps import threshold_curves
from heatbox.visualization.figures.style import Drawn
from heatbox.visualization.report.runs import Folder, analysed, svg_source

Numbers = Mapping[str, Any]
Found = dict[str, Numbers]
MOST = 7
"""Networks on one plot; more cannot be told apart."""


def instrument_figures(folders: Sequence[Folder], notes: list[str]) -> list[dict[str, str]]:
    """Figures of every instrument with which at least two of the folders measured networks.

    Args:
        folders: of results; those without an analysis are passed over.
        notes: is told why figures are left out.

    Returns:
        title and source of each figure.
    """
    drawn: list[dict[str, str]] = []
    for instrument, (name, draw) in _DRAWERS.items():
        found, sources = gathered(folders, instrument, name)
        if sources < 2:
            continue
        if len(found) > MOST:
            notes.append(
                f"{instrument}: {len(found)} networks were measured; figures across runs show up to {MOST}"
            )
            continue
        try:
            drawn += [
                {"title": f"{title}, all runs", "source": svg_source(one[0])} for title, one in draw(found)
            ]
        except InputError as error:  # matplotlib is not installed
            notes.append(f"no figures of {instrument} across runs: {error}")
        except KeyError as error:
            notes.append(f"no figures of {instrument} across runs: an analysis does not hold {error}")
    return drawn


def gathered(folders: Sequence[Folder], instrument: str, name: str) -> tuple[Found, int]:
    """Label → what an instrument says of each network, and the number of folders that hold some.

    A network that several folders call the same is told apart by its folder's name.
    """
    found: Found = {}
    sources = 0
    for folder in folders:
        files = analysed(folder.path, instrument, name)
        sources += bool(files)
        for file in files:
            label = file.parent.parent.name
            label = f"{label} ({folder.name})" if label in found else label
            found[label] = read_json(file)
    return found, sources


Titled = list[tuple[str, Drawn]]


def _fields(found: Found) -> Titled:
    return [("Receptive fields, r(t)", erf.curves(found))]


def _biases(found: Found) -> Titled:
    drawn = [("Shape bias", shape_bias.shape_bias(found))]
    for category in dict.fromkeys(name for one in found.values() for name in one.get("groups", {})):
        both = {label: one["groups"][category] for label, one in found.items() if one["groups"].get(category)}
        drawn.append((f"Receptive fields by what decided, {category}", erf.groups(both, category)))
    return drawn


def _channels(found: Found) -> Titled:
    areas = {label: one["area_percentile"] for label, one in found.items()}
    means = {label: one["control"]["trained"] for label, one in found.items()}
    words = "share of pixels above the\nnetwork's own percentile"
    return [
        ("Activation area and class weight", channels.against_weight(areas, words)),
        ("Spatial mean and class weight", channels.against_weight(means, "spatial mean of the channel")),
    ]


def _complexity(found: Found) -> Titled:
    drawn = [("Explained variance", complexity.explained_variance(found))]
    for grid in dict.fromkeys(one["reconstruction"]["grid"] for one in found.values()):
        # Errors of maps that were averaged to different grids do not compare.
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
    "erf": (METRICS, _fields),
    "shape-bias": (METRICS, _biases),
    "channels": (METRICS, _channels),
    "complexity": (METRICS, _complexity),
    "maps": ("instruments.json", _thresholds),
}
