"""Milliseconds of CAM and Grad-CAM on top of the plain forward pass: ours, pytorch-grad-cam's, torch-cam's.

    uv run --with torchcam python benchmarks/cam_peers.py
    uv run --with torchcam python benchmarks/cam_peers.py --model convnext_tiny --batch 8 --device cuda

Every call goes from a batch of images to its maps, so all include a forward pass; pytorch-grad-cam enlarges
its maps to the images' size, the others do not. Calls take turns and each time is the minimum over the turns;
with `--threads 1` on a CPU it is processor time. Weights are random: they do not change the cost. A package
that is not installed is left out, saying so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from timing import build, take_turns, where
from torch import Tensor, nn

from heatbox.maps.cam import cam
from heatbox.maps.gradcam import GRADIENT_METHODS, gradient_map
from heatbox.maps.pc1 import pc1
from heatbox.models.introspect import ClassifierView

Jobs = dict[str, Callable[[], object]]


def last_layer(view: ClassifierView, images: Tensor) -> nn.Module:
    """A module whose output is the last feature map, for tools that want it named."""
    outputs: list[tuple[nn.Module, object]] = []
    hooks = [
        module.register_forward_hook(lambda module, _, output: outputs.append((module, output)))
        for module in view.model.modules()
        if module is not view.model
    ]
    with torch.no_grad():
        features, _ = view(images[:2])
    for hook in hooks:
        hook.remove()
    same = [m for m, out in outputs if isinstance(out, Tensor) and torch.equal(out, features)]
    if not same:
        raise SystemExit("no module's output is the feature map of this model; choose another --model")
    return same[-1]


def ours(view: ClassifierView, images: Tensor, targets: Tensor) -> Jobs:
    def with_cam() -> Tensor:
        with torch.inference_mode():
            features, _ = view(images)
            return cam(features, view.class_weights(features, targets)[0])

    def forward() -> Tensor:
        with torch.inference_mode():
            return view.model(images)

    def with_pc1() -> Tensor:
        with torch.inference_mode():
            return pc1(view(images)[0])

    def with_gradients(name: str) -> Tensor:
        with torch.inference_mode():
            view(images)  # as evaluate does: logits first, then a pass of the method's own
            return gradient_map(name, view, images, targets)

    jobs: Jobs = {"plain forward": forward, "heatbox CAM": with_cam, "heatbox PC1": with_pc1}
    return jobs | {f"heatbox {name}": partial(with_gradients, name) for name in GRADIENT_METHODS}


def grad_cam(view: ClassifierView, images: Tensor, targets: Tensor) -> Jobs:
    """pytorch-grad-cam as its documentation uses it."""
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:
        print("pytorch-grad-cam is not installed: left out\n")
        return {}
    classes = [ClassifierOutputTarget(int(target)) for target in targets]
    layer = last_layer(view, images)

    def run() -> object:
        with GradCAM(model=view.model, target_layers=[layer]) as tool:
            return tool(images, classes)

    return {"pytorch-grad-cam GradCAM": run}


def torch_cam(view: ClassifierView, images: Tensor, targets: Tensor) -> Jobs:
    """torch-cam as its documentation uses it."""
    try:
        from torchcam.methods import CAM, GradCAM
    except ImportError:
        print("torch-cam is not installed: left out (uv run --with torchcam …)\n")
        return {}
    layer, classifier, classes = last_layer(view, images), view.classifier, targets.tolist()

    def plain() -> object:
        with CAM(view.model, layer, classifier) as tool, torch.inference_mode():
            view.model(images)
            return tool(classes)

    def gradient() -> object:
        with GradCAM(view.model, layer) as tool:
            return tool(classes, view.model(images))

    return {"torch-cam CAM": plain, "torch-cam GradCAM": gradient}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mobilenetv1_075")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's default")
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    view = ClassifierView(build(args.model).eval().to(args.device))
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    targets = torch.arange(args.batch, device=args.device) % view.num_classes
    jobs = ours(view, images, targets) | grad_cam(view, images, targets) | torch_cam(view, images, targets)
    ms = take_turns(jobs, args.turns, args.device)
    print(f"{where(args.device)},")
    print(f"{args.model} {args.batch} x {args.size}\n")
    print("| | ms an image | over the plain forward | x heatbox CAM |\n|---|---|---|---|")
    for name, spent in ms.items():
        over = spent / ms["plain forward"] - 1
        print(f"| {name} | {spent / args.batch:.2f} | {over:+.1%} | {spent / ms['heatbox CAM']:.2f} |")


if __name__ == "__main__":
    main()
