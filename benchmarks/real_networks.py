"""Every instrument on several networks, beside their localization; and why PC1 scores as it does.

With the networks' --model, --checkpoint and --label as MODELS, one of them with the name LABEL as MODEL, a
folder OUT, and this file as F:

    heatbox analyze erf MODELS --data ILSVRC --erf-grid 0 --erf-size 224 --out OUT/erf224
    heatbox analyze shape-bias MODELS --stimuli cue-conflict --group none --out OUT/shape
    heatbox analyze complexity MODELS --data ILSVRC --out OUT/features
    heatbox evaluate MODEL --data ILSVRC --method cam pc1 F:raw F:linear ... --out OUT/maps/LABEL
    heatbox evaluate MODEL --data ILSVRC --method cam walk --out OUT/walk/LABEL

also with erf512 and erf1024, and `activation` and `signed-cam` into OUT/features. Then

    python benchmarks/real_networks.py OUT LABEL [LABEL ...]

prints the tables of docs/real-networks.md from the run folders; what is missing is left empty. The functions
of this file are maps: PC1 of other features of timm's EfficientNet and MobileNet.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from heatbox.boxes.ops import REFERENCE_FRAME, REFERENCE_SIDE, scaled_truth
from heatbox.evaluation.run import Run
from heatbox.evaluation.score import score_stream
from heatbox.evaluation.summary import EVERY, LARGEST, SplitScore, summarise
from heatbox.maps.baselines import CENTRE, centre_gaussian
from heatbox.maps.normalize import normalize_heatmap
from heatbox.maps.pc1 import pc1
from heatbox.metrics.bootstrap import bootstrap_interval, paired_interval
from heatbox.models.introspect import ClassifierView

# --------------------------------------------------------------------------------------------- map functions


class Features:
    """Feature maps of the latest images, kept from the pass that evaluate runs, or from one of its own."""

    view: ClassifierView | None = None

    def of(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        if self.view is None:
            self.kept: dict[str, Tensor] = {}
            self.view = ClassifierView(model)
            # MobileNetV1 has no convolution after its blocks.
            last = (model.bn2 if isinstance(model.conv_head, nn.Conv2d) else model.blocks[-1][-1].bn2).act
            model.register_forward_pre_hook(lambda _, args: self.kept.update(images=args[0]))
            last.register_forward_pre_hook(lambda _, args: self.kept.update(linear=args[0].clone()))
            last.register_forward_hook(lambda *args: self.kept.update(last=args[-1]))
            model.blocks[-1].register_forward_hook(lambda *args: self.kept.update(block=args[-1].clone()))
        if self.kept.get("images") is not images:
            self.view(images)
        return self.kept


_features = Features()
features_of = _features.of


def raw(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """PC1 of channels that are not scaled to [0, 1]."""
    return pc1(features_of(model, images)["last"], channel_norm=None)


def linear(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """PC1 of the last feature map before its activation (ReLU6)."""
    return pc1(features_of(model, images)["linear"])


def linear_raw(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """PC1 before the activation, channels not scaled."""
    return pc1(features_of(model, images)["linear"], channel_norm=None)


def block_raw(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """PC1 of the last block's output, channels not scaled."""
    return pc1(features_of(model, images)["block"], channel_norm=None)


def unit(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """PC1 of features scaled to unit length at each position, channels not scaled."""
    last = features_of(model, images)["last"]
    return pc1(last / last.norm(dim=1, keepdim=True).clamp_min(1e-12), channel_norm=None)


def weighted(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """PC1 of channels times their weight for the class, not scaled."""
    last = features_of(model, images)["last"]
    weights = _features.view.class_weights(last, targets)[0]
    return pc1(last * weights[..., None, None], channel_norm=None)


def mean(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Mean of the channels, which a PCA over channels subtracts."""
    return features_of(model, images)["last"].mean(1)


# ----------------------------------------------------------------------------------------------- run folders


def metrics(*path: Any, name: str = "metrics.json") -> dict[str, Any]:
    file = Path(*map(str, path)) / name
    return json.loads(file.read_text()) if file.exists() else {}


def at(found: Any, *keys: str) -> Any:
    """A value in nested dictionaries; None where there is none."""
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def number(value: Any, digits: int = 1, interval: Sequence[float] | None = None, sign: str = "") -> str:
    if value is None:
        return ""
    if interval is None:
        return f"{value:{sign}.{digits}f}"
    return f"{value:{sign}.{digits}f} [{interval[0]:{sign}.{digits}f}, {interval[1]:{sign}.{digits}f}]"


def measured(out: Path, label: str, maps: Maps | None) -> dict[str, tuple[str, float | None]]:
    """Row name → cell and the number by which networks are ranked."""
    rows: dict[str, tuple[str, float | None]] = {}

    def row(name: str, found: Any, *keys: str, digits: int = 1, ends: str = "", times: float = 1) -> None:
        value = at(found, *keys)
        value = None if value is None else value * times
        interval = at(found, *keys[:-1], ends) if ends else None
        interval = None if interval is None else [end * times for end in interval]
        rows[name] = number(value, digits, interval), value

    def one(topic: str, name: str) -> dict[str, Any]:
        return metrics(out, topic, "models", label, name)

    methods = dict(metrics(out, "walk", label).get("methods", {}))
    if maps is not None:
        right = [one["logits"].argmax() == one["label"] for one in maps.records]
        row("images", {"images": len(right)}, "images", digits=0)
        row("top-1", {"top-1": 100 * np.mean(right)}, "top-1")
        methods |= {name: summarise(maps.score(maps.low(name))) for name in ("cam", "pc1")}
        centre = np.broadcast_to(centre_gaussian(), (len(right), REFERENCE_SIDE, REFERENCE_SIDE))
        methods[CENTRE] = summarise(maps.score(centre))
    for name, key in itertools.product(("cam", "pc1", "walk", CENTRE), (LARGEST, EVERY)):
        row(f"{name} {key}", methods.get(name), key, ends=f"{key}_interval")
    for name in ("cam", "pc1"):
        row(f"best threshold of {name}", methods.get(name), "threshold", digits=2)
    for size in (224, 512, 1024):
        found = one(f"erf{size}", "erf")
        for scale in ("linear", "log"):
            row(f"ERF at {size}, area under r(t), {scale}", found, scale, "auc", digits=3)
        row(f"ERF at {size}, Gaussian radius in pixels", found, "gaussian", "sigma")
    row("shape bias", one("shape", "shape-bias"), "overall", ends="interval", times=100)
    channels = one("features", "channels")
    row("activation area above the 90th percentile", channels, "mean_area_percentile", digits=3)
    for name, words in (("area_percentile", "area"), ("gap", "spatial mean")):
        row(f"rank r of {words} and class weight", channels, name, "correlation", "spearman",
            digits=3, ends="spearman_interval")  # fmt: skip
    row("the same of the spatial mean, random head", channels, "control", "random", "correlation", "spearman",
        digits=3, ends="spearman_interval")  # fmt: skip
    complexity = one("features", "complexity")
    row("variance in PC1, 7 x 7", complexity, "grid", "first", digits=3)
    row("components for 90%, 7 x 7", complexity, "grid", "components_for_90")
    for place, atoms in ((0, 4), (-1, 64)):
        error, ends = (at(complexity, "reconstruction", key) for key in ("error", "interval"))
        value = None if error is None else error[place]
        rows[f"energy left by {atoms} atoms"] = number(value, 3, ends and ends[place]), value
    folder = "features", "models", label, "maps"
    signed = {**metrics(out, *folder, name="instruments.json"), "scores": metrics(out, *folder)}
    for name in ("cam", "cam-positive", "cam-negative"):
        row(f"{name} {EVERY}, same images", at(signed, "scores", "methods", name), EVERY)
    row("area of CAM / of its positive part", signed, "areas", "ratio", digits=3, ends="ratio_interval")
    return rows


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Spearman's r and its exact two-sided p, over all orders of the networks."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (x, y)]
    found = np.corrcoef(*ranks)[0, 1]
    every = [np.corrcoef(ranks[0], order)[0, 1] for order in itertools.permutations(ranks[1])]
    return float(found), float(np.mean(np.abs(every) >= abs(found) - 1e-9))


# ----------------------------------------------------------------------------------------------- why PC1 ...


class Maps:
    """Saved maps of one network, of the images that all networks have."""

    def __init__(self, folder: Path, images: set[str]) -> None:
        self.records = [one for batch in Run(folder).records() for one in batch if one["id"] in images]
        self.names = [key.removeprefix("map_") for key in self.records[0] if key.startswith("map_")]
        self.ids = [record["id"] for record in self.records]
        sizes = [(record["width"], record["height"]) for record in self.records]
        self.inside = np.stack(
            [
                box_mask(scaled_truth(one["boxes"], size, REFERENCE_FRAME, "reference"))
                for one, size in zip(self.records, sizes, strict=True)
            ]
        )

    def low(self, name: str) -> np.ndarray:
        return np.stack([record[f"map_{name}"] for record in self.records])

    def score(self, maps: np.ndarray) -> SplitScore:
        heatmaps = normalize_heatmap(maps)
        pairs = zip(self.records, heatmaps, strict=True)
        items = ((r["id"], one, r["boxes"], (r["width"], r["height"])) for r, one in pairs)
        return score_stream(items, keep=True)

    def upside_down(self, maps: np.ndarray) -> np.ndarray:
        """(N,) whether the mean of a map inside the boxes is lower than outside."""
        heatmaps, inside = normalize_heatmap(maps), self.inside
        within = (heatmaps * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)
        without = (heatmaps * ~inside).sum((1, 2)) / np.maximum((~inside).sum((1, 2)), 1)
        return within < without


def box_mask(boxes: np.ndarray) -> np.ndarray:
    mask = np.zeros((REFERENCE_SIDE, REFERENCE_SIDE), bool)
    for x1, y1, x2, y2 in np.asarray(boxes).round().astype(int):
        mask[y1 : y2 + 1, x1 : x2 + 1] = True
    return mask


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) correlation over positions of two maps of each image."""
    flat = [maps.reshape(len(maps), -1) for maps in (first, second)]
    flat = [maps - maps.mean(1, keepdims=True) for maps in flat]
    flat = [maps / np.maximum(np.linalg.norm(maps, axis=1, keepdims=True), 1e-12) for maps in flat]
    return (flat[0] * flat[1]).sum(1)


def share(values: np.ndarray) -> str:
    found = bootstrap_interval(values)
    return number(found.estimate, 1, (found.low, found.high))


def minus(first: np.ndarray, second: np.ndarray) -> str:
    found = paired_interval(first, second)
    return number(found.estimate, 1, (found.low, found.high), "+")


def why(out: Path, label: str, maps: Maps) -> Iterator[tuple[str, str]]:
    """Rows of the table of PC1: name and cell."""
    found = {name: maps.score(maps.low(name)) for name in maps.names}
    base, cam = found["pc1"], found["cam"]
    axis = maps.low("pc1")
    wrong = maps.upside_down(axis)
    yield "CAM, PC1", ", ".join(number(summarise(one)[EVERY]) for one in (cam, base))
    yield "PC1 minus CAM", minus(base.at_best(EVERY), cam.at_best(EVERY))
    yield "PC1 is lower inside the boxes than outside, % of images", share(wrong)
    yield "the same of CAM", share(maps.upside_down(maps.low("cam")))
    turned = np.where(wrong[:, None, None], 1 - axis, axis)
    yield "PC1 with the better sign, minus PC1", minus(maps.score(turned).at_best(EVERY), base.at_best(EVERY))
    both = np.abs(correlation(axis, maps.low("cam")))
    yield "correlation of PC1 and CAM, mean of |r|", number(both.mean(), 2)
    for name in ("cam", "pc1"):
        half = (normalize_heatmap(maps.low(name)) > 0.5).mean((1, 2))
        yield f"{name}: fraction of the image above half the maximum", number(half.mean(), 2)
    yield "fraction of the image inside the boxes", number(maps.inside.mean(), 2)
    for name in maps.names:
        if name not in ("cam", "pc1"):
            one = found[name]
            score = f"{number(summarise(one)[EVERY])}, {minus(one.at_best(EVERY), base.at_best(EVERY))}"
            yield f"{name.rpartition(':')[2]}, minus PC1", score
            yield f"{name.rpartition(':')[2]}, minus CAM", minus(one.at_best(EVERY), cam.at_best(EVERY))
            yield (
                f"{name.rpartition(':')[2]}, lower inside the boxes, %",
                share(maps.upside_down(maps.low(name))),
            )
    explained = Run(out / "features" / "models" / label / "complexity")
    first = {r["id"]: r["explained"][0] for batch in explained.records() for r in batch}
    known = np.array([k for k, one in enumerate(maps.ids) if one in first])
    order = known[np.argsort([first[maps.ids[k]] for k in known])]
    for words, part in zip(("least", "middle", "most"), np.array_split(order, 3), strict=True):
        variance = np.mean([first[maps.ids[k]] for k in part])
        apart = minus(base.at_best(EVERY)[part], cam.at_best(EVERY)[part])
        yield f"PC1 minus CAM, third with the {words} variance in PC1", f"{apart} (variance {variance:.2f})"
    area = maps.inside.mean((1, 2))
    for words, part in zip(("small", "middle", "large"), np.array_split(np.argsort(area), 3), strict=True):
        yield f"PC1 minus CAM, {words} objects", minus(base.at_best(EVERY)[part], cam.at_best(EVERY)[part])


# ---------------------------------------------------------------------------------------------------- tables


def print_table(labels: Sequence[str], columns: Sequence[dict[str, str]]) -> None:
    print(f"\n| | {' | '.join(labels)} |\n|---{'|---' * len(labels)}|")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(column.get(name, '') for column in columns)} |")


def print_correlations(columns: Sequence[dict[str, tuple[str, float | None]]]) -> None:
    scores = [f"{name} {EVERY}" for name in ("cam", "pc1", "walk")]
    print(f"\n| rank r over {len(columns)} networks (exact p) | {' | '.join(scores)} |\n|---|---|---|---|")
    for name in columns[0]:
        cells = []
        for score in scores:
            x, y = ([column[key][1] for column in columns] for key in (name, score))
            known = None not in (*x, *y) and len({*x}) == len(x) and len({*y}) == len(y)
            cells.append("{:+.1f} ({:.2f})".format(*rank_correlation(x, y)) if known else "")
        if any(cells) and not name.startswith(("cam", "pc1", "walk", CENTRE)):
            print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("label", nargs="+")
    args = parser.parse_args()
    folders = {label: args.out / "maps" / label for label in args.label}
    done = {label: folder for label, folder in folders.items() if len(Run(folder))}
    ids = [{one["id"] for batch in Run(folder).records() for one in batch} for folder in done.values()]
    maps = {label: Maps(folder, set.intersection(*ids)) for label, folder in done.items()}
    columns = [measured(args.out, label, maps.get(label)) for label in args.label]
    print_table(args.label, [{name: cell for name, (cell, _) in column.items()} for column in columns])
    if len(columns) > 2:
        print_correlations(columns)
    if maps:
        print_table([*maps], [dict(why(args.out, label, one)) for label, one in maps.items()])


if __name__ == "__main__":
    main()
