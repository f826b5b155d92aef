"""The walk: a class activation map spread over what looks alike in the middle of the network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from heatbox._utils.checks import check_integer, check_number, check_tensor, kind_of
from heatbox.errors import InputError

AFFINITY_BYTES = 64 * 2**20
"""Memory for the affinities of the images that are worked on at a time."""

_FLAT = 1e-6
"""A channel is constant if its deviation is no more than this share of its mean: rounding, not signal."""

_SHORTEST = 1e-12
"""Length below which a position's features count as zero; channels have a deviation of about 1 by then."""


def random_walk(seed: Tensor, features: Sequence[Tensor], steps: int = 2, damping: float = 0.1) -> Tensor:
    """Random walk of a map on the correlations of feature maps (docs/walk.md).

    Two positions are alike as far as their features correlate, R(f) = max(0, XᵀX): X are the features with
    each channel's mean taken away and divided by s + damping · mean(s), s its standard deviation over
    positions and mean(s) the average over channels, each position then scaled to unit length. With
    A = Σ R(f) over all feature maps, a step replaces the value of a position by the average over all
    positions, weighted by its row of A. Values stay within the extremes of the seed and keep its unit; a
    seed scaled or shifted gives the map scaled or shifted.

    Constant channels have no part in it. A position that is like no other, not even itself, because no
    feature differs from its mean there, keeps its value.

    Args:
        seed: (B, h, w) map to spread, any float dtype, such as a class activation map.
        features: feature maps (B, C_i, h_i, w_i), any float dtype, of middle layers: the last ones know the
            class but not the object's outline. Finer maps are averaged over the seed's grid, coarser ones
            interpolated.
        steps: number of steps; 0 returns the seed.
        damping: keeps channels of little deviation from counting as much as others.

    Returns:
        (B, h, w) float32 on the device of the seed. Computed in float32, some images at a time: the
        affinities take no more than `AFFINITY_BYTES`, however many images and positions there are.

    Raises:
        InputError: shapes that do not match, no feature map, values that are not finite, negative steps
            or damping.
        TypeError: no tensors of real numbers, or a single one for the list of feature maps.
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
            units = [_unit(_on_grid(f[chosen].detach().float(), (height, width)), damping) for f in features]
            out[chosen] = _spread(out[chosen], units, steps)
    _check_finite(out, seed, features)
    return out.view(seed.shape)


_BUFFERS = 2  # the sum of affinities and the one being added


def _spread(value: Tensor, units: Sequence[Tensor], steps: int) -> Tensor:
    """Steps of the walk for (B, P, 1) values and unit features (B, C, P).

    The affinity is symmetric and stays in memory between the steps if it fits as a whole; that of a very
    fine grid is made anew in each step, some rows at a time.
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
    total: Tensor | None = None
    for unit in units:
        alike = (unit[:, :, rows].mT @ unit).relu_()
        total = alike if total is None else total.add_(alike)
    assert total is not None
    return total


def _unit(features: Tensor, damping: float) -> Tensor:
    """(B, C, h, w) → (B, C, h w): channels centred and divided by their deviation, positions of length 1."""
    flat = features.flatten(2)
    mean = flat.mean(2, keepdim=True)
    centred = flat - mean
    deviation = centred.square().mean(2, keepdim=True).sqrt()  # several times as fast as std
    varies = deviation > _FLAT * mean.abs()
    deviation = torch.where(varies, deviation, 0)
    scale = deviation + damping * deviation.mean(1, keepdim=True)
    scaled = centred.mul_(torch.where(varies, 1 / scale, 0))
    return scaled.div_(scaled.square().sum(1, keepdim=True).sqrt().clamp_min(_SHORTEST))


def _on_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Feature maps brought to the seed's grid."""
    rows, columns = features.shape[2] // grid[0], features.shape[3] // grid[1]
    if features.shape[2:] == (rows * grid[0], columns * grid[1]):  # sums of slices, far faster than pooling
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
    """Name what is not finite; it makes the whole map so, and maps are a hundred times smaller to look at."""
    if bool(torch.isfinite(out).all()):
        return
    named = [("the seed", seed), *((f"feature map {index}", one) for index, one in enumerate(features))]
    for name, values in named:
        finite = torch.isfinite(values).flatten(1).all(1)
        if not bool(finite.all()):
            raise InputError(f"{name} of image {int((~finite).nonzero()[0])} is not finite")
