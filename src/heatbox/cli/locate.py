"""The command `heatbox locate`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from heatbox.cli.parsing import apart, for_networks, names_networks
from heatbox.cli.terminal import SOME_FAILED, say, say_written, warn_of_random_weights
from heatbox.config import LocateConfig, LocateNetworksConfig
from heatbox.data.formats.options import AnnotationFiles, WriteOptions, WrittenFormat
from heatbox.errors import InputError


def locate(
    photos: tyro.conf.Positional[tuple[str, ...]],
    config: Annotated[LocateConfig, tyro.conf.arg(name="")],
    files: Annotated[AnnotationFiles, tyro.conf.arg(name="")],
    options: Annotated[WriteOptions, tyro.conf.arg(name="")],
    out: Path = Path("heatbox-boxes"),
    overlays: bool = True,
    class_names: tuple[str, ...] = (),
    coco: Path | None = None,
) -> int:
    """Localize the object in image files.

    Prints one JSON object per image (file, label, score, boxes in its pixels) and writes overlay PNGs, and
    annotation files of all images where they are requested. A file that cannot be read is reported and
    skipped; the exit code is then 1. With --model A B --checkpoint a b after the images, the maps and the
    class scores of several networks are averaged. After an interruption, rerun the command to resume.

    Args:
        photos: Image files of any size and format, folders and archives of them, and addresses.
        config: The model, the map and the threshold.
        files: Annotation files.
        options: How annotations and images are written.
        out: Folder of the overlays.
        overlays: Draw overlays; --no-overlays disables them.
        class_names: Names of the model's classes in the order of its outputs, or a file with one per line; by
            default those that are known of the model.
        coco: FILE.json in COCO's format with images, annotations (each with its score) and categories, or a
            folder with the images too.

    Examples:
        heatbox locate photos/*.jpg --model convnext_tiny.fb_in1k --checkpoint pretrained
        heatbox locate s3://bucket/shards/ --model resnet50 --checkpoint pretrained --coco boxes.json
        heatbox locate cat.jpg --model resnet50 --checkpoint pretrained --method walk --contours all
        heatbox locate photos/ --model mine.py:build --target folder --coco boxes.json --no-overlays
        heatbox locate photos/ --model resnet50 --checkpoint pretrained --method walk+foreground
        heatbox locate photos/ --model resnet50 mine.py:build --checkpoint pretrained mine.pth --method walk
    """
    from heatbox._utils.progress import on_terminal
    from heatbox.data.write import check_output, write_splits
    from heatbox.evaluation.located import LineStore
    from heatbox.inference.locate import find_images, locate_files, located_split

    each = config.each() if isinstance(config, LocateNetworksConfig) else [config]
    for one in each:
        warn_of_random_weights(one.model, one.checkpoint)
    outputs: dict[WrittenFormat, Path] = {**({"coco": coco} if coco else {}), **files.chosen()}
    if options.model_version is None:
        options = replace(options, model_version=f"{' + '.join(one.model for one in each)} {config.method}")
    for name, path in outputs.items():
        check_output(path, name, options, photos)
    names = _class_names(class_names)
    found = list(find_images(photos))
    images = [one for one in found if not isinstance(one, InputError)]
    skipped = [one for one in found if isinstance(one, InputError)]
    lines = []
    for error in skipped:
        say(f"skipped: {error}")
    store = LineStore(out, images, {"config": config, "names": names, "overlays": overlays})
    located = locate_files(images, config, out if overlays else None, names, on_terminal, store.own)
    for line in store.complete(located, on_terminal) if images or not found else ():
        if isinstance(line, InputError):
            skipped.append(line)
            say(f"skipped: {line}")
        else:
            print(json.dumps(line), flush=True)
            lines.append(line)
    if skipped:
        say(f"{len(skipped)} of {len(found)} images could not be used")
    code = SOME_FAILED if skipped else 0
    with store.removed_after_use():
        if outputs and lines:
            if any(line["name"] is None for line in lines):
                say(
                    "note: the model's classes have no names, their numbers are written; "
                    "--class-names names them"
                )
            split = located_split(lines, names, images)
            for name, path in outputs.items():
                code = max(code, say_written(write_splits([split], path, name, options)))
    return code


def one_or_several(args: Sequence[str]) -> tuple[Callable[..., int | None], str, Sequence[str]]:
    """Function, prog and arguments of `heatbox locate`: of several networks where --model names some."""
    if not names_networks(args, after_files=True):
        return locate, "heatbox locate", args
    return for_networks(locate, LocateNetworksConfig), "heatbox locate", apart(args)


def _class_names(given: Sequence[str]) -> list[str]:
    """Names, or the lines of the one file that is given."""
    if len(given) == 1 and Path(given[0]).is_file():
        from heatbox.data.files.trees import FolderTree
        from heatbox.data.formats.rows import read_rows

        path = Path(given[0])
        return [row.text for row in read_rows(FolderTree(path.parent), path.name)]
    return list(given)
