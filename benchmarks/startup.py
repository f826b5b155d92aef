"""Seconds until the command line answers, and until heatbox is imported, beside what they cannot do without.

    python benchmarks/startup.py
    python benchmarks/startup.py --turns 20

Each line is a process of its own, measured by the clock and by the processor time it takes, which a busy
machine changes less. Processes take turns and each time is the minimum over the turns; the first turn, which
fills the disk's cache, is not counted.
"Everything of heatbox" imports all public names, which needs PyTorch, timm, numba and OpenCV.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

PYTHON = "python, doing nothing"
TORCH = "import torch"
LINES = {
    PYTHON: ["-c", "pass"],
    "heatbox --help": ["-m", "heatbox", "--help"],
    "heatbox evaluate --help": ["-m", "heatbox", "evaluate", "--help"],
    "heatbox recipes": ["-m", "heatbox", "recipes"],
    "import heatbox": ["-c", "import heatbox"],
    TORCH: ["-c", "import torch"],
    "import torch, heatbox": ["-c", "import torch, heatbox"],
    "everything of heatbox": ["-c", "import torch, heatbox; [getattr(heatbox, n) for n in heatbox.__all__]"],
}


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Of the clock and of the processor."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    clock, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
    best = dict.fromkeys(LINES, (float("inf"), float("inf")))
    for turn in range(turns + 1):
        for name, arguments in LINES.items():
            spent = seconds(arguments)
            if turn > 0:
                best[name] = (min(best[name][0], spent[0]), min(best[name][1], spent[1]))
    print("| | s | beyond python's start | beyond import torch | processor s |\n|---|---|---|---|---|")
    for name, (clock, processor) in best.items():
        beyond = f"{clock - best[TORCH][0]:+.2f}" if "torch" in name or "everything" in name else ""
        print(f"| {name} | {clock:.2f} | {clock - best[PYTHON][0]:+.2f} | {beyond} | {processor:.2f} |")


if __name__ == "__main__":
    main()
