"""The commands of `heatbox data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from heatbox._utils.io import folder_name
from heatbox.cli.terminal import SOME_FAILED, AsJson, print_json, print_table, say, say_written
from heatbox.data.files.remote import shown
from heatbox.data.formats.options import WriteOptions, WrittenFormat


def data_check(
    path: tyro.conf.Positional[str],
    out: Path | None = None,
    jobs: int | None = None,
    as_json: AsJson = False,
) -> int:
    """Recognize a data set, count it, open every image and list what is broken; exit code 1 on any problem.

    Writes report.json and a contact sheet with boxes. A repeated or resumed check opens only images that are
    new or have changed.

    Args:
        path: A folder or an archive, as downloaded or extracted.
        out: Folder of the report; by default heatbox-check-NAME.
        jobs: Number of threads; by default one per core.
        as_json: Print the report as JSON instead of a table.

    Examples:
        heatbox data check CUB_200_2011.tgz
        heatbox data check photos/ --json
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.data.check import check_data
    from heatbox.visualization.overlay import data_sheet, save_png

    out = out or Path(folder_name(f"heatbox-check-{Path(shown(path)).resolve().stem}"))
    report = check_data(path, out, on_terminal, jobs)
    sheet = data_sheet(report.readable, _SHEET_IMAGES)
    drawn = f"; contact sheet: {save_png(sheet, out / 'contact-sheet.png')}" if sheet else ""
    if as_json:
        print_json(report.as_dict())
    else:
        from heatbox.visualization.tables import check_table

        print_table(check_table(report.splits, f"{shown(path)}: {report.layout}"))
        for note in report.notes:
            say(f"note: {note}")
        for problem in report.problems[:_MOST_PROBLEMS]:
            say(f"broken: {problem}")
        if len(report.problems) > _MOST_PROBLEMS:
            say(f"... and {len(report.problems) - _MOST_PROBLEMS} more in {out / 'report.json'}")
    say(f"{len(report.problems)} problems{drawn}")
    return SOME_FAILED if report.problems else 0


def data_prepare(
    name: tyro.conf.Positional[Literal["cub"]],
    source: tyro.conf.Positional[Path],
    out: Path,
    variant: Literal["squash", "short-side"] = "squash",
    jobs: int | None = None,
) -> int:
    """Write 448-pixel copies of CUB-200-2011 for training, with their boxes.

    The result is in the metadata layout, one folder per split. Rerun the command to resume.

    Args:
        name: The data set; cub is the one that needs preparation for training.
        source: CUB-200-2011, as downloaded or extracted.
        out: Folder of the copies.
        variant: squash resizes to 512 x 512 (the paper's text), short-side keeps the aspect ratio (the
            released code); both then crop the central 448 pixels.
        jobs: Number of threads; by default one per core.

    Examples:
        heatbox data prepare cub CUB_200_2011.tgz --out CUB-448
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.data.prepare import prepare_cub

    problems = prepare_cub(source, out, variant, on_terminal, jobs)
    for problem in problems:
        say(f"left out: {problem}")
    say(f"copies: {out}")
    return SOME_FAILED if problems else 0


def data_convert(
    source: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    to: WrittenFormat,
    options: Annotated[WriteOptions, tyro.conf.arg(name="")],
    jobs: int | None = None,
) -> int:
    """Write a data set in the format of another tool; exit code 1 if an image was left out.

    coco, huggingface, labelstudio, voc and yolo are folders, which get the images too; coco and labelstudio
    may be a single FILE.json. coco-results (FILE.json), csv (FILE.csv) and cvat (FILE.zip) are files. Scores
    of predictions are kept by all of them, by yolo with --confidence, by cvat except as YOLO 1.1. Labels of
    images without boxes are kept by coco, csv, cvat (CVAT 1.1, COCO 1.0), huggingface and labelstudio.

    Args:
        source: A data set: a folder, an archive, or PATH:SPLIT for one split; by default all splits.
        out: The output; an existing one is kept unless --overwrite is passed.
        to: The format.
        options: How annotations and images are written.
        jobs: Number of threads; by default one per core.

    Examples:
        heatbox data convert photos/ photos-yolo --to yolo
        heatbox data convert glyphs:test shapes.zip --to cvat --cvat-format "COCO 1.0" --images copy
        heatbox data convert predictions/ tasks.json --to labelstudio --model-version first
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.data.open import open_splits
    from heatbox.data.write import write_splits

    problems: list[str] = []
    written = write_splits(open_splits(source, problems), out, to, options, on_terminal, jobs)
    written.problems[:0] = problems
    return say_written(written)


def data_list(as_json: AsJson = False) -> None:
    """List the supported data sets: content, license, size, source and expected files.

    Args:
        as_json: Print JSON instead of a table.

    Examples:
        heatbox data list
    """
    from heatbox.data.catalogue import CATALOGUE

    if as_json:
        print_json(CATALOGUE)
    else:
        from heatbox.visualization.tables import catalogue_table

        print_table(catalogue_table(CATALOGUE))


DATA_COMMANDS = {"check": data_check, "convert": data_convert, "prepare": data_prepare, "list": data_list}
_MOST_PROBLEMS = 20  # printed; report.json lists all
_SHEET_IMAGES = 24
