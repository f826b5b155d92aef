"""Copies between layouts keep the values of the source, whichever copy is chosen."""

import pytest
import torch

from heatbox.ops.depthwise_cpu import CHANNELS_LAST, CONTIGUOUS, copy, copy_by_tiles, relaid


def source(kind, channels, height, width, dtype):
    whole = torch.randn(4, channels + 16, height, width).to(dtype)
    if kind.startswith("channels_last"):
        whole = whole.contiguous(memory_format=CHANNELS_LAST)
    if kind.endswith("part"):
        return whole[1:3, 3 : 3 + channels]
    return whole[:, :channels].contiguous(memory_format=CHANNELS_LAST if "last" in kind else CONTIGUOUS)


@pytest.mark.parametrize("kind", ["nchw", "nchw part", "channels_last", "channels_last part"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 5, 4), (7, 1, 1), (128, 5, 7), (112, 4, 4), (64, 27, 23), (32, 32, 32)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_stay(kind, shape, dtype):
    x = source(kind, *shape, dtype)
    for layout in (CHANNELS_LAST, CONTIGUOUS):
        out = relaid(x, layout, dtype)
        assert out.is_contiguous(memory_format=layout)
        assert torch.equal(out, x)
        target = torch.zeros(x.shape[0] + 1, shape[0] + 9, *shape[1:], dtype=dtype).contiguous(
            memory_format=layout
        )
        copy(target[1:, 2 : 2 + shape[0]], x)
        assert torch.equal(target[1:, 2 : 2 + shape[0]], x)
        assert target.count_nonzero() == x.count_nonzero()
    assert relaid(x, CHANNELS_LAST, torch.float32).dtype == torch.float32


def test_the_cases_above_go_both_ways():
    """Copies go by tiles for many pixels, or strides that are a multiple of a power of two."""
    target = torch.empty(1, 128, 5, 7)
    assert copy_by_tiles(target, target.contiguous(memory_format=CHANNELS_LAST))
    assert copy_by_tiles(
        *(torch.empty(1, 32, 32, 32).to(memory_format=f) for f in (CHANNELS_LAST, CONTIGUOUS))
    )
    target = torch.empty(1, 112, 4, 4)
    assert not copy_by_tiles(target, target.contiguous(memory_format=CHANNELS_LAST))
