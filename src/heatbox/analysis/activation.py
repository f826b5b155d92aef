"""Activation area: on how much of the image a channel of the last feature map fires.

CAM Back Again, supplement 12 and 13 (Fig. 5, 12, 18, 19): the smaller the area on which a channel fires, the
larger its class weight tends to be, and that is why class activation maps shrink to the telling part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heatbox.errors import InputError

PUBLISHED_THRESHOLD = 10.0
"""Activation above which the source counts a pixel."""


@dataclass(frozen=True)
class ChannelStatistics:
    """What a channel does in each of B images.

    Attributes:
        area: (B, C) share of pixels above the threshold, in [0, 1].
        gap: (B, C) spatial mean, in units of the feature map.
    """

    area: Tensor
    gap: Tensor


def activation_area(features: Tensor, threshold: float | Tensor = PUBLISHED_THRESHOLD) -> Tensor:
    """Share of a channel's pixels strictly above a threshold.

    Args:
        features: (B, C, h, w).
        threshold: in units of the feature map. The source takes 10 for all its networks; networks whose
            features are of another scale need their own, see `percentile_threshold`.

    Returns:
        (B, C) float32 in [0, 1].

    Raises:
        InputError: not (B, C, h, w).
    """
    _check(features)
    return (features > threshold).flatten(2).float().mean(2)


def channel_statistics(features: Tensor, threshold: float = PUBLISHED_THRESHOLD) -> ChannelStatistics:
    """Activation area and spatial mean of every channel of every image; see `activation_area`."""
    return ChannelStatistics(activation_area(features, threshold), features.float().mean((2, 3)))


def percentile_threshold(features: Tensor, percentile: float) -> float:
    """The activation below which `percentile` percent of all values of some images lie.

    A threshold that means the same for networks whose features differ in scale: each then counts the same
    share of its activations.

    Args:
        features: (B, C, h, w) of images drawn from the data at hand.
        percentile: in [0, 100].

    Raises:
        InputError: not (B, C, h, w), or a percentile out of range.
    """
    _check(features)
    if not 0 <= percentile <= 100:
        raise InputError(f"the percentile is {percentile}, expected a number from 0 to 100")
    # NumPy's: torch.quantile refuses more than 2^24 values.
    return float(np.percentile(features.detach().float().cpu().numpy(), percentile))


def activated_area(maps: Tensor | np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of each map that lies above a share of its own range.

    Args:
        maps: (N, h, w), any range; each is scaled to [0, 1] by its extremes first. A constant map counts as
            zeros.
        thresholds: (T,) in [0, 1).

    Returns:
        (N, T) float64: the area that binarising the map at each threshold would keep.

    Raises:
        InputError: not (N, h, w).
    """
    values = torch.as_tensor(maps).detach().double().cpu()
    if values.ndim != 3 or 0 in values.shape:
        raise InputError(f"maps have shape {tuple(values.shape)}, expected (N, h, w), none of them 0")
    flat = values.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    scaled = torch.where(high > low, (flat - low) / torch.where(high > low, high - low, 1), 0)
    ordered = scaled.sort(1).values
    wanted = torch.as_tensor(thresholds, dtype=torch.float64).expand(len(flat), -1).contiguous()
    below = torch.searchsorted(ordered, wanted, right=True)
    return (1 - below / flat.shape[1]).numpy()


def _check(features: Tensor) -> None:
    if features.ndim != 4 or 0 in features.shape:
        raise InputError(
            f"features have shape {tuple(features.shape)}, expected (B, C, h, w), none of them 0"
        )
