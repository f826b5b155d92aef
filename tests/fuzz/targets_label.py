"""Commands that read what others wrote: label with corrections, calibrate, foreground heads, faithfulness."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

from fuzz.mutate import Case, damaged
from fuzz.target import Target, files_of
from fuzz.targets_whole import _MODEL, run_arguments
from heatbox.cli.main import main
from heatbox.data.glyphs import glyphs
from heatbox.data.open import open_split
from heatbox.data.types import Split
from heatbox.data.write import WriteOptions, write_splits
from helpers.scenes import write_split

NETWORK = "--model mine.py:blobs --size 32 --device cpu"
HEADED = "--model resnet10_small --checkpoint pretrained --size 32 --device cpu"
LABEL = f"label photos {NETWORK} --run label --to coco csv --images none --review 2 --out out"
EVALUATE = f"evaluate {NETWORK} --data set --thresholds 20 --out run"
FAITHFUL = f"faithfulness {NETWORK} --data set --method cam --steps 2 --limit 3 --out faithful"

# What makes the files, the command that reads them, and which of them are damaged before it.
COMMANDS = (
    (f"{LABEL} --method cam --out made", f"{LABEL} --method cam", "label/"),
    ("", f"{LABEL} --method cam --corrected coco/annotations/instances_photos.json", "coco/"),
    ("", f"{LABEL} --method cam --corrected boxes.csv", "boxes.csv"),
    ("", f"{LABEL} --method cam --corrected label-studio.json", "label-studio.json"),
    ("", f"{LABEL} --method cam --calibration calibration.json", "calibration.json"),
    ("", "calibrate run --boxes set.csv --out made.json", "set.csv"),
    ("", "calibrate run --boxes set --out made.json", "run/"),
    ("", f"{EVALUATE} --method cam --calibration calibration.json", "calibration.json"),
    ("", f"locate a.png {NETWORK} --method cam --calibration calibration.json --out located", "calibration"),
    ("", f"locate a.png {HEADED} --method foreground --foreground head.safetensors", "head.safetensors"),
    (FAITHFUL, FAITHFUL, "faithful/"),
)


@cache
def _made() -> tuple[Case, ...]:
    """A case for each command, made once by the commands themselves."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                _make(Path(folder))
            cases = []
            for before, command, damage in COMMANDS:
                if before and not Path(damage).exists():
                    _done(before)
                files = {name: data for name, data in files_of(Path(folder)).items() if "/made" not in name}
                cases.append(files | {"arguments": command.encode(), "damage": damage.encode()})
        finally:
            os.chdir(here)
    return tuple(_needed(case) for case in cases)


def _done(command: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(command.split(" "))
    assert code in (0, 1), f"{command}: {said.getvalue()}"


def _make(root: Path) -> None:
    (root / "mine.py").write_text(_MODEL)
    write_split(root / "set", 4)
    split = glyphs("test", 200)
    firsts = [next(one for one in split if one.label == label) for label in range(split.num_classes)]
    for one in firsts:
        path = root / "photos" / str(one.label) / f"{one.id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        split.open_image(one).save(path)
    split.open_image(firsts[0]).save(root / "a.png")
    names = {one.id: f"{one.label}/{one.id}.png" for one in firsts}
    drawn = [dataclasses.replace(one, id=names[one.id]) for one in firsts]
    few = Split("photos", drawn, [str(label) for label in range(split.num_classes)], split.open_image)
    none = WriteOptions(images="none", overwrite=True)
    for kind, name in (("coco", "coco"), ("csv", "boxes.csv"), ("labelstudio", "label-studio.json")):
        write_splits(few, root / name, kind, none)
    write_splits(open_split("set"), root / "set.csv", "csv", none)
    _done(f"{EVALUATE} --method cam")
    _done(f"evaluate {HEADED} --data set --method foreground --thresholds 20 --out headed")
    (root / "headed/foreground.safetensors").rename(root / "head.safetensors")
    _done("calibrate run --boxes set --out calibration.json")


def _needed(case: Case) -> Case:
    """Without the folders that the command does not name."""
    words = case["arguments"].decode() + " set"
    return {name: data for name, data in case.items() if "/" not in name or name.split("/")[0] in words}


def build(_: Path) -> list[Case]:
    return [dict(case) for case in _made()]


def damage(case: Case, others: Sequence[Case], random: Random) -> Case:
    """The files that the command reads are damaged, sometimes missing."""
    case = dict(case)
    start = case.pop("damage").decode()
    names = [name for name in case if name.startswith(start)]
    if random.random() < 0.05:
        del case[random.choice(names)]
        return case
    rest = [{name: one[name] for name in one if name not in ("arguments", "damage")} for one in others]
    return damaged(case, rest, random, names)


def run(case: Case, folder: Path) -> None:
    run_arguments({name: data for name, data in case.items() if name != "damage"}, folder)
    for path in folder.glob("out/coco.json"):
        json.loads(path.read_text())  # a file with its final name is whole


TARGETS = [Target("label-and-others", build, run, 4_000, damage, seconds=60.0)]
