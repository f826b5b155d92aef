"""The command `heatbox export`."""

from __future__ import annotations

from pathlib import Path

import tyro

from heatbox.cli.terminal import say
from heatbox.errors import InputError


def export(
    run: tyro.conf.Positional[Path],
    coco: Path | None = None,
    npy: Path | None = None,
    overlays: Path | None = None,
    method: str | None = None,
    threshold: float | None = None,
    limit: int | None = None,
) -> None:
    """Export the boxes and maps of a run for other tools.

    Writes COCO detections, .npy heatmaps or overlay images, each to the path of its option.

    Args:
        run: The folder of a run of heatbox evaluate.
        coco: JSON file of detections; images and ground truth are written to NAME-truth.json.
        npy: Folder of <image id>.npy heatmaps, which heatbox score reads.
        overlays: Folder of <image id>.png images with map, box and ground truth.
        method: The method; by default the run's first.
        threshold: Threshold of the boxes; by default the best one for MaxBoxAcc.
        limit: Maximum number of overlays; the first ones are written.

    Examples:
        heatbox export runs/resnet50-test --coco detections.json
        heatbox export runs/resnet50-test --method pc1 --npy maps/ --overlays overlays/ --limit 50
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.data.open import open_split
    from heatbox.evaluation.export import RunMaps, write_coco, write_heatmaps, write_overlays

    if coco is None and npy is None and overlays is None:
        raise InputError("nothing to export was named; expected --coco FILE, --npy DIR or --overlays DIR")
    maps = RunMaps(run, method, threshold)
    config = maps.run.config()
    metadata = Path(config["metadata"]) if config.get("metadata") else None
    if npy is not None:
        write_heatmaps(maps, npy, on_terminal)
        say(f"heatmaps: {npy}")
    if coco is not None:
        try:
            names = open_split(config["data"], metadata).class_names
        except InputError as error:
            names = []
            say(f"note: categories are named by numbers, since the data set was not found ({error})")
        truth = write_coco(maps, coco, names, on_terminal)
        say(f"detections: {coco}, ground truth: {truth}")
    if overlays is not None:
        write_overlays(maps, overlays, open_split(config["data"], metadata), on_terminal, limit)
        say(f"overlays: {overlays}")
