"""Depthwise convolution, ours against `nn.Conv2d`, shape by shape, forward and backward, in the same run.

    python benchmarks/depthwise.py                        # every shape, float32, this machine's CPU
    python benchmarks/depthwise.py --dtype bfloat16 --models replknet --sizes 224 --batches 1
    python benchmarks/depthwise.py --isa avx2             # as on a processor without AVX-512
    python benchmarks/depthwise.py --device cuda --dtype bfloat16 --batches 64 --sizes 384 --models replknet

The calls of one shape take turns, so that whatever else the machine does hits all of them; each time is the
minimum over the turns. With `--threads 1` it is processor time, which other programs hardly change. Ratios
above 1 mean that ours is faster. Layouts are those of input and output: whoever holds an NCHW tensor and
wants one back can also convert, convolve in channels_last and convert back, and the reverse; `best` is the
faster of the two ways open to `nn.Conv2d` in the same layout. A summary over the table follows it, with the
large layers of whole networks added up; on a GPU also with the share of its peak that they reach.

A violation is a call that takes more than 1.1 times as long as the faster of these ways; for ways of under
0.3 ms, more than 30 microseconds longer. A row with one is measured again up to five times, and minima are
kept; where both make the same call, the difference is noise. `--isa` caps the instruction set of oneDNN,
PyTorch and numba, in a subprocess.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from heatbox.ops import depthwise_conv2d
from heatbox.ops.depthwise_cpu import INSTRUCTION_SET, forward_plan

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
# Layers of RepLKNet-31B's four stages, each with one large convolution.
LAYERS = {31: 2, 29: 2, 27: 18, 13: 2}
# What caps the instruction set of oneDNN, PyTorch's own kernels and numba.
CAPS = {
    "avx512": {},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "NUMBA_CPU_NAME": "haswell"},
    "sse41": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "NUMBA_CPU_NAME": "nehalem"},
}


class Result(NamedTuple):
    """One row: times in ms by '<who> <layout>'."""

    model: str
    size: int
    shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    which: str
    times: dict[str, float]

    @property
    def name(self) -> str:
        return f"{self.model} {'x'.join(map(str, self.shape))} {self.kernel[0]}x{self.kernel[1]} {self.which}"

    def plain(self, layout: str) -> float:
        """ms of the faster way of `nn.Conv2d` in this layout."""
        return min(self.times[f"torch {layout}"], self.times[f"convert {layout}"])

    def best(self, layout: str) -> float:
        """The faster way of `nn.Conv2d` over ours, in this layout."""
        return self.plain(layout) / self.times[f"ours {layout}"]

    def violates(self, layout: str) -> bool:
        """Whether ours is more than 10% slower, or 30 microseconds where it is less than 0.3 ms."""
        ours, plain = self.times[f"ours {layout}"], self.plain(layout)
        return ours > (1.1 * plain if plain >= 0.3 else plain + 0.03)

    def calls_native(self, layout: str) -> bool:
        """Whether ours makes the very call that it is compared with, so that they differ by noise."""
        plan = forward_plan(self.shape, self.kernel, torch.float32, layout == "nhwc")
        same = self.times[f"torch {layout}"] <= self.times[f"convert {layout}"]
        return self.which == "forward" and plan.way == "native" and same


def machine(device: str) -> str:
    """Name of the processor that is measured."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    name = models[0].split(":")[1].strip() if models else platform.processor() or platform.machine()
    return f"{name}, oneDNN with {INSTRUCTION_SET}"


def run_capped(isa: str | None) -> None:
    """Run this script again in a process with a capped instruction set; returns in that process."""
    if isa is None:
        return
    if "HEATBOX_CAPPED" not in os.environ:  # the variables are read at the first import
        environment = {**os.environ, **CAPS[isa], "HEATBOX_CAPPED": isa}
        if CAPS[isa]:
            environment["NUMBA_CPU_FEATURES"] = ""
        sys.exit(subprocess.call([sys.executable, *sys.argv], env=environment))
    if isa != INSTRUCTION_SET:
        sys.exit(f"--isa {isa}: oneDNN runs with {INSTRUCTION_SET} here.")


def stages(model: str, size: int) -> Iterator[tuple[int, int, int, int]]:
    """(channels, side of the map, kh, kw) of the depthwise convolutions of a model's four stages."""
    side = size // 4
    if model == "replknet":
        for i, (width, k) in enumerate(zip((128, 256, 512, 1024), (31, 29, 27, 13), strict=True)):
            yield width, side >> i, k, k
            yield width, side >> i, 5, 5
    elif model == "slak":
        for i, (width, k) in enumerate(zip((124, 249, 499, 998), (51, 49, 47, 13), strict=True)):
            yield width, side >> i, k, 5
            yield width, side >> i, 5, k
            yield width, side >> i, 5, 5
    else:
        for i, width in enumerate((128, 256, 512, 1024)):
            yield width, side >> i, 7, 7


def take_turns(calls: dict[str, Callable[[], object]], seconds: float, device: str) -> dict[str, float]:
    """Minimum time of each call in milliseconds; at least two turns, then until `seconds` have passed."""
    best = dict.fromkeys(calls, float("inf"))
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start, turns = time.perf_counter(), 0
    while turns < 3 or (time.perf_counter() - start < seconds and turns < 100):
        for name, call in calls.items():
            if turns >= (1 if best[name] > 1000 else 2) and 100 < best[name] < float("inf"):
                continue  # once or twice is enough for what takes long
            if best[name] < 100:
                call()  # the call before this one has filled the caches with its own data
            for _ in range(5 if best[name] < 20 else 1):
                if device == "cuda":
                    torch.cuda.synchronize()
                before = clock()
                call()
                if device == "cuda":
                    torch.cuda.synchronize()
                best[name] = min(best[name], (clock() - before) * 1e3)
        turns += 1
    return best


def native(x: Tensor, weight: Tensor) -> Tensor:
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return F.conv2d(x, weight, padding=padding, groups=weight.shape[0])


def through_other_layout(x: Tensor, weight: Tensor) -> Tensor:
    nchw = x.is_contiguous()
    there, back = torch.channels_last, torch.contiguous_format
    if not nchw:
        there, back = back, there
    return native(x.contiguous(memory_format=there), weight).contiguous(memory_format=back)


def forward_call(
    function: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor
) -> Callable[[], object]:
    def call() -> Tensor:
        with torch.no_grad():
            return function(x, weight)

    return call


def backward_call(
    function: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, grad: Tensor
) -> Callable[[], object]:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = function(x, weight)
    return lambda: torch.autograd.grad(y, (x, weight), grad, retain_graph=True)


def measure(
    shape: tuple[int, int, int, int], kernel: tuple[int, int], dtype: torch.dtype, device: str, seconds: float
) -> dict[str, dict[str, float]]:
    """Times in ms by pass and then by '<who> <layout>'."""
    x = torch.randn(shape, device=device, dtype=dtype)
    weight = torch.randn(shape[1], 1, *kernel, device=device, dtype=dtype) / (kernel[0] * kernel[1]) ** 0.5
    ways = {"torch": native, "convert": through_other_layout, "ours": depthwise_conv2d}
    forward, backward = {}, {}
    for layout, memory_format in LAYOUTS.items():
        laid = x.contiguous(memory_format=memory_format)
        for who, function in ways.items():
            forward[f"{who} {layout}"] = forward_call(function, laid, weight)
            backward[f"{who} {layout}"] = backward_call(function, laid, weight, torch.randn_like(laid))
    return {
        "forward": take_turns(forward, seconds, device),
        "backward": take_turns(backward, seconds, device),
    }


def measure_again(
    model: str,
    size: int,
    shape: tuple[int, int, int, int],
    kernel: tuple[int, int],
    dtype: torch.dtype,
    args: argparse.Namespace,
) -> list[Result]:
    """The rows of one shape, printed; measured up to six times while one of them has a violation."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(6):
        for which, times in measure(shape, kernel, dtype, args.device, args.seconds).items():
            known = best.setdefault(which, times)
            known.update({call: min(ms, known[call]) for call, ms in times.items()})
        results = [Result(model, size, shape, kernel, *item) for item in best.items()]
        if not any(result.violates(layout) for result in results for layout in LAYOUTS):
            break
    for result in results:
        print(row(result), flush=True)
    return results


def row(result: Result) -> str:
    """One line of the table: ours in both layouts, torch's, and the ratios."""
    cells, times = [result.name], result.times
    for layout in LAYOUTS:
        ours, plain = times[f"ours {layout}"], times[f"torch {layout}"]
        cells += [f"{ours:.2f}", f"{plain:.2f}", f"{plain / ours:.2f}", f"{result.best(layout):.2f}"]
    anywhere = min(times["torch nchw"], times["torch nhwc"])
    cells.append(f"{anywhere / min(times['ours nchw'], times['ours nhwc']):.2f}")
    return "| " + " | ".join(cells) + " |"


def summary(results: Sequence[Result]) -> Iterator[str]:
    """Lines: what large kernels gain over `nn.Conv2d` in NCHW, and where `nn.Conv2d` is the faster."""
    ratios = defaultdict(list)
    for result in results:
        kh, kw = result.kernel
        if max(kh, kw) >= 27:
            kind = "square" if kh == kw else "tall" if kh > kw else "wide"
            ratio = result.times["torch nchw"] / result.times["ours nchw"]
            ratios[result.shape[0], kind, result.which].append((ratio, result.name))
    for (batch, kind, which), found in sorted(ratios.items()):
        (low, name), (high, _) = min(found), max(found)
        yield f"- batch {batch}, {kind} kernels from 27 on, {which}: x{low:.1f} ({name}) to x{high:.1f}"
    rows = [(result, layout) for result in results for layout in LAYOUTS]
    slow = [(result, layout) for result, layout in rows if result.violates(layout)]
    yield f"- violations: {len(slow)} of {len(rows)}"
    for result, layout in slow:
        ours, plain = result.times[f"ours {layout}"], result.plain(layout)
        line = (
            f"    - {result.name} {layout}: {result.best(layout):.2f}, {ours:.3f} ms against {plain:.3f} ms"
        )
        yield line + (", the same call" if result.calls_native(layout) else "")


def network(results: Sequence[Result], peak: float, bandwidth: float, itemsize: int) -> Iterator[str]:
    """Lines: all large layers of RepLKNet-31B added up, in NCHW, by batch and size.

    The roofline of a layer is the longer of its operations at `peak` TFLOP/s and of reading its input and
    writing its output at `bandwidth` TB/s.
    """
    groups = defaultdict(list)
    for result in results:
        if result.model == "replknet" and result.kernel[0] in LAYERS:
            groups[result.shape[0], result.size].append(result)
    for (batch, size), group in groups.items():
        total: dict[tuple[str, str], float] = defaultdict(float)
        operations = roofline = 0.0  # of one pass; ms for the second
        for result in group:
            layers, (kh, kw) = LAYERS[result.kernel[0]], result.kernel
            for who in ("torch", "ours"):
                total[who, result.which] += layers * result.times[f"{who} nchw"]
            if result.which == "forward":
                numbers = torch.Size(result.shape).numel()
                operations += 2.0 * layers * kh * kw * numbers
                if peak and bandwidth:
                    moved = 2 * numbers * itemsize / bandwidth / 1e9
                    roofline += layers * max(2.0 * kh * kw * numbers / peak / 1e9, moved)
        parts = [(which, total["torch", which], total["ours", which]) for which in ("forward", "backward")]
        parts.append(("forward + backward", *(sum(part[i] for part in parts) for i in (1, 2))))
        for which, plain, ours in parts:
            line = f"- RepLKNet-31B at {size}, batch {batch}, all large layers {which}: "
            line += f"nn.Conv2d {plain:.1f} ms, ours {ours:.1f} ms, x{plain / ours:.1f}"
            if peak and which == "forward":
                ideal = operations / peak / 1e9  # ms
                line += f"; {ideal:.2f} ms at {peak:.0f} TFLOP/s, which is {ideal / ours:.0%} of the time"
                if roofline:
                    line += f"; roofline {roofline:.2f} ms, {roofline / ours:.0%}"
            yield line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["replknet", "slak", "convnext"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 384])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's default")
    parser.add_argument("--seconds", type=float, default=1.0, help="per shape and pass")
    parser.add_argument(
        "--peak", type=float, default=0.0, help="TFLOP/s of a GPU's tensor cores; 989 for bfloat16 on an H200"
    )
    parser.add_argument("--bandwidth", type=float, default=0.0, help="TB/s of its memory; 4.8 on an H200")
    parser.add_argument("--isa", choices=CAPS, help="cap the instruction set")
    args = parser.parse_args()
    run_capped(args.isa)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    # the C library gives temporaries back to the system page by page until it has seen large ones
    torch.empty(30 << 20, dtype=torch.uint8)
    print(
        f"{machine(args.device)}, {torch.get_num_threads()} threads, {args.dtype}, torch {torch.__version__}."
    )
    print("Milliseconds; x: torch / ours, same layout; best: see the docstring.\n")
    print(
        "| shape, kernel, pass | ours nchw | torch | x | best | ours nhwc | torch | x | best | best to best |"
    )
    print("|---|" + "---|" * 9)
    dtype, results = getattr(torch, args.dtype), []
    for model in args.models:
        for size in args.sizes:
            for batch in args.batches:
                for channels, side, kh, kw in stages(model, size):
                    shape = (batch, channels, side, side)
                    results += measure_again(model, size, shape, (kh, kw), dtype, args)
    print("\nAgainst `nn.Conv2d` in NCHW:\n")
    for line in (*summary(results), *network(results, args.peak, args.bandwidth, dtype.itemsize)):
        print(line)


if __name__ == "__main__":
    main()
