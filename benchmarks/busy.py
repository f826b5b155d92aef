"""One epoch of `heatbox train glyphs_resnet` alone and beside niced PyTorch programs that the script starts.

    python benchmarks/busy.py                    # 1500 images, two programs of priority 10, two turns
    python benchmarks/busy.py --images 4000      # the whole epoch
    python benchmarks/busy.py --spin             # also with OpenMP threads that spin while they wait

Threads that wait for each other and spin take the cores from one another as soon as there are more of them
than cores. The processor time of the command shows that, whatever its share of the clock: the bound is 1.3
times that of the command alone. The clock depends on priorities too: with `n` programs of priority 10, whose
weight is 110 to the command's 1024 on Linux, the fair share of a core is 1024 / (1024 + 110 n), and the bound
1.5 times the time that this share would take. On a machine that others use as well, run it with a priority
that leaves them behind: nice -n -15. Times include the imports.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from depthwise import machine

from heatbox._utils.devices import available_cores

LOAD = """
import torch
x, layer = torch.randn(8, 64, 56, 56), torch.nn.Conv2d(64, 64, 3, padding=1)
while True:
    layer(x).sum().backward()
"""
PRIORITY = 10
WEIGHT = 110 / 1024  # of a process of this priority, in Linux's scheduler


class Cost(NamedTuple):
    """Seconds of a command."""

    processor: float
    system: float
    clock: float


@contextmanager
def programs(number: int) -> Iterator[None]:
    """Programs that compute in PyTorch, with its default settings, until the block ends."""
    command = ["nice", "-n", str(PRIORITY), sys.executable, "-c", LOAD]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    running = [subprocess.Popen(command, env=clean) for _ in range(number)]
    try:
        time.sleep(8 if number else 0)  # their imports
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


def cost(images: int, out: Path, environment: Mapping[str, str]) -> Cost:
    """Train an epoch in a new folder."""
    command = [sys.executable, "-m", "heatbox", "train", "glyphs_resnet", "--epochs", "1"]
    command += ["--limit", str(images), "--out", str(out), "--no-tensorboard", "--device", "cpu"]
    before = time.perf_counter()
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=nowhere, stderr=nowhere)
        _, status, used = os.wait4(process.pid, 0)  # with the processes that it waited for
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"exit code {process.returncode}: {' '.join(command)}")
    return Cost(used.ru_utime + used.ru_stime, used.ru_stime, time.perf_counter() - before)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--programs", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--spin", action="store_true", help="add OMP_WAIT_POLICY=ACTIVE")
    args = parser.parse_args()
    settings = {"as it is": {}} | ({"spinning": {"OMP_WAIT_POLICY": "ACTIVE"}} if args.spin else {})
    print(f"{machine('cpu')}, {available_cores()} cores, torch {torch.__version__}, {args.images} images\n")
    print("| setting | beside | processor, s | system, s | clock, s |\n|---|---|---|---|---|")
    least: dict[tuple[str, int], Cost] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.turns):
            for setting, environment in settings.items():
                for beside in (0, args.programs):
                    out = Path(folder) / f"{turn}-{setting}-{beside}"
                    with programs(beside):
                        found = cost(args.images, out, environment)
                    cells = [setting, f"{beside} programs", *(f"{seconds:.1f}" for seconds in found)]
                    print("| " + " | ".join(cells) + " |", flush=True)
                    known = least.get((setting, beside), found)
                    least[setting, beside] = Cost(*map(min, known, found))
    share = 1 / (1 + args.programs * WEIGHT)
    failed = False
    for setting in settings:
        alone, loaded = least[setting, 0], least[setting, args.programs]
        processor, clock = loaded.processor / alone.processor, loaded.clock / alone.clock * share
        print(f"\n{setting}: {processor:.2f} times the processor time, bound 1.3;")
        print(f"{clock:.2f} times its fair share of the clock, bound 1.5;")
        print(f"system time alone {alone.system / alone.processor:.1%} of processor time")
        failed |= setting == "as it is" and (processor > 1.3 or clock > 1.5)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
