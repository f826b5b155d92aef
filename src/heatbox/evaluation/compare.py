"""Differences between two runs: settings, scores, and the images that only one of them localizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heatbox._utils.progress import Track, silent
from heatbox.errors import InputError
from heatbox.evaluation.run import LATER_KEYS, Run, short_names
from heatbox.evaluation.score import score_maps
from heatbox.evaluation.summary import EVERY, LARGEST, SplitScore, own_maps
from heatbox.metrics.bootstrap import Interval, paired_interval


def compare_runs(first: Path, second: Path, track: Track = silent) -> dict[str, Any]:
    """Compare two finished runs of `heatbox evaluate`, the second minus the first.

    Scores are compared on the images that both runs contain, each map at the thresholds best on all images of
    its own run; an image is a hit where the box of the largest contour reaches IoU .5.

    Args:
        first: folder of a run.
        second: folder of another.
        track: how to show progress.

    Returns:
        a dictionary for JSON: "runs", "images", "only_in" (images of only one run), "config" (key →
        the two values, where they differ), "scores" (map → score → first, second, difference and its 95%
        interval over images), "flipped" (map → "gained" and "lost" ids), "methods_only_in".

    Raises:
        InputError: a folder contains no finished run, the runs share no map or no image, or an image has
            different boxes in the two runs.
    """
    runs = Run(first), Run(second)
    configs = [run.settings() for run in runs]
    for run in runs:
        run.require_finished()
        if run.has_masks:
            raise InputError(
                f"{run.folder}: was scored against masks; expected a run on a data set with boxes"
            )
    methods = [own_maps(run.scores()) for run in runs]
    shared = [name for name in methods[0] if name in methods[1]]
    if not shared:
        raise InputError(
            f"{first} and {second} share no map: {', '.join(methods[0])}; {', '.join(methods[1])}"
        )
    truths = [_truths(run) for run in runs]
    ids = [name for name in truths[0] if name in truths[1]]
    if not ids:
        raise InputError(f"{first} and {second} share no image")
    if other := [name for name in ids if truths[0][name] != truths[1][name]]:
        raise InputError(f"{first} and {second}: image {other[0]!r} has other boxes in one than in the other")
    found = [
        score_maps(
            run, shared, config["thresholds"], config["protocol"], track, normalize=config["normalize"]
        )[0]
        for run, config in zip(runs, configs, strict=True)
    ]
    names = short_names([first, second])
    return {
        "runs": names,
        "images": len(ids),
        "only_in": {name: len(truth) - len(ids) for name, truth in zip(names, truths, strict=True)},
        "methods_only_in": {
            name: [one for one in some if one not in shared]
            for name, some in zip(names, methods, strict=True)
        },
        "config": config_differences(*(LATER_KEYS | run.config() for run in runs)),
        "scores": {name: _scores(found[0][name], found[1][name], ids) for name in shared},
        "flipped": {name: _flipped(found[0][name], found[1][name], ids) for name in shared},
    }


def config_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Each key whose value differs → the two values, None where one has no such key."""
    keys = list(dict.fromkeys([*first, *second]))
    return {key: [first.get(key), second.get(key)] for key in keys if first.get(key) != second.get(key)}


def _truths(run: Run) -> dict[str, Any]:
    """Id → size and boxes of each image."""
    return {
        record["id"]: (record["width"], record["height"], record["boxes"].tolist())
        for batch in run.records()
        for record in batch
    }


def _hits(score: SplitScore, name: str, ids: Sequence[str]) -> np.ndarray:
    """(N, I) outcomes at the best thresholds, in the order of the ids."""
    place = {image: index for index, image in enumerate(score.outcomes.ids)}
    return score.at_best(name)[[place[image] for image in ids]]


def _scores(first: SplitScore, second: SplitScore, ids: Sequence[str]) -> dict[str, Any]:
    table = {}
    for name in (LARGEST, EVERY):
        one, other = _hits(first, name, ids), _hits(second, name, ids)
        difference: Interval = paired_interval(other, one)
        table[name] = {
            "first": 100 * float(one.mean()),
            "second": 100 * float(other.mean()),
            "difference": difference.estimate,
            "interval": [difference.low, difference.high],
        }
    thresholds = [float(score.scores[LARGEST].threshold[score.half]) for score in (first, second)]
    return {**table, "thresholds": thresholds}


def _flipped(first: SplitScore, second: SplitScore, ids: Sequence[str]) -> dict[str, list[str]]:
    one, other = (_hits(score, LARGEST, ids)[:, 0] for score in (first, second))
    return {
        "gained": [name for name, flip in zip(ids, ~one & other, strict=True) if flip],
        "lost": [name for name, flip in zip(ids, one & ~other, strict=True) if flip],
    }


def comparison_lines(found: Mapping[str, Any], most: int = 10) -> list[str]:
    """The comparison as lines of text.

    Args:
        found: what `compare_runs` returns.
        most: ids named of each kind of flipped images.
    """
    first, second = found["runs"]
    lines = [f"{second} minus {first}, {found['images']} images that both contain"]
    lines += [f"  {count} images are only in {name}" for name, count in found["only_in"].items() if count]
    lines += [
        f"  only in {name}: the maps {', '.join(names)}"
        for name, names in found["methods_only_in"].items()
        if names
    ]
    lines.append("config:" if found["config"] else "config: the same")
    lines += [f"  {key}: {old!r} -> {new!r}" for key, (old, new) in found["config"].items()]
    lines.append("scores, each map at its own best thresholds [95% interval of the difference]:")
    for name, scores in found["scores"].items():
        for score in (LARGEST, EVERY):
            one = scores[score]
            low, high = one["interval"]
            lines.append(
                f"  {name:<12} {score:<11} {one['first']:6.2f} -> {one['second']:6.2f}  "
                f"{one['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
            )
    lines.append("images whose box changed sides of IoU .5:")
    for name, flips in found["flipped"].items():
        for kind, words in (("gained", "now hit"), ("lost", "now missed")):
            ids = flips[kind]
            more = f", … ({len(ids) - most} more: --json)" if len(ids) > most else ""
            lines.append(f"  {name:<12} {words:<10} {len(ids):4}  {', '.join(ids[:most])}{more}")
    return lines
