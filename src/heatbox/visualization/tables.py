"""Tables of results: the columns of scores, shared by the terminal and the report, and terminal tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from heatbox._utils.progress import duration, printable

if TYPE_CHECKING:
    from heatbox.data.catalogue import Entry
    from heatbox.models.zoo import ModelInfo
    from heatbox.training.config import TrainConfig


@dataclass(frozen=True)
class Cell:
    """A formatted value of a score table, with the ends of its 95% interval where it has one."""

    value: str
    low: str = ""
    high: str = ""

    def __str__(self) -> str:
        return f"{self.value} [{self.low}, {self.high}]" if self.low else self.value


@dataclass(frozen=True)
class Column:
    """A column of a score table.

    Attributes:
        heading: of the column.
        cell: a map's entry in "methods" of metrics.json → what the column shows of it.
        requires: key of an entry; the column is shown where some map has it. "" shows it always.
    """

    heading: str
    cell: Callable[[Mapping[str, Any]], Cell]
    requires: str = ""


@dataclass(frozen=True)
class ScoreTable:
    """A score table as text, for the terminal and for the report.

    Attributes:
        headings: of the columns after the map's name.
        rows: name of the map or baseline, whether it is a baseline, and its cells.
        caption: what the numbers are.
    """

    headings: list[str]
    rows: list[tuple[str, bool, list[Cell]]]
    caption: str


def _number(*keys: str, digits: int = 2) -> Callable[[Mapping[str, Any]], Cell]:
    """A column's cell: the number under nested keys."""

    def cell(entry: Mapping[str, Any]) -> Cell:
        value: Any = entry
        for key in keys:
            value = value[key]
        return Cell(f"{value:.{digits}f}")

    return cell


def _score(name: str) -> Callable[[Mapping[str, Any]], Cell]:
    """A column's cell: an oracle score with its interval."""
    return lambda entry: _with_interval(entry[name], entry[f"{name}_interval"])


def _transferred(name: str) -> Callable[[Mapping[str, Any]], Cell]:
    """A column's cell: a score at the transferred threshold, with its interval."""
    return lambda entry: _with_interval(**entry["transferred"][name])


def _minus_baseline(name: str) -> Callable[[Mapping[str, Any]], Cell]:
    """A column's cell: the paired difference to the centre baseline; empty for the baseline itself."""
    return lambda entry: (
        _with_interval(**entry["minus_baseline"][name], sign="+") if entry.get("minus_baseline") else Cell("")
    )


def _with_interval(value: float, interval: Sequence[float], sign: str = "") -> Cell:
    low, high = interval
    return Cell(f"{value:{sign}.2f}", f"{low:{sign}.1f}", f"{high:{sign}.1f}")


BOX_COLUMNS = (
    Column("MaxBoxAcc oracle", _score("MaxBoxAcc")),
    Column("at", _number("threshold", digits=3)),
    Column("MaxBoxAccV2 oracle", _score("MaxBoxAccV2")),
    Column("MaxBoxAcc transferred", _transferred("MaxBoxAcc"), "transferred"),
    Column("at", _number("transferred", "threshold", digits=3), "transferred"),
    Column("MaxBoxAccV2 transferred", _transferred("MaxBoxAccV2"), "transferred"),
    Column("Top-1 loc", _number("localization", "top1"), "localization"),
    Column("Top-5 loc", _number("localization", "top5"), "localization"),
    Column("V2 minus centre-Gaussian", _minus_baseline("MaxBoxAccV2"), "minus_baseline"),
)
MASK_COLUMNS = (
    Column("PxAP", _score("PxAP")),
    Column("pixel IoU oracle", _number("pixel_iou")),
    Column("at", _number("threshold", digits=3)),
    Column("pixel IoU transferred", _number("transferred", "pixel_iou"), "transferred"),
    Column("at", _number("transferred", "threshold", digits=3), "transferred"),
    Column("PxAP minus centre-Gaussian", _minus_baseline("PxAP"), "minus_baseline"),
)


def score_table(metrics: Mapping[str, Any], milliseconds: Mapping[str, float] | None = None) -> ScoreTable:
    """The scores of maps and baselines against boxes or masks, as text.

    Args:
        metrics: content of metrics.json.
        milliseconds: map → time per image, for a last column; "forward" is the forward pass.
    """
    masks, times = metrics.get("truth") == "masks", milliseconds or {}
    methods = metrics["methods"]
    columns = [
        column
        for column in (MASK_COLUMNS if masks else BOX_COLUMNS)
        if not column.requires or any(column.requires in entry for entry in methods.values())
    ]
    rows = []
    for name, entry in methods.items():
        cells = [column.cell(entry) for column in columns]
        cells += [Cell(f"{times[name]:.2f}" if name in times else "")] if times else []
        rows.append((name, name in metrics["baselines"], cells))
    headings = [column.heading for column in columns] + (["ms per image"] if times else [])
    return ScoreTable(headings, rows, _caption(metrics, masks, times))


def _caption(metrics: Mapping[str, Any], masks: bool, times: Mapping[str, float]) -> str:
    text = f"Percent of {metrics['images']} images, with 95% bootstrap intervals."
    if "top1" in metrics:
        text += f" Classification: top-1 {metrics['top1']:.1f}%, top-5 {metrics['top5']:.1f}%."
    text += " Pixel IoU is computed over all pixels." if masks else ""
    text += " Oracle: threshold best on these images"
    transferred = any("transferred" in entry for entry in metrics["methods"].values())
    text += "; transferred: threshold best on the fully supervised split." if transferred else "."
    if "forward" in times:
        text += (
            " Milliseconds are the median over batches, in addition to a forward pass of "
            f"{times['forward']:.2f} ms per image."
        )
    return text + (" Baselines, which do not use the images, are in grey." if metrics["baselines"] else "")


def terminal_score_table(metrics: Mapping[str, Any], title: str) -> Table:
    """The score table for the terminal."""
    content = score_table(metrics)
    table = Table(title=_text(title), caption=_text(content.caption))
    table.add_column("map", no_wrap=True)
    for heading in content.headings:
        table.add_column(heading, justify="right")
    for name, baseline, cells in content.rows:
        table.add_row(_text(name), *(_text(str(cell)) for cell in cells), style="dim" if baseline else "")
    return table


def difference_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Paired differences between maps of the same images, one line each."""
    lines = []
    for pair in metrics["differences"]:
        names = [name for name in pair if name not in ("first", "second")]
        scores = ", ".join(f"{name} {_with_interval(**pair[name], sign='+')}" for name in names)
        lines.append(f"{pair['first']} minus {pair['second']}: {scores}")
    return lines


def model_table(rows: Sequence[ModelInfo]) -> Table:
    """Size and cost of each model, and the weights that fit it."""
    table = Table(caption="1000 classes; GMACs of one image, after re-parameterisation where there is one")
    for heading in ("model", "parameters", "GMACs at side", "mean / std", "weights that fit"):
        table.add_column(heading, no_wrap=heading == "model")
    for row in rows:
        costs = ", ".join(f"{macs / 1e9:.1f} at {side}" for side, macs in row.merged_macs.items())
        norm = (
            "0.5 / 0.5" if set(row.mean) == {0.5} else "ImageNet" if row.mean[0] == 0.485 else str(row.mean)
        )
        weights = ", ".join(name for name, _, _ in row.checkpoints)
        table.add_row(row.name, f"{row.params / 1e6:.1f} M", costs, norm, weights)
    return table


def _text(content: str) -> Text:
    """Text as it is: rich would interpret square brackets in names as markup."""
    return Text(printable(content))


def check_table(splits: Mapping[str, Mapping[str, int]], title: str) -> Table:
    """Images, labels and boxes of each split of a data set."""
    table = Table(title=_text(title))
    for heading in ("split", "images", "labels", "boxes", "images without box"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, counts in splits.items():
        table.add_row(
            _text(name), *(f"{counts[key]:,}" for key in ("images", "labels", "boxes", "without_boxes"))
        )
    return table


def catalogue_table(entries: Sequence[Entry]) -> Table:
    """The data sets, where they are published, and how to arrange their files."""
    table = Table(caption="heatbox data check PATH reports what is missing", show_lines=True)
    for heading in ("data set", "what", "licence", "size", "published at", "put into one folder"):
        table.add_column(heading, overflow="fold")
    for e in entries:
        table.add_row(e.name, e.what, e.licence, e.size, e.where, e.layout)
    return table


def comparison_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Headline numbers of the instruments: one row per number, one column per model."""
    table = Table(title=_text(title))
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_column(_text(row["model"]), justify="right")
    for key in dict.fromkeys(key for row in rows for key in row if key != "model"):
        values = [row.get(key) for row in rows]
        table.add_row(key.replace("_", " "), *("" if value is None else f"{value:.4g}" for value in values))
    return table


def bias_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Shape bias of observers, in percent with intervals."""
    table = Table(
        caption="[95% bootstrap interval over images]; images of agreeing shape and texture left out"
    )
    for heading in ("observer", "shape bias", "decided by shape or texture", "images"):
        table.add_column(heading, justify="left" if heading == "observer" else "right")
    for name, one in found.items():
        bias = str(_with_interval(100 * one["overall"], [100 * end for end in one["interval"]]))
        table.add_row(_text(name), _text(bias), f"{one['decided']:,}", f"{one['images']:,}")
    return table


def training_table(found: Mapping[str, Any], title: str) -> Table:
    """The best checkpoint of each map, as the paper reports it, and the last one."""
    caption = (
        "thresholds best on the scored images; the best checkpoint is chosen on the same images, as in the "
        "paper, the last one is not"
    )
    table = Table(title=_text(title), caption=_text(caption))
    for heading in ("map", "checkpoint", "epoch", "weights", "top-1", "MaxBoxAcc", "at", "MaxBoxAccV2"):
        table.add_column(heading, justify="left" if heading in ("map", "checkpoint", "weights") else "right")
    last = found["last"]
    for method, best in found["best"].items():
        rows = [("best", best)]
        rows += [
            (
                "last",
                {"epoch": last["epoch"], "weights": name, "top1": last[name]["top1"], **last[name][method]},
            )
            for name in ("weights", "ema")
            if name in last
        ]
        for which, row in rows:
            numbers = [f"{row['top1']:.2f}", f"{row['MaxBoxAcc']:.2f}", f"{row['threshold']:.3f}"]
            average = "average" if row["weights"] == "ema" else "trained"
            cells = [method, which, str(row["epoch"]), average, *numbers, f"{row['MaxBoxAccV2']:.2f}"]
            table.add_row(*map(_text, cells))
    return table


def recipe_table(rows: Sequence[tuple[TrainConfig, Mapping[str, tuple[float, float]]]]) -> Table:
    """The model of each recipe, its initial weights, and the published scores."""
    caption = (
        "published: MaxBoxAcc / MaxBoxAccV2 on CUB-200-2011, thresholds best on the test images, best of the "
        "saved checkpoints; empty where the paper shows the model without its numbers"
    )
    table = Table(caption=_text(caption))
    for heading in ("recipe", "model", "pixels", "from", "augmented", "published CAM", "published PC1"):
        table.add_column(heading, no_wrap=heading == "recipe")
    for config, scores in rows:
        cells = [config.recipe, config.model, str(config.size), config.pretrained]
        cells.append("yes" if config.auto else "")
        cells += [
            "{:.2f} / {:.2f}".format(*scores[name]) if name in scores else "" for name in ("cam", "pc1")
        ]
        table.add_row(*map(_text, cells))
    return table


def plan_table(steps: Sequence[Mapping[str, Any]]) -> Table:
    """The steps of a plan: the tables and figures each makes, its state, its cost and what is missing."""
    bases = "; ".join(dict.fromkeys(one["basis"] for one in steps if one["seconds"]))
    table = Table(caption=_text(f"time: {bases}" if bases else ""))
    for heading in ("step", "makes", "state", "time", "missing"):
        table.add_column(heading, no_wrap=heading in ("state", "time"), overflow="fold")
    for one in steps:
        makes = ", ".join(made["paper"] or made["title"] for made in one["makes"])
        time = "" if one["seconds"] is None else duration(one["seconds"])
        table.add_row(*map(_text, (one["step"], makes, one["state"], time, "; ".join(one["why"]))))
    return table
