"""What all figures share: colours told apart by colour-blind readers and in grey, and how they are saved."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
"""A figure, and the numbers it shows."""

# Okabe and Ito's palette in an order of falling contrast; every series has its own dash and mark as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
MARKS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"
Look = tuple[str, Any, str]
"""Colour, dash and mark of a curve."""
DENSITY = "viridis_r"
"""A scale whose lightness falls evenly: pale is little, also in grey."""


def style(index: int) -> dict[str, Any]:
    """Colour and dash of the series number `index`."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}


def look_of(index: int) -> Look:
    """Colour, dash and mark of the series number `index`."""
    places = index % len(COLOURS), index % len(DASHES), index % len(MARKS)
    return COLOURS[places[0]], DASHES[places[1]], MARKS[places[2]]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, without any state that other figures share.

    Raises:
        InputError: matplotlib is not installed.
    """
    require("analysis", "a figure", "matplotlib")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(
    count: int, width: float, height: float, most: int = 3, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of a size in inches, at most `most` in a row."""
    columns = min(count, most)
    rows = -(-count // columns)
    figure = new_figure(width * columns, height * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    axes = list(grid.ravel())
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def plain(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Labels, a pale grid, and no frame above and on the right."""
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for name in ("top", "right"):
        axes.spines[name].set_visible(False)


def line(axes: Axes, x: Any, y: Any, look: Look, label: str, every: Any, size: float = 4.5) -> None:
    """A curve with its mark at some of its points.

    Args:
        axes: to draw into.
        x, y: (N,) points.
        look: colour, dash and mark.
        label: for the legend.
        every: which points bear the mark, as matplotlib's markevery.
        size: of the mark.
    """
    colour, dash, mark = look
    ways: dict[str, Any] = {"color": colour, "linestyle": dash, "marker": mark, "markevery": every}
    axes.plot(x, y, **ways, markersize=size, linewidth=1.7, label=label)


def point(axes: Axes, x: float, y: float, index: int, **ways: Any) -> None:
    """The mark of the series number `index` at one point."""
    look: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "marker": MARKS[index % len(MARKS)]}
    axes.plot([x], [y], linestyle="none", **look, **ways)


def label_first(axes: Sequence[Axes]) -> None:
    """Panels in a row that share an axis say what it is once."""
    for one in axes[1:]:
        one.set_ylabel("")


LONGEST_WORDS, LONGEST_LABEL = 100, 36
"""Characters of a line of text in a figure, and of a name at a tick or in a legend; longer are shortened."""


def as_plain_text(figure: Figure) -> Figure:
    """The figure with every text as it is: no dollar sign begins a formula, and no name is endless.

    Names of models come from outside, and matplotlib would read ``$`` as the beginning of mathematics.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(_shown(text.get_text()))
    for legend in (axes.get_legend() for axes in figure.axes):
        for text in legend.get_texts() if legend is not None else ():
            text.set_text(_shown(text.get_text(), LONGEST_LABEL))
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        formatter = axis.get_major_formatter()
        if isinstance(formatter, FuncFormatter):  # names at ticks, which are made anew at each drawing
            formatter.func = partial(_label, formatter.func)
    return figure


def _label(name: Callable[..., str], value: float, place: int | None = None) -> str:
    return _shown(str(name(value, place)), LONGEST_LABEL)


def _shown(words: str, most: int = LONGEST_WORDS) -> str:
    """Words without control characters, each line of at most so many characters."""
    lines = printable(words).split("\n")
    return "\n".join(line if len(line) <= most else f"{line[: most - 1]}…" for line in lines)


def save_figure(drawn: Drawn, stem: Path) -> list[Path]:
    """Write STEM.png, STEM.svg and the numbers as STEM.parquet; returns the paths.

    Raises:
        InputError: the folder cannot be written to.
    """
    from matplotlib import rc_context

    figure, rows = as_plain_text(drawn[0]), drawn[1]
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    # Text stays text, and two runs give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": stem.name}):
        for kind, options in (("png", {"dpi": 160}), ("svg", {"metadata": {"Date": None}})):
            stream = io.BytesIO()
            figure.savefig(stream, format=kind, **options)
            written.append(write_atomically(stem.with_name(f"{stem.name}.{kind}"), stream.getvalue()))
    stream = io.BytesIO()
    pq.write_table(as_table(rows), stream)
    written.append(write_atomically(stem.with_name(f"{stem.name}.parquet"), stream.getvalue()))
    return written


def as_table(rows: Sequence[Row]) -> pa.Table:
    """Rows as an Arrow table; a column that a row lacks is null there."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def interval(value: float, ends: Sequence[float | None], form: str = ".2f") -> str:
    """``0.31 [0.28, 0.34]``; without brackets where the interval is not known."""
    if any(end is None or end != end for end in ends):
        return f"{value:{form}}"
    return f"{value:{form}} [{ends[0]:{form}}, {ends[1]:{form}}]"
