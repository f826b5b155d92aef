"""Figures and tables that compare models: Fig. 13, Fig. 14 and Table 3 of the paper, headline numbers."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from heatbox.errors import InputError
from heatbox.visualization.figures.style import (
    GREY,
    Drawn,
    LineStyle,
    Row,
    annotate,
    format_interval,
    legend_outside,
    line_style,
    new_figure,
    panels,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCRATCH = "scratch"
"""Pre-training of a model that is trained from random weights."""
SCORES = ("MaxBoxAcc", "MaxBoxAccV2")
ARROWS = {
    "resolution": ("#009E73", "-", -0.25, "→ larger training images"),
    "pretraining": ("#D55E00", "--", 0.25, "→ other pre-training"),
}
"""What two models differ in → colour, dash pattern, curvature and meaning of the arrow between them. The
colours are the paper's green and red, distinct for colour-blind readers."""
Published = Mapping[str, Mapping[str, tuple[float, float]]]
"""Model → map → published (MaxBoxAcc, MaxBoxAccV2) in percent."""
HEADLINES = {
    "erf_auc": "receptive field: area under r(t)",
    "erf_gaussian_radius_px": "receptive field: Gaussian radius, px",
    "shape_bias": "shape bias, fraction of decided images",
    "area_weight_rank_correlation": "rank correlation: area and weight",
    "gap_weight_rank_correlation": "rank correlation: mean and weight",
    "area_all_over_positive": "area of CAM / of its positive part",
    "pc1_explained": "variance explained by the first component",
    "components_for_90": "components for 90% of the variance",
    "reconstruction_error": "energy not reconstructed by the largest dictionary",
    "cam_MaxBoxAccV2": "MaxBoxAccV2 of CAM, % of images",
    "pc1_MaxBoxAccV2": "MaxBoxAccV2 of PC1, % of images",
    "cam_threshold": "best threshold of CAM, fraction of maximum",
}
"""Key of a headline number → its axis label, with the unit."""


@dataclass(frozen=True)
class ModelScore:
    """Scores and training of one model.

    Attributes:
        name: of the model.
        scores: map → its entry in "methods" of metrics.json.
        family: models of a family share a colour and a marker.
        resolution: side of its training images in pixels, None if unknown.
        pretraining: such as "scratch", "in1k" or "in22k"; "" if unknown.
        variant: of the family, such as "31B"; arrows join models of the same variant.
        augmented: whether it was trained with augmentation.
        auc: area under r(t) of its effective receptive field, or None.
    """

    name: str
    scores: Mapping[str, Mapping[str, Any]]
    family: str = ""
    resolution: int | None = None
    pretraining: str = ""
    variant: str = ""
    augmented: bool = False
    auc: float | None = None


def scores_per_model(models: Sequence[ModelScore], method: str = "cam") -> Drawn:
    """Both scores of each model with intervals (Fig. 13).

    Arrows point to the model that differs only in training resolution (solid) or only in pre-training
    (dashed); a star marks augmentation.

    Args:
        models: in the order in which they are drawn.
        method: name of the map.

    Returns:
        the figure, and a row for each model and score, with the models that arrows point to.

    Raises:
        InputError: no model has scores of the method.
    """
    known = _holding(models, method)
    styles = _styles(known)
    figure, both = panels(2, max(4.2, 0.55 * len(known) + 2), 4.6)
    rows: list[Row] = []
    arrows = arrows_between(known)
    for axes, score in zip(both, SCORES, strict=True):
        values = [float(model.scores[method][score]) for model in known]
        for place, (model, value) in enumerate(zip(known, values, strict=True)):
            low, high = model.scores[method][f"{score}_interval"]
            _mark(axes, place, value, (low, high), model, styles[model.family])
            row = {"model": model.name, "family": model.family, "score": score, "value": value}
            row |= {"low": low, "high": high, "augmented": model.augmented}
            rows.append(row | dict.fromkeys(f"{kind}_arrow_to" for kind in ARROWS))
        for start, end, kind in arrows:
            colour, dash, curvature, _ = ARROWS[kind]
            line = {"color": colour, "linestyle": dash, "linewidth": 1.4, "shrinkA": 6, "shrinkB": 6}
            shape = {"arrowstyle": "-|>", "connectionstyle": f"arc3,rad={curvature}"}
            axes.annotate("", (end, values[end]), (start, values[start]), arrowprops=shape | line)
            rows[len(rows) - len(known) + start][f"{kind}_arrow_to"] = known[end].name
        style_axes(axes, score, "", f"{score} of {method}, % of images [95% interval]")
        axes.set_xticks(range(len(known)), [model.name for model in known], rotation=40, ha="right")
        axes.margins(x=0.12, y=0.18)
    if entries := _entries(known, styles, {kind for _, _, kind in arrows}):
        legend_outside(both[1], handles=entries)
    return figure, rows


def arrows_between(models: Sequence[ModelScore]) -> list[tuple[int, int, str]]:
    """Pairs of models that differ in one respect only: indices of both, and "resolution" or "pretraining".

    Each resolution is joined to the next larger one, each pre-training to the next by name.
    """
    found: list[tuple[int, int, str]] = []
    for kind, same in (("resolution", "pretraining"), ("pretraining", "resolution")):
        groups: dict[tuple, list[tuple[Any, int]]] = {}
        for place, model in enumerate(models):
            if value := getattr(model, kind):
                key = (model.family, model.variant, model.augmented, getattr(model, same))
                groups.setdefault(key, []).append((value, place))
        for group in groups.values():
            group.sort(key=lambda one: (one[0] != SCRATCH, one[0]))  # random weights come first
            pairs = itertools.pairwise(group)
            found += [(start, end, kind) for (before, start), (after, end) in pairs if before != after]
    return found


def _styles(models: Sequence[ModelScore]) -> dict[str, LineStyle]:
    """Family → its colour and marker."""
    families = dict.fromkeys(model.family for model in models)
    return {family: line_style(index) for index, family in enumerate(families)}


def _mark(
    axes: Any, x: float, value: float, ends: Sequence[float], model: ModelScore, style: LineStyle
) -> None:
    """A model with its interval: colour and marker of its family, a star if it is augmented."""
    bars = [[max(0.0, value - ends[0])], [max(0.0, ends[1] - value)]]
    marker, size = ("*", 11) if model.augmented else (style.marker, 6)
    bar = {"color": style.colour, "capsize": 2.5, "elinewidth": 0.8}
    axes.errorbar(x, value, bars, fmt=marker, markersize=size, **bar)


def _entries(
    models: Sequence[ModelScore],
    styles: Mapping[str, LineStyle],
    kinds: Collection[str] = (),
    numbered: bool = False,
) -> list[Any]:
    """Legend entries: families by colour and marker; arrows and the star if they occur; models by number."""
    from matplotlib.lines import Line2D

    families = styles.items() if len(styles) > 1 else ()
    entries = [Line2D([], [], **style.point, label=name or "unknown") for name, style in families]
    if any(model.augmented for model in models):
        entries.append(Line2D([], [], color=GREY, marker="*", markersize=10, linestyle="", label="augmented"))
    for kind, (colour, dash, _, meaning) in ARROWS.items():
        if kind in kinds:
            entries.append(Line2D([], [], color=colour, linestyle=dash, label=meaning))
    if numbered:  # names at the points would overlap
        names = [f"{number}  {model.name}" for number, model in enumerate(models, 1)]
        entries += [Line2D([], [], linestyle="", label=name) for name in names]
    return entries


def score_against_erf(models: Sequence[ModelScore], method: str = "cam") -> Drawn:
    """Both scores against the area under r(t), with Pearson's correlation and its interval (Fig. 14).

    Args:
        models: models without an area are left out.
        method: name of the map.

    Returns:
        the figure, and a row for each model and for each score's correlation.

    Raises:
        InputError: no model has both scores of the method and an area.
    """
    known = [model for model in _holding(models, method) if model.auc is not None]
    if not known:
        raise InputError("no model has both a score and a receptive field")
    styles = _styles(known)
    figure, both = panels(2, 4.6, 3.9)
    areas = np.array([model.auc for model in known], dtype=np.float64)
    rows: list[Row] = []
    for axes, score in zip(both, SCORES, strict=True):
        values = np.array([model.scores[method][score] for model in known], dtype=np.float64)
        for number, (model, area, value) in enumerate(zip(known, areas, values, strict=True), 1):
            ends = model.scores[method][f"{score}_interval"]
            _mark(axes, area, value, ends, model, styles[model.family])
            annotate(axes, str(number), area, value, rise=6)
            rows.append({"model": model.name, "score": score, "auc": area, "value": value})
        r, low, high = correlation(areas, values)
        rows.append({"model": "correlation", "score": score, "value": r, "low": low, "high": high})
        title = f"{score}: {_correlation_text(r, low, high, len(known))}"
        style_axes(axes, title, "receptive field: area under r(t)", f"{score}, %")
        axes.margins(0.22)
    legend_outside(both[1], handles=_entries(known, styles, numbered=True))
    return figure, rows


def correlation(
    x: np.ndarray, y: np.ndarray, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Pearson's correlation and its 95% bootstrap interval over points.

    Args:
        x, y: (N,) values.
        resamples: number of resamples; those in which x or y is constant are left out.
        seed: of the resampling.

    Returns:
        the correlation, and the interval's ends: NaN with fewer than 5 points, where an interval is
        meaningless; all NaN if x or y is constant.
    """
    estimate = float(_pearson(x[None], y[None])[0])
    if len(x) < 5 or np.isnan(estimate):
        return estimate, float("nan"), float("nan")
    picks = np.random.default_rng(seed).integers(0, len(x), (resamples, len(x)))
    low, high = np.nanquantile(_pearson(x[picks], y[picks]), [0.025, 0.975])
    return estimate, float(low), float(high)


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(R,) correlations of the rows of two (R, N) arrays."""
    a, b = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(x), np.nan), where=scale > 1e-12)


def _correlation_text(r: float, low: float, high: float, count: int) -> str:
    if np.isnan(r):
        return "no correlation is defined"
    few = f" ({count} models: too few for an interval)" if np.isnan(low) else ""
    return f"r = {format_interval(r, (low, high))}{few}"


def _holding(models: Sequence[ModelScore], method: str) -> list[ModelScore]:
    known = [model for model in models if method in model.scores]
    if not known:
        raise InputError(f"no model has scores of {method!r}")
    return known


def maps_compared(models: Sequence[ModelScore]) -> Drawn:
    """CAM and PC1 of each model, with their best thresholds (Table 3).

    Returns:
        the table as a figure, and a row for each model: both scores and the threshold of each map, and the
        differences.

    Raises:
        InputError: no model has scores of both maps.
    """
    methods = ("cam", "pc1")
    known = [model for model in models if all(method in model.scores for method in methods)]
    if not known:
        raise InputError("no model has maps of both cam and pc1")
    rows: list[Row] = []
    for model in known:
        row: Row = {"model": model.name}
        for method in methods:
            row |= {f"{method}_{key}": model.scores[method][key] for key in (*SCORES, "threshold")}
        cam, pc1 = (model.scores[method] for method in methods)
        rows.append(row | {f"{score}_difference": pc1[score] - cam[score] for score in SCORES})
    columns = {"model": ("model", "")}
    for method in methods:
        columns |= {f"{method}\n{score}": (f"{method}_{score}", ".1f") for score in SCORES}
        columns[f"{method}\nthreshold"] = (f"{method}_threshold", ".3f")
    columns |= {f"{score}\npc1 − cam": (f"{score}_difference", "+.1f") for score in SCORES}
    return _table(rows, columns), rows


def all_scores(
    models: Sequence[ModelScore],
    baselines: Mapping[str, Mapping[str, Any]] | None = None,
    published: Published | None = None,
) -> Drawn:
    """Every map of every model under both threshold policies, with baselines and published numbers.

    Args:
        models: in the order in which they are listed.
        baselines: name → its entry in "methods" of metrics.json.
        published: the paper's numbers; empty for models without any.

    Returns:
        the table as a figure, and a row for each model and map.

    Raises:
        InputError: there are no scores.
    """
    entries = [(model.name, method, one) for model in models for method, one in model.scores.items()]
    entries += [("any", method, one) for method, one in (baselines or {}).items()]
    if not entries:
        raise InputError("no model has scores")
    rows = [_row(name, method, one, (published or {}).get(name, {})) for name, method, one in entries]
    columns = {"model": ("model", ""), "map": ("map", ""), "MaxBoxAcc\noracle [95%]": ("MaxBoxAcc", ".1f")}
    columns |= {"at": ("threshold", ".3f"), "MaxBoxAccV2\noracle [95%]": ("MaxBoxAccV2", ".1f")}
    for kind in ("transferred", "published"):
        if any(row[f"{kind}_{SCORES[0]}"] is not None for row in rows):
            columns |= {f"{score}\n{kind}": (f"{kind}_{score}", ".1f") for score in SCORES}
    return _table(rows, columns, text_columns=2), rows


def _row(name: str, method: str, found: Mapping[str, Any], published: Mapping[str, Any]) -> Row:
    transferred = found.get("transferred") or {}
    printed = published.get(method, (None, None))
    row: Row = {"model": name, "map": method, "threshold": found["threshold"]}
    for place, score in enumerate(SCORES):
        low, high = found[f"{score}_interval"]
        row |= {score: found[score], f"{score}_low": low, f"{score}_high": high}
        row |= {f"transferred_{score}": transferred[score]["value"] if transferred else None}
        row |= {f"published_{score}": printed[place]}
    return row | {"transferred_threshold": transferred.get("threshold")}


def _cell(row: Row, key: str, form: str) -> str:
    ends = [row.get(f"{key}_{end}") for end in ("low", "high")]
    return "" if row[key] is None else format_interval(row[key], ends, form)


def _table(rows: Sequence[Row], columns: Mapping[str, tuple[str, str]], text_columns: int = 1) -> Figure:
    """A table as a figure, with rules between rows; the first `text_columns` columns are left-aligned.

    `columns` maps a heading to a key of the rows and the format of its values.
    """
    cells = [[_cell(row, key, form) for key, form in columns.values()] for row in rows]
    figure = new_figure(0.6 + 1.15 * len(columns), 0.6 + 0.3 * (len(rows) + 1))
    axes = figure.subplots()
    axes.axis("off")
    table = axes.table(cells, colLabels=list(columns), loc="center", cellLoc="right", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    table.auto_set_column_width(list(range(len(columns))))
    table.scale(1, 1.35)
    for (row, column), cell in table.get_celld().items():
        if column < text_columns:
            cell.set_text_props(ha="left")
        if row == 0:
            cell.set_height(1.8 * cell.get_height())
    return figure


def headline_numbers(rows: list[Row]) -> Drawn:
    """The headline numbers of the instruments: one small panel per number, one marker per model.

    Args:
        rows: a row for each model: "model" and the numbers of `HEADLINES`, None where one was not measured.
    """
    known = {key: label for key, label in HEADLINES.items() if any(row.get(key) is not None for row in rows)}
    if not known:
        figure = new_figure(4, 1)
        figure.text(0.5, 0.5, "nothing was measured", ha="center")
        return figure, rows
    figure, axes = panels(len(known), 3.1, 1.0 + 0.34 * len(rows), share_y=True)
    for one, (key, label) in zip(axes, known.items(), strict=True):
        for index, row in enumerate(rows):
            value = row.get(key)
            if value is None:
                left = one.get_yaxis_transform()
                one.text(0.02, index, "not measured", fontsize=7, color=GREY, va="center", transform=left)
                continue
            one.plot([value], [index], **line_style(index).point, markersize=7)
            annotate(one, f"{value:.3g}", value, index)
        style_axes(one, "", label)
        one.xaxis.label.set_fontsize(8)
        one.set_yticks(range(len(rows)), [row["model"] for row in rows])
        one.set_ylim(len(rows) - 0.5, -0.5)
        one.margins(x=0.25)
    return figure, rows
