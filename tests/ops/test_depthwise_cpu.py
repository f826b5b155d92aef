"""Plans by instruction set, direct code, and copies between layouts."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from heatbox.ops import depthwise_direct as direct
from heatbox.ops.depthwise_cpu import (
    CHANNELS_LAST,
    CONTIGUOUS,
    INSTRUCTION_SET,
    PORTION,
    copy,
    copy_by_tiles,
    forward_plan,
    portions,
    relaid,
    weight_grad_plan,
)


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


# Shapes (C, side, kh, kw) of the four stages of RepLKNet-31B, SLaK-T and ConvNeXt-B at 224 and 384.
SHAPES = [
    (channels, side >> stage, kh, kw)
    for side in (56, 96)
    for kernels in (
        [((31, 31), (5, 5)), ((29, 29), (5, 5)), ((27, 27), (5, 5)), ((13, 13), (5, 5))],
        [((51, 5), (5, 51)), ((49, 5), (5, 49)), ((47, 5), (5, 47)), ((13, 5), (5, 13))],
        [((7, 7),)] * 4,
    )
    for stage, (channels, of_stage) in enumerate(zip((128, 256, 512, 1024), kernels, strict=True))
    for kh, kw in of_stage
]
# Columns of the widest convolution kernel that oneDNN's kernels for NCHW and channels_last exist for.
WIDEST = {"avx512": (13, 99), "avx2": (9, 99), "sse41": (7, 7)}


def test_no_plan_runs_into_the_slow_path_of_onednn():
    """Beyond these columns oneDNN takes its general path, 10 to 30 times slower."""
    for instructions, (nchw, channels_last) in WIDEST.items():
        for channels, side, kh, kw in SHAPES:
            for layout in (False, True):
                arguments = ((1, channels, side, side), (kh, kw), torch.float32, layout, instructions, ())
                plan = forward_plan(*arguments)
                if plan.way != "direct":
                    assert kw <= (channels_last if plan.layout == CHANNELS_LAST else nchw), arguments
                plan = weight_grad_plan(*arguments)
                if plan.way != "direct":  # a convolution whose result is the kernel
                    assert kw <= (channels_last if plan.layout == CHANNELS_LAST else nchw), arguments


@pytest.mark.parametrize(
    ("instructions", "channels_last", "shape", "kernel", "way"),
    [
        ("avx512", True, (1, 128, 56, 56), (31, 31), "native"),
        ("avx512", False, (1, 128, 56, 56), (31, 31), "direct"),
        ("avx512", False, (1, 1024, 7, 7), (13, 13), "native"),
        ("avx2", True, (1, 128, 56, 56), (31, 31), "direct"),
        ("avx2", False, (1, 124, 56, 56), (5, 51), "direct"),
        ("avx2", True, (1, 1024, 7, 7), (13, 13), "native"),
        ("avx512", True, (1, 1024, 12, 12), (13, 13), "direct"),
        ("avx2", False, (1, 1024, 7, 7), (13, 13), "portions"),
        ("avx2", False, (1, 512, 14, 14), (7, 7), "native"),
        ("avx2", False, (8, 512, 96, 96), (7, 7), "portions"),
        ("sse41", True, (1, 1024, 7, 7), (13, 13), "direct"),
        ("other", False, (1, 128, 56, 56), (31, 31), "native"),
        ("other", True, (1, 128, 56, 56), (31, 31), "native"),
    ],
)
def test_ways_by_instruction_set(instructions, channels_last, shape, kernel, way):
    arguments = (shape, kernel, torch.float32, channels_last, instructions, ())
    assert forward_plan(*arguments).way == way
    assert (weight_grad_plan(*arguments).way == "native") == (instructions == "other")


def test_half_precision_stays_with_onednn_where_it_has_the_type():
    arguments = ((1, 128, 56, 56), (31, 31), torch.bfloat16, False)
    assert forward_plan(*arguments, "avx512", ()) == ("portions", CHANNELS_LAST, torch.bfloat16)
    assert forward_plan(*arguments, "avx2", (torch.bfloat16,)) == ("direct", CONTIGUOUS, torch.float32)


CAPPED = """
import sys
import torch
from torch.nn.grad import conv2d_weight
from heatbox.ops import depthwise_conv2d
from heatbox.ops.depthwise_cpu import INSTRUCTION_SET
torch.set_num_threads(1)
torch.manual_seed(0)
cases = [(19, 14, 27, 27), (17, 12, 5, 13), (9, 12, 13, 5), (20, 7, 13, 13), (8, 9, 7, 7)]
for channels, side, kh, kw in cases:
    x, weight = torch.randn(2, channels, side, side), torch.randn(channels, 1, kh, kw)
    padding = (kh // 2, kw // 2)
    expected = torch.nn.functional.conv2d(x.double(), weight.double(), padding=padding, groups=channels)
    taps = conv2d_weight(x.double(), weight.shape, x.double(), padding=padding, groups=channels)
    for layout in (torch.contiguous_format, torch.channels_last):
        laid, leaf = x.contiguous(memory_format=layout), weight.clone().requires_grad_()
        out = depthwise_conv2d(laid, leaf)
        out.backward(laid)
        for value, truth in ((out, expected), (leaf.grad, taps)):
            assert (value - truth).abs().max() <= 2e-6 * truth.abs().max(), (kh, kw, layout)
print(INSTRUCTION_SET)
"""


@pytest.mark.skipif(INSTRUCTION_SET not in ("avx2", "avx512"), reason="needs AVX2")
@pytest.mark.parametrize(("cap", "processor"), [("avx2", "haswell"), ("sse41", "nehalem")])
def test_capped_instruction_sets_are_recognized_and_right(cap, processor):
    caps = {"ONEDNN_MAX_CPU_ISA": cap.upper(), "NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run(
        [sys.executable, "-c", CAPPED],
        env={**os.environ, **caps, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [cap]


@pytest.mark.parametrize("layout", [CONTIGUOUS, CHANNELS_LAST])
def test_direct_code_gives_the_same_bits_with_any_number_of_threads(layout, monkeypatch):
    monkeypatch.setattr(direct, "PER_THREAD", 1)
    x = torch.randn(2, 37, 11, 12).contiguous(memory_format=layout)
    weight, bias = torch.randn(37, 1, 15, 5), torch.randn(37)
    one = direct.forward(x, weight, bias), direct.weight_grad(x, x, (15, 5))
    torch.set_num_threads(3)
    try:
        three = direct.forward(x, weight, bias), direct.weight_grad(x, x, (15, 5))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_direct_code_runs_in_a_forked_process(monkeypatch):
    monkeypatch.setattr(direct, "PER_THREAD", 1)
    x, weight = torch.randn(1, 37, 11, 12), torch.randn(37, 1, 15, 5)
    torch.set_num_threads(2)
    try:
        expected = direct.forward(x, weight, None)
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a pool without its threads would wait forever
            os._exit(0 if torch.equal(direct.forward(x, weight, None), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    "shape", [(1, 17, 5, 5), (40, 32, 16, 16), (3, 70, 30, 30), (1, 1, 1, 1), (200, 16, 40, 40)]
)
def test_portions_cover_every_number_once_and_few_are_small(shape):
    covered = torch.zeros(shape[:2])
    parts = list(portions(shape, 4, (5, 5)))
    for samples, channels in parts:
        covered[samples, channels] += 1
    assert (covered == 1).all()
    smallest = -(-(torch.Size(shape).numel() * 4) // (2 * PORTION * torch.get_num_threads()))
    assert len(parts) <= 3 * smallest + 1
