"""Faithfulness of maps over a data set: the scores of `heatbox.metrics.faithfulness` for each image and map.

The maps that `heatbox evaluate` would save are resized to the network's input and measured at once, so that
the network runs on the changed images in full batches. A run folder has a record for each image; its scores
are in faithfulness.json.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heatbox._utils import processes
from heatbox._utils.checks import check_integer
from heatbox._utils.progress import Track, silent
from heatbox.config import EvaluateConfig, FaithfulnessConfig, ScoreFunction
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.images import left_out_counts, require_same_labels, save_images
from heatbox.evaluation.predict import maps_of_batch, prepare, run_inference
from heatbox.evaluation.run import Record, Run, require_older
from heatbox.evaluation.schema import wrong_column
from heatbox.inference.scores import score_function, trained_function
from heatbox.maps.baselines import centre_gaussian
from heatbox.maps.normalize import normalize_heatmap
from heatbox.maps.registry import (
    ENLARGED,
    MapInputs,
    refuse_heads,
    requirements_of,
    run_model,
)
from heatbox.metrics import faithfulness as fn
from heatbox.metrics.bootstrap import bootstrap_interval, paired_interval
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import as_input, input_channels, placement

FAITHFULNESS = "faithfulness.json"
CENTRE, RANDOM = "centre-gaussian", "random"
BASELINES = (CENTRE, RANDOM)
"""Maps that do not depend on the image: a Gaussian in its centre, and noise."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "deletion": ("deletion",),
    "insertion": ("insertion",),
    "drop": ("average_drop", "average_increase", "average_gain"),
    "road": ("road_most", "road_least", "road"),
}
"""Measure → its scores of an image."""

_FILLS: dict[str, fn.Fill] = {"deletion": "zero", "insertion": "blur", "drop": "zero"}
"""Measure → what removed pixels become in the paper that defines it."""


def measure_faithfulness(
    config: FaithfulnessConfig,
    run: Run,
    track: Track = silent,
    overwrite: bool = False,
    model: nn.Module | None = None,
    split: Split | None = None,
) -> dict[str, Any]:
    """Measure the maps of a data set; an interrupted run is resumed.

    Args:
        config: the model, the data, the methods and the measures.
        run: the run folder.
        track: how to show progress.
        overwrite: remove what an earlier run left in the folder.
        model: the classifier; by default it is built from the config.
        split: the images; by default they are opened from the config.

    Returns:
        the content of faithfulness.json: "images", "score_function", the options, "methods" (name → score →
        "value" and "interval" in percent), "curves" (method → the mean curve of each of deletion and
        insertion), "baselines", and the paired "differences" between methods.

    Raises:
        InputError: bad input; what was computed before it stays in the run folder.
    """
    if not config.method or not config.measure:
        raise InputError("no map method or no measure was named, expected one or more of each")
    for option in ("steps", "batch_size"):
        check_integer(getattr(config, option), option.replace("_", " "))
    if not config.percentiles or not all(0 < one < 100 for one in config.percentiles):
        raise InputError(f"percentiles are {list(config.percentiles)}, expected some between 0 and 100")
    if config.foreground is None:
        refuse_heads(config.method, "heatbox faithfulness without --foreground FILE")
    ready = prepare(_as_evaluation(config), model, split, boxes=False)
    view, split, left_out, head = ready.view, ready.split, ready.left_out, ready.head
    config = dataclasses.replace(config, method=ready.config.method)
    preprocess = config.preprocess(view.model)
    requirements = requirements_of(config.method, view)
    if model is None:
        _lay_out(view, preprocess.size)
    run.start(config, config.seed, resume=not overwrite)
    require_same_labels(run, split)
    for file in (config.checkpoint, config.foreground):
        require_older(Path(file or ""), run.made(), f"maps were measured with it in {run.folder}")
    function = score_function(config.scores, view.num_classes, trained_function(view))
    if not run.finished:
        sizes = [preprocess, preprocess.enlarged(ENLARGED)] if requirements.larger else [preprocess]

        def prepared(image: Any) -> list[Tensor]:
            return [one(image) for one in sizes]

        def records(examples: Sequence[Example], images: Sequence[Tensor]) -> list[Record]:
            batch, *more = (as_input(view.model, one) for one in images)
            with torch.no_grad():  # not inference mode: gradient methods follow
                output = run_model(view, batch, requirements)
                labels = torch.tensor([example.label for example in examples], device=batch.device)
                targets = labels if config.target == "label" else output.logits.argmax(1)
                larger = more[0] if more else None
                inputs = MapInputs.from_output(output, view, batch, targets, config.norm, larger)
                tensors, _ = maps_of_batch(inputs, config.method, head)
                maps = {name: found.float().cpu() for name, found in tensors.items()}
            return _measure(view, function, examples, batch, output.logits, targets, maps, config)

        run_inference(
            split,
            prepared,
            config.batch_size,
            run,
            records,
            f"faithfulness on {split.name}",
            track,
            shard_size=config.batch_size,
            channels=preprocess.channels,
            unreadable=left_out.unreadable if config.on_bad == "skip" else None,
        )
    processes.only_first_goes_on()
    if not run.finished:
        save_images(run, split, left_out)
        run.finish()
    found = _summary(run, config, function)
    if counts := left_out_counts(run):  # also of a run that was finished before
        found["left_out"] = counts
    run.write_json(FAITHFULNESS, found)
    return found


def _as_evaluation(config: FaithfulnessConfig) -> EvaluateConfig:
    """What an evaluation of the same maps would be asked for."""
    shared = set(FaithfulnessConfig.__dataclass_fields__) & set(EvaluateConfig.__dataclass_fields__)
    return EvaluateConfig(**{name: getattr(config, name) for name in shared - {"_"}})


def _lay_out(view: ClassifierView, size: tuple[int, int]) -> None:
    """Lay a network's weights out for channels last, which is faster on a CPU, unless it cannot run so."""
    device, dtype = placement(view.model)
    if device.type != "cpu":
        return
    view.model.to(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            view.extract(torch.zeros(1, input_channels(view.model), *size, dtype=dtype), 0)
    except RuntimeError:  # it takes views of its features
        view.model.to(memory_format=torch.contiguous_format)


def _measure(
    view: ClassifierView,
    function: ScoreFunction,
    examples: Sequence[Example],
    images: Tensor,
    logits: Tensor,
    targets: Tensor,
    maps: Mapping[str, Tensor],
    config: FaithfulnessConfig,
) -> list[Record]:
    """The record of each image of a batch: its scores for every map."""

    def score_images(changed: Tensor) -> Tensor:
        return _probabilities(view.extract(changed, 0).logits, function)

    seeds = [config.seed + zlib.crc32(example.id.encode()) for example in examples]
    sides = (int(images.shape[2]), int(images.shape[3]))
    heatmaps = {name: torch.from_numpy(normalize_heatmap(found, sides)) for name, found in maps.items()}
    heatmaps[CENTRE] = torch.from_numpy(centre_gaussian(*sides)).expand(len(images), -1, -1)
    heatmaps[RANDOM] = torch.stack(
        [torch.rand(sides, generator=torch.Generator().manual_seed(one)) for one in seeds]
    )
    original = _probabilities(logits, function)[range(len(images)), targets.tolist()].float().cpu()
    records: list[Record] = [
        {"id": example.id, "label": example.label, "target": target, "score": score}
        for example, target, score in zip(examples, targets.tolist(), original.tolist(), strict=True)
    ]
    fills = {_fill(one, config) for one in config.measure if one in ("deletion", "insertion")}
    removed = {
        fill: fn.removed_scores(score_images, images, targets, fill, config.batch_size) for fill in fills
    }  # the same for every map
    for name, heatmap in heatmaps.items():
        found = _scores_of(score_images, images, heatmap, targets, original, removed, seeds, config)
        for column, values in found.items():
            for record, value in zip(records, values.numpy(), strict=True):
                record[f"{column}_{name}"] = float(value) if value.ndim == 0 else value
    return records


def _scores_of(
    score_images: fn.ScoreImages,
    images: Tensor,
    heatmaps: Tensor,
    targets: Tensor,
    original: Tensor,
    removed: Mapping[fn.Fill, Tensor],
    seeds: Sequence[int],
    config: FaithfulnessConfig,
) -> dict[str, Tensor]:
    """Name → (N,) scores, and (N, S + 1) curves, of one map of each image."""
    found: dict[str, Tensor] = {}
    for measure in config.measure:
        fill = _fill(measure, config)
        if measure == "road":
            road = fn.road(
                score_images,
                images,
                heatmaps,
                targets,
                config.percentiles,
                seed=seeds,
                batch_size=config.batch_size,
                original=original,
            )
            found |= {"road_most": road.most, "road_least": road.least, "road": road.combined}
        elif measure == "drop":
            _, masked = fn.masked_scores(
                score_images, images, heatmaps, targets, fill, config.batch_size, original
            )
            for column in COLUMNS[measure]:
                found[column] = getattr(fn, column)(original, masked)
        else:
            curves = fn.removal_curves(
                score_images,
                images,
                heatmaps,
                targets,
                measure,
                config.steps,
                fill,
                config.batch_size,
                original,
                removed[fill],
            )
            found |= {f"{measure}_curve": curves, measure: fn.area_under_curve(curves)}
    return found


def _fill(measure: str, config: FaithfulnessConfig) -> fn.Fill:
    return _FILLS.get(measure, "zero") if config.fill == "published" else config.fill


def _probabilities(logits: Tensor, function: ScoreFunction) -> Tensor:
    return logits.float().softmax(1) if function == "softmax" else logits.float().sigmoid()


def _summary(run: Run, config: FaithfulnessConfig, function: ScoreFunction) -> dict[str, Any]:
    """Scores with intervals, mean curves and paired differences, from the records of a run."""
    columns = [column for measure in config.measure for column in COLUMNS[measure]]
    curved = [measure for measure in config.measure if measure in ("deletion", "insertion")]
    names = [*config.method, *BASELINES]
    values: dict[tuple[str, str], list[float]] = {key: [] for key in itertools.product(names, columns)}
    totals = {key: np.zeros(config.steps + 1) for key in itertools.product(names, curved)}
    images = 0
    for batch in run.records():
        images += len(batch)
        for record in batch:
            for (name, column), found in values.items():
                found.append(float(_numbers(record, f"{column}_{name}")))
            for (name, measure), total in totals.items():
                total += _numbers(record, f"{measure}_curve_{name}", config.steps + 1)
    whole = {key: np.array(found) for key, found in values.items()}
    kept = ("measure", "steps", "fill", "percentiles", "target", "seed")
    return {
        "images": images,
        "score_function": function,
        **{name: getattr(config, name) for name in kept},
        "methods": {name: {c: _interval(whole[name, c]) for c in columns} for name in names},
        "curves": {
            name: {m: (totals[name, m] / images).tolist() for m in curved} for name in names if curved
        },
        "baselines": list(BASELINES),
        "differences": [
            {"first": later, "second": earlier}
            | {c: _interval(whole[later, c], whole[earlier, c]) for c in columns}
            for earlier, later in itertools.combinations(config.method, 2)
        ],
    }


def _numbers(record: Record, name: str, *shape: int) -> np.ndarray:
    """The numbers of a shape in a column of a saved record.

    Raises:
        InputError: the column has other values; the message names the file, the column and the image.
    """
    found = np.asarray(record[name])
    if found.dtype.kind not in "iuf" or found.shape != shape:
        words = f"{shape[0]} numbers" if shape else "a number"
        raise wrong_column(record, name, words)
    return found


def _interval(values: np.ndarray, other: np.ndarray | None = None) -> dict[str, Any]:
    interval = partial(paired_interval, other=other) if other is not None else bootstrap_interval
    found = interval(values, resamples=2000)
    return {"value": found.estimate, "interval": [found.low, found.high]}
