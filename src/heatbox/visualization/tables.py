"""Tables of results: the columns of scores, shared by the terminal and the report, and terminal tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
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
        key: of a number, or of a number with its interval, in a map's entry in "methods" of metrics.json.
        group: key under which an entry contains `key`, or several joined by "/"; "" where the entry itself
            does.
            The column is shown where some map has the key.
        digits: number of decimal places.
        sign: "+" to show the sign of positive numbers too.
    """

    heading: str
    key: str
    group: str = ""
    digits: int = 2
    sign: str = ""

    def cell(self, entry: Mapping[str, Any]) -> Cell:
        """What the column shows of a map; empty for the baseline's difference to itself."""
        found = entry
        for group in self.group.split("/") if self.group else ():
            found = found.get(group, {})
        if self.key not in found:
            return Cell("")
        value, interval = found[self.key], found.get(f"{self.key}_interval")
        if isinstance(value, Mapping):
            value, interval = value["value"], value["interval"]
        if interval is None:
            return Cell(f"{value:{self.sign}.{self.digits}f}")
        return _with_interval(value, interval, self.sign)


@dataclass(frozen=True)
class ScoreTable:
    """A score table as text, for the terminal and for the report.

    Attributes:
        headings: of the columns after the map's name.
        rows: name of the map or baseline, whether it is a baseline, and its cells.
        caption: what the numbers are.
        first: heading of the first column.
    """

    headings: list[str]
    rows: list[tuple[str, bool, list[Cell]]]
    caption: str
    first: str = "map"


def _with_interval(value: float, interval: Sequence[float], sign: str = "") -> Cell:
    low, high = interval
    return Cell(f"{value:{sign}.2f}", f"{low:{sign}.1f}", f"{high:{sign}.1f}")


BOX_COLUMNS = (
    Column("MaxBoxAcc oracle", "MaxBoxAcc"),
    Column("at", "threshold", digits=3),
    Column("MaxBoxAccV2 oracle", "MaxBoxAccV2"),
    Column("MaxBoxAcc transferred", "MaxBoxAcc", "transferred"),
    Column("at", "threshold", "transferred", digits=3),
    Column("MaxBoxAccV2 transferred", "MaxBoxAccV2", "transferred"),
    Column("MaxBoxAcc calibrated", "MaxBoxAcc", "calibrated"),
    Column("at", "threshold", "calibrated", digits=3),
    Column("MaxBoxAccV2 calibrated", "MaxBoxAccV2", "calibrated"),
    Column("MaxBoxAcc pseudo", "MaxBoxAcc", "pseudo"),
    Column("at", "threshold", "pseudo", digits=3),
    Column("minus oracle", "MaxBoxAcc", "pseudo/minus_oracle", sign="+"),
    Column("MaxBoxAccV2 pseudo", "MaxBoxAccV2", "pseudo"),
    Column("minus oracle", "MaxBoxAccV2", "pseudo/minus_oracle", sign="+"),
    Column("MaxBoxAcc fixed", "MaxBoxAcc", "fixed"),
    Column("at", "threshold", "fixed", digits=3),
    Column("Top-1 loc", "top1", "localization"),
    Column("Top-5 loc", "top5", "localization"),
    Column("V2 minus centre-Gaussian", "MaxBoxAccV2", "minus_baseline", sign="+"),
)
MASK_COLUMNS = (
    Column("PxAP", "PxAP"),
    Column("pixel IoU oracle", "pixel_iou"),
    Column("at", "threshold", digits=3),
    Column("pixel IoU transferred", "pixel_iou", "transferred"),
    Column("at", "threshold", "transferred", digits=3),
    Column("PxAP minus centre-Gaussian", "PxAP", "minus_baseline", sign="+"),
)


_PIXELS = "localization_scores"
LOCALIZATION_COLUMNS = (
    Column("pointing game", "pointing_game", _PIXELS),
    Column("within 15 px", "pointing_game_tolerant", _PIXELS),
    Column("energy", "energy_pointing_game", _PIXELS),
    Column("rank", "relevance_rank", _PIXELS),
    Column("top 1000", "top_k_intersection", _PIXELS),
    Column("AUC", "auc", _PIXELS),
    Column("mean IoU oracle", "iou", _PIXELS),
    Column("at", "threshold", f"{_PIXELS}/iou", digits=2),
    Column("mean IoU transferred", "iou_transferred", _PIXELS),
    Column("at half", "iou_half", _PIXELS),
    Column("Otsu", "iou_otsu", _PIXELS),
    Column("top fifth", "iou_quantile", _PIXELS),
    Column("MaxBoxAccV3 oracle", "max_box_acc_v3", _PIXELS),
    Column("MaxBoxAccV3 transferred", "max_box_acc_v3_transferred", _PIXELS),
    Column("CorLoc", "cor_loc", _PIXELS),
    Column("localization AP", "localization_ap", _PIXELS),
)
"""Scores of --metrics; a table of their own."""


def score_tables(
    metrics: Mapping[str, Any], milliseconds: Mapping[str, float] | None = None
) -> list[ScoreTable]:
    """Every table of scores in metrics.json: `score_table`, and of the scores of --metrics if there are any.

    Args:
        metrics: content of metrics.json.
        milliseconds: map → time per image, for a last column of the first table.
    """
    tables = [score_table(metrics, milliseconds)]
    methods, shown = metrics["methods"], []
    for column in LOCALIZATION_COLUMNS:
        if any(column.cell(entry).value for entry in methods.values()):
            shown.append(column)
    if shown:
        rows = [
            (name, name in metrics["baselines"], [column.cell(entry) for column in shown])
            for name, entry in methods.items()
        ]
        tables.append(ScoreTable([column.heading for column in shown], rows, _pixel_caption(metrics)))
    if groups := metrics.get("breakdown"):
        tables.append(_breakdown_table(groups))
    return tables


def _breakdown_table(groups: Sequence[Mapping[str, Any]]) -> ScoreTable:
    names = list(groups[0]["scores"])
    rows = []
    for one in groups:
        cells = [_with_interval(**one["scores"][name]) for name in names]
        rows.append((f"{one['by']}: {one['group']}", False, [Cell(f"{one['images']}"), *cells]))
    caption = (
        "MaxBoxAcc in percent by the size of the largest object in the image, its shape, the number of "
        "objects and the place of the largest; classes: those with the lowest scores. Each map at its best "
        "threshold for all images."
    )
    return ScoreTable(["images", *names], rows, caption, "images by")


def _pixel_caption(metrics: Mapping[str, Any]) -> str:
    scores = [entry.get(_PIXELS, {}) for entry in metrics["methods"].values()]
    missing = max((one.get("undefined", 0) for each in scores for one in each.values()), default=0)
    text = (
        f"Percent, means over {metrics['images']} images with 95% bootstrap intervals: of the largest "
        "value, the sum, and the order of the pixels of a map, and the IoU of its foreground with the object."
    )
    if missing:
        text += (
            f" {missing} images with nothing outside (or inside) the object are left out where it matters."
        )
    if any("cor_loc" in each for each in scores):
        text += " CorLoc: MaxBoxAcc averaged over classes."
    if any("localization_ap" in each for each in scores):
        text += " Localization AP: images ranked by the score of the class, all classes together."
    return text


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
        if not column.group or any(column.cell(entry).value for entry in methods.values())
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
    if left_out := metrics.get("left_out"):
        reasons = ", ".join(f"{count} ({reason})" for reason, count in left_out.items())
        text += f" Left out of {sum(left_out.values()) + metrics['images']}: {reasons}."
    text += " Pixel IoU is computed over all pixels." if masks else ""
    text += _head_words(metrics["foreground"]) if "foreground" in metrics else ""
    text += _network_words(metrics["networks"]) if "networks" in metrics else ""
    text += " Oracle: threshold best on these images"
    transferred = any("transferred" in entry for entry in metrics["methods"].values())
    text += "; transferred: threshold best on the fully supervised split." if transferred else "."
    if numbers := {one["calibrated"]["images"] for one in metrics["methods"].values() if "calibrated" in one}:
        text += (
            " Calibrated: threshold chosen on other images with boxes; fixed: the default threshold; both of "
            f"the {min(numbers)} images that took no part in the calibration."
        )
        text += "".join(
            _confidence_words(name, entry["calibrated"]["confidence"])
            for name, entry in metrics["methods"].items()
            if "confidence" in entry.get("calibrated", {})
        )
    if pseudo := metrics.get("pseudo_boxes"):
        text += _pseudo_words(pseudo, bool(numbers))
    if "forward" in times:
        text += (
            " Milliseconds are the median over batches, in addition to a forward pass of "
            f"{times['forward']:.2f} ms per image."
        )
    return text + (" Baselines, which do not use the images, are in grey." if metrics["baselines"] else "")


def _pseudo_words(pseudo: Mapping[str, Any], calibrated: bool) -> str:
    """How thresholds, and a map, were chosen without ground truth."""
    text = f" Pseudo: threshold best for the mean boxes of {pseudo['map']} on these images, no ground truth"
    if "MaxBoxAcc" in pseudo:
        text += f"; {pseudo['MaxBoxAcc']['value']:.1f}% of these boxes are right"
    text += "." if calibrated else "; fixed: the default threshold."
    if "chosen" in pseudo:
        values = sorted(pseudo["agreement"].items(), key=lambda item: -item[1])
        agreeing = ", ".join(f"{name} {value:.2f}" for name, value in values)
        text += f" Map chosen by its agreement with the others: {pseudo['chosen']} ({agreeing})."
    return text


def _confidence_words(name: str, found: Mapping[str, Any]) -> str:
    """How well the calibrated confidence and the outer boxes of a map hold on other images."""
    covered, (low, high) = found["coverage"]["value"], found["coverage"]["interval"]
    return (
        f" Confidence of {name}: AUROC {found['auroc']:.3f}, calibration error "
        f"{found['calibration_error']:.3f}, {found['confident_half']:.1f}% of the more confident half right; "
        f"{covered:.1f}% [{low:.1f}, {high:.1f}] of outer boxes contain the object, "
        f"{found['coverage_asked']:g}% were asked for."
    )


def _network_words(networks: Sequence[Mapping[str, Any]]) -> str:
    """Which networks were averaged, and on what their foreground heads were fitted."""
    names = ", ".join(one["name"] for one in networks)
    text = (
        f" Rows without the name of a network: the mean of the maps of {names}. Classification, in all rows: "
        "the mean of their scores."
    )
    heads = [_head_words(one["foreground"], f" of {one['name']}") for one in networks if "foreground" in one]
    return text + "".join(heads)


def _head_words(head: Mapping[str, Any], of: str = "") -> str:
    """Whether the foreground head was fitted on the scored images; `of` is the network, where several are."""
    number, scored, file = head["fitted_images"], head.get("scored_images"), head["file"]
    whose = of if file is None else f"{of} {file}"
    words = f" The foreground head{whose} was fitted to {head['seeds']} on {number} "
    if file is None:
        return words + "of these images (transductive)."
    if scored is None:
        return words + "images that it does not name."
    if scored:
        return words + f"images, {scored} of which have the names and sizes of these (transductive)."
    return words + "other images (inductive)."


def _table(
    headings: Sequence[str],
    rows: Iterable[Iterable[str]],
    left: Collection[str] | None = None,
    no_wrap: Collection[str] = (),
    overflow: Literal["fold", "ellipsis"] = "ellipsis",
    **options: Any,
) -> Table:
    """A table with the left-aligned columns `left` (None: all) and `options` of `rich.table.Table`."""
    table = Table(**options)
    for heading in headings:
        justify: Literal["left", "right"] = "left" if left is None or heading in left else "right"
        table.add_column(_text(heading), justify=justify, no_wrap=heading in no_wrap, overflow=overflow)
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def _text(content: str) -> Text:
    """Text as it is: rich would interpret square brackets in names as markup."""
    return Text(printable(content))


def terminal_score_tables(metrics: Mapping[str, Any], title: str, breakdown: bool = False) -> list[Table]:
    """The score tables for the terminal; the table of groups of images only if asked for."""
    tables = []
    contents = score_tables(metrics)
    for content in contents if breakdown else [one for one in contents if one.first == "map"]:
        rows = [[name, *map(str, cells)] for name, _, cells in content.rows]
        headings, caption = [content.first, *content.headings], _text(content.caption)
        table = _table(headings, rows, [content.first], [content.first], title=_text(title), caption=caption)
        for row, (_, baseline, _) in zip(table.rows, content.rows, strict=True):
            row.style = "dim" if baseline else ""
        tables.append(table)
    return tables


def difference_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Paired differences between maps of the same images, one line each."""
    lines = []
    for pair in metrics["differences"]:
        for group in (pair, pair.get(_PIXELS, {})):
            names = [name for name in group if name not in ("first", "second", _PIXELS)]
            ends = {name: (group[name]["value"], group[name]["interval"]) for name in names}
            scores = ", ".join(f"{name} {_with_interval(*ends[name], sign='+')}" for name in names)
            if names:
                lines.append(f"{pair['first']} minus {pair['second']}: {scores}")
    return lines


_FAITHFULNESS = {
    "deletion": "deletion ↓",
    "insertion": "insertion ↑",
    "average_drop": "average drop ↓",
    "average_increase": "increase ↑",
    "average_gain": "average gain ↑",
    "road_most": "ROAD most relevant first ↓",
    "road_least": "ROAD least relevant first ↑",
    "road": "ROAD combined ↑",
}


def faithfulness_table(found: Mapping[str, Any], title: str) -> Table:
    """Scores of faithfulness with intervals; see `heatbox.evaluation.faithfulness`."""
    columns = list(next(iter(found["methods"].values())))
    rows = [
        [name, *(str(_with_interval(**entry[column])) for column in columns)]
        for name, entry in found["methods"].items()
    ]
    caption = (
        f"Percent of the {found['score_function']} score of the class, means over {found['images']} images, "
        f"with 95% bootstrap intervals; {found['steps']} steps, fill {found['fill']}. ↑ higher is better, ↓ "
        "lower. Changed images are none that the network was trained on. Baselines do not use the images."
    )
    if left_out := found.get("left_out"):
        reasons = ", ".join(f"{count} ({reason})" for reason, count in left_out.items())
        caption += f" Left out: {reasons}."
    headings = ["map", *(_FAITHFULNESS[column] for column in columns)]
    table = _table(headings, rows, ["map"], ["map"], title=_text(title), caption=_text(caption))
    for row, name in zip(table.rows, found["methods"], strict=True):
        row.style = "dim" if name in found["baselines"] else ""
    return table


def model_table(rows: Sequence[ModelInfo]) -> Table:
    """Size and cost of each model, and the weights that fit it."""
    headings = ("model", "parameters", "GMACs at side", "mean / std", "weights that fit")
    cells = []
    for row in rows:
        costs = ", ".join(f"{macs / 1e9:.1f} at {side}" for side, macs in row.merged_macs.items())
        norm = (
            "0.5 / 0.5" if set(row.mean) == {0.5} else "ImageNet" if row.mean[0] == 0.485 else str(row.mean)
        )
        weights = ", ".join(name for name, _, _ in row.checkpoints)
        cells.append([row.name, f"{row.params / 1e6:.1f} M", costs, norm, weights])
    caption = "1000 classes; GMACs of one image, after re-parameterisation where there is one"
    return _table(headings, cells, no_wrap=["model"], caption=caption)


def check_table(splits: Mapping[str, Mapping[str, int]], title: str) -> Table:
    """Images, labels and boxes of each split of a data set."""
    keys = ("images", "labels", "boxes", "without_boxes")
    rows = [[name, *(f"{counts[key]:,}" for key in keys)] for name, counts in splits.items()]
    headings = ("split", "images", "labels", "boxes", "images without box")
    return _table(headings, rows, ["split"], title=_text(title))


_MOST_CLASSES = 20


def label_table(summary: Mapping[str, Any], title: str) -> Table:
    """Images, boxes and their mean confidence for each class that was labelled; see summary.json."""
    classes = sorted(summary["classes"], key=lambda one: (-one["images"], one["name"]))
    rows = [[one["name"], *_label_cells(one)] for one in classes[:_MOST_CLASSES]]
    if len(classes) > _MOST_CLASSES:
        rows.append([f"... {len(classes) - _MOST_CLASSES} more classes", "", "", "", ""])
    total = {**summary, "confidence": summary["mean_confidence"]}
    rows.append([f"all {len(classes)} classes", *_label_cells(total)])
    reasons = [f"{count:,} images: {reason}" for reason, count in summary["left_out"]["counts"].items()]
    caption = f"left out: {'; '.join(reasons)}" if reasons else "no image was left out"
    headings = ("class", "images", "boxes", "images without box", "mean confidence")
    return _table(headings, rows, ["class"], title=_text(title), caption=caption)


def _label_cells(one: Mapping[str, Any]) -> list[str]:
    confidence = "" if one["confidence"] is None else f"{one['confidence']:.2f}"
    return [*(f"{one[key]:,}" for key in ("images", "boxes", "images_without_boxes")), confidence]


def catalogue_table(entries: Sequence[Entry]) -> Table:
    """The data sets, where they are published, and how to arrange their files."""
    headings = ("data set", "what", "licence", "size", "published at", "put into one folder")
    rows = [(e.name, e.what, e.licence, e.size, e.where, e.layout) for e in entries]
    caption = "heatbox data check PATH reports what is missing"
    return _table(headings, rows, overflow="fold", caption=caption, show_lines=True)


def comparison_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Headline numbers of the instruments: one row per number, one column per model."""
    cells = []
    for key in dict.fromkeys(key for row in rows for key in row if key != "model"):
        values = [row.get(key) for row in rows]
        cells.append([key.replace("_", " "), *("" if value is None else f"{value:.4g}" for value in values)])
    return _table(["", *(row["model"] for row in rows)], cells, [""], [""], title=_text(title))


def bias_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Shape bias of observers, in percent with intervals."""
    rows = []
    for name, one in found.items():
        bias = _with_interval(100 * one["overall"], [100 * end for end in one["interval"]])
        rows.append([name, str(bias), f"{one['decided']:,}", f"{one['images']:,}"])
    headings = ("observer", "shape bias", "decided by shape or texture", "images")
    caption = "[95% bootstrap interval over images]; images of agreeing shape and texture left out"
    return _table(headings, rows, ["observer"], caption=caption)


def training_table(found: Mapping[str, Any], title: str) -> Table:
    """The best checkpoint of each map, as the paper reports it, and the last one."""
    caption = (
        "thresholds best on the scored images; the best checkpoint is chosen on the same images, as in the "
        "paper, the last one is not"
    )
    for name, counts in found.get("left_out", {}).items():
        reasons = ", ".join(f"{count} ({reason})" for reason, count in counts.items())
        caption += f". Left out of {name}: {reasons}"
    last, cells = found["last"], []
    for method, best in found["best"].items():
        rows = [("best", best)]
        for name in ("weights", "ema"):
            if name in last:
                shared = {"epoch": last["epoch"], "weights": name, "top1": last[name]["top1"]}
                rows.append(("last", shared | last[name][method]))
        for which, row in rows:
            numbers = [f"{row['top1']:.2f}", f"{row['MaxBoxAcc']:.2f}", f"{row['threshold']:.3f}"]
            average = "average" if row["weights"] == "ema" else "trained"
            cells.append([method, which, str(row["epoch"]), average, *numbers, f"{row['MaxBoxAccV2']:.2f}"])
    headings = ("map", "checkpoint", "epoch", "weights", "top-1", "MaxBoxAcc", "at", "MaxBoxAccV2")
    texts = ("map", "checkpoint", "weights")
    return _table(headings, cells, texts, title=_text(title), caption=_text(caption))


def accuracy_table(found: Mapping[str, Any], title: str) -> Table:
    """Accuracy of a fine-tuned classifier: of all images, and of each class."""
    single = found["scores"] == "softmax"
    second = "accuracy" if single else "AP"
    whole = found["top1"] if single else found["mAP"]
    rows = [["all", found["images"]["train"], found["images"]["measured"], _number(whole), ""]]
    rows.append(["balanced", "", "", _number(found["balanced"]), ""])
    for one in found["classes"]:
        numbers = [_number(one[second]), _number(one["precision"])]
        rows.append([one["name"], one["train"], one["images"], *numbers])
    measured = "held-out images" if found["measured_on"] == "held-out" else found["measured_on"]
    chosen = f"last layer fitted with weight decay {found['weight_decay']:g}"
    if "epochs" in found:
        chosen += f", best of {found['epochs']} epochs of the whole network: {found['epoch']}"
    caption = f"percent of {measured}, on which was chosen: {chosen}"
    headings = (
        "class",
        "trained on",
        "measured on",
        "accuracy" if single else "average precision",
        "precision",
    )
    cells = [[str(cell) for cell in row] for row in rows]
    return _table(headings, cells, ["class"], title=_text(title), caption=_text(caption))


MOST_CLASSES = 12
"""Classes up to which a confusion matrix is printed whole."""
_MOST_PAIRS = 10


def confusion_table(found: Mapping[str, Any]) -> Table | None:
    """What the images of each class are taken for: the matrix, or of many classes the most frequent errors.

    None where nothing was measured, or there is no error to list; of several labels an image, the errors of
    each class.
    """
    names, matrix = [one["name"] for one in found["classes"]], np.asarray(found["confusion"])
    if not matrix.sum():
        return None
    if matrix.ndim == 3:
        rows = [
            [name, *map(str, (right, missed, wrong))]
            for name, ((_, wrong), (missed, right)) in zip(names, matrix.tolist(), strict=True)
        ]
        headings = ("class", "found", "missed", "found wrongly")
        return _table(headings, rows, ["class"], title=_text("images at a score of 0.5"))
    if len(names) <= MOST_CLASSES:
        rows = [[name, *map(str, row)] for name, row in zip(names, matrix.tolist(), strict=True)]
        return _table(
            ["class", *names],
            rows,
            ["class"],
            title=_text("images of each class, by what they are taken for"),
        )
    errors = matrix - np.diag(matrix.diagonal())
    pairs = [
        divmod(int(cell), len(names)) for cell in np.argsort(-errors, axis=None, kind="stable")[:_MOST_PAIRS]
    ]
    rows = [[names[i], names[j], str(errors[i, j]), str(matrix[i].sum())] for i, j in pairs if errors[i, j]]
    headings = ("class", "taken for", "images", "of")
    return (
        _table(headings, rows, ["class", "taken for"], title=_text("most frequent errors")) if rows else None
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def recipe_table(rows: Sequence[tuple[TrainConfig, Mapping[str, tuple[float, float]]]]) -> Table:
    """The model of each recipe, its initial weights, and the published scores."""
    caption = (
        "published: MaxBoxAcc / MaxBoxAccV2 on CUB-200-2011, thresholds best on the test images, best of the "
        "saved checkpoints; empty where the paper shows the model without its numbers"
    )
    cells = []
    for config, scores in rows:
        published = [
            "{:.2f} / {:.2f}".format(*scores[name]) if name in scores else "" for name in ("cam", "pc1")
        ]
        augmented = "yes" if config.auto else ""
        model = [config.recipe, config.model, str(config.size), config.pretrained, augmented]
        cells.append(model + published)
    headings = ("recipe", "model", "pixels", "from", "augmented", "published CAM", "published PC1")
    return _table(headings, cells, no_wrap=["recipe"], caption=_text(caption))


def plan_table(steps: Sequence[Mapping[str, Any]]) -> Table:
    """The steps of a plan: the tables and figures each makes, its state, its cost and what is missing."""
    bases = "; ".join(dict.fromkeys(one["basis"] for one in steps if one["seconds"]))
    rows = []
    for one in steps:
        makes = ", ".join(made["paper"] or made["title"] for made in one["makes"])
        time = "" if one["seconds"] is None else duration(one["seconds"])
        rows.append([one["step"], makes, one["state"], time, "; ".join(one["why"])])
    headings = ("step", "makes", "state", "time", "missing")
    caption = _text(f"time: {bases}" if bases else "")
    return _table(headings, rows, no_wrap=["state", "time"], overflow="fold", caption=caption)
