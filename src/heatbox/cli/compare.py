"""The command `heatbox compare`."""

from __future__ import annotations

from pathlib import Path

import tyro

from heatbox.cli.terminal import AsJson, print_json
from heatbox.config import MetricName


def compare(
    first: tyro.conf.Positional[Path],
    second: tyro.conf.Positional[Path],
    metrics: tuple[MetricName, ...] = (),
    as_json: AsJson = False,
) -> None:
    """Compare two runs on the same images.

    Prints the settings that differ, scores with paired intervals, and the images that flipped from wrong to
    right or back.

    Args:
        first: The folder of a run of heatbox evaluate.
        second: The folder of another on the same images; differences are this one minus the first.
        metrics: Scores besides those of boxes, as for heatbox evaluate; by default those that one of the runs
            was scored with. pseudo_boxes also tells which map of both runs to choose without ground truth.
        as_json: Print JSON, with every flipped image, instead of text.

    Examples:
        heatbox compare runs/resnet50-cam runs/resnet50-walk
    """
    from heatbox._utils.progress import on_terminal, printable
    from heatbox.evaluation.compare import compare_runs, comparison_lines

    found = compare_runs(first, second, on_terminal, metrics)
    if as_json:
        print_json(found)
    else:
        for line in comparison_lines(found):
            print(printable(line))
