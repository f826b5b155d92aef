"""A threshold for each image instead of one for all: does any rule that sees no box gain? (docs/walk.md)

    heatbox evaluate ... --method cam walk walk:pc1 walk-one-pass --out RUN
    python benchmarks/extent.py RUN [--network]

For every level of the walk's map a rule gives the box of the largest contour a score; the level of an image
is that of the largest score less lambda times its squared distance (in tenths) from a common level. Both
numbers are chosen on one half of the images (those of even place, then those of odd place). On the other half
the rule is compared with the one threshold that is best on the first. That threshold is among the choices, as
lambda infinity, so that a rule that knows nothing should lose nothing. `--network` adds the rules that need
the network again, which the run's config.json names. Printed are percent of images with an IoU of .5 or more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from heatbox.boxes.contours import heatmap_to_boxes
from heatbox.boxes.ops import REFERENCE_SIDE, box_iou, scaled_truth
from heatbox.config import EvaluateConfig
from heatbox.data.open import open_split
from heatbox.evaluation.run import Run
from heatbox.maps.normalize import normalize_heatmap
from heatbox.maps.random_walk import _affinity, _unit, on_grid
from heatbox.metrics.bootstrap import paired_interval
from heatbox.models.factory import create_model
from heatbox.models.introspect import ClassifierView

LEVELS = np.arange(100) / 100
STRENGTHS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
MAP, OTHERS = "walk", ("walk:pc1", "walk-one-pass", "cam")
PAST_LAST = np.array([0, 0, 1, 1])
CROPPED = (20, 30, 40, 45, 50, 55, 60, 70, 80)
"""Levels whose boxes are shown to the network."""


def area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0] + 1.0) * (boxes[..., 3] - boxes[..., 1] + 1.0)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of boxes in the same places of two arrays."""
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    shared = np.clip(high - low + 1, 0, None).prod(-1)
    return shared / (area(a) + area(b) - shared)


def boxes_of(heatmaps: np.ndarray) -> np.ndarray:
    """(N, levels, 4) boxes of the largest contour."""
    return np.stack([np.concatenate(heatmap_to_boxes(one, LEVELS)) for one in heatmaps])


# ----------------------------------------------------------------------- rules: (N, levels) scores of levels


def stability(boxes: np.ndarray, span: int) -> np.ndarray:
    """IoU of the boxes some levels above and below: how little the box changes."""
    place = np.arange(len(LEVELS))
    return iou(boxes[:, np.clip(place + span, 0, place[-1])], boxes[:, np.clip(place - span, 0, place[-1])])


def otsu(heatmaps: np.ndarray) -> np.ndarray:
    """Variance between the values above and below, over its largest."""
    out = np.zeros((len(heatmaps), len(LEVELS)))
    for row, heatmap in zip(out, heatmaps, strict=True):
        counts, edges = np.histogram(heatmap, len(LEVELS), (0, 1))
        below = np.cumsum(counts)[:-1] / heatmap.size
        sums = np.cumsum(counts * (edges[:-1] + edges[1:]) / 2) / heatmap.size
        spread = below * (1 - below)
        row[1:] = np.divide((sums[-1] * below - sums[:-1]) ** 2, spread, out=np.zeros(99), where=spread > 0)
    return out / out.max(1, keepdims=True).clip(1e-12)


def agreement(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU with the nearest box that another map has at any level."""
    return np.stack([iou(boxes[:, [k]], others).max(1) for k in range(len(LEVELS))], 1)


def sums_inside(heatmaps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    integral = np.pad(heatmaps.cumsum(1, dtype=np.float64).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    x0, y0, x1, y1 = np.moveaxis(boxes + PAST_LAST, -1, 0)
    image = np.arange(len(boxes))[:, None]
    corner = [integral[image, y, x] for y, x in ((y1, x1), (y0, x1), (y1, x0), (y0, x0))]
    return corner[0] - corner[1] - corner[2] + corner[3]


def contrast(heatmaps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Mean of the map inside the box minus outside."""
    inside, total = sums_inside(heatmaps, boxes), heatmaps.sum((1, 2), dtype=np.float64)[:, None]
    return inside / area(boxes) - (total - inside) / np.maximum(heatmaps[0].size - area(boxes), 1)


def max_sum(heatmaps: np.ndarray, boxes: np.ndarray, level: float) -> np.ndarray:
    """Sum over the box of what the map has above a level."""
    return (sums_inside(heatmaps, boxes) - level * area(boxes)) / heatmaps[0].size


def conductance(affinity: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Minus the share of affinity that is cut where one low-resolution map is cut at each level."""
    values = (low.ravel() - low.min()) / max(low.max() - low.min(), 1e-12)
    out = np.full(len(LEVELS), -1.0)
    degree = affinity.sum(1)
    for place, level in enumerate(LEVELS):
        above = values > level
        volume = min(degree[above].sum(), degree[~above].sum())
        if volume > 0:
            out[place] = -affinity[above][:, ~above].sum() / volume
    return out


def network_rules(run: Run, records: list, boxes: np.ndarray) -> dict[str, np.ndarray]:
    """Conductance of the walk's affinity, and the class's log-probability of the box alone."""
    saved = run.config()
    config = EvaluateConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})
    view = ClassifierView(create_model(config.model, config.num_classes, config.checkpoint))
    preprocess = config.preprocess(view.model)
    split = open_split(config.data, config.metadata, view.num_classes)
    examples = {example.id: example for example in split}
    cuts, likely = [], []
    for record, found in zip(records, boxes, strict=True):
        image = split.open_image(examples[record["id"]])
        low = record[f"map_{MAP}"]
        units = [_unit(on_grid(one, low.shape), 0.1) for one in view.extract(preprocess(image)[None]).middle]
        affinity = _affinity(units, slice(0, low.size))[0].numpy().astype(np.float64)
        np.fill_diagonal(affinity, 0)
        cuts.append(conductance(affinity, low))
        corners = (found[list(CROPPED)] + PAST_LAST) * np.tile(image.size, 2) / REFERENCE_SIDE
        crops = torch.stack([preprocess(image.crop(tuple(c.round().astype(int)))) for c in corners])
        scores = view.model(crops).log_softmax(1)[:, record["target"]].numpy()
        likely.append(np.interp(np.arange(len(LEVELS)), CROPPED, scores))
    return {"conductance of the cut": np.stack(cuts), "class of the box alone": np.stack(likely)}


# --------------------------------------------------------------------------------------- choosing and scoring


def places(scores: np.ndarray, strength: float, common: float) -> np.ndarray:
    """(N,) place of the level of each image."""
    return (scores - strength * ((LEVELS - common) / 0.1) ** 2).argmax(1)


def report(name: str, scores: np.ndarray, overlap: np.ndarray) -> None:
    """One line for each half that chooses, from (N, levels) scores and IoUs with the truth."""
    scaled = (scores - scores.mean()) / max(scores.std(), 1e-12)
    images = np.arange(len(overlap))
    for half, called in ((0, "even"), (1, "odd")):
        choosing, scoring = images % 2 == half, images % 2 != half
        shares = (overlap[choosing] >= 0.5).mean(0)
        common = best = np.full(len(images), shares.argmax())
        reached = shares.max()
        for strength in STRENGTHS:
            for level in LEVELS[30:70]:
                tried = places(scaled, strength, level)
                share = (overlap[images, tried][choosing] >= 0.5).mean()
                if share > reached:
                    reached, best = share, tried
        ours, theirs = overlap[images, best][scoring, None], overlap[images, common][scoring, None]
        gains = [paired_interval(ours >= d, theirs >= d) for d in (0.5, np.array([0.3, 0.5, 0.7]))]
        cells = [f"{gain.estimate:+6.2f} [{gain.low:+.1f}, {gain.high:+.1f}]" for gain in gains]
        numbers = [100 * shares.max(), 100 * reached, 100 * (theirs >= 0.5).mean()]
        print(
            f"{name:30} {called:6}", *(f"{n:9.2f}" for n in numbers), *(f"{c:>22}" for c in cells), flush=True
        )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--network", action="store_true")
    args = parser.parse_args()
    run = Run(args.run)
    records = [record for batch in run.records() for record in batch]
    heatmaps = {
        name: normalize_heatmap(np.stack([r[f"map_{name}"] for r in records]), REFERENCE_SIDE)
        for name in (MAP, *OTHERS)
    }
    boxes = {name: boxes_of(maps) for name, maps in heatmaps.items()}
    frame = (REFERENCE_SIDE, REFERENCE_SIDE)
    truth = [scaled_truth(r["boxes"], (r["width"], r["height"]), frame, "reference") for r in records]
    overlap = np.stack([box_iou(b, t, True).max(1) for b, t in zip(boxes[MAP], truth, strict=True)])
    ours, mine = heatmaps[MAP], boxes[MAP]
    rules = {f"stability, {span} levels": stability(mine, span) for span in (2, 5, 10)}
    rules |= {"Otsu": otsu(ours), "contrast, in minus out": contrast(ours, mine)}
    rules |= {f"max sum above {level}": max_sum(ours, mine, level) for level in (0.4, 0.5, 0.6)}
    rules |= {f"agreement with {name}": agreement(mine, boxes[name]) for name in OTHERS}
    if args.network:
        rules |= network_rules(run, records, mine)
    print(f"best level of each image, boxes known: {100 * (overlap.max(1) >= 0.5).mean():.1f}\n")
    headings = ("one level", "the rule", "one level", "gain at IoU .5", "gain, mean of .3 .5 .7")
    print(f"{'':37}{'on the choosing half':>19}   on the other half")
    print(
        f"{'rule':30} {'chosen':6}", *(f"{h:>9}" for h in headings[:3]), *(f"{h:>22}" for h in headings[3:])
    )
    for name, scores in rules.items():
        report(name, scores, overlap)


if __name__ == "__main__":
    main()
