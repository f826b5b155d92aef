"""Figures of channels: class weight against activation area and against spatial mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heatbox.visualization.figures.style import (
    DENSITY,
    GREY,
    Drawn,
    Row,
    add_colourbar,
    format_interval,
    is_known,
    legend_outside,
    line_style,
    new_figure,
    panels,
    plot_interval,
    rows_of,
    style_axes,
)

MIN_POINTS = 50
"""Points in a column of cells below which its quartiles are not computed."""


def density(x: np.ndarray, y: np.ndarray, bins: int = 60) -> dict[str, Any]:
    """Summary of many points for a figure: counts on a grid, and quartiles of y along x.

    The grid spans the range of x, and of y without the outermost 0.1% on each side.

    Args:
        x, y: (M,) coordinates.
        bins: cells along each axis.

    Returns:
        "x_edges" and "y_edges", "counts" by x and y, "quartiles" (., 3) of y in each column with at least 50
        points (else NaN), "points".
    """
    low, high = np.quantile(y, [0.001, 0.999])
    x_edges = _edges(x, bins)
    y_edges = np.linspace(low, max(high, low + 1e-12), bins + 1)
    counts = np.histogram2d(x, y, (x_edges, y_edges))[0].astype(np.int64)
    cells = len(x_edges) - 1
    column = np.clip(np.searchsorted(x_edges, x, side="right") - 1, 0, cells - 1)
    quartiles = np.full((cells, 3), np.nan)
    for index in range(cells):
        inside = y[column == index]
        if len(inside) >= MIN_POINTS:
            quartiles[index] = np.quantile(inside, [0.25, 0.5, 0.75])
    return {
        "x_edges": x_edges,
        "y_edges": y_edges,
        "counts": counts,
        "quartiles": quartiles,
        "points": len(x),
    }


def _edges(x: np.ndarray, bins: int) -> np.ndarray:
    """Edges between cells; values on a lattice, such as fractions of 49 pixels, do not fall on an edge."""
    steps = np.unique(x)
    if len(steps) > 8 * bins:
        return np.linspace(x.min(), x.max(), bins + 1)
    taken = steps[:: -(-len(steps) // bins)]
    width = (taken[-1] - taken[0]) / max(len(taken) - 1, 1) or 1e-12
    return np.concatenate([[taken[0] - width / 2], (taken[1:] + taken[:-1]) / 2, [steps[-1] + width / 2]])


def against_weight(found: Mapping[str, Mapping[str, Any]], x_label: str, per_row: int = 3) -> Drawn:
    """Class weight against a quantity of the channel, as a density, one panel per entry (Fig. 18 and 19).

    Args:
        found: title → "density" (see `density`) and "correlation" (pearson, spearman, their intervals,
            images, points).
        x_label: name of the quantity, with its unit.
        per_row: panels in a row.
    """
    figure, axes = panels(len(found), 4.0, 3.7, per_row)
    rows: list[Row] = []
    from matplotlib.colors import LogNorm

    norm = LogNorm(1, max(2, *(int(np.max(one["density"]["counts"])) for one in found.values())))
    for one, (title, numbers) in zip(axes, found.items(), strict=True):
        cells = numbers["density"]
        edges, counts = np.asarray(cells["x_edges"]), np.asarray(cells["counts"])
        filled = np.ma.masked_equal(counts.T, 0)
        image = one.pcolormesh(edges, cells["y_edges"], filled, cmap=DENSITY, norm=norm, rasterized=True)
        low, half, high = np.asarray(cells["quartiles"], dtype=float).T
        middles = (edges[1:] + edges[:-1]) / 2
        one.plot(middles, half, color="black", linewidth=1.6, label="median")
        one.plot(middles, low, color="black", linewidth=0.9, linestyle="--", label="quartiles")
        one.plot(middles, high, color="black", linewidth=0.9, linestyle="--")
        style_axes(one, title, x_label, "class weight")
        one.axhline(0, color=GREY, linewidth=0.6)
        one.text(
            0.98,
            0.98,
            _correlations(numbers["correlation"]),
            transform=one.transAxes,
            fontsize=7.5,
            ha="right",
            va="top",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )
        points = {"quarter": low, "median": half, "three_quarters": high, "points": counts.sum(1)}
        rows += rows_of(panel=title, x=middles, **points)
    axes[0].legend(fontsize=7.5, loc="lower right", frameon=True, framealpha=0.8)
    add_colourbar(figure, image, axes, "channels of images in a cell", 0.8)
    return figure, rows


def _correlations(link: Mapping[str, Any]) -> str:
    if not is_known(link["pearson"]):
        return f"no correlation: one quantity is constant\nn = {link['images']} images"
    return (
        f"r = {format_interval(link['pearson'], link['pearson_interval'], '+.2f')}\n"
        f"rank r = {format_interval(link['spearman'], link['spearman_interval'], '+.2f')}\n"
        f"n = {link['images']} images, {link['points']:,} channels"
    )


def by_class(found: Mapping[str, Sequence[Mapping[str, Any]]], what: str) -> Drawn:
    """Distribution of the rank correlation over classes, one curve per model.

    Args:
        found: label → a row for each class: "class", "spearman", "images".
        what: the two quantities, for the axis.
    """
    figure = new_figure(7.2, 3.6)
    axes = figure.subplots()
    rows: list[Row] = []
    for index, (label, classes) in enumerate(found.items()):
        known = sorted(one["spearman"] for one in classes if is_known(one["spearman"]))
        rows += [{"model": label, **one} for one in classes]
        if known:
            fraction = np.arange(1, len(known) + 1) / len(known)
            below = np.mean(np.asarray(known) < 0)
            legend = f"{label}: {len(known)} classes, {below:.0%} below 0"
            axes.step(known, fraction, where="post", linewidth=1.8, label=legend, **line_style(index).line)
    style_axes(axes, "", f"rank correlation of {what} within a class", "fraction of classes at or below")
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_ylim(0, 1.02)
    legend_outside(axes)
    return figure, rows


def control(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Drawn:
    """Correlation with the trained and with a random head, with intervals.

    Args:
        found: label → "trained" and "random" → correlation numbers.
    """
    figure = new_figure(6.4, 1.3 + 0.55 * len(found))
    axes = figure.subplots()
    rows: list[Row] = []
    styles = {"trained": (line_style(0), -0.13), "random": (line_style(1), 0.13)}
    for place, (label, heads) in enumerate(found.items()):
        for head, (style, shift) in styles.items():
            link, images = heads[head], heads[head]["images"]
            value, ends = link["spearman"], link["spearman_interval"]
            row = {"model": label, "head": head, "spearman": value, "low": ends[0], "high": ends[1]}
            rows.append(row | {"pearson": link["pearson"], "images": images})
            legend = f"{head} head (n = {images} images)" if place == 0 else None
            plot_interval(axes, value, ends, place + shift, style, markersize=6, label=legend)
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.5, -0.7)
    axes.axvline(0, color=GREY, linewidth=0.8)
    style_axes(axes, "", "rank correlation of spatial mean\nand class weight [95% interval]")
    legend_outside(axes)
    return figure, rows
