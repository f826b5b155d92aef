"""The figure of shape bias, with humans and published networks for comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heatbox.visualization.figures.style import (
    GREY,
    Drawn,
    Row,
    format_interval,
    is_known,
    line_style,
    new_figure,
    plot_interval,
    style_axes,
)


def shape_bias(found: Mapping[str, Mapping[str, Any]], published: Mapping[str, float] | None = None) -> Drawn:
    """Shape bias by category and overall.

    Args:
        found: label → "overall", "interval", "images", "decided" and "categories" (name → "bias", "interval",
            "shape", "texture", "other").
        published: observer → shape bias, drawn as lines; None for stimuli without published results.
    """
    biases: dict[str, list[float]] = {}
    for numbers in found.values():
        for name, one in numbers["categories"].items():
            biases.setdefault(name, []).extend(filter(is_known, [one["bias"]]))
    names = sorted(
        biases, key=lambda name: (sum(biases[name]) / len(biases[name]) if biases[name] else -1.0, name)
    )
    figure = new_figure(7.4, 2.0 + 0.26 * len(names) + 0.3 * len(found))
    upper, lower = figure.subplots(2, 1, height_ratios=[max(len(names), 4), len(found) + 1.2], sharex=True)
    rows: list[Row] = []
    for index, (label, one) in enumerate(found.items()):
        style = line_style(index)
        shift = 0.5 * (index - (len(found) - 1) / 2) / max(len(found), 1)
        for place, name in enumerate(names):
            numbers = one["categories"].get(name)
            if numbers is None:
                continue
            bias, (low, high) = numbers["bias"], numbers["interval"]
            row = {"model": label, "category": name, "shape_bias": bias, "low": low, "high": high}
            rows.append(row | {key: numbers[key] for key in ("shape", "texture", "other")})
            y = place + shift
            plot_interval(upper, bias, (low, high), y, style, 0.55, markersize=4.5, clip_on=False)
        bias, (low, high) = one["overall"], one["interval"]
        rows.append({"model": label, "category": "all", "shape_bias": bias, "low": low, "high": high})
        plot_interval(lower, bias, (low, high), index, style, 0.55, markersize=7, clip_on=False)
    upper.set_yticks(range(len(names)), names)
    upper.set_ylim(-0.7, len(names) - 0.3)
    lower.set_yticks(range(len(found)), [_summary(label, one) for label, one in found.items()])
    lower.set_ylim(len(found) - 0.4, -0.9)
    for axes in (upper, lower):
        _draw_published(axes, published or {}, named=axes is upper)
    axis = "texture decides  ←   shape bias (fraction of shape among decided images)   →  shape decides"
    style_axes(upper, "", "", "shape category")
    style_axes(lower, "", axis)
    lower.set_xlim(0, 1)  # the axis is shared
    return figure, rows + [
        {"model": name, "category": "all", "shape_bias": bias, "source": "Geirhos et al., ICLR 2019"}
        for name, bias in (published or {}).items()
    ]


def _summary(label: str, one: Mapping[str, Any]) -> str:
    bias = format_interval(one["overall"], one["interval"])
    return f"{label}\n{bias}\n{one['decided']} of {one['images']} decided"


def _draw_published(axes: Any, published: Mapping[str, float], named: bool) -> None:
    """Published values as vertical lines, with their names at the top of the axes."""
    for name, bias in published.items():
        colour, width, dash = ("black", 1.4, "-") if name == "humans" else (GREY, 0.9, (0, (2, 2)))
        axes.axvline(bias, color=colour, linewidth=width, linestyle=dash, zorder=1)
        if named:
            place: dict[str, Any] = {"rotation": 40, "va": "bottom", "ha": "left"}
            axes.text(bias, axes.get_ylim()[1], f" {name} {bias:.3f}", fontsize=7.5, color=colour, **place)
