"""What all figures share: colours distinct for colour-blind readers and in grey, axes, and saving."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heatbox._utils.extras import require
from heatbox._utils.io import write_atomically
from heatbox._utils.progress import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
Drawn = tuple["Figure", list[Row]]
"""A figure, and the numbers it shows as rows of a table."""

# Okabe and Ito's palette by decreasing contrast; every series has its own dash pattern and marker as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"
DENSITY = "viridis_r"
"""A colour map of evenly decreasing lightness: pale is low, also in grey."""


class LineStyle(NamedTuple):
    """Colour, dash pattern and marker of a series."""

    colour: str
    dash: Any
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of a line without markers."""
        return {"color": self.colour, "linestyle": self.dash}

    @property
    def point(self) -> dict[str, Any]:
        """Keyword arguments of markers without a line."""
        return {"color": self.colour, "marker": self.marker, "linestyle": "none"}


def line_style(index: int) -> LineStyle:
    """The style of the series number `index`; styles repeat after seven."""
    return LineStyle(*(cycle[index % len(cycle)] for cycle in (COLOURS, DASHES, MARKERS)))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, independent of pyplot's global state.

    Raises:
        InputError: matplotlib is not installed.
    """
    require("analysis", "a figure", "matplotlib")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(
    count: int, width: float, height: float, per_row: int = 3, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of a size in inches, at most `per_row` in a row."""
    columns = min(count, per_row)
    rows = -(-count // columns)
    figure = new_figure(width * columns, height * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def style_axes(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Title, axis labels and a pale grid; no frame at the top and the right."""
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plot_line(
    axes: Axes, x: Any, y: Any, style: LineStyle, label: str, every: Any, size: float = 4.5
) -> None:
    """Plot a curve of (N,) points; those that `every` selects, as matplotlib's markevery, get a marker."""
    marker = {"marker": style.marker, "markevery": every, "markersize": size}
    axes.plot(x, y, **style.line, **marker, linewidth=1.7, label=label)


def plot_interval(
    axes: Axes,
    value: float | None,
    ends: Sequence[float | None],
    y: float,
    style: LineStyle,
    alpha: float = 1.0,
    **point: Any,
) -> None:
    """Plot a marker at (value, y) with its horizontal interval of opacity `alpha`; nothing if it is unknown.

    Unknown numbers are None or NaN; `point` contains further keyword arguments of the marker.
    """
    if not is_known(value):
        return
    if all(is_known(end) for end in ends):
        line: dict[str, Any] = {"color": style.colour, "linewidth": 1.2, "alpha": alpha}
        axes.plot(np.array(ends), [y, y], **line, solid_capstyle="butt")
    axes.plot(np.array([value]), [y], **style.point, **point)


def annotate(axes: Axes, text: str, x: float, y: float, rise: float = 0) -> None:
    """Write a short text to the right of a point, `rise` points above it."""
    axes.annotate(text, (x, y), (6, rise), textcoords="offset points", fontsize=7.5, va="center")


def legend_outside(axes: Axes, **options: Any) -> None:
    """A legend to the right of the axes, where it covers no data."""
    axes.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), **options)


def add_colourbar(figure: Figure, image: Any, axes: Any, label: str, shrink: float = 0.75) -> None:
    """A labelled colour bar of an image, next to its axes."""
    bar = figure.colorbar(image, ax=axes, shrink=shrink)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def label_first(axes: Sequence[Axes]) -> None:
    """Keep the label of a shared y axis on the first panel only."""
    for one in axes[1:]:
        one.set_ylabel("")


MAX_TEXT, MAX_LABEL = 100, 36
"""Characters of a line of text in a figure, and of a tick label or legend entry; the rest is cut."""


def as_plain_text(figure: Figure) -> Figure:
    """The figure with all text taken literally and truncated.

    Names of models are user input, and matplotlib would parse ``$`` as the start of a formula.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(_truncated(text.get_text()))
    for legend in (axes.get_legend() for axes in figure.axes):
        for text in legend.get_texts() if legend is not None else ():
            text.set_text(_truncated(text.get_text(), MAX_LABEL))
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        formatter = axis.get_major_formatter()
        if isinstance(formatter, FuncFormatter):  # tick labels, which are generated again at each draw
            name = formatter.func
            formatter.func = lambda *at, name=name: _truncated(str(name(*at)), MAX_LABEL)
    return figure


def _truncated(text: str, length: int = MAX_TEXT) -> str:
    """Text without control characters, each line cut to `length` characters."""
    lines = printable(text).split("\n")
    return "\n".join(line if len(line) <= length else f"{line[: length - 1]}…" for line in lines)


def save_figure(drawn: Drawn, stem: Path) -> list[Path]:
    """Write STEM.png, STEM.svg and the numbers as STEM.parquet; returns the paths.

    Raises:
        InputError: the folder cannot be written to.
    """
    figure, rows = as_plain_text(drawn[0]), drawn[1]
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, table = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=160)
    pq.write_table(as_table(rows), table)
    contents = {"png": png.getvalue(), "svg": as_svg(figure, stem.name), "parquet": table.getvalue()}
    return [
        write_atomically(stem.with_name(f"{stem.name}.{kind}"), content) for kind, content in contents.items()
    ]


def as_svg(figure: Figure, salt: str) -> bytes:
    """A figure as SVG: text stays text, and the same figure and salt give the same bytes."""
    from matplotlib import rc_context

    stream = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        as_plain_text(figure).savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def rows_of(**columns: Any) -> list[Row]:
    """Rows of a table from its columns: sequences of one length, and values that all rows share."""
    count = max(np.size(column) for column in columns.values())
    full = [column if np.ndim(column) else [column] * count for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*full, strict=True)]


def as_table(rows: Sequence[Row]) -> pa.Table:
    """Rows as an Arrow table; missing values are null."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def format_interval(value: float, ends: Sequence[float | None], form: str = ".2f") -> str:
    """``0.31 [0.28, 0.34]``; without brackets where the interval is unknown."""
    if not all(is_known(end) for end in ends):
        return f"{value:{form}}"
    return f"{value:{form}} [{ends[0]:{form}}, {ends[1]:{form}}]"


def is_known(value: float | None) -> bool:
    """Whether a saved number is neither None nor NaN."""
    return value is not None and not math.isnan(value)
