"""kill -9 at random moments, and what is found afterwards.

    uv run python tests/fuzz/kills.py --kills 10 --seed 0 --log kills.jsonl     # 10 of each kind of work

Each trial begins real commands in processes of their own, kills them one to three times, lets the last one
end, and compares all that is left with an undisturbed run. After every kill each file with a final name must
be whole. A third of the kills come at a random moment, a third while a file is being written (its temporary
name is there), a third just after a file has got its name.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load_file

from scenes import write_model, write_split
from train.conftest import RECIPE, write_small_data

# Small parts, so that there is something to lose and to go on from.
PROGRAM = """
import sys
import heatbox.collect, heatbox.metrics.scoring
heatbox.collect.RECORDS_A_PART = 4
heatbox.metrics.scoring.MAPS_AT_A_TIME = 8
from heatbox.cli import main
sys.exit(main(sys.argv[1:]))
"""
IGNORED = ("environment.json",)  # versions and the like
OF_TIME = ("images_per_second", "ms_")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of work: its name and its command, in which OUT is the folder that it writes."""

    name: str
    command: tuple[str, ...]


def kinds(root: Path) -> list[Kind]:
    """Prepare small data in a folder, and tell what is done with it."""
    model, data = write_model(root), write_split(root / "set", 32)
    fullsup = write_split(root / "fullsup", 12)
    write_small_data(root / "glyphs")
    for index, name in enumerate((data / "image_ids.txt").read_text().split("\n")[:-1]):
        path = root / "maps" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        y, x = np.mgrid[:224, :224]
        np.save(path, np.exp(-((x - 80 - index) ** 2 + (y - 100) ** 2) / 3000).astype(np.float32))
    forward = ("--size", "64", "--batch-size", "4", "--device", "cpu")
    evaluate = ("evaluate", "-m", model, "-d", str(data), *forward)
    run = root / "run"
    finish([*evaluate, "--out", str(run)])
    return [
        Kind(
            "train", ("train", *RECIPE, "--data", str(root / "glyphs"), "--save-minutes", "0", "--out", "OUT")
        ),
        Kind("evaluate", (*evaluate, "--fullsup", str(fullsup), "--out", "OUT")),
        Kind("score", ("score", str(root / "maps"), "-d", str(data), "--out", "OUT")),
        Kind("report", ("report", str(run), "--out", "OUT/page.html")),
        Kind(
            "export",
            ("export", str(run), "--coco", "OUT/c.json", "--npy", "OUT/maps", "--overlays", "OUT/pictures"),
        ),
        Kind(
            "analyze",
            ("analyze", "erf", "--model", model, "--data", str(data), *forward, "--out", "OUT"),
        ),
    ]


def begin(command: list[str]) -> subprocess.Popen[bytes]:
    """`heatbox ...` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )


def finish(command: list[str]) -> None:
    """The same, to its end."""
    process = begin(command)
    _, said = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {process.returncode}: {said.decode()[-2000:]}")


def kill(command: list[str], out: Path, how: str, random: Random, usual: float) -> bool:
    """Begin a command and kill it; False where it had already ended."""
    before = names(out)
    process = begin(command)
    assert process.stderr is not None
    began, delay = time.monotonic(), random.random()
    while process.poll() is None:
        if how == "any moment" and time.monotonic() - began > usual * delay:
            break
        if how == "while writing" and any(name.endswith(".tmp") for name in names(out) - before):
            break
        if (
            how == "after a file"
            and len({name for name in names(out) - before if not name.endswith(".tmp")}) > 4 * delay
        ):
            time.sleep(0.02 * random.random())
            break
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    return process.returncode == -9


def names(folder: Path) -> set[str]:
    """Names of all files below a folder."""
    return {os.path.join(place, file) for place, _, files in os.walk(folder) for file in files}


# ------------------------------------------------------------------------------------- what is there is whole


def check_whole(folder: Path) -> int:
    """Read every file with a final name; returns their number. An error says which is broken."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(".tmp")]
    for path in paths:
        try:
            content_of(path)
        except Exception as error:
            raise AssertionError(f"{path}: is not whole ({type(error).__name__}: {error})") from error
    return len(paths)


def content_of(path: Path) -> Any:
    """What a file says, without what depends on the machine's speed."""
    return READERS[path.suffix](path)


def _table(path: Path) -> Any:
    table = pq.read_table(path)
    return table.select([name for name in table.column_names if not name.startswith(OF_TIME)]).to_pydict()


def _json(path: Path) -> Any:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items() if not key.startswith(OF_TIME)}
        return [plain(one) for one in value] if isinstance(value, list) else value

    return plain(json.loads(path.read_text()))


def _page(path: Path) -> str:
    text = path.read_text()
    assert text.rstrip().endswith("</html>")
    return text


def _csv(path: Path) -> Any:
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert all(None not in row and None not in row.values() for row in rows)
    return [{key: value for key, value in row.items() if not key.startswith(OF_TIME)} for row in rows]


def _png(path: Path) -> bytes:
    with Image.open(path) as image:
        image.load()
    return path.read_bytes()


def _state(path: Path) -> Any:
    found = torch.load(path, weights_only=True)
    return [(name, tensor.numpy().tobytes()) for name, tensor in found["model"].items()]


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": _json,
    ".csv": _csv,
    ".html": _page,
    ".png": _png,
    ".svg": lambda path: (path.read_text(), path.read_text().index("</svg>"))[0],
    ".npy": lambda path: np.load(path).tobytes(),
    ".npz": lambda path: {name: array.tolist() for name, array in np.load(path).items()},
    ".parquet": _table,
    ".pt": _state,
    ".safetensors": lambda path: [(name, t.numpy().tobytes()) for name, t in load_file(path).items()],
}


def same(reference: Path, out: Path) -> None:
    """Both folders hold the same files that say the same."""
    wanted, found = (
        {path.relative_to(f): path for path in f.rglob("*") if path.is_file()} for f in (reference, out)
    )
    assert set(found) == set(wanted), f"other files: {set(found) ^ set(wanted)}"
    for name, path in wanted.items():
        if path.name not in IGNORED:
            one, other = (
                json.dumps(content_of(p), default=repr).replace(str(f), "OUT")
                for p, f in ((path, reference), (found[name], out))
            )
            assert one == other, f"{name} differs"


# ------------------------------------------------------------------------------------------------- session


def trials(kind: Kind, root: Path, wanted: int, random: Random) -> Iterator[dict[str, Any]]:
    """Kill and go on until there were enough kills; a line of the log for each trial."""
    reference = root / "reference" / kind.name
    reference.mkdir(parents=True)
    began = time.monotonic()
    finish([word.replace("OUT", str(reference)) for word in kind.command])
    usual = time.monotonic() - began
    kills = attempt = 0
    while kills < wanted:
        attempt += 1
        out = root / "trials" / f"{kind.name}-{attempt}"
        if kind.name in ("report", "export"):
            out.mkdir(parents=True)
        command = [word.replace("OUT", str(out)) for word in kind.command]
        moments, whole = [], []
        for _ in range(random.choice((1, 2, 3))):
            how = random.choice(("any moment", "while writing", "after a file"))
            if kill(command, out, how, random, usual):
                kills += 1
                moments.append(how)
            whole.append(check_whole(out) if out.exists() else 0)
        left = sum(name.endswith(".tmp") for name in names(out))
        finish(command)
        check_whole(out)
        same(reference, out)
        shutil.rmtree(out)
        yield {
            "kind": kind.name,
            "kills": moments,
            "whole_files": whole,
            "temporary_files_before_the_end": left,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="of each kind of work")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", nargs="*")
    parser.add_argument("--log", default="kills.jsonl")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Path(args.log).open("a") as log:
        for kind in kinds(Path(folder)):
            if args.kind and kind.name not in args.kind:
                continue
            for line in trials(kind, Path(folder), args.kills, Random(f"{args.seed} {kind.name}")):
                log.write(json.dumps(line) + "\n")
                log.flush()
                print(line, flush=True)


if __name__ == "__main__":
    main()
