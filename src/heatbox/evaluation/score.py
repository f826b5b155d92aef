"""Score heatmaps against boxes or masks: those of a run, of a folder, or of a stream.

Maps are processed in batches: memory does not grow with their number, apart from a few hundred bytes of
outcomes per image. With a folder of records, what has been scored is on disk after every batch, and a second
call continues where the first one ended.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from heatbox._utils.checks import check_length, kind_of
from heatbox._utils.devices import available_cores
from heatbox._utils.progress import Track, as_callback, silent
from heatbox.boxes.contours import Protocol, check_heatmap
from heatbox.boxes.ops import REFERENCE_FRAME, REFERENCE_SIDE, check_boxes, scale_boxes
from heatbox.config import MetricName, ScoreConfig
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.calibrate import add_confidence
from heatbox.evaluation.guard import MapRanges, policy_sentences
from heatbox.evaluation.images import class_names_of, left_out_counts, open_images, save_images
from heatbox.evaluation.pseudo import (
    PseudoScores,
    agreement_of,
    boxes_of_maps,
    is_right,
    pseudo_box,
    pseudo_source,
)
from heatbox.evaluation.run import MASK, METRICS, Run, ShardStore, require_older
from heatbox.evaluation.scorers import RECORDS_AT_A_TIME, BoxScorer, Scorer, baseline_map, scorers_of
from heatbox.evaluation.summary import (
    Images,
    SplitScore,
    table_of,
)
from heatbox.inference.calibration import Calibration
from heatbox.maps.baselines import BASELINES
from heatbox.maps.normalize import check_normalization, normalize_heatmap
from heatbox.metrics.functional import resize_mask

T = TypeVar("T")
Item = tuple[str, Any, Any, Sequence[float]]
"""(image id, heatmap (H, W), boxes (K, 4), image size (width, height))."""

MAPS_AT_A_TIME = 256
"""Maps held in memory and, with a folder of records, recorded together: 51 MB of 224 x 224 float32."""


def require_comparable(protocol: Protocol, split: Split, fullsup: Split | None) -> None:
    """Raise where masks are to be scored in another protocol than PxAP's own, or boxes together with masks.

    Raises:
        InputError: the protocol is exact and a split has masks, or one split has masks and the other boxes.
    """
    splits = [split] if fullsup is None else [split, fullsup]
    if any(one.has_only_masks for one in splits):
        _require_reference(protocol)
    kinds = ["masks" if one.has_only_masks else "boxes" for one in splits]
    if len(set(kinds)) > 1:
        raise InputError(
            f"{splits[0].name} is scored against {kinds[0]} and {splits[1].name} against {kinds[1]}, "
            "expected the same"
        )


def _require_reference(protocol: Protocol) -> None:
    if protocol != "reference":
        raise InputError(f"masks are scored by PxAP, in the protocol reference; {protocol} is for boxes")


def masks_of(split: Split, examples: Sequence[Example]) -> list[np.ndarray]:
    """(224, 224) uint8 masks of some images.

    Raises:
        InputError: naming the file that cannot be read.
    """
    if split.open_mask is None:
        raise InputError(f"{split.name}: has no masks to be scored against")
    with ThreadPoolExecutor(available_cores()) as pool:
        return [resize_mask(mask) for mask in pool.map(split.open_mask, examples)]


# ------------------------------------------------------------------------------------------------ of a run


def score_run(
    run: Run,
    methods: Sequence[str],
    thresholds: int = 1000,
    protocol: Protocol = "reference",
    fullsup: Run | None = None,
    track: Track = silent,
    metrics: Sequence[MetricName] = ("boxes",),
    calibration: Calibration | None = None,
    normalize: str = "min-max",
) -> dict[str, Any]:
    """Score the maps of a run, and those of the baselines, which do not depend on the images.

    Args:
        run: a finished run, or one whose shards are complete.
        methods: names of the maps.
        thresholds: number of thresholds.
        protocol: "reference" or "exact".
        fullsup: a run on a fully supervised split; thresholds best on it give the transferred scores.
        track: how to show progress.
        metrics: scores besides those of boxes, or PxAP of masks.
        calibration: what some boxes told of the maps; gives the calibrated and the fixed scores.
        normalize: how maps are brought to [0, 1], see `normalize_heatmap`; the baselines stay as they are.

    Returns:
        a dictionary for metrics.json; see `heatbox.evaluation.summary.table_of`.

    Raises:
        InputError: a method whose maps the run does not contain, an image without boxes, a calibration of
            other methods, or pseudo-boxes of maps without a random walk.
    """
    held = run.methods()
    if unknown := [name for name in methods if name not in held]:
        raise InputError(f"{run.folder}: contains no maps of {unknown[0]!r}, only of {', '.join(held)}")
    if run.has_masks and "pseudo_boxes" in metrics:
        raise InputError(f"{run.folder}: was scored against masks; pseudo_boxes is about boxes")
    source = None if run.has_masks else pseudo_source(methods, metrics, run.folder)
    found, images = score_maps(run, methods, thresholds, protocol, track, metrics, normalize, source)
    images.class_names = class_names_of(run) or ()
    chosen: dict[str, Any] = {}
    if fullsup is not None:
        chosen, _ = score_maps(fullsup, methods, thresholds, protocol, track, metrics, normalize)
    if calibration is not None:
        calibration.require_settings({**run.settings(), "protocol": protocol, "normalize": normalize})
    notes = {"foreground": run.foreground(), "networks": run.networks()}
    about = {key: note for key, note in notes.items() if note is not None}
    table = table_of(found, chosen, images, metrics, calibration)
    if calibration is not None:
        add_confidence(table["methods"], found, run, calibration, protocol, normalize)
    sentences = images.ranges + policy_sentences(table, 0 if fullsup is None else shared_images(run, fullsup))
    return {
        **table,
        **normalized_as(normalize),
        **_counted(left_out_counts(run)),
        **about,
        "warnings": sentences,
    }


def shared_images(run: Run, other: Run) -> int:
    """Number of images, by id, size and boxes, that two runs share."""
    first, second = (
        {
            (one["id"], one["width"], one["height"], np.asarray(one.get("boxes", ())).tobytes())
            for batch in each.records()
            for one in batch
        }
        for each in (run, other)
    )
    return len(first & second)


def normalized_as(normalize: str) -> dict[str, Any]:
    """The entry of metrics.json about a normalization other than that of the reference evaluator."""
    return {} if normalize == "min-max" else {"normalize": normalize}


def _counted(counts: Mapping[str, int]) -> dict[str, Any]:
    """The entry of metrics.json about images that were left out, if any were."""
    return {"left_out": dict(counts)} if counts else {}


def score_maps(
    run: Run,
    methods: Sequence[str],
    thresholds: int,
    protocol: Protocol,
    track: Track = silent,
    metrics: Sequence[MetricName] = ("boxes",),
    normalize: str = "min-max",
    pseudo: str | None = None,
) -> tuple[dict[str, Any], Images]:
    """Scores of each method and baseline, and the images in the order of their outcomes.

    With `pseudo`, the name of a map, also against its mean boxes: `Images.pseudo`. The scores are
    `SplitScore` with records, or `PixelScore` with histograms where the run contains masks.
    """
    masks = run.has_masks
    if masks:
        _require_reference(protocol)
    scorers = scorers_of((*methods, *BASELINES), masks, thresholds, protocol, metrics)
    images, ranges = Images(), {name: MapRanges() for name in methods}
    against = {name: BoxScorer(protocol, thresholds, keep=False) for name in scorers if pseudo is not None}
    right: list[bool] = []
    box_of = partial(pseudo_box, protocol=protocol, normalize=normalize)
    for batch in track(run.records(RECORDS_AT_A_TIME), "scoring", -(-len(run) // RECORDS_AT_A_TIME)):
        if empty := [record["id"] for record in batch if not masks and not len(record["boxes"])]:
            raise InputError(f"{run.folder}: image {empty[0]!r} has no box to be scored against")
        sizes = [(record["width"], record["height"]) for record in batch]
        images.add(batch, sizes)
        truths: dict[str, Any] = (
            {"masks": [record[MASK] for record in batch]}
            if masks
            else {"boxes": [record["boxes"] for record in batch], "return_iou": True}
        )
        truths["image_sizes"] = sizes
        mean = [] if pseudo is None else boxes_of_maps(box_of, [record[f"map_{pseudo}"] for record in batch])
        kept = [i for i, box in enumerate(mean) if len(box)]
        right += [is_right(mean[i][0], batch[i]["boxes"], sizes[i], protocol) for i in kept]
        for name, scorer in scorers.items():
            if name in BASELINES:
                maps = [baseline_map(name)] * len(batch)
            else:
                maps = [
                    normalize_heatmap(record[f"map_{name}"], REFERENCE_SIDE, normalize) for record in batch
                ]
            if name in ranges:
                ranges[name].add(maps)
            outcome = scorer.update(maps, **truths)
            if isinstance(scorer, BoxScorer):
                scorer.record([record["id"] for record in batch], outcome)
            if kept:
                boxes = [mean[i] for i in kept]
                against[name].update([maps[i] for i in kept], boxes, [REFERENCE_FRAME] * len(kept))
    if pseudo is not None and right:
        scores = {name: scorer.compute() for name, scorer in against.items()}
        own = {name: scores[name] for name in methods}
        agreeing = agreement_of(run, own, protocol, normalize, scorers[pseudo].ids)  # type: ignore[union-attr]
        images.pseudo = PseudoScores(pseudo, scores, np.array(right), agreeing)
    images.ranges = [sentence for name, one in ranges.items() for sentence in one.sentences(name)]
    return {name: scorer.compute() for name, scorer in scorers.items()}, images


# --------------------------------------------------------------------------------------------- of a stream


def score_stream(
    items: Iterable[Item],
    protocol: Protocol = "reference",
    thresholds: int = 1000,
    threads: int | None = None,
    records: Path | str | None = None,
    progress: Callable[[int], None] | None = None,
    fingerprint: str = "",
    keep: bool = False,
) -> SplitScore:
    """Score heatmaps from an iterator against boxes.

    Args:
        items: (id, heatmap, boxes, image size) of each image; see `Item`. Ids must be unique.
        protocol: `reference` or `exact`.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use; all cores by default.
        records: a folder for per-image outcomes. Images recorded there by an earlier call with the same
            settings count and are not scored again. Reference protocol only.
        progress: called with the number of images done.
        fingerprint: what else the records depend on, such as the split; records with another are refused.
        keep: keep per-image outcomes in memory (under 1 KB an image), where no folder is given.

    Returns:
        The scores; heatmaps that cannot be scored are listed in `malformed`, the others count.

    Raises:
        InputError: no image could be scored, ground truth is malformed, or the records folder was made
            with other settings. What was recorded before stays.
        TypeError: an item that is not (id, heatmap, boxes, image size).
    """
    scorer = BoxScorer(protocol, thresholds, threads, keep or records is not None)
    if records is not None:
        scorer.resume(ShardStore(Path(records)), fingerprint)
    done = set(scorer.ids)
    malformed: list[tuple[str, str]] = []
    for ids, maps, truths in _batches(_box_items(items, done), malformed, progress, len(done)):
        boxes, sizes = zip(*truths, strict=True)
        scorer.record(ids, scorer.update(maps, boxes, sizes, scorer.keep))
    return replace(scorer.compute(), resumed=len(done), malformed=tuple(malformed))


def _box_items(items: Iterable[Item], done: set[str]) -> Iterator[tuple[str, Any, Any]]:
    """(id, heatmap, (boxes, image size)) of the items that are not done."""
    if not isinstance(items, Iterable) or isinstance(items, str):
        raise TypeError(f"items: {kind_of(items)}, expected (id, heatmap, boxes, image size) of each image")
    for item in items:
        if not isinstance(item, tuple | list) or len(item) != 4:
            raise TypeError(f"an item is {kind_of(item)}, expected (id, heatmap, boxes, image size)")
        name, heatmap, boxes, size = item
        if name not in done:
            check_boxes(boxes, size, name)
            yield name, heatmap, (boxes, size)


def _batches(
    items: Iterable[tuple[str, np.ndarray | InputError, T]],
    malformed: list[tuple[str, str]],
    progress: Callable[[int], None] | None,
    count: int,
) -> Iterator[tuple[list[str], list[np.ndarray], list[T]]]:
    """Ids, heatmaps and truths of the images that can be scored, in batches.

    Of the others `malformed` is extended by (id, error message). `count` is the number of images done before;
    an InputError is raised at the end if it was 0 and no image could be scored.
    """
    for batch in in_batches(items, MAPS_AT_A_TIME):
        good = []
        for name, heatmap, truth in batch:
            try:
                if isinstance(heatmap, InputError):
                    raise heatmap
                good.append((name, check_heatmap(heatmap), truth))
            except InputError as error:
                malformed.append((name, str(error)))
        if good:
            ids, maps, truths = (list(column) for column in zip(*good, strict=True))
            yield ids, maps, truths
        count += len(good)
        if progress is not None:
            progress(count)
    if not count:
        why = f", the first because {malformed[0][0]}: {malformed[0][1]}" if malformed else ""
        raise InputError(f"none of {len(malformed)} heatmaps could be scored{why}")


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last perhaps of fewer."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


# --------------------------------------------------------------------------------------------- of a folder


def score_folder(
    heatmaps: Path | str,
    examples: Sequence[Example],
    protocol: Protocol = "reference",
    thresholds: int = 1000,
    threads: int | None = None,
    records: Path | str | None = None,
    resize: bool = False,
    progress: Callable[[int], None] | None = None,
    keep: bool = False,
) -> SplitScore:
    """Score a folder of `.npy` heatmaps in the reference layout: `<image id>.npy`, 2-D, in [0, 1].

    `<image id without its suffix>.npy` is found as well, since some tools save maps so.

    Args:
        heatmaps: the folder.
        examples: the images of the split, with boxes and sizes.
        protocol: `reference` or `exact`.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use; all cores by default.
        records: as for `score_stream`.
        resize: bring maps to 224 x 224 and [0, 1] as `normalize_heatmap` does. Otherwise, in the reference
            protocol, maps of another size are not scored: boxes are compared in the 224 x 224 frame.
        progress: as for `score_stream`.
        keep: as for `score_stream`.

    Returns:
        The scores, and which images had no map, a malformed map, and which maps had no image.

    Raises:
        InputError: an image id leads out of the folder, an image has no box, a map is newer than the
            record of it, or as `score_stream`.
        TypeError: a folder that is not a path, or something else than examples.
    """
    if not isinstance(heatmaps, str | Path):
        raise TypeError(f"heatmaps: {kind_of(heatmaps)}, expected a folder")
    check_length(examples, "examples", "the examples of a split")
    if strange := [one for one in examples if not isinstance(one, Example)]:
        raise TypeError(f"examples: one is {kind_of(strange[0])}, expected the examples of a split")
    scorer = BoxScorer(protocol, thresholds, threads, keep or records is not None)
    source = MapFolder(heatmaps, examples, resize, protocol, threads)
    truths_of = partial(_boxes_of, keep=scorer.keep)
    outcome = _score_folder(source, {"": scorer}, truths_of, records, progress)
    return replace(scorer.compute(), **outcome)


def _boxes_of(examples: Sequence[Example], keep: bool = True) -> dict[str, Any]:
    """The arguments of `BoxScorer.update` for some images."""
    boxes = [check_boxes(one.boxes, one.size, one.id) for one in examples]
    return {"boxes": boxes, "image_sizes": [one.size for one in examples], "return_iou": keep}


def _score_folder(
    source: MapFolder,
    scorers: Mapping[str, Scorer],
    truths_of: Callable[[Sequence[Example]], dict[str, Any]],
    records: Path | str | None,
    progress: Callable[[int], None] | None,
    ranges: MapRanges | None = None,
) -> dict[str, Any]:
    """Score the maps of a folder with the first scorer, and the baselines with the others on the same images.

    Returns:
        "resumed", "missing", "malformed" and "unknown" of a `SplitScore`.
    """
    own, *baselines = scorers
    done: list[str] = []
    if records is not None and isinstance(scorer := scorers[own], BoxScorer):
        scorer.resume(ShardStore(Path(records)), source.fingerprint, source.examples)
        for name, written in scorer.written.items():
            require_older(source.path(name), written, f"it was scored into {records}")
        done = list(scorer.ids)
    resumed = (
        (ids, None, [source.examples[name] for name in ids])
        for ids in in_batches(done if baselines else (), MAPS_AT_A_TIME)
    )
    seen = set(done)
    malformed: list[tuple[str, str]] = []
    loaded = _batches(source.load(skip=seen), malformed, progress, len(done))
    for ids, maps, examples in chain(resumed, loaded):
        truths = truths_of(examples)
        if ranges is not None and maps is not None and not isinstance(scorers[own], BoxScorer):
            ranges.add(maps)
        for name in scorers if maps is not None else baselines:
            outcome = scorers[name].update(maps if name == own else [baseline_map(name)] * len(ids), **truths)
            if isinstance(scorer := scorers[name], BoxScorer):
                scorer.record(ids, outcome)
    return {
        "resumed": len(done),
        "missing": tuple(name for name, file in source.files.items() if file is None and name not in seen),
        "malformed": tuple(malformed),
        "unknown": source.unknown,
    }


class MapFolder:
    """The heatmaps of a folder in the reference layout and the images they belong to.

    Args:
        folder: the folder.
        examples: the images.
        resize: bring maps to 224 x 224, or their own size in the exact protocol, and to [0, 1], as
            `normalize_heatmap` does.
        protocol: `reference` takes maps of 224 x 224 only, unless they are resized; `exact` of any size.
        threads: threads to read with; all cores by default.
        normalize: how resized maps are brought to [0, 1].

    Attributes:
        examples: image id → example.
        files: image id → its file, relative to the folder, or None; in the order of the images.
        unknown: files that belong to no image.

    Raises:
        InputError: no such folder, an id twice, one that leads out of the folder, or no map of any image.
    """

    def __init__(
        self,
        folder: Path | str,
        examples: Sequence[Example],
        resize: bool = False,
        protocol: Protocol = "reference",
        threads: int | None = None,
        normalize: str = "min-max",
    ) -> None:
        self.root = root = Path(folder)
        if not root.is_dir():
            raise InputError(f"{root}: is not a folder, expected one of <image id>.npy heatmaps")
        names = {example.id: _names(root, example.id) for example in examples}
        if len(names) != len(examples):
            raise InputError(f"{len(examples) - len(names)} image ids occur twice, expected unique ids")
        present = {path.relative_to(root).as_posix() for path in root.rglob("*.npy")}
        self.files = {
            image: next((name for name in both if name in present), None) for image, both in names.items()
        }
        self.unknown = tuple(sorted(present.difference(self.files.values())))
        if not any(self.files.values()):
            wanted = next(iter(names.values()))[0] if names else ".npy"
            raise InputError(f"{root}: contains no heatmap of any of {len(names)} images (expected {wanted})")
        self.examples = {one.id: one for one in examples}
        self.resize, self.threads, self.normalize = resize, threads, normalize
        self.side = REFERENCE_SIDE if protocol == "reference" else None

    @property
    def fingerprint(self) -> str:
        """A checksum of the ground truth and of how maps are prepared."""
        how = str(self.resize) if self.normalize == "min-max" else f"{self.resize} {self.normalize}"
        checksum = zlib.crc32(how.encode())
        for _, example in sorted(self.examples.items()):
            checksum = zlib.crc32(f"{example.id} {example.size}".encode(), checksum)
            checksum = zlib.crc32(np.ascontiguousarray(example.boxes, dtype=np.float64).tobytes(), checksum)
        return f"{checksum:08x}"

    def path(self, name: str) -> Path | None:
        """The heatmap of an image, or None."""
        file = self.files.get(name)
        return None if file is None else self.root / file

    def load(self, skip: set[str]) -> Iterator[tuple[str, np.ndarray | InputError, Example]]:
        """Id, map or the error of reading it, and example of every image that has one; read in threads."""
        names = [name for name in self.files if self.files[name] is not None and name not in skip]
        with ThreadPoolExecutor(self.threads or available_cores()) as pool:
            for batch in in_batches(names, MAPS_AT_A_TIME):
                loaded = pool.map(
                    lambda name: load_map(
                        self.root / str(self.files[name]), self.resize, self.side, self.normalize
                    ),
                    batch,
                )
                yield from ((name, one, self.examples[name]) for name, one in zip(batch, loaded, strict=True))


def _names(root: Path, image_id: str) -> list[str]:
    """The files that may contain the map of an image, relative to the folder and never outside of it."""
    relative = Path(image_id)
    names = [Path(f"{image_id}.npy"), relative.parent / f"{relative.stem}.npy"]
    base = root.resolve()
    inside = relative.name and not relative.is_absolute() and ".." not in relative.parts
    if not inside or not all((root / name).resolve().is_relative_to(base) for name in names):
        raise InputError(f"image id {image_id!r} leads out of the folder {root}, expected a path inside it")
    return [name.as_posix() for name in names]


def load_map(
    path: Path, resize: bool, side: int | None, normalize: str = "min-max"
) -> np.ndarray | InputError:
    """One map, or the error of reading it."""
    try:
        one = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header can make the reader raise anything
        reason = str(error).partition("\n")[0]
        return InputError(f"{path} is not a readable .npy file ({reason})")
    if not isinstance(one, np.ndarray) or one.ndim != 2 or one.size == 0 or one.dtype.kind not in "fiub":
        return InputError(f"{path} has shape {np.shape(one)}, expected a two-dimensional array of numbers")
    if resize:
        if not np.isfinite(one).all():
            return InputError(f"{path} contains {int((~np.isfinite(one)).sum())} values that are not finite")
        return normalize_heatmap(one, side or one.shape, normalize)
    if side is not None and one.shape != (side, side):
        return InputError(
            f"{path} is {one.shape[1]} x {one.shape[0]}, expected {side} x {side} (or have maps resized)"
        )
    return one


# --------------------------------------------------------------------------------------- heatbox score


def score_heatmaps(
    config: ScoreConfig, run: Run, track: Track = silent, overwrite: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Score a folder of `.npy` heatmaps against the boxes of a split, or its masks where it has no boxes.

    Args:
        config: the heatmaps and the split.
        run: where per-image outcomes and scores are saved; an interrupted scoring is resumed from there.
        track: how to show progress.
        overwrite: remove what an earlier run left in the folder.

    Returns:
        the scores, as saved in metrics.json, and the problems with heatmaps, one sentence each.

    Raises:
        InputError: nothing can be scored, or ground truth is malformed; what was recorded before stays.
    """
    if (config.fullsup_heatmaps is None) != (config.fullsup is None):
        raise InputError("thresholds are transferred from --fullsup and --fullsup-heatmaps together")
    check_normalization(config.normalize)
    if config.normalize != "min-max" and not config.resize:
        raise InputError(f"--normalize {config.normalize} needs --resize: other maps are scored as they are")
    for folder in (config.heatmaps, config.fullsup_heatmaps, config.pseudo_heatmaps):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: is not a folder, expected one of <image id>.npy heatmaps")
    split, left_out = open_images(config.data, on_bad=config.on_bad)
    chosen_on = None
    if config.fullsup is not None:
        chosen_on, _ = open_images(config.fullsup, on_bad=config.on_bad)
    require_comparable(config.protocol, split, chosen_on)
    against = None
    if config.pseudo_heatmaps is not None:
        against = _with_pseudo_boxes(config, config.pseudo_heatmaps, split)
    elif "pseudo_boxes" in config.metrics:
        raise InputError("pseudo_boxes are mean boxes of a random walk: give its maps as --pseudo-heatmaps")
    run.start(config, resume=not overwrite)  # only now: a folder is not to be bound to bad input
    found, images, problems = _score_split(config, config.heatmaps, split, run.folder / "records", track)
    fullsup: dict[str, Any] = {}
    if chosen_on is not None and config.fullsup_heatmaps is not None:
        records = run.folder / "records-fullsup"
        other, _, more = _score_split(config, config.fullsup_heatmaps, chosen_on, records, track)
        problems += [f"fullsup: {problem}" for problem in more]
        fullsup = dict(zip(found, other.values(), strict=True))  # the first is the folder's own
    if against is not None and config.pseudo_heatmaps is not None:
        pseudo_split, right = against
        plain, records = replace(config, metrics=("boxes",)), run.folder / "records-pseudo"
        other, _, _ = _score_split(plain, config.heatmaps, pseudo_split, records, track)
        images.pseudo = PseudoScores(config.pseudo_heatmaps.name, other, right, {})
    save_images(run, split, left_out)
    images.class_names = split.class_names or ()
    scores = table_of(found, fullsup, images, config.metrics)
    scores |= normalized_as(config.normalize) | _counted(left_out.counts())
    shared = 0
    if chosen_on is not None:
        shared = len({one.id for one in split.examples} & {one.id for one in chosen_on.examples})
    sentences = images.ranges + policy_sentences(scores, shared)
    metrics = {**scores, "problems": problems, "warnings": sentences}
    run.write_json(METRICS, metrics)
    return metrics, problems


def _with_pseudo_boxes(config: ScoreConfig, pseudo: Path, split: Split) -> tuple[Split, np.ndarray]:
    """The images of a split with the mean boxes of a folder's maps in place of their own; whether these are
    right.

    Raises:
        InputError: the split has masks, or a map of the folder is missing or malformed.
    """
    if split.has_only_masks:
        raise InputError(f"{split.name}: has masks; --pseudo-heatmaps is about boxes")
    source = MapFolder(pseudo, split.examples, config.resize, config.protocol, normalize=config.normalize)
    if missing := [name for name, file in source.files.items() if file is None]:
        raise InputError(f"{pseudo}: contains no heatmap of image {missing[0]!r}, expected one of each image")
    kept, right = [], []
    for _, loaded, example in source.load(skip=set()):
        if isinstance(loaded, InputError):
            raise loaded
        if len(box := pseudo_box(loaded, config.protocol)):
            boxes = scale_boxes(box, REFERENCE_FRAME, example.size, truncate=False)
            kept.append(replace(example, boxes=boxes))
            right.append(is_right(box[0], example.boxes, example.size, config.protocol))
    if not kept:
        raise InputError(f"{pseudo}: every map has the same value everywhere, so that there is no mean box")
    return replace(split, examples=kept), np.array(right)


def _score_split(
    config: ScoreConfig, heatmaps: Path, split: Split, records: Path, track: Track
) -> tuple[dict[str, Any], Images, list[str]]:
    """Scores of a folder's maps and of the baselines on the same images by name; the images; the problems."""
    masks = split.has_only_masks
    source = MapFolder(heatmaps, split.examples, config.resize, config.protocol, normalize=config.normalize)
    name = heatmaps.name or "heatmaps"
    name = f"{name} (heatmaps)" if name in BASELINES else name
    scorers = scorers_of((name, *BASELINES), masks, config.thresholds, config.protocol, config.metrics)
    images, ranges = Images(), MapRanges()
    if isinstance(scorer := scorers[name], BoxScorer):
        scorer.ranges = ranges

    def truths_of(examples: Sequence[Example]) -> dict[str, Any]:
        images.add_examples(examples)
        if not masks:
            return _boxes_of(examples)
        return {"masks": masks_of(split, examples), "image_sizes": [one.size for one in examples]}

    recorded = records if not masks and config.protocol == "reference" else None
    progress = as_callback(track, f"scoring {heatmaps}", len(split))
    outcome = _score_folder(source, scorers, truths_of, recorded, progress, ranges)
    images.ranges = ranges.sentences(name)
    problems = SplitScore({}, 0, **outcome).problems()
    return {name: scorer.compute() for name, scorer in scorers.items()}, images, problems
