"""The instruments against the straightforward way of computing the same numbers, in the same run.

    python benchmarks/analysis.py                       # all of them, one thread
    python benchmarks/analysis.py --only erf --erf-model replknet_31b --erf-size 384

Baselines: scikit-learn's PCA of one image after another, for the explained variance and for PC1; a loop over
channels for areas, means and channel scaling; the RepLKNet script's way to the receptive field (one image
at a time, every convolution `nn.Conv2d`). Each line has ours, the baseline's time and the ratio; results are
compared before they are timed. Ways take turns, and a time is the minimum over the turns; with one thread it
is processor time.
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import timm
import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn

import heatbox.models  # noqa: F401 - registers its families with timm
from heatbox.analysis.channels import channel_statistics
from heatbox.analysis.complexity import explained_variance
from heatbox.analysis.erf import effective_receptive_field
from heatbox.maps.pc1 import pc1
from heatbox.models.introspect import ClassifierView
from heatbox.ops import DepthwiseConv2d


def take_turns(ours: Callable[[], object], theirs: Callable[[], object], turns: int) -> tuple[float, float]:
    """Minimum seconds of both, after one call unmeasured."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    best = [float("inf"), float("inf")]
    for turn in range(turns + 1):
        for index, call in enumerate((ours, theirs)):
            before = clock()
            call()
            if turn:
                best[index] = min(best[index], clock() - before)
    return best[0], best[1]


def line(name: str, times: tuple[float, float], images: int) -> None:
    ours, theirs = (seconds * 1e3 / images for seconds in times)
    print(f"{name:<52} {ours:>9.2f} ms {theirs:>9.2f} ms   x{theirs / ours:.1f}", flush=True)


def feature_maps(images: int, channels: int, side: int) -> Tensor:
    """Smooth maps with some structure, as a network's are."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(images, channels, side // 2, side // 2, generator=generator)
    fine = nn.functional.interpolate(coarse, size=side, mode="bilinear")
    return (fine + 0.3 * torch.randn(fine.shape, generator=generator)).relu()


def scaled_in_a_loop(features: np.ndarray) -> np.ndarray:
    """(C, P): each channel scaled to [0, 1], one after another; constant channels dropped."""
    rows = []
    for channel in features:
        low, high = channel.min(), channel.max()
        if high > low:
            rows.append(((channel - low) / (high - low)).ravel())
    return np.stack(rows)


def sklearn_explained(features: np.ndarray, solver: str) -> np.ndarray:
    from sklearn.decomposition import PCA

    return np.stack(
        [PCA(svd_solver=solver).fit(scaled_in_a_loop(one)).explained_variance_ratio_ for one in features]
    )


def sklearn_pc1(features: np.ndarray, components: int, solver: str) -> np.ndarray:
    from sklearn.decomposition import PCA

    return np.stack(
        [
            PCA(components, svd_solver=solver, random_state=0).fit(scaled_in_a_loop(one)).components_[0]
            for one in features
        ]
    )


def statistics_in_a_loop(features: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    area, gap = np.zeros(features.shape[:2]), np.zeros(features.shape[:2])
    for i, image in enumerate(features):
        for k, channel in enumerate(image):
            area[i, k] = (channel > threshold).sum() / channel.size
            gap[i, k] = channel.mean()
    return area, gap


def compare_decompositions(turns: int) -> None:
    for channels, side, images in ((1024, 12, 16), (1024, 7, 32), (768, 7, 32)):
        features = feature_maps(images, channels, side)
        shape = f"{channels} x {side} x {side}"
        for solver in ("full", "auto"):
            compare_spectrum(features, solver, shape, turns)
        for solver in ("full", "auto"):
            compare_pc1(features, solver, shape, turns)
        compare_statistics(features, shape, turns)


def compare_spectrum(features: Tensor, solver: str, shape: str, turns: int) -> None:
    array = features.numpy()
    ours, theirs = explained_variance(features).numpy(), sklearn_explained(array, solver)
    assert np.abs(ours[:, : theirs.shape[1]] - theirs).max() < 1e-4
    times = take_turns(lambda: explained_variance(features), lambda: sklearn_explained(array, solver), turns)
    line(f"explained variance {shape}, PCA {solver}", times, len(features))


def compare_pc1(features: Tensor, solver: str, shape: str, turns: int) -> None:
    array = features.numpy()
    ours, theirs = pc1(features).flatten(1).numpy(), sklearn_pc1(array, 30, solver)
    for one, other in zip(ours, theirs, strict=True):
        assert abs(np.corrcoef(one, other)[0, 1]) > 1 - 1e-4
    times = take_turns(lambda: pc1(features), lambda: sklearn_pc1(array, 30, solver), turns)
    line(f"PC1 {shape}, PCA(30) {solver}", times, len(features))


def compare_statistics(features: Tensor, shape: str, turns: int) -> None:
    array = features.numpy()
    ours, (area, gap) = channel_statistics(features, 0.5), statistics_in_a_loop(array, 0.5)
    assert np.allclose(ours.area, area, atol=1e-6)
    assert np.allclose(ours.gap, gap, atol=1e-5)
    times = take_turns(
        lambda: channel_statistics(features, 0.5), lambda: statistics_in_a_loop(array, 0.5), turns
    )
    line(f"area and mean {shape}, loop over channels", times, len(features))


def published_field(model: nn.Module, images: Tensor) -> np.ndarray:
    """The RepLKNet script's way: a forward and a backward pass an image, mean of the maps."""
    total = 0
    for image in images:
        pixels = image[None].clone().requires_grad_()
        features = model.forward_features(pixels)
        middle = features[:, :, features.shape[2] // 2, features.shape[3] // 2].relu().sum((0, 1))
        (gradient,) = torch.autograd.grad(middle, pixels)
        total = total + gradient.relu().sum((0, 1)).numpy()
    return total / len(images)


def merged(model: nn.Module) -> nn.Module:
    """The network with its parallel kernels merged, where it knows how."""
    return reparameterize_model(copy.deepcopy(model)).eval()


def compare_fields(name: str, size: int, images: int, turns: int) -> None:
    torch.manual_seed(0)
    ours = timm.create_model(name, num_classes=1000).eval()
    theirs = timm.create_model(name, num_classes=1000).eval()
    theirs.load_state_dict(ours.state_dict())
    for module in theirs.modules():
        if isinstance(module, DepthwiseConv2d):
            module.__class__ = nn.Conv2d
    batch = torch.randn(images, 3, size, size)
    published = published_field(theirs, batch)
    # What the network is made of is found out once, not for every image, so it is not measured.
    for words, view in (("", ClassifierView(ours)), (", merged", ClassifierView(merged(ours)))):
        assert (
            np.abs(effective_receptive_field(view, batch).contribution - published).max()
            <= 1e-3 * published.max()
        )
        times = take_turns(
            partial(effective_receptive_field, view, batch), partial(published_field, theirs, batch), turns
        )
        line(f"receptive field {name} at {size}{words}", times, images)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("decompositions", "erf"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--erf-model", default="replknet_31b")
    parser.add_argument("--erf-size", type=int, default=224)
    parser.add_argument("--erf-images", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"{platform.processor() or platform.machine()}, {args.threads} thread(s), torch {torch.__version__}"
    )
    print(f"{'an image':<52} {'ours':>12} {'baseline':>12}   ratio")
    if args.only != "erf":
        compare_decompositions(args.turns)
    if args.only != "decompositions":
        compare_fields(args.erf_model, args.erf_size, args.erf_images, args.turns)


if __name__ == "__main__":
    main()
