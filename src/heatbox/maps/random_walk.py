"""Random walk: a map is averaged over positions with correlated features in middle layers."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from heatbox._utils.checks import check_integer, check_number, check_tensor, kind_of
from heatbox.errors import InputError

AFFINITY_BYTES = 64 * 2**20
"""Memory for affinities; it limits the number of images that are processed at a time."""

_FLAT = 1e-6
"""A channel is constant if its deviation is at most this fraction of its mean, which is rounding error."""

_SHORTEST = 1e-12
"""Norm below which the features of a position count as zero; channels then have a deviation of about 1."""


def random_walk(seed: Tensor, features: Sequence[Tensor], steps: int = 2, damping: float = 0.1) -> Tensor:
    """Random walk of a map on the correlations of feature maps (docs/walk.md).

    The affinity of two positions is the correlation of their features, R(f) = max(0, XᵀX). X are the features
    minus each channel's mean, divided by s + damping · mean(s), where s is the channel's standard deviation
    over positions and mean(s) its average over channels; each position is then scaled to unit norm. With
    A = Σ R(f) over all feature maps, a step replaces the value of a position by the average over all
    positions, weighted by its row of A. Values stay within the range of the seed and keep its unit; the map
    of a scaled or shifted seed is the scaled or shifted map.

    Constant channels are ignored. A position where every feature equals its mean has no affinity, not even to
    itself, and keeps its value.

    Args:
        seed: (B, h, w) map to start from, any float dtype, such as a class activation map.
        features: feature maps (B, C_i, h_i, w_i) of middle layers, any float dtype. Middle layers represent
            the outline of the object better than the last ones. Finer maps are averaged to the resolution of
            the seed, coarser ones are interpolated.
        steps: number of steps; 0 returns the seed.
        damping: reduces the weight of channels with a small deviation.

    Returns:
        (B, h, w) float32 on the device of the seed. Computed in float32, a part of the batch at a time: the
        affinities take at most `AFFINITY_BYTES`, whatever the number of images and positions.

    Raises:
        InputError: shapes that do not match, no feature map, values that are not finite, negative steps
            or damping.
        TypeError: not tensors of real numbers, or one tensor instead of a list of feature maps.
    """
    _check(seed, features, steps, damping)
    batch, height, width = seed.shape
    cells = height * width
    many = max(1, AFFINITY_BYTES // (4 * _BUFFERS * cells**2))
    out = seed.detach().float().flatten(1).unsqueeze(2).clone()  # (B, h w, 1)
    if steps == 0 or 0 in seed.shape:
        return out.view(seed.shape)
    with torch.no_grad(), torch.autocast(seed.device.type, enabled=False):
        for first in range(0, batch, many):
            chosen = slice(first, first + many)
            units = [_unit(on_grid(f[chosen].detach().float(), (height, width)), damping) for f in features]
            out[chosen] = _spread(out[chosen], units, steps)
    _check_finite(out, seed, features)
    return out.view(seed.shape)


_BUFFERS = 2  # the sum of affinities and the one being added


def _spread(value: Tensor, units: Sequence[Tensor], steps: int) -> Tensor:
    """Steps of the walk for (B, P, 1) values and unit features (B, C, P).

    The affinity stays in memory between the steps if it fits; that of a very fine grid is computed again in
    each step, some rows at a time.
    """
    cells = value.shape[1]
    rows = min(cells, max(1, AFFINITY_BYTES // (4 * _BUFFERS * cells * value.shape[0])))
    blocks = [slice(start, min(start + rows, cells)) for start in range(0, cells, rows)]
    kept = _affinity(units, blocks[0]) if len(blocks) == 1 else None
    for _ in range(steps):
        parts = []
        for block in blocks:
            alike = _affinity(units, block) if kept is None else kept  # (B, rows, P)
            total = alike.sum(2, keepdim=True)
            mean = alike @ value / total.clamp_min(torch.finfo(total.dtype).tiny)
            parts.append(torch.where(total == 0, value[:, block], mean))
        value = torch.cat(parts, 1)
    return value


def _affinity(units: Sequence[Tensor], rows: slice) -> Tensor:
    """Rows of the affinity, (B, rows, P): positive cosines, summed over the feature maps."""
    return functools.reduce(Tensor.add_, ((unit[:, :, rows].mT @ unit).relu_() for unit in units))


def _unit(features: Tensor, damping: float) -> Tensor:
    """(B, C, h, w) → (B, C, h w): channels centred and divided by their deviation, positions of unit norm."""
    flat = features.flatten(2)
    mean = flat.mean(2, keepdim=True)
    centred = flat - mean
    deviation = centred.square().mean(2, keepdim=True).sqrt()  # several times as fast as std
    varies = deviation > _FLAT * mean.abs()
    deviation = torch.where(varies, deviation, 0)
    scale = deviation + damping * deviation.mean(1, keepdim=True)
    scaled = centred.mul_(torch.where(varies, 1 / scale, 0))
    return scaled.div_(scaled.square().sum(1, keepdim=True).sqrt().clamp_min(_SHORTEST))


def on_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps (B, C, h, w) on another grid: averaged where they are finer, interpolated where coarser."""
    rows, columns = features.shape[2] // grid[0], features.shape[3] // grid[1]
    if features.shape[2:] == (rows * grid[0], columns * grid[1]):  # sums of slices are faster than pooling
        tall = sum(features[:, :, i::rows] for i in range(1, rows)) + features[:, :, ::rows]
        wide = sum(tall[..., i::columns] for i in range(1, columns)) + tall[..., ::columns]
        return wide / (rows * columns)
    if features.shape[2] >= grid[0] and features.shape[3] >= grid[1]:
        return F.adaptive_avg_pool2d(features, grid)
    return F.interpolate(features, size=grid, mode="bilinear", align_corners=False)


def _check(seed: Tensor, features: Sequence[Tensor], steps: int, damping: float) -> None:
    check_tensor(seed, "seed", "(B, h, w)")
    if isinstance(features, Tensor) or not isinstance(features, Sequence):
        raise TypeError(f"features: {kind_of(features)}, expected a list of tensors (B, C, h, w)")
    for index, one in enumerate(features):
        check_tensor(one, f"feature map {index}", "(B, C, h, w)")
    check_integer(steps, "steps", 0)
    check_number(damping, "damping", "a number of 0 or more")
    if seed.ndim != 3:
        raise InputError(f"the seed has shape {tuple(seed.shape)}, expected (B, h, w)")
    if not features:
        raise InputError("there is no feature map to walk on, expected a list of (B, C, h, w)")
    for index, one in enumerate(features):
        if one.ndim != 4 or one.shape[0] != seed.shape[0] or 0 in one.shape[1:]:
            raise InputError(
                f"feature map {index} has shape {tuple(one.shape)}, expected ({seed.shape[0]}, C, h, w) "
                "to match the seed"
            )
    if not 0 <= damping < math.inf:
        raise InputError(f"damping is {damping}, expected a number of 0 or more")


def _check_finite(out: Tensor, seed: Tensor, features: Sequence[Tensor]) -> None:
    """Raise for inputs that are not finite; the output, which is much smaller, then is not either."""
    if bool(torch.isfinite(out).all()):
        return
    named = [("the seed", seed), *((f"feature map {index}", one) for index, one in enumerate(features))]
    for name, values in named:
        finite = torch.isfinite(values).flatten(1).all(1)
        if not bool(finite.all()):
            raise InputError(f"{name} of image {int((~finite).nonzero()[0])} is not finite")
