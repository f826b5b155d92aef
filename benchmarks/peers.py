# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "heatbox[demo,gradcam]", "captum==0.9.0", "grad-cam==1.5.7", "scikit-learn==1.9.1", "torchcam==0.5.0",
#   "timm==1.0.31", "torch==2.15.0", "torchvision==0.29.2",
# ]
# [tool.uv]
# override-dependencies = ["opencv-python; sys_platform == 'never'"]
# [tool.uv.sources]
# heatbox = { path = "..", editable = true }
# ///
"""Maps of pytorch-grad-cam, torch-cam, captum and heatbox: scores, time, and the lines that a user writes.

    uv run benchmarks/peers.py score DATA    # MaxBoxAcc and MaxBoxAccV2 of every method
    uv run benchmarks/peers.py time          # milliseconds an image, batch 1 and 16
    uv run benchmarks/peers.py code          # what is run, which is what is counted

uv makes the environment that the first lines describe. DATA is a data set with ImageNet's classes and boxes;
the network is EfficientNet-Lite0, with the weights of the extra `demo`. Every method gets the same prepared
images and the labelled class, and its map is scored as the tool returns it. A map of pixels with three
colours is the sum of the absolute values. Methods that run the network tens or hundreds of times an image
are scored on fewer images: the first ones of the same random order, so that differences to heatbox's CAM are
paired.
"""

from __future__ import annotations

import argparse
import copy
import gc
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import where
from torch import Tensor, nn

from heatbox._utils.devices import configure_process
from heatbox.config import ModelOptions
from heatbox.data.open import open_split
from heatbox.data.types import Example, Split
from heatbox.demo import NETWORK, find_weights
from heatbox.evaluation.score import score_stream
from heatbox.evaluation.summary import EVERY, LARGEST, SplitScore, summarise
from heatbox.maps.baselines import CENTRE, centre_gaussian
from heatbox.maps.normalize import normalize_heatmap
from heatbox.models.factory import create_model

FAST, MEDIUM, SLOW, SLOWEST = 300, 100, 20, 0
"""Images on which methods are scored by their number of passes: a few, tens or hundreds, over a thousand; or
only timed."""
REFERENCE, FOREGROUND = "heatbox CAM", "heatbox foreground-walk"


@dataclass(frozen=True)
class Snippet:
    """What a user writes, given `model`, `images` (B, 3, H, W) and the list `labels`.

    Attributes:
        once: imports and the tool; {name} is the class of a method.
        batch: from a batch to `maps`.
        images: number of images on which it is scored.
    """

    once: str
    batch: str
    images: int = FAST

    @property
    def lines(self) -> int:
        return len(self.once.split("\n")) + len(self.batch.split("\n"))

    def bind(self, context: dict[str, Any]) -> Callable[[Tensor, list[int]], np.ndarray | Tensor]:
        """Run the first part on a copy of the model, for tools leave hooks; returns what runs the second."""
        names = context | {"model": copy.deepcopy(context["model"])}
        exec(self.once, names)
        code = compile(self.batch, "<snippet>", "exec")

        def maps(images: Tensor, labels: list[int]) -> np.ndarray | Tensor:
            names.update(images=images, labels=labels)
            exec(code, names)
            return names.pop("maps")

        return maps


def heatbox(method: str, more: str = "") -> Snippet:
    once = f"import heatbox as hb\nlocalizer = hb.Localizer(model, {method!r})"
    return Snippet(once + more, "maps = localizer(images, labels).maps")


def grad_cam(name: str, images: int = FAST, layers: str = "[model.bn2]", options: str = "") -> Snippet:
    return Snippet(
        f"from pytorch_grad_cam import {name}\n"
        "from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget\n"
        f"cam = {name}(model, {layers})",
        f"maps = cam(images, [ClassifierOutputTarget(label) for label in labels]{options})",
        images,
    )


FINER_CAM = Snippet(
    """\
import torch
from pytorch_grad_cam import FinerCAM
from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
cam = FinerCAM(model, [model.bn2])""",
    """\
logits = model(images).detach()
distances = (logits - logits.gather(1, torch.tensor(labels)[:, None])).abs()
nearest = distances.argsort(1)[:, 1:4].tolist()
maps = cam(images, [FinerWeightedTarget(*pair, alpha=1) for pair in zip(labels, nearest)])""",
)


def torch_cam(name: str, images: int = FAST, gradient: bool = True) -> Snippet:
    once = f"from torchcam.methods import {name}\ncam = {name}(model, model.bn2)"
    if gradient:
        return Snippet(once, "maps = cam(labels, model(images))[0]", images)
    once = "import torch\n" + once
    return Snippet(once, "with torch.inference_mode():\n    model(images)\nmaps = cam(labels)[0]", images)


def captum(
    name: str, images: int = FAST, options: str = "", more: str = "", names: str = "", tool: str = ""
) -> Snippet:
    """A map of pixels: the sum of absolute values over colours."""
    once = f"from captum.attr import {names or name}\ntool = {tool or f'{name}(model)'}"
    arguments = f"images, target=labels{options}"
    return Snippet(once + more, f"maps = tool.attribute({arguments}).abs().sum(1)", images)


def captum_patches(name: str, images: int, options: str, more: str = "") -> Snippet:
    """The drop of the score where a part of the image is hidden, in all colours at once."""
    once = f"from captum.attr import {name}\ntool = {name}(model){more}"
    return Snippet(once, f"maps = tool.attribute(images, target=labels, {options})[:, 0]", images)


def captum_layer(name: str, images: int = FAST, options: str = "", more: str = "") -> Snippet:
    """The sum over the channels of the last feature map."""
    once = f"from captum.attr import {name}\ntool = {name}(model, model.bn2){more}"
    return Snippet(once, f"maps = tool.attribute(images, target=labels{options}).sum(1)", images)


SQUARES = (
    "\nimport torch\n"
    "squares = torch.arange(49).view(1, 1, 7, 7).repeat_interleave(32, 2).repeat_interleave(32, 3)"
)
STEPS, SOME = ", internal_batch_size=16", ", baselines=torch.zeros_like(images[:1])"
METHODS: dict[str, Snippet] = {
    REFERENCE: heatbox("cam"),
    "heatbox PC1": heatbox("pc1"),
    "heatbox walk-one-pass": heatbox("walk-one-pass"),
    "heatbox walk": heatbox("walk"),
    FOREGROUND: heatbox("foreground-walk", "\nlocalizer.fit_foreground(other_images, other_labels)"),
    "grad-cam GradCAM": grad_cam("GradCAM"),
    "grad-cam GradCAM, aug_smooth": grad_cam("GradCAM", options=", aug_smooth=True"),
    "grad-cam GradCAM, eigen_smooth": grad_cam("GradCAM", options=", eigen_smooth=True"),
    "grad-cam GradCAM++": grad_cam("GradCAMPlusPlus"),
    "grad-cam GradCAMElementWise": grad_cam("GradCAMElementWise"),
    "grad-cam HiResCAM": grad_cam("HiResCAM"),
    "grad-cam XGradCAM": grad_cam("XGradCAM"),
    "grad-cam LayerCAM": grad_cam("LayerCAM"),
    "grad-cam ShapleyCAM": grad_cam("ShapleyCAM"),
    "grad-cam FinerCAM": FINER_CAM,
    "grad-cam EigenCAM": grad_cam("EigenCAM"),
    "grad-cam EigenGradCAM": grad_cam("EigenGradCAM"),
    "grad-cam SegEigenCAM": grad_cam("SegEigenCAM"),
    "grad-cam KPCA_CAM": grad_cam("KPCA_CAM"),
    "grad-cam FEM": grad_cam("FEM"),
    "grad-cam FullGrad": grad_cam("FullGrad", layers="[]"),
    "grad-cam RefineCAM": grad_cam("RefineCAM", layers="[model.blocks[2], model.blocks[4], model.bn2]"),
    "grad-cam RandomCAM": grad_cam("RandomCAM"),
    "grad-cam SESS": grad_cam("SESS", MEDIUM),
    "grad-cam AblationCAM": grad_cam("AblationCAM", SLOW),
    "grad-cam ScoreCAM": grad_cam("ScoreCAM", SLOW),
    "torch-cam CAM": torch_cam("CAM", gradient=False),
    "torch-cam GradCAM": torch_cam("GradCAM"),
    "torch-cam GradCAMpp": torch_cam("GradCAMpp"),
    "torch-cam SmoothGradCAMpp": torch_cam("SmoothGradCAMpp", gradient=False),
    "torch-cam XGradCAM": torch_cam("XGradCAM"),
    "torch-cam LayerCAM": torch_cam("LayerCAM"),
    "torch-cam ScoreCAM": torch_cam("ScoreCAM", SLOW, gradient=False),
    "torch-cam ISCAM": torch_cam("ISCAM", SLOWEST, gradient=False),
    "torch-cam SSCAM": torch_cam("SSCAM", SLOWEST, gradient=False),
    "captum LayerGradCam": captum_layer("LayerGradCam", options=", relu_attributions=True"),
    "captum LayerGradientXActivation": captum_layer("LayerGradientXActivation"),
    "captum LayerActivation": Snippet(
        "from captum.attr import LayerActivation\ntool = LayerActivation(model, model.bn2)",
        "maps = tool.attribute(images).sum(1)",
    ),
    "captum LayerDeepLift": captum_layer("LayerDeepLift"),
    "captum LayerGradientShap": captum_layer("LayerGradientShap", options=SOME, more="\nimport torch"),
    "captum LayerIntegratedGradients": captum_layer("LayerIntegratedGradients", MEDIUM, STEPS),
    "captum LayerConductance": captum_layer("LayerConductance", MEDIUM, STEPS),
    "captum InternalInfluence": captum_layer("InternalInfluence", MEDIUM, STEPS),
    "captum LayerLRP": captum_layer("LayerLRP"),
    "captum Saliency": captum("Saliency"),
    "captum Saliency, NoiseTunnel": captum(
        "NoiseTunnel", names="NoiseTunnel, Saliency", tool="NoiseTunnel(Saliency(model))"
    ),
    "captum InputXGradient": captum("InputXGradient"),
    "captum DeepLift": captum("DeepLift"),
    "captum GradientShap": captum("GradientShap", options=SOME, more="\nimport torch"),
    "captum GuidedBackprop": captum("GuidedBackprop"),
    "captum Deconvolution": captum("Deconvolution"),
    "captum GuidedGradCam": captum("GuidedGradCam", tool="GuidedGradCam(model, model.bn2)"),
    "captum LRP": captum("LRP"),
    "captum IntegratedGradients": captum("IntegratedGradients", MEDIUM, STEPS),
    "captum Occlusion": captum_patches(
        "Occlusion", MEDIUM, "sliding_window_shapes=(3, 32, 32), strides=(3, 16, 16)"
    ),
    "captum FeatureAblation": captum_patches("FeatureAblation", MEDIUM, "feature_mask=squares", SQUARES),
    "captum Lime": captum_patches("Lime", MEDIUM, "feature_mask=squares, n_samples=100", SQUARES),
    "captum KernelShap": captum_patches("KernelShap", MEDIUM, "feature_mask=squares, n_samples=100", SQUARES),
    "captum ShapleyValueSampling": captum_patches(
        "ShapleyValueSampling", SLOW, "feature_mask=squares", SQUARES
    ),
}


class Images:
    """Labelled images with boxes in a random order, preprocessed."""

    def __init__(self, data: str, model: nn.Module) -> None:
        self.split: Split = open_split(data)
        self.preprocess = ModelOptions().preprocess(model)
        self.order = np.random.default_rng(0).permutation(len(self.split))

    def examples(self, places: slice) -> list[Example]:
        return [self.split.examples[k] for k in self.order[places]]

    def read(self, places: slice) -> tuple[Tensor, list[int]]:
        examples = self.examples(places)
        images = [self.preprocess(self.split.open_image(example).convert("RGB")) for example in examples]
        return torch.stack(images), [example.label for example in examples]


def make_maps(
    snippet: Snippet, context: dict[str, Any], images: Images, count: int, batch: int
) -> np.ndarray:
    """(N, h, w) float32."""
    made = []
    maps = snippet.bind(context)
    for first in range(0, count, batch):
        found = maps(*images.read(slice(first, min(first + batch, count))))
        made.append(found.detach().numpy() if isinstance(found, Tensor) else np.asarray(found))
    return np.concatenate(made).astype(np.float32)


def scored(maps: np.ndarray, images: Images) -> SplitScore:
    pairs = zip(images.examples(slice(len(maps))), normalize_heatmap(maps), strict=True)
    return score_stream(((one.id, heatmap, one.boxes, one.size) for one, heatmap in pairs), keep=True)


def rows(found: dict[str, SplitScore], base: dict[int, SplitScore]) -> Iterator[str]:
    columns = ("method", "images", LARGEST, "at", EVERY, f"{EVERY} minus {REFERENCE}", "lines")
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for name, one in found.items():
        table = summarise(one, baseline=base[one.images])
        score, v2 = (
            f"{table[key]:.1f} [{', '.join(f'{end:.1f}' for end in table[f'{key}_interval'])}]"
            for key in (LARGEST, EVERY)
        )
        minus = table["minus_baseline"][EVERY]
        low, high = minus["interval"]
        apart = "" if name == REFERENCE else f"{minus['value']:+.1f} [{low:+.1f}, {high:+.1f}]"
        lines = METHODS[name].lines if name in METHODS else ""
        yield f"| {name} | {one.images} | {score} | {table['threshold']:.2f} | {v2} | {apart} | {lines} |"


def score(args: argparse.Namespace, context: dict[str, Any]) -> None:
    images = Images(args.data, context["model"])
    if FOREGROUND in args.only:
        context["other_images"], context["other_labels"] = images.read(slice(FAST, len(images.split)))
    kept: dict[str, np.ndarray] = {}
    failed: dict[str, str] = {}
    if args.cache:
        args.cache.mkdir(parents=True, exist_ok=True)
    for name, snippet in METHODS.items():
        count = min(snippet.images, args.limit)
        if name not in args.only or not count:
            continue
        file = args.cache / f"{name}.npy" if args.cache else None
        if file and file.exists():
            kept[name] = np.load(file)
            continue
        begin = time.process_time()
        try:
            kept[name] = make_maps(snippet, context, images, count, args.batch)
        except Exception as error:  # a tool that refuses this network is a result
            failed[name] = first_line(error)
            continue
        print(f"{name}: {(time.process_time() - begin) / count * 1e3:.0f} ms an image", file=sys.stderr)
        if file:
            np.save(file, kept[name])
    found = {name: scored(maps, images) for name, maps in kept.items()}
    base = {count: scored(kept[REFERENCE][:count], images) for count in {*map(len, kept.values())}}
    most = len(kept[REFERENCE])
    found[CENTRE] = scored(np.broadcast_to(centre_gaussian(), (most, 224, 224)), images)
    print(*rows(found, base), sep="\n")
    print(*(f"\n{name}: {why}" for name, why in failed.items()))


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def spend(work: Callable[[], object]) -> np.ndarray:
    """Processor time and time by the clock of a call, in seconds."""
    before = time.process_time(), time.perf_counter()
    work()
    return np.array([time.process_time(), time.perf_counter()]) - before


def best_times(
    snippet: Snippet, context: dict[str, Any], images: dict[int, Tensor], args: argparse.Namespace
) -> tuple[dict[int, np.ndarray], dict[int, str]]:
    """Of each batch size the smallest times an image, and why there are none. Slow tools are called once."""
    best: dict[int, np.ndarray] = {}
    failed: dict[int, str] = {}
    tool = snippet.bind(context)  # dropped at the end, with the graphs that tools keep
    for size, pixels in images.items():
        if best and best[1][0] * size > args.longest:
            continue
        labels = list(range(size))
        try:
            best[size] = spend(lambda: tool(pixels, labels)) / size  # noqa: B023
            if best[size][0] * size <= args.longest:  # the first call may prepare something
                calls = [spend(lambda: tool(pixels, labels)) for _ in range(args.turns)]  # noqa: B023
                best[size] = np.min(calls, axis=0) / size
        except Exception as error:
            failed[size] = first_line(error)
            if not best:
                break
    return best, failed


def take_times(args: argparse.Namespace, context: dict[str, Any]) -> None:
    torch.manual_seed(0)
    side = ModelOptions().preprocess(context["model"]).size[0]
    images = {size: torch.randn(size, 3, side, side) for size in (1, 16)}
    context |= {"other_images": torch.randn(64, 3, side, side), "other_labels": list(range(64))}
    plain = Snippet("import torch", "with torch.inference_mode():\n    maps = model(images)")
    chosen = {"plain forward pass": plain, **{name: METHODS[name] for name in METHODS if name in args.only}}
    why = []
    print(f"{where('cpu')}, load {os.getloadavg()[0]:.1f}, milliseconds an image: processor time / clock\n")
    print("| method | batch 1 | batch 16 | plain passes, batch 16 |\n|---|---|---|---|")
    for name, snippet in chosen.items():
        best, failed = best_times(snippet, context, images, args)
        gc.collect()
        why += [f"{name}, batch {size}: {reason}" for size, reason in failed.items()]
        base = best_times(plain, context, {1: images[16]}, args)[0][1][0] / 16  # beside it: the load changes
        text = [f"{best[n][0] * 1e3:.1f} / {best[n][1] * 1e3:.1f}" if n in best else "–" for n in images]
        passes = f"{best[16][0] / base:.1f}" if 16 in best else "–"
        print(f"| {name} | {' | '.join(text)} | {passes} |", flush=True)
    print(*(f"\n{reason}" for reason in why))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["score", "time", "code"])
    parser.add_argument("data", nargs="?", help="for score")
    parser.add_argument("--only", nargs="+", default=list(METHODS), help="methods, heatbox's CAM always")
    parser.add_argument("--checkpoint", help="weights of the network; by default those of the extra demo")
    parser.add_argument("--cache", type=Path, help="a folder that keeps the maps, to resume")
    parser.add_argument("--limit", type=int, default=FAST, help="images at most")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--longest", type=float, default=20, help="seconds of a call that is not repeated")
    args = parser.parse_args()
    if args.what == "score" and not args.data:
        parser.error("score needs DATA")
    args.only = [REFERENCE, *args.only]
    configure_process()  # as in every command of heatbox: pages of freed memory are kept, for all tools
    os.environ["TQDM_DISABLE"] = "1"
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    if args.what == "code":
        for name in args.only[1:]:
            print(f"# {name}: {METHODS[name].lines} lines\n{METHODS[name].once}\n{METHODS[name].batch}\n")
        return
    model = create_model(NETWORK, checkpoint=args.checkpoint or find_weights()).eval()
    (score if args.what == "score" else take_times)(args, {"model": model})


if __name__ == "__main__":
    main()
