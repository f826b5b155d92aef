"""Scores of several models as tables: Table 3 of the paper, and every model with every map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heatbox.errors import InputError
from heatbox.visualization.figures.scores import SCORES, ModelScore
from heatbox.visualization.figures.style import Drawn, Row, interval, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Published = Mapping[str, Mapping[str, tuple[float, float]]]
"""Model → map → published (MaxBoxAcc, MaxBoxAccV2) in percent."""


def maps_compared(models: Sequence[ModelScore], methods: tuple[str, str] = ("cam", "pc1")) -> Drawn:
    """Two maps of each model, with their best thresholds (Table 3).

    Returns:
        the table as a figure, and a row a model: both scores and the threshold of each map, and differences.

    Raises:
        InputError: no model holds both maps.
    """
    known = [model for model in models if all(method in model.scores for method in methods)]
    if not known:
        raise InputError(f"no model holds maps of both {methods[0]} and {methods[1]}")
    rows: list[Row] = []
    for model in known:
        row: Row = {"model": model.name}
        for method in methods:
            found = model.scores[method]
            row |= {f"{method}_{score}": found[score] for score in SCORES}
            row[f"{method}_threshold"] = found["threshold"]
        row |= {
            f"{score}_difference": row[f"{methods[1]}_{score}"] - row[f"{methods[0]}_{score}"]
            for score in SCORES
        }
        rows.append(row)
    headings = ["model", *(f"{method}\n{words}" for method in methods for words in (*SCORES, "threshold"))]
    headings += [f"{score}\n{methods[1]} − {methods[0]}" for score in SCORES]
    return _drawn(headings, [_cells(row, methods) for row in rows], 1), rows


def _cells(row: Row, methods: Sequence[str]) -> list[str]:
    """One row of the table of two maps as text."""
    cells = [row["model"]]
    for method in methods:
        cells += [f"{row[f'{method}_{score}']:.1f}" for score in SCORES]
        cells.append(f"{row[f'{method}_threshold']:.3f}")
    return cells + [f"{row[f'{score}_difference']:+.1f}" for score in SCORES]


def all_scores(
    models: Sequence[ModelScore],
    baselines: Mapping[str, Mapping[str, Any]] | None = None,
    published: Published | None = None,
) -> Drawn:
    """Every map of every model under both threshold policies, with baselines and published numbers.

    Args:
        models: in the order in which they are listed.
        baselines: name → entry of metrics.json's "methods".
        published: what the paper prints; models without stay empty.

    Returns:
        the table as a figure, and a row a model and map.

    Raises:
        InputError: there is no score.
    """
    entries = [(model.name, method, one) for model in models for method, one in model.scores.items()]
    entries += [("any", method, one) for method, one in (baselines or {}).items()]
    if not entries:
        raise InputError("no model holds scores")
    rows = [_row(name, method, one, (published or {}).get(name, {})) for name, method, one in entries]
    headings = ["model", "map"]
    headings += ["MaxBoxAcc\noracle [95%]", "at", "MaxBoxAccV2\noracle [95%]"]
    moved = any(row["transferred_MaxBoxAcc"] is not None for row in rows)
    headings += ["MaxBoxAcc\ntransferred", "MaxBoxAccV2\ntransferred"] if moved else []
    known = any(row["published_MaxBoxAcc"] is not None for row in rows)
    headings += ["published\nMaxBoxAcc", "published\nMaxBoxAccV2"] if known else []
    return _drawn(headings, [_all_cells(row, moved, known) for row in rows], 2), rows


def _row(name: str, method: str, found: Mapping[str, Any], published: Mapping[str, Any]) -> Row:
    moved = found.get("transferred") or {}
    printed = published.get(method, (None, None))
    row: Row = {"model": name, "map": method, "threshold": found["threshold"]}
    for place, score in enumerate(SCORES):
        low, high = found[f"{score}_interval"]
        row |= {score: found[score], f"{score}_low": low, f"{score}_high": high}
        row |= {f"transferred_{score}": moved[score]["value"] if moved else None}
        row |= {f"published_{score}": printed[place]}
    return row | {"transferred_threshold": moved.get("threshold")}


def _all_cells(row: Row, moved: bool, known: bool) -> list[str]:
    def scored(score: str) -> str:
        return interval(row[score], (row[f"{score}_low"], row[f"{score}_high"]), ".1f")

    def number(key: str) -> str:
        return "" if row[key] is None else f"{row[key]:.1f}"

    cells = [row["model"], row["map"], scored(SCORES[0]), f"{row['threshold']:.3f}", scored(SCORES[1])]
    cells += [number(f"transferred_{score}") for score in SCORES] if moved else []
    return cells + ([number(f"published_{score}") for score in SCORES] if known else [])


def _drawn(headings: Sequence[str], cells: Sequence[Sequence[str]], words: int) -> Figure:
    """A table as a figure: rules between rows; the first columns, which are words, to the left."""
    figure = new_figure(0.6 + 1.15 * len(headings), 0.6 + 0.3 * (len(cells) + 1))
    axes = figure.subplots()
    axes.axis("off")
    table = axes.table(cells, colLabels=headings, loc="center", cellLoc="right", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    table.auto_set_column_width(list(range(len(headings))))
    table.scale(1, 1.35)
    for (row, column), cell in table.get_celld().items():
        if column < words:
            cell.set_text_props(ha="left")
        if row == 0:
            cell.set_height(1.8 * cell.get_height())
    return figure
