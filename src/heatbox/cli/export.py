"""The command `heatbox export`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from heatbox.cli.terminal import say, say_written
from heatbox.config import ScoreFunction
from heatbox.data.formats.options import AnnotationFiles, WriteOptions
from heatbox.errors import InputError

if TYPE_CHECKING:
    from heatbox.data.types import Split


def export(
    run: tyro.conf.Positional[Path],
    files: Annotated[AnnotationFiles, tyro.conf.arg(name="")],
    options: Annotated[WriteOptions, tyro.conf.arg(name="")],
    coco: Path | None = None,
    npy: Path | None = None,
    overlays: Path | None = None,
    method: str | None = None,
    threshold: float | None = None,
    scores: ScoreFunction | None = None,
    calibration: Path | None = None,
    limit: int | None = None,
) -> int:
    """Export the boxes and maps of a run for other tools.

    Writes COCO detections, annotation files of other tools, .npy heatmaps or overlay images, each to the path
    of its option. Annotation files have the predicted boxes with the probability of their class as score, or
    with --calibration that of the box to be right. The exit code is 1 if an image was left out.

    Args:
        run: The folder of a run of heatbox evaluate.
        files: Annotation files.
        options: How annotations and images are written.
        coco: JSON file of detections; images and ground truth are written to NAME-truth.json.
        npy: Folder of <image id>.npy heatmaps, which heatbox score reads.
        overlays: Folder of <image id>.png images with map, box and ground truth.
        method: The method; by default the run's first.
        threshold: Threshold of the boxes; by default that of the calibration, or the best one for MaxBoxAcc.
        calibration: A file of heatbox calibrate: its threshold makes the boxes, and the score of each is the
            probability that it is right.
        scores: Scores of the boxes: softmax, or sigmoid of each class alone; by default the run's.
        limit: Maximum number of overlays; the first ones are written.

    Examples:
        heatbox export runs/resnet50-test --coco detections.json
        heatbox export runs/resnet50-test --coco detections.json --calibration calibration.json
        heatbox export runs/resnet50-test --method pc1 --npy maps/ --overlays overlays/ --limit 50
        heatbox export runs/resnet50-test --yolo proposals/ --confidence --cvat proposals.zip
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.data.write import check_output, write_splits
    from heatbox.evaluation.export import RunMaps, predicted_split, write_coco, write_heatmaps, write_overlays
    from heatbox.evaluation.images import reopen_images
    from heatbox.inference.calibration import load_calibration

    outputs, code = files.chosen(), 0
    if coco is None and npy is None and overlays is None and not outputs:
        named = "--coco FILE, --npy DIR, --overlays DIR or a format such as --yolo DIR"
        raise InputError(f"nothing to export was named; expected {named}")
    known = None if calibration is None else load_calibration(calibration)
    maps = RunMaps(run, method, threshold, scores, known)
    config = maps.run.config()
    if options.model_version is None:
        options = replace(options, model_version=f"{config.get('model') or run.name} {maps.method}")
    needs_images = any(
        check_output(path, name, options)[0].images != "none" for name, path in outputs.items()
    )
    if npy is not None:
        write_heatmaps(maps, npy, on_terminal)
        say(f"heatmaps: {npy}")
    split: Split | None = None
    if coco is not None or outputs:
        try:
            split = reopen_images(maps.run, config)
        except InputError as error:
            if needs_images:
                raise
            say(f"note: categories are named by numbers, since the data set was not found ({error})")
    names = split.class_names if split else []
    if coco is not None:
        truth = write_coco(maps, coco, names, on_terminal)
        say(f"detections: {coco} (scores: {maps.score_words}), ground truth: {truth}")
    if outputs:
        found = predicted_split(maps, split, names, on_terminal)
        for name, path in outputs.items():
            code = max(code, say_written(write_splits([found], path, name, options, on_terminal)))
    if overlays is not None:
        write_overlays(maps, overlays, split or reopen_images(maps.run, config), on_terminal, limit)
        say(f"overlays: {overlays}")
    return code
