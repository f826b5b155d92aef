"""Figures of class activation maps: thresholds, and maps from positive and negative weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from heatbox.visualization.figures.style import (
    COLOURS,
    GREY,
    Drawn,
    Row,
    interval,
    label_first,
    line,
    look_of,
    panels,
    plain,
    point,
    style,
)


def threshold_curves(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Drawn:
    """Score against threshold with the chosen point, a panel a map method, a curve a network.

    Args:
        found: method → label → "thresholds", "score", "score_v2" (T,), "best", "plateau", "images".
    """
    figure, axes = panels(len(found), 4.3, 3.7, share_y=True)
    rows: list[Row] = []
    for one, (method, curves) in zip(axes, found.items(), strict=True):
        for index, (label, curve) in enumerate(curves.items()):
            percent = 100 * np.asarray(curve["thresholds"])
            best = 100 * curve["best"]
            top = float(np.max(curve["score"]))
            words = f"{label}: best {top:.1f} at {best:.1f}% (n = {curve['images']})"
            one.plot(percent, curve["score"], linewidth=1.7, label=words, **style(index))
            point(one, best, top, index, markersize=8, markeredgecolor="black")
            one.vlines(best, 0, top, color=look_of(index)[0], linewidth=0.7, linestyle=(0, (2, 2)))
            rows += [
                {
                    "model": label,
                    "method": method,
                    "threshold": t,
                    "MaxBoxAcc": s,
                    "V2_common_threshold": v,
                    "best": curve["best"],
                    "images": curve["images"],
                }
                for t, s, v in zip(curve["thresholds"], curve["score"], curve["score_v2"], strict=True)
            ]
        plain(one, method, "threshold, % of the map's maximum", "MaxBoxAcc at IoU .5, % of images")
        one.set_xlim(0, 100)
        one.legend(fontsize=7.5, loc="upper right", frameon=True, framealpha=0.85)
    axes[0].set_ylim(
        0, 1.25 * max(float(np.max(c["score"])) for curves in found.values() for c in curves.values())
    )
    label_first(axes)
    return figure, rows


_PARTS: dict[str, tuple[str, str, Any, str]] = {
    "cam": ("all channels", COLOURS[4], "-", "o"),
    "cam-positive": ("positive weights only", COLOURS[0], "--", "^"),
    "cam-negative": ("negative weights only", COLOURS[1], "-.", "v"),
}


def signed_scores(found: Mapping[str, Mapping[str, Any]]) -> Drawn:
    """Scores of CAM from all channels, those of positive and those of negative weight.

    Args:
        found: label → method → "MaxBoxAcc", "MaxBoxAcc_interval", "MaxBoxAccV2", "MaxBoxAccV2_interval",
            "threshold"; and "images".
    """
    figure, axes = panels(2, 4.4, max(2.2, 1.1 + 0.75 * len(found)) / 1.0, share_y=True)
    rows: list[Row] = []
    for one, score in zip(axes, ("MaxBoxAcc", "MaxBoxAccV2"), strict=True):
        for place, (label, methods) in enumerate(found.items()):
            for number, (method, (words, colour, _, mark)) in enumerate(_PARTS.items()):
                value, ends = methods[method][score], methods[method][f"{score}_interval"]
                y = place + 0.26 * (number - 1)
                one.plot(ends, [y, y], color=colour, linewidth=1.4)
                one.plot(
                    [value],
                    [y],
                    color=colour,
                    marker=mark,
                    markersize=7,
                    linestyle="none",
                    label=words if place == 0 else None,
                )
                one.annotate(
                    f"{value:.1f}",
                    (ends[1], y),
                    xytext=(4, 0),
                    textcoords="offset points",
                    fontsize=7.5,
                    va="center",
                )
                rows.append(
                    {
                        "model": label,
                        "channels": words,
                        "score": score,
                        "value": value,
                        "low": ends[0],
                        "high": ends[1],
                        "threshold": methods[method]["threshold"],
                        "images": methods["images"],
                    }
                )
        one.set_yticks(range(len(found)), [f"{label}\nn = {m['images']}" for label, m in found.items()])
        one.set_ylim(len(found) - 0.5, -0.6)
        plain(one, "", f"{score}, % of images [95% interval]")
        one.margins(x=0.12)
    axes[1].legend(fontsize=7.5, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure, rows


def signed_areas(found: Mapping[str, Mapping[str, Any]]) -> Drawn:
    """Share of the image that each kind of map keeps, against the threshold; the objects' share beside.

    Args:
        found: label → "thresholds" (T,), "area" (method → (T,) mean), "ratio" (mean of all over positive at
            .5) with its "ratio_interval", "object" (mean share of the image under the boxes), "images".
    """
    figure, axes = panels(len(found), 4.2, 3.6, share_y=True)
    rows: list[Row] = []
    for one, (label, numbers) in zip(axes, found.items(), strict=True):
        percent = 100 * np.asarray(numbers["thresholds"])
        for method, (words, *look) in _PARTS.items():
            area = np.asarray(numbers["area"][method])
            line(one, percent, area, (look[0], look[1], look[2]), words, 3)
            rows += [
                {"model": label, "channels": words, "threshold": t, "area": a, "images": numbers["images"]}
                for t, a in zip(numbers["thresholds"], area, strict=True)
            ]
        one.axhline(numbers["object"], color=GREY, linewidth=1, linestyle=(0, (1, 2)))
        one.text(99, numbers["object"], "objects' boxes", fontsize=7.5, color=GREY, ha="right", va="bottom")
        words = f"all / positive at 50%: {interval(numbers['ratio'], numbers['ratio_interval'])}"
        plain(
            one,
            f"{label} (n = {numbers['images']})\n{words}",
            "threshold, % of the map's range",
            "activated share of the image, mean",
        )
        one.set(xlim=(0, 100), ylim=(0, 1.02))
    label_first(axes)
    axes[0].legend(fontsize=7.5, frameon=False)
    return figure, rows
