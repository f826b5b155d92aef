"""Whole commands: `locate` with a small network, and the command line itself."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from unittest import mock

import torch
from PIL import Image

from fuzz.guard import Escape
from fuzz.mutate import NUMBERS, WORDS, Case, damaged
from fuzz.target import Target, written
from fuzz.targets_files import pictures
from fuzz.targets_runs import _finished
from heatbox.cli.main import main
from heatbox.config import LocateConfig
from heatbox.errors import InputError
from heatbox.inference.locate import locate_files
from heatbox.models.factory import create_model

_METHODS = ("cam", "pc1", "cam", "walk-one-pass", "cam+centre")
_MODELS = ("test_replknet", "resnet10_small")


@cache
def _model(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(name, 5).eval()


def _run_locate(case: Case, folder: Path) -> None:
    """Localizes in the image, with a network, map and threshold that are derived from its bytes."""
    ((name, data),) = case.items()
    (folder / name).write_bytes(data)
    choice = zlib.crc32(data)
    model, method = _MODELS[choice % 2], _METHODS[choice // 2 % 5]
    contours = ("largest", "all")[choice // 10 % 2]
    threshold, target = (0.0, 0.35, 0.999)[choice // 20 % 3], (None, 0, 4)[choice // 60 % 3]
    with mock.patch.object(LocateConfig, "build", return_value=_model(model)):
        config = LocateConfig(
            model, method=method, threshold=threshold, contours=contours, size=32, target=target, device="cpu"
        )
        (line,) = locate_files([folder / name], config, folder / "out")
    if isinstance(line, InputError):
        raise line
    json.loads(json.dumps(line, allow_nan=False))
    for x1, y1, x2, y2 in line["boxes"]:
        assert 0 <= x1 <= x2 <= line["width"]
        assert 0 <= y1 <= y2 <= line["height"]
    with Image.open(line["overlay"]) as drawn:
        assert drawn.size == (line["width"], line["height"])


_COMMANDS = (
    "report run --out out/page.html --images 3 --title x",
    "compare run run --json",
    "export run --coco out/c.json --npy out/maps --overlays out/o --method cam --threshold 0.5 --limit 1",
    "evaluate --from-run run --thresholds 10 --protocol exact --json",
    "evaluate -m {model} -d set --method cam pc1 --size 32 --batch-size 2 --limit 2 --thresholds 9 --out r",
    "evaluate -m {model} -d set --mean 0.5 0.5 0.5 --std 0.2 0.2 0.2 --channels 2 --target predicted --out r",
    "score --heatmaps maps -d set --thresholds 10 --resize --out out/s --json",
    "score --heatmaps maps -d set --fullsup set --fullsup-heatmaps maps --protocol exact --out s",
    "locate no.png picture.png -m {model} --method cam --threshold 0.3 --contours all --size 32 --out l",
    "data check set --out out/check --jobs 1 --json",
    "convert weights.safetensors --out out/w.safetensors --half",
    "analyze thresholds --model {model} --data set --limit 1 --out out/a",
    "train glyphs_resnet --data nowhere --epochs 1 --lr 0.1 --batch-size 2 --out out/t",
    "train nothing --data nowhere",
    "data list",
    "--help",
)


def _commands(root: Path) -> list[Case]:
    whole = _finished(root)[0]
    (root / "model.py").write_text(_MODEL)
    extra = {
        "mine.py": (root / "model.py").read_bytes(),
        "picture.png": whole[next(n for n in whole if n.endswith(".png"))],
    }
    split = {name: data for name, data in whole.items() if name.startswith(("run/", "set/"))}
    ids = split["set/image_ids.txt"].decode().split("\n")
    import numpy as np

    for name in filter(None, ids):
        stream = io.BytesIO()
        np.save(stream, np.full((9, 9), 0.5))
        extra[f"maps/{name}.npy"] = stream.getvalue()
    extra["weights.safetensors"] = b"\x02\0\0\0\0\0\0\0{}"
    return [
        split | extra | {"arguments": command.format(model="mine.py:blobs").encode()} for command in _COMMANDS
    ]


_MODEL = """
from torch import nn

def blobs(num_classes=10):
    layers = nn.Conv2d(3, 4, 5, 4, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, num_classes))
"""

_PLACES = (
    "run",
    "set",
    "maps",
    "nowhere",
    "out",
    "mine.py:none",
    "run/config.json",
    "picture.png",
    ".",
    "",
    "out/\0",
    "/dev/null",
    "/proc/self/mem",
    "x" * 300,
    "é\udce9",
    "set:test",
    "set:x",
    ":",
    "a:b:c",
    "~",
    "-",
)
_OPTIONS = (
    "--help",
    "--out",
    "--json",
    "--size",
    "--limit",
    "--threshold",
    "--device",
    "--method",
    "--no-overlays",
    "--overwrite",
    "--x",
    "--",
    "-h",
    "-v",
    "--data",
    "--model",
)


def _damage_arguments(case: Case, others: Sequence[Case], random: Random) -> Case:
    """Arguments missing, twice, exchanged, or with awkward numbers, names and paths in their place."""
    words = case["arguments"].decode().split(" ")
    for _ in range(random.choice((1, 1, 2, 3))):
        if not words:
            break
        at = random.randrange(len(words))
        kind = random.randrange(8)
        if kind == 0:
            del words[at]
        elif kind == 1:
            words.insert(at, random.choice(_OPTIONS))
        elif kind == 2:
            other = random.randrange(len(words))
            words[at], words[other] = words[other], words[at]
        elif kind in (3, 4) and at:
            words[at] = random.choice(NUMBERS).decode("utf-8", "replace")
        elif kind == 5 and at:
            words[at] = random.choice(_PLACES)
        elif kind == 6 and at:
            words[at] = random.choice(WORDS).decode("utf-8", "surrogateescape")
        else:
            words.insert(at + 1, words[at])
    words = [word.replace("\0", "") for word in words]  # which no argument can hold
    if words[:1] == ["demo"] or "glyphs" in words:  # minutes of honest work
        words = ["--help"]
    return {**case, "arguments": "\x1f".join(words).encode("utf-8", "surrogateescape")}


def _was_named(path: str, words: Sequence[str]) -> bool:
    """Whether a path outside the working folder is an argument's, beside it, or on the way to it."""
    out = Path(path)
    named = [Path(os.path.abspath(word)) for word in words if word.startswith("/") or ".." in word]
    return any(
        out.is_relative_to(one) or one.is_relative_to(out) or out.parent == one.parent for one in named
    )


def run_arguments(case: Case, folder: Path) -> None:
    """`heatbox ARGUMENTS`; it may exit with 0, 1 or 2, and prints a sentence where it exits with 2."""
    words = case["arguments"].decode("utf-8", "surrogateescape").split("\x1f")
    if len(words) == 1:
        words = words[0].split(" ")
    written({name: data for name, data in case.items() if name != "arguments"}, folder)
    here = os.getcwd()
    os.chdir(folder)
    said, printed = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
            code = main(words)
    except SystemExit as error:  # the parser's own way of ending
        code = error.code
    except Escape as error:
        if not _was_named(error.path, words):
            raise
        return
    finally:
        os.chdir(here)
    assert code in (0, 1, 2), f"exit code {code}"
    if code == 2:
        assert said.getvalue().strip() or printed.getvalue().strip(), "nothing was said"
    for text in (said.getvalue(), printed.getvalue()):
        assert "\x1b[2J" not in text
        assert "Traceback" not in text


TARGETS = [
    # Legitimate work may take long: images of up to 179 megapixels, where Pillow stops; 65536 thresholds.
    Target("locate", pictures, _run_locate, 10_500, damaged, seconds=60.0),
    Target("command-line", _commands, run_arguments, 3_000, _damage_arguments, seconds=60.0),
]
