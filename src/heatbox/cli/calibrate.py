"""The command `heatbox calibrate`."""

from __future__ import annotations

from pathlib import Path

import tyro

from heatbox.cli.terminal import AsJson, say


def calibrate(
    run: tyro.conf.Positional[Path],
    boxes: str,
    method: tuple[str, ...] = (),
    coverage: float = 0.9,
    out: Path | None = None,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Calibrate the boxes of a run with the boxes of some of its images.

    Prints the threshold of each map with its interval, and writes a file that evaluate and locate take with
    --calibration: thresholds, the probability that a box is right, and how much wider a box has to be to
    contain the object. 20 to 500 images are enough; what fewer do not tell is said.

    Args:
        run: The folder of a run of heatbox evaluate.
        boxes: Images with boxes, in any format that --data reads, or a file of annotations (.json, .csv,
            .tsv, .xml) without the images; matched by id or file name.
        method: The maps to calibrate; by default all of the run.
        coverage: Probability with which an outer box is to contain the object.
        out: The file to write; by default calibration.json in the run folder.
        seed: Seed of the division of the images into two halves, and of the intervals.
        as_json: Print the content of the file instead of text.

    Examples:
        heatbox calibrate runs/resnet50-test --boxes birds/
        heatbox calibrate runs/resnet50-test --boxes boxes.json --method cam --coverage 0.95
    """
    from heatbox._utils.progress import on_terminal, printable
    from heatbox.evaluation.calibrate import calibrate_run, calibration_lines, notes_on_number, open_boxes
    from heatbox.evaluation.run import Run

    store = Run(run)
    found = calibrate_run(store, open_boxes(boxes, store), method, coverage, seed, track=on_terminal)
    path = found.save(out or run / "calibration.json")
    if as_json:
        print(path.read_text(), end="")
    else:
        for line in calibration_lines(found):
            print(printable(line))
    for note in notes_on_number(found):
        say(f"note: {note}")
    say(f"calibration: {path}")
