"""kill -9 at random moments, and what is found afterwards.

    uv run python tests/fuzz/kills.py --kills 10 --seed 0 --log kills.jsonl     # 10 of each kind of work

Each trial begins real commands in processes of their own, kills them one to three times, lets the last one
end, and compares all that is left with an undisturbed run. After every kill each file with a final name must
be whole. Kinds that several processes share are begun and resumed by another number of them each time: one of
them is killed, and the others end by themselves or, after a while, as torchrun ends them. A third of the
kills come at a random moment, a third while a file is being written (its temporary name is there), a third
just after a file has got its name.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
for library in ("OMP", "NUMBA", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

import lightning_fabric  # noqa: F401 - imported once for all the processes to come
import matplotlib  # noqa: F401
import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load_file

import heatbox.analysis.runner
import heatbox.evaluation.located
import heatbox.evaluation.networks
import heatbox.evaluation.predict
import heatbox.evaluation.score
import heatbox.inference.collection
import heatbox.labeling.corrections
import heatbox.labeling.refit
import heatbox.training.trainer
import heatbox.visualization.report.build
from heatbox.cli.main import main as main_of_heatbox
from heatbox.models.factory import create_model
from helpers.scenes import write_checkpoint, write_model, write_split
from helpers.training import RECIPE, write_small_data

IGNORED = ("environment.json",)  # versions and the like
OF_TIME = ("images_per_second", "ms_")
PATIENCE = 20.0
"""Seconds within which the processes that lost one end by themselves."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of work: its name and its command, in which OUT is the folder that it writes.

    `processes` are the numbers of processes that it is begun with, drawn each time.
    """

    name: str
    command: tuple[str, ...]
    processes: tuple[int, ...] = (1,)

    def works(self, out: Path, random: Random) -> list[Callable[[], int]]:
        """What each of its processes runs to write a folder."""
        words = [word.replace("OUT", str(out)) for word in self.command]
        count = random.choice(self.processes)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        places = [meeting | {"RANK": str(rank), "WORLD_SIZE": str(count)} for rank in range(count)]
        return [command_of(words, {} if count == 1 else place) for place in places]


def prepare(root: Path) -> None:
    """Small data in a folder: images, heatmaps, a network and a finished run."""
    network = create_model(write_model(root))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + torch.rand_like(parameter))
    write_checkpoint(network, root / "other.safetensors")
    data = write_split(root / "set", 32)
    write_split(root / "fullsup", 12)
    write_small_data(root / "glyphs")
    for index, name in enumerate((data / "image_ids.txt").read_text().split("\n")[:-1]):
        path = root / "maps" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        y, x = np.mgrid[:224, :224]
        np.save(path, np.exp(-((x - 80 - index) ** 2 + (y - 100) ** 2) / 3000).astype(np.float32))


def kinds(root: Path) -> list[Kind]:
    """What is done with the data of `prepare`; the first makes the run that others read."""
    model, data, run = f"{root / 'mine.py'}:blobs", str(root / "set"), str(root / "run")
    forward = ("--size", "64", "--batch-size", "4", "--device", "cpu")
    evaluate = ("evaluate", "-m", model, "-d", data, *forward)
    others = ("-m", model, model, "--checkpoint", "none", str(root / "other.safetensors"))
    networks = ("evaluate", *others, "-d", data, *forward, "--fullsup", str(root / "fullsup"))
    train = ("train", *RECIPE, "--data", str(root / "glyphs"), "--save-minutes", "0")
    whole = ("--epochs", "2", "--save-minutes", "0", "--lr", "1e-3")
    finetune = ("train", "finetune", "-m", "resnet10_small", "-d", str(root / "glyphs"), *forward, *whole)
    label = ("label", data, "-m", model, *forward, "--run", "OUT/run", "--out", "OUT/boxes")
    to = ("--to", "coco", "csv", "label-studio", "--review", "5", "--overwrite")
    files = ("--coco", "OUT/c.json", "--npy", "OUT/maps", "--overlays", "OUT/pictures")
    locate = ("locate", str(root / "set/images"), "-m", model, "--size", "64", "--device", "cpu")
    few = ("--erf-size", "48", "--erf-images", "5", "--erf-grid", "2", "--atoms", "2", "--grid", "2")
    instruments = ("analyze", "all", "-m", model, "-d", data, *forward, *few, "--channels-an-image", "4")
    some = (1, 2, 3)
    return [
        Kind("run", (*evaluate, "--out", run)),
        Kind("train", (*train, "--out", "OUT")),
        Kind("finetune", (*finetune, "--out", "OUT")),
        Kind("evaluate", (*evaluate, "--fullsup", str(root / "fullsup"), "--out", "OUT")),
        Kind("foreground", (*evaluate, "--method", "walk", "walk+foreground", "--out", "OUT")),
        Kind("networks", (*networks, "--method", "cam", "walk+foreground", "--out", "OUT")),
        Kind("label", (*label, *to)),
        Kind("corrected", (*label, "--corrected", data, *to)),
        Kind("score", ("score", "--heatmaps", str(root / "maps"), "-d", data, "--out", "OUT")),
        Kind("report", ("report", run, "--out", "OUT/page.html")),
        Kind("export", ("export", run, *files)),
        Kind("convert", ("data", "convert", data, "OUT", "--to", "coco", "--overwrite")),
        Kind("analyze", ("analyze", "erf", "--model", model, "--data", data, *forward, "--out", "OUT")),
        Kind("evaluate by several", (*evaluate, "--method", "cam", "walk+foreground", "--out", "OUT"), some),
        Kind("locate by several", (*locate, "--out", "OUT", "--coco", "OUT/boxes.json", "--overwrite"), some),
        Kind("analyze by several", (*instruments, "--nonzero", "1", "--out", "OUT"), some),
    ]


class Work:
    """A command in a process of its own: a copy of this one, in which everything is imported already.

    Kills then fall into the work and not into the seconds that imports take.
    """

    def __init__(self, work: Callable[[], Any], said: Path) -> None:
        self.said, self.status = said, -1
        self.process = os.fork()
        if self.process == 0:
            code = 1
            try:
                nowhere = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(nowhere, 1)
                os.dup2(nowhere, 2)
                code = work() or 0
            except SystemExit as ended:
                code = int(ended.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)

    def ended(self, wait: bool = False) -> bool:
        """Whether it has ended."""
        if self.status < 0:
            found, status = os.waitpid(self.process, 0 if wait else os.WNOHANG)
            self.status = status if found else -1
        return self.status >= 0

    def kill(self) -> bool:
        """kill -9; whether that is what ended it."""
        if not self.ended():
            os.kill(self.process, signal.SIGKILL)
        self.ended(wait=True)
        return os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL


class Group:
    """Processes that share a command; `status` is 0 if all ended well."""

    def __init__(self, works: Sequence[Callable[[], Any]], said: Path) -> None:
        self.members = [Work(work, said.with_suffix(f".{number}")) for number, work in enumerate(works)]

    @property
    def status(self) -> int:
        return max((member.status for member in self.members), key=abs)

    @property
    def words(self) -> str:
        return "".join(member.said.read_text() for member in self.members)

    def ended(self, wait: bool = False) -> bool:
        """Whether all have ended."""
        have = [member.ended(wait) for member in self.members]
        return all(have)

    def kill(self, random: Random) -> bool:
        """kill -9 one of them; the others end within some seconds, or are ended. Whether it was killed."""
        victim = random.choice(self.members)
        killed = victim.kill()
        since = time.monotonic()
        while not self.ended() and time.monotonic() - since < PATIENCE:
            time.sleep(0.05)
        for member in self.members:
            if not member.ended():
                os.kill(member.process, signal.SIGTERM)  # as torchrun does at once
                member.ended(wait=True)
            else:
                code = os.waitstatus_to_exitcode(member.status)
                assert member is victim or code in (0, 2), f"ended with {code}: {member.said.read_text()}"
        return killed


def command_of(words: Sequence[str], place: Mapping[str, str] | None = None) -> Callable[[], int]:
    """What `heatbox WORDS` does, with small parts, so that there is something to lose and to go on from.

    `place` are the variables of a process of several.
    """

    def run() -> int:
        os.environ.update(place or {})
        heatbox.evaluation.located.LINES_A_SHARD = 3
        heatbox.evaluation.predict.RECORDS_A_SHARD = 4
        heatbox.evaluation.networks.RECORDS_A_SHARD = 4
        heatbox.evaluation.score.MAPS_AT_A_TIME = 8
        heatbox.inference.collection.SAMPLE = 12
        heatbox.labeling.refit.RECORDS_A_SHARD = 4
        heatbox.labeling.corrections.FEWEST = 8
        return main_of_heatbox(list(words))

    return run


def finish(works: Sequence[Callable[[], Any]], said: Path) -> None:
    """The same, to its end."""
    group = Group(works, said)
    group.ended(wait=True)
    if group.status != 0:
        raise SystemExit(f"ended with status {group.status}: {group.words[-2000:]}")


def kill(works: Sequence[Callable[[], Any]], out: Path, how: str, random: Random, usual: float) -> bool:
    """Begin a command and kill it; False where it had already ended."""
    before = names(out)
    process = Group(works, out.with_suffix(".said"))
    began, delay = time.monotonic(), random.random()
    while not process.ended():
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
    return process.kill(random)


def names(folder: Path) -> set[str]:
    """Names of all files below a folder."""
    return {os.path.join(place, file) for place, _, files in os.walk(folder) for file in files}


# ------------------------------------------------------------------------------------- what is there is whole


def check_complete(folder: Path) -> int:
    """Read every file with a final name; returns their number. An error names the broken one."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(".tmp")]
    for path in paths:
        try:
            content_of(path)
        except Exception as error:
            raise AssertionError(f"{path}: is not whole ({type(error).__name__}: {error})") from error
    return len(paths)


def content_of(path: Path) -> Any:
    """The content of a file, without what depends on the speed of the machine."""
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
    ".xml": lambda path: (path.read_text(), path.read_text().index("</View>"))[0],
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
    reference, said = root / "reference" / kind.name, root / "said"
    reference.mkdir(parents=True)
    began = time.monotonic()
    finish(dataclasses.replace(kind, processes=(1,)).works(reference, random), said)
    usual = time.monotonic() - began
    kills = attempt = 0
    while kills < wanted:
        attempt += 1
        out = root / "trials" / f"{kind.name}-{attempt}"
        (out if kind.name in ("report", "export") else out.parent).mkdir(parents=True, exist_ok=True)
        moments, whole = [], []
        for _ in range(random.choice((1, 2, 3))):
            how = random.choice(("any moment", "while writing", "after a file"))
            if kill(kind.works(out, random), out, how, random, usual):
                kills += 1
                moments.append(how)
            whole.append(check_complete(out) if out.exists() else 0)
        left = sum(name.endswith(".tmp") for name in names(out))
        finish(kind.works(out, random), said)
        check_complete(out)
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
        finish([lambda: prepare(Path(folder))], Path(folder) / "said")
        first, *others = kinds(Path(folder))
        finish([command_of(first.command)], Path(folder) / "said")
        for kind in others:
            if args.kind and kind.name not in args.kind:
                continue
            for line in trials(kind, Path(folder), args.kills, Random(f"{args.seed} {kind.name}")):
                log.write(json.dumps(line) + "\n")
                log.flush()
                print(line, flush=True)


if __name__ == "__main__":
    main()
