"""Figures of class activation maps: thresholds, and CAM from positive and from negative weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from heatbox.visualization.figures.style import (
    COLOURS,
    GREY,
    Drawn,
    LineStyle,
    Row,
    annotate,
    format_interval,
    label_first,
    legend_outside,
    line_style,
    panels,
    plot_interval,
    plot_line,
    rows_of,
    style_axes,
)


def threshold_curves(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Drawn:
    """Score against threshold with the best point: one panel per method, one curve per model.

    Args:
        found: method → label → "thresholds", "score", "score_v2" (T,), "best", "plateau", "images".
    """
    figure, axes = panels(len(found), 4.3, 3.7, share_y=True)
    rows: list[Row] = []
    for one, (method, curves) in zip(axes, found.items(), strict=True):
        for index, (label, curve) in enumerate(curves.items()):
            percent, best = 100 * np.asarray(curve["thresholds"]), 100 * curve["best"]
            top = float(np.max(curve["score"]))
            legend = f"{label}: best {top:.1f} at {best:.1f}% (n = {curve['images']})"
            style = line_style(index)
            one.plot(percent, curve["score"], linewidth=1.7, label=legend, **style.line)
            one.plot([best], [top], **style.point, markersize=8, markeredgecolor="black")
            one.vlines(best, 0, top, color=style.colour, linewidth=0.7, linestyle=(0, (2, 2)))
            numbers = {"MaxBoxAcc": curve["score"], "V2_common_threshold": curve["score_v2"]}
            numbers |= {name: curve[name] for name in ("best", "images")}
            rows += rows_of(model=label, method=method, threshold=curve["thresholds"], **numbers)
        style_axes(one, method, "threshold, % of the map's maximum", "MaxBoxAcc at IoU .5, % of images")
        one.set_xlim(0, 100)
        one.legend(fontsize=7.5, loc="upper right", frameon=True, framealpha=0.85)
    best = max(np.max(curve["score"]) for curves in found.values() for curve in curves.values())
    axes[0].set_ylim(0, 1.25 * best)
    label_first(axes)
    return figure, rows


_SIGNS = {
    "cam": ("all channels", LineStyle(COLOURS[4], "-", "o")),
    "cam-positive": ("positive weights only", LineStyle(COLOURS[0], "--", "^")),
    "cam-negative": ("negative weights only", LineStyle(COLOURS[1], "-.", "v")),
}


def signed_scores(found: Mapping[str, Mapping[str, Any]]) -> Drawn:
    """Scores of CAM from all channels, from those of positive and from those of negative weight.

    Args:
        found: label → method → "MaxBoxAcc", "MaxBoxAcc_interval", "MaxBoxAccV2", "MaxBoxAccV2_interval",
            "threshold"; and "images".
    """
    figure, axes = panels(2, 4.4, max(2.2, 1.1 + 0.75 * len(found)), share_y=True)
    rows: list[Row] = []
    for one, score in zip(axes, ("MaxBoxAcc", "MaxBoxAccV2"), strict=True):
        for place, (label, methods) in enumerate(found.items()):
            for number, (method, (channels, style)) in enumerate(_SIGNS.items()):
                value, ends = methods[method][score], methods[method][f"{score}_interval"]
                y = place + 0.26 * (number - 1)
                legend = channels if place == 0 else None
                plot_interval(one, value, ends, y, style, markersize=7, label=legend)
                annotate(one, f"{value:.1f}", ends[1], y)
                row = {"model": label, "channels": channels, "score": score, "value": value}
                row |= {"low": ends[0], "high": ends[1], "threshold": methods[method]["threshold"]}
                rows.append(row | {"images": methods["images"]})
        one.set_yticks(range(len(found)), [f"{label}\nn = {m['images']}" for label, m in found.items()])
        one.set_ylim(len(found) - 0.5, -0.6)
        style_axes(one, "", f"{score}, % of images [95% interval]")
        one.margins(x=0.12)
    legend_outside(axes[1])
    return figure, rows


def signed_areas(found: Mapping[str, Mapping[str, Any]]) -> Drawn:
    """Fraction of the image above the threshold for each kind of map, with the area of the objects' boxes.

    Args:
        found: label → "thresholds" (T,), "area" (method → (T,) mean), "ratio" (mean of all over positive at
            .5) with its "ratio_interval", "object" (mean fraction of the image inside the boxes), "images".
    """
    figure, axes = panels(len(found), 4.2, 3.6, share_y=True)
    rows: list[Row] = []
    for one, (label, numbers) in zip(axes, found.items(), strict=True):
        percent = 100 * np.asarray(numbers["thresholds"])
        for method, (channels, style) in _SIGNS.items():
            area = np.asarray(numbers["area"][method])
            plot_line(one, percent, area, style, channels, 3)
            points = {"threshold": numbers["thresholds"], "area": area}
            rows += rows_of(model=label, channels=channels, **points, images=numbers["images"])
        one.axhline(numbers["object"], color=GREY, linewidth=1, linestyle=(0, (1, 2)))
        one.text(99, numbers["object"], "objects' boxes", fontsize=7.5, color=GREY, ha="right", va="bottom")
        ratio = f"all / positive at 50%: {format_interval(numbers['ratio'], numbers['ratio_interval'])}"
        title = f"{label} (n = {numbers['images']})\n{ratio}"
        style_axes(one, title, "threshold, % of the map's range", "activated fraction of the image, mean")
        one.set(xlim=(0, 100), ylim=(0, 1.02))
    label_first(axes)
    axes[0].legend(fontsize=7.5, frameon=False)
    return figure, rows
