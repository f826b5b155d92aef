"""Several networks together: a run of each, and the mean of their maps as a run that contains them.

``networks/1``, ...  the complete run of each network, in the order in which they are named
``networks.json``    name, model, checkpoint and foreground head of each

A record of the mean has the mean map of each method under its name, and the map of each network under
``METHOD (NETWORK)``. Labels and boxes are those of the data. The logits are those whose scores (softmax or
sigmoid) are the mean of the networks' scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heatbox._utils import processes
from heatbox._utils.io import read_json, to_json
from heatbox._utils.progress import Track, silent
from heatbox.config import EvaluateConfig, Networks, NetworksConfig, ScoreFunction
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.evaluation.images import require_same_labels
from heatbox.evaluation.predict import (
    RECORDS_A_SHARD,
    Prepared,
    make_maps,
    prepare,
    require_calibrated,
    save_scores,
    without_fullsup,
)
from heatbox.evaluation.run import (
    CLASSES,
    FULLSUP,
    IMAGE,
    LEFT_OUT,
    MASK,
    METRICS,
    NETWORKS,
    NETWORKS_NOTE,
    Record,
    Run,
    require_older,
)
from heatbox.inference.calibration import Calibration
from heatbox.inference.networks import common_outputs, logits_of, mean_name, mean_scores
from heatbox.maps.foreground import average_maps

_OF_THE_IMAGE = ("id", "label", "target", "width", "height", "boxes", IMAGE, MASK)
"""Columns of records that do not depend on the network."""


def evaluate_networks(
    config: NetworksConfig,
    run: Run,
    track: Track = silent,
    overwrite: bool = False,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Make and score the maps of several networks and their means; an interrupted run is resumed.

    Each network has its own preprocessing, matching of classes and foreground head. All are built and checked
    before the first map is made.

    Args:
        config: the networks, the data, the methods and how to score.
        run: the run folder.
        track: how to show progress.
        overwrite: remove what an earlier run left in the folder.
        calibration: thresholds of the means that are scored beside the best ones; see `score_run`.

    Returns:
        the scores of the means and of the networks, as saved in metrics.json.

    Raises:
        InputError: bad input, or networks of different classes or score functions; what was computed before
            it stays in the run folder.
    """
    each, names = config.each(), config.names()
    ready = [prepare(one) for one in each]
    function = _require_same_classes(ready, names)
    methods = _methods(ready)
    if calibration is not None:
        require_calibrated(calibration, list(methods), config.normalize)
    run.start(description(config, each[0], each), resume=not overwrite)
    require_same_labels(run, ready[0].split)
    for file in map(Path, (*config.checkpoint, *map(str, config.foreground))):
        require_older(file, run.made(), f"maps were made with it in {run.folder}")
    fullsup = Run(run.folder / FULLSUP) if config.fullsup is not None else None
    if not run.finished:
        parts, chosen_on = [], []
        for number, one in enumerate(ready, 1):
            part = Run(run.folder / NETWORKS / str(number))
            chosen = make_maps(one, part, track)
            if processes.is_first() and not (part.folder / METRICS).exists():
                save_scores(part, chosen, one.config, one.config.method, one.function, track)
            parts.append(part)
            chosen_on += [] if chosen is None else [chosen]
        processes.only_first_goes_on()
        average_runs(parts, names, methods, function, run, track)
        run.write_json(NETWORKS_NOTE, {"networks": _notes(parts, names, each)})
        if fullsup is not None:
            inner = [without_fullsup(one) for one in each]
            fullsup.start(description(config, inner[0], inner))
            if not fullsup.finished:
                average_runs(chosen_on, names, methods, function, fullsup, track)
                fullsup.finish()
    processes.only_first_goes_on()
    columns = [*methods, *(_of(name, network) for name in methods for network in names)]
    return save_scores(run, fullsup, each[0], columns, function, track, calibration)


def _of(method: str, network: str) -> str:
    return f"{method} ({network})"


def _require_same_classes(ready: Sequence[Prepared], names: Sequence[str]) -> ScoreFunction:
    """The function by which the logits of all networks become scores.

    Raises:
        InputError: the networks differ in it, in the number of their classes or in the order of them.
    """
    function = common_outputs(names, [one.view.num_classes for one in ready], [one.function for one in ready])
    for one, name in zip(ready[1:], names[1:], strict=True):
        require_same_split(ready[0].split, one.split, names[0], name)
    return function


def require_same_split(first: Split, other: Split, name: str, other_name: str) -> None:
    """Check that a data set has the same classes for two networks.

    Raises:
        InputError: an image has another class.
    """
    labels = {example.id: example.labels for example in first}
    for example in other:
        if example.labels != labels.get(example.id):
            one, two = (
                ", ".join(map(str, found or ())) for found in (labels.get(example.id), example.labels)
            )
            raise InputError(
                f"image {example.id!r} is class {one} of {name} and class {two} of {other_name}, "
                "expected networks with the classes in one order"
            )


def _methods(ready: Sequence[Prepared]) -> dict[str, list[str]]:
    """Name of each mean → the method of each network."""
    own = {asked: [one.names[asked] for one in ready] for asked in ready[0].names}
    return {mean_name(names, asked): names for asked, names in own.items()}


def description(config: Networks, first: Any, each: Sequence[Any]) -> dict[str, Any]:
    """The content of config.json: like that of one network, with the networks in a list.

    Args:
        config: names the networks.
        first: the configuration of the first network alone.
        each: the configuration of each.
    """
    content: dict[str, Any] = json.loads(to_json(first))
    networks = [
        {"model": one.model, "checkpoint": one.checkpoint, "foreground": one.foreground} for one in each
    ]
    return content | config.joined() | {"networks": networks}


def _notes(
    parts: Sequence[Run], names: Sequence[str], each: Sequence[EvaluateConfig]
) -> list[dict[str, Any]]:
    """What is known of each network, for metrics.json."""
    notes = []
    for part, name, one in zip(parts, names, each, strict=True):
        head = part.foreground()
        about = {"name": name, "model": one.model, "checkpoint": one.checkpoint}
        notes.append(about if head is None else about | {"foreground": head})
    return notes


# ------------------------------------------------------------------------------------------------- the mean


def average_runs(
    parts: Sequence[Run],
    names: Sequence[str],
    methods: Mapping[str, Sequence[str]],
    function: ScoreFunction,
    run: Run,
    track: Track,
) -> None:
    """Append the records of the mean to a run, as far as it lacks them, and copy what is known of the images.

    Args:
        parts: the finished run of each network.
        names: of the networks.
        methods: name of each mean → the method of each network.
        function: how logits become scores of classes.
        run: the run.
        track: how to show progress.
    """
    done = run.done()
    coming = (records for records in _together(parts) if records[0]["id"] not in done)
    groups = iter(lambda: list(islice(coming, RECORDS_A_SHARD)), [])
    for group in track(groups, "mean of the maps", -(-(len(parts[0]) - len(done)) // RECORDS_A_SHARD)):
        run.append(_mean(group, names, methods, function))
    for name in (LEFT_OUT, CLASSES):
        if (file := parts[0].folder / name).is_file():
            run.write_json(name, read_json(file))


def _together(parts: Sequence[Run]) -> Iterator[list[Record]]:
    """The records of each image in all runs, in the order of the first run.

    Images are in the same order in the others, except for those whose shard had been damaged.

    Raises:
        InputError: a run lacks an image.
    """
    first, *others = (chain.from_iterable(part.records()) for part in parts)
    read: list[dict[str, Record]] = [{} for _ in others]
    for record in first:
        found = [record]
        for part, coming, waiting in zip(parts[1:], others, read, strict=True):
            while record["id"] not in waiting:
                if (other := next(coming, None)) is None:
                    raise InputError(
                        f"{part.folder}: contains no map of image {record['id']!r}, which {parts[0].folder} "
                        "contains; --overwrite makes all maps again"
                    )
                waiting[other["id"]] = other
            found.append(waiting.pop(record["id"]))
        yield found


def _mean(
    group: Sequence[Sequence[Record]],
    names: Sequence[str],
    methods: Mapping[str, Sequence[str]],
    function: ScoreFunction,
) -> list[Record]:
    """The records of the mean for some images, each given by its record of each network."""
    stacked = [np.stack([one["logits"] for one in network]) for network in zip(*group, strict=True)]
    scores = mean_scores(stacked, function)
    logits = logits_of(scores, function)
    top5 = np.argsort(-scores, 1, kind="stable")[:, :5].astype(np.int32)
    maps = {
        mean: average_maps(
            [
                torch.from_numpy(np.stack([records[place][f"map_{name}"] for records in group]))
                for place, name in enumerate(own)
            ]
        ).numpy()
        for mean, own in methods.items()
    }
    found = []
    for index, records in enumerate(group):
        record = {name: records[0][name] for name in _OF_THE_IMAGE if name in records[0]}
        record |= {"top5": top5[index], "logits": logits[index]}
        record |= {f"map_{mean}": one[index] for mean, one in maps.items()}
        record["ms_forward"] = sum(one["ms_forward"] for one in records)
        for mean, own in methods.items():
            spent = [one[f"ms_{name}"] for one, name in zip(records, own, strict=True)]
            record[f"ms_{mean}"] = sum(spent)
            for one, name, network, time in zip(records, own, names, spent, strict=True):
                record[f"map_{_of(mean, network)}"] = one[f"map_{name}"]
                record[f"ms_{_of(mean, network)}"] = time
        found.append(record)
    return found
