"""Faithfulness of heatmaps: how the score of a class changes when pixels are removed by the order of a map.

These scores need no boxes. They judge a map by the network alone, on images that no camera takes: a network
may react to the removal itself (Hooker et al., "A Benchmark for Interpretability Methods in Deep Neural
Networks", NeurIPS 2019). ROAD reduces this; no score excludes it (docs/faithfulness.md).

Every function takes `score_images`, a function from (N, C, H, W) images to the (N, K) scores of their
classes, probabilities for the published definitions. It is called with at most `batch_size` images, and on a
CPU with at most `CPU_IMAGES`, or one per thread: there, larger batches leave the caches and are slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from heatbox._utils.checks import check_choice, check_integer, check_tensor
from heatbox.errors import InputError
from heatbox.metrics.imputation import impute_linear

ScoreImages = Callable[[Tensor], Tensor]
Fill = Literal["blur", "mean", "zero"]
FILLS: tuple[Fill, ...] = ("blur", "mean", "zero")
PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
NOISE = 0.01
"""Standard deviation of the noise that ROAD adds to imputed pixels, in units of the preprocessed image."""

CPU_IMAGES = 4
"""Images per call of the network on a CPU."""

BLUR_SIGMA, BLUR_SIDE = 5.0, 11
"""Gaussian blur of the published insertion score, for images of 224 pixels; it grows with the side."""


@dataclass(frozen=True)
class Road:
    """ROAD scores of N images; all are scores of the class after removal minus before it.

    Attributes:
        most: (N,) most relevant pixels removed first, averaged over the percentiles; lower is better.
        least: (N,) least relevant pixels removed first; higher is better.
    """

    most: Tensor
    least: Tensor

    @property
    def combined(self) -> Tensor:
        """(N,) half of the difference, higher is better."""
        return (self.least - self.most) / 2


def removal_curves(
    score_images: ScoreImages,
    images: Tensor,
    heatmaps: Tensor,
    targets: Tensor,
    mode: Literal["deletion", "insertion"] = "deletion",
    steps: int = 20,
    fill: Fill = "zero",
    batch_size: int = 32,
    original: Tensor | None = None,
    removed: Tensor | None = None,
) -> Tensor:
    """Score of the class while pixels are removed from an image, or inserted into a removed one.

    Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, section
    4.2. Pixels are ordered by the map, highest first; among equal values in raster order. After step k of S,
    the first round(k / S · H W) of them are removed (deletion) or inserted. The paper removes to zero and
    inserts into a blurred image.

    Args:
        score_images: images → scores of all classes.
        images: (N, C, H, W) preprocessed images, on the device of the network.
        heatmaps: (N, H, W) any range; only the order of their values counts.
        targets: (N,) class of each image.
        mode: "deletion" or "insertion".
        steps: number S of steps.
        fill: what removed pixels become: "zero" (the mean colour of the training set, for usual
            preprocessing), "mean" (of the image, per channel), or "blur".
        batch_size: images per call of the network.
        original: (N,) scores of the images, if they are known; otherwise they are computed.
        removed: (N,) scores of the images with all pixels removed, if they are known.

    Returns:
        (N, S + 1) float32 scores of the class, on the CPU: after 0 to S steps.

    Raises:
        InputError: shapes that do not match, maps that are not finite, or another mode or fill.
        TypeError: not tensors of numbers.
    """
    check_choice(mode, "mode", ("deletion", "insertion"))
    check_integer(steps, "steps")
    _check(images, heatmaps, targets, batch_size)
    ranks = _ranks(heatmaps.to(images.device))
    without = filled(images, fill)
    start, end = (images, without) if mode == "deletion" else (without, images)
    known = (original, removed) if mode == "deletion" else (removed, original)
    cells = ranks[0].numel()
    inner = range(known[0] is not None, steps + (known[1] is None))

    def changed() -> Iterator[Tensor]:
        for index in range(len(images)):
            for k in inner:
                done = ranks[index] < round(k / steps * cells)
                yield torch.where(done, end[index], start[index])

    found = _scores(score_images, changed(), targets.repeat_interleave(len(inner)), batch_size)
    curves = [found.view(len(images), len(inner))]
    if known[0] is not None:
        curves.insert(0, known[0][:, None])
    if known[1] is not None:
        curves.append(known[1][:, None])
    return torch.cat(curves, 1)


def area_under_curve(curves: Tensor) -> Tensor:
    """(N, S + 1) curves of `removal_curves` → (N,) area under each by the trapezoidal rule, over [0, 1]."""
    return torch.trapezoid(curves, dx=1 / (curves.shape[1] - 1), dim=1)


def masked_scores(
    score_images: ScoreImages,
    images: Tensor,
    heatmaps: Tensor,
    targets: Tensor,
    fill: Fill = "zero",
    batch_size: int = 32,
    original: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores of the class for the images, and for the images multiplied by their map.

    Chattopadhay et al., "Grad-CAM++", WACV 2018, section 4.1: the explanation map E = L ∘ I, with the map
    scaled to [0, 1]. Where the map is below 1, the rest is `fill`: E = L ∘ I + (1 - L) ∘ fill.

    Args:
        score_images, images, targets, fill, batch_size: as in `removal_curves`.
        heatmaps: (N, H, W) in [0, 1].
        original: (N,) scores of the images, if they are known; otherwise they are computed.

    Returns:
        (N,) scores Y of the images, and (N,) scores O of the explanation maps; float32 on the CPU.

    Raises:
        InputError: heatmaps outside [0, 1], or as `removal_curves`.
    """
    _check(images, heatmaps, targets, batch_size)
    if heatmaps.numel() and not (float(heatmaps.min()) >= 0 and float(heatmaps.max()) <= 1):
        raise InputError("heatmaps have values outside [0, 1], expected maps scaled to it")
    weights = heatmaps.to(images.device, images.dtype)[:, None]
    explained = weights * images + (1 - weights) * filled(images, fill)
    if original is None:
        original = _scores(score_images, iter(images), targets, batch_size)
    return original, _scores(score_images, iter(explained), targets, batch_size)


def average_drop(original: Tensor, masked: Tensor) -> Tensor:
    """(N,) max(0, Y - O) / Y of each image; lower is better (Grad-CAM++, section 4.1)."""
    return ((original - masked) / original.clamp_min(torch.finfo(original.dtype).tiny)).clamp_min(0)


def average_increase(original: Tensor, masked: Tensor) -> Tensor:
    """(N,) 1 where O > Y, else 0 (Grad-CAM++, "increase in confidence"). Higher is better."""
    return (masked > original).float()


def average_gain(original: Tensor, masked: Tensor) -> Tensor:
    """(N,) max(0, O - Y) / (1 - Y) of each image, for scores in [0, 1]. Higher is better.

    Zhang et al., "Opti-CAM: Optimizing saliency maps for interpretability", CVIU 2024, section 4.1. An image
    whose score is 1 cannot gain: 0.
    """
    possible = 1 - original
    return torch.where(possible > 0, (masked - original).clamp_min(0) / possible.clamp_min(1e-12), 0)


def road(
    score_images: ScoreImages,
    images: Tensor,
    heatmaps: Tensor,
    targets: Tensor,
    percentiles: Sequence[float] = PERCENTILES,
    noise: float = NOISE,
    seed: int | Sequence[int] = 0,
    batch_size: int = 32,
    original: Tensor | None = None,
) -> Road:
    """ROAD: removed pixels are imputed from those that remain, so that the removal itself tells less.

    Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022. With
    percentile p, pixels of at least the p-th percentile of the map are removed (most relevant first), or
    those of at least the p-th percentile of the negated map (least relevant first); linear interpolation
    between values. Imputation: `impute_linear`, plus Gaussian noise.

    Args:
        score_images, images, heatmaps, targets, batch_size: as in `removal_curves`.
        percentiles: in (0, 100); the mean over them is returned.
        noise: standard deviation of the noise of imputed pixels.
        seed: of the noise: one for each image, or a number to which the image's position is added.
        original: (N,) scores of the images, if they are known; otherwise they are computed.

    Raises:
        InputError: no percentile, or one outside (0, 100), or as `removal_curves`.
    """
    _check(images, heatmaps, targets, batch_size)
    if not percentiles or not all(0 < one < 100 for one in percentiles):
        raise InputError(f"percentiles are {list(percentiles)}, expected some between 0 and 100")
    levels = torch.tensor([one / 100 for one in percentiles], dtype=torch.float64)
    seeds = [seed + index for index in range(len(images))] if isinstance(seed, int) else seed
    if len(seeds) != len(images):
        raise InputError(f"there are {len(seeds)} seeds for {len(images)} images, expected one for each")
    pixels, maps = images.detach().float().cpu(), heatmaps.detach().double().cpu().flatten(1)
    shape = (len(percentiles), *heatmaps.shape[1:])

    def changed() -> Iterator[Tensor]:
        for image, values, one_seed in zip(pixels, maps, seeds, strict=True):
            orders = (values, -values)
            removed = torch.cat([(one >= one.quantile(levels)[:, None]).view(shape) for one in orders])
            several = image.expand(len(removed), -1, -1, -1)
            imputed = torch.from_numpy(impute_linear(several.numpy(), removed.numpy()))
            generator = torch.Generator().manual_seed(one_seed)
            drawn = torch.randn(imputed.shape, generator=generator) * noise
            yield from (imputed + drawn * removed[:, None]).to(images)

    if original is None:
        original = _scores(score_images, iter(images), targets, batch_size)
    repeated = targets.repeat_interleave(2 * len(percentiles))
    found = _scores(score_images, changed(), repeated, batch_size)
    change = found.view(len(images), 2, len(percentiles)).mean(2) - original[:, None]
    return Road(change[:, 0], change[:, 1])


def filled(images: Tensor, fill: Fill) -> Tensor:
    """(N, C, H, W) images with all pixels removed: "zero", "mean" per image and channel, or "blur".

    Raises:
        InputError: another fill.
    """
    check_choice(fill, "fill", FILLS)
    if fill == "zero":
        return torch.zeros_like(images)
    if fill == "mean":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    scale = max(images.shape[2:]) / 224
    half = min(round(BLUR_SIDE * scale) // 2, *(side - 1 for side in images.shape[2:]))
    at = torch.arange(-half, half + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(at**2) / (2 * (BLUR_SIGMA * scale) ** 2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    channels = images.shape[1]
    padded = F.pad(images, (half,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[:, :, None], groups=channels)
    return F.conv2d(rows, kernel[..., None], groups=channels)


def _ranks(heatmaps: Tensor) -> Tensor:
    """(N, H, W) position of each pixel in the order, highest first; equal values in raster order."""
    flat = heatmaps.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(flat.shape[1], device=flat.device).expand_as(order))
    return ranks.view(heatmaps.shape)


def removed_scores(
    score_images: ScoreImages, images: Tensor, targets: Tensor, fill: Fill, batch_size: int = 32
) -> Tensor:
    """(N,) float32 scores of the class for images with all pixels removed, on the CPU; see
    `removal_curves`."""
    return _scores(score_images, iter(filled(images, fill)), targets, batch_size)


@torch.no_grad()
def _scores(score_images: ScoreImages, images: Iterator[Tensor], targets: Tensor, batch_size: int) -> Tensor:
    """(N,) float32 score of each image's class, of images that are made as they are needed."""
    found: list[Tensor] = []
    batch: list[Tensor] = []
    wanted = targets.tolist()

    def flush() -> None:
        if batch:
            scores = score_images(torch.stack(batch))
            first = len(found)
            found.extend(scores[range(len(batch)), wanted[first : first + len(batch)]].float().cpu())
            batch.clear()

    for image in images:
        batch.append(image)
        most = min(batch_size, max(CPU_IMAGES, torch.get_num_threads())) if image.is_cpu else batch_size
        if len(batch) == most:
            flush()
    flush()
    return torch.stack(found) if found else torch.zeros(0)


def _check(images: Tensor, heatmaps: Tensor, targets: Tensor, batch_size: int) -> None:
    check_integer(batch_size, "batch size")
    check_tensor(images, "images", "(N, C, H, W)")
    check_tensor(heatmaps, "heatmaps", "(N, H, W)")
    if images.ndim != 4 or heatmaps.shape != (len(images), *images.shape[2:]):
        raise InputError(
            f"images have shape {tuple(images.shape)} and heatmaps {tuple(heatmaps.shape)}, expected "
            "(N, C, H, W) and (N, H, W)"
        )
    if targets.shape != (len(images),):
        raise InputError(f"targets have shape {tuple(targets.shape)}, expected ({len(images)},)")
    finite = torch.isfinite(heatmaps).flatten(1).all(1)
    if not bool(finite.all()):
        raise InputError(f"the heatmap of image {int((~finite).nonzero()[0])} is not finite")
