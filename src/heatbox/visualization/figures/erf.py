"""Figures of effective receptive fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from heatbox.visualization.figures.style import (
    GREY,
    Drawn,
    LineStyle,
    Row,
    add_colourbar,
    label_first,
    line_style,
    panels,
    plot_line,
    rows_of,
    style_axes,
)

_GOOD_FIT = 0.5  # explained fraction of the sum of squares below which a Gaussian fits poorly
_SQUARES = {"0.2": (6, 2), "0.3": (4, 2), "0.5": (2, 2), "0.99": (1, 0)}
"""Fraction t → the dashes of its square."""


def heatmaps(fields: Mapping[str, tuple[np.ndarray, Mapping[str, Any]]]) -> Drawn:
    """The contribution of every pixel, one panel per model, with the squares that contain the fraction t.

    Args:
        fields: label → contribution (H, W), and its numbers as returned by
            `heatbox.analysis.erf.numbers_of`.
    """
    figure, axes = panels(len(fields), 3.9, 4.8)
    rows: list[Row] = []
    for one, (label, (contribution, numbers)) in zip(axes, fields.items(), strict=True):
        values = np.log10(contribution + 1)
        values = values / max(values.max(), np.finfo(float).tiny)
        height, width = values.shape
        image = one.imshow(values, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        for t, dash in _SQUARES.items():
            side, ratio = numbers["log"]["side"][t], numbers["log"]["area_ratio"][t]
            rows.append({"model": label, "t": float(t), "side_px": side, "area_ratio": ratio})
            if side is not None:
                _square(one, width // 2, height // 2, side, dash, f"t={t}")
        held = "\n".join(f"t = {t}: r = {numbers['log']['area_ratio'][t]:.3f}" for t in _SQUARES)
        one.set_title(
            f"{label}\n{width} x {height} px, n = {numbers['images']} images", fontsize=9, loc="left"
        )
        one.set_xlabel(held, fontsize=8, loc="left")
        one.set_xticks([0, width // 2, width - 1])
        one.set_yticks([0, height // 2, height - 1])
        one.tick_params(labelsize=7)
    add_colourbar(figure, image, axes, "log10(contribution + 1), fraction of the maximum", 0.7)
    return figure, rows


def _square(axes: Any, x: int, y: int, side: int, dash: tuple[int, int], label: str) -> None:
    """A labelled square around (x, y), white on a dark rim, which is visible on any background."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    left, top = x - side / 2, y - side / 2
    for colour, width, line in (("black", 2.4, "-"), ("white", 1.1, (0, dash))):
        stroke: dict[str, Any] = {"edgecolor": colour, "linewidth": width, "linestyle": line}
        axes.add_patch(Rectangle((left, top), side, side, fill=False, **stroke))
    # A label above the largest square would lie outside the image.
    shift, anchor = (0.02 * y, "top") if top < 0.06 * y else (0, "bottom")
    rim = [withStroke(linewidth=1.6, foreground="black")]
    text = {"fontsize": 6.5, "color": "white", "va": anchor, "clip_on": True, "path_effects": rim}
    axes.text(left + 0.02 * x, top + shift, label, **text)


def curves(fields: Mapping[str, Mapping[str, Any]]) -> Drawn:
    """r(t) of several models on one plot, with and without the logarithm.

    Args:
        fields: label → numbers as returned by `heatbox.analysis.erf.numbers_of`.
    """
    figure, axes = panels(2, 4.6, 3.8, share_y=True)
    rows: list[Row] = []
    titles = {
        "log": "log10(contribution + 1), as RepLKNet's code",
        "linear": "no logarithm, as SLaK's figures",
    }
    for one, (scale, title) in zip(axes, titles.items(), strict=True):
        for index, (label, numbers) in enumerate(fields.items()):
            keys = {"model": label, "scale": scale}
            every = (5 + 3 * index, 20)
            rows += _plot_ratio(one, label, numbers, keys, line_style(index), every, scale)
        style_axes(one, title, "fraction t of the contribution", "area ratio r(t) of the smallest square")
        one.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (1, 3)))
        one.text(0.72, 0.735, "even over the input", fontsize=7, color=GREY, ha="center", rotation=39)
    label_first(axes)
    return figure, rows


def _plot_ratio(
    axes: Any, label: str, numbers: Mapping[str, Any], keys: Row, style: LineStyle, every: Any, scale: str
) -> list[Row]:
    """Plot r(t) of one model or group; returns its points as rows that begin with `keys`."""
    curve, images = numbers[scale], numbers["images"]
    legend = f"{label}: AUC {curve['auc']:.3f} (n = {images})"
    plot_line(axes, curve["t"], curve["r"], style, legend, every)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize=7.5, loc="upper left", frameon=False)
    return rows_of(**keys, t=curve["t"], area_ratio=curve["r"], auc=curve["auc"], images=images)


def groups(found: Mapping[str, Mapping[str, Mapping[str, Any]]], category: str) -> Drawn:
    """r(t) of images classified by shape, and of images classified by texture (Fig. 17).

    Args:
        found: label → "shape" and "texture" → numbers as returned by
            `heatbox.analysis.erf.numbers_of`; a group without images is absent.
        category: the shape category, or "all".
    """
    figure, axes = panels(len(found), 3.9, 3.6, share_y=True)
    rows: list[Row] = []
    styles = {"shape": line_style(0), "texture": line_style(1)}
    for one, (label, both) in zip(axes, found.items(), strict=True):
        for cue, style in styles.items():
            if cue not in both:
                continue
            keys = {"model": label, "category": category, "decided_by": cue}
            rows += _plot_ratio(one, f"decided by {cue}", both[cue], keys, style, 16, "log")
        which = "all shapes" if category == "all" else f"shape {category!r}"
        style_axes(one, f"{label}: images of {which}", "fraction t of the contribution", "area ratio r(t)")
    label_first(axes)
    return figure, rows


def groups_by_category(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Drawn]:
    """`groups` of every shape category with images in some group.

    Args:
        found: label → numbers of a shape bias, whose "groups" map a category to "shape" and "texture".
    """
    drawn = {}
    for category in dict.fromkeys(name for one in found.values() for name in one.get("groups", {})):
        both = {label: one.get("groups", {}).get(category) for label, one in found.items()}
        if both := {label: one for label, one in both.items() if one}:
            drawn[category] = groups(both, category)
    return drawn


def positions(found: Mapping[str, Mapping[str, Any]]) -> Drawn:
    """The radius of the receptive field at each position, one panel per model.

    Args:
        found: label → "rows", "columns" (cells), "sigma" and "explained" (R, K), "feature_size", "size" and
            "images".
    """
    figure, axes = panels(len(found), 3.4, 3.3)
    rows: list[Row] = []
    for one, (label, numbers) in zip(axes, found.items(), strict=True):
        sigma = np.asarray(numbers["sigma"], dtype=float)
        image = one.imshow(sigma, cmap="viridis", vmin=0)
        middle = float(sigma.max()) * 0.6
        for i, row in enumerate(numbers["rows"]):
            for k, column in enumerate(numbers["columns"]):
                ink = "black" if sigma[i, k] > middle else "white"
                explained = numbers["explained"][i][k]
                radius = f"{sigma[i, k]:.0f}" if explained >= _GOOD_FIT else f"({sigma[i, k]:.0f})"
                one.text(k, i, radius, ha="center", va="center", color=ink, fontsize=8)
                cell = {"model": label, "row": row, "column": column, "sigma_px": sigma[i, k]}
                rows.append(cell | {"explained": explained, "images": numbers["images"]})
        h, w = numbers["feature_size"]
        side = " x ".join(map(str, reversed(numbers["size"])))
        one.set_title(f"{label}\n{side} px, n = {numbers['images']} images", fontsize=9, loc="left")
        one.set_xticks(range(sigma.shape[1]), numbers["columns"])
        one.set_yticks(range(sigma.shape[0]), numbers["rows"])
        one.set_xlabel(f"column of the {w} x {h} feature map", fontsize=8)
        one.set_ylabel("row", fontsize=8)
        one.tick_params(labelsize=7)
        add_colourbar(figure, image, one, "Gaussian radius, pixels (poor fits in brackets)")
    return figure, rows
