"""Make the maps of a data set, save them, and score them.

The two steps share only the run folder: `predict` writes one record per image with its low-resolution maps,
`heatbox.evaluation.score.score_run` reads the records and returns the scores. Rescoring a finished run
therefore executes the same code on the same data.
"""

from __future__ import annotations

import copy
import dataclasses
import time
import typing
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from heatbox._utils import processes
from heatbox._utils.checks import check_integer
from heatbox._utils.progress import Track, silent
from heatbox.boxes.contours import Protocol, threshold_grid, to_convention
from heatbox.boxes.ops import REFERENCE_FRAME, box_iou, scale_boxes
from heatbox.config import EvaluateConfig, ScoreFunction
from heatbox.data.files.images import picture_size
from heatbox.data.files.remote import shown
from heatbox.data.loader import preprocessed
from heatbox.data.problems import LeftOut
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.collection import ImageCollection, head_note, kept, save_head
from heatbox.evaluation.images import open_images, require_same_labels, save_images
from heatbox.evaluation.run import FOREGROUND, FULLSUP, HEAD, IMAGE, MASK, METRICS, Record, Run, require_older
from heatbox.evaluation.score import masks_of, require_comparable, score_run
from heatbox.evaluation.summary import own_maps
from heatbox.inference.boxes import frame_boxes, place_map
from heatbox.inference.calibration import Calibration
from heatbox.inference.collection import features_shape, fitted_on, head_seed, usable_head
from heatbox.inference.scores import class_scores, score_function, trained_function
from heatbox.maps.foreground import ForegroundHead, Projection, foreground
from heatbox.maps.normalize import check_normalization
from heatbox.maps.registry import (
    ENLARGED,
    ForegroundName,
    MapInputs,
    Requirements,
    check_requirements,
    find_method,
    named_for,
    projected_features,
    requirements_of,
    run_model,
    with_seed,
)
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import as_input, placement

RECORDS_A_SHARD = 256


def evaluate(
    config: EvaluateConfig,
    run: Run,
    track: Track = silent,
    overwrite: bool = False,
    model: nn.Module | None = None,
    split: Split | None = None,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Make and score the maps of a data set; an interrupted run is resumed.

    Processes that share the images, see `heatbox._utils.processes`, end here with exit code 0, except for
    the first.

    Args:
        config: the model, the data, the methods and how to score.
        run: the run folder.
        track: how to show progress.
        overwrite: remove what an earlier run left in the folder.
        model: the classifier; by default it is built from the config.
        split: the images; by default they are opened from the config.
        calibration: thresholds that are scored beside the best ones; see `score_run`.

    Returns:
        the scores, as saved in metrics.json.

    Raises:
        InputError: bad input; what was computed before it stays in the run folder.
    """
    ready = prepare(config, model, split)
    if calibration is not None:
        require_calibrated(calibration, ready.config.method, config.normalize)
    fullsup = make_maps(ready, run, track, overwrite)
    processes.only_first_goes_on()
    return save_scores(run, fullsup, ready.config, ready.config.method, ready.function, track, calibration)


def require_calibrated(calibration: Calibration, methods: Sequence[str], normalize: str) -> None:
    """Check that a calibration is of one of some maps, before anything is computed.

    Raises:
        InputError: it is of other maps only, or of maps that are normalized in another way.
    """
    if not any(name in calibration.methods for name in methods):
        calibration.of(methods[0])  # raises
    calibration.require_settings({"normalize": normalize})


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What an evaluation of one network needs, checked before anything is computed.

    Attributes:
        config: the configuration; its methods have the names that they have for this network.
        view: the classifier.
        names: method that was asked for → its name for this network.
        function: how its logits become scores of classes.
        head: the foreground head that was given.
        split: the images.
        left_out: what is left out of them.
        chosen_on: the images on which thresholds are chosen, if they are others.
        left_out_of_chosen: what is left out of those.
    """

    config: EvaluateConfig
    view: ClassifierView
    names: dict[str, str]
    function: ScoreFunction
    head: ForegroundHead | None
    split: Split
    left_out: LeftOut
    chosen_on: Split | None
    left_out_of_chosen: LeftOut

    @property
    def inner(self) -> EvaluateConfig:
        """The configuration of the run on the images on which thresholds are chosen."""
        return without_fullsup(self.config)


def without_fullsup(config: EvaluateConfig) -> EvaluateConfig:
    """The configuration of the run on the fully supervised split of another."""
    metadata = config.fullsup_metadata
    return dataclasses.replace(config, data=config.fullsup or "", metadata=metadata, fullsup=None)


def prepare(
    config: EvaluateConfig, model: nn.Module | None = None, split: Split | None = None, boxes: bool = True
) -> Prepared:
    """Build the network and open the images.

    Args:
        config: the model, the data, the methods and how to score.
        model: the classifier; by default it is built from the config.
        split: the images; by default they are opened from the config.
        boxes: whether the images need boxes, or masks.

    Raises:
        InputError: whatever can be wrong with them.
    """
    if not config.method:
        raise InputError("no map method was asked for")
    asked = [with_seed(name, config.walk_seed, config.foreground_seed) for name in config.method]
    for name in asked:
        find_method(name)  # an unknown one is reported before anything is built
    _check_numbers(config)
    model = config.build() if model is None else config.to_device(model)
    preprocess = config.preprocess(model)  # a size or mean that no input can have is reported here
    view = ClassifierView(model, config.output, preprocess.size)
    names = {name: named_for(view, name) for name in asked}
    methods = tuple(dict.fromkeys(names.values()))
    config = dataclasses.replace(config, method=methods)
    seeds = fitted_seeds(methods, config.foreground, view)
    check_requirements(view, requirements_of((*methods, *seeds), view))
    head = None if config.foreground is None else run_head(view, None, config, None)
    split, left_out = _open(config, view, split, boxes)
    inner = without_fullsup(config)
    chosen_on, left_out_of_chosen = _open(inner, view) if config.fullsup is not None else (None, LeftOut())
    require_comparable(config.protocol, split, chosen_on)
    function = score_function(config.scores, view.num_classes, trained_function(view))
    return Prepared(config, view, names, function, head, split, left_out, chosen_on, left_out_of_chosen)


def make_maps(ready: Prepared, run: Run, track: Track = silent, overwrite: bool = False) -> Run | None:
    """Make the maps of a run as far as it lacks them; the shards are not joined yet.

    Args:
        ready: the network and the images.
        run: the run folder.
        track: how to show progress.
        overwrite: remove what an earlier run left in the folder.

    Returns:
        the finished run on the images on which thresholds are chosen, if there are any.

    Raises:
        InputError: the folder contains another run, or an image cannot be read.
    """
    config, view, split, head = ready.config, ready.view, ready.split, ready.head
    run.start(config, resume=not overwrite)
    require_same_labels(run, split)
    for file in (config.checkpoint, config.foreground):
        require_older(Path(file or ""), run.made(), f"maps were made with it in {run.folder}")
    head = ready.head or run_head(view, split, config, run, track)
    if not run.finished:
        predict(view, split, config, run, track, ready.left_out, head)
        if processes.is_first():
            save_images(run, split, ready.left_out)
            if head is not None:
                run.write_json(FOREGROUND, head_note(head, split, config.foreground))
    if ready.chosen_on is None:
        return None
    fullsup = Run(run.folder / FULLSUP)  # a run of its own inside
    fullsup.start(ready.inner)
    if not fullsup.finished:
        predict(view, ready.chosen_on, ready.inner, fullsup, track, ready.left_out_of_chosen, head)
        if processes.is_first():
            save_images(fullsup, ready.chosen_on, ready.left_out_of_chosen)
            fullsup.finish()
    return fullsup


def save_scores(
    run: Run,
    fullsup: Run | None,
    config: EvaluateConfig,
    methods: Sequence[str],
    function: ScoreFunction,
    track: Track = silent,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Score a run whose maps are made, finish it, and write metrics.json.

    Args:
        run: the run.
        fullsup: the run on the images on which thresholds are chosen.
        config: how to score.
        methods: names of the maps.
        function: how logits become scores of classes.
        track: how to show progress.
        calibration: see `score_run`.

    Returns:
        the scores.
    """
    metrics = score_run(
        run,
        methods,
        config.thresholds,
        config.protocol,
        fullsup,
        track,
        config.metrics,
        calibration,
        config.normalize,
    )
    if not run.finished:
        run.finish(_columns(metrics, config.protocol, run.has_masks, function, config.normalize))
    run.write_json(METRICS, {**metrics, "scores": function})
    return metrics


def _check_numbers(config: EvaluateConfig) -> None:
    """Raise errors here that would otherwise be found only after all maps are made."""
    threshold_grid(config.thresholds)
    check_normalization(config.normalize)
    for name in ("limit", "batch_size", "size"):
        if (number := getattr(config, name)) is not None:
            check_integer(number, name.replace("_", " "))


def _open(
    config: EvaluateConfig, view: ClassifierView, split: Split | None = None, boxes: bool = True
) -> tuple[Split, LeftOut]:
    if split is not None:
        return open_images(split, target=config.target, on_bad=config.on_bad, boxes=boxes)
    names = config.class_names(view.model, view.num_classes)
    return open_images(
        config.data,
        config.metadata,
        view.num_classes,
        names,
        config.target,
        config.on_bad,
        config.limit,
        boxes,
    )


# -------------------------------------------------------------------------------------------- prediction


class RecordStore(typing.Protocol):
    """Where `run_inference` saves records: a `Run`, or any object with the same two methods."""

    def done(self) -> set[str]:
        """Ids of the images that it contains."""

    def append(self, records: Sequence[Record]) -> None:
        """Save the records of some images, or of none."""


def run_inference(
    split: Split,
    preprocess: Callable[[Any], Any],
    batch_size: int,
    store: RecordStore,
    records: Callable[[Sequence[Example], Any], list[Record]],
    what: str,
    track: Track = silent,
    shard_size: int = RECORDS_A_SHARD,
    channels: int | None = None,
    unreadable: Callable[[Example, InputError], None] | None = None,
) -> None:
    """Append a record for every image of the split that the store does not contain yet.

    Several processes share the images that the store lacks, see `heatbox._utils.processes`. Each appends its
    own records to a run; to any other store the first appends those of all. All return when the last has
    ended; the records are then in the order of the split.

    Args:
        split: the images.
        preprocess: image → input, or a list of inputs.
        batch_size: images per call of `records`.
        store: for example a run folder; a shard is written every `shard_size` images, and when an error ends
            the loop.
        records: (examples, (B, C, H, W) inputs, or a list of them) → a record for each, with its id under
            "id".
        what: label of the progress bar.
        track: how to show progress.
        shard_size: least number of images in a shard.
        channels: of the network's input; by default those of the preprocessing, or 3.
        unreadable: receives the images that cannot be read, which get no record; by default the first is
            raised.

    Raises:
        InputError: an image that cannot be read; the records before it are saved.
    """
    done = processes.from_first(store.done)
    todo: Sequence[Example] = [example for example in split if example.id not in done]
    rounds = None
    if isinstance(store, Run):
        todo = processes.own_part(todo, batch_size)
    else:
        todo, rounds = processes.own_turns(todo, batch_size)
    bad: list[tuple[int, str]] = []
    place = {example.id: number for number, example in enumerate(split)} if processes.are_sharing() else {}

    def unreadable_here(example: Example, error: InputError) -> None:
        bad.append((place[example.id], str(error)))

    report = unreadable_here if place and unreadable is not None else unreadable
    waiting: list[Record] = []
    writer, saved = ThreadPoolExecutor(1), Future[None]()  # a shard is written beside the next batch
    saved.set_result(None)
    try:
        coming = preprocessed(split, todo, preprocess, batch_size, channels, report)
        for examples, images in track(coming, what, -(-len(todo) // batch_size)):
            waiting += records(examples, images)
            if rounds is not None:
                waiting, rounds = processes.joined_at_first(waiting), rounds - 1
            if len(waiting) >= shard_size:
                saved.result()
                saved, waiting = writer.submit(store.append, waiting), []
        for _ in range(rounds or 0):  # in which this process has no batch
            waiting = processes.joined_at_first(waiting)
    finally:  # a damaged image or an interruption does not lose what is already computed
        writer.shutdown()
        store.append(waiting)
        saved.result()
    for number, sentence in chain.from_iterable(processes.gathered(bad)):
        assert unreadable is not None
        unreadable(split.examples[number], InputError(sentence))
    if isinstance(store, Run):
        with processes.first_alone():
            if processes.is_first():
                store.sort(example.id for example in split)


def predict(
    view: ClassifierView,
    split: Split,
    config: EvaluateConfig,
    run: Run,
    track: Track = silent,
    left_out: LeftOut | None = None,
    head: ForegroundHead | None = None,
    keep: bool = False,
) -> None:
    """Write a record for every image of the split that the run does not contain yet.

    With `on_bad` "skip", an image that cannot be read has no record and is added to `left_out`. What is known
    of an image since the foreground head was fitted is not computed again, and stays in the folder only if it
    is to be kept.
    """
    if collection := ImageCollection(run):
        assert head is not None
        with processes.first_alone():
            if processes.is_first():
                cpu_head = copy.deepcopy(head).cpu()
                collection.finish(split, cpu_head, run, placed_maps, RECORDS_A_SHARD)
    _run_network(view, split, config, run, track, left_out, head)
    if processes.is_first() and not keep:
        collection.remove()


def fitted_seeds(methods: Sequence[str], given: Path | None, view: ClassifierView) -> list[str]:
    """The method to whose maps a head of some methods is to be fitted, if one is and none is given."""
    seed = None if given is not None else head_seed(methods, view)
    return [] if seed is None else [seed]


def run_head(
    view: ClassifierView,
    split: Split | None,
    config: EvaluateConfig,
    run: Run | None,
    track: Track = silent,
) -> ForegroundHead | None:
    """The foreground head of a run: the given one, or one that is fitted to its images if it has none yet.

    Args:
        view: the model.
        split: the images; not needed for a given head.
        config: the methods, and the given head.
        run: the run, started; not needed for a given head.
        track: how to show progress.

    Returns:
        None if no method has a head.

    Raises:
        InputError: a head that is given and not of these methods or this model; or as `predict`.
    """
    if head_seed(config.method) is None:
        if config.foreground is None:
            return None
        raise InputError(
            f"{config.foreground}: none of {', '.join(config.method)} is a map of a foreground head"
        )
    file = config.foreground
    if file is None:
        assert run is not None
        file = run.folder / HEAD
        if not run.finished and not file.exists():
            assert split is not None
            _fit_head(view, split, config, run, track)
    size = config.preprocess(view.model).size
    shape = features_shape(view, size, requirements_of(config.method, view))
    return usable_head(file, view, shape.channels, size)


def _fit_head(
    view: ClassifierView,
    split: Split,
    config: EvaluateConfig,
    run: Run,
    track: Track,
) -> None:
    """Fit a foreground head to the images and save it; resumed where an earlier call ended."""
    (seed,) = fitted_seeds(config.method, None, view)
    size = config.preprocess(view.model).size
    shape = features_shape(view, size, requirements_of(config.method, view))

    def work(images: Split, store: Run, projection: Projection | None) -> None:
        if projection is not None:
            projection = projection.to(placement(view.model)[0])
        _run_network(view, images, config, store, track, None, None, (seed, projection))

    collection = ImageCollection(run)
    for store in (collection.sample, collection.others):
        require_same_labels(store, split)
    projection = collection.gather(split, config.seed, shape, work)
    with processes.first_alone():
        if processes.is_first():
            head, chosen = collection.fit(split, projection, config.seed)
            about = fitted_on(view, len({one.file for one in chosen}), seed, size)
            about |= {"data": shown(config.data), "checkpoint": config.weights, "random_seed": config.seed}
            save_head(run, head, chosen, about)


def _run_network(
    view: ClassifierView,
    split: Split,
    config: EvaluateConfig,
    run: Run,
    track: Track,
    left_out: LeftOut | None,
    head: ForegroundHead | None,
    fit: tuple[str, Projection | None] | None = None,
) -> None:
    """Run the network on the images that a run does not contain yet, and append their records.

    Args:
        view, split, config, run, track, left_out, head: as for `predict`.
        fit: the seed of a head that is to be fitted and the projection of its features, None for the images
            on which that is to be fitted. The records then have no maps of the head but what it needs of the
            images, see `heatbox.evaluation.collection`.
    """
    requirements = requirements_of((*config.method, *(() if fit is None else fit[:1])), view)
    preprocess = config.preprocess(view.model)
    in_pairs = any(example.image for example in split)
    sizes = [preprocess, preprocess.enlarged(ENLARGED)] if requirements.larger else [preprocess]

    def prepared(image: Image.Image | np.ndarray) -> list[Tensor]:
        """The input of each size, and the part of the image that it shows unless that is all of it."""
        extent = [] if config.crop_pct is None else [torch.tensor(preprocess.extent(picture_size(image)))]
        return [one(image) for one in sizes] + extent

    def records(examples: Sequence[Example], images: Sequence[Tensor]) -> list[Record]:
        found = _records(view, examples, images, config, requirements, head, fit)
        if in_pairs:
            for record, example in zip(found, examples, strict=True):
                record[IMAGE] = example.file
        if split.has_only_masks:
            for record, mask in zip(found, masks_of(split, examples), strict=True):
                record[MASK] = mask
        return found

    report = LeftOut() if left_out is None else left_out  # an empty one is false
    skipped = report.unreadable if config.on_bad == "skip" else None
    what, channels = f"maps of {split.name}", preprocess.channels
    run_inference(
        split,
        prepared,
        config.batch_size,
        run,
        records,
        what,
        track,
        RECORDS_A_SHARD,
        channels,
        skipped,
    )


def _records(
    view: ClassifierView,
    examples: Sequence[Example],
    images: Sequence[Tensor],
    config: EvaluateConfig,
    requirements: Requirements,
    head: ForegroundHead | None,
    fit: tuple[str, Projection | None] | None,
) -> list[Record]:
    """Run the classifier and every map method on one batch; `fit` as for `_run_network`."""
    with torch.inference_mode():
        extents = images[-1] if config.crop_pct is not None else None
        inputs_of_sizes = images if extents is None else images[:-1]
        batch, *more = (as_input(view.model, one) for one in inputs_of_sizes)
        output, forward_ms = _timed(lambda: run_model(view, batch, requirements), batch)
        logits = output.logits
        labels = torch.tensor([example.label for example in examples], device=batch.device)
        targets = labels if config.target == "label" else logits.argmax(1)
        larger = more[0] if more else None
        inputs = MapInputs.from_output(output, view, batch, targets, config.norm, larger)
        further = kept(inputs, *fit, extents) if fit is not None else [{}] * len(examples)
        tensors, times = maps_of_batch(inputs, config.method, head)
        maps = {name: found.float().cpu().numpy() for name, found in tensors.items()}
        spent = {"ms_forward": forward_ms, **{f"ms_{name}": value for name, value in times.items()}}
        strongest = _strongest(inputs, config.channels) if "cam" in config.method else {}
        if extents is not None:  # maps of a crop become maps of the whole image
            maps = {
                name: found if head is None and ForegroundName.of(name) else placed_maps(found, extents)
                for name, found in maps.items()
            }
            if strongest:
                strongest["channel_maps"] = placed_maps(strongest["channel_maps"], extents)
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
            **further[index],
        }
        for index, example in enumerate(examples)
    ]


def maps_of_batch(
    inputs: MapInputs, methods: Sequence[str], head: ForegroundHead | None
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """(B, h, w) maps by method, and milliseconds per image of each, also where methods have a part in common.

    Without a head, the map of a method with one is that of its other part, or one value.
    """
    found: dict[str, Tensor] = {}
    spent: dict[str, float] = {}

    def part(name: str, work: Callable[[], Tensor]) -> tuple[Tensor, float]:
        if name not in found:
            found[name], spent[name] = _timed(work, inputs.images)
        return found[name], spent[name]

    maps, times = {}, {}
    for method in methods:
        parts = ForegroundName.of(method)
        if parts is None:
            maps[method], times[method] = part(method, partial(inputs.map_of, method))
            continue
        base, base_ms = part(parts.base, partial(inputs.map_of, parts.base)) if parts.base else (None, 0)
        features, ms = part("features", lambda: inputs.head_features)
        if head is None:
            maps[method] = torch.zeros(len(features), 1, 1) if base is None else base
        else:
            read, read_ms = part("read", partial(projected_features, head, features))
            shown, head_ms = part("head", partial(foreground, head, read, projected=True))
            maps[method], walk_ms = _timed(partial(parts.finish, base, head, read, shown), inputs.images)
            ms += read_ms + head_ms + walk_ms
        times[method] = base_ms + ms
    return maps, times


def placed_maps(maps: np.ndarray, extents: Tensor) -> np.ndarray:
    """(B, ..., h, w) maps of parts (B, 4) of images → (B, ..., 224, 224), of whole images; same dtype."""
    whole = []
    for one, extent in zip(maps, extents.tolist(), strict=True):
        placed = np.stack([place_map(each, extent) for each in one.reshape(-1, *one.shape[-2:])])
        if maps.dtype == np.uint8:
            placed = placed.round().clip(0, 255)
        whole.append(placed.reshape(*one.shape[:-2], *placed.shape[-2:]).astype(maps.dtype))
    return np.stack(whole)


def _timed(work: Callable[[], Any], batch: Tensor) -> tuple[Any, float]:
    """The result of `work`, and the milliseconds per image."""

    def now() -> float:
        if batch.device.type == "cuda":
            torch.cuda.synchronize(batch.device)
        return time.perf_counter()

    begin = now()
    found = work()
    return found, 1000 * (now() - begin) / len(batch)


def _strongest(inputs: MapInputs, count: int) -> dict[str, np.ndarray]:
    """The channels of highest class weight of each image, for the report page.

    Returns:
        "channel_index" (B, n) int32, "channel_weight" (B, n) float32 and "channel_maps" (B, n, h, w) uint8,
        each map scaled to its own range; empty if `count` is 0.
    """
    if count < 1:
        return {}
    weights = inputs.view.contributions(inputs.features, inputs.targets, inputs.norm).weights
    if weights is None:
        return {}
    weights = weights.mean((2, 3)) if weights.ndim == 4 else weights
    best = weights.topk(min(count, weights.shape[1]), dim=1)
    maps = inputs.features[torch.arange(len(weights))[:, None], best.indices.cpu()].float()
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    scaled = (maps - low) / torch.where(high > low, high - low, 1) * 255
    return {
        "channel_index": best.indices.int().cpu().numpy(),
        "channel_weight": best.values.cpu().numpy(),
        "channel_maps": scaled.round().byte().cpu().numpy(),
    }


def _columns(
    metrics: dict[str, Any], protocol: Protocol, masks: bool, function: ScoreFunction, normalize: str
) -> Callable[[Record], dict[str, Any]]:
    """Columns of predictions.parquet that are computed last: the score of the map's class, and boxes."""
    boxes = None if masks else _best_boxes(metrics, protocol, normalize)

    def columns(record: Record) -> dict[str, Any]:
        scores = class_scores(record["logits"], function)
        return {"score": float(scores[record["target"]]), **(boxes(record) if boxes else {})}

    return columns


def _best_boxes(
    metrics: dict[str, Any], protocol: Protocol, normalize: str
) -> Callable[[Record], dict[str, Any]]:
    """Columns of predictions.parquet that need the best thresholds: each method's box and its scored IoU.

    The box is the one of the largest contour in pixels of the image, half-open, (0, 4) where there is none.
    The IoU is the one that is scored: that of the boxes in the 224 x 224 frame, in the convention of the
    protocol.
    """
    reference = protocol == "reference"
    best = {name: metrics["methods"][name]["threshold"] for name in own_maps(metrics)}

    def columns(record: Record) -> dict[str, Any]:
        size = (record["width"], record["height"])
        truth = scale_boxes(record["boxes"], size, REFERENCE_FRAME, truncate=reference)
        found: dict[str, Any] = {}
        for name, threshold in best.items():
            boxes = frame_boxes(record[f"map_{name}"], threshold, protocol=protocol, normalize=normalize)
            scored = to_convention(boxes - [0, 0, 1, 1], REFERENCE_FRAME, protocol)
            scored = scored if len(boxes) else np.zeros((1, 4))
            found[f"box_{name}"] = scale_boxes(boxes, REFERENCE_FRAME, size, truncate=False)
            found[f"iou_{name}"] = float(box_iou(scored, truth, inclusive=reference).max())
        return found

    return columns
