"""A training step of heatbox against the plain loop: images per second, in the same run.

    python benchmarks/training.py                    the small networks, batch 64 at 64 pixels
    python benchmarks/training.py --full             RepLKNet-31B, SLaK-T and ConvNeXt-T at 224, batch 8
    python benchmarks/training.py --device cuda --full --batch 64 --precision bf16

Ours: large depthwise convolutions through `heatbox.ops`, channels_last. Plain: the same network with
`nn.Conv2d` everywhere, as torch lays it out. Both: forward, cross-entropy, backward, AdamW, on the same
images. Turns alternate; the median is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import timm
import torch
from torch import nn

import heatbox.models  # noqa: F401 - registers its families with timm
from heatbox.ops import DepthwiseConv2d, accelerate

SMALL = ("replknet_micro", "slak_micro", "convnext_micro", "resnet10_small")
NANO = ("replknet_nano", "slak_nano", "convnext_atto")
FULL = ("replknet_31b", "slak_tiny", "convnext_tiny")


def plain(model: nn.Module) -> nn.Module:
    """The network as it would be without `heatbox.ops`."""
    for module in model.modules():
        if isinstance(module, DepthwiseConv2d):
            module.__class__ = nn.Conv2d
    return model


def ours(model: nn.Module) -> nn.Module:
    """The network as `heatbox train` trains it."""
    accelerate(model, verbose=False)
    return model.to(memory_format=torch.channels_last)


class Step:
    """One training step of one network."""

    def __init__(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, bf16: bool) -> None:
        self.model = model.to(images.device).train()
        self.images, self.labels, self.bf16 = images, labels, bf16
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def __call__(self) -> float:
        """Seconds it took."""
        self._wait()
        begin = time.perf_counter()
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.bf16):
            loss = nn.functional.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._wait()
        return time.perf_counter() - begin

    def _wait(self) -> None:
        if self.images.is_cuda:
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", help="timm names instead of the small networks")
    parser.add_argument("--nano", action="store_true", help="the nano networks, 64 pixels")
    parser.add_argument("--full", action="store_true", help="full-size networks at 224 pixels")
    parser.add_argument("--size", type=int, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    names = options.models or (FULL if options.full else NANO if options.nano else SMALL)
    size = options.size or (224 if options.full else 64)
    batch = options.batch or (8 if options.full else 64)
    device = (
        torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(f"training step, batch {batch}, {size} pixels, {options.precision}, {device}")
    print(f"{'network':<18}{'plain images/s':>16}{'ours images/s':>16}{'ratio':>8}")
    for name in names:
        torch.manual_seed(0)
        images = torch.randn(batch, 3, size, size, device=options.device)
        labels = torch.randint(0, 10, (batch,), device=options.device)
        steps = [
            Step(plain(timm.create_model(name, num_classes=10)), images, labels, options.precision == "bf16"),
            Step(
                ours(timm.create_model(name, num_classes=10)),
                images.contiguous(memory_format=torch.channels_last),
                labels,
                options.precision == "bf16",
            ),
        ]
        for step in steps:
            step()
        seconds = [[step() for step in steps] for _ in range(options.turns)]
        baseline, fast = (batch / statistics.median(column) for column in zip(*seconds, strict=True))
        print(f"{name:<18}{baseline:>16.1f}{fast:>16.1f}{fast / baseline:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
