"""Two parts of benchmarks/gpu.sh: whether the Triton kernels are right, and `heatbox evaluate` end to end.

python benchmarks/gpu.py right       # errors on RepLKNet, SLaK and ConvNeXt shapes, a line as each is done
python benchmarks/gpu.py evaluate    # images/s from files to scores, and the evaluator's share
python benchmarks/gpu.py right --rehearse     # the same on the CPU with tiny shapes; needs TRITON_INTERPRET=1
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
from depthwise import machine, stages
from torch import Tensor
from torch.nn.grad import conv2d_weight

from heatbox.config import EvaluateConfig
from heatbox.data.formats.options import WriteOptions
from heatbox.data.glyphs import glyphs
from heatbox.data.open import open_split
from heatbox.data.types import Split
from heatbox.data.write import write_splits
from heatbox.evaluation import predict
from heatbox.evaluation.run import Run
from heatbox.ops import depthwise_conv2d, depthwise_triton
from heatbox.ops.reference import TOLERANCE

# Few channels suffice for errors: programs are compiled for H, W and the kernel, not for their number.
CHANNELS = 4


def cases(rehearse: bool) -> Iterator[tuple[str, int, tuple[int, int], tuple[int, int]]]:
    """(model, samples, (H, W), (kh, kw)), the most important first; ConvNeXt's kernels are PyTorch's."""
    if rehearse:
        yield from [("replknet", 1, (7, 17), (31, 31)), ("slak", 33, (5, 9), (5, 21))]
        yield from [("slak", 2, (9, 6), (21, 5)), ("convnext", 2, (7, 7), (7, 7))]
        return
    for samples in (64, 1):
        for model in ("replknet", "slak", "convnext"):
            for _, side, kh, kw in stages(model, 384):
                if max(kh, kw) > 5 and (samples > 1 or model == "replknet"):
                    yield model, samples, (side, side), (kh, kw)


def error(ours: Tensor, exact: Tensor) -> float:
    """Largest error relative to the largest value."""
    return float((ours.double() - exact).abs().max() / exact.abs().max())


def errors(x: Tensor, weight: Tensor, grad: Tensor, rehearse: bool) -> dict[str, float]:
    """Errors of output, input gradient and weight gradient against PyTorch's in float64."""
    kernel = (weight.shape[2], weight.shape[3])
    x64, weight64 = x.double().requires_grad_(), weight.double().requires_grad_()
    padding = (kernel[0] // 2, kernel[1] // 2)
    exact = torch.nn.functional.conv2d(x64, weight64, padding=padding, groups=len(weight))
    (exact_x,) = torch.autograd.grad(exact, x64, grad.double())
    exact_weight = conv2d_weight(
        x64.detach(), weight64.shape, grad.double(), padding=padding, groups=len(weight)
    )
    if (
        rehearse and max(kernel) >= depthwise_triton.SMALLEST_KERNEL
    ):  # the operator takes only CUDA tensors there
        out = depthwise_triton.forward(x, weight, None)
        of_x = depthwise_triton.forward(grad, weight.flip(2, 3), None)
        of_weight = depthwise_triton.weight_grad(x, grad, kernel)
    else:
        leaf, leaf_weight = x.requires_grad_(), weight.requires_grad_()
        out = depthwise_conv2d(leaf, leaf_weight)
        of_x, of_weight = torch.autograd.grad(out, (leaf, leaf_weight), grad)
    return {
        "output": error(out.detach(), exact.detach()),
        "input gradient": error(of_x, exact_x),
        "weight gradient": error(of_weight, exact_weight),
    }


def right(device: str, rehearse: bool) -> int:
    """Print a line per case; the number of cases that are wrong or that Triton did not compute."""
    wrong = 0
    columns = ["shape", "kernel", "dtype", "output", "input gradient", "weight gradient", ""]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    # the first tile of each program: compiling the others is the part of the time that counts here
    with mock.patch.object(depthwise_triton, "fastest", lambda tiles, run: tiles[0]):
        for dtype in (torch.bfloat16, torch.float32):
            for model, samples, size, kernel in cases(rehearse):
                torch.manual_seed(0)
                x, grad = (torch.randn(samples, CHANNELS, *size, device=device, dtype=dtype) for _ in "xg")
                weight = torch.randn(CHANNELS, 1, *kernel, device=device, dtype=dtype)
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    found = errors(x, weight, grad, rehearse)
                fell_back = [str(one.message) for one in caught if "fall back" in str(one.message)]
                good = max(found.values()) <= TOLERANCE[dtype] and not fell_back
                wrong += not good
                cells = [f"{model} {samples}x{CHANNELS}x{size[0]}x{size[1]}", f"{kernel[0]}x{kernel[1]}"]
                cells += [str(dtype).removeprefix("torch."), *(f"{value:.1e}" for value in found.values())]
                print(
                    "| " + " | ".join([*cells, "ok" if good else "WRONG " + "; ".join(fell_back)]) + " |",
                    flush=True,
                )
    print(f"\n{wrong} wrong")
    return wrong


def write_images(folder: Path, count: int, side: int) -> Split:
    """Files of glyphs, with their boxes: reading them is part of what is measured."""
    write_splits([glyphs("test", count=count, size=side)], folder, "voc", WriteOptions(images="copy"))
    return open_split(str(folder))


def evaluate(device: str, rehearse: bool) -> int:
    """Print images/s of an evaluation from files to scores, and which share of it the scores take."""
    count, side, model = (40, 64, "test_resnet") if rehearse else (2000, 224, "replknet_31b")
    scoring = 0.0
    inner = predict.score_run

    def timed(*args: object, **kwargs: object) -> object:
        nonlocal scoring
        before = time.perf_counter()
        result = inner(*args, **kwargs)  # type: ignore[arg-type]
        scoring += time.perf_counter() - before
        return result

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(predict, "score_run", timed):
        split = write_images(Path(folder) / "images", count, side)
        config = EvaluateConfig(model=model, num_classes=10, data="glyphs", method=("cam",), device=device)
        for turn in ("first, with compilation", "second"):
            scoring, before = 0.0, time.perf_counter()
            predict.evaluate(config, Run(Path(folder) / turn[:5]), split=split)
            seconds = time.perf_counter() - before
            print(
                f"- {model}, {count} images of {side} x {side}, {turn}: {count / seconds:.0f} images/s, "
                f"scores {scoring / seconds:.0%} of the time",
                flush=True,
            )
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["right", "evaluate"])
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, tiny shapes")
    args = parser.parse_args()
    device = "cpu" if args.rehearse else "cuda"
    print(f"{machine(device)}, torch {torch.__version__}\n", flush=True)
    sys.exit(1 if {"right": right, "evaluate": evaluate}[args.part](device, args.rehearse) else 0)


if __name__ == "__main__":
    main()
