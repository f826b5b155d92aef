"""Fuzzing of everything that reads files.

    uv run python tests/fuzz/run.py --inputs 1000000 --seed 0 --log fuzz.jsonl
    uv run python tests/fuzz/run.py --target coco --number 1234 --seed 0 --keep folder    # one input again
    uv run python tests/fuzz/run.py --log fuzz.jsonl --summary

Each batch runs in its own process, so that a crash of the interpreter is caught and reported with its input.
Each finished batch is a line of the log; a session started with an existing log is resumed. Any input can
be made again from (seed, target, number).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import pickle
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
for library in ("OMP", "NUMBA", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

from fuzz.guard import Escape, Hang, limit_memory, only_within, within
from fuzz.mutate import Case
from fuzz.seeds import minimised, save
from fuzz.target import Target, written
from fuzz.targets import TARGETS

PATIENCE = 300.0  # seconds by the clock, after which a process that stands still is ended
BATCH_SECONDS = 60.0  # aimed at, of one process
Find = dict[str, Any]


def outcome(target: Target, case: Case, folder: Path, seconds: float | None = None) -> tuple[str, str]:
    """What became of one input: "ok", "refused", or the signature of a find and its traceback."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with only_within(str(folder)), within(seconds or target.seconds):
            target.run(case, folder)
        return "ok", ""
    except target.refusals as error:
        words = str(error)
        if not words.strip() or "\n" in words:
            return f"{type(error).__name__} that is not one sentence", traceback.format_exc()
        return "refused", ""
    except (Exception, Escape, Hang) as error:
        return signature(error), traceback.format_exc()
    finally:
        empty(folder)


def empty(folder: Path) -> None:
    """Remove what an input left in its folder."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def signature(error: BaseException) -> str:
    """Kind of an error and where in heatbox it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/heatbox/" in frame.filename] or list(frames)
    last = ours[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def batch(target: Target, cases: Sequence[Case], seed: int, numbers: range, place: Any) -> dict[str, Any]:
    """Run inputs one after the other; `place` tells another process which one is at work."""
    counts: Counter[str] = Counter()
    finds: list[Find] = []
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    os.chdir(folder)
    began = time.process_time()
    warm_up(target, cases[:3], folder / "work")
    try:
        for number in numbers:
            place[:16] = struct.pack("qd", number, time.time())
            base, case = target.case(cases, seed, number)
            result, trace = outcome(target, case, folder / "work")
            if result.startswith(Hang.__name__):  # or did it compile what none before it needed?
                result, trace = outcome(target, case, folder / "work")
            counts[result] += 1
            if trace and counts[result] <= 3:
                finds.append({"number": number, "base": base, "what": result, "trace": trace[-3000:]})
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = time.process_time() - began
    return {"counts": counts, "finds": finds, "seconds": round(seconds, 2), "peak_mb": memory // 10**6}


def warm_up(target: Target, cases: Sequence[Case], folder: Path) -> None:
    """Run some valid inputs without limits: the first call compiles kernels, which is no input's fault."""
    for case in cases:
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(Exception):
            target.run(case, folder)
        empty(folder)


def in_process(target: Target, cases: Sequence[Case], seed: int, numbers: range) -> dict[str, Any]:
    """A batch in a child process; if that dies or stands still, the input that did it is a find."""
    place = mmap.mmap(-1, 16)
    place[:16] = struct.pack("qd", numbers.start, time.time())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            quiet()
            limit_memory()
            content = json.dumps(batch(target, cases, seed, numbers, place)).encode()
            with os.fdopen(writer, "wb") as file:
                file.write(content)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    status = _wait(child, place)
    with os.fdopen(reader, "rb") as file:
        content = file.read()
    if status == 0:
        return json.loads(content)
    number = struct.unpack("qd", place[:16])[0]
    what = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    done = max(number - numbers.start, 0)
    find = {"number": number, "base": number % len(cases), "what": f"the process ended: {what}", "trace": ""}
    rest = range(number + 1, numbers.stop)
    later = (
        in_process(target, cases, seed, rest)
        if rest
        else {"counts": {}, "finds": [], "seconds": 0, "peak_mb": 0}
    )
    counts = Counter(later["counts"]) + Counter({find["what"]: 1, "not reported": done})
    return {**later, "counts": counts, "finds": [find, *later["finds"]]}


def quiet() -> None:
    """Nothing is printed any more: libraries tell of every damaged file in their own words."""
    warnings.simplefilter("ignore")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def _wait(child: int, place: Any) -> int:
    """Status of a child that may not stand still at one input."""
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if time.time() - struct.unpack("qd", place[:16])[1] > PATIENCE:
            os.kill(child, 9)
            return os.waitpid(child, 0)[1]
        time.sleep(0.02)


def valid_cases(target: Target) -> list[Case]:
    """The inputs that a target's damage begins with, built in a process and a folder of their own.

    Building them may start threads, after which no process should be forked.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "cases"
        if (child := os.fork()) == 0:
            code = 1
            try:
                (Path(folder) / "files").mkdir()
                made.write_bytes(pickle.dumps(target.build(Path(folder) / "files")))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{target.name}: its valid inputs could not be made")
        return pickle.loads(made.read_bytes())


def session(args: argparse.Namespace) -> None:
    """All targets in turn, in batches, as many inputs as asked for."""
    log = Path(args.log)
    done = _done(log, args.seed)
    with log.open("a") as file:
        for target in chosen(args.target):
            wanted = max(round(target.share * args.inputs / 1_000_000), args.least)
            start = done.get(target.name, 0)
            if start >= wanted:
                continue
            cases, size = valid_cases(target), min(50, wanted)
            while start < wanted:
                numbers = range(start, min(start + size, wanted))
                found = in_process(target, cases, args.seed, numbers)
                line = {
                    "target": target.name,
                    "seed": args.seed,
                    "first": start,
                    "next": numbers.stop,
                    **found,
                }
                file.write(json.dumps(line) + "\n")
                file.flush()
                start = numbers.stop
                speed = len(numbers) / max(found["seconds"], 0.01)
                size = max(50, min(20_000, int(speed * BATCH_SECONDS)))
                print(f"{target.name}: {start}/{wanted}, {speed:.0f}/s, {found['counts']}", flush=True)
    summary(log)


def chosen(names: Sequence[str] | None) -> list[Target]:
    """Targets by name; all of them for none."""
    known = {target.name: target for target in TARGETS}
    return [known[name] for name in names] if names else TARGETS


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _done(log: Path, seed: int) -> dict[str, int]:
    done: dict[str, int] = {}
    for line in _lines(log):
        if line["seed"] == seed:
            done[line["target"]] = max(done.get(line["target"], 0), line["next"])
    return done


def summary(log: Path) -> None:
    """A row a target, then every kind of find with its first inputs."""
    totals: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    peaks: dict[str, int] = {}
    finds: dict[tuple[str, str], list[int]] = {}
    for line in _lines(log):
        name = line["target"]
        totals.setdefault(name, Counter()).update(line["counts"])
        seconds[name] += line["seconds"]
        peaks[name] = max(peaks.get(name, 0), line["peak_mb"])
        for find in line["finds"]:
            finds.setdefault((name, find["what"]), []).append(find["number"])
    print(f"{'target':<18}{'inputs':>10}{'read':>10}{'refused':>10}{'finds':>8}{'per s':>8}{'peak MB':>9}")
    for name, counts in totals.items():
        inputs = sum(counts.values())
        other = inputs - counts["ok"] - counts["refused"] - counts["not reported"]
        speed = inputs / max(seconds[name], 0.01)
        numbers = (inputs, counts["ok"], counts["refused"], other)
        print(
            f"{name:<18}{numbers[0]:>10,}{numbers[1]:>10,}{numbers[2]:>10,}{numbers[3]:>8,}{speed:>8.0f}{peaks[name]:>9,}"
        )
    print(f"{'all':<18}{sum(sum(counts.values()) for counts in totals.values()):>10,}")
    for (name, what), numbers in finds.items():
        print(f"find: {name}: {what}: inputs {numbers[:3]}")


def again(args: argparse.Namespace) -> None:
    """Make one input again, keep its files, and run it with its traceback."""
    (target,) = chosen(args.target)
    base, case = target.case(valid_cases(target), args.seed, args.number)
    if args.seed_name:
        cases = valid_cases(target)
        what = tried(target, case)[0]
        case = minimised(case, cases[base], lambda trial: tried(target, trial)[0] == what)
        print(save(target, base, cases, case, args.seed_name))
    if args.keep:
        written({name.replace("\0", "_"): data for name, data in case.items()}, Path(args.keep))
    result, trace = tried(target, case)
    print(trace, f"{target.name}, input {args.number} (from case {base}): {result}", sep="\n")


def tried(target: Target, case: Case, seconds: float | None = None) -> tuple[str, str]:
    """`outcome` in a folder that is gone afterwards, which is the working folder meanwhile."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            return outcome(target, case, Path(folder) / "work", seconds)
        finally:
            os.chdir(here)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="in all, shared among the targets")
    parser.add_argument("--least", type=int, default=1, help="inputs of every target at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", nargs="*", help="only these targets")
    parser.add_argument("--number", type=int, help="run this one input of one target")
    parser.add_argument("--keep", help="folder for the files of that input")
    parser.add_argument("--seed-name", help="make the input smaller, and keep it in tests/fixtures/fuzz")
    parser.add_argument("--log", default="fuzz.jsonl")
    parser.add_argument("--summary", action="store_true", help="only print the summary of a log")
    args = parser.parse_args()
    if args.summary:
        summary(Path(args.log))
    elif args.number is not None:
        again(args)
    else:
        session(args)


if __name__ == "__main__":
    main()
