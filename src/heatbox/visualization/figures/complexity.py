"""Figures of complexity: explained variance and reconstruction error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from heatbox.visualization.figures.style import (
    Drawn,
    Row,
    label_first,
    line_style,
    panels,
    plot_line,
    rows_of,
    style_axes,
)


def explained_variance(found: Mapping[str, Mapping[str, Any]]) -> Drawn:
    """Cumulative explained variance: mean over images, and the band of the middle 80% of them.

    Args:
        found: label → "own" and "grid" → "mean", "low", "high" (P,), "map" (h, w), "images".
    """
    rows: list[Row] = []
    titles = {"own": "each model's own feature map"}
    if any(tuple(one["own"]["map"]) != tuple(one["grid"]["map"]) for one in found.values()):
        titles["grid"] = "all averaged to one grid"
    figure, axes = panels(len(titles), 4.6, 3.7, share_y=True)
    for one, (kind, title) in zip(axes, titles.items(), strict=True):
        for index, (label, numbers) in enumerate(found.items()):
            curve = numbers[kind]
            number = np.arange(1, len(curve["mean"]) + 1)
            h, w = curve["map"]
            legend = f"{label} ({w} x {h}, n = {curve['images']})"
            plot_line(one, number, curve["mean"], line_style(index), legend, 0.12, 4)
            band = {name: curve[name] for name in ("mean", "low", "high")}
            fill: dict[str, Any] = {"color": line_style(index).colour, "alpha": 0.18, "linewidth": 0}
            one.fill_between(number, band["low"], band["high"], **fill)
            rows += rows_of(model=label, maps=kind, components=number, **band)
        style_axes(one, title, "principal components", "cumulative explained variance")
        one.set_xscale("log")
        one.set_ylim(0, 1.02)
        ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200) if k <= one.get_xlim()[1]]
        one.set_xticks(ticks, list(map(str, ticks)))
        one.minorticks_off()
        note = {"title": "mean; band: middle 80% of images", "title_fontsize": 7.5}
        one.legend(fontsize=7.5, loc="lower right", frameon=False, **note)
    label_first(axes)
    return figure, rows


def reconstruction(found: Mapping[str, Mapping[str, Any]]) -> Drawn:
    """Reconstruction error of unseen maps against the number of atoms (Fig. 20).

    Args:
        found: label → "atoms", "error", "seen_error", "interval" (A, 2), "unseen", "learned_from", "nonzero",
            "grid".
    """
    figure, (axes,) = panels(1, 5.2, 3.8)
    rows: list[Row] = []
    for index, (label, one) in enumerate(found.items()):
        style, atoms, seen = line_style(index), one["atoms"], one["seen_error"]
        error, (low, high) = np.asarray(one["error"]), np.asarray(one["interval"]).T
        bars = np.clip([error - low, high - error], 0, None)
        legend = f"{label} (n = {one['unseen']:,} unseen maps)"
        line = {**style.line, "linewidth": 1.7, "marker": style.marker, "markersize": 5}
        axes.errorbar(atoms, error, bars, capsize=3, label=legend, **line)
        axes.plot(atoms, seen, color=style.colour, linewidth=0.9, alpha=0.7, linestyle=(0, (1, 2)))
        errors = {"error": error, "low": low, "high": high, "seen_error": seen}
        counts = {name: one[name] for name in ("unseen", "nonzero")}
        rows += rows_of(model=label, atoms=atoms, **errors, **counts)
    first = next(iter(found.values()))
    g = first["grid"]
    title = f"{g} x {g} maps of unit length, codes of {first['nonzero']} atoms\ndotted: the maps learned from"
    style_axes(axes, title, "atoms in the dictionary", "energy not reconstructed [95% interval]")
    axes.title.set_fontsize(8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(first["atoms"]), list(map(str, first["atoms"])))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7.5, frameon=False)
    return figure, rows
