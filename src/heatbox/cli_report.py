"""Commands that read what other commands left: report, compare, export."""

from __future__ import annotations

from pathlib import Path

import tyro

from heatbox.terminal import say


def report(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    out: Path = Path("report.html"),
    images: int = 500,
    title: str = "",
) -> None:
    """One page about one or more runs: scores, figures, and an explorer of images, maps and thresholds.

    The page is a single file that needs no network. Runs are folders that evaluate, score, analyze or demo
    wrote; of several, the explorer shows the images of the first and every map beside each other.

    Args:
        runs: The folders.
        out: The HTML file.
        images: Most images in the explorer; of more, so many are spread evenly from best to worst.
        title: Heading of the page; by default the names of the runs.
    """
    from heatbox.progress import on_terminal
    from heatbox.report.build import write_report

    if not runs:
        from heatbox.errors import InputError

        raise InputError("no run was named; expected folders that heatbox evaluate wrote")
    for note in write_report(runs, out, images, title, on_terminal):
        say(f"note: {note}")
    say(f"page: {out} ({out.stat().st_size / 1e6:.1f} MB)")
