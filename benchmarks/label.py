"""What `heatbox label` costs, and what corrections are worth.

    uv run python benchmarks/label.py --simulate runs/RUN   # a run of heatbox evaluate on images with boxes
    uv run python benchmarks/label.py --records 100000      # memory of boxes and files of so many images
    uv run python benchmarks/label.py --images FOLDER --model resnet18 --checkpoint FILE

--simulate: a perfect annotator corrects images in the order of review, and in random order; after every round
threshold and confidence are calibrated with all corrected boxes and the other images are labelled again.
--images: beside a plain loop over pytorch-grad-cam on the same network, images decoded and resized alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from heatbox.boxes.ops import box_iou
from heatbox.data.types import Example, Split
from heatbox.evaluation.calibrate import calibrate_map
from heatbox.evaluation.run import Run
from heatbox.inference.confidence import box_features, expected_model
from heatbox.labeling.propose import BoxSettings, default_threshold, propose

ROUND = 50
STEP = 0.05


class Boxes:
    """The most confident box of each image, at thresholds in steps of `STEP`."""

    def __init__(self, run: Run) -> None:
        self.records = [record for batch in run.records() for record in batch]
        self.method = run.methods()[0]
        self.run = run
        self.found: dict[float, tuple[np.ndarray, np.ndarray]] = {}

    def at(self, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, 4) and whether the box is right (N,), with an IoU of .5 or more with any true box."""
        level = round(round(threshold / STEP) * STEP, 2)
        if level not in self.found:
            truth = {record["id"]: record["boxes"] for record in self.records}
            maps = {record["id"]: record[f"map_{self.method}"] for record in self.records}
            blank = [
                Example(record["id"], record["target"], (record["width"], record["height"]))
                for record in self.records
            ]
            split = Split("simulation", blank, [], lambda example: None)  # type: ignore[arg-type, return-value]
            settings = BoxSettings(self.method, level)
            boxes = {one.id: one.boxes[:1] for one, _, _ in propose(self.run, split, settings)}
            rows = [
                box_features({self.method: maps[one.id]}, boxes[one.id], one.size)[0]
                if len(boxes[one.id])
                else np.array([0.0, 4, 0, 0])
                for one in blank
            ]
            right = [box_iou(boxes[one.id], truth[one.id], False).max(initial=0) >= 0.5 for one in blank]
            self.found[level] = np.array(rows), np.array(right)
        return self.found[level]


def simulate(run: Run, seed: int = 0) -> dict[str, Any]:
    """Images right after each number of corrections, in the order of review and in random order."""
    boxes, curves = Boxes(run), {}
    rng = np.random.default_rng(seed)
    for order in ("review", "random"):
        corrected = np.zeros(len(boxes.records), bool)
        threshold, model = default_threshold(boxes.method), expected_model([boxes.method])
        curve: dict[int, float] = {}
        while True:
            features, right = boxes.at(threshold)
            curve[int(corrected.sum())] = float((right | corrected).mean())
            if corrected.all():
                break
            left = np.flatnonzero(~corrected)
            doubt = 1 - model(features)[left] if order == "review" else rng.random(len(left))
            corrected[left[np.argsort(-doubt, kind="stable")[:ROUND]]] = True
            some = [boxes.records[i] for i in np.flatnonzero(corrected)]
            found = calibrate_map(some, boxes.method, resamples=20)
            threshold, model = found.threshold, found.confidence
        enough = next(count for count, fraction in curve.items() if fraction >= 0.9)
        curves[order] = {"right": curve, "corrections_until_90_percent": enough}
    return {"images": len(boxes.records), "map": boxes.method, **curves}


def write_records(count: int) -> dict[str, Any]:
    """Peak memory, in MB, of making boxes of synthetic maps and writing them in several formats."""
    from heatbox.data.formats.options import WriteOptions
    from heatbox.labeling.output import write_labels
    from heatbox.labeling.propose import in_order

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
        boxed = in_order(split, {one.id: one for one, _, _ in propose(run, split, settings)})
        found |= {"boxes_made": peak(), "seconds_of_boxes": time.process_time() - began}
        began = time.process_time()
        for name in ("coco", "label-studio", "csv", "cvat"):
            write_labels(boxed, Path(folder) / name, [name], WriteOptions(), {})
            found[name] = peak()
        found["seconds_of_writing"] = time.process_time() - began
    return found


def speed(folder: str, model: str, checkpoint: str | None, limit: int, batch: int) -> dict[str, Any]:
    """Images a second of `heatbox label`, with CAM and with walks, and of a loop over pytorch-grad-cam."""
    import torch
    from PIL import Image
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    import heatbox
    from heatbox.config import LabelConfig
    from heatbox.labeling.photos import open_photos
    from heatbox.labeling.pipeline import make_maps

    network = heatbox.create_model(model, checkpoint=checkpoint)
    config = LabelConfig(model=model, checkpoint=checkpoint, batch_size=batch, limit=limit, device="cpu")
    preprocess = config.preprocess(network)
    split = open_photos(folder).take(limit)
    found: dict[str, Any] = {
        "images": len(split),
        "load": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
    }
    files = [split.open_image.source(example) for example in split]  # type: ignore[attr-defined]

    def plain() -> None:
        layer = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)][-1]
        with GradCAM(network, [layer]) as cam:
            for file in files:
                with Image.open(file) as image:
                    pixels = preprocess(image.convert("RGB"))[None]
                heat = cam(pixels, [ClassifierOutputTarget(0)])[0]
                heatbox.map_to_boxes(heat, (224, 224), 0.35)

    def ours(method: str) -> None:
        with tempfile.TemporaryDirectory() as where:
            made = dataclasses.replace(config, method=method)
            labelled = make_maps(dataclasses.replace(split), made, Run(where), model=network)
            labelled.boxes()

    work = {"pytorch-grad-cam": plain, "cam": lambda: ours("cam"), "walk": lambda: ours("walk")}
    for name, run in work.items():
        wall, used = time.perf_counter(), time.process_time()
        run()
        found[name] = {
            "images_per_second": len(split) / (time.perf_counter() - wall),
            "processor_seconds_per_image": (time.process_time() - used) / len(split),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulate", type=Path)
    parser.add_argument("--records", type=int)
    parser.add_argument("--images")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--checkpoint")
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()
    if args.simulate:
        print(json.dumps(simulate(Run(args.simulate)), indent=2))
    if args.records:
        print(json.dumps(write_records(args.records), indent=2))
    if args.images:
        found = speed(args.images, args.model, args.checkpoint, args.limit, args.batch_size)
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
