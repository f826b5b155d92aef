"""Score heatmaps that other tools made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from heatbox._utils.progress import Track, as_callback, silent
from heatbox.boxes.ops import REFERENCE_SIDE
from heatbox.config import ScoreConfig
from heatbox.data.open import open_split
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.evaluation.mask_score import refuse_exact, refuse_mixed
from heatbox.evaluation.mask_score import score_folder as score_masks
from heatbox.evaluation.run import METRICS, Run
from heatbox.evaluation.stream import Item, SplitScore, score_folder, score_stream
from heatbox.evaluation.summary import EVERY, LARGEST, MapScore, mask_table_of, table_of
from heatbox.maps.baselines import BASELINES
from heatbox.metrics.functional import PixelScore


def score_heatmaps(
    config: ScoreConfig, run: Run, track: Track = silent, overwrite: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Score a folder of `.npy` heatmaps against the boxes of a split, or its masks where it has no boxes.

    Args:
        config: what to score against what.
        run: where per-image outcomes and scores go; an interrupted scoring goes on from there.
        track: how to show progress.
        overwrite: drop what an earlier run left in the folder.

    Returns:
        the scores, as saved in metrics.json, and what was wrong with some heatmaps, a sentence each.

    Raises:
        InputError: nothing can be scored, or ground truth is malformed; what was scored before stays.
    """
    if (config.fullsup_heatmaps is None) != (config.fullsup is None):
        raise InputError("thresholds are transferred from --fullsup and --fullsup-heatmaps together")
    for folder in (config.heatmaps, config.fullsup_heatmaps):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: is not a folder, expected one of <image id>.npy heatmaps")
    split = open_split(config.data).with_truth()
    chosen = open_split(config.fullsup).with_truth() if config.fullsup is not None else None
    if chosen is not None:
        refuse_mixed(split, chosen)
    if split.has_only_masks:
        refuse_exact(config.protocol)
    run.start(config, resume=not overwrite)  # only now: a folder is not to be bound to bad input
    metrics = (_against_masks if split.has_only_masks else _against_boxes)(config, split, chosen, run, track)
    run.write_json(METRICS, metrics)
    return metrics, metrics["problems"]


def _against_masks(
    config: ScoreConfig, split: Split, chosen: Split | None, run: Run, track: Track
) -> dict[str, Any]:
    found, problems = score_masks(config.heatmaps, split, config.thresholds, config.resize, track)
    fullsup: dict[str, PixelScore] = {}
    if chosen is not None and config.fullsup_heatmaps is not None:
        other, more = score_masks(config.fullsup_heatmaps, chosen, config.thresholds, config.resize, track)
        problems += [f"fullsup: {problem}" for problem in more]
        fullsup = dict(zip(found, other.values(), strict=True))  # the first is the folder's own
    return {**mask_table_of(found, fullsup, None), "problems": problems}


def _against_boxes(
    config: ScoreConfig, split: Split, chosen: Split | None, run: Run, track: Track
) -> dict[str, Any]:
    outcome = _score(config, config.heatmaps, split, run, "records", track)
    problems = outcome.problems()
    name = config.heatmaps.name or "heatmaps"
    found = {f"{name} (heatmaps)" if name in BASELINES else name: _map_score(outcome)}
    kept = set(found[next(iter(found))].records.ids)
    found |= _baselines(config, split, kept, track)
    fullsup: dict[str, MapScore] = {}
    if chosen is not None and config.fullsup_heatmaps is not None:
        other = _score(config, config.fullsup_heatmaps, chosen, run, "records-fullsup", track)
        problems += [f"fullsup: {problem}" for problem in other.problems()]
        fullsup = {name: _map_score(other) for name in list(found)[:1]}
        fullsup |= _baselines(config, chosen, set(next(iter(fullsup.values())).records.ids), track)
    return {**table_of(found, fullsup, None), "problems": problems}


def _score(
    config: ScoreConfig, heatmaps: Path, split: Split, run: Run, records: str, track: Track
) -> SplitScore:
    """Score one folder; in the reference protocol its outcomes go to a folder of the run."""
    return score_folder(
        heatmaps,
        split.examples,
        config.protocol,
        config.thresholds,
        records=run.folder / records if config.protocol == "reference" else None,
        resize=config.resize,
        progress=as_callback(track, f"scoring {heatmaps}", len(split)),
        keep=True,
    )


def _baselines(config: ScoreConfig, split: Split, kept: set[str], track: Track) -> dict[str, MapScore]:
    """The baselines on the images that were scored."""
    examples = [example for example in split if example.id in kept]

    def items(name: str) -> Iterator[Item]:
        fixed = BASELINES[name](REFERENCE_SIDE, REFERENCE_SIDE)
        yield from ((example.id, fixed, example.boxes, example.size) for example in examples)

    def progress(name: str) -> Callable[[int], None]:
        return as_callback(track, f"scoring {name}", len(examples))

    return {
        name: _map_score(
            score_stream(items(name), config.protocol, config.thresholds, progress=progress(name), keep=True)
        )
        for name in BASELINES
    }


def _map_score(outcome: SplitScore) -> MapScore:
    assert outcome.records is not None
    return MapScore(outcome.scores[LARGEST], outcome.scores[EVERY], outcome.records)
