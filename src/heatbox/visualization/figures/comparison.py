"""The headline numbers of several networks, side by side."""

from __future__ import annotations

from collections.abc import Mapping

from heatbox.visualization.figures.style import (
    GREY,
    Drawn,
    Row,
    new_figure,
    panels,
    plain,
    point,
)

COLUMNS = {
    "erf_auc": "receptive field: area under r(t)",
    "erf_gaussian_radius_px": "receptive field: Gaussian radius, px",
    "shape_bias": "shape bias, share of decided images",
    "area_weight_rank_correlation": "rank correlation: area and weight",
    "gap_weight_rank_correlation": "rank correlation: mean and weight",
    "area_all_over_positive": "area of CAM / of its positive part",
    "pc1_explained": "variance in the first component, share",
    "components_for_90": "components for 90% of the variance",
    "reconstruction_error": "energy left by the largest dictionary",
    "cam_MaxBoxAccV2": "MaxBoxAccV2 of CAM, % of images",
    "pc1_MaxBoxAccV2": "MaxBoxAccV2 of PC1, % of images",
    "cam_threshold": "best threshold of CAM, share of maximum",
}
"""Key of a headline number → what its axis says."""


def comparison(rows: list[Row], columns: Mapping[str, str] = COLUMNS) -> Drawn:
    """One small panel for each headline number, a mark a network.

    Args:
        rows: a row a network: "model" and the numbers, None where one was not measured.
        columns: key → what the axis says, with the unit.
    """
    known = {key: words for key, words in columns.items() if any(row.get(key) is not None for row in rows)}
    if not known:
        figure = new_figure(4, 1)
        figure.text(0.5, 0.5, "nothing was measured", ha="center")
        return figure, rows
    figure, axes = panels(len(known), 3.1, 1.0 + 0.34 * len(rows), most=3, share_y=True)
    for one, (key, words) in zip(axes, known.items(), strict=True):
        for index, row in enumerate(rows):
            value = row.get(key)
            if value is None:
                one.text(
                    0.02,
                    index,
                    "not measured",
                    fontsize=7,
                    color=GREY,
                    va="center",
                    transform=one.get_yaxis_transform(),
                )
                continue
            point(one, value, index, index, markersize=7)
            one.annotate(
                f"{value:.3g}",
                (value, index),
                xytext=(7, 0),
                textcoords="offset points",
                fontsize=7.5,
                va="center",
            )
        plain(one, "", words)
        one.xaxis.label.set_fontsize(8)
        one.set_yticks(range(len(rows)), [row["model"] for row in rows])
        one.set_ylim(len(rows) - 0.5, -0.5)
        one.margins(x=0.25)
    return figure, rows
