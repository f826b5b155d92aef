"""Milliseconds and memory of CAM, PC1 and the walk beside the forward passes that they need, in the same run.

    python benchmarks/maps.py                                   # MobileNetV1-0.75 at 224, batch 32
    python benchmarks/maps.py --model convnext_tiny --batch 8 --device cuda --dtype bfloat16
    python benchmarks/maps.py --class-maps --batch 8            # class_maps over the plain forward pass
    python benchmarks/maps.py --construction                    # finding the head, in forward passes
    python benchmarks/maps.py --fit 900                         # fitting a foreground head
    python benchmarks/maps.py --collection 2000 50000           # memory of an evaluation with such a head

Calls take turns and each time is the minimum over the turns; with `--threads 1` on a CPU it is processor
time. The weights are random: they do not change the cost. `walk` needs a pass at twice the side for its seed,
`walk-one-pass` one pass whose last stage is run four times. `walk+foreground` adds to the walk the features
of a foreground head, their projection and the head. The last lines are the memory of the walk alone, beyond
its inputs, on a 28 x 28 grid at batch 64: the most that its tensors take at a time.

`--fit` fits a projection and a head to random features of the given number of images, of the shape that
EfficientNet-Lite0 has at 224, and prints the seconds (processor time). `--collection` evaluates generated
images of 32 pixels with a small network, whose head reads 128 components on a 16 x 16 grid (Lite0 at 224 has
14 x 14): its maps are made in the two passes of a head that is fitted to them, and scored. Each number of
images is a process of its own, whose peak memory is printed after each step.

`--class-maps` runs the plain forward pass and `class_maps` in turns on several networks that end in global
average pooling, and prints the median of the ratios of neighbouring turns. `--construction` divides the time
in which a `ClassifierView` is made by that of a forward pass of two images of the model's own size, for the
smallest model of each of timm's modules, and prints the median over the models.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import resource
import statistics
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timing import build, take_turns, where
from torch import is_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from heatbox.config import EvaluateConfig
from heatbox.data.types import Example, Split
from heatbox.evaluation.predict import make_maps, prepare, save_scores
from heatbox.evaluation.run import Run
from heatbox.maps.cam import cam
from heatbox.maps.foreground import collection_features, fit_foreground, fit_projection, foreground
from heatbox.maps.pc1 import pc1
from heatbox.maps.random_walk import random_walk
from heatbox.maps.registry import ForegroundName, projected_features
from heatbox.models.introspect import ClassifierView, class_maps

MEBIBYTE = 2**20
SWEEP = Path(__file__).resolve().parents[1] / "tests/fixtures/sweep.csv"
FEATURES_OF_LITE0, GRID = 40 + 112 + 112 + 1280, 14
SMALL, SIDE = "resnet10_small", 32
POOLED = (
    "resnet50",
    "convnext_tiny",
    "mobilenetv3_large_100",
    "regnety_016",
    "efficientnet_b0",
    "densenet121",
    "swin_tiny_patch4_window7_224",
)
"""Networks whose logits follow from global average pooling."""


def calls(view: ClassifierView, images: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The passes and, on their results, the maps."""
    larger = torch.nn.functional.interpolate(images, scale_factor=2)
    targets = torch.zeros(len(images), dtype=torch.long, device=images.device)
    output, twice = view.extract(images, sharp=True), view.extract(larger, 1)
    wide, sharp = twice.features, output.sharp
    assert sharp is not None

    def cam_of(features: torch.Tensor) -> torch.Tensor:
        return cam(features, view.class_weights(features, targets)[0])

    seed, one_pass_seed = cam_of(wide), cam_of(sharp)

    def features() -> torch.Tensor:
        return collection_features((*output.middle, *twice.middle, wide), tuple(wide.shape[2:])).half()

    with torch.inference_mode(False):
        head = fit_foreground(features().clone(), seed.clone(), steps=1).to(images.device)
    walk, name = random_walk(seed, output.middle), ForegroundName("walk")

    def with_head(features: torch.Tensor) -> torch.Tensor:
        read = projected_features(head, features)
        return name.finish(walk, head, read, foreground(head, read, projected=True))

    return {
        "forward": lambda: view(images),
        "forward at twice the side": lambda: view(larger),
        "forward, last stage four times": lambda: view.extract(images, sharp=True),
        "cam": lambda: cam_of(output.features),
        "pc1": lambda: pc1(output.features),
        "walk, without its seed": lambda: random_walk(seed, output.middle),
        "walk: all but the passes": lambda: random_walk(cam_of(wide), output.middle),
        "walk+foreground: all but the walk": lambda: with_head(features()),
        "walk-one-pass: all but the pass": lambda: random_walk(one_pass_seed, output.middle),
    }


class PeakMemory(TorchDispatchMode):
    """The most bytes that the results of operations inside take at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        inputs = [tensor.untyped_storage() for tensor in tree_leaves((args, kwargs)) if is_tensor(tensor)]
        for tensor in filter(is_tensor, tree_leaves(out)):
            storage = tensor.untyped_storage()
            if storage not in self.known and not any(storage is one for one in inputs):
                self.known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.freed, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def freed(self, size: int) -> None:
        self.now -= size


def walk_memory(batch: int, side: int, device: str) -> float:
    """MiB that a walk takes beyond its inputs."""
    seed = torch.rand(batch, side, side, device=device)
    features = [torch.rand(batch, channels, side, side, device=device) for channels in (192, 384)]
    with PeakMemory() as memory:
        random_walk(seed, features)
    return memory.peak / MEBIBYTE


def print_fit(images: int) -> None:
    """The processor time of fitting a foreground head."""
    features = torch.randn(images, FEATURES_OF_LITE0, GRID, GRID, dtype=torch.float16)
    before = time.process_time()
    projection = fit_projection(features[:128])
    projected = torch.cat([projection(part).half() for part in features.split(32)])
    middle = time.process_time()
    fit_foreground(projected, torch.rand(images, GRID, GRID), projection=projection)
    after = time.process_time()
    print(f"projection {middle - before:.1f} s, head on {images} images {after - middle:.1f} s")


def collect(images: int, folder: Path) -> None:
    """Evaluate some generated images with a small network; prints the peak memory after each step."""

    def opened(example: Example) -> Image.Image:
        rng = np.random.default_rng(int(example.id))
        pixels = rng.integers(0, 128, (SIDE, SIDE, 3), np.uint8)
        left, top, right, bottom = example.boxes[0].astype(int)
        pixels[top:bottom, left:right] += 120
        return Image.fromarray(pixels)

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    rng = np.random.default_rng(0)
    corners = rng.integers(0, SIDE // 2, (images, 2))
    boxes = np.concatenate([corners, corners + rng.integers(8, SIDE // 2, (images, 2))], 1).astype(float)
    examples = [
        Example(str(index), index % 10, (SIDE, SIDE), boxes[index : index + 1]) for index in range(images)
    ]
    split = Split("generated", examples, (), opened)
    config = EvaluateConfig(
        SMALL, "generated", method=("foreground-walk",), scores="softmax", channels=0, batch_size=64
    )
    ready, run = prepare(config, build(SMALL).eval(), split), Run(folder)
    ready.view(torch.zeros(1, 3, SIDE, SIDE))
    before, began = peak(), time.monotonic()
    make_maps(ready, run)
    made = peak()
    save_scores(run, None, ready.config, ready.config.method, ready.function)
    print(
        f"| {images} | {before:.0f} | {made:.0f} | {peak():.0f} | {time.monotonic() - began:.0f} |",
        flush=True,
    )


def print_collections(numbers: list[int]) -> None:
    """Peak memory of evaluations of different numbers of images, each in a process of its own."""
    print(f"{SMALL} at {SIDE} pixels, map foreground-walk; resident MiB at most\n")
    print("| images | before | maps made | scored | s |\n|---|---|---|---|---|", flush=True)
    for images in numbers:
        with tempfile.TemporaryDirectory() as folder:
            work = multiprocessing.get_context("spawn").Process(
                target=collect, args=(images, Path(folder) / "run")
            )
            work.start()
            work.join()


def seconds(job: Callable[[], object], device: str) -> float:
    """Time of one call."""
    began = time.perf_counter()
    job()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def print_class_maps(batch: int, size: int, turns: int, device: str) -> None:
    """The cost of class maps over that of the plain forward pass."""
    print("| model | forward, ms | class_maps, ms | class_maps over forward |\n|---|---|---|---|")
    images = torch.randn(batch, 3, size, size, device=device)
    for name in POOLED:
        model = build(name).eval().to(device)
        class_maps(model, images)  # finds the head
        model(images)
        plain, maps = [], []
        for turn in range(2 * turns):
            order = ((plain, lambda m=model: m(images)), (maps, lambda m=model: class_maps(m, images)))
            for times, job in order if turn % 2 else order[::-1]:
                times.append(seconds(job, device))
        ratio = statistics.median(one / other for one, other in zip(maps, plain, strict=True))
        print(
            f"| {name} | {statistics.median(plain) * 1e3:.1f} | {statistics.median(maps) * 1e3:.1f} "
            f"| {ratio - 1:+.1%} |",
            flush=True,
        )


def print_construction(turns: int, largest: float) -> None:
    """The time in which the head of a model is found, in forward passes of two images of its own size."""
    print("| model | forward, ms | construction, ms | forwards |\n|---|---|---|---|")
    ratios = []
    with SWEEP.open(newline="") as lines:
        names = [row["model"] for row in csv.DictReader(lines) if row["set"] == "timm"]
    for name in names:
        classes = timm.get_pretrained_cfg(name).num_classes or 10
        with torch.device("meta"):
            number = sum(
                values.numel() for values in timm.create_model(name, num_classes=classes).parameters()
            )
        if number > largest * 1e6:
            continue
        model = timm.create_model(name, num_classes=classes).eval()
        images = torch.randn(2, *model.pretrained_cfg["input_size"])
        model(images)
        forward, made = [], []
        for _ in range(turns):
            forward.append(seconds(lambda m=model, x=images: m(x), "cpu"))
            made.append(seconds(lambda m=model: ClassifierView(m), "cpu"))
        ratios.append(statistics.median(one / other for one, other in zip(made, forward, strict=True)))
        print(
            f"| {name} | {statistics.median(forward) * 1e3:.1f} | {statistics.median(made) * 1e3:.1f} "
            f"| {ratios[-1]:.1f} |",
            flush=True,
        )
    print(f"\nmedian of {len(ratios)} models: {statistics.median(ratios):.1f} forward passes")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mobilenetv1_075")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's default")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--class-maps", action="store_true", help="class_maps beside the plain forward pass")
    parser.add_argument("--construction", action="store_true", help="finding the head beside a forward pass")
    parser.add_argument("--largest", type=float, default=100, help="million parameters, of --construction")
    parser.add_argument("--fit", type=int, help="number of images to fit a foreground head on")
    parser.add_argument("--collection", type=int, nargs="+", help="numbers of images of the two passes")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.fit or args.collection:
        print(f"{where(args.device)}\n")
        with torch.inference_mode(False):
            if args.fit:
                print_fit(args.fit)
            if args.collection:
                print_collections(args.collection)
        return
    if args.class_maps or args.construction:
        print(f"{where(args.device)}\n")
        if args.class_maps:
            print_class_maps(args.batch, args.size, args.turns, args.device)
        if args.construction:
            print_construction(args.turns, args.largest)
        return
    dtype = getattr(torch, args.dtype)
    view = ClassifierView(build(args.model).eval().to(args.device, dtype))
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device, dtype=dtype)
    ms = take_turns(calls(view, images), args.turns, args.device)
    print(f"{where(args.device)},")
    print(f"{args.model} {args.batch}x{args.size} {args.dtype}\n")
    print("| | ms | ms/image | x forward |\n|---|---|---|---|")
    for name, spent in ms.items():
        print(f"| {name} | {spent:.1f} | {spent / args.batch:.2f} | {spent / ms['forward']:.2f} |")
    two = ms["forward"] + ms["forward at twice the side"]
    print(f"\nwalk over the two passes it needs: {ms['walk: all but the passes'] / two:+.1%}")
    whole_walk = two + ms["walk: all but the passes"]
    print(f"walk+foreground over the walk: {ms['walk+foreground: all but the walk'] / whole_walk:+.1%}")
    one = ms["forward, last stage four times"]
    print(f"walk-one-pass over the pass it needs: {ms['walk-one-pass: all but the pass'] / one:+.1%}")
    batch, side = 64, 28
    whole = batch * side**4 * 4 / MEBIBYTE
    used = walk_memory(batch, side, args.device)
    print(
        f"walk, batch {batch}, {side} x {side}: {used:.0f} MiB at most (an affinity of all: {whole:.0f} MiB)"
    )


if __name__ == "__main__":
    main()
