"""Results as tables that a person reads in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from heatbox._utils.progress import printable

if TYPE_CHECKING:
    from heatbox.data.catalogue import Entry
    from heatbox.models.zoo import ModelRow
    from heatbox.training.config import TrainConfig


def score_table(metrics: dict[str, Any], title: str) -> Table:
    """Methods and baselines: scores in percent under both threshold policies, 95% bootstrap intervals."""
    rows = metrics["methods"]
    transferred = any("transferred" in found for found in rows.values())
    localization = any("localization" in found for found in rows.values())
    headings = ["MaxBoxAcc oracle", "at", "MaxBoxAccV2 oracle"]
    headings += ["MaxBoxAcc transferred", "at", "MaxBoxAccV2 transferred"] if transferred else []
    headings += ["Top-1 loc", "Top-5 loc"] if localization else []
    table = _of_maps(metrics, title, "oracle: threshold best on these images", headings, "V2", transferred)
    for name, found in rows.items():
        cells = [_cell(found["MaxBoxAcc"], found["MaxBoxAcc_interval"]), f"{found['threshold']:.3f}"]
        cells.append(_cell(found["MaxBoxAccV2"], found["MaxBoxAccV2_interval"]))
        if transferred:
            other = found["transferred"]
            cells += [_cell(**other["MaxBoxAcc"]), f"{other['threshold']:.3f}", _cell(**other["MaxBoxAccV2"])]
        if localization:
            cells += [f"{found['localization'][place]:.2f}" for place in ("top1", "top5")]
        _add_map(table, metrics, name, cells, "MaxBoxAccV2")
    return table


def mask_table(metrics: dict[str, Any], title: str) -> Table:
    """Methods and baselines: PxAP in percent with 95% bootstrap intervals, and the best overlap of pixels."""
    rows = metrics["methods"]
    transferred = any("transferred" in found for found in rows.values())
    headings = ["PxAP", "pixel IoU oracle", "at"]
    headings += ["pixel IoU transferred", "at"] if transferred else []
    words = "pixel IoU over all pixels, oracle: at the threshold best for it"
    table = _of_maps(metrics, title, words, headings, "PxAP", transferred)
    for name, found in rows.items():
        cells = [_cell(found["PxAP"], found["PxAP_interval"])]
        cells += [f"{found['pixel_iou']:.2f}", f"{found['threshold']:.3f}"]
        if transferred:
            other = found["transferred"]
            cells += [f"{other['pixel_iou']:.2f}", f"{other['threshold']:.3f}"]
        _add_map(table, metrics, name, cells, "PxAP")
    return table


def _of_maps(
    metrics: dict[str, Any], title: str, words: str, headings: Sequence[str], compared: str, transferred: bool
) -> Table:
    """An empty table of maps, its caption telling what the numbers are."""
    caption = f"{metrics['images']} images"
    if "top1" in metrics:
        caption += f", classification top-1 {metrics['top1']:.1f}%, top-5 {metrics['top5']:.1f}%"
    caption += f"; [95% bootstrap interval]; {words}"
    if transferred:
        caption += "; transferred: best on the fully supervised split"
    table = Table(title=_text(title), caption=_text(caption))
    table.add_column("map", no_wrap=True)
    for heading in (*headings, f"{compared} minus centre"):
        table.add_column(heading, justify="right")
    return table


def _add_map(table: Table, metrics: dict[str, Any], name: str, cells: Sequence[str], compared: str) -> None:
    """The row of a map, its difference to the centre baseline last."""
    minus = metrics["methods"][name].get("minus_baseline")
    last = _cell(**minus[compared], form="+.2f") if minus else ""
    style = "dim" if name in metrics["baselines"] else ""
    table.add_row(_text(name), *map(_text, [*cells, last]), style=style)


def difference_lines(metrics: dict[str, Any]) -> list[str]:
    """Paired differences between maps of the same images, a line each."""
    return [
        f"{pair['first']} minus {pair['second']}: "
        + ", ".join(f"{n} {_cell(**pair[n], form='+.2f')}" for n in pair if n not in ("first", "second"))
        for pair in metrics["differences"]
    ]


def model_table(rows: Sequence[ModelRow]) -> Table:
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


def _text(words: str) -> Text:
    """Words as they are: rich would take square brackets in names for its markup."""
    return Text(printable(words))


def _cell(value: float, interval: Sequence[float], form: str = ".2f") -> str:
    low, high = (format(end, form.replace(".2f", ".1f")) for end in interval)
    return f"{value:{form}} [{low}, {high}]"


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
    """What the data sets are, and what to put where."""
    table = Table(caption="heatbox data check PATH tells whether it is all there", show_lines=True)
    for heading in ("data set", "what", "licence", "size", "published at", "put into one folder"):
        table.add_column(heading, overflow="fold")
    for e in entries:
        table.add_row(e.name, e.what, e.licence, e.size, e.where, e.layout)
    return table


def comparison_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Headline numbers of the instruments, a line a number and a column a network."""
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
        bias = _cell(100 * one["overall"], [100 * end for end in one["interval"]])
        table.add_row(_text(name), _text(bias), f"{one['decided']:,}", f"{one['images']:,}")
    return table


def training_table(found: Mapping[str, Any], title: str) -> Table:
    """The best checkpoint of each map, as the paper reports it, and the last one beside it."""
    caption = (
        "thresholds best on the scored images; the best checkpoint is chosen on them too, as the paper does, "
        "the last one is not"
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
    """What each recipe trains, from which weights, and the published scores."""
    caption = (
        "published: MaxBoxAcc / MaxBoxAccV2 on CUB-200-2011, thresholds best on the test images, best of the "
        "saved checkpoints; where none stands, the paper draws the model without its numbers"
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
    """The steps of a plan: what each makes of the paper, where it stands, its cost and what is missing."""
    bases = "; ".join(dict.fromkeys(one["basis"] for one in steps if one["seconds"]))
    table = Table(caption=_text(f"time: {bases}" if bases else ""))
    for heading in ("step", "makes", "state", "time", "missing"):
        table.add_column(heading, no_wrap=heading in ("state", "time"), overflow="fold")
    for one in steps:
        makes = ", ".join(made["paper"] or made["title"] for made in one["makes"])
        time = "" if one["seconds"] is None else _duration(one["seconds"])
        table.add_row(*map(_text, (one["step"], makes, one["state"], time, "; ".join(one["why"]))))
    return table


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
