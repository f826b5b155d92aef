"""Make the maps of a data set, save them, and score them.

Two steps that know of each other only through the run folder: `predict` writes one record per image with its
low-resolution maps, `score` reads records and returns numbers. Scoring a finished run again is therefore the
same code on the same bits.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from heatbox._utils.progress import Track, silent
from heatbox.boxes.contours import Protocol, threshold_grid, to_convention
from heatbox.boxes.ops import REFERENCE_SIDE, box_iou, scale_boxes
from heatbox.config import EvaluateConfig
from heatbox.data.open import open_split
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.collect import collect
from heatbox.evaluation.mask_score import has_masks, refuse_exact, refuse_mixed, with_masks
from heatbox.evaluation.mask_score import score_run as score_masks
from heatbox.evaluation.records import Records
from heatbox.evaluation.run import METRICS, Record, Run
from heatbox.evaluation.stream import BoxScorer
from heatbox.evaluation.summary import EVERY, LARGEST, MapScore, table_of
from heatbox.inference.boxes import frame_boxes, to_image
from heatbox.maps.baselines import BASELINES
from heatbox.maps.normalize import normalize_heatmap
from heatbox.maps.registry import (
    ENLARGED,
    MapInputs,
    Requirements,
    check_requirements,
    find_method,
    requirements_of,
    run_model,
    with_seed,
)
from heatbox.metrics.functional import label_rank
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import as_input

SCORED_AT_ONCE = 64


def evaluate(
    config: EvaluateConfig,
    run: Run,
    track: Track = silent,
    overwrite: bool = False,
    model: nn.Module | None = None,
    split: Split | None = None,
) -> dict[str, Any]:
    """Make and score the maps of a data set; an interrupted run goes on where it stopped.

    Args:
        config: what to do.
        run: where to save it.
        track: how to show progress.
        overwrite: drop what an earlier run left in the folder.
        model: the classifier, where it is at hand already; by default it is built as the config says.
        split: the images, where they are at hand already; by default they are opened as the config says.

    Returns:
        the scores, as saved in metrics.json.

    Raises:
        InputError: bad input; what was computed before it stays in the run folder.
    """
    if not config.method:
        raise InputError("no map method was asked for")
    methods = tuple(with_seed(name, config.walk_seed) for name in config.method)
    config = dataclasses.replace(config, method=methods)
    for name in config.method:
        find_method(name)  # an unknown one is said before anything is built
    _check_numbers(config)
    view = ClassifierView(config.build() if model is None else config.to_device(model))
    config.preprocess(view.model)  # refuses a size or mean that no input can have before anything is computed
    check_requirements(view, requirements_of(methods))
    inner = dataclasses.replace(
        config, data=config.fullsup or "", metadata=config.fullsup_metadata, fullsup=None
    )
    split = _open_scorable(config, view) if split is None else split.with_truth()
    chosen_on = _open_scorable(inner, view) if config.fullsup is not None else None
    if chosen_on is not None:
        refuse_mixed(split, chosen_on)
    run.start(config, resume=not overwrite)
    _refuse_changed(config.checkpoint, run)
    if not run.finished:
        predict(view, split, config, run, track)
    fullsup = _fullsup_run(view, chosen_on, inner, run, track) if chosen_on is not None else None
    metrics = score(run, config.method, config.thresholds, config.protocol, fullsup, track)
    if not run.finished:
        run.finish(None if has_masks(run) else _best_boxes(metrics, config.protocol))
    run.write_json(METRICS, metrics)
    return metrics


def _check_numbers(config: EvaluateConfig) -> None:
    """Raise what would otherwise be found only after all the maps are made."""
    threshold_grid(config.thresholds)
    for name in ("limit", "batch_size", "size"):
        number = getattr(config, name)
        if number is not None and number < 1:
            raise InputError(f"{name.replace('_', ' ')} is {number}, expected 1 or more")


def _open_scorable(config: EvaluateConfig, view: ClassifierView) -> Split:
    split = open_split(config.data, config.metadata, view.num_classes).take(config.limit).with_truth()
    if split.has_only_masks:
        refuse_exact(config.protocol)
    return split


def _refuse_changed(checkpoint: str | None, run: Run) -> None:
    """Raise where the weights are newer than maps of the run: old scores must not pass for theirs."""
    made, file = run.made(), Path(checkpoint or "")
    if made is not None and file.is_file() and file.stat().st_mtime > made:
        raise InputError(
            f"{file}: has changed since maps were made with it in {run.folder}; choose another --out or "
            "pass --overwrite"
        )


def _fullsup_run(view: ClassifierView, split: Split, config: EvaluateConfig, run: Run, track: Track) -> Run:
    """Maps of the split on which thresholds are chosen, in a run folder inside the run's own."""
    fullsup = Run(run.folder / "fullsup")
    fullsup.start(config)
    if not fullsup.finished:
        predict(view, split, config, fullsup, track)
        fullsup.finish()
    return fullsup


# -------------------------------------------------------------------------------------------- prediction


def predict(
    view: ClassifierView, split: Split, config: EvaluateConfig, run: Run, track: Track = silent
) -> None:
    """Write a record for every image of the split that the run does not hold yet."""
    requirements = requirements_of(config.method)
    preprocess = config.preprocess(view.model)
    sizes = [preprocess, preprocess.enlarged(ENLARGED)] if requirements.larger else [preprocess]

    def prepared(image: Image.Image) -> list[Tensor]:
        return [one(image) for one in sizes]

    def records(examples: Sequence[Example], images: Sequence[Tensor]) -> list[Record]:
        found = _records(view, examples, images, config, requirements)
        return with_masks(found, split, examples) if split.has_only_masks else found

    collect(split, prepared, config.batch_size, run, records, f"maps of {split.name}", track)


def _records(
    view: ClassifierView,
    examples: Sequence[Example],
    images: Sequence[Tensor],
    config: EvaluateConfig,
    requirements: Requirements,
) -> list[Record]:
    """Run the classifier and every map method on one batch."""
    with torch.inference_mode():
        batch, *more = (as_input(view.model, one) for one in images)
        output, forward_ms = _timed(lambda: run_model(view, batch, requirements), batch)
        logits = output.logits
        labels = torch.tensor([example.label for example in examples], device=batch.device)
        targets = labels if config.target == "label" else logits.argmax(1)
        inputs = MapInputs.from_output(output, view, batch, targets, config.norm, *more)
        maps, spent = {}, {"ms_forward": forward_ms}
        for name in config.method:
            found, spent[f"ms_{name}"] = _timed(partial(find_method(name), inputs), batch)
            maps[name] = found.float().cpu().numpy()
        strongest = _strongest(inputs, config.channels) if "cam" in config.method else {}
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
            **{name: values[index] for name, values in strongest.items()},
            **spent,
        }
        for index, example in enumerate(examples)
    ]


def _timed(work: Callable[[], Any], batch: Tensor) -> tuple[Any, float]:
    """What `work` returns, and its milliseconds an image."""

    def now() -> float:
        if batch.device.type == "cuda":
            torch.cuda.synchronize(batch.device)
        return time.perf_counter()

    begin = now()
    found = work()
    return found, 1000 * (now() - begin) / len(batch)


def _strongest(inputs: MapInputs, count: int) -> dict[str, np.ndarray]:
    """The channels of highest class weight of each image, for showing.

    Returns:
        "channel_index" (B, n) int32, "channel_weight" (B, n) float32 and "channel_maps" (B, n, h, w) uint8,
        each map over its own range; nothing where no channel was asked for.
    """
    if count < 1:
        return {}
    weights, _ = inputs.view.class_weights(inputs.features, inputs.targets, inputs.norm)
    best = weights.topk(min(count, weights.shape[1]), dim=1)
    maps = inputs.features[torch.arange(len(weights))[:, None], best.indices.cpu()].float()
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    scaled = (maps - low) / torch.where(high > low, high - low, 1) * 255
    return {
        "channel_index": best.indices.int().cpu().numpy(),
        "channel_weight": best.values.cpu().numpy(),
        "channel_maps": scaled.round().byte().cpu().numpy(),
    }


# ----------------------------------------------------------------------------------------------- scoring


def saved_methods(run: Run) -> tuple[str, ...]:
    """Names of the methods whose maps a run holds."""
    first = next(iter(run.records(1)))[0]
    return tuple(key.removeprefix("map_") for key in first if key.startswith("map_"))


def score(
    run: Run,
    methods: Sequence[str],
    thresholds: int = 1000,
    protocol: Protocol = "reference",
    fullsup: Run | None = None,
    track: Track = silent,
) -> dict[str, Any]:
    """Score the maps of a run, and of the baselines that have not looked at the images.

    Args:
        run: a finished run, or one whose parts are complete.
        methods: names of the maps.
        thresholds: number of thresholds.
        protocol: "reference" or "exact".
        fullsup: a run on a fully supervised split; thresholds best on it give the transferred scores.
        track: how to show progress.

    Returns:
        a dictionary for metrics.json: number of images, top-1 and top-5 accuracy, and for every method and
        baseline what `heatbox.evaluation.summary.summarise` says; for a run that holds masks in place of
        boxes what `heatbox.evaluation.summary.summarise_masks` says.

    Raises:
        InputError: a method whose maps the run does not hold, or an image without boxes.
    """
    held = saved_methods(run)
    if unknown := [name for name in methods if name not in held]:
        raise InputError(f"{run.folder}: holds no maps of {unknown[0]!r}, only of {', '.join(held)}")
    if has_masks(run):
        refuse_exact(protocol)
        return score_masks(run, methods, thresholds, fullsup, track)
    found, ranks = score_maps(run, methods, thresholds, protocol, track)
    chosen = score_maps(fullsup, methods, thresholds, protocol, track)[0] if fullsup else {}
    return table_of(found, chosen, ranks)


def score_maps(
    run: Run, methods: Sequence[str], thresholds: int, protocol: Protocol, track: Track = silent
) -> tuple[dict[str, MapScore], np.ndarray]:
    """Scores of each method and baseline, and the (N,) rank of each label among the logits."""
    fixed = {name: make(REFERENCE_SIDE, REFERENCE_SIDE) for name, make in BASELINES.items()}
    collectors = {name: _Collector(protocol, thresholds) for name in (*methods, *fixed)}
    ranks: list[np.ndarray] = []
    for batch in track(run.records(SCORED_AT_ONCE), "scoring", -(-len(run) // SCORED_AT_ONCE)):
        truth = [record["boxes"] for record in batch]
        sizes = [(record["width"], record["height"]) for record in batch]
        if empty := [record["id"] for record in batch if not len(record["boxes"])]:
            raise InputError(f"{run.folder}: image {empty[0]!r} has no box to be scored against")
        ranks.append(label_rank(np.stack([r["logits"] for r in batch]), [r["label"] for r in batch]))
        for name, collector in collectors.items():
            maps = (
                [fixed[name]] * len(batch)
                if name in fixed
                else [normalize_heatmap(record[f"map_{name}"], REFERENCE_SIDE) for record in batch]
            )
            collector.update([record["id"] for record in batch], maps, truth, sizes)
    return {name: collector.result() for name, collector in collectors.items()}, np.concatenate(ranks)


class _Collector:
    """Scores a stream of maps and keeps each image's outcome, a few hundred bytes an image."""

    def __init__(self, protocol: Protocol, thresholds: int) -> None:
        self.scorer = BoxScorer(protocol, thresholds)
        self.ids: list[str] = []
        self.packed: dict[str, list[np.ndarray]] = {name: [] for name in self.scorer.metrics}

    def update(self, ids: Sequence[str], maps: Any, truth: Any, sizes: Any) -> None:
        bits = self.scorer.update(maps, truth, sizes, records=True)
        self.ids += ids
        for name, value in bits.items():
            self.packed[name].append(np.packbits(value, axis=2))

    def result(self) -> MapScore:
        packed = {name: np.concatenate(values) for name, values in self.packed.items()}
        scores = self.scorer.compute()
        records = Records(self.ids, packed, self.scorer.thresholds)
        return MapScore(scores[LARGEST], scores[EVERY], records)


def _best_boxes(metrics: dict[str, Any], protocol: Protocol) -> Callable[[Record], dict[str, Any]]:
    """Columns of predictions.parquet that need the best thresholds: each method's box and its scored IoU.

    The box is the one of the largest contour in pixels of the image, half-open, (0, 4) where there is none.
    The IoU is the one that is scored: that of the boxes in the 224 x 224 frame, in the convention of the
    protocol.
    """
    reference = protocol == "reference"
    frame = (REFERENCE_SIDE, REFERENCE_SIDE)
    best = {
        name: found["threshold"]
        for name, found in metrics["methods"].items()
        if name not in metrics["baselines"]
    }

    def columns(record: Record) -> dict[str, Any]:
        size = (record["width"], record["height"])
        truth = scale_boxes(record["boxes"], size, frame, truncate=reference)
        found: dict[str, Any] = {}
        for name, threshold in best.items():
            boxes = frame_boxes(record[f"map_{name}"], threshold, protocol=protocol)
            scored = to_convention(boxes - [0, 0, 1, 1], frame, protocol) if len(boxes) else np.zeros((1, 4))
            found[f"box_{name}"] = to_image(boxes, size)
            found[f"iou_{name}"] = float(box_iou(scored, truth, inclusive=reference).max())
        return found

    return columns
