"""Commands that read what other commands left: report, compare, export."""

from __future__ import annotations

from pathlib import Path

import tyro

from heatbox.cli.terminal import AsJson, print_json, say
from heatbox.errors import InputError


def report(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    out: Path = Path("report.html"),
    images: int = 500,
    title: str = "",
) -> None:
    """Write an HTML page about one or more runs: scores, figures, an explorer of images and thresholds.

    The page is a single file that works offline. Runs are folders that evaluate, score, analyze or demo
    wrote. With several runs, the explorer shows the images of the first with the maps of all.

    Args:
        runs: The folders.
        out: The HTML file.
        images: Maximum number of images in the explorer, sampled evenly from best to worst.
        title: Heading of the page; by default the names of the runs.

    Examples:
        heatbox report runs/resnet50-test
        heatbox report runs/replknet runs/convnext --out comparison.html --title "Two backbones"
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.visualization.report.build import write_report

    if not runs:
        raise InputError("no runs given; expected folders that heatbox evaluate wrote")
    for note in write_report(runs, out, images, title, on_terminal):
        say(f"note: {note}")
    say(f"page: {out} ({out.stat().st_size / 1e6:.1f} MB)")


def compare(
    first: tyro.conf.Positional[Path], second: tyro.conf.Positional[Path], as_json: AsJson = False
) -> None:
    """What changed between two runs.

    Settings, scores with paired intervals, and the images that flipped from wrong to right or back.

    Args:
        first: The folder of a run of heatbox evaluate.
        second: The folder of another on the same images; differences are this one minus the first.
        as_json: Print JSON, with every flipped image, instead of text.

    Examples:
        heatbox compare runs/resnet50-cam runs/resnet50-walk
    """
    from heatbox._utils.progress import on_terminal, printable
    from heatbox.evaluation.compare import compare_runs, comparison_lines

    found = compare_runs(first, second, on_terminal)
    if as_json:
        print_json(found)
    else:
        for line in comparison_lines(found):
            print(printable(line))


def export(
    run: tyro.conf.Positional[Path],
    coco: Path | None = None,
    npy: Path | None = None,
    overlays: Path | None = None,
    method: str | None = None,
    threshold: float | None = None,
    limit: int | None = None,
) -> None:
    """What a run found, for other tools.

    COCO detections, .npy heatmaps, overlay pictures: each is written where its option says.

    Args:
        run: The folder of a run of heatbox evaluate.
        coco: JSON file of detections; images and ground truth go to NAME-truth.json beside it.
        npy: Folder of <image id>.npy heatmaps, which heatbox score reads.
        overlays: Folder of <image id>.png pictures with map, box and ground truth.
        method: The map; by default the run's first.
        threshold: Of the boxes; by default the best one for MaxBoxAcc.
        limit: Only the first so many overlays.

    Examples:
        heatbox export runs/resnet50-test --coco detections.json
        heatbox export runs/resnet50-test --method pc1 --npy maps/ --overlays pictures/ --limit 50
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.data.open import open_split
    from heatbox.evaluation.export import found_of, write_coco, write_heatmaps, write_overlays

    if coco is None and npy is None and overlays is None:
        raise InputError("nothing to export was asked for; expected --coco FILE, --npy DIR or --overlays DIR")
    found = found_of(run, method, threshold)
    config = found.run.config()
    metadata = Path(config["metadata"]) if config.get("metadata") else None
    if npy is not None:
        write_heatmaps(found, npy, on_terminal)
        say(f"heatmaps: {npy}")
    if coco is not None:
        try:
            names = open_split(config["data"], metadata).class_names
        except InputError as error:
            names = []
            say(f"note: categories have numbers for names, since the data set was not found ({error})")
        truth = write_coco(found, coco, names, on_terminal)
        say(f"detections: {coco}, ground truth: {truth}")
    if overlays is not None:
        write_overlays(found, overlays, open_split(config["data"], metadata), on_terminal, limit)
        say(f"overlays: {overlays}")
