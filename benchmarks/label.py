"""What `heatbox label` costs, and what corrections are worth.

    uv run python benchmarks/label.py --simulate RUN        # maps of `heatbox label` of images with boxes
    uv run python benchmarks/label.py --records 100000      # memory of boxes and files of so many images
    uv run python benchmarks/label.py --images FOLDER --model resnet18 --checkpoint FILE

--simulate: a perfect annotator corrects images in the order of review, and in random order; after every round
everything is learned from the corrected boxes that can be, and the other images are labelled again. The
records of RUN have the true boxes (of `heatbox.labeling.pipeline.make_maps` they have none). Two further
orders weigh the expected errors of an image by what may be learned from it: how far it is from the corrected
images, and how typical it is.
--images: beside a plain loop over pytorch-grad-cam on the same network, images decoded and resized alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import resource
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from heatbox.boxes.ops import box_iou
from heatbox.data.types import Example, Split
from heatbox.evaluation.collection import FEATURES, SEEDS, ImageCollection
from heatbox.evaluation.run import Run
from heatbox.labeling import corrections, refit
from heatbox.labeling.pipeline import review_order
from heatbox.labeling.proposals import with_proposals
from heatbox.labeling.propose import BoxSettings, default_threshold, propose

ROUNDS = (0, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900)
"""Numbers of corrections after which everything is learned again."""
ENOUGH = 0.9


ORDERS = ("review", "random", "review, head not refitted", "far from corrected", "typical")


def simulate(run: Run, orders: Sequence[str] = ORDERS, seed: int = 0) -> dict[str, Any]:
    """Fraction of images right after each number of corrections, and corrections until 90% are.

    An image is right if it was corrected, or if its most confident box has an IoU of .5 or more with a true
    box. In the order of review the head learns or does not; in random order it learns.
    """
    records = [record for batch in run.records() for record in batch]
    (method,) = run.methods()
    truth = {
        one["id"]: Example(one["id"], one["target"], (one["width"], one["height"]), one["boxes"])
        for one in records
    }
    blank = [dataclasses.replace(one, boxes=np.zeros((0, 4))) for one in truth.values()]
    split = Split("simulation", blank, [], lambda example: None)  # type: ignore[arg-type, return-value]
    found: dict[str, Any] = {"images": len(blank), "map": method}
    pooled = _pooled_features(run, split)
    for name in orders:
        corrections.FEWEST = len(blank) + 1 if "not" in name else refit.FEWEST
        found[name] = _curve(
            run, split, truth, BoxSettings(method, default_threshold(method)), name, seed, pooled
        )
        print(json.dumps({name: found[name]}), flush=True)
    return found


def draw_curves(found: dict[str, Any], path: Path) -> None:
    """A figure of what `simulate` found, with the line of corrections from which nothing is learned."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, one in found.items():
        if isinstance(one, dict):
            numbers, right = zip(*one["right"].items(), strict=True)
            axes.plot(
                [int(number) for number in numbers], [100 * value for value in right], "o-", label=name, ms=3
            )
            start = 100 * next(iter(one["right"].values()))
    total = found["images"]
    axes.plot([0, total], [start, 100], "--", color="grey", label="random, nothing is learned")
    axes.axhline(100 * ENOUGH, color="lightgrey", lw=0.8, zorder=0)
    axes.set(xlabel="corrected images", ylabel="images right, %", xlim=(0, 600), ylim=(70, 100))
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def _pooled_features(run: Run, split: Split) -> dict[str, np.ndarray]:
    """id → (D,) mean of the features of an image where its map is high, of unit length."""
    collection = ImageCollection(run)
    pooled = {}
    for record in collection.records(split, collection.projection(), {one.id for one in split}):
        features, heat = record[FEATURES].astype(np.float32), record[SEEDS].astype(np.float32)
        inside = (heat > (heat.min() + heat.max()) / 2).ravel()
        mean = features.reshape(len(features), -1)[:, inside].mean(1)
        pooled[record["id"]] = mean / np.linalg.norm(mean)
    return pooled


def _novel(found: Split, corrected: Collection[str], pooled: Mapping[str, np.ndarray]) -> list[str]:
    """Greedily the image with the most expected errors times the distance to the nearest one before it."""
    ids = [one.id for one in found]
    doubt = np.array([corrections.expected_errors(one) for one in found])
    vectors = np.stack([pooled[one] for one in ids])
    nearest = np.full(len(ids), 2.0)
    for one in np.flatnonzero([name in corrected for name in ids]):
        nearest, doubt[one] = np.minimum(nearest, 1 - vectors @ vectors[one]), -1
    order = []
    for _ in range(len(ids) - len(corrected)):
        one = int(np.argmax(doubt * np.where(doubt < 0, 1, nearest)))
        order.append(ids[one])
        nearest, doubt[one] = np.minimum(nearest, 1 - vectors @ vectors[one]), -1
    return order


def _typical(found: Split, corrected: Collection[str], pooled: Mapping[str, np.ndarray]) -> list[str]:
    """Most expected errors times the mean similarity to all images (information density) first."""
    vectors = np.stack([pooled[one.id] for one in found])
    density = (vectors @ vectors.mean(0)).clip(0)
    doubt = np.array([corrections.expected_errors(one) for one in found])
    return [found.examples[index].id for index in np.argsort(-doubt * density, kind="stable")]


def _curve(
    run: Run,
    split: Split,
    truth: dict[str, Example],
    first: BoxSettings,
    name: str,
    seed: int,
    pooled: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """One curve of `simulate`."""
    maps, settings, learned = run, first, None
    shuffled = np.random.default_rng(seed).permutation(sorted(truth)).tolist()
    corrected: dict[str, Example] = {}
    curve: dict[int, float] = {}
    enough = None
    for number, coming in itertools.pairwise(ROUNDS):
        boxed = {one.id: one for one, _, _ in propose(maps, split, settings)}
        right = {one: one in corrected or _is_right(boxed[one], truth[one]) for one in truth}
        curve[number] = sum(right.values()) / len(right)
        order = shuffled
        if name != "random":
            found = with_proposals(split, boxed.values())
            if name in ("far from corrected", "typical"):
                order = (_novel if name == "far from corrected" else _typical)(found, corrected, pooled)
            else:
                order = learned.queue(found) if learned else review_order(found)
        chunk = [one for one in order if one not in corrected][: coming - number]
        missing = math.ceil(ENOUGH * len(truth)) - sum(right.values())
        reached = np.cumsum([not right[one] for one in chunk])
        if enough is None and missing <= reached[-1]:
            enough = number + int(np.searchsorted(reached, max(missing, 0))) + (missing > 0)
        if enough is not None and number >= 400:
            break
        corrected |= {one: truth[one] for one in chunk}
        learned = corrections.learn(run, split, first, corrected)
        maps, settings = learned.run, learned.settings
    return {"right": curve, "corrections_until_90_percent": enough}


def _is_right(found: Example, truth: Example) -> bool:
    return bool((box_iou(found.boxes[:1], truth.boxes, inclusive=False) >= 0.5).any())


def write_records(count: int) -> dict[str, Any]:
    """Peak memory, in MB, of making boxes of synthetic maps and writing them in several formats."""
    from heatbox.data.formats.options import WriteOptions
    from heatbox.labeling.output import write_labels

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    found: dict[str, Any] = {"records": count, "imports": peak()}
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run")
        y, x = np.mgrid[:14, :14]
        names = [f"class{i % 10}/{i:07d}.jpg" for i in range(count)]
        for start in range(0, count, 2000):
            rows = []
            for index in range(start, min(start + 2000, count)):
                cx, cy = index % 10 + 2, index // 10 % 10 + 2
                heat = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8).astype(np.float32)
                row = {"id": names[index], "label": index % 10, "target": index % 10, "map_cam": heat}
                rows.append({**row, "width": 640, "height": 480, "boxes": np.zeros((0, 4))})
            run.append(rows)
        found["records_written"] = peak()
        examples = [Example(name, i % 10, (640, 480)) for i, name in enumerate(names)]
        kinds = [f"class{i}" for i in range(10)]
        split = Split("all", examples, kinds, lambda example: None)  # type: ignore[arg-type, return-value]
        found["images_listed"] = peak()
        began = time.process_time()
        settings = BoxSettings("cam")
        boxed = with_proposals(split, (one for one, _, _ in propose(run, split, settings)))
        found |= {"boxes_made": peak(), "seconds_of_boxes": time.process_time() - began}
        began = time.process_time()
        for name in ("coco", "label-studio", "csv", "cvat"):
            write_labels(boxed, Path(folder) / name, [name], WriteOptions(), {})
            found[name] = peak()
        found["seconds_of_writing"] = time.process_time() - began
    return found


def speed(
    folder: str, model: str, checkpoint: str | None, limit: int, batch: int, turns: int
) -> dict[str, Any]:
    """Images a second of `heatbox label`, and of loops over pytorch-grad-cam; all take turns.

    Every call goes from image files to boxes. The plain loop opens one image after the other, as in the
    examples of pytorch-grad-cam; the other one hands it as many images at a time as ours.
    """
    import torch
    from PIL import Image
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    import heatbox
    from heatbox.config import LabelConfig
    from heatbox.labeling.photos import open_photos
    from heatbox.labeling.pipeline import make_maps

    network = heatbox.create_model(model, checkpoint=checkpoint).eval()
    config = LabelConfig(model=model, checkpoint=checkpoint, batch_size=batch, limit=limit, device="cpu")
    preprocess = config.preprocess(network)
    split = open_photos(folder).take(limit)
    files = [split.open_image.source(example) for example in split]  # type: ignore[attr-defined]
    layer = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)][-1]

    def opened(file: Path) -> torch.Tensor:
        with Image.open(file) as image:
            return preprocess(image.convert("RGB"))

    def peer(at_once: int) -> None:
        with GradCAM(network, [layer]) as cam:
            for first in range(0, len(files), at_once):
                pixels = torch.stack([opened(file) for file in files[first : first + at_once]])
                for heat in cam(pixels, [ClassifierOutputTarget(0)] * len(pixels)):
                    heatbox.map_to_boxes(heat, (224, 224), 0.35)

    def ours(method: str) -> None:
        with tempfile.TemporaryDirectory() as where:
            made = dataclasses.replace(config, method=method)
            make_maps(dataclasses.replace(split), made, Run(Path(where) / "run"), model=network).boxes()

    work = {"pytorch-grad-cam": lambda: peer(1), f"pytorch-grad-cam, batch {batch}": lambda: peer(batch)}
    work |= {f"heatbox label, {name}": partial(ours, name) for name in ("cam", "walk", "foreground-walk")}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(turns):
        for name, run in work.items():
            wall, used = time.perf_counter(), time.process_time()
            run()
            spent[name].append((time.perf_counter() - wall, time.process_time() - used))
    found: dict[str, Any] = {
        "images": len(split),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
    }
    for name, times in spent.items():
        wall, used = np.min(times, axis=0)
        found[name] = {
            "images_per_second": len(split) / wall,
            "processor_seconds_per_image": used / len(split),
            "times_the_plain_loop": min(one for one, _ in spent["pytorch-grad-cam"]) / wall,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulate", type=Path)
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=ORDERS)
    parser.add_argument("--figure", type=Path, help="draw the curves of --simulate")
    parser.add_argument("--records", type=int)
    parser.add_argument("--images")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--checkpoint")
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    if args.simulate:
        found = simulate(Run(args.simulate), args.orders)
        print(json.dumps(found, indent=2))
        if args.figure:
            draw_curves(found, args.figure)
    if args.records:
        print(json.dumps(write_records(args.records), indent=2))
    if args.images:
        found = speed(args.images, args.model, args.checkpoint, args.limit, args.batch_size, args.turns)
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
