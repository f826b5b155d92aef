"""Copies between NCHW and channels_last that stay within the first-level cache.

PyTorch's general copy runs along the memory of its target. From channels_last to NCHW that means reading
one number in each of H W cache lines, channel after channel: quick while those lines stay in the first-level
cache, two to six times slower where they are too many or where the distance between pixels puts them into few
of its sets. PyTorch has a second copy, of matrices into their transposes, which goes by tiles; it is taken
where the general one would fall out of the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHANNELS_LAST = torch.channels_last
CONTIGUOUS = torch.contiguous_format

# Cache lines that fit into the first-level cache of 32 kB.
LINES = 512
# Distances that are multiples of this leave at most 8 of its 64 sets in use.
CLASHING = 512
# Tiles are 60 x 60: fewer channels than this do not fill them.
FEWEST_CHANNELS = 48


def is_channels_last(x: Tensor) -> bool:
    """Whether channels vary fastest in memory; False where both layouts are the same."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=CHANNELS_LAST)


def copy_by_tiles(target: Tensor, source: Tensor) -> bool:
    """Whether the transposing copy is the better one for (N, C, H, W) tensors of different layouts."""
    if target.dtype != source.dtype:
        return False
    channels, pixels = source.shape[1], source.shape[2] * source.shape[3]
    if source.stride(1) == 1:  # channels_last to NCHW
        return (pixels >= LINES and channels >= FEWEST_CHANNELS) or (
            source.stride(3) * source.itemsize % CLASHING == 0 and pixels >= 16
        )
    # NCHW to channels_last reads one number in each of C planes
    return channels >= 32 and pixels * source.itemsize % (8 * CLASHING) == 0


def copy(target: Tensor, source: Tensor) -> None:
    """Copy (N, C, H, W) values; each sample of the tensors must be dense in one of the two layouts."""
    if not copy_by_tiles(target, source):
        target.copy_(source)
        return
    for to, of in zip(target, source, strict=True):
        if of.stride(0) == 1:
            to.view(to.shape[0], -1).copy_(of.permute(1, 2, 0).flatten(0, 1).contiguous().t())
        else:
            to.permute(1, 2, 0).view(-1, to.shape[0]).copy_(of.flatten(1).t())


def relaid(x: Tensor, layout: torch.memory_format, dtype: torch.dtype) -> Tensor:
    """(N, C, H, W) values in this layout and type; `x` itself if it is."""
    if x.dtype == dtype and x.is_contiguous(memory_format=layout):
        return x
    out = torch.empty(x.shape, dtype=dtype, memory_format=layout)
    copy(out, x)
    return out
