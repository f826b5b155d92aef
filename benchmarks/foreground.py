"""Foreground heads on a data set with boxes: fitted on one half and scored on the other, and on all images.

    python benchmarks/foreground.py DATA --model NAME --checkpoint FILE [--model ...] [--cache FOLDER]

DATA is a data set with labels and boxes. Halves are drawn by a hash of the image's id. No box takes part in a
fit, and of the labels only those that the seed's class map is of. Printed are, for each network and for all
together, MaxBoxAcc / MaxBoxAccV2 of each map

  oracle       at the best thresholds of the scored images
  transferred  at the thresholds that are best on the other half

and the difference to the walk, paired, at the oracle thresholds, with its 95% interval. `--half A` scores one
half only: choices are made on A and confirmed once on B.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from heatbox.boxes.contours import threshold_grid
from heatbox.config import EvaluateConfig
from heatbox.data.open import open_split
from heatbox.data.types import Split
from heatbox.maps.foreground import (
    average_maps,
    collection_features,
    fit_foreground,
    foreground,
    foreground_walk,
)
from heatbox.maps.normalize import normalize_heatmap
from heatbox.maps.random_walk import on_grid, random_walk
from heatbox.maps.registry import ENLARGED
from heatbox.metrics.bootstrap import paired_interval
from heatbox.metrics.functional import V2_IOU, box_counts
from heatbox.models.introspect import ClassifierView

THRESHOLDS = threshold_grid(1000)
BATCH = 12
Features = dict[str, Tensor]
"""Of all images: "features" (N, C, g, g) float16 that a head reads, "middle0", "middle1" that a walk reads,
on the same grid, and the "seed" (N, g, g)."""


@torch.no_grad()
def extract(model: str, checkpoint: str, split: Split, bfloat16: bool) -> Features:
    """What the maps are made from: two passes of the network over all images."""
    config = EvaluateConfig(model=model, checkpoint=checkpoint, data="")
    network = config.build()
    view, preprocess = ClassifierView(network), config.preprocess(network)
    _ = view.stages  # found in float32
    network.to(memory_format=torch.channels_last)
    found: dict[str, list[Tensor]] = {}
    for first in range(0, len(split), BATCH):
        examples = split.examples[first : first + BATCH]
        images = [split.open_image(example) for example in examples]
        labels = torch.tensor([example.label for example in examples])
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            small, large = (
                view.extract(torch.stack([one(image) for image in images]))
                for one in (preprocess, preprocess.enlarged(ENLARGED))
            )
        grid = (large.features.shape[2], large.features.shape[3])
        features = collection_features([*small.middle, large.middle[-1], large.features], grid)
        parts = {
            "features": features.clamp(-65504, 65504).half(),
            **{f"middle{k}": on_grid(one.float(), grid).half() for k, one in enumerate(small.middle)},
            "seed": view.contributions(large.features.float(), labels, "fold").maps,
        }
        for name, part in parts.items():
            found.setdefault(name, []).append(part.clone())
        print(f"\r{model}: {first + len(examples)} of {len(split)} images", end="", file=sys.stderr)
    print(file=sys.stderr)
    return {name: torch.cat(parts) for name, parts in found.items()}


def cached(folder: Path | None, name: str, compute) -> Features:  # type: ignore[no-untyped-def]
    if folder is None:
        return compute()
    path = folder / f"{name}.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(compute(), path)
    return torch.load(path, mmap=True, weights_only=True)


def walks(found: Features) -> Tensor:
    parts = range(0, len(found["seed"]), BATCH)
    return torch.cat(
        [
            random_walk(found["seed"][i : i + BATCH], [found[f"middle{k}"][i : i + BATCH] for k in (0, 1)])
            for i in parts
        ]
    )


def head_maps(
    found: Features, walk: Tensor, fit: np.ndarray, new: np.ndarray, seed: int
) -> dict[str, Tensor]:
    """Maps of the images `new`, of a head fitted on the images `fit`."""
    begin = time.process_time()
    head = fit_foreground(found["features"][fit], walk[fit], seed=seed)
    print(f"fit on {len(fit)} images: {time.process_time() - begin:.0f} s of processor time", file=sys.stderr)
    parts = torch.as_tensor(new).split(BATCH)
    components = torch.cat([head.projection(found["features"][part]) for part in parts])
    alone = foreground(head, components, projected=True)
    middle = [found[f"middle{k}"][new] for k in (0, 1)]
    return {
        "foreground": alone,
        "mean of walk and foreground": average_maps([alone, walk[new]]),
        "foreground walk": foreground_walk(alone, found["seed"][new], middle),
        "foreground walk on components": foreground_walk(alone, found["seed"][new], [components]),
    }


class Scores:
    """IoU of every image at every threshold, of the largest contour and of all."""

    def __init__(self, maps: Tensor, split: Split) -> None:
        boxes = [example.boxes for example in split]
        sizes = [example.size for example in split]
        criteria = [(np.array([0.5]), "largest"), (np.array(V2_IOU), "all")]
        heatmaps = normalize_heatmap(maps)
        one, several = box_counts(heatmaps, boxes, sizes, criteria, "reference", THRESHOLDS, return_iou=True)
        self.correct = np.stack([one.iou >= 0.5, *(several.iou >= iou for iou in V2_IOU)], 1)  # (N, 4, T)

    def at(self, images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """(n, 4) correctness of some images at the thresholds that are best on the images `chosen`."""
        best = self.correct[chosen].mean(0).argmax(1)
        return self.correct[images][:, np.arange(4), best]


def row(name: str, scores: Scores, base: Scores | None, images: np.ndarray, half: np.ndarray) -> None:
    """Print one line: oracle, transferred, difference to the walk."""

    def percent(correct: np.ndarray) -> str:
        return f"{100 * correct[:, 0].mean():.1f} / {100 * correct[:, 1:].mean():.1f}"

    oracle = scores.at(images, images)
    every = np.arange(len(half))
    sides = [(images[half[images] == side], every[half != side]) for side in (False, True)]
    transferred = np.concatenate([scores.at(scored, chosen) for scored, chosen in sides])
    line = f"| {name} | {percent(oracle)} | {percent(transferred)} |"
    if base is None:
        line += " |"
    else:
        other = base.at(images, images)
        found = [paired_interval(oracle[:, part], other[:, part]) for part in (slice(0, 1), slice(1, 4))]
        line += " / ".join(f" {one.estimate:+.1f} [{one.low:+.1f}, {one.high:+.1f}]" for one in found) + " |"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--checkpoint", action="append", required=True)
    parser.add_argument("--cache", type=Path, help="folder that keeps the features")
    parser.add_argument("--bfloat16", action="store_true", help="run the networks in bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--half", nargs="*", choices=["A", "B", "all"], default=["all"], help="what is scored"
    )
    arguments = parser.parse_args()
    split = open_split(arguments.data)
    half = np.array([hashlib.sha256(example.id.encode()).digest()[0] % 2 == 1 for example in split])
    every, sides = np.arange(len(split)), (np.flatnonzero(~half), np.flatnonzero(half))
    scored = {name: {"all": every, "A": sides[0], "B": sides[1]}[name] for name in arguments.half}
    together: dict[str, list[Tensor]] = {}
    for model, checkpoint in zip(arguments.model, arguments.checkpoint, strict=True):
        name = Path(checkpoint).stem
        found = cached(
            arguments.cache, name, lambda m=model, c=checkpoint: extract(m, c, split, arguments.bfloat16)
        )
        walk = walks(found)
        maps = {"class map of the larger image": found["seed"], "walk": walk}
        halves = [head_maps(found, walk, fit, new, arguments.seed) for fit, new in (sides, sides[::-1])]
        for kind in halves[0]:
            inductive = torch.empty(len(split), *halves[0][kind].shape[1:])
            inductive[sides[1]], inductive[sides[0]] = halves[0][kind], halves[1][kind]
            maps[f"{kind}, inductive"] = inductive
        for kind, one in head_maps(found, walk, every, every, arguments.seed).items():
            maps[f"{kind}, transductive"] = one
        print_rows(model, maps, split, scored, half)
        for kind, one in maps.items():
            together.setdefault(kind, []).append(one)
    if len(arguments.model) > 1:
        maps = {kind: average_maps(parts) for kind, parts in together.items()}
        print_rows("all networks, averaged", maps, split, scored, half)


def print_rows(
    title: str, maps: dict[str, Tensor], split: Split, scored: dict[str, np.ndarray], half: np.ndarray
) -> None:
    scores = {kind: Scores(one, split) for kind, one in maps.items()}
    for name, images in scored.items():
        print(f"\n{title}, {name} ({len(images)} images)\n")
        print("| map | oracle | transferred | minus the walk |\n|---|---|---|---|")
        for kind, one in scores.items():
            row(kind, one, scores["walk"] if "foreground" in kind else None, images, half)


if __name__ == "__main__":
    main()
