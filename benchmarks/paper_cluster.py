"""Time and price of the full scale of the paper on a cluster, computed from its plan.

    python benchmarks/paper_cluster.py                          # 1, 8 and 64 devices, the assumptions below
    python benchmarks/paper_cluster.py --tflops 16.3 --price 1.5

Nothing is measured. A step takes its counted operations over the assumed rate, on one device; steps without
a network take no time; an array starts when those that it depends on have ended, its longest step first.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Sequence
from pathlib import Path

from heatbox.paper.full import full
from heatbox.paper.plan import make_plan
from heatbox.paper.slurm import Wave, waves_of
from heatbox.paper.steps import Status

TFLOPS = 60.0  # assumed: about 40% of the 156 TFLOP/s that an A100 has at its peak in TF32
PRICE = 2.0  # assumed, per device and hour


def hours(waves: Sequence[Wave], devices: int) -> float:
    """From the first start to the last end, on a number of devices."""
    left = {wave.name: len(wave.steps) for wave in waves}
    waiting, running = list(waves), list[tuple[float, str]]()
    queue: list[tuple[float, str]] = []
    free, now = devices, 0.0
    while waiting or queue or running:
        for wave in [one for one in waiting if not any(left[name] for name in one.after)]:
            waiting.remove(wave)
            queue += [(step.cost.seconds or 0.0, wave.name) for step in wave.steps]
        while queue and free:
            seconds, name = queue.pop(0)
            heapq.heappush(running, (now + seconds, name))
            free -= 1
        now, name = heapq.heappop(running)
        free += 1
        left[name] -= 1
    return now / 3600


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tflops", type=float, default=TFLOPS)
    parser.add_argument("--price", type=float, default=PRICE)
    args = parser.parse_args()
    plan = make_plan(full(Path("out"), tflops=args.tflops), Path("out"))
    waves = waves_of(plan, dict.fromkeys((step.name for step in plan), Status("ready")))
    whole = sum(step.cost.seconds or 0 for step in plan) / 3600
    longest = max(plan, key=lambda step: step.cost.seconds or 0)
    print(f"{len(plan)} steps in {len(waves)} arrays; {whole:.1f} device-hours at {args.tflops:g} TFLOP/s")
    print(f"longest step: {longest.name}, {(longest.cost.seconds or 0) / 3600:.2f} h")
    for devices in args.devices:
        found = hours(waves, devices)
        print(
            f"{devices:4d} devices: {found:7.1f} h, busy {100 * whole / found / devices:3.0f}%, "
            f"price {args.price * whole:.0f} for work, {args.price * found * devices:.0f} if all are held"
        )
    for wave in waves:
        seconds = [step.cost.seconds or 0 for step in wave.steps]
        print(
            f"  {wave.name:16s} {len(wave.steps):3d} steps {sum(seconds) / 3600:6.1f} h  after {wave.after}"
        )


if __name__ == "__main__":
    main()
