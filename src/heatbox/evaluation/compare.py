"""Differences between two runs: settings, scores, and the images that only one of them localizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from heatbox._utils.progress import Track, silent
from heatbox.config import MetricName
from heatbox.errors import InputError
from heatbox.evaluation.pseudo import agreement, boxes_at_best, pseudo_source, some_of
from heatbox.evaluation.run import LATER_KEYS, Run, short_names
from heatbox.evaluation.score import score_maps
from heatbox.evaluation.summary import (
    EVERY,
    LARGEST,
    Images,
    SplitScore,
    image_values,
    own_maps,
    ranked_difference,
    ranking_of,
    values_of_part,
)
from heatbox.maps.baselines import BASELINES
from heatbox.metrics.bootstrap import Interval, paired_interval


def compare_runs(
    first: Path, second: Path, track: Track = silent, metrics: Sequence[MetricName] = ()
) -> dict[str, Any]:
    """Compare two finished runs of `heatbox evaluate`, the second minus the first.

    Scores are compared on the images that both runs contain, each map at the thresholds best on all images of
    its own run; an image is a hit where the box of the largest contour reaches IoU .5.

    Args:
        first: folder of a run.
        second: folder of another.
        track: how to show progress.
        metrics: scores besides those of boxes; by default those that one of the runs was scored with.

    Returns:
        a dictionary for JSON: "runs", "images", "only_in" (images of only one run), "config" (key →
        the two values, where they differ), "scores" (map → score → first, second, difference and its 95%
        interval over images), "flipped" (map → "gained" and "lost" ids), "methods_only_in". With
        pseudo_boxes among the metrics, "without_boxes": of each map of each run its MaxBoxAcc at the
        threshold that pseudo-boxes chose and its agreement with the others, the most agreeing first.

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
    known = get_args(MetricName)
    wanted = tuple(metrics) or tuple(
        dict.fromkeys(name for run in runs for name in run.config().get("metrics", ()) if name in known)
    )
    asked: tuple[MetricName, ...] = wanted
    if not metrics and "pseudo_boxes" in wanted:  # of one run, while the other may have no walk
        asked = ("all",)
    sources = [pseudo_source(names, asked, run.folder) for run, names in zip(runs, methods, strict=True)]
    choose = all(source is not None for source in sources)
    scored = [
        score_maps(
            run,
            names if choose else shared,
            config["thresholds"],
            config["protocol"],
            track,
            wanted,
            config["normalize"],
            source if choose else None,
        )
        for run, config, names, source in zip(runs, configs, methods, sources, strict=True)
    ]
    found, images = [one[0] for one in scored], [one[1] for one in scored]
    both = list(zip(found, images, strict=True))
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
        "scores": {
            name: _scores(found[0][name], found[1][name], ids)
            | _more_scores([(one[name], about) for one, about in both], ids, wanted)
            for name in shared
        },
        "flipped": {name: _flipped(found[0][name], found[1][name], ids) for name in shared},
        **({"without_boxes": _without_boxes(runs, configs, both, names, ids)} if choose else {}),
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


def _more_scores(
    both: Sequence[tuple[SplitScore, Images]], ids: Sequence[str], metrics: Sequence[MetricName]
) -> dict[str, Any]:
    """The scores of --metrics of one map in two runs, on the images that both contain."""
    places = [[list(score.outcomes.ids).index(name) for name in ids] for score, _ in both]
    parts = [
        values_of_part(image_values(score, images, metrics), images, np.array(place))
        for (score, images), place in zip(both, places, strict=True)
    ]
    table = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        defined = ~np.isnan(values[0]) & ~np.isnan(values[1])
        if not defined.any():
            continue
        one, other = (each[defined] for each in values)
        found = paired_interval(other, one, 1000)
        means = {"first": 100 * float(one.mean()), "second": 100 * float(other.mean())}
        table[name] = {**means, "difference": found.estimate, "interval": [found.low, found.high]}
    rankings = [ranking_of(images, np.array(place)) for (_, images), place in zip(both, places, strict=True)]
    if {"localization_ap", "all"} & set(metrics) and rankings[0] is not None and rankings[1] is not None:
        first, second = (
            (ranking, _hits(score, LARGEST, ids)[:, 0])
            for ranking, (score, _) in zip(rankings, both, strict=True)
            if ranking is not None
        )
        apart = ranked_difference(second, first)
        table["localization_ap"] = {
            "first": first[0].score(first[1]).ap,
            "second": second[0].score(second[1]).ap,
            "difference": apart["value"],
            "interval": apart["interval"],
        }
    return table


def _without_boxes(
    runs: Sequence[Run],
    configs: Sequence[Mapping[str, Any]],
    both: Sequence[tuple[Mapping[str, SplitScore], Images]],
    names: Sequence[str],
    ids: Sequence[str],
) -> dict[str, Any]:
    """Which map of which run agrees most with the others, without ground truth, and what it reaches."""
    boxes: dict[tuple[str, str], np.ndarray] = {}
    entries: list[dict[str, Any]] = []
    some = some_of(ids)
    for run, config, (found, images), name in zip(runs, configs, both, names, strict=True):
        if images.pseudo is None:
            continue
        own = {method: images.pseudo.scores[method] for method in found if method not in BASELINES}
        placed = boxes_at_best(run, own, config["protocol"], config["normalize"], some)
        for method, score in own.items():
            boxes[name, method] = np.array([placed[method][one] for one in ids if one in some])
            threshold = score.scores[LARGEST].threshold[score.half]
            right = found[method].outcomes.at(LARGEST, np.full(len(score.scores[LARGEST].iou), threshold))
            place = {one: k for k, one in enumerate(found[method].outcomes.ids)}
            hits = right[[place[one] for one in ids], found[method].half]
            entries.append(
                {"run": name, "map": method, "threshold": float(threshold), LARGEST: 100 * float(hits.mean())}
            )
    agreeing = agreement(boxes)
    for entry in entries:
        entry["agreement"] = agreeing.get((entry["run"], entry["map"]))
    entries.sort(key=lambda entry: -(entry["agreement"] or 0))
    best = max((entry[LARGEST] for entry in entries), default=0.0)
    loses = {"loses": best - entries[0][LARGEST]} if agreeing else {}
    return {"maps": entries, **loses}


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
        for score, one in scores.items():
            if score == "thresholds":
                continue
            low, high = one["interval"]
            lines.append(
                f"  {name:<12} {score:<11} {one['first']:6.2f} -> {one['second']:6.2f}  "
                f"{one['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
            )
    if chosen := found.get("without_boxes"):
        lines.append(
            "chosen without ground truth: threshold by pseudo-boxes, map by agreement with the others:"
        )
        for entry in chosen["maps"]:
            agreeing = "" if entry["agreement"] is None else f"agreement {entry['agreement']:.2f}  "
            at = f"at {entry['threshold']:.3f} {LARGEST} {entry[LARGEST]:.2f}"
            lines.append(f"  {entry['map']:<12} of {entry['run']:<12} {agreeing}{at}")
        if "loses" in chosen:
            lines.append(f"  the first is {chosen['loses']:.2f} below the best of them")
        else:
            lines.append("  no map is chosen: of fewer than three, none agrees more than another")
    lines.append("images whose box changed sides of IoU .5:")
    for name, flips in found["flipped"].items():
        for kind, words in (("gained", "now hit"), ("lost", "now missed")):
            ids = flips[kind]
            more = f", … ({len(ids) - most} more: --json)" if len(ids) > most else ""
            lines.append(f"  {name:<12} {words:<10} {len(ids):4}  {', '.join(ids[:most])}{more}")
    return lines
