"""Score maps against masks: what `evaluate` and `score` do where a data set has masks in place of boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from heatbox._utils.devices import available_cores
from heatbox._utils.progress import Track, silent
from heatbox.boxes.contours import Protocol, check_heatmap
from heatbox.boxes.ops import REFERENCE_SIDE
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.heatmaps import in_batches, open_maps, problems_of
from heatbox.evaluation.run import MASK, Record, Run
from heatbox.evaluation.summary import mask_table_of
from heatbox.maps.baselines import BASELINES
from heatbox.maps.normalize import normalize_heatmap
from heatbox.metrics.functional import PixelScore, label_rank, resize_mask
from heatbox.metrics.pxap import PxAP

AT_ONCE = 64


def refuse_exact(protocol: Protocol) -> None:
    """Raise where masks are to be scored in another protocol than PxAP's own."""
    if protocol != "reference":
        raise InputError(f"masks are scored by PxAP, in the protocol reference; {protocol} is for boxes")


def refuse_mixed(split: Split, fullsup: Split) -> None:
    """Raise where thresholds of boxes would be transferred to masks, or the other way round."""
    if split.has_only_masks != fullsup.has_only_masks:
        one, other = ("masks", "boxes") if split.has_only_masks else ("boxes", "masks")
        raise InputError(
            f"{split.name} is scored against {one} and {fullsup.name} against {other}, expected the same"
        )


def masks_of(split: Split, examples: Sequence[Example]) -> list[np.ndarray]:
    """(224, 224) uint8 masks of some images.

    Raises:
        InputError: naming the file that cannot be read.
    """
    if split.open_mask is None:
        raise InputError(f"{split.name}: has no masks to be scored against")
    with ThreadPoolExecutor(available_cores()) as pool:
        return [resize_mask(mask) for mask in pool.map(split.open_mask, examples)]


def with_masks(records: Sequence[Record], split: Split, examples: Sequence[Example]) -> list[Record]:
    """Records of some images, each with its mask."""
    masks = masks_of(split, examples)
    return [{**record, MASK: mask} for record, mask in zip(records, masks, strict=True)]


def has_masks(run: Run) -> bool:
    """Whether the records of a run hold masks."""
    return MASK in next(iter(run.records(1)))[0]


def score_run(
    run: Run, methods: Sequence[str], thresholds: int, fullsup: Run | None = None, track: Track = silent
) -> dict[str, Any]:
    """Score the maps that a run holds, and the baselines, against the masks that it holds.

    Args:
        run: a run whose records hold masks.
        methods: names of the maps.
        thresholds: number of thresholds.
        fullsup: a run on a fully supervised split, for thresholds of the pixel overlap.
        track: how to show progress.

    Returns:
        a dictionary for metrics.json; see `heatbox.evaluation.summary.mask_table_of`.
    """
    found, ranks = _score_records(run, methods, thresholds, track)
    chosen = _score_records(fullsup, methods, thresholds, track)[0] if fullsup else {}
    return mask_table_of(found, chosen, ranks)


def _score_records(
    run: Run, methods: Sequence[str], thresholds: int, track: Track
) -> tuple[dict[str, PixelScore], np.ndarray]:
    fixed = {name: make(REFERENCE_SIDE, REFERENCE_SIDE) for name, make in BASELINES.items()}
    scorers = {name: PxAP(thresholds, per_image=True) for name in (*methods, *fixed)}
    ranks: list[np.ndarray] = []

    def heatmap(record: Record, name: str) -> np.ndarray:
        return fixed[name] if name in fixed else normalize_heatmap(record[f"map_{name}"], REFERENCE_SIDE)

    for batch in track(run.records(AT_ONCE), "scoring", -(-len(run) // AT_ONCE)):
        ranks.append(label_rank(np.stack([r["logits"] for r in batch]), [r["label"] for r in batch]))
        masks = [record[MASK] for record in batch]
        for name, scorer in scorers.items():
            scorer.update([heatmap(record, name) for record in batch], masks)
    return {name: scorer.compute() for name, scorer in scorers.items()}, np.concatenate(ranks)


def score_folder(
    heatmaps: Path, split: Split, thresholds: int, resize: bool, track: Track = silent
) -> tuple[dict[str, PixelScore], list[str]]:
    """Score a folder of `.npy` heatmaps, and the baselines, against the masks of a split.

    Args:
        heatmaps: the folder; see `heatbox.evaluation.heatmaps.open_maps`.
        split: whose masks; images without a map are left out.
        thresholds: number of thresholds.
        resize: bring maps of any size and range to 224 x 224 and [0, 1] first.
        track: how to show progress.

    Returns:
        the scores by name, the folder's own first, and what was wrong with some maps, a sentence each.

    Raises:
        InputError: no map can be scored, or a mask cannot be read.
    """
    maps = open_maps(heatmaps, [example.id for example in split])
    by_id = {example.id: example for example in split}
    name = heatmaps.name or "heatmaps"
    name = f"{name} (heatmaps)" if name in BASELINES else name
    scorers = {one: PxAP(thresholds, per_image=True) for one in (name, *BASELINES)}
    malformed: list[tuple[str, str]] = []

    def usable() -> Iterator[tuple[str, np.ndarray]]:
        for image, one in maps.load(resize, REFERENCE_SIDE):
            try:
                yield image, _checked(one)
            except InputError as error:
                malformed.append((image, str(error)))

    count = len(by_id) - len(maps.missing)
    for batch in track(in_batches(usable(), AT_ONCE), f"scoring {heatmaps}", -(-count // AT_ONCE)):
        masks = masks_of(split, [by_id[image] for image, _ in batch])
        scorers[name].update([one for _, one in batch], masks)
        for fixed in BASELINES:
            scorers[fixed].update([BASELINES[fixed](REFERENCE_SIDE, REFERENCE_SIDE)] * len(batch), masks)
    problems = problems_of(maps.missing, malformed, maps.unknown)
    if not scorers[name].images:
        raise InputError(f"{heatmaps}: none of {count} heatmaps could be scored; {problems[0]}")
    return {one: scorer.compute() for one, scorer in scorers.items()}, problems


def _checked(heatmap: np.ndarray | InputError) -> np.ndarray:
    if isinstance(heatmap, InputError):
        raise heatmap
    return check_heatmap(heatmap)
