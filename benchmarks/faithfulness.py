"""Scores of faithfulness: ours, pytorch-grad-cam's and Quantus's on the same network, images, maps and steps.

    uv run --with quantus python benchmarks/faithfulness.py
    uv run --with quantus python benchmarks/faithfulness.py --model resnet50 --images 8 --device cuda

Compared where the definitions agree: the change of the score of images multiplied by their map (average
drop and increase), ROAD over nine percentiles (noise 0 for the comparison of values, since each draws its
own), and deletion to zero in 84 steps (Quantus's pixel flipping). The network of heatbox is laid out for
channels last, as `heatbox faithfulness` does on a CPU, and the scores of the images are known to it from the
forward pass that makes the map. Prints processor time on a CPU, each row's ratio, the fraction of heatbox's
time that the network itself takes on as many images, and the largest difference of values. The fraction is
the bound: a row's ratio could grow by it alone. Weights are random: they do not change the cost. A package
that is not installed is left out, saying so.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heatbox.metrics import faithfulness as fn

STEPS = 84


class Probabilities(nn.Module):
    """A classifier followed by softmax, as all three tools are given it; random logits get a usual spread."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        # Of an image without a pixel left, the logits of a network without biases are all equal.
        spread = logits.std(1, keepdim=True).clamp_min(1e-6)
        return (3 * (logits - logits.mean(1, keepdim=True)) / spread).softmax(1)


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds and result of one call."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    begin = clock()
    found = work()
    return clock() - begin, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = Probabilities(timm.create_model(args.model)).eval().to(args.device)
    side = model.model.pretrained_cfg["input_size"][1]
    images = F.interpolate(torch.randn(args.images, 3, 28, 28), size=side, mode="bicubic").to(args.device)
    maps = F.interpolate(torch.rand(args.images, 1, 7, 7), size=side, mode="bicubic")[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    maps = (maps - low) / (high - low)
    with torch.no_grad():
        targets = model(images).argmax(1).cpu()

    laid_out = copy.deepcopy(model).to(memory_format=torch.channels_last) if args.device == "cpu" else model
    with torch.no_grad():
        known = laid_out(images)[range(len(images)), targets.tolist()].cpu()
    inside = {"seconds": 0.0}

    def ours(changed: Tensor) -> Tensor:
        spent, found = timed(lambda: laid_out(changed), args.device)
        inside["seconds"] += spent
        return found

    def changes() -> np.ndarray:
        original, masked = fn.masked_scores(
            ours, images, maps, targets, batch_size=args.batch, original=known
        )
        drop = (original - masked).clamp_min(0)  # not relative, as pytorch-grad-cam defines it
        return torch.stack([drop, fn.average_increase(original, masked)]).numpy()

    def road() -> np.ndarray:
        found = fn.road(ours, images, maps, targets, noise=0, batch_size=args.batch, original=known)
        return found.combined.numpy()

    def deletion() -> np.ndarray:
        found = fn.removal_curves(
            ours, images, maps, targets, steps=STEPS, batch_size=args.batch, original=known
        )
        return found.numpy()

    road()  # compiles
    peers: dict[str, tuple[Callable[[], np.ndarray], str, Callable[[], np.ndarray]]] = {}
    try:
        from pytorch_grad_cam.metrics import cam_mult_image
        from pytorch_grad_cam.metrics import road as their_road

        choose = [lambda output, k=int(k): output[k] for k in targets]
        numpy_maps = maps.numpy()

        def their_changes() -> np.ndarray:
            kinds = (cam_mult_image.DropInConfidence, cam_mult_image.IncreaseInConfidence)
            return np.stack([kind()(images, numpy_maps, choose, model) for kind in kinds])

        def their_combined() -> np.ndarray:
            percentiles = fn.PERCENTILES
            imputer = their_road.NoisyLinearImputer(noise=0)
            orders = (their_road.RemoveLeastRelevantFirst, their_road.RemoveMostRelevantFirst)
            least, most = (
                np.mean(
                    [
                        their_road.PerturbationConfidenceMetric(order(p, imputer))(
                            images, numpy_maps, choose, model
                        )
                        for p in percentiles
                    ],
                    axis=0,
                )
                for order in orders
            )
            return (least - most) / 2

        peers["drop and increase"] = (changes, "pytorch-grad-cam", their_changes)
        peers["ROAD combined, 9 percentiles"] = (road, "pytorch-grad-cam", their_combined)
    except ImportError:
        print("pytorch-grad-cam is not installed: left out")
    try:
        import quantus

        flipping = quantus.PixelFlipping(
            features_in_step=3 * side * side // STEPS,  # of a pixel, each channel is a feature
            perturb_baseline=0.0,
            normalise=False,
            disable_warnings=True,
        )

        def flipped() -> np.ndarray:
            return np.array(
                flipping(
                    model=model,
                    x_batch=images.cpu().numpy(),
                    y_batch=targets.numpy(),
                    a_batch=maps.numpy()[:, None],
                    device=args.device,
                    softmax=False,
                    batch_size=args.images,
                )
            )

        if 3 * side * side % STEPS == 0:
            peers[f"deletion, {STEPS} steps"] = (deletion, "Quantus", flipped)
    except ImportError:
        print("Quantus is not installed: left out")

    print(f"{args.model} at {side}, {args.images} images, {args.threads} threads, seconds an image")
    total_ours = total_theirs = 0.0
    for name, (work, peer, theirs) in peers.items():
        inside["seconds"] = 0.0
        ours_s, ours_values = timed(work, args.device)
        theirs_s, their_values = timed(theirs, args.device)
        if ours_values.ndim == their_values.ndim == 2 and peer == "Quantus":
            # It has no score before the first step. Its steps remove whole pixels every third time.
            ours_values, their_values = ours_values[:, 3::3], their_values[:, 2::3]
        difference = float(np.abs(ours_values - their_values).max())
        total_ours, total_theirs = total_ours + ours_s, total_theirs + theirs_s
        print(
            f"{name:32s} ours {ours_s / args.images:7.3f}   {peer} {theirs_s / args.images:7.3f}   "
            f"x{theirs_s / ours_s:.1f}   network {inside['seconds'] / ours_s:.0%}   "
            f"largest difference {difference:.1e}"
        )
    if total_ours:
        print(f"{'together':32s} ours {total_ours / args.images:7.3f}   peers "
              f"{total_theirs / args.images:7.3f}   x{total_theirs / total_ours:.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
