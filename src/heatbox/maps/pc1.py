"""First principal component of a feature map, as a heatmap."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from heatbox._utils.checks import check_choice, check_tensor
from heatbox.errors import InputError

ChannelNorm = Literal["minmax"] | None


def pc1(
    features: Tensor,
    variant: Literal["paper", "released"] = "paper",
    channel_norm: ChannelNorm = "minmax",
) -> Tensor:
    """First principal component map (CAM Back Again, supplement 16 and 17).

    Channels are the samples and pixels the variables of a PCA; its first axis is the map. The sign of an axis
    is arbitrary, so the border of the map, where objects rarely are, determines which side is the object.

    ``variant="paper"``: every channel is first scaled to [0, 1] (see `channel_norm`); constant channels are
    ignored. The side of the axis with less than half of the border pixels is the object. The result is
    deterministic and independent of the sign that a PCA solver returns. The map is scaled to [0, 1]; it is
    all zeros if there is nothing to decompose (fewer than two channels that vary, or identical channels).

    ``variant="released"``: the map that the paper's released code computes, from features that are
    *already multiplied by the class weights*. It differs from the paper's text: its border test counts the
    last two rows and columns but divides as if it counted one, it depends on the sign of the axis, and its
    map exceeds [0, 1]. Use it only to reproduce old numbers.

    Args:
        features: (B, C, H, W), any float dtype.
        variant: "paper" or "released".
        channel_norm: "minmax" scales each channel to [0, 1] before the PCA; None uses the raw values.
            The released variant supports only "minmax".

    Returns:
        (B, H, W) float32 on the device of the features.

    Raises:
        InputError: not four dimensions, an empty axis, values that are not finite; for the released
            variant a constant channel, or a map with nothing to decompose.
        TypeError: not a tensor of real numbers.

    Examples:
        >>> features = torch.zeros(1, 2, 5, 5)
        >>> features[:, 0, 1:3, 1:3] = 1.0  # one channel on the object
        >>> features[:, 1] = 1 - features[:, 0]  # and one on everything else
        >>> pc1(features)[0].int().tolist()
        [[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    """
    _check(features, variant, channel_norm)
    channels = features.detach().flatten(2)  # (B, C, P)
    low, high = channels.amin(2, keepdim=True), channels.amax(2, keepdim=True)
    _check_finite(low, high)
    varies = high > low  # (B, C, 1)
    if variant == "released" and not bool(varies.all()):
        image, channel = (~varies).nonzero()[0, :2].tolist()
        raise InputError(f"the released PC1 divides by zero: channel {channel} of image {image} is constant")
    dtype = _dtype(features.device)
    low, high, keep = low.to(dtype), high.to(dtype), varies.to(dtype)
    if channel_norm == "minmax":
        samples = channels.to(dtype, copy=True).sub_(low)
        factor = keep / torch.where(varies, high - low, 1)
        scale = keep.amax((1, 2))
    else:
        samples, factor = channels.to(dtype, copy=True), keep
        scale = torch.maximum(low.abs(), high.abs()).amax((1, 2))
    axis = _principal_axis(samples, factor, keep, scale)
    shape = features.shape[0], *features.shape[2:]
    oriented = _orient_by_border if variant == "paper" else _orient_as_released
    return oriented(axis.view(shape)).float()


def _check(features: Tensor, variant: str, channel_norm: str | None) -> None:
    check_tensor(features, "features", "(B, C, H, W)")
    if features.ndim != 4 or 0 in features.shape[1:]:
        raise InputError(
            f"features have shape {tuple(features.shape)}, expected (B, C, H, W), none of them 0"
        )
    check_choice(variant, "variant", ("paper", "released"))
    check_choice(channel_norm, "channel_norm", ("minmax", None))
    if variant == "released" and channel_norm is None:
        raise InputError("the released PC1 always scales its channels, expected channel_norm='minmax'")


def _dtype(device: torch.device) -> torch.dtype:
    """Gram matrices square the condition number, so they are computed in float64, which MPS does not have."""
    return torch.float32 if device.type == "mps" else torch.float64


def _check_finite(low: Tensor, high: Tensor) -> None:
    """Of the least and greatest value of each channel, (B, C, 1); both are NaN where one of its values is."""
    finite = low.isfinite() & high.isfinite()
    if not bool(finite.all()):
        image, channel = (~finite).nonzero()[0, :2].tolist()
        raise InputError(f"features of image {image} are not finite (first in channel {channel})")


def _principal_axis(samples: Tensor, factor: Tensor, keep: Tensor, scale: Tensor) -> Tensor:
    """First principal axis (B, P) of the C samples (B, C, P) where `keep` (B, C, 1) is 1, of unit length.

    Samples are multiplied by `factor` (B, C, 1), which is 0 where `keep` is.
    Zeros if nothing varies beyond rounding at the magnitude `scale` (B,). The sign is such that the entry of
    largest magnitude is positive. The samples are overwritten.
    """
    mean = (factor.mT @ samples) / keep.sum(1, keepdim=True).clamp_min(1)
    centred = torch.addcmul(-mean, samples, factor, out=samples).mul_(keep)
    if samples.shape[2] <= samples.shape[1]:
        axis = torch.linalg.eigh(centred.mT @ centred).eigenvectors[..., -1]  # P x P
    else:  # the same axis from the smaller C x C matrix
        score = torch.linalg.eigh(centred @ centred.mT).eigenvectors[..., -1]
        axis = (centred.mT @ score[..., None]).squeeze(-1)
        axis = axis / axis.norm(dim=1, keepdim=True).clamp_min(torch.finfo(axis.dtype).tiny)
    noise = scale * samples.shape[1] * torch.finfo(samples.dtype).eps
    varies = torch.linalg.vector_norm(centred, torch.inf, (1, 2)) > noise
    axis = torch.where(varies[:, None], axis, 0)
    largest = axis.gather(1, axis.abs().argmax(1, keepdim=True))
    return torch.where(largest < 0, -axis, axis)


def _orient_by_border(axis: Tensor) -> Tensor:
    """(B, H, W) axis of either sign → the map in [0, 1] whose high side avoids the border.

    The paper inverts if more than half of the border is above the mean. The number of pixels above *minus*
    the number below gives the same decision and is antisymmetric, so that pixels at the mean or an exact half
    do not make the result depend on the sign of the input. Ties are resolved by the mean border value, and
    then by the pixel farthest from the mean, which is assigned to the object.
    """
    centred = axis - axis.mean((1, 2), keepdim=True)
    tolerance = 1e-9 * centred.abs().amax((1, 2), keepdim=True)
    edge = torch.ones(axis.shape[1:], dtype=torch.bool, device=axis.device)
    edge[1:-1, 1:-1] = False  # the 2 (H + W) - 4 outermost pixels remain
    balance = torch.where(centred.abs() <= tolerance, 0, centred.sign())[:, edge].sum(1)
    border = centred[:, edge].mean(1)
    border = torch.where(border.abs() <= tolerance.flatten(), 0, border)
    flat_map = centred.flatten(1)
    far = flat_map.abs()
    # The first of equally far pixels, so that rounding does not choose.
    first = (far >= far.amax(1, keepdim=True) - tolerance.flatten(1)).int().argmax(1, keepdim=True)
    farthest = flat_map.gather(1, first).squeeze(1)
    invert = torch.where(balance != 0, balance, torch.where(border != 0, border, -farthest)) > 0
    oriented = torch.where(invert[:, None, None], -axis, axis)
    low, high = oriented.amin((1, 2), keepdim=True), oriented.amax((1, 2), keepdim=True)
    # An axis of equal entries has no low and high side: rounding errors must not be scaled to [0, 1].
    even = high - low <= 1e-12 * oriented.abs().amax((1, 2), keepdim=True)
    return torch.where(even, 0, (oriented - low) / torch.where(even, 1, high - low))


def _orient_as_released(axis: Tensor) -> Tensor:
    """The released code's scaling and border test (docs/protocols.md describes the difference)."""
    peak = axis.amax((1, 2), keepdim=True)
    if bool((peak <= 0).any()):
        raise InputError("the released PC1 divides by zero: the channels of an image are identical")
    scaled = axis / peak
    bright = scaled > scaled.mean((1, 2), keepdim=True)
    counted = torch.ones(axis.shape[1:], dtype=torch.bool, device=axis.device)
    counted[1:-2, 1:-2] = False  # one row and column at the top and left, two at the bottom and right
    share = bright[:, counted].sum(1) / (2 * sum(axis.shape[1:]) - 4)
    return torch.where((share > 0.5)[:, None, None], 1 - scaled, scaled)
