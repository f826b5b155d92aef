"""The command `heatbox report`."""

from __future__ import annotations

from pathlib import Path

import tyro

from heatbox.cli.terminal import say
from heatbox.errors import InputError


def report(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    out: Path = Path("report.html"),
    images: int = 500,
    title: str = "",
) -> None:
    """Write a page about one or more runs: scores, figures, an explorer of images and thresholds.

    The page is a single file that works offline. Runs are folders that evaluate, score, analyze or demo
    wrote. With several runs, the explorer shows the images of the first with the maps of all.

    Args:
        runs: The run folders.
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
