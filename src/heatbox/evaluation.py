"""Make the maps of a data set, save them, and score them.

Two steps that know of each other only through the run folder: `predict` writes one record per image with its
low-resolution maps, `score` reads records and returns numbers. Scoring a finished run again is therefore the
same code on the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heatbox.boxes.component_tree import boxes_at
from heatbox.boxes.geometry import REFERENCE_SIDE, box_iou, scale_boxes
from heatbox.config import EvaluateConfig
from heatbox.data.example import Example, Split
from heatbox.data.open import open_split
from heatbox.data.transforms import Preprocess
from heatbox.devices import pick_device
from heatbox.errors import InputError
from heatbox.maps.baselines import centre_gaussian, full_image
from heatbox.maps.methods import Scene, find_method
from heatbox.maps.prepare import prepare_heatmap
from heatbox.metrics.maxboxacc import BoxScore, MaxBoxAcc
from heatbox.models.build import build_model
from heatbox.models.view import ClassifierView
from heatbox.progress import Track, silent
from heatbox.store import METRICS, Record, Run

BASELINES = {"centre-gaussian": centre_gaussian, "full-image": full_image}
RECORDS_A_PART = 256
V2_IOU = (0.3, 0.5, 0.7)


def evaluate(
    config: EvaluateConfig,
    run: Run,
    track: Track = silent,
    overwrite: bool = False,
    model: nn.Module | None = None,
) -> dict[str, Any]:
    """Make and score the maps of a data set; an interrupted run goes on where it stopped.

    Args:
        config: what to do.
        run: where to save it.
        track: how to show progress.
        overwrite: drop what an earlier run left in the folder.
        model: the classifier, where it is at hand already; by default it is built as the config says.

    Returns:
        the scores, as saved in metrics.json.

    Raises:
        InputError: bad input; what was computed before it stays in the run folder.
    """
    methods = {name: find_method(name) for name in config.method}
    if not methods:
        raise InputError("no map method was asked for")
    if model is None:
        model = build_model(config.model, config.num_classes, config.checkpoint)
    view = ClassifierView(model.to(pick_device(config.device)))
    split = open_split(config.data, config.metadata, view.num_classes).take(config.limit)
    run.start(config, resume=not overwrite)
    if not run.finished:
        predict(view, split, config, run, track)
    metrics = score(run, tuple(methods), config.thresholds, track)
    if not run.finished:
        run.finish(_best_boxes(metrics))
    run.write_json(METRICS, metrics)
    return metrics


# -------------------------------------------------------------------------------------------- prediction


def preprocess_of(model: nn.Module, config: EvaluateConfig) -> Preprocess:
    """The model's own preprocessing, with what the config sets otherwise."""
    own = dict(getattr(model, "pretrained_cfg", None) or {})
    own |= {key: value for key, value in (("mean", config.mean), ("std", config.std)) if value is not None}
    return Preprocess.from_config(own, config.size, config.interpolation)


def predict(
    view: ClassifierView, split: Split, config: EvaluateConfig, run: Run, track: Track = silent
) -> None:
    """Write a record for every image of the split that the run does not hold yet."""
    preprocess = preprocess_of(view.model, config)
    done = run.done()
    todo = [example for example in split if example.id not in done]
    waiting: list[Record] = []
    try:
        for examples, images in track(
            _batches(split, todo, preprocess, config.batch_size),
            f"maps of {split.name}",
            -(-len(todo) // config.batch_size),
        ):
            waiting += _records(view, examples, images, config)
            if len(waiting) >= RECORDS_A_PART:
                run.append(waiting)
                waiting = []
    finally:  # a bad image or an interruption must not lose what is already computed
        run.append(waiting)


def _batches(
    split: Split, todo: Sequence[Example], preprocess: Preprocess, size: int
) -> Iterator[tuple[list[Example], Tensor]]:
    """Preprocessed batches; images are decoded in threads, one batch ahead."""

    def load(example: Example) -> Tensor:
        return preprocess(split.open_image(example))

    with ThreadPoolExecutor(max_workers=4) as pool:
        chunks = [list(todo[start : start + size]) for start in range(0, len(todo), size)]
        coming = [[pool.submit(load, example) for example in chunk] for chunk in chunks[:1]]
        for index, chunk in enumerate(chunks):
            if index + 1 < len(chunks):
                coming.append([pool.submit(load, example) for example in chunks[index + 1]])
            yield chunk, torch.stack([future.result() for future in coming.pop(0)])


def _records(
    view: ClassifierView, examples: Sequence[Example], images: Tensor, config: EvaluateConfig
) -> list[Record]:
    """Run the classifier and every map method on one batch."""
    parameter = next(view.model.parameters())
    with torch.inference_mode():
        batch = images.to(parameter.device, parameter.dtype)
        features, logits = view(batch)
        labels = torch.tensor([example.label for example in examples], device=batch.device)
        targets = labels if config.target == "label" else logits.argmax(1)
        scene = Scene(view, batch, features, targets, config.norm)
        maps = {name: find_method(name)(scene).float().cpu().numpy() for name in config.method}
        top5 = logits.topk(min(5, logits.shape[1])).indices.cpu().numpy().astype(np.int32)
        scores = logits.float().cpu().numpy()
    return [
        {
            "id": example.id,
            "label": example.label,
            "target": int(targets[index]),
            "top5": top5[index],
            "logits": scores[index],
            "width": example.size[0],
            "height": example.size[1],
            "boxes": example.boxes,
            **{f"map_{name}": maps[name][index] for name in maps},
        }
        for index, example in enumerate(examples)
    ]


# ----------------------------------------------------------------------------------------------- scoring


def saved_methods(run: Run) -> tuple[str, ...]:
    """Names of the methods whose maps a run holds."""
    first = next(iter(run.records(1)))[0]
    return tuple(key.removeprefix("map_") for key in first if key.startswith("map_"))


def score(run: Run, methods: Sequence[str], thresholds: int = 1000, track: Track = silent) -> dict[str, Any]:
    """Score the maps of a run, and of the baselines that have not looked at the images.

    Args:
        run: a finished run, or one whose parts are complete.
        methods: names of the maps.
        thresholds: number of thresholds.
        track: how to show progress.

    Returns:
        a dictionary for metrics.json: number of images, top-1 and top-5 accuracy, and for every method and
        baseline MaxBoxAcc (largest contour, IoU .5; also at .3 and .7) and MaxBoxAccV2 (all contours).

    Raises:
        InputError: a method whose maps the run does not hold, or an image without boxes.
    """
    held = saved_methods(run)
    if unknown := [name for name in methods if name not in held]:
        raise InputError(f"{run.folder}: holds no maps of {unknown[0]!r}, only of {', '.join(held)}")
    fixed = {name: make(REFERENCE_SIDE, REFERENCE_SIDE) for name, make in BASELINES.items()}
    meters = {name: _meters(thresholds) for name in (*methods, *fixed)}
    ranks: list[int] = []
    for batch in track(run.records(32), "scoring", -(-len(run) // 32)):
        truth = [record["boxes"] for record in batch]
        sizes = [(record["width"], record["height"]) for record in batch]
        if empty := [record["id"] for record in batch if not len(record["boxes"])]:
            raise InputError(f"{run.folder}: image {empty[0]!r} has no box to be scored against")
        ranks += [_rank(record) for record in batch]
        for name, pair in meters.items():
            maps = (
                [fixed[name]] * len(batch)
                if name in fixed
                else [prepare_heatmap(record[f"map_{name}"], REFERENCE_SIDE) for record in batch]
            )
            for meter in pair:
                meter.update(maps, truth, sizes)
    return {
        "images": len(ranks),
        "top1": 100 * float(np.mean([rank == 0 for rank in ranks])),
        "top5": 100 * float(np.mean([rank < 5 for rank in ranks])),
        "methods": {name: _summary(*pair) for name, pair in meters.items()},
        "baselines": list(fixed),
    }


def _rank(record: Record) -> int:
    """Place of the label among the logits, 0 for the highest."""
    return int((record["logits"] > record["logits"][record["label"]]).sum())


def _meters(thresholds: int) -> tuple[MaxBoxAcc, MaxBoxAcc]:
    largest = MaxBoxAcc(V2_IOU, contours="largest", thresholds=thresholds)
    return largest, MaxBoxAcc(V2_IOU, contours="all", thresholds=thresholds)


def _summary(largest: MaxBoxAcc, every: MaxBoxAcc) -> dict[str, Any]:
    one, all_of_them = largest.compute(), every.compute()
    middle = V2_IOU.index(0.5)
    return {
        "MaxBoxAcc": float(one.per_iou[middle]),
        "MaxBoxAccV2": all_of_them.accuracy,
        "threshold": float(one.threshold[middle]),
        "largest_contour": _by_iou(one),
        "all_contours": _by_iou(all_of_them),
    }


def _by_iou(found: BoxScore) -> dict[str, Any]:
    return {
        "iou": found.iou,
        "accuracy": found.per_iou,
        "threshold": found.threshold,
        "correct": found.correct,
    }


def _best_boxes(metrics: dict[str, Any]) -> dict[str, Any]:
    """Columns of predictions.parquet that need the best threshold: each method's box and its IoU."""

    def box(record: Record, name: str) -> np.ndarray:
        frame = prepare_heatmap(record[f"map_{name}"], REFERENCE_SIDE)
        return boxes_at(frame, [metrics["methods"][name]["threshold"]])[0].astype(np.float64)

    def iou(record: Record, name: str) -> float:
        size = (record["width"], record["height"])
        truth = scale_boxes(record["boxes"], size, (REFERENCE_SIDE, REFERENCE_SIDE))
        return float(box_iou(box(record, name), truth, inclusive=True).max())

    columns: dict[str, Any] = {}
    for name in metrics["methods"]:
        if name not in metrics["baselines"]:
            columns[f"box_{name}"] = lambda record, name=name: box(record, name)
            columns[f"iou_{name}"] = lambda record, name=name: iou(record, name)
    return columns
