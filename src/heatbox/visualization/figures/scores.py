"""Localization scores of several models: Fig. 13 and Fig. 14 of the paper, from saved results."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from heatbox.errors import InputError
from heatbox.visualization.figures.style import COLOURS, GREY, MARKS, Drawn, Row, panels, plain

SCRATCH = "scratch"
"""Pre-training of a network that starts from random weights."""
SCORES = ("MaxBoxAcc", "MaxBoxAccV2")
RESOLUTION, PRETRAINING = "#009E73", "#D55E00"  # the paper's green and red, as colour-blind readers see them


@dataclass(frozen=True)
class ModelScore:
    """What is known of one model.

    Attributes:
        name: of the model.
        scores: map → the entry of metrics.json's "methods".
        family: models of one share a colour and a mark.
        resolution: side of its training images in pixels, or None where it is not known.
        pretraining: what its weights come from, such as "scratch", "in1k" or "in22k"; "" where it is not
            known.
        variant: what else tells models of a family apart, such as "31B"; arrows join equal ones.
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
    auc: float | None = field(default=None)


def scores_per_model(models: Sequence[ModelScore], method: str = "cam") -> Drawn:
    """Both scores of each model with intervals (Fig. 13).

    Arrows lead to the model that differs in training resolution alone (solid) or in pre-training alone
    (dashed); a star stands for augmentation.

    Args:
        models: in the order in which they are drawn.
        method: whose scores.

    Returns:
        the figure, and a row a model and score, with the models that arrows lead to.

    Raises:
        InputError: no model holds the method.
    """
    known = _holding(models, method)
    families = list(dict.fromkeys(model.family for model in known))
    figure, both = panels(2, max(4.2, 0.55 * len(known) + 2), 4.6, most=2)
    rows: list[Row] = []
    arrows = arrows_between(known)
    for axes, score in zip(both, SCORES, strict=True):
        values = [float(model.scores[method][score]) for model in known]
        for place, (model, value) in enumerate(zip(known, values, strict=True)):
            low, high = model.scores[method][f"{score}_interval"]
            _mark(axes, place, value, (low, high), model, families)
            rows.append(
                {"model": model.name, "family": model.family, "score": score, "value": value}
                | {"low": low, "high": high, "augmented": model.augmented}
                | {"resolution_arrow_to": None, "pretraining_arrow_to": None}
            )
        for start, end, kind in arrows:
            _arrow(axes, (start, values[start]), (end, values[end]), kind)
            rows[len(rows) - len(known) + start][f"{kind}_arrow_to"] = known[end].name
        plain(axes, score, "", f"{score} of {method}, % of images [95% interval]")
        axes.set_xticks(range(len(known)), [model.name for model in known], rotation=40, ha="right")
        axes.margins(x=0.12, y=0.18)
    _legend(both[1], _entries(known, families, {kind for _, _, kind in arrows}))
    return figure, rows


def arrows_between(models: Sequence[ModelScore]) -> list[tuple[int, int, str]]:
    """Pairs of models that differ in one thing alone: places of both, and "resolution" or "pretraining".

    Of several resolutions each is joined to the next larger one; of pre-trainings to the next by name.
    """
    found: list[tuple[int, int, str]] = []
    for kind, same in (("resolution", "pretraining"), ("pretraining", "resolution")):
        groups: dict[tuple, list[int]] = {}
        for place, model in enumerate(models):
            if getattr(model, kind):
                key = (model.family, model.variant, model.augmented, getattr(model, same))
                groups.setdefault(key, []).append(place)
        for places in groups.values():
            places.sort(key=lambda place: _order(getattr(models[place], kind)))
            found += [
                (start, end, kind)
                for start, end in itertools.pairwise(places)
                if getattr(models[start], kind) != getattr(models[end], kind)
            ]
    return found


def _order(value: int | str) -> tuple[bool, int | str]:
    """Random weights come before any pre-training."""
    return value != SCRATCH, value


def _mark(
    axes: Any, x: float, value: float, ends: Sequence[float], model: ModelScore, families: Sequence[str]
) -> None:
    """A model with its interval: colour and mark of its family, a star where it is augmented."""
    index = families.index(model.family)
    axes.errorbar(
        x,
        value,
        [[max(0.0, value - ends[0])], [max(0.0, ends[1] - value)]],
        fmt="*" if model.augmented else MARKS[index % len(MARKS)],
        markersize=11 if model.augmented else 6,
        color=COLOURS[index % len(COLOURS)],
        capsize=2.5,
        elinewidth=0.8,
    )


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], kind: str) -> None:
    axes.annotate(
        "",
        end,
        start,
        arrowprops={
            "arrowstyle": "-|>",
            "color": RESOLUTION if kind == "resolution" else PRETRAINING,
            "linestyle": "-" if kind == "resolution" else "--",
            "connectionstyle": f"arc3,rad={-0.25 if kind == 'resolution' else 0.25}",
            "shrinkA": 6,
            "shrinkB": 6,
            "linewidth": 1.4,
        },
    )


def _entries(models: Sequence[ModelScore], families: Sequence[str], kinds: set[str]) -> list[Any]:
    """Of the legend: families by colour and mark; arrows and the star where they are drawn."""
    from matplotlib.lines import Line2D

    entries = [
        Line2D(
            [],
            [],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKS[i % len(MARKS)],
            linestyle="",
            label=name or "unknown",
        )
        for i, name in enumerate(families)
        if len(families) > 1
    ]
    if any(model.augmented for model in models):
        entries.append(Line2D([], [], color=GREY, marker="*", markersize=10, linestyle="", label="augmented"))
    if "resolution" in kinds:
        entries.append(Line2D([], [], color=RESOLUTION, label="→ larger training images"))
    if "pretraining" in kinds:
        entries.append(Line2D([], [], color=PRETRAINING, linestyle="--", label="→ other pre-training"))
    return entries


def _legend(axes: Any, entries: Sequence[Any]) -> None:
    """Beside the last panel, where it covers no model."""
    if entries:
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        axes.legend(handles=entries, fontsize=7.5, frameon=False, **place)


def score_against_erf(
    models: Sequence[ModelScore], method: str = "cam", resamples: int = 10_000, seed: int = 0
) -> Drawn:
    """Both scores against the area under r(t), with Pearson's correlation and its interval (Fig. 14).

    Args:
        models: those without an area are left out.
        method: whose scores.
        resamples: bootstrap resamples of models for the interval.
        seed: of the resampling.

    Returns:
        the figure, and a row a model and one for each score's correlation.

    Raises:
        InputError: no model holds the method and an area.
    """
    known = [model for model in _holding(models, method) if model.auc is not None]
    if not known:
        raise InputError("no model holds both a score and a receptive field")
    families = list(dict.fromkeys(model.family for model in known))
    figure, both = panels(2, 4.6, 3.9, most=2)
    areas = np.array([model.auc for model in known], dtype=np.float64)
    rows: list[Row] = []
    for axes, score in zip(both, SCORES, strict=True):
        values = np.array([model.scores[method][score] for model in known], dtype=np.float64)
        for number, (model, area, value) in enumerate(zip(known, areas, values, strict=True), 1):
            _mark(axes, area, value, model.scores[method][f"{score}_interval"], model, families)
            offset: dict[str, Any] = {"xytext": (5, 3), "textcoords": "offset points"}
            axes.annotate(str(number), (area, value), fontsize=7.5, **offset)
            rows.append({"model": model.name, "score": score, "auc": area, "value": value})
        found = correlation(areas, values, resamples, seed)
        rows.append({"model": "correlation", "score": score, "value": found[0]} | _ends(found))
        plain(
            axes, f"{score}: {_words(found, len(known))}", "receptive field: area under r(t)", f"{score}, %"
        )
        axes.margins(0.22)
    _legend(both[1], [*_entries(known, families, set()), *_numbered(known)])
    return figure, rows


def _numbered(models: Sequence[ModelScore]) -> list[Any]:
    """Entries of the legend that say which number is which model: names would lie on each other."""
    from matplotlib.lines import Line2D

    names = [f"{number}  {model.name}" for number, model in enumerate(models, 1)]
    return [Line2D([], [], linestyle="", label=name) for name in names]


def correlation(
    x: np.ndarray, y: np.ndarray, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Pearson's correlation and its bootstrap interval over points.

    Args:
        x: (N,) values.
        y: (N,) values.
        resamples: number of resamples; those in which x or y does not vary are left out.
        seed: of the resampling.
        level: share of resamples that the interval holds.

    Returns:
        the correlation, and the interval's ends: NaN where fewer than 5 points make it meaningless, all NaN
        where x or y does not vary.
    """
    estimate = float(_pearson(x[None], y[None])[0])
    if len(x) < 5 or np.isnan(estimate):
        return estimate, float("nan"), float("nan")
    picks = np.random.default_rng(seed).integers(0, len(x), (resamples, len(x)))
    drawn = _pearson(x[picks], y[picks])
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return estimate, float(low), float(high)


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(R,) correlations of the rows of two (R, N) arrays."""
    a, b = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(x), np.nan), where=scale > 1e-12)


def _words(found: tuple[float, float, float], count: int) -> str:
    value, low, high = found
    if np.isnan(value):
        return "no correlation is defined"
    if np.isnan(low):
        return f"r = {value:.2f} ({count} models: too few for an interval)"
    return f"r = {value:.2f} [{low:.2f}, {high:.2f}]"


def _holding(models: Sequence[ModelScore], method: str) -> list[ModelScore]:
    known = [model for model in models if method in model.scores]
    if not known:
        raise InputError(f"no model holds scores of {method!r}")
    return known


def _ends(found: tuple[float, float, float]) -> Row:
    return {"low": found[1], "high": found[2]}
